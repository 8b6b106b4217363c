//! TLS from files.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem};

/// Why a certificate or key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file can't be read.
    #[error("can't read {}: {error}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file is not PEM, or holds nothing of what is wanted.
    #[error("{} holds no usable {wanted}: {error}", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// `certificate` or `private key`.
        wanted: &'static str,
        /// Why.
        error: pem::Error,
    },
    /// Certificate and key don't fit, or are of a kind that is not supported.
    #[error("certificate and key can't be used: {0}")]
    Unusable(#[from] rustls::Error),
}

/// A server's configuration from PEM files: the certificate with its chain, and its key. Offers HTTP/2 and 1.1.
pub fn tls_config(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = CertificateDer::pem_slice_iter(&read(certificate)?)
        .collect::<Result<Vec<_>, _>>()
        .and_then(|chain| if chain.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(chain) })
        .map_err(|error| TlsError::Pem { path: certificate.to_owned(), wanted: "certificate", error })?;
    let private = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|error| TlsError::Pem {
        path: key.to_owned(),
        wanted: "private key",
        error,
    })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, private)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|error| TlsError::Read { path: path.to_owned(), error })
}
