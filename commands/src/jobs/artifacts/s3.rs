//! A bucket that speaks S3.

use std::fmt::{Debug, Display, Formatter};
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::client::{ClientOptions, HttpClient, HttpConnector};
use object_store::{ObjectStore, RetryConfig};
use zeroize::Zeroizing;

use super::ArtifactError;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long nothing may come. A part has to be there within this time.
const SILENCE: Duration = Duration::from_secs(60);
/// Tries after the first one, and how long they may take together.
const RETRIES: usize = 4;
const RETRY_TIME: Duration = Duration::from_secs(30);

/// A bucket, and how to get there.
#[derive(Clone)]
pub struct S3Bucket {
    bucket: String,
    prefix: String,
    endpoint: Option<String>,
    options: Vec<(AmazonS3ConfigKey, Zeroizing<String>)>,
}

impl S3Bucket {
    /// From `s3://bucket/prefix`.
    ///
    /// # Errors
    /// It is not such a URL.
    pub fn parse(url: &str) -> Result<Self, String> {
        let wrong = "must be s3://bucket or s3://bucket/prefix";
        let rest = url.strip_prefix("s3://").ok_or(wrong)?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let name = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        let prefix = prefix.trim_end_matches('/');
        let parts = prefix.split('/').all(|part| name(part) && part != "." && part != "..");
        if !name(bucket) || !(prefix.is_empty() || parts) {
            return Err(format!("{wrong}, of letters, digits, hyphens, underscores and dots"));
        }
        Ok(Self { bucket: bucket.to_owned(), prefix: prefix.to_owned(), endpoint: None, options: vec![] })
    }

    /// Another address than Amazon's. TLS unless it is `http://`.
    #[must_use]
    pub fn at(mut self, endpoint: Option<String>) -> Self {
        self.endpoint = endpoint;
        self
    }

    /// An option under the name of its environment variable, such as `AWS_REGION`; object_store's documentation has them. What it does not
    /// know is left out.
    #[must_use]
    pub fn with(mut self, name: &str, value: Option<&str>) -> Self {
        if let (Some(value), Ok(key)) = (value, name.to_ascii_lowercase().parse()) {
            self.options.push((key, Zeroizing::new(value.to_owned())));
        }
        self
    }

    /// What comes before the keys, with a slash at its end unless it is empty.
    pub(super) fn prefix(&self) -> String {
        if self.prefix.is_empty() { String::new() } else { format!("{}/", self.prefix) }
    }

    pub(super) fn open(&self) -> Result<Arc<dyn ObjectStore>, ArtifactError> {
        let retry = RetryConfig { max_retries: RETRIES, retry_timeout: RETRY_TIME, ..RetryConfig::default() };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&self.bucket)
            .with_retry(retry)
            .with_http_connector(Connector(client()?));
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http://"));
        }
        for (key, value) in &self.options {
            builder = builder.with_config(*key, value.as_str());
        }
        Ok(Arc::new(builder.build()?))
    }
}

impl Display for S3Bucket {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        let endpoint = self.endpoint.as_deref().unwrap_or_default();
        write!(formatter, "s3://{}/{}", self.bucket, self.prefix())?;
        if endpoint.is_empty() { Ok(()) } else { write!(formatter, " at {endpoint}") }
    }
}

/// Without its credentials.
impl Debug for S3Bucket {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "S3Bucket({self})")
    }
}

fn client() -> Result<reqwest::Client, ArtifactError> {
    let tls = |error: &dyn Display| ArtifactError::Tls(error.to_string());
    let builder = crate::http::builder().map_err(|error| tls(&error))?;
    let builder =
        builder.connect_timeout(CONNECT).read_timeout(SILENCE).redirect(reqwest::redirect::Policy::none());
    builder.build().map_err(|error| tls(&error))
}

/// Gives object_store our client: its own finds no TLS library here and panics.
#[derive(Clone, Debug)]
struct Connector(reqwest::Client);

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_bucket_is_read_from_its_url() {
        let bucket = S3Bucket::parse("s3://back-office/daybook/artifacts/").unwrap();
        assert_eq!((bucket.bucket.as_str(), bucket.prefix().as_str()), ("back-office", "daybook/artifacts/"));
        assert_eq!(S3Bucket::parse("s3://b").unwrap().prefix(), "");
        for bad in
            ["", "b", "s3://", "s3:///x", "s3://b/../c", "s3://b//c", "s3://u:p@b", "s3://b?x=y", "https://b"]
        {
            assert!(S3Bucket::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn it_opens_without_a_provider_for_the_whole_process_and_never_shows_its_key() {
        let bucket = S3Bucket::parse("s3://b").unwrap();
        let bucket =
            bucket.with("AWS_ACCESS_KEY_ID", Some("id")).with("AWS_SECRET_ACCESS_KEY", Some("hunter2"));
        bucket.open().unwrap();
        assert!(rustls::crypto::CryptoProvider::get_default().is_none());
        assert!(!format!("{bucket:?} {bucket}").contains("hunter2"));
        let half = S3Bucket::parse("s3://b").unwrap().with("AWS_ACCESS_KEY_ID", Some("id"));
        assert!(half.open().is_err(), "an id without its key");
    }
}
