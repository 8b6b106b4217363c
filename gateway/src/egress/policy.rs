//! Which addresses and ports may be dialled. Pure.
//!
//! Everything that is not plainly the public internet is refused, for IPv4 and IPv6 alike. An address that carries another one
//! inside (mapped, NAT64, ISATAP) is refused when any of them is. An operator's allow-list opens networks; the addresses where clouds
//! keep machine credentials are opened only by an entry that names that one address, so that `169.254.0.0/16` never does. Nothing opens the
//! servers of the gateway's own store.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// What an operator lets destinations reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressPolicy {
    /// Networks that are open although they are not public.
    pub allow: Vec<IpNet>,
    /// Ports that may be dialled; empty means every port.
    pub ports: Vec<u16>,
    /// Servers that stay closed, whatever is allowed.
    pub closed: Closed,
}

/// Servers that no destination leads to: the gateway's own store, as far as it is known where that is. Clones share what is known, which may
/// change.
#[derive(Clone, Debug, Default)]
pub struct Closed(Arc<ArcSwap<Vec<SocketAddr>>>);

/// Why an address or port may not be dialled. It names a kind, never the address: what an internal name resolves to is nothing
/// that a tenant should learn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// `0.0.0.0/8`, `::`.
    #[error("an unspecified address")]
    Unspecified,
    /// `127.0.0.0/8`, `::1`.
    #[error("a loopback address")]
    Loopback,
    /// RFC 1918, unique local and site-local networks.
    #[error("a private address")]
    Private,
    /// `169.254.0.0/16`, `fe80::/10`.
    #[error("a link-local address")]
    LinkLocal,
    /// Where a cloud keeps the machine's credentials.
    #[error("a cloud's metadata address")]
    Metadata,
    /// `100.64.0.0/10`.
    #[error("a carrier-grade NAT address")]
    CarrierNat,
    /// `224.0.0.0/4`, `ff00::/8`, and the limited broadcast.
    #[error("a multicast or broadcast address")]
    Multicast,
    /// Networks for examples and measurements.
    #[error("a documentation or benchmarking address")]
    Documentation,
    /// 6to4, Teredo, v4-compatible, local NAT64: ways to reach IPv4 that no destination needs.
    #[error("an address of a transition mechanism")]
    Transition,
    /// All else that is not assigned to the public internet.
    #[error("a reserved address")]
    Reserved,
    /// A server of the gateway's own store, which no allow-list opens.
    #[error("the gateway's own store")]
    Own,
    /// Port 0, or a port that is not on the operator's list.
    #[error("a port that is not allowed")]
    Port,
}

impl AddressPolicy {
    /// Everything but where clouds keep machine credentials: for what the operator names.
    pub(super) fn open() -> Self {
        let all = [IpNet::from(Ipv4Net::default()), IpNet::from(Ipv6Net::default())];
        Self { allow: all.into(), ..Self::default() }
    }

    /// Whether this address may be dialled.
    pub fn check(&self, address: IpAddr) -> Result<(), Refusal> {
        let address = address.to_canonical();
        self.check_one(address)?;
        let IpAddr::V6(v6) = address else { return Ok(()) };
        match embedded_v4(v6) {
            Some(v4) => self.check_one(IpAddr::V4(v4)),
            None => Ok(()),
        }
    }

    /// Whether this address may be dialled at this port.
    pub fn check_place(&self, place: SocketAddr) -> Result<(), Refusal> {
        let address = place.ip().to_canonical();
        self.check(address)?;
        let inner = if let IpAddr::V6(v6) = address { embedded_v4(v6).map(IpAddr::V4) } else { None };
        let is_closed = |address| self.closed.hold(address, place.port());
        if is_closed(address) || inner.is_some_and(is_closed) { Err(Refusal::Own) } else { Ok(()) }
    }

    /// Whether this port may be dialled.
    pub fn check_port(&self, port: u16) -> Result<(), Refusal> {
        let allowed = port != 0 && (self.ports.is_empty() || self.ports.contains(&port));
        if allowed { Ok(()) } else { Err(Refusal::Port) }
    }

    fn check_one(&self, address: IpAddr) -> Result<(), Refusal> {
        if METADATA.contains(&address) {
            return if self.allow.iter().any(|net| is_single(net) && net.contains(&address)) {
                Ok(())
            } else {
                Err(Refusal::Metadata)
            };
        }
        let Some(refusal) = classify(address) else { return Ok(()) };
        if self.allow.iter().any(|net| net.contains(&address)) { Ok(()) } else { Err(refusal) }
    }
}

impl Closed {
    /// These servers.
    pub fn new(servers: Arc<ArcSwap<Vec<SocketAddr>>>) -> Self {
        Self(servers)
    }

    fn hold(&self, address: IpAddr, port: u16) -> bool {
        // All of these lead to this machine, whatever one of them a server was named by.
        let is_here = |address: IpAddr| address.is_loopback() || address.is_unspecified();
        let is_at = |own: IpAddr| own == address || is_here(own) && is_here(address);
        self.0.load().iter().any(|own| own.port() == port && is_at(own.ip().to_canonical()))
    }
}

