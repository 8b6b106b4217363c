//! From a target's host to the addresses that may be dialled.
//!
//! The policy judges what a name resolved to, and exactly these addresses are dialled afterwards: there is no second look-up in
//! between that could answer otherwise. Names are asked for in this process and not by threads of the system's resolver, so that a tenant
//! whose name servers hang holds up nobody else.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;

use super::fault::Fault;
use super::policy::AddressPolicy;
use super::target::{Target, TargetHost};

/// Addresses of one name that are tried.
pub const MAX_ADDRESSES: usize = 8;
/// An answer is asked for again after this long, whatever its own time to live.
const MAX_TTL: Duration = Duration::from_secs(300);
/// A failure is remembered no longer than this: its owner may be repairing it.
const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(5);

/// Resolves names.
pub(super) struct Resolver {
    policy: AddressPolicy,
    hosts: HashMap<String, Vec<IpAddr>>,
    dns: Result<TokioResolver, String>,
}

impl Resolver {
    /// A machine without a usable resolver configuration can still reach addresses and `hosts`; names fail one by one.
    pub(super) fn new(policy: AddressPolicy, hosts: HashMap<String, Vec<IpAddr>>, name_servers: &[SocketAddr]) -> Self {
        let hosts = hosts.into_iter().map(|(name, addresses)| (normal(&name), addresses)).collect();
        Self { policy, hosts, dns: dns(name_servers) }
    }

    /// The addresses of a target that may be dialled, IPv6 and IPv4 by turns; at least one.
    pub(super) async fn resolve(&self, target: &Target) -> Result<Vec<SocketAddr>, Fault> {
        self.resolve_by(target, &self.policy).await
    }

    /// The same by another policy.
    pub(super) async fn resolve_by(&self, target: &Target, policy: &AddressPolicy) -> Result<Vec<SocketAddr>, Fault> {
        let found = match &target.host {
            TargetHost::Address(address) => vec![*address],
            TargetHost::Name(name) => match self.hosts.get(&normal(name)) {
                Some(addresses) => addresses.clone(),
                None => self.look_up(name).await?,
            },
        };
        judge(found, target.port, policy)
    }

    /// Whether a port may be dialled that no URL of a destination names.
    pub(super) fn check_port(&self, port: u16) -> Result<(), Fault> {
        self.policy.check_port(port).map_err(Fault::AddressRefused)
    }

    async fn look_up(&self, name: &str) -> Result<Vec<IpAddr>, Fault> {
        let dns = self.dns.as_ref().map_err(|problem| Fault::DnsFailed(problem.clone()))?;
        let answer = dns.lookup_ip(name).await.map_err(|error| {
            let detail = if error.is_nx_domain() { "it does not exist" } else { "the name servers gave no answer" };
            Fault::DnsFailed(detail.to_owned())
        })?;
        Ok(answer.iter().collect())
    }
}

fn judge(found: Vec<IpAddr>, port: u16, policy: &AddressPolicy) -> Result<Vec<SocketAddr>, Fault> {
    let mut refusal = None;
    let places = found.into_iter().map(|address| SocketAddr::new(address.to_canonical(), port));
    let open = places.filter(|place| match policy.check_place(*place) {
        Ok(()) => true,
        Err(refused) => {
            refusal = Some(refused);
            false
        }
    });
    let (v6, v4): (Vec<SocketAddr>, Vec<SocketAddr>) = open.partition(SocketAddr::is_ipv6);
    let addresses: Vec<SocketAddr> = by_turns(v6, v4).take(MAX_ADDRESSES).collect();
    match refusal {
        Some(refused) if addresses.is_empty() => Err(Fault::AddressRefused(refused)),
        _ if addresses.is_empty() => Err(Fault::DnsFailed("it has no addresses".to_owned())),
        _ => Ok(addresses),
    }
}

/// Asks these servers, or those that the machine's configuration names.
fn dns(name_servers: &[SocketAddr]) -> Result<TokioResolver, String> {
    let unusable = |error| format!("this machine's resolver configuration is unusable: {error}");
    let mut builder = if name_servers.is_empty() {
        TokioResolver::builder_tokio().map_err(unusable)?
    } else {
        let servers = name_servers.iter().map(|address| name_server(*address)).collect();
        TokioResolver::builder_with_config(ResolverConfig::from_name_servers(servers), TokioRuntimeProvider::default())
    };
    let options = builder.options_mut();
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.cache_size = 8192;
    options.positive_max_ttl = Some(MAX_TTL);
    options.negative_max_ttl = Some(MAX_NEGATIVE_TTL);
    builder.build().map_err(unusable)
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    server
}

fn normal(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

fn by_turns(first: Vec<SocketAddr>, second: Vec<SocketAddr>) -> impl Iterator<Item = SocketAddr> {
    let mut sides = [first.into_iter(), second.into_iter()];
    let mut turn = 0;
    std::iter::from_fn(move || {
        let next = sides[turn].next().or_else(|| sides[1 - turn].next());
        turn = 1 - turn;
        next
    })
}
