//! Moto's S3, from PyPI: no store for keeps, but it checks signatures as AWS does, by the AWS SDK's own code.

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Stored, USER};
use crate::http::{Reply, send};
use crate::process::{self, Process};
use crate::{START_DEADLINE, eventually, ports, tools};

/// Its only bucket.
pub const BUCKET: &str = "hooks";
const REGION: &str = "us-east-1";

/// A running server with one bucket and one user. Ended on drop.
#[derive(Debug)]
pub struct S3 {
    _directory: TempDir,
    port: u16,
    process: Process,
    key: (String, String),
}

impl S3 {
    /// Starts a server and makes bucket and user.
    pub async fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("tidegate-s3-").tempdir().expect("a temporary directory");
        let port = ports::free();
        let mut command = process::command(&tools::program("moto/bin/moto_server"));
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).env("INITIAL_NO_AUTH_ACTION_COUNT", "1000");
        let process = Process::spawn("moto", command, &directory.path().join("server.log"));
        let mut server = Self { _directory: directory, port, process, key: Default::default() };
        server.ready().await;
        server.unsigned("s3", "PUT", &format!("/{BUCKET}"), "").await;
        let policy = json!({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]});
        let policy: String = policy.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect();
        let action = async |action: String| {
            let reply = server.unsigned("iam", "POST", "/", &format!("Action={action}&UserName={USER}&Version=2010-05-08")).await;
            String::from_utf8(reply.body.to_vec()).expect("text")
        };
        action("CreateUser".to_owned()).await;
        action(format!("PutUserPolicy&PolicyName=all&PolicyDocument={policy}")).await;
        let made = action("CreateAccessKey".to_owned()).await;
        let field = |name: &str| {
            let (_, rest) = made.split_once(&format!("<{name}>")).unwrap_or_else(|| panic!("{made} has no {name}"));
            rest.split('<').next().unwrap_or_default().to_owned()
        };
        server.key = (field("AccessKeyId"), field("SecretAccessKey"));
        server.allow_unsigned(0).await;
        server
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The user's access key, as a destination's `auth` has it.
    pub fn auth(&self) -> Value {
        let (id, key) = &self.key;
        json!({"type": "aws_sigv4", "access_key_id": id, "secret_access_key": key, "region": REGION, "service": "s3"})
    }

    /// All objects of the bucket by their keys, in order.
    pub async fn objects(&self) -> Vec<(String, Stored)> {
        self.allow_unsigned(1000).await;
        let listing = self.unsigned("s3", "GET", &format!("/{BUCKET}?list-type=2"), "").await;
        let listing = String::from_utf8(listing.body.to_vec()).expect("text");
        let keys = listing.split("<Key>").skip(1).map(|rest| rest.split('<').next().unwrap_or_default().to_owned());
        let mut objects = Vec::new();
        for key in keys {
            let got = self.unsigned("s3", "GET", &format!("/{BUCKET}/{}", key.replace(' ', "%20")), "").await;
            let headers = got.headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().to_owned()));
            let stored = Stored { headers: headers.collect(), body: got.body.to_vec() };
            objects.push((key, stored));
        }
        self.allow_unsigned(0).await;
        objects
    }

    /// How many requests more are answered without a look at their signature.
    async fn allow_unsigned(&self, count: u32) {
        let reply = send("POST", &format!("{}/moto-api/reset-auth", self.url()), &[], count.to_string()).await;
        assert_eq!(reply.status, 200, "{:?}", reply.body);
    }

    /// A request whose signature says no more than which service it is for.
    async fn unsigned(&self, service: &str, method: &str, path: &str, body: &str) -> Reply {
        let scope = format!("20260101/{REGION}/{service}/aws4_request");
        let signature = format!("AWS4-HMAC-SHA256 Credential=x/{scope}, SignedHeaders=host, Signature=x");
        let headers = [("authorization", signature.as_str()), ("content-type", "application/x-www-form-urlencoded")];
        let reply = send(method, &format!("{}{path}", self.url()), &headers, body.to_owned()).await;
        assert_eq!(reply.status, 200, "{method} {path}: {:?}", reply.body);
        reply
    }

    async fn ready(&mut self) {
        eventually("moto answers", START_DEADLINE, async || {
            assert!(self.process.exited().is_none(), "moto does not start:\n{}", self.process.last_words());
            tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.ok().map(drop)
        })
        .await;
    }
}
