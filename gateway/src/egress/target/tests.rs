use proptest::prelude::*;

use super::*;
use crate::egress::broker::{Login, Protocol};

fn config(url: &str) -> TargetConfig {
    TargetConfig {
        tenant: TenantId(1),
        destination: DestinationId(2),
        revision: Revision(3),
        url: url.to_owned(),
        append_path: false,
        append_query: false,
        tls: TlsOptions::default(),
        speaks: Speaks::Http,
    }
}

fn target(url: &str) -> Result<Target, TargetError> {
    Target::new(&config(url), &AddressPolicy::default())
}

#[test]
fn good_urls_are_taken_apart() {
    let target = target("https://Example.COM:8443/hooks/a?x=1").unwrap();
    assert_eq!(target.origin(), "https://example.com:8443");
    assert_eq!((target.host(), target.port()), ("example.com", 8443));
    assert_eq!((target.path.as_str(), target.query.as_deref()), ("/hooks/a", Some("x=1")));
    assert_eq!(target.host_header, "example.com:8443");
    let plain = super::tests::target("http://example.com:80").unwrap();
    assert_eq!((plain.host_header.to_str().unwrap(), plain.port(), plain.path.as_str()), ("example.com", 80, "/"));
    assert_eq!(super::tests::target("https://[2606:4700::1111]/").unwrap().host_header, "[2606:4700::1111]");
    assert_eq!(super::tests::target("https://bücher.example/").unwrap().host_header, "xn--bcher-kva.example");
}

#[test]
fn bad_urls_are_refused_by_name() {
    assert_eq!(target("ftp://example.com").unwrap_err(), TargetError::Scheme("http", "https"));
    assert_eq!(target("file:///etc/passwd").unwrap_err(), TargetError::Scheme("http", "https"));
    assert_eq!(target("https://user@example.com").unwrap_err(), TargetError::Userinfo);
    assert_eq!(target("https://:pass@example.com").unwrap_err(), TargetError::Userinfo);
    assert_eq!(target("https://example.com/#x").unwrap_err(), TargetError::Fragment);
    assert_eq!(target("https://example.com:0").unwrap_err(), TargetError::Refused(Refusal::Port));
    assert_eq!(target(&format!("https://example.com/{}", "x".repeat(MAX_URL))).unwrap_err(), TargetError::TooLong);
    for malformed in
        ["", "example.com", "https://", "https://a b/", "https://example.com:99999", "http://[fe80::1%25eth0]/", "http://[::1"]
    {
        assert!(matches!(target(malformed).unwrap_err(), TargetError::Malformed(_) | TargetError::Scheme(..)), "{malformed}");
    }
}

/// Spellings that have led clients to places that their checks had not seen.
#[test]
fn an_address_is_judged_in_every_spelling() {
    let loopback = [
        "http://127.0.0.1",
        "http://127.1",
        "http://2130706433",
        "http://0x7f000001",
        "http://0x7f.1",
        "http://0177.0.0.1",
        "http://017700000001",
        "http://127.0.0.1.",
        "http://%31%32%37.0.0.1",
        "http://①②⑦.⓪.⓪.①",
        "http://[::1]",
        "http://[::ffff:127.0.0.1]",
        "http://[0:0:0:0:0:ffff:7f00:1]",
        "http://[64:ff9b::7f00:1]",
    ];
    for url in loopback {
        assert_eq!(target(url).unwrap_err(), TargetError::Refused(Refusal::Loopback), "{url}");
    }
    assert_eq!(target("http://169.254.169.254/latest").unwrap_err(), TargetError::Refused(Refusal::Metadata));
    assert_eq!(target("http://2852039166/").unwrap_err(), TargetError::Refused(Refusal::Metadata));
    assert_eq!(target("http://0/").unwrap_err(), TargetError::Refused(Refusal::Unspecified));
}

