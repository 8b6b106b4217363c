//! Brokers and an object store of a test's own, which know one user: [`USER`] with [`PASSWORD`].
//!
//! What they hold is read by what others use for that: JetStream's API, RabbitMQ's management plugin, librdkafka's consumer, S3 itself.

pub mod kafka;
pub mod nats;
pub mod rabbitmq;
pub mod s3;

/// The user's name.
pub const USER: &str = "tidegate";
/// The user's password.
pub const PASSWORD: &str = "hunter2-at-the-broker";

/// A message as a broker holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its headers; names in the case that the broker has them in.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Vec<u8>,
}

impl Stored {
    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }
}
