//! `[egress]`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;

use crate::config::units;

/// What may be reached. Private, loopback and metadata addresses never, unless allowed here.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Egress {
    /// Networks that are allowed although they are not public, like `10.0.0.0/8`.
    pub allow: Vec<IpNet>,
    /// Ports that may be dialled; empty means every port.
    pub ports: Vec<u16>,
    /// Certificate authorities to trust besides the system's: PEM files.
    pub extra_ca: Vec<PathBuf>,
    /// Names that are not asked for in the DNS. Their addresses must be allowed all the same.
    pub hosts: Vec<StaticHost>,
    /// DNS servers to ask, like `10.0.0.2:53`. Default: those that the machine's configuration names.
    pub name_servers: Vec<SocketAddr>,
    /// Kept of each response body. Default 16 KiB.
    #[serde(with = "units::size")]
    pub max_response: usize,
    /// Kept of all response bodies together until they are recorded; what does not fit is cut. Default 32 MiB.
    #[serde(with = "units::size")]
    pub response_bytes: usize,
    /// Open connections, idle ones too. Default 4,096.
    pub max_connections: usize,
    /// An idle connection is closed after this. Default 60 s.
    #[serde(with = "units::duration")]
    pub idle_timeout: Duration,
    /// Name resolution, TCP and TLS together. Default 10 s.
    #[serde(with = "units::duration")]
    pub connect_timeout: Duration,
    /// Proxies for destinations that name none. Default `environment`.
    pub proxy: Proxies,
}

/// Proxies for destinations that name none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proxies {
    /// None.
    None,
    /// What `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` say. Proxies are asked for addresses that may be reached.
    #[default]
    Environment,
    /// The same, but they are asked for names, for machines that cannot resolve them: what names lead to is theirs to judge.
    EnvironmentAndNames,
}

impl Default for Egress {
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            ports: Vec::new(),
            extra_ca: Vec::new(),
            hosts: Vec::new(),
            name_servers: Vec::new(),
            max_response: 16 << 10,
            response_bytes: 32 << 20,
            max_connections: 4_096,
            idle_timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(10),
            proxy: Proxies::default(),
        }
    }
}

/// A name with its addresses.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticHost {
    /// The name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}
