//! Credentials that are made for each request rather than written down once: OAuth 2 tokens and AWS signatures.

mod aws;
mod oauth;

pub use aws::{Aws, AwsConfig};
pub use oauth::{ClientAuth, OAuth, OAuthConfig};

pub(super) use oauth::Token;

/// Credentials that a request gets when it is sent.
#[derive(Debug)]
pub enum Credentials {
    /// A bearer token from an authorization server.
    OAuth(OAuth),
    /// AWS Signature Version 4.
    Aws(Aws),
}
