//! Does what a conformance case's configuration says: see `../README.md`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};
use tidegate_plugin::{Algorithm, Event, Failure, Filter, Host, Level, Output, Retry, Transform};

struct Conformance;

tidegate_plugin::export!(filter: Conformance, transform: Conformance);

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
enum Config {
    Describe,
    Headers {
        name: String,
    },
    Reverse,
    ReadJson,
    Outputs {
        outputs: Vec<Sent>,
        #[serde(default = "once")]
        times: usize,
    },
    Host(Asked),
    Keep {
        body: Data,
        #[serde(default)]
        log: Vec<(String, String)>,
    },
    Fail {
        code: String,
        message: String,
        retry: String,
    },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Data {
    Text(String),
    Hex { hex: String },
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Sent {
    method: Option<String>,
    path: Option<String>,
    query: Option<String>,
    remove_query: bool,
    headers: Vec<Vec<Data>>,
    body: Option<Data>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Asked {
    log: Vec<(String, String)>,
    secrets: Vec<String>,
    hmac: Vec<(String, String, Data)>,
    random: Vec<u32>,
    numbers: usize,
}

fn once() -> usize {
    1
}

impl Filter for Conformance {
    fn keep(event: Event, host: &dyn Host) -> Result<bool, Failure> {
        match host.config()? {
            Config::Keep { body, log } => {
                write(&log, host);
                Ok(event.request.body == bytes(&body))
            }
            Config::Fail { code, message, retry } => Err(failure(code, message, &retry)),
            _ => Err(unknown()),
        }
    }
}

impl Transform for Conformance {
    fn run(event: Event, host: &dyn Host) -> Result<Vec<Output>, Failure> {
        let request = &event.request;
        match host.config()? {
            Config::Describe => answer(&describe(&event)),
            Config::Headers { name } => {
                let all: Vec<_> = request.headers(&name).map(hex::encode).collect();
                answer(&json!({"first": request.header_str(&name), "all": all}))
            }
            Config::Reverse => {
                let reversed: Vec<u8> = request.body.iter().rev().copied().collect();
                Ok(vec![Output::new().body(reversed)])
            }
            Config::ReadJson => answer(&request.json::<Value>()?),
            Config::Outputs { outputs, times } => Ok((0..times).flat_map(|_| outputs.iter().map(output)).collect()),
            Config::Host(asked) => answer(&ask(&asked, host)?),
            Config::Fail { code, message, retry } => Err(failure(code, message, &retry)),
            Config::Keep { .. } => Err(unknown()),
        }
    }
}

fn unknown() -> Failure {
    Failure::never("unknown-case", "nothing to do")
}

fn failure(code: String, message: String, retry: &str) -> Failure {
    Failure { code, message, retry: if retry == "later" { Retry::Later } else { Retry::Never } }
}

fn answer(value: &Value) -> Result<Vec<Output>, Failure> {
    Ok(vec![Output::new().method("POST").path("/in").remove_query().clear_headers().json(value)?])
}

fn describe(event: &Event) -> Value {
    let request = &event.request;
    let headers: Vec<_> = request.headers.iter().map(|header| (&header.name, hex::encode(&header.value))).collect();
    json!({
        "id": event.id, "accepted_at": event.accepted_at, "method": request.method, "path": request.path, "query": request.query,
        "headers": headers, "body": hex::encode(&request.body), "attributes": event.attributes.len()
    })
}

fn output(sent: &Sent) -> Output {
    let mut output = Output::new();
    if let Some(method) = &sent.method {
        output = output.method(method);
    }
    if let Some(path) = &sent.path {
        output = output.path(path);
    }
    if let Some(query) = &sent.query {
        output = output.query(query);
    }
    if sent.remove_query {
        output = output.remove_query();
    }
    for change in &sent.headers {
        let text = |place: usize| String::from_utf8_lossy(&bytes(&change[place])).into_owned();
        output = match &text(0)[..] {
            "clear" => output.clear_headers(),
            "remove" => output.remove_header(text(1)),
            "set" => output.header(text(1), bytes(&change[2])),
            _ => output.append_header(text(1), bytes(&change[2])),
        };
    }
    match &sent.body {
        Some(body) => output.body(bytes(body)),
        None => output,
    }
}

fn ask(asked: &Asked, host: &dyn Host) -> Result<Value, Failure> {
    write(&asked.log, host);
    let secrets: BTreeMap<_, _> = asked.secrets.iter().map(|name| (name, host.secret(name).map(hex::encode))).collect();
    let mut tags = Vec::new();
    for (algorithm, name, message) in &asked.hmac {
        let algorithm = match &algorithm[..] {
            "sha1" => Algorithm::Sha1,
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ => return Err(unknown()),
        };
        tags.push(host.hmac(algorithm, name, &bytes(message)).map(hex::encode));
    }
    let random: Vec<_> = asked.random.iter().map(|length| hex::encode(host.random_bytes(*length))).collect();
    let numbers: Vec<_> = (0..asked.numbers).map(|_| host.random_number().to_string()).collect();
    Ok(json!({"now": host.now(), "secrets": secrets, "hmac": tags, "random": random, "numbers": numbers}))
}

fn write(log: &[(String, String)], host: &dyn Host) {
    for (level, message) in log {
        let level = match &level[..] {
            "debug" => Level::Debug,
            "info" => Level::Info,
            "warn" => Level::Warn,
            _ => Level::Error,
        };
        host.log(level, message);
    }
}

fn bytes(data: &Data) -> Vec<u8> {
    match data {
        Data::Text(text) => text.clone().into_bytes(),
        Data::Hex { hex } => hex::decode(hex).unwrap_or_default(),
    }
}
