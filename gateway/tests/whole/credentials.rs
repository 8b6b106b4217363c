//! Who the gateway says it is to destinations, judged by servers and libraries that others made.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use ring::signature::{ED25519, UnparsedPublicKey};
use serde_json::{Value, json};
use tidegate_test_support::gateway::Launch;
use tidegate_test_support::github;
use tidegate_test_support::http::{Answer, Received, send};
use tidegate_test_support::peers::{self, NodeServer, aws_signature};
use tidegate_test_support::standard_webhooks::{verify_node, verify_python, verify_rust};

use crate::api::{TENANT, text};
use crate::world::{EMBEDDED, SOON, World};

const HMAC_SECRET: &str = "It's a Secret to Everybody";
const CLIENT: &str = "tidegate";
const CLIENT_SECRET: &str = "s3cr3t/with+signs";
const AWS_KEY: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

/// A tenant with one destination, which this is added to.
async fn world(destination: Value) -> (World, String) {
    with(destination, |launch| launch, "").await
}

async fn with(destination: Value, change: impl FnOnce(Launch) -> Launch, toml: &str) -> (World, String) {
    let world = World::with(EMBEDDED, change, toml).await;
    let mut out = json!({"name": "out", "url": world.receiver.url("/hook"), "retry": {"max_attempts": 3, "base": "1s"}});
    for (name, value) in destination.as_object().unwrap() {
        out[name] = value.clone();
    }
    world
        .api
        .apply(json!({
            "sources": [{"name": "in", "auth": {"type": "none"}}],
            "destinations": [out],
            "connections": [{"name": "all", "source": "in", "destination": "out"}],
        }))
        .await;
    let url = world.gateway.ingest(&format!("/in/{}", world.api.id("sources", "in").await));
    (world, url)
}

async fn post(url: &str, body: &str) -> String {
    let reply = send("POST", url, &[("content-type", "application/json")], body.to_owned()).await;
    assert_eq!(reply.status, 202, "{:?}", reply.body);
    text(&reply.json()["id"])
}

/// What became of the one delivery of an event.
async fn delivery(world: &World, event: &str) -> Value {
    world.api.settled(event, SOON).await["deliveries"][0].clone()
}

