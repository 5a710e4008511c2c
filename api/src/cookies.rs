//! Sessions of browsers: the same tokens, in cookies that scripts cannot read (RFC 6265).
//!
//! A browser sends cookies also with requests that another site has made up. Two things keep those out: `SameSite=Strict`, and
//! for everything but reading a header `X-CSRF-Token` that only a page of ours can know (a double submit whose value is bound to the
//! session, OWASP CSRF Prevention Cheat Sheet).

use axum::http::{HeaderMap, HeaderValue, header};

/// The header by which a client asks for cookies as it signs in: `Daybook-Session: cookie`.
const DAYBOOK_SESSION: &str = "daybook-session";
/// The header that repeats the value of the cookie [`CSRF`].
pub(crate) const CSRF_HEADER: &str = "x-csrf-token";
/// The access token.
const ACCESS: &str = "daybook_access";
/// The refresh token.
const REFRESH: &str = "daybook_refresh";
/// What [`CSRF_HEADER`] must say; the only one that scripts can read.
const CSRF: &str = "daybook_csrf";

/// Whether the client wants its tokens in cookies.
pub(crate) fn wanted(headers: &HeaderMap) -> bool {
    headers.get(DAYBOOK_SESSION).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"cookie"))
}

/// The access token that a browser sent.
pub(crate) fn access_token(headers: &HeaderMap) -> Option<&str> {
    cookie(headers, ACCESS)
}

/// The refresh token that a browser sent.
pub(crate) fn refresh_token(headers: &HeaderMap) -> Option<&str> {
    cookie(headers, REFRESH)
}

/// Bytes are compared, since other programs on the host may have written what is no text: theirs must not hide ours.
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let values = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes);
    let mut pairs = values.flat_map(|value| value.split(|byte| *byte == b';')).map(<[u8]>::trim_ascii);
    let ours = pairs.find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
    ours.and_then(|value| std::str::from_utf8(value).ok())
}

/// What a browser is told to keep.
pub(crate) struct Kept<'a> {
    pub(crate) access_token: &'a str,
    pub(crate) access_seconds: i64,
    pub(crate) refresh_token: &'a str,
    pub(crate) refresh_seconds: i64,
    pub(crate) csrf_token: &'a str,
}

impl Kept<'_> {
    /// The `Set-Cookie` headers; `secure`: only over TLS.
    pub(crate) fn headers(&self, secure: bool) -> Vec<HeaderValue> {
        let Self { access_token, access_seconds, refresh_token, refresh_seconds, csrf_token } = *self;
        [
            set(ACCESS, access_token, access_seconds, secure, true),
            set(REFRESH, refresh_token, refresh_seconds, secure, true),
            set(CSRF, csrf_token, refresh_seconds, secure, false),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// The `Set-Cookie` headers that make a browser forget.
pub(crate) fn forgotten(secure: bool) -> Vec<HeaderValue> {
    [(ACCESS, true), (REFRESH, true), (CSRF, false)]
        .into_iter()
        .filter_map(|(name, hidden)| set(name, "", 0, secure, hidden))
        .collect()
}

fn set(name: &str, value: &str, seconds: i64, secure: bool, hidden: bool) -> Option<HeaderValue> {
    let secure = if secure { "; Secure" } else { "" };
    let hidden = if hidden { "; HttpOnly" } else { "" };
    let text = format!("{name}={value}; Path=/; Max-Age={seconds}; SameSite=Strict{hidden}{secure}");
    HeaderValue::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(cookies: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for cookie in cookies {
            headers.append(header::COOKIE, HeaderValue::from_static(cookie));
        }
        headers
    }

    #[test]
    fn cookies_are_found_among_others() {
        let sent = headers(&["a=b; daybook_access=x.y.z;c=d", "daybook_refresh=r"]);
        assert_eq!((access_token(&sent), refresh_token(&sent)), (Some("x.y.z"), Some("r")));
        assert_eq!(access_token(&headers(&["xdaybook_access=x", "daybook_access"])), None);
    }

    #[test]
    fn what_proves_who_one_is_is_hidden_from_scripts() {
        let kept = Kept {
            access_token: "a",
            access_seconds: 60,
            refresh_token: "r",
            refresh_seconds: 600,
            csrf_token: "c",
        };
        let texts = |headers: Vec<HeaderValue>| -> Vec<String> {
            headers.iter().map(|value| value.to_str().unwrap_or_default().to_owned()).collect()
        };
        let cookies = texts(kept.headers(true));
        assert_eq!(cookies[0], "daybook_access=a; Path=/; Max-Age=60; SameSite=Strict; HttpOnly; Secure");
        assert_eq!(cookies[1], "daybook_refresh=r; Path=/; Max-Age=600; SameSite=Strict; HttpOnly; Secure");
        assert_eq!(cookies[2], "daybook_csrf=c; Path=/; Max-Age=600; SameSite=Strict; Secure");
        assert!(texts(forgotten(false)).iter().all(|text| text.contains("=; Path=/; Max-Age=0")));
    }
}
