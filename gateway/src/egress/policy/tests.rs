use proptest::prelude::*;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn allowing(nets: &[&str]) -> AddressPolicy {
    AddressPolicy { allow: nets.iter().map(|net| net.parse().unwrap()).collect(), ..AddressPolicy::default() }
}

#[test]
fn refuses_by_default_with_the_right_name() {
    let cases = [
        ("0.0.0.0", Refusal::Unspecified),
        ("0.1.2.3", Refusal::Unspecified),
        ("10.0.0.1", Refusal::Private),
        ("100.64.0.1", Refusal::CarrierNat),
        ("100.127.255.255", Refusal::CarrierNat),
        ("127.0.0.1", Refusal::Loopback),
        ("127.255.255.254", Refusal::Loopback),
        ("169.254.0.1", Refusal::LinkLocal),
        ("169.254.169.254", Refusal::Metadata),
        ("168.63.129.16", Refusal::Metadata),
        ("100.100.100.200", Refusal::Metadata),
        ("172.16.0.1", Refusal::Private),
        ("172.31.255.255", Refusal::Private),
        ("192.0.0.8", Refusal::Reserved),
        ("192.0.2.1", Refusal::Documentation),
        ("192.88.99.1", Refusal::Transition),
        ("192.168.1.1", Refusal::Private),
        ("198.18.0.1", Refusal::Documentation),
        ("198.51.100.1", Refusal::Documentation),
        ("203.0.113.1", Refusal::Documentation),
        ("224.0.0.1", Refusal::Multicast),
        ("239.255.255.255", Refusal::Multicast),
        ("240.0.0.1", Refusal::Reserved),
        ("255.255.255.255", Refusal::Reserved),
        ("::", Refusal::Unspecified),
        ("::1", Refusal::Loopback),
        ("::8.8.8.8", Refusal::Transition),
        ("::ffff:127.0.0.1", Refusal::Loopback),
        ("::ffff:169.254.169.254", Refusal::Metadata),
        ("64:ff9b::10.0.0.1", Refusal::Private),
        ("64:ff9b::169.254.169.254", Refusal::Metadata),
        ("64:ff9b:1::8.8.8.8", Refusal::Transition),
        ("100::1", Refusal::Reserved),
        ("2001::1", Refusal::Transition),
        ("2001:0:808:808::", Refusal::Transition),
        ("2001:2::1", Refusal::Reserved),
        ("2001:20::1", Refusal::Reserved),
        ("2001:db8::1", Refusal::Documentation),
        ("2002:808:808::1", Refusal::Transition),
        ("2002:a00:1::1", Refusal::Transition),
        ("3fff:fff::1", Refusal::Documentation),
        ("4000::1", Refusal::Reserved),
        ("5f00::1", Refusal::Reserved),
        ("fc00::1", Refusal::Private),
        ("fd00:ec2::254", Refusal::Metadata),
        ("fe80::1", Refusal::LinkLocal),
        ("fec0::1", Refusal::Private),
        ("ff02::1", Refusal::Multicast),
        ("2606:4700::5efe:10.0.0.1", Refusal::Private),
        ("2606:4700::200:5efe:127.0.0.1", Refusal::Loopback),
    ];
    let policy = AddressPolicy::default();
    for (address, refusal) in cases {
        assert_eq!(policy.check(ip(address)), Err(refusal), "{address}");
    }
}

