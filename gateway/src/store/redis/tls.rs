//! How servers with a `rediss://` URL are trusted, and how the engine shows who it is.

use std::fmt;

use redis::{ClientTlsConfig, TlsCertificates};

/// What TLS needs beyond the system's roots. All of it is PEM.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// The authorities to trust in place of the system's.
    pub authorities: Option<Vec<u8>>,
    /// For servers that want to know who connects.
    pub identity: Option<Identity>,
}

/// A client's certificate.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The chain, the client's own certificate first.
    pub certificate: Vec<u8>,
    /// Its private key.
    pub key: Vec<u8>,
}

impl Tls {
    pub(super) fn certificates(&self) -> TlsCertificates {
        let identity =
            |identity: &Identity| ClientTlsConfig { client_cert: identity.certificate.clone(), client_key: identity.key.clone() };
        TlsCertificates { root_cert: self.authorities.clone(), client_tls: self.identity.as_ref().map(identity) }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (authorities, identity) = (self.authorities.is_some(), self.identity.is_some());
        f.debug_struct("Tls").field("authorities", &authorities).field("identity", &identity).finish()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}
