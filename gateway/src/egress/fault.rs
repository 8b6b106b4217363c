//! Why an HTTP request failed, by name.

use std::io;

use super::policy::Refusal;
use crate::event::{Failure, Party};

/// What kept a complete response head from coming.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("no connection became free in time")]
    NoCapacity,
    #[error("the name could not be resolved: {0}")]
    DnsFailed(String),
    #[error("the name was not resolved in time")]
    DnsTimeout,
    #[error("the name leads to {0}")]
    AddressRefused(Refusal),
    #[error("the connection was refused")]
    ConnectRefused,
    #[error("no connection could be made: {0}")]
    ConnectFailed(io::ErrorKind),
    #[error("no connection was made in time")]
    ConnectTimeout,
    #[error("TLS failed: {0}")]
    TlsFailed(String),
    #[error("TLS was not set up in time")]
    TlsTimeout,
    #[error("the connection was closed before a response came")]
    Reset,
    #[error("the destination ended the request: {0}")]
    Ended(h2::Reason),
    #[error("no response came in time")]
    ResponseTimeout,
    #[error("the response is not HTTP: {0}")]
    BadResponse(&'static str),
    #[error("the response's head is too large")]
    HeadTooLarge,
    #[error("the proxy gave no way: {0}")]
    ProxyFailed(String),
    #[error("the authorization server gave no token: {0}")]
    NoToken(String),
    #[error("no token came in time")]
    TokenTimeout,
    #[error("the request could not be signed: {0}")]
    NotSigned(String),
    #[error("the broker's answer makes no sense: {0}")]
    BadReply(&'static str),
    #[error("{detail}")]
    Broker { code: &'static str, detail: String, retryable: bool },
}

impl Fault {
    /// A broker did not take a message, and may take it later.
    pub(super) fn broker(code: &'static str, detail: String) -> Self {
        Self::Broker { code, detail, retryable: true }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::NoCapacity => Failure::NO_CAPACITY,
            Self::DnsFailed(_) => "dns_failed",
            Self::DnsTimeout => "dns_timeout",
            Self::AddressRefused(_) => "address_refused",
            Self::ConnectRefused => "connect_refused",
            Self::ConnectFailed(_) => "connect_failed",
            Self::ConnectTimeout => "connect_timeout",
            Self::TlsFailed(_) => "tls_failed",
            Self::TlsTimeout => "tls_timeout",
            Self::Reset | Self::Ended(_) => "reset",
            Self::ResponseTimeout => "response_timeout",
            Self::BadResponse(_) | Self::BadReply(_) => "bad_response",
            Self::HeadTooLarge => "response_head_too_large",
            Self::ProxyFailed(_) => "proxy_failed",
            Self::NoToken(_) => "no_token",
            Self::TokenTimeout => "token_timeout",
            Self::NotSigned(_) => "not_signed",
            Self::Broker { code, .. } => code,
        }
    }

    /// All of them but a broker's last word can pass: names, addresses and certificates are repaired like servers are. A name that leads to a refused address is no
    /// exception, because resolvers answer so while they are ill; each attempt is judged afresh.
    pub(super) fn failure(&self) -> Failure {
        let party = match self {
            Self::NoCapacity | Self::NotSigned(_) => Party::Gateway,
            Self::BadResponse(_) | Self::BadReply(_) | Self::HeadTooLarge | Self::NoToken(_) | Self::TokenTimeout => {
                Party::Destination
            }
            Self::Broker { .. } => Party::Destination,
            _ => Party::Network,
        };
        let retryable = !matches!(self, Self::Broker { retryable: false, .. });
        Failure { party, code: self.code().to_owned(), detail: self.to_string(), retryable }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::ConnectRefused,
            io::ErrorKind::TimedOut => Self::ConnectTimeout,
            kind => Self::ConnectFailed(kind),
        }
    }
}

impl From<&hyper::Error> for Fault {
    fn from(error: &hyper::Error) -> Self {
        if exceeds_allowance(error) || error.is_parse_too_large() {
            Self::HeadTooLarge
        } else if let Some(error) = http2(error) {
            match error.reason() {
                Some(reason) if error.is_remote() => Self::Ended(reason),
                _ if error.is_library() => Self::BadResponse("its HTTP/2 is malformed"),
                _ => Self::Reset,
            }
        } else if error.is_parse_status() {
            Self::BadResponse("its status is malformed")
        } else if error.is_parse() {
            Self::BadResponse("its head is malformed")
        } else {
            Self::Reset
        }
    }
}

/// Whether a destination said that it did nothing with a request (RFC 9113, section 8.7) and would take it on another connection. One that ends
/// its connections for another reason, such as too many requests, is not to get the same at once.
pub(super) fn is_unprocessed(error: &hyper::Error) -> bool {
    http2(error).is_some_and(|error| {
        let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
        // Only streams above the last that it names end with its GOAWAY.
        let going_away = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
        error.is_remote() && (refused || going_away)
    })
}

fn http2(error: &hyper::Error) -> Option<&h2::Error> {
    std::error::Error::source(error)?.downcast_ref()
}

fn exceeds_allowance(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            return io.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<super::metered::AllowanceUsedUp>);
        }
        source = inner.source();
    }
    false
}

/// What a status that is not 2xx means. Everything but 410 is worth another try: receivers answer 404 while they deploy, 401 while they change
/// keys, and redirect to a page while they are down. A redirect is never followed; the destination's owner changes the URL.
pub(super) fn refusal(status: u16) -> Failure {
    let (code, retryable) = match status {
        410 => (Failure::GONE, false),
        300..400 => ("redirect_refused", true),
        _ => ("status", true),
    };
    let detail = match status {
        300..400 => format!("the destination answered {status}, and redirects are not followed"),
        _ => format!("the destination answered {status}"),
    };
    Failure { party: Party::Destination, code: code.to_owned(), detail, retryable }
}