#[test]
fn the_public_internet_is_open() {
    let policy = AddressPolicy::default();
    for address in
        ["8.8.8.8", "1.1.1.1", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1", "198.20.0.1", "223.255.255.255"]
    {
        assert_eq!(policy.check(ip(address)), Ok(()), "{address}");
    }
    for address in ["2606:4700::1111", "2a00:1450::1", "2001:200::1", "64:ff9b::8.8.8.8", "::ffff:8.8.8.8"] {
        assert_eq!(policy.check(ip(address)), Ok(()), "{address}");
    }
}

#[test]
fn an_allow_list_opens_its_networks_and_no_others() {
    let policy = allowing(&["10.1.0.0/16", "fd12::/16"]);
    assert_eq!(policy.check(ip("10.1.2.3")), Ok(()));
    assert_eq!(policy.check(ip("::ffff:10.1.2.3")), Ok(()));
    assert_eq!(policy.check(ip("64:ff9b::10.1.2.3")), Ok(()));
    assert_eq!(policy.check(ip("fd12::1")), Ok(()));
    assert_eq!(policy.check(ip("10.2.0.1")), Err(Refusal::Private));
    assert_eq!(policy.check(ip("fd13::1")), Err(Refusal::Private));
}

#[test]
fn opening_a_tunnel_network_does_not_open_what_it_leads_to() {
    let policy = allowing(&["2002::/16", "2001::/32", "::/96"]);
    assert_eq!(policy.check(ip("2002:808:808::1")), Ok(()));
    assert_eq!(policy.check(ip("2002:a00:1::1")), Err(Refusal::Private));
    // Teredo keeps the client's address inverted: 10.0.0.1.
    assert_eq!(policy.check(ip("2001:0:808:808::f5ff:fffe")), Err(Refusal::Private));
    assert_eq!(policy.check(ip("::10.0.0.1")), Err(Refusal::Private));
}

#[test]
fn metadata_needs_an_entry_for_that_one_address() {
    let target = ip("169.254.169.254");
    assert_eq!(allowing(&["0.0.0.0/0", "169.254.0.0/16"]).check(target), Err(Refusal::Metadata));
    assert_eq!(allowing(&["169.254.169.254/32"]).check(target), Ok(()));
}

#[test]
fn ports() {
    assert_eq!(AddressPolicy::default().check_port(0), Err(Refusal::Port));
    assert_eq!(AddressPolicy::default().check_port(25), Ok(()));
    let narrow = AddressPolicy { ports: vec![443], ..AddressPolicy::default() };
    assert_eq!(narrow.check_port(443), Ok(()));
    assert_eq!(narrow.check_port(80), Err(Refusal::Port));
}

/// An independent opinion: the standard library's stable predicates.
fn std_says_special(v4: Ipv4Addr) -> bool {
    v4.is_private()
        || v4.is_loopback()
        || v4.is_link_local()
        || v4.is_multicast()
        || v4.is_broadcast()
        || v4.is_documentation()
        || v4.is_unspecified()
}

proptest! {
    #[test]
    fn nothing_that_std_calls_special_is_open(bits: u32) {
        let v4 = Ipv4Addr::from_bits(bits);
        if std_says_special(v4) {
            prop_assert!(AddressPolicy::default().check(IpAddr::V4(v4)).is_err());
        }
    }

    #[test]
    fn a_disguise_never_opens_what_is_closed(bits: u32) {
        let policy = AddressPolicy::default();
        let v4 = Ipv4Addr::from_bits(bits);
        let plain = policy.check(IpAddr::V4(v4));
        let [a, b, c, d] = v4.octets();
        let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        prop_assert_eq!(policy.check(IpAddr::V6(v4.to_ipv6_mapped())), plain);
        prop_assert_eq!(policy.check(IpAddr::V6(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low))), plain);
        prop_assert!(policy.check(IpAddr::V6(v4.to_ipv6_compatible())).is_err());
        prop_assert!(policy.check(IpAddr::V6(Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1))).is_err());
        prop_assert!(policy.check(IpAddr::V6(Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, high, low))).is_err());
    }

    #[test]
    fn only_global_unicast_and_nat64_are_open_in_ipv6(bits: u128) {
        let v6 = Ipv6Addr::from_bits(bits);
        if AddressPolicy::default().check(IpAddr::V6(v6)).is_ok() {
            let first = v6.segments()[0];
            prop_assert!(first & 0xe000 == 0x2000 || first == 0x64 || v6.to_ipv4_mapped().is_some());
        }
    }
}
