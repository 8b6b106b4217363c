//! Names that are looked up: a DNS server of our own, whose answers change.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tidegate::egress::policy::AddressPolicy;
use tidegate::egress::{Egress, EgressConfig, Target};
use tokio::join;
use tokio::net::UdpSocket;

use crate::peer::*;

const CLOSE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// Answers every question for an IPv4 address with the one that it was told last, good for no time; every other with nothing.
struct Dns {
    address: SocketAddr,
    answer: Arc<Mutex<(Ipv4Addr, usize)>>,
    server: tokio::task::JoinHandle<()>,
}

impl Dns {
    async fn start(first: Ipv4Addr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let answer = Arc::new(Mutex::new((first, 0)));
        let told = Arc::clone(&answer);
        let server = tokio::spawn(async move {
            let mut question = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut question).await {
                let reply = reply(&question[..length], &told);
                socket.send_to(&reply, from).await.unwrap();
            }
        });
        Self { address, answer, server }
    }

    fn change(&self, address: Ipv4Addr) {
        self.answer.lock().unwrap().0 = address;
    }

    /// Questions for an IPv4 address so far.
    fn asked(&self) -> usize {
        self.answer.lock().unwrap().1
    }

    fn egress(&self, allow: &[&str]) -> Egress {
        let allow = allow.iter().map(|net| net.parse().unwrap()).collect();
        egress(EgressConfig {
            name_servers: vec![self.address],
            policy: AddressPolicy { allow, ..AddressPolicy::default() },
            ..config()
        })
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// RFC 1035, section 4.1: a head of 12 bytes, one question, one answer that points at the question's name.
fn reply(question: &[u8], told: &Mutex<(Ipv4Addr, usize)>) -> Vec<u8> {
    const IPV4: [u8; 2] = [0, 1];
    let name = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap() + 1;
    let is_ipv4 = question[name..name + 2] == IPV4;
    let mut reply = question[..2].to_vec();
    reply.extend([0x85, 0x80, 0, 1, 0, u8::from(is_ipv4), 0, 0, 0, 0]);
    reply.extend(&question[12..name + 4]);
    if is_ipv4 {
        let mut told = told.lock().unwrap();
        told.1 += 1;
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        reply.extend(told.0.octets());
    }
    reply
}

fn named(port: u16) -> Arc<Target> {
    target(&format!("http://moving.example:{port}/"))
}

#[tokio::test]
async fn a_name_that_moves_is_followed_by_the_next_connection() {
    let first = Server::at("127.0.0.2".parse().unwrap()).await;
    let second = Server::on(([127, 0, 0, 3], first.address.port()).into()).await;
    let dns = Dns::start(Ipv4Addr::new(127, 0, 0, 2)).await;
    let (egress, target) = (dns.egress(&["127.0.0.0/8"]), named(first.address.port()));
    let (sent, mut kept) = join!(send(&egress, &target, LONG), async {
        let mut peer = first.accept().await;
        peer.answer(OK).await;
        peer
    });
    assert_eq!(sent.status, Some(200));
    dns.change(Ipv4Addr::new(127, 0, 0, 3));
    let asked = dns.asked();
    let (sent, _) = join!(send(&egress, &target, LONG), kept.answer(CLOSE));
    assert_eq!((sent.status, dns.asked()), (Some(200), asked), "a kept connection stays where it is");
    let (sent, _) = join!(send(&egress, &target, LONG), async { second.accept().await.answer(OK).await });
    assert_eq!(sent.status, Some(200));
    assert!(first.is_lonely().await);
}

/// Rebinding: the name led to a public address when it was looked at, and leads inside a moment later.
#[tokio::test]
async fn a_name_that_moves_inside_is_refused_by_the_next_connection() {
    let public = Server::at("127.0.0.2".parse().unwrap()).await;
    let inside = Server::on(([127, 0, 0, 1], public.address.port()).into()).await;
    let dns = Dns::start(Ipv4Addr::new(127, 0, 0, 2)).await;
    let (egress, target) = (dns.egress(&["127.0.0.2/32"]), named(public.address.port()));
    let (sent, _) = join!(send(&egress, &target, LONG), async { public.accept().await.answer(CLOSE).await });
    assert_eq!(sent.status, Some(200));
    for address in [Ipv4Addr::LOCALHOST, Ipv4Addr::new(169, 254, 169, 254), Ipv4Addr::new(10, 0, 0, 1)] {
        dns.change(address);
        let asked = dns.asked();
        let sent = send(&egress, &target, LONG).await;
        assert_eq!((sent.status, code(&sent), dns.asked()), (None, "address_refused", asked + 1));
    }
    assert!(inside.is_lonely().await);
    dns.change(Ipv4Addr::new(127, 0, 0, 2));
    let (sent, _) = join!(send(&egress, &target, LONG), async { public.accept().await.answer(CLOSE).await });
    assert_eq!(sent.status, Some(200));
}

#[tokio::test]
async fn a_name_server_that_says_nothing_costs_the_time_to_connect_and_delays_nobody_else() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let egress = egress(EgressConfig {
        name_servers: vec![silent.local_addr().unwrap()],
        connect_timeout: SHORT,
        hosts: [("known.example".to_owned(), vec!["127.0.0.1".parse().unwrap()])].into(),
        ..config()
    });
    let server = Server::start().await;
    let known = target(&format!("http://known.example:{}/", server.address.port()));
    let (late, sent, _) = join!(send(&egress, &named(server.address.port()), LONG), send(&egress, &known, LONG), async {
        server.accept().await.answer(OK).await
    });
    assert_eq!((late.status, code(&late)), (None, "dns_timeout"));
    assert!(late.took >= SHORT && late.took < LONG);
    assert_eq!(sent.status, Some(200));
}
