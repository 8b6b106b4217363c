//! What is kept, shared, limited and closed.

use std::sync::Arc;
use std::time::Duration;

use tidegate::clock::Clock;
use tidegate::egress::{EgressConfig, Target, TargetConfig};
use tidegate::event::{DestinationId, Revision, TenantId};
use tokio::join;

use crate::peer::*;

/// The server closed the kept connection; the client has not looked at it since when the next request comes.
#[test]
fn a_request_proven_unwritten_is_sent_again_once_and_reported() {
    // One thread, so that nothing of the client runs while this test does not await.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (egress, target) = (egress(config()), target(&format!("http://{address}/hook")));
        let (close, closing) = std::sync::mpsc::sync_channel::<()>(1);
        let (closed, wait_closed) = std::sync::mpsc::sync_channel::<()>(1);
        let server = std::thread::spawn(move || {
            let mut requests = vec![blocking::answer(&listener)];
            closing.recv().unwrap();
            let (stream, _) = requests.remove(0);
            drop(stream);
            closed.send(()).unwrap();
            blocking::answer(&listener).1
        });
        let sent = send(&egress, &target, LONG).await;
        assert_eq!((sent.status, sent.resent), (Some(200), false));
        close.send(()).unwrap();
        wait_closed.recv().unwrap();
        // The runtime hears of the end now, and tells the connection's task; this one has its turn first.
        tokio::task::yield_now().await;
        let sent = send(&egress, &target, LONG).await;
        assert_eq!((sent.status, sent.resent, code(&sent)), (Some(200), true, "none"));
        let request = server.join().unwrap();
        assert!(request.contains("content-type: text/plain\r\n") && request.contains("x-many: 1\r\nx-many: 2\r\n"), "{request}");
    });
}

mod blocking {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    pub(super) fn answer(listener: &TcpListener) -> (TcpStream, String) {
        let (mut stream, _) = listener.accept().unwrap();
        let mut read = Vec::new();
        while !read.ends_with(b"\r\n\r\nhello") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            read.push(byte[0]);
        }
        stream.write_all(super::OK.as_bytes()).unwrap();
        (stream, String::from_utf8(read).unwrap())
    }
}

/// A hidden second POST below the layer that records attempts: none, once anything was written.
#[tokio::test]
async fn a_request_that_was_written_on_a_kept_connection_is_never_sent_again() {
    let server = Server::start().await;
    let (egress, target) = (egress(config()), server.target());
    let (_, mut peer) = join!(send(&egress, &target, LONG), async {
        let mut peer = server.accept().await;
        peer.answer(OK).await;
        peer
    });
    let (sent, ()) = join!(send(&egress, &target, LONG), async move {
        peer.read_request().await;
    });
    assert_eq!((sent.status, code(&sent), sent.resent), (None, "reset", false));
    assert!(server.is_lonely().await);
}

