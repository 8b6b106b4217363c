//! Does what a conformance case's configuration says: see `../README.md`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};
use tidegate_plugin::{
    Algorithm, Arrival, Attempt, Event, Failure, Filter, Header, Host, Judge, Judgement, Level, Output, Request, Respond, Response,
    Retry, Sign, Transform, Verification, Verify,
};

struct Conformance;

tidegate_plugin::export!(
    filter: Conformance, transform: Conformance, verify: Conformance, respond: Conformance, sign: Conformance, judge: Conformance
);

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
    Kv(Ops),
    Accept,
    Reject {
        reason: String,
    },
    None,
    Answer {
        status: u16,
        #[serde(default)]
        headers: Vec<(String, Data)>,
        body: Data,
    },
    Sign {
        headers: Vec<(String, Data)>,
    },
    Judge {
        verdict: Verdict,
    },
    Fail {
        code: String,
        message: String,
        retry: String,
    },
}

#[derive(Deserialize)]
struct Ops {
    ops: Vec<Op>,
    #[serde(default = "once")]
    times: usize,
    #[serde(default)]
    catch: bool,
    #[serde(default)]
    log: Vec<(String, String)>,
}

#[derive(Deserialize)]
struct Op {
    op: String,
    key: String,
    /// None: the event's body.
    value: Option<Data>,
    ttl: Option<u32>,
    #[serde(default)]
    by: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Default,
    Delivered,
    Retry,
    RetryAfterMs(u64),
    DeadLetter(String),
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
    hmac_verify: Option<Vec<(String, String, Data, Data)>>,
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
            Config::Kv(ops) => Ok(operate(&ops, &event.request.body, host)?.last() == Some(&json!(true))),
            other => Err(refuse(other)),
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
            Config::Kv(ops) => answer(&Value::Array(operate(&ops, &request.body, host)?)),
            other => Err(refuse(other)),
        }
    }
}

impl Verify for Conformance {
    fn check(arrival: Arrival, host: &dyn Host) -> Result<Verification, Failure> {
        match host.config()? {
            Config::Describe => Ok(Verification::Reject(arrival_text(&arrival, host))),
            Config::Accept => Ok(Verification::Accept),
            Config::Reject { reason } => Ok(Verification::Reject(reason)),
            other => Err(refuse_without_table(other, host)),
        }
    }
}

impl Respond for Conformance {
    fn answer(arrival: Arrival, host: &dyn Host) -> Result<Option<Response>, Failure> {
        match host.config()? {
            Config::Describe => Ok(Some(Response::text(200, arrival_text(&arrival, host)))),
            Config::None => Ok(None),
            Config::Answer { status, headers, body } => {
                Ok(Some(Response { status, headers: lines(headers), body: bytes(&body), attributes: Vec::new() }))
            }
            other => Err(refuse_without_table(other, host)),
        }
    }
}

impl Sign for Conformance {
    fn headers(attempt: Attempt, host: &dyn Host) -> Result<Vec<Header>, Failure> {
        match host.config()? {
            Config::Describe => Ok(vec![Header { name: "x-described".into(), value: attempt_text(&attempt, host).into_bytes() }]),
            Config::Sign { headers } => Ok(lines(headers)),
            other => Err(refuse_without_table(other, host)),
        }
    }
}

impl Judge for Conformance {
    fn judge(attempt: Attempt, response: Response, host: &dyn Host) -> Result<Judgement, Failure> {
        match host.config()? {
            Config::Describe => {
                let Response { status, headers, body, attributes } = response;
                let response = format!("{status}|{}|{}|{}", headers_text(&headers), hex::encode(body), attributes.len());
                Ok(Judgement::DeadLetter(format!("{}|{response}", attempt_text(&attempt, host))))
            }
            Config::Judge { verdict } => Ok(match verdict {
                Verdict::Default => Judgement::Default,
                Verdict::Delivered => Judgement::Delivered,
                Verdict::Retry => Judgement::Retry(None),
                Verdict::RetryAfterMs(after) => Judgement::Retry(Some(after)),
                Verdict::DeadLetter(reason) => Judgement::DeadLetter(reason),
            }),
            other => Err(refuse_without_table(other, host)),
        }
    }
}