impl PartialEq for Closed {
    fn eq(&self, other: &Self) -> bool {
        *self.0.load() == *other.0.load()
    }
}

impl Eq for Closed {}

fn is_single(net: &IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}

fn classify(address: IpAddr) -> Option<Refusal> {
    match address {
        IpAddr::V4(v4) => V4.iter().find(|(net, bits, _)| v4_in(v4, *net, *bits)).map(|(_, _, refusal)| *refusal),
        IpAddr::V6(v6) => {
            V6.iter().find(|(net, bits, _)| v6_in(v6, *net, *bits)).map_or(Some(Refusal::Reserved), |(_, _, found)| *found)
        }
    }
}

fn v4_in(address: Ipv4Addr, net: [u8; 4], bits: u32) -> bool {
    let mask = u32::MAX << (32 - bits);
    address.to_bits() & mask == u32::from_be_bytes(net) & mask
}

fn v6_in(address: Ipv6Addr, net: [u16; 8], bits: u32) -> bool {
    let mask = u128::MAX << (128 - bits);
    address.to_bits() & mask == Ipv6Addr::from(net).to_bits() & mask
}

/// The IPv4 address that packets to this address end up at, where a rule of its own does not refuse the whole network.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [_, _, _, _, s4, s5, s6, s7] = address.segments();
    let low = Ipv4Addr::from_bits(u32::from(s6) << 16 | u32::from(s7));
    let is_nat64 = v6_in(address, [0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96);
    let is_isatap = matches!(s4, 0 | 0x200) && s5 == 0x5efe;
    if is_nat64 || is_isatap {
        return Some(low);
    }
    // An operator can open these networks; what they tunnel to is judged all the same.
    if v6_in(address, [0x2002, 0, 0, 0, 0, 0, 0, 0], 16) {
        let [_, s1, s2, ..] = address.segments();
        return Some(Ipv4Addr::from_bits(u32::from(s1) << 16 | u32::from(s2)));
    }
    if v6_in(address, [0x2001, 0, 0, 0, 0, 0, 0, 0], 32) {
        return Some(Ipv4Addr::from_bits(!low.to_bits()));
    }
    if v6_in(address, [0; 8], 96) && !address.is_unspecified() && !address.is_loopback() {
        return Some(low);
    }
    None
}

/// EC2, GCP, Azure and most others; ECS tasks; EKS pod identity; Azure's wire server; Alibaba; Oracle; and EC2's, EKS's and GCP's over IPv6.
const METADATA: [IpAddr; 9] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// IPv4: open unless listed (IANA special-purpose registry).
const V4: [([u8; 4], u32, Refusal); 17] = [
    ([0, 0, 0, 0], 8, Refusal::Unspecified),
    ([10, 0, 0, 0], 8, Refusal::Private),
    ([100, 64, 0, 0], 10, Refusal::CarrierNat),
    ([127, 0, 0, 0], 8, Refusal::Loopback),
    ([169, 254, 0, 0], 16, Refusal::LinkLocal),
    ([172, 16, 0, 0], 12, Refusal::Private),
    ([192, 0, 0, 0], 24, Refusal::Reserved),
    ([192, 0, 2, 0], 24, Refusal::Documentation),
    ([192, 31, 196, 0], 24, Refusal::Reserved),
    ([192, 52, 193, 0], 24, Refusal::Reserved),
    ([192, 88, 99, 0], 24, Refusal::Transition),
    ([192, 168, 0, 0], 16, Refusal::Private),
    ([198, 18, 0, 0], 15, Refusal::Documentation),
    ([198, 51, 100, 0], 24, Refusal::Documentation),
    ([203, 0, 113, 0], 24, Refusal::Documentation),
    ([224, 0, 0, 0], 4, Refusal::Multicast),
    ([240, 0, 0, 0], 4, Refusal::Reserved),
];

/// IPv6: the first rule that holds; closed where none does. `None` is the public internet (or NAT64, whose inner address decides).
const V6: [([u16; 8], u32, Option<Refusal>); 15] = [
    ([0; 8], 128, Some(Refusal::Unspecified)),
    ([0, 0, 0, 0, 0, 0, 0, 1], 128, Some(Refusal::Loopback)),
    ([0; 8], 96, Some(Refusal::Transition)),
    ([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96, None),
    ([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, Some(Refusal::Transition)),
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, Some(Refusal::Transition)),
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, Some(Refusal::Documentation)),
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, Some(Refusal::Reserved)),
    ([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, Some(Refusal::Transition)),
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, Some(Refusal::Documentation)),
    ([0x2000, 0, 0, 0, 0, 0, 0, 0], 3, None),
    ([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, Some(Refusal::Private)),
    ([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, Some(Refusal::Private)),
    ([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, Some(Refusal::LinkLocal)),
    ([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, Some(Refusal::Multicast)),
];

#[cfg(test)]
mod tests;
