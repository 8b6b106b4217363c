//! A service with a scheme of its own, all that a plugin can do about it in one place:
//!
//! - it signs what it sends, and what it receives is to be signed: `x-acme-signature: t=TIME,v1=HASH`, where `HASH` is the HMAC-SHA-256 of
//!   `TIME.BODY` in hex, and `TIME` is in seconds;
//! - before it sends anything it asks for the `challenge` that it posts;
//! - it numbers its orders and may send one twice;
//! - it answers 200 whatever happened, and says in the body what did.

use serde_json::Value;
use tidegate_plugin::{
    Algorithm, Arrival, Attempt, Event, Failure, Filter, Header, Host, Judge, Judgement, Respond, Response, Sign, Verification,
    Verify,
};

const SIGNATURE: &str = "x-acme-signature";
/// The secret's name in the source's, or the destination's, configuration.
const SECRET: &str = "acme";
/// How far a signature's time may be from now, in seconds.
const TOLERANCE: u64 = 300;
/// How long an order is remembered, in seconds.
const REMEMBERED: u32 = 24 * 60 * 60;

struct Acme;

fn signed(time: &str, body: &[u8]) -> Vec<u8> {
    [time.as_bytes(), b".", body].concat()
}

impl Verify for Acme {
    fn check(arrival: Arrival, host: &dyn Host) -> Result<Verification, Failure> {
        let reject = |reason: &str| Ok(Verification::Reject(reason.into()));
        let Some(signature) = arrival.request.header_str(SIGNATURE) else { return reject("there is no signature") };
        let part = |name: &str| signature.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
        let (Some(time), Some(hash)) = (part("t"), part("v1")) else { return reject("the signature has no t or no v1") };
        let Ok(seconds) = time.parse::<u64>() else { return reject("the signature's time is no number") };
        if seconds.abs_diff(arrival.received_at / 1000) > TOLERANCE {
            return reject("the signature is too old, or from the future");
        }
        let hash = hex::decode(hash).unwrap_or_default();
        match host.hmac_verify(Algorithm::Sha256, SECRET, &signed(time, &arrival.request.body), &hash) {
            Some(true) => Ok(Verification::Accept),
            Some(false) => reject("the signature is not this body's"),
            None => Err(Failure::never("no-secret", format!("the source has no secret `{SECRET}`"))),
        }
    }
}

impl Respond for Acme {
    fn answer(arrival: Arrival, _: &dyn Host) -> Result<Option<Response>, Failure> {
        if arrival.request.path != "/handshake" {
            return Ok(None);
        }
        let body: Value = arrival.request.json()?;
        Ok(body["challenge"].as_str().map(|challenge| Response::text(200, challenge)))
    }
}

impl Filter for Acme {
    /// Drops an order that was seen before.
    fn keep(event: Event, host: &dyn Host) -> Result<bool, Failure> {
        let body: Value = event.request.json()?;
        let Some(order) = body["order"].as_u64() else { return Ok(true) };
        let first = host.kv_add(&format!("order/{order}"), event.id.as_bytes(), Some(REMEMBERED))?;
        let seen = host.kv_increment("orders", i64::from(first), None)?;
        host.log_info(&format!("{seen} orders so far"));
        Ok(first)
    }
}

impl Sign for Acme {
    fn headers(attempt: Attempt, host: &dyn Host) -> Result<Vec<Header>, Failure> {
        let time = (attempt.started_at / 1000).to_string();
        let hash = host.hmac(Algorithm::Sha256, SECRET, &signed(&time, &attempt.request.body));
        let hash = hash.ok_or_else(|| Failure::never("no-secret", format!("the destination has no secret `{SECRET}`")))?;
        let value = format!("t={time},v1={}", hex::encode(hash));
        Ok(vec![Header { name: SIGNATURE.into(), value: value.into_bytes() }])
    }
}

impl Judge for Acme {
    fn judge(_: Attempt, response: Response, _: &dyn Host) -> Result<Judgement, Failure> {
        if response.status != 200 {
            return Ok(Judgement::Default);
        }
        let body: Value = serde_json::from_slice(&response.body).unwrap_or_default();
        Ok(match body["result"].as_str() {
            Some("busy") => Judgement::Retry(body["wait_ms"].as_u64()),
            Some("refused") => Judgement::DeadLetter(body["why"].as_str().unwrap_or("no reason given").into()),
            _ => Judgement::Delivered,
        })
    }
}

tidegate_plugin::export!(filter: Acme, verify: Acme, respond: Acme, sign: Acme, judge: Acme);

#[cfg(test)]
mod tests {
    use tidegate_plugin::testing::{FakeHost, arrival, attempt, event};

    use super::*;

    /// Not a hash, but it depends on the key and the message.
    fn host() -> FakeHost {
        FakeHost::new().with_secret(SECRET, "key").with_signer(|_, key, message| [key, message].concat())
    }

    fn arrived(signature: &str) -> Arrival {
        let mut arrival = arrival("{}");
        arrival.request.headers.push(Header { name: SIGNATURE.into(), value: signature.into() });
        arrival
    }

    #[test]
    fn verifies_what_it_signed_itself() {
        let headers = Acme::headers(attempt("{}"), &host()).unwrap();
        let signature = std::str::from_utf8(&headers[0].value).unwrap();
        assert!(matches!(Acme::check(arrived(signature), &host()), Ok(Verification::Accept)));
        for wrong in
            ["", "t=1700000000", "t=x,v1=00", "t=1700000000,v1=00", "t=1600000000,v1=00", &signature.replace("t=17", "t=16")]
        {
            assert!(matches!(Acme::check(arrived(wrong), &host()), Ok(Verification::Reject(_))), "{wrong}");
        }
        assert_eq!(Acme::check(arrived(signature), &FakeHost::new()).unwrap_err().code, "no-secret");
    }

    #[test]
    fn answers_the_handshake_and_nothing_else() {
        let mut handshake = arrival(r#"{"challenge": "abc"}"#);
        assert!(Acme::answer(handshake.clone(), &host()).unwrap().is_none());
        handshake.request.path = "/handshake".into();
        let answer = Acme::answer(handshake, &host()).unwrap().unwrap();
        assert_eq!((answer.status, &answer.body[..]), (200, &b"abc"[..]));
    }

    #[test]
    fn drops_an_order_that_was_seen_before() {
        let host = host();
        let kept: Vec<bool> =
            [7, 8, 7].iter().map(|order| Acme::keep(event(format!(r#"{{"order": {order}}}"#)), &host).unwrap()).collect();
        assert_eq!(kept, [true, true, false]);
        assert_eq!(host.table()["orders"], b"2");
    }

    #[test]
    fn reads_what_happened_out_of_the_body() {
        let judge = |body: &str| Acme::judge(attempt("{}"), Response::text(200, body), &host()).unwrap();
        assert!(matches!(judge(r#"{"result": "busy", "wait_ms": 50}"#), Judgement::Retry(Some(50))));
        assert!(
            matches!(judge(r#"{"result": "refused", "why": "no such order"}"#), Judgement::DeadLetter(why) if why == "no such order")
        );
        assert!(matches!(judge("ok"), Judgement::Delivered));
        let error = Acme::judge(attempt("{}"), Response::text(500, ""), &host()).unwrap();
        assert!(matches!(error, Judgement::Default));
    }
}
