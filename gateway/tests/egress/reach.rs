//! Where requests may go.

use std::net::IpAddr;
use std::sync::Arc;

use tidegate::egress::policy::{AddressPolicy, Refusal};
use tidegate::egress::{EgressConfig, Target, TargetError};
use tokio::join;

use crate::peer::*;

fn hosts(name: &str, addresses: &[&str]) -> std::collections::HashMap<String, Vec<IpAddr>> {
    [(name.to_owned(), addresses.iter().map(|address| address.parse().unwrap()).collect())].into()
}

/// A private address reached through the DNS: the name is harmless, what it leads to is not.
#[tokio::test]
async fn a_name_that_leads_inside_is_refused_after_it_was_resolved() {
    let server = Server::start().await;
    let inside = ["127.0.0.1", "::ffff:127.0.0.1", "64:ff9b::127.0.0.1", "169.254.169.254", "10.0.0.1", "::1", "fd00::1"];
    for address in inside {
        let closed =
            egress(EgressConfig { policy: AddressPolicy::default(), hosts: hosts("inside.example", &[address]), ..config() });
        let target = target(&format!("http://inside.example:{}", server.address.port()));
        let sent = send(&closed, &target, LONG).await;
        assert_eq!((sent.status, code(&sent)), (None, "address_refused"), "{address}");
        // Names of inside are nothing that a tenant should be able to map.
        assert!(!sent.failure.unwrap().detail.contains(address));
    }
    assert!(server.is_lonely().await);
}

#[tokio::test]
async fn only_the_checked_addresses_of_a_name_are_dialled() {
    let server = Server::at("127.0.0.2".parse().unwrap()).await;
    let refused = Server::on(([127, 0, 0, 1], server.address.port()).into()).await;
    let policy = AddressPolicy { allow: vec!["127.0.0.2/32".parse().unwrap()], ..AddressPolicy::default() };
    let egress = egress(EgressConfig { policy, hosts: hosts("Both.Example.", &["127.0.0.1", "127.0.0.2"]), ..config() });
    let target = target(&format!("http://both.example:{}", server.address.port()));
    let (sent, _) = join!(send(&egress, &target, LONG), async { server.accept().await.answer(OK).await });
    assert_eq!(sent.status, Some(200));
    assert!(refused.is_lonely().await);
}

#[tokio::test]
async fn the_next_address_is_tried_when_one_refuses() {
    let server = Server::at("127.0.0.3".parse().unwrap()).await;
    let egress = egress(EgressConfig { hosts: hosts("many.example", &["127.0.0.1", "127.0.0.2", "127.0.0.3"]), ..config() });
    let target = target(&format!("http://many.example:{}", server.address.port()));
    let (sent, _) = join!(send(&egress, &target, LONG), async { server.accept().await.answer(OK).await });
    assert_eq!(sent.status, Some(200));
    drop(server);
    assert_eq!(
        code(
            &send(
                &crate::peer::egress(EgressConfig { hosts: hosts("many.example", &["127.0.0.1", "127.0.0.2"]), ..config() }),
                &target,
                LONG
            )
            .await
        ),
        "connect_refused"
    );
}

#[tokio::test]
async fn an_address_in_the_url_is_refused_before_anything_is_sent() {
    let config = target_config("http://127.0.0.1:1/");
    assert_eq!(Target::new(&config, &AddressPolicy::default()).unwrap_err(), TargetError::Refused(Refusal::Loopback));
    // A target made under another policy is judged again when it is dialled.
    let server = Server::start().await;
    let closed = egress(EgressConfig { policy: AddressPolicy::default(), ..crate::peer::config() });
    let target: Arc<Target> = server.target();
    assert_eq!(code(&send(&closed, &target, LONG).await), "address_refused");
    assert!(server.is_lonely().await);
}

#[tokio::test]
async fn a_name_that_does_not_exist() {
    let sent = send(&egress(config()), &target("http://nowhere.invalid/"), LONG).await;
    assert_eq!((sent.status, code(&sent)), (None, "dns_failed"));
    let empty = egress(EgressConfig { hosts: hosts("empty.example", &[]), ..config() });
    assert_eq!(code(&send(&empty, &target("http://empty.example/"), LONG).await), "dns_failed");
}