#[test]
fn connections_are_shared_by_nothing_but_the_same_destination_revision_origin_and_tls() {
    let key = |change: fn(&mut TargetConfig)| {
        let mut config = config("https://example.com/a");
        change(&mut config);
        Target::new(&config, &AddressPolicy::default()).unwrap().key
    };
    let same = key(|_| {});
    assert_eq!(key(|config| config.url = "https://example.com:443/b?c".to_owned()), same);
    assert_eq!(key(|config| config.append_path = true), same);
    let others = [
        key(|config| config.tenant = TenantId(9)),
        key(|config| config.destination = DestinationId(9)),
        key(|config| config.revision = Revision(9)),
        key(|config| config.url = "http://example.com/a".to_owned()),
        key(|config| config.url = "https://example.com:444/a".to_owned()),
        key(|config| config.url = "https://example.org/a".to_owned()),
        key(|config| config.tls.http2 = false),
    ];
    for (index, other) in others.iter().enumerate() {
        assert_ne!(*other, same, "{index}");
        assert!(!others[..index].contains(other), "{index}");
    }
}

#[test]
fn certificates_are_read_or_refused() {
    for pem in ["", "nonsense", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----"] {
        let config = TargetConfig {
            tls: TlsOptions { ca_pem: Some(pem.to_owned()), ..TlsOptions::default() },
            ..config("https://example.com")
        };
        assert!(matches!(Target::new(&config, &AddressPolicy::default()), Err(TargetError::Certificates(_))), "{pem}");
    }
}

fn nats(url: &str) -> Result<Target, TargetError> {
    let protocol = Protocol::Nats { subject: "hooks".to_owned(), stream: None };
    let speaks = Speaks::Broker(Broker { protocol, login: Login::None });
    Target::new(&TargetConfig { speaks, ..config(url) }, &AddressPolicy::default())
}

#[test]
fn a_broker_s_url_is_an_address() {
    for (url, origin) in [
        ("nats://n.example.com", "nats://n.example.com:4222"),
        ("NATS://n.example.com:80/", "nats://n.example.com:80"),
        ("tls://n.example.com:443", "tls://n.example.com:443"),
        ("nats://[2606:4700::1]:1", "nats://[2606:4700::1]:1"),
    ] {
        let target = nats(url).unwrap();
        assert_eq!((target.origin().as_str(), target.is_tls()), (origin, url.starts_with("tls")));
    }
    assert_eq!(nats("http://n.example.com").unwrap_err(), TargetError::Scheme("nats", "tls"));
    assert_eq!(nats("amqp://n.example.com").unwrap_err(), TargetError::Scheme("nats", "tls"));
    assert_eq!(target("nats://n.example.com").unwrap_err(), TargetError::Scheme("http", "https"));
    assert_eq!(nats("nats://n.example.com/hooks").unwrap_err(), TargetError::PathOfBroker);
    assert_eq!(nats("nats://n.example.com/?hooks").unwrap_err(), TargetError::PathOfBroker);
    assert_eq!(nats("nats://me:secret@n.example.com").unwrap_err(), TargetError::Userinfo);
    for private in ["127.0.0.1", "0x7f.1", "2130706433", "[::1]", "[::ffff:10.0.0.1]", "169.254.169.254"] {
        assert!(matches!(nats(&format!("nats://{private}")), Err(TargetError::Refused(_))), "{private}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,60}") {
        let _ = target(&text);
        let _ = target(&format!("https://{text}"));
        let _ = nats(&text);
        let _ = nats(&format!("nats://{text}"));
    }

    /// Whatever the spelling of a dotted address, the connection goes where the check looked.
    #[test]
    fn numbers_are_read_as_one_address(bits: u32) {
        let plain = target(&format!("http://{}", std::net::Ipv4Addr::from_bits(bits)));
        for url in [format!("http://{bits}"), format!("http://{bits:#x}"), format!("http://0{bits:o}")] {
            match (&plain, target(&url)) {
                (Ok(plain), Ok(spelled)) => prop_assert_eq!(&plain.host, &spelled.host),
                (Err(plain), Err(spelled)) => prop_assert_eq!(plain, &spelled),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
