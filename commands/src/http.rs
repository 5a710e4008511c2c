//! The HTTP client of whatever Daybook asks over the network. TLS is rustls with ring (D12).
//!
//! Trusted are the roots of Mozilla's list, so that it works where the machine has none, and those the machine trusts besides, such as
//! a company's own.

use std::sync::{Arc, LazyLock};

use reqwest::ClientBuilder;
use rustls::{ClientConfig, RootCertStore};

/// Reading the machine's certificates takes some milliseconds.
static TLS: LazyLock<Result<ClientConfig, rustls::Error>> = LazyLock::new(tls);

fn tls() -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    // A certificate that cannot be read is one less to trust, and no reason to stop.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(ring).with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// A client to be built: the only way to one, since reqwest by itself finds no TLS library here and panics.
///
/// # Errors
/// TLS cannot be set up.
pub fn builder() -> Result<ClientBuilder, rustls::Error> {
    Ok(ClientBuilder::new().tls_backend_preconfigured(TLS.clone()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    #[test]
    fn a_client_can_be_built_without_a_provider_for_the_whole_process() {
        super::builder().unwrap().build().unwrap();
        assert!(rustls::crypto::CryptoProvider::get_default().is_none());
    }
}
