//! Agreements to be sent to.

use http::HeaderValue;

/// Who may send to a source, as senders are told that ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permits {
    /// Senders, by their DNS names in lower case; `*` for any.
    pub origins: Vec<String>,
    /// Requests a minute; none for no limit.
    pub rate: Option<u32>,
}

impl Permits {
    /// Whether a sender of this name, in lower case, may send.
    pub fn allow(&self, origin: &str) -> bool {
        self.origins.iter().any(|allowed| allowed == "*" || allowed == origin)
    }
}

/// What a destination is asked before anything is sent to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// Who asks: a DNS name.
    pub origin: HeaderValue,
    /// Requests a minute that are asked for.
    pub rate: Option<u32>,
    /// Stands for what is asked and where: an answer to something else does not count.
    pub asked: String,
}
