//! When the gateway itself has no connection left: whatever a request waits for meanwhile, that is no failure of its destination.

use std::sync::Arc;

use tidegate::clock::Clock;
use tidegate::egress::{ClientAuth, Credentials, Egress, EgressConfig, OAuth, OAuthConfig, Sent, Target, TargetConfig};
use tidegate::event::{DestinationId, Party, TenantId};
use tidegate::secret::Secret;
use tokio::join;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::peer::*;
use crate::tls::secure;

/// Connections altogether; a tenant has half of them.
const CONNECTIONS: usize = 4;

/// An egress that may open few connections, and knows the name of [`secure`] targets.
fn small() -> EgressConfig {
    let hosts = [("own.example".to_owned(), vec!["127.0.0.1".parse().unwrap()])].into();
    EgressConfig { max_connections: CONNECTIONS, connect_timeout: LONG, hosts, ..config() }
}

/// All connections, held by requests of other tenants that hang.
struct Held {
    server: Server,
    sending: JoinSet<Sent>,
    peers: Vec<Peer<TcpStream>>,
}

impl Held {
    async fn all_of(egress: &Egress) -> Self {
        let mut held = Self { server: Server::start().await, sending: JoinSet::new(), peers: Vec::new() };
        for number in 0..CONNECTIONS as u128 {
            let (tenant, destination) = (TenantId(10 + number / 2), DestinationId(10 + number));
            let config = TargetConfig { tenant, destination, ..target_config(&held.server.url()) };
            held.sending.spawn(send(egress, &Arc::new(Target::new(&config, &policy()).unwrap()), LONG));
            let mut peer = held.server.accept().await;
            peer.read_request().await;
            held.peers.push(peer);
        }
        held
    }

    async fn release(mut self) {
        self.sending.shutdown().await;
    }
}

fn tokens_of(endpoint: &Arc<Target>) -> Arc<Credentials> {
    Arc::new(Credentials::OAuth(OAuth::new(&OAuthConfig {
        endpoint: endpoint.clone(),
        client_id: "client".to_owned(),
        client_secret: Secret::new("secret"),
        scope: None,
        audience: None,
        client_auth: ClientAuth::Basic,
    })))
}

/// Sends to a target that wants a token.
async fn send_with(egress: &Egress, credentials: &Arc<Credentials>, target: &Arc<Target>, deadline: std::time::Duration) -> Sent {
    let request = request(target, deadline).with_credentials(Some(credentials));
    egress.send(request, &Clock::system()).await
}

#[tokio::test]
async fn who_waits_behind_one_without_a_connection_has_none_either() {
    for (connect_timeout, deadline) in [(LONG, SHORT), (SHORT, SHORT * 3)] {
        let egress = egress(EgressConfig { connect_timeout, ..small() });
        let _held = Held::all_of(&egress).await;
        let server = Server::start().await;
        let target = secure(server.address);
        let (first, second) = join!(send(&egress, &target, deadline), send(&egress, &target, deadline));
        assert_eq!((code(&first), code(&second)), ("no_capacity", "no_capacity"), "{connect_timeout:?}");
        assert!(server.is_lonely().await);
    }
}

#[tokio::test]
async fn who_waits_behind_one_that_is_slow_to_connect_fails_for_its_destination() {
    let egress = egress(EgressConfig { connect_timeout: SHORT, ..small() });
    let silent = Server::start().await;
    let target = secure(silent.address);
    let (first, second, _peer) = join!(send(&egress, &target, LONG), send(&egress, &target, LONG), silent.accept());
    assert_eq!(code(&first), "tls_timeout");
    assert_eq!(second.failure.unwrap().party, Party::Network);
}

#[tokio::test]
async fn without_a_connection_nobody_is_asked_for_a_token_and_nobody_is_blamed() {
    let egress = egress(small());
    let _held = Held::all_of(&egress).await;
    let (server, authorization) = (Server::start().await, Server::start().await);
    let tokens = tokens_of(&authorization.target());
    let target = server.target();
    let send = || send_with(&egress, &tokens, &target, SHORT);
    let (first, second) = join!(send(), send());
    assert_eq!((code(&first), code(&second)), ("no_capacity", "no_capacity"));
    assert!(authorization.is_lonely().await);
}

#[tokio::test]
async fn an_authorization_server_that_was_not_asked_is_asked_by_the_next_request() {
    let egress = egress(EgressConfig { connect_timeout: SHORT, ..small() });
    let held = Held::all_of(&egress).await;
    let (server, authorization) = (Server::start().await, Server::start().await);
    let (endpoint, target) = (secure(authorization.address), server.target());
    let (first, second) = (tokens_of(&endpoint), tokens_of(&endpoint));
    let (waiting, sent) = join!(send_with(&egress, &first, &target, SHORT * 3), send_with(&egress, &second, &target, LONG));
    assert_eq!((code(&waiting), code(&sent)), ("no_capacity", "no_capacity"));
    held.release().await;
    let (_sent, peer) = join!(send_with(&egress, &second, &target, SHORT), authorization.accept());
    drop(peer);
}

#[tokio::test]
async fn an_authorization_server_that_does_not_answer_is_to_blame() {
    let egress = egress(small());
    let (server, authorization) = (Server::start().await, Server::start().await);
    let tokens = tokens_of(&authorization.target());
    let target = server.target();
    let send = || send_with(&egress, &tokens, &target, SHORT);
    let (first, second, _peer) = join!(send(), send(), authorization.accept());
    assert_eq!((code(&first), code(&second)), ("token_timeout", "token_timeout"));
    assert!(server.is_lonely().await);
}