#[tokio::test]
async fn a_new_secret_signs_beside_the_old_one_and_ed25519_beside_hmac() {
    const OLD: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    let (world, url) = world(json!({"signing": {"secrets": [OLD], "hmac": {"secret": HMAC_SECRET}}})).await;
    let path = format!("/v1/destinations/out/rotate-secret?tenant={TENANT}");
    let first = text(&world.api.post(&path, &json!({"overlap": "1h"})).await["secret"]);
    let rotated = world.api.post(&path, &json!({"kind": "ed25519"})).await;
    assert!(text(&rotated["secret"]).starts_with("whsk_"));
    let public_key = text(&rotated["public_key"]);
    let shown = world.api.get(&format!("/v1/destinations/out?tenant={TENANT}")).await;
    assert_eq!(shown["public_keys"], json!([public_key]), "{shown:#}");
    assert_eq!(shown["signing"]["secrets"], json!([{"sealed": true}]));
    assert_eq!(shown["signing"]["retiring"].as_array().unwrap().len(), 2);
    assert!(!shown.to_string().contains(&first) && !shown.to_string().contains(OLD));

    let event = post(&url, r#"{"order": 7}"#).await;
    assert_eq!(delivery(&world, &event).await["state"], "delivered");
    let request = &world.receiver.requests()[0];
    for secret in [OLD, &first] {
        for verify in [verify_rust, verify_python, verify_node] {
            assert_eq!(verify(secret, &request.headers, &request.body), Ok(()));
        }
    }
    assert_eq!(request.header("x-hub-signature-256"), Some(github::sign(HMAC_SECRET, &request.body).as_str()));
    let signatures: Vec<&str> = request.header("webhook-signature").unwrap().split(' ').collect();
    let signature = signatures.iter().find_map(|one| one.strip_prefix("v1a,")).expect("an Ed25519 signature");
    let public_key = STANDARD.decode(public_key.strip_prefix("whpk_").unwrap()).unwrap();
    let signed =
        format!("{}.{}.{}", request.webhook_id().unwrap(), request.header("webhook-timestamp").unwrap(), r#"{"order": 7}"#);
    let signature = STANDARD.decode(signature).unwrap();
    UnparsedPublicKey::new(&ED25519, public_key).verify(signed.as_bytes(), &signature).expect("it verifies");

    let rotated = world.api.send("POST", &path, "application/json", r#"{"overlap": "1h"}"#).await;
    assert_eq!(rotated.status, 201);
    let refused = world.api.send("POST", &path, "application/json", r#"{"overlap": "1h"}"#).await;
    assert_eq!((refused.status, &refused.json()["errors"][0]["field"]), (422, &json!("signing.retiring")), "{:?}", refused.body);
    world.api.send("POST", &path, "application/json", r#"{"overlap": "0s"}"#).await;
    let refused = world.api.send("POST", &path, "application/json", r#"{"overlap": "91days"}"#).await;
    assert_eq!((refused.status, &refused.json()["errors"][0]["field"]), (422, &json!("overlap")), "{:?}", refused.body);
}

#[tokio::test]
async fn an_apply_decides_what_signs_whatever_was_rotated() {
    const OLD: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    let (world, url) = world(json!({"signing": {"secrets": [OLD]}})).await;
    let path = format!("/v1/destinations/out/rotate-secret?tenant={TENANT}");
    let new = text(&world.api.post(&path, &json!({"overlap": "1h"})).await["secret"]);
    let file = |secrets: &[&str]| {
        let out = json!({"name": "out", "url": world.receiver.url("/hook"), "signing": {"secrets": secrets}});
        json!({"destinations": [out]})
    };
    // A file that still has the old one brings that back; both in it sign on; the new one alone ends the overlap.
    for (secrets, signs) in [
        (None, [true, true]),
        (Some(vec![OLD]), [true, false]),
        (Some(vec![&*new, OLD]), [true, true]),
        (Some(vec![&*new]), [false, true]),
    ] {
        if let Some(secrets) = &secrets {
            world.api.apply(file(secrets)).await;
        }
        let event = post(&url, "{}").await;
        assert_eq!(delivery(&world, &event).await["state"], "delivered");
        let request = world.receiver.requests().pop().unwrap();
        let found = [OLD, &new].map(|secret| verify_rust(secret, &request.headers, &request.body).is_ok());
        assert_eq!(found, signs, "{}", secrets.map_or(0, |secrets| secrets.len()));
    }
}

async fn introspect(server: &NodeServer, token: &str, method: &str) -> Value {
    let mut headers = vec![("content-type", "application/x-www-form-urlencoded".to_owned())];
    let mut form = format!("token={token}");
    if method == "client_secret_basic" {
        let pair = STANDARD.encode(format!("{CLIENT}:s3cr3t%2Fwith%2Bsigns"));
        headers.push(("authorization", format!("Basic {pair}")));
    } else {
        form.push_str(&format!("&client_id={CLIENT}&client_secret=s3cr3t%2Fwith%2Bsigns"));
    }
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let reply = send("POST", &format!("http://127.0.0.1:{}/token/introspection", server.port()), &headers, form).await;
    assert_eq!(reply.status, 200, "{:?}", reply.body);
    reply.json()
}

fn bearer(request: &Received) -> &str {
    request.header("authorization").and_then(|value| value.strip_prefix("Bearer ")).expect("a token")
}

#[tokio::test]
async fn oauth_tokens_are_kept_and_got_anew_when_they_are_refused() {
    for (method, client_auth) in [("client_secret_basic", "basic"), ("client_secret_post", "body")] {
        let server = NodeServer::authorization(CLIENT, CLIENT_SECRET, method).await;
        let auth = json!({
            "type": "oauth2", "token_url": format!("http://127.0.0.1:{}/token", server.port()), "client_id": CLIENT,
            "client_secret": CLIENT_SECRET, "scope": "hooks:write", "client_auth": client_auth,
        });
        let (world, url) = world(json!({"auth": auth})).await;
        for _ in 0..3 {
            let event = post(&url, "{}").await;
            assert_eq!(delivery(&world, &event).await["state"], "delivered");
        }
        assert_eq!(server.count("granted"), 1, "one token for all");
        let requests = world.receiver.requests();
        let token = bearer(&requests[0]).to_owned();
        let known = introspect(&server, &token, method).await;
        assert_eq!((&known["active"], &known["scope"]), (&json!(true), &json!("hooks:write")), "{known}");
        assert!(requests.iter().all(|request| bearer(request) == token));

        // The destination takes it no more: the next attempt comes at once, with another.
        let ended = Arc::new(AtomicBool::new(true));
        let old = token.clone();
        world.receiver.answer_with(move |request| {
            let is_old = ended.load(Ordering::SeqCst) && bearer(request) == old;
            Answer::status(if is_old { 401 } else { 200 })
        });
        let event = post(&url, "{}").await;
        let row = delivery(&world, &event).await;
        let statuses: Vec<_> = row["attempts"].as_array().unwrap().iter().map(|attempt| attempt["status"].clone()).collect();
        assert_eq!((&row["state"], statuses), (&json!("delivered"), vec![json!(401), json!(200)]), "{row:#}");
        assert_eq!(server.count("granted"), 2);
        assert!(!world.gateway.log().contains(&token) && !world.gateway.log().contains(CLIENT_SECRET));
    }
}

#[tokio::test]
async fn an_authorization_server_that_refuses_is_named() {
    let server = NodeServer::authorization(CLIENT, CLIENT_SECRET, "client_secret_basic").await;
    let auth = json!({
        "type": "oauth2", "token_url": format!("http://127.0.0.1:{}/token", server.port()), "client_id": CLIENT,
        "client_secret": "another", "scope": "hooks:write",
    });
    let (world, url) = world(json!({"auth": auth, "retry": {"max_attempts": 1}})).await;
    let event = post(&url, "{}").await;
    let row = delivery(&world, &event).await;
    let failure = &row["attempts"][0]["failure"];
    assert_eq!((&row["state"], &failure["code"]), (&json!("dead_lettered"), &json!("no_token")), "{row:#}");
    assert!(text(&failure["detail"]).ends_with("it answered 401 (invalid_client)"), "{failure}");
    assert_eq!((server.count("denied invalid_client"), world.receiver.count()), (1, 0), "nothing is sent without a token");

    let wrong = json!({"auth": {"type": "oauth2", "token_url": "http://169.254.169.254/", "client_id": "", "client_secret": "s"}});
    let refused =
        world.api.send("PATCH", &format!("/v1/destinations/out?tenant={TENANT}"), "application/json", wrong.to_string()).await;
    let fields: Vec<_> = refused.json()["errors"].as_array().unwrap().iter().map(|error| text(&error["field"])).collect();
    assert_eq!(
        (refused.status, fields),
        (422, vec!["auth.client_id".to_owned(), "auth.token_url".to_owned()]),
        "{:?}",
        refused.body
    );
}

#[tokio::test]
async fn aws_signatures_are_those_of_awss_own_library() {
    for (service, path) in [("execute-api", "/prod/hooks?b=2&a=1%20x"), ("s3", "/bucket/a%20key//twice"), ("events", "/")] {
        let auth = json!({
            "type": "aws_sigv4", "access_key_id": "AKIDEXAMPLE", "secret_access_key": AWS_KEY, "session_token": "temporary",
            "region": "eu-central-1", "service": service,
        });
        let own = json!([{"name": "x-amz-target", "value": "AWSEvents.PutEvents"}]);
        let (world, url) = world(json!({"auth": auth, "headers": own})).await;
        let patch = json!({"url": world.receiver.url(path)});
        world.api.patch(&format!("/v1/destinations/out?tenant={TENANT}"), &patch).await;
        // What a sender would have the service do is not signed for it.
        let theirs = [
            ("content-type", "application/json"),
            ("x-amz-acl", "public-read-write"),
            ("X-Amz-Target", "AWSEvents.DeleteRule"),
            ("x-amz-date", "20200101T000000Z"),
            ("authorization", "AWS4-HMAC-SHA256 Credential=theirs"),
        ];
        let reply = send("POST", &url, &theirs, r#"{"name": "ä"}"#).await;
        assert_eq!(delivery(&world, &text(&reply.json()["id"])).await["state"], "delivered");
        let request = &world.receiver.requests()[0];
        assert_eq!((request.header("x-amz-acl"), request.header("x-amz-target")), (None, Some("AWSEvents.PutEvents")));
        assert_eq!(request.headers.get_all("x-amz-target").iter().count(), 1);
        let authorization = request.header("authorization").unwrap();
        let scope =
            format!("/eu-central-1/{service}/aws4_request, SignedHeaders=content-type;host;x-amz-content-sha256;x-amz-date;");
        assert!(
            authorization.starts_with("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/") && authorization.contains(&scope),
            "{authorization}"
        );
        assert_eq!(request.header("x-amz-security-token"), Some("temporary"));
        let signature = authorization.rsplit_once("Signature=").unwrap().1;
        assert_eq!(signature, aws_signature(request, AWS_KEY, service, "eu-central-1"), "{service} {path}");
    }
}

#[tokio::test]
async fn a_destination_that_wants_a_certificate_gets_it() {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let signed = |name: &str, names: Vec<String>| {
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &authority).unwrap().pem(), key.serialize_pem())
    };
    let (server_certificate, server_key) = signed("server", vec!["127.0.0.1".into()]);
    let (certificate, key) = signed("tidegate of acme", vec![]);
    let server = NodeServer::mutual_tls(&server_certificate, &server_key, &authority.pem()).await;
    let url = format!("https://127.0.0.1:{}/hook", server.port());
    let tls = json!({"ca_pem": authority.pem(), "client_cert_pem": certificate, "client_key_pem": key});
    let (world, ingest) = world(json!({"url": url, "tls": tls, "retry": {"max_attempts": 1}})).await;
    let event = post(&ingest, "{}").await;
    let row = delivery(&world, &event).await;
    assert_eq!((&row["state"], &row["attempts"][0]["response"]), (&json!("delivered"), &json!("tidegate of acme")), "{row:#}");
    let path = format!("/v1/destinations/out?tenant={TENANT}");
    assert_eq!(world.api.get(&path).await["tls"]["client_key_pem"], json!({"sealed": true}));

    for (tls, field) in [
        (json!({"client_key_pem": null}), "tls.client_key_pem"),
        (json!({"client_cert_pem": null}), "tls.client_cert_pem"),
        (json!({"client_cert_pem": server_certificate}), "tls.client_cert_pem"),
        (json!({"client_key_pem": "none"}), "tls.client_cert_pem"),
        (json!({"ca_pem": "none"}), "tls.ca_pem"),
    ] {
        let refused = world.api.send("PATCH", &path, "application/json", json!({ "tls": tls }).to_string()).await;
        assert_eq!((refused.status, &refused.json()["errors"][0]["field"]), (422, &json!(field)), "{:?}", refused.body);
    }

    world.api.patch(&path, &json!({"tls": {"client_cert_pem": null, "client_key_pem": null}})).await;
    let event = post(&ingest, "{}").await;
    let row = delivery(&world, &event).await;
    assert_eq!(row["state"], "dead_lettered", "without one: {row:#}");
    assert_ne!(row["attempts"][0]["failure"], Value::Null);
}

#[tokio::test]
async fn a_destinations_proxy_is_asked_for_an_address_that_was_checked() {
    let server = NodeServer::proxy("acme", "s3cr3t").await;
    let proxy = json!({"url": format!("http://127.0.0.1:{}", server.port()), "username": "acme", "password": "s3cr3t"});
    let (world, url) = world(json!({"proxy": proxy, "retry": {"max_attempts": 1}})).await;
    for _ in 0..2 {
        let event = post(&url, "{}").await;
        assert_eq!(delivery(&world, &event).await["state"], "delivered");
    }
    assert_eq!(server.count(&format!("tunnel {}", world.receiver.address())), 1, "one tunnel, kept for both");

    let path = format!("/v1/destinations/out?tenant={TENANT}");
    world.api.patch(&path, &json!({"proxy": {"password": "wrong"}})).await;
    let event = post(&url, "{}").await;
    let row = delivery(&world, &event).await;
    let failure = &row["attempts"][0]["failure"];
    assert_eq!(
        (&failure["code"], &failure["detail"]),
        (&json!("proxy_failed"), &json!("the proxy gave no way: it answered 407")),
        "{row:#}"
    );
    for (proxy, field) in [
        (json!({"url": "socks5://127.0.0.1:1"}), "proxy.url"),
        (json!({"url": "http://169.254.169.254:80"}), "proxy.url"),
        (json!({"password": null}), "proxy.password"),
        (json!({"username": "a:b"}), "proxy.username"),
    ] {
        let refused = world.api.send("PATCH", &path, "application/json", json!({ "proxy": proxy }).to_string()).await;
        assert_eq!((refused.status, &refused.json()["errors"][0]["field"]), (422, &json!(field)), "{:?}", refused.body);
    }
}

#[tokio::test]
async fn the_environments_proxy_gets_names_only_where_the_operator_says_so() {
    let server = NodeServer::proxy("operator", "s3cr3t").await;
    let proxy = format!("http://operator:s3cr3t@127.0.0.1:{}", server.port());
    let hosts = "egress.hosts = [{ name = \"hooks.example\", addresses = [\"127.0.0.1\"] }]";
    let (world, url) = with(json!({}), |launch| launch.environment("HTTP_PROXY", &proxy), hosts).await;
    let port = world.receiver.address().port();
    let path = format!("/v1/destinations/out?tenant={TENANT}");
    world.api.patch(&path, &json!({"url": format!("http://hooks.example:{port}/hook")})).await;
    let event = post(&url, "{}").await;
    assert_eq!(delivery(&world, &event).await["state"], "delivered");
    assert_eq!(world.receiver.requests()[0].header("host"), Some(format!("hooks.example:{port}").as_str()));
    assert_eq!((server.count(&format!("tunnel 127.0.0.1:{port}")), server.count("tunnel hooks.example")), (1, 0));
    drop(world);

    let names = format!("{hosts}\negress.proxy = \"environment_and_names\"");
    let (world, url) = with(json!({}), |launch| launch.environment("HTTP_PROXY", &proxy), &names).await;
    let port = world.receiver.address().port();
    // This machine resolves it too.
    world.api.patch(&path, &json!({"url": format!("http://localhost:{port}/hook")})).await;
    let event = post(&url, "{}").await;
    assert_eq!(delivery(&world, &event).await["state"], "delivered");
    assert_eq!(server.count(&format!("tunnel localhost:{port}")), 1);
    drop(world);

    let (world, url) = with(json!({}), |launch| launch.environment("HTTP_PROXY", &proxy), "egress.proxy = \"none\"").await;
    let event = post(&url, "{}").await;
    assert_eq!(delivery(&world, &event).await["state"], "delivered");
    assert_eq!(server.count("tunnel"), 2, "none was asked");
}

#[tokio::test]
async fn bodies_are_compressed_where_it_helps_and_signed_as_they_were() {
    const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    let (world, url) = world(json!({"compression": "gzip", "signing": {"secrets": [SECRET]}})).await;
    let long = format!("[{}1]", "\"the same again and again\", ".repeat(4000));
    for (body, compressed) in [("{}", false), (long.as_str(), true)] {
        let event = post(&url, body).await;
        assert_eq!(delivery(&world, &event).await["state"], "delivered");
        let mut request = world.receiver.requests().pop().unwrap();
        assert_eq!(request.header("content-encoding"), compressed.then_some("gzip"));
        if compressed {
            assert!(request.body.len() < body.len() / 20, "{}", request.body.len());
            request.body = peers::gunzip(&request.body).into();
        }
        assert_eq!(request.body, body);
        assert_eq!(verify_rust(SECRET, &request.headers, &request.body), Ok(()));
    }
}