#[tokio::test]
async fn connections_are_not_shared_between_tenants_or_revisions() {
    let server = Server::start().await;
    let egress = egress(config());
    let own = target_config(&server.url());
    let mut of_another = own.clone();
    of_another.tenant = TenantId(2);
    let mut later = own.clone();
    later.revision = Revision(2);
    let mut kept = Vec::new();
    for config in [own, of_another, later] {
        let target = Arc::new(Target::new(&config, &policy()).unwrap());
        // Each comes on a connection of its own, although those before are idle.
        let (sent, peer) = join!(send(&egress, &target, LONG), async {
            let mut peer = server.accept().await;
            peer.answer(OK).await;
            peer
        });
        assert_eq!(sent.status, Some(200));
        kept.push(peer);
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_its_time() {
    let server = Server::start().await;
    let egress = egress(EgressConfig { idle_timeout: Duration::from_millis(50), ..config() });
    let (_, mut peer) = join!(send(&egress, &server.target(), LONG), async {
        let mut peer = server.accept().await;
        peer.answer(OK).await;
        peer
    });
    peer.closed().await;
}

#[tokio::test]
async fn an_abandoned_request_closes_its_connection() {
    let server = Server::start().await;
    let egress = egress(config());
    let target = server.target();
    let mut peer = tokio::select! {
        _ = send(&egress, &target, LONG) => panic!("nobody answered"),
        peer = async {
            let mut peer = server.accept().await;
            peer.read_request().await;
            peer
        } => peer,
    };
    peer.closed().await;
}

#[tokio::test]
async fn requests_to_one_target_wait_for_their_turn() {
    let server = Server::start().await;
    let egress = egress(EgressConfig { max_requests_per_target: 1, ..config() });
    let target = server.target();
    let (first, second, ()) = join!(send(&egress, &target, LONG), send(&egress, &target, LONG), async {
        let mut peer = server.accept().await;
        peer.read_request().await;
        assert!(server.is_lonely().await);
        peer.write(OK).await;
        peer.answer(OK).await;
    });
    assert_eq!((first.status, second.status), (Some(200), Some(200)));
    assert!(server.is_lonely().await);
}

/// One whose destinations all hang has half of the connections and no more, whether they are new or were kept.
#[tokio::test]
async fn a_tenant_whose_destinations_hang_leaves_connections_to_others() {
    let (server, well) = (Server::start().await, Server::start().await);
    let egress = egress(EgressConfig { max_connections: 4, ..config() });
    let target_of = |tenant: u128, server: &Server, number: u128| {
        let config = TargetConfig { tenant: TenantId(tenant), destination: DestinationId(number), ..target_config(&server.url()) };
        Arc::new(Target::new(&config, &policy()).unwrap())
    };
    let mut sending = tokio::task::JoinSet::new();
    let mut peers = Vec::new();
    for number in 0..6 {
        sending.spawn(send(&egress, &target_of(1, &server, number), LONG));
        if number < 2 {
            let mut peer = server.accept().await;
            peer.read_request().await;
            peers.push(peer);
        }
    }
    assert!(server.is_lonely().await, "the others wait");
    for number in 0..2 {
        let healthy = target_of(2, &well, number);
        let (sent, _peer) = join!(send(&egress, &healthy, LONG), async {
            let mut peer = well.accept().await;
            peer.answer(OK).await;
            peer
        });
        assert_eq!(sent.status, Some(200));
    }
    // Those that waited have their turns as the first end.
    for _ in 0..4 {
        peers.remove(0).write(OK).await;
        assert_eq!(sending.join_next().await.unwrap().unwrap().status, Some(200));
        let mut peer = server.accept().await;
        peer.read_request().await;
        peers.push(peer);
    }
}

#[tokio::test]
async fn the_connection_idle_longest_makes_room() {
    let (one, two) = (Server::start().await, Server::start().await);
    let egress = egress(EgressConfig { max_connections: 1, ..config() });
    let (_, mut idle) = join!(send(&egress, &one.target(), LONG), async {
        let mut peer = one.accept().await;
        peer.answer(OK).await;
        peer
    });
    let (sent, ()) = join!(send(&egress, &two.target(), LONG), async {
        idle.closed().await;
        two.accept().await.answer(OK).await;
    });
    assert_eq!(sent.status, Some(200));
}

#[tokio::test]
async fn who_waits_for_a_connection_gets_the_first_that_becomes_idle() {
    let (one, two) = (Server::start().await, Server::start().await);
    let egress = egress(EgressConfig { max_connections: 1, ..config() });
    let (one_target, two_target) = (one.target(), two.target());
    let (first, second) = join!(send(&egress, &one_target, LONG), async {
        let mut peer = one.accept().await;
        peer.read_request().await;
        let (sent, ()) = join!(send(&egress, &two_target, LONG), async {
            assert!(two.is_lonely().await);
            peer.write(OK).await;
            peer.closed().await;
            two.accept().await.answer(OK).await;
        });
        sent
    });
    assert_eq!((first.status, second.status), (Some(200), Some(200)));
}

#[tokio::test]
async fn no_connection_in_time_is_the_gateways_own_failure() {
    let (one, two) = (Server::start().await, Server::start().await);
    let egress = egress(EgressConfig { max_connections: 1, ..config() });
    let (one_target, two_target) = (one.target(), two.target());
    let (_, sent) = join!(send(&egress, &one_target, LONG), async {
        let mut peer = one.accept().await;
        peer.read_request().await;
        let sent = egress.send(request(&two_target, SHORT), &Clock::system()).await;
        peer.write(OK).await;
        sent
    });
    assert_eq!((sent.status, code(&sent)), (None, "no_capacity"));
    let failure = sent.failure.unwrap();
    assert_eq!((failure.party, failure.retryable), (tidegate::event::Party::Gateway, true));
}
