//! Sessions of browsers: the same tokens, in cookies that scripts cannot read (RFC 6265).
//!
//! A browser sends cookies also with requests that another site has made up. Two things keep those out: `SameSite=Strict`, and
//! for everything but reading a header `X-CSRF-Token` that only a page of ours can know (a double submit whose value is bound to the
//! session, OWASP CSRF Prevention Cheat Sheet).

use axum::http::{HeaderMap, HeaderValue, header};
use zeroize::Zeroizing;

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
/// Over TLS names begin with this: then no other host of the same domain can plant one (RFC 6265bis, section 4.1.3.2).
const HOST: &str = "__Host-";

/// A cookie is there twice: one of the two was planted.
#[derive(Debug)]
pub(crate) struct Twice;

/// Whether the client wants its tokens in cookies.
pub(crate) fn wanted(headers: &HeaderMap) -> bool {
    headers.get(DAYBOOK_SESSION).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"cookie"))
}

/// The access token that a browser sent; `secure`: only over TLS.
pub(crate) fn access_token(headers: &HeaderMap, secure: bool) -> Result<Option<&str>, Twice> {
    cookie(headers, ACCESS, secure)
}

/// The refresh token that a browser sent.
pub(crate) fn refresh_token(headers: &HeaderMap, secure: bool) -> Result<Option<&str>, Twice> {
    cookie(headers, REFRESH, secure)
}

/// Byte by byte: other programs of the same host may write what is no text, and a browser sends it along.
fn cookie<'a>(headers: &'a HeaderMap, name: &str, secure: bool) -> Result<Option<&'a str>, Twice> {
    let name = named(name, secure);
    let values = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes);
    let pairs = values.flat_map(|value| value.split(|byte| *byte == b';')).map(<[u8]>::trim_ascii);
    let mut found = pairs.filter_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
    match (found.next(), found.next()) {
        (value, None) => Ok(value.and_then(|value| std::str::from_utf8(value).ok())),
        (_, Some(_)) => Err(Twice),
    }
}

fn named(name: &str, secure: bool) -> String {
    if secure { format!("{HOST}{name}") } else { name.to_owned() }
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
    let name = named(name, secure);
    let secure = if secure { "; Secure" } else { "" };
    let hidden = if hidden { "; HttpOnly" } else { "" };
    let text =
        Zeroizing::new(format!("{name}={value}; Path=/; Max-Age={seconds}; SameSite=Strict{hidden}{secure}"));
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some(value)
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
        let found = |headers: &HeaderMap| access_token(headers, false).ok().flatten().map(str::to_owned);
        assert_eq!(found(&sent).as_deref(), Some("x.y.z"));
        assert!(matches!(refresh_token(&sent, false), Ok(Some("r"))));
        assert_eq!(found(&headers(&["xdaybook_access=x", "daybook_access"])), None);
    }

    #[test]
    fn what_another_host_has_planted_is_not_taken() {
        let twice = headers(&["daybook_access=planted; daybook_access=own"]);
        assert!(access_token(&twice, false).is_err());
        let plain = headers(&["daybook_access=planted; __Host-daybook_access=own"]);
        assert!(matches!(access_token(&plain, true), Ok(Some("own"))));
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
        assert_eq!(
            cookies[0],
            "__Host-daybook_access=a; Path=/; Max-Age=60; SameSite=Strict; HttpOnly; Secure"
        );
        assert_eq!(
            cookies[1],
            "__Host-daybook_refresh=r; Path=/; Max-Age=600; SameSite=Strict; HttpOnly; Secure"
        );
        assert_eq!(cookies[2], "__Host-daybook_csrf=c; Path=/; Max-Age=600; SameSite=Strict; Secure");
        assert!(texts(forgotten(false)).iter().all(|text| text.contains("=; Path=/; Max-Age=0")));
    }
}
