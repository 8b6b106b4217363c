//! librdkafka's cluster for tests (<https://github.com/confluentinc/librdkafka/blob/master/src/rdkafka_mock.h>) and its consumer, by way of
//! PyPI's `confluent-kafka`. It is no Kafka, but it is what the authors of the most used client test that with: it speaks the protocol and
//! keeps records in memory. It knows neither users nor TLS: [`Kafka::guarded`] puts doors in front of it, of which one asks for a user by SCRAM, as
//! PyPI's `scramp` has it, and on demand for TLS, as OpenSSL has it.

use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{PASSWORD, Stored, USER};
use crate::process::{self, Process, Signal};
use crate::{START_DEADLINE, eventually, tools};

/// The topic that is there.
pub const TOPIC: &str = "hooks";

/// Two servers, of which each leads some of the topic's partitions.
const CLUSTER: &str = "
import sys, time
from confluent_kafka import Producer
cluster = Producer({'test.mock.num.brokers': 2})
brokers = cluster.list_topics(sys.argv[1], timeout=20).brokers
first = brokers[min(brokers)]
print(f'listening {first.host}:{first.port}', flush=True)
while True:
    time.sleep(3600)
";

/// All records of the topic, as JSON.
const READ: &str = "
import base64, json, sys
from confluent_kafka import Consumer, TopicPartition
topic = sys.argv[2]
consumer = Consumer({'bootstrap.servers': sys.argv[1], 'group.id': 'tests', 'auto.offset.reset': 'earliest'})
partitions = [TopicPartition(topic, number, 0) for number in consumer.list_topics(topic, timeout=20).topics[topic].partitions]
expected = sum(consumer.get_watermark_offsets(partition, timeout=20)[1] for partition in partitions)
consumer.assign(partitions)
text = lambda value: base64.b64encode(value or b'').decode()
records = []
while len(records) < expected:
    record = consumer.poll(20)
    if record is None or record.error():
        sys.exit(f'{len(records)} of {expected}: {record and record.error()}')
    headers = [(name, text(value)) for name, value in record.headers() or []]
    records.append({'key': text(record.key()), 'body': text(record.value()), 'headers': headers, 'at': record.timestamp()[1]})
print(json.dumps(records))
";

/// A running cluster. Ended, with its data, on drop.
#[derive(Debug)]
pub struct Kafka {
    _directory: TempDir,
    process: Process,
    address: String,
    /// Where its records are read, without a user.
    behind: String,
}

/// A server's certificate and its key, in PEM.
#[derive(Clone, Copy, Debug)]
pub struct Certificate<'a> {
    /// The certificate's file.
    pub certificate: &'a Path,
    /// The key's file.
    pub key: &'a Path,
}

impl Kafka {
    /// Starts a cluster with [`TOPIC`].
    pub async fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("tidegate-kafka-").tempdir().expect("a temporary directory");
        let process = spawn(directory.path(), CLUSTER, TOPIC);
        let mut kafka = Self { _directory: directory, process, address: String::new(), behind: String::new() };
        kafka.address = kafka.told("listening ").await;
        kafka.behind.clone_from(&kafka.address);
        kafka
    }

    /// Starts a cluster with [`TOPIC`] whose servers know [`USER`] alone, by SCRAM with SHA-256 or SHA-512; with a certificate they speak TLS,
    /// and take the password as it is (`PLAIN`) too.
    pub async fn guarded(tls: Option<Certificate<'_>>) -> Self {
        let directory = tempfile::Builder::new().prefix("tidegate-kafka-").tempdir().expect("a temporary directory");
        let tls = tls.map(|tls| json!({"certificate": tls.certificate, "key": tls.key}));
        let settings = json!({"user": USER, "password": PASSWORD, "topic": TOPIC, "tls": tls}).to_string();
        let process = spawn(directory.path(), include_str!("kafka/door.py"), &settings);
        let mut kafka = Self { _directory: directory, process, address: String::new(), behind: String::new() };
        kafka.address = kafka.told("listening ").await;
        kafka.behind = kafka.told("behind ").await;
        kafka
    }

    /// How many users came in by this mechanism, where it is guarded.
    pub fn logins(&self, mechanism: &str) -> usize {
        self.process.log().lines().filter(|line| line.strip_prefix("login ") == Some(mechanism)).count()
    }

    /// What a line of its output says that begins with this.
    async fn told(&mut self, beginning: &str) -> String {
        eventually("the cluster listens", START_DEADLINE, async || {
            assert!(self.process.exited().is_none(), "the cluster does not start:\n{}", self.process.last_words());
            self.process.log().lines().find_map(|line| line.strip_prefix(beginning).map(str::to_owned))
        })
        .await
    }

    /// `127.0.0.1:PORT` of its first server.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Freezes it (SIGSTOP).
    pub fn pause(&self) {
        self.process.signal(Signal::Stop);
    }

    /// Thaws it (SIGCONT).
    pub fn resume(&self) {
        self.process.signal(Signal::Continue);
    }

    /// All records of the topic. The key stands among the headers as `key`, the time as `at`.
    pub fn messages(&self) -> Vec<Stored> {
        let mut command = Command::new(python());
        command.args(["-c", READ, &self.behind, TOPIC]);
        let records: Vec<Value> = serde_json::from_str(&tools::run(command, "")).expect("JSON");
        let bytes = |value: &Value| STANDARD.decode(value.as_str().unwrap_or_default()).expect("base64");
        let text = |value: &Value| String::from_utf8(bytes(value)).expect("text");
        let stored = |record: &Value| {
            let lines = record["headers"].as_array().into_iter().flatten();
            let lines = lines.map(|line| (line[0].as_str().unwrap_or_default().to_owned(), text(&line[1])));
            let own = [("key".to_owned(), text(&record["key"])), ("at".to_owned(), record["at"].to_string())];
            Stored { headers: own.into_iter().chain(lines).collect(), body: bytes(&record["body"]) }
        };
        records.iter().map(stored).collect()
    }
}

fn python() -> std::path::PathBuf {
    tools::program("kafka/bin/python")
}

fn spawn(directory: &Path, program: &str, argument: &str) -> Process {
    let mut command = process::command(&python());
    command.args(["-c", program, argument]).current_dir(directory);
    Process::spawn("kafka", command, &directory.join("server.log"))
}
