//! Servers and libraries that others made, which judge what the gateway sends.

use std::process::Command;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::eventually;
use crate::http::Received;
use crate::process::{Process, command};
use crate::tools::{program, run, run_node};

/// How long a server may take to start on a busy machine.
const START: Duration = Duration::from_secs(60);

/// A server in Node.js. Killed on drop.
#[derive(Debug)]
pub struct NodeServer {
    process: Process,
    port: u16,
    _directory: tempfile::TempDir,
}

impl NodeServer {
    /// An OpenID-certified authorization server (`oidc-provider`) on 127.0.0.1, over HTTP. It grants `hooks:write` to this client by its
    /// credentials, given in the manner that the method says: `client_secret_basic` or `client_secret_post`.
    pub async fn authorization(client_id: &str, client_secret: &str, method: &str) -> Self {
        let options = json!({"client_id": client_id, "client_secret": client_secret, "method": method});
        Self::start("authorization server", include_str!("peers/authorization.mjs"), &options).await
    }

    /// An HTTPS server that asks for a certificate of this authority and answers with its common name. All PEM.
    pub async fn mutual_tls(certificate: &str, key: &str, authority: &str) -> Self {
        let options = json!({"cert": certificate, "key": key, "ca": authority});
        Self::start("mutual TLS server", include_str!("peers/mutual_tls.mjs"), &options).await
    }

    /// A proxy (`proxy-chain`) that makes tunnels for this user, and prints where to.
    pub async fn proxy(username: &str, password: &str) -> Self {
        let options = json!({"username": username, "password": password});
        Self::start("proxy", include_str!("peers/proxy.mjs"), &options).await
    }

    async fn start(name: &str, module: &str, options: &Value) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut node = command(&program("bin/node"));
        node.args(["--input-type=module", "--eval", module, "--", &options.to_string()]).current_dir(program("node"));
        let process = Process::spawn(name, node, &directory.path().join("log"));
        let port = eventually(&format!("the {name} listens"), START, async || {
            process.log().lines().find_map(|line| line.strip_prefix("port ")?.parse().ok())
        })
        .await;
        Self { process, port, _directory: directory }
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many lines of its output begin with this.
    pub fn count(&self, beginning: &str) -> usize {
        self.process.log().lines().filter(|line| line.starts_with(beginning)).count()
    }
}

/// The signature that AWS' own library (PyPI's `botocore`) makes of a request that arrived, over the headers that it says are signed.
pub fn aws_signature(request: &Received, key: &str, service: &str, region: &str) -> String {
    let headers: Vec<(&str, &str)> =
        request.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().expect("a header of text"))).collect();
    let body = std::str::from_utf8(&request.body).expect("a body of text");
    let url = format!("http://{}{}", request.header("host").expect("a host"), request.target);
    let input = json!({
        "method": request.method.as_str(), "url": url, "headers": headers, "body": body,
        "key": key, "service": service, "region": region,
    });
    let mut python = Command::new(program("python/bin/python"));
    python.args(["-c", include_str!("peers/aws_signature.py")]);
    run(python, &input.to_string())
}

/// A body as it was before it was compressed, by Node.js.
pub fn gunzip(body: &[u8]) -> String {
    run_node(include_str!("peers/gunzip.mjs"), &[], &STANDARD.encode(body))
}
