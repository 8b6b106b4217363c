//! Everything that leaves the gateway: address policy, resolver, connection pools, requests and their signatures.
//!
//! [`Egress::send`] makes **exactly one HTTP request**. Nothing below it retries; the one exception is a request that nobody has seen to: it was
//! proven not to have been written, on a kept connection that the destination had closed, or an HTTP/2 server has said that it did nothing
//! with it (`REFUSED_STREAM`, or a `GOAWAY` that leaves it out). It is sent on a new connection, once, and [`Sent::resent`] says so.
//!
//! # Limits
//! - One deadline covers the wait for a place, resolving, connecting, head and body; connecting has one of its own inside it.
//! - A response's head may have [`MAX_RESPONSE_HEAD`] bytes and 100 headers. Its body is kept up to the configured cap; at the cap, or at the
//!   deadline, it is cut and the connection closed. Interim responses, chunk framing and trailers count towards an allowance of bytes.
//! - A complete 2xx head means delivered, whatever becomes of the body. Redirects are not followed.
//! - Requests at once for each destination, connections altogether, idle time: see `pool`.
//!
//! A destination may be a broker instead ([`Broker`]): then `send` publishes one message and waits for its acknowledgement. Or it is a bucket
//! ([`Objects`]), which gets one object by one request.
//!
//! A request for a token ([`Credentials::OAuth`]) is one of its own, made before the one that needs it, inside the same deadline.

mod auth;
mod broker;
mod client;
mod connect;
mod fault;
mod gzip;
mod handshake;
mod metered;
mod objects;
pub mod policy;
mod pool;
mod proxy;
mod request;
mod resolver;
mod retry_after;
mod sign;
mod target;

pub use auth::{Aws, AwsConfig, ClientAuth, Credentials, OAuth, OAuthConfig};
pub use broker::{Broker, Labels, Login, MAX_BROKER_CONNECTIONS, Mechanism, Protocol};
pub use client::{Egress, EgressConfig, EgressError, MAX_REQUESTS, MAX_RESPONSE_HEAD, OutRequest, Proxies, Sent};
pub use objects::Objects;
pub use proxy::{Proxy, ProxyUser};
pub use request::{MAX_HEADERS, RequestError, ends_here};
pub use resolver::MAX_ADDRESSES;
pub use sign::{Algorithm, Encoding, HmacHeader, MAX_SECRETS, SignError, Signer, SigningKey};
pub use target::{ClientIdentity, MAX_URL, Speaks, Target, TargetConfig, TargetError, TlsOptions};
