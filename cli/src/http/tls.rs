use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::failure::Failure;

/// Returns a configuration that trusts the certificates of the operating system, and those in `ca_file`.
pub(crate) fn tls_config(ca_file: Option<&Path>) -> Result<ClientConfig, Failure> {
    let mut roots = RootCertStore::empty();
    // A machine without certificates can still call `http://`, and a handshake then says that the issuer is unknown.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca_file {
        let failure = |error: &dyn std::fmt::Display| {
            Failure::usage(format_args!(
                "can't read certificates from {}: {error}; the file must be in PEM format",
                path.display()
            ))
        };
        let certificates = CertificateDer::pem_file_iter(path).map_err(|error| failure(&error))?;
        let mut count = 0;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| failure(&error))?;
            roots.add(certificate).map_err(|error| failure(&error))?;
            count += 1;
        }
        if count == 0 {
            return Err(failure(&"it contains no certificate"));
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider supports the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}