fn refuse(config: Config) -> Failure {
    match config {
        Config::Fail { code, message, retry } => failure(code, message, &retry),
        _ => unknown(),
    }
}

/// The table's refusal, for whoever has none.
fn refuse_without_table(config: Config, host: &dyn Host) -> Failure {
    match config {
        Config::Kv(ops) => operate(&ops, &[], host).err().unwrap_or_else(unknown),
        other => refuse(other),
    }
}

fn operate(ops: &Ops, body: &[u8], host: &dyn Host) -> Result<Vec<Value>, Failure> {
    write(&ops.log, host);
    let mut results = Vec::new();
    for _ in 0..ops.times {
        for op in &ops.ops {
            results.push(match one(op, body, host) {
                Err(failure) if ops.catch => json!({"failure": failure.code}),
                result => result?,
            });
        }
    }
    Ok(results)
}

fn one(op: &Op, body: &[u8], host: &dyn Host) -> Result<Value, Failure> {
    let Op { op, key, value, ttl, by } = op;
    let value = value.as_ref().map_or_else(|| body.to_vec(), bytes);
    Ok(match &op[..] {
        "get" => json!(host.kv_get(key)?.map(hex::encode)),
        "set" => {
            host.kv_set(key, &value, *ttl)?;
            json!("done")
        }
        "add" => json!(host.kv_add(key, &value, *ttl)?),
        "delete" => json!(host.kv_delete(key)?),
        "increment" => json!(host.kv_increment(key, *by, *ttl)?.to_string()),
        _ => return Err(unknown()),
    })
}

fn lines(headers: Vec<(String, Data)>) -> Vec<Header> {
    headers.into_iter().map(|(name, value)| Header { name, value: bytes(&value) }).collect()
}

fn arrival_text(arrival: &Arrival, host: &dyn Host) -> String {
    format!("{}|{}|{}|{}", host.now(), arrival.received_at, request_text(&arrival.request), arrival.attributes.len())
}

fn attempt_text(attempt: &Attempt, host: &dyn Host) -> String {
    let Attempt { delivery_id, event_id, number, started_at, origin, request, attributes } = attempt;
    let request = request_text(request);
    format!("{}|{delivery_id}|{event_id}|{number}|{started_at}|{origin}|{request}|{}", host.now(), attributes.len())
}

fn request_text(request: &Request) -> String {
    let Request { method, path, query, headers, body } = request;
    format!("{method}|{path}|{}|{}|{}", query.as_deref().unwrap_or("-"), headers_text(headers), hex::encode(body))
}

fn headers_text(headers: &[Header]) -> String {
    let lines: Vec<_> = headers.iter().map(|header| format!("{}={}", header.name, hex::encode(&header.value))).collect();
    lines.join(",")
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
    for (name, secret, message) in &asked.hmac {
        tags.push(host.hmac(algorithm(name)?, secret, &bytes(message)).map(hex::encode));
    }
    let mut verified = Vec::new();
    for (name, secret, message, tag) in asked.hmac_verify.iter().flatten() {
        verified.push(host.hmac_verify(algorithm(name)?, secret, &bytes(message), &bytes(tag)));
    }
    let random: Vec<_> = asked.random.iter().map(|length| hex::encode(host.random_bytes(*length))).collect();
    let numbers: Vec<_> = (0..asked.numbers).map(|_| host.random_number().to_string()).collect();
    let mut answer = json!({"now": host.now(), "secrets": secrets, "hmac": tags, "random": random, "numbers": numbers});
    if asked.hmac_verify.is_some() {
        answer["hmac_verify"] = json!(verified);
    }
    Ok(answer)
}

fn algorithm(name: &str) -> Result<Algorithm, Failure> {
    match name {
        "sha1" => Ok(Algorithm::Sha1),
        "sha256" => Ok(Algorithm::Sha256),
        "sha512" => Ok(Algorithm::Sha512),
        _ => Err(unknown()),
    }
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
