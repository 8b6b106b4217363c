use bytes::Bytes;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::event::{EventId, Header, Revision, SourceId, TenantId};

const NOW: Timestamp = Timestamp(1_649_367_553_000);

fn event(headers: &[(&str, &str)], query: Option<&str>, body: &str) -> Event {
    let header =
        |(name, value): &(&str, &str)| Header { name: (*name).to_owned(), value: Bytes::copy_from_slice(value.as_bytes()) };
    Event {
        id: EventId(1),
        tenant: TenantId(1),
        source: SourceId(1),
        revision: Revision(1),
        accepted_at: NOW,
        request: Request {
            method: "POST".to_owned(),
            path: String::new(),
            query: query.map(str::to_owned),
            headers: headers.iter().map(header).collect(),
            body: Bytes::copy_from_slice(body.as_bytes()),
        },
        pins: vec![],
        trace: None,
    }
}

fn verifier(config: serde_json::Value) -> Verifier {
    Verifier::new(&serde_json::from_value(config).unwrap()).unwrap()
}

fn refusal(verifier: &Verifier, event: Event) -> VerifyError {
    verifier.verify(event, NOW).unwrap_err()
}

fn config_error(config: serde_json::Value) -> String {
    Verifier::new(&serde_json::from_value(config).unwrap()).unwrap_err().to_string()
}

mod github {
    use super::*;

    // The example of GitHub's documentation on validating deliveries.
    const SECRET: &str = "It's a Secret to Everybody";
    const BODY: &str = "Hello, World!";
    const SIGNATURE: &str = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

    fn github(secrets: &[&str]) -> Verifier {
        verifier(json!({"type": "preset", "name": "github", "secrets": secrets}))
    }

    #[test]
    fn the_documented_example_passes_with_either_secret() {
        let event = || event(&[("x-hub-signature-256", SIGNATURE)], None, BODY);
        assert!(github(&[SECRET]).verify(event(), NOW).is_ok());
        assert!(github(&["new", SECRET]).verify(event(), NOW).is_ok());
        assert_eq!(refusal(&github(&["new"]), event()), VerifyError::WrongSignature);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let github = github(&[SECRET]);
        let signed = |signature| event(&[("x-hub-signature-256", signature)], None, BODY);
        let name = || "x-hub-signature-256".to_owned();
        assert_eq!(refusal(&github, event(&[], None, BODY)), VerifyError::MissingHeader(name()));
        assert_eq!(refusal(&github, signed("")), VerifyError::UnknownSignatureForm(name()));
        assert_eq!(refusal(&github, signed("sha1=757107ea0eb2509fc211221cce984b8a")), VerifyError::UnknownSignatureForm(name()));
        assert_eq!(refusal(&github, signed("sha256=zz")), VerifyError::UnknownSignatureForm(name()));
        // A part of the right signature is not the signature.
        assert_eq!(refusal(&github, signed("sha256=757107ea")), VerifyError::WrongSignature);
        assert_eq!(refusal(&github, signed("sha256=")), VerifyError::WrongSignature);
        let long = format!("sha256={}", "00".repeat(65));
        assert_eq!(refusal(&github, signed(&long)), VerifyError::UnknownSignatureForm(name()));
        let twice = event(&[("x-hub-signature-256", "sha256=00"), ("x-hub-signature-256", SIGNATURE)], None, BODY);
        assert_eq!(refusal(&github, twice), VerifyError::RepeatedHeader(name()));
        assert_eq!(
            refusal(&github, event(&[("x-hub-signature-256", SIGNATURE)], None, "Hello, World")),
            VerifyError::WrongSignature
        );
    }

    proptest! {
        #[test]
        fn a_changed_bit_anywhere_is_refused(byte in 0usize..13, bit in 0u8..8) {
            let mut body = BODY.as_bytes().to_vec();
            body[byte] ^= 1 << bit;
            let mut changed = event(&[("x-hub-signature-256", SIGNATURE)], None, "");
            changed.request.body = Bytes::from(body);
            prop_assert_eq!(refusal(&github(&[SECRET]), changed), VerifyError::WrongSignature);
        }
    }
}

mod standard_webhooks {
    use super::*;

    const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    const BODY: &str = r#"{"email":"test@example.com","username":"test_user"}"#;
    const SIGNATURE: &str = "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=";

    fn standard() -> Verifier {
        verifier(json!({"type": "preset", "name": "standard_webhooks", "secrets": [SECRET]}))
    }

    fn signed(signature: &str, time: &str) -> Event {
        let headers =
            [("webhook-id", "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk"), ("webhook-timestamp", time), ("webhook-signature", signature)];
        event(&headers, None, BODY)
    }

    #[test]
    fn the_official_vector_passes_alone_and_among_others() {
        assert!(standard().verify(signed(SIGNATURE, "1649367553"), NOW).is_ok());
        let many = format!("v1a,bm90IG91cnM= v1,AAAA {SIGNATURE} v2,x");
        assert!(standard().verify(signed(&many, "1649367553"), NOW).is_ok());
        let bare = verifier(json!({"type": "preset", "name": "standard_webhooks", "secrets": [&SECRET[6..]]}));
        assert!(bare.verify(signed(SIGNATURE, "1649367553"), NOW).is_ok());
    }

    #[test]
    fn what_the_official_library_signs_passes() {
        let key = standardwebhooks::Webhook::new(SECRET).unwrap();
        let time = (NOW.as_secs() - 100).cast_signed();
        let signature = key.sign("msg_1", time, b"body").unwrap();
        let time = time.to_string();
        let event =
            event(&[("webhook-id", "msg_1"), ("webhook-timestamp", &time), ("webhook-signature", &signature)], None, "body");
        assert!(standard().verify(event, NOW).is_ok());
    }

    #[test]
    fn time_is_kept_to() {
        let at = |ms: u64| standard().verify(signed(SIGNATURE, "1649367553"), Timestamp(ms)).map(drop);
        assert_eq!(at(NOW.0 + 300_000), Ok(()));
        assert_eq!(at(NOW.0 + 300_001), Err(VerifyError::TimestampTooOld));
        assert_eq!(at(NOW.0 - 300_000), Ok(()));
        assert_eq!(at(NOW.0 - 300_001), Err(VerifyError::TimestampTooNew));
        let strict = verifier(json!({"type": "preset", "name": "standard_webhooks", "secrets": [SECRET], "tolerance_s": 10}));
        assert_eq!(
            strict.verify(signed(SIGNATURE, "1649367553"), Timestamp(NOW.0 + 11_000)).unwrap_err(),
            VerifyError::TimestampTooOld
        );
        for malformed in ["", "x", "-1", "+1649367553", "1649367553.0", "99999999999999999999999"] {
            assert_eq!(refusal(&standard(), signed(SIGNATURE, malformed)), VerifyError::MalformedTimestamp, "{malformed}");
        }
        // A fresh time does not revive an old signature.
        assert_eq!(refusal(&standard(), signed(SIGNATURE, "1649367554")), VerifyError::WrongSignature);
    }

    #[test]
    fn the_form_and_number_of_signatures_is_kept_to() {
        let name = || "webhook-signature".to_owned();
        assert_eq!(refusal(&standard(), signed("v2,AAAA v1a,AAAA", "1649367553")), VerifyError::UnknownSignatureForm(name()));
        let flood = format!("{}{SIGNATURE}", "v1,AAAA ".repeat(MAX_SIGNATURES));
        assert_eq!(refusal(&standard(), signed(&flood, "1649367553")), VerifyError::TooManySignatures(name()));
        let mut two_ids = signed(SIGNATURE, "1649367553");
        two_ids.request.headers.push(Header { name: "webhook-id".to_owned(), value: Bytes::from_static(b"other") });
        assert_eq!(refusal(&standard(), two_ids), VerifyError::RepeatedHeader("webhook-id".to_owned()));
    }
}

mod schemes {
    use ring::hmac;

    use super::*;

    fn hex_hmac(algorithm: hmac::Algorithm, key: &[u8], content: &str) -> String {
        hex::encode(hmac::sign(&hmac::Key::new(algorithm, key), content.as_bytes()))
    }

    /// Shapes of the providers' table: time and signatures in one header, milliseconds, templates, other hashes and keys.
    #[test]
    fn other_shapes_are_data_too() {
        let in_one = verifier(json!({"type": "hmac", "secrets": ["s"], "scheme": {
            "header": "Stripe-Signature", "split": ",", "prefix": "v1=", "content": "{timestamp}.{body}", "encoding": "hex",
            "timestamp": {"header": "stripe-signature", "prefix": "t=", "tolerance_s": 300}}}));
        let signature = hex_hmac(hmac::HMAC_SHA256, b"s", "1649367553.body");
        let line = format!("t=1649367553, v1={}, v1={signature}, v0=00", "00".repeat(32));
        assert!(in_one.verify(event(&[("stripe-signature", &line)], None, "body"), NOW).is_ok());
        assert_eq!(refusal(&in_one, event(&[("stripe-signature", &line[14..])], None, "body")), VerifyError::MalformedTimestamp);

        let versioned = verifier(json!({"type": "hmac", "secrets": ["s"], "scheme": {
            "header": "x-slack-signature", "prefix": "v0=", "content": "v0:{timestamp}:{body}", "encoding": "hex",
            "timestamp": {"header": "x-slack-request-timestamp", "tolerance_s": 300}}}));
        let signature = format!("v0={}", hex_hmac(hmac::HMAC_SHA256, b"s", "v0:1649367553:body"));
        let headers = [("x-slack-signature", &*signature), ("x-slack-request-timestamp", "1649367553")];
        assert!(versioned.verify(event(&headers, None, "body"), NOW).is_ok());

        let millis = verifier(json!({"type": "hmac", "secrets": ["0aff"], "scheme": {
            "header": "x-signature", "content": "{method}{header:x-id}{timestamp}{body}", "encoding": "hex", "algorithm": "sha512", "key": "hex",
            "timestamp": {"header": "x-time", "unit": "milliseconds", "tolerance_s": 1}}}));
        let signature = hex_hmac(hmac::HMAC_SHA512, &[0x0a, 0xff], "POST71649367553999body");
        let headers = [("x-signature", &*signature), ("x-time", "1649367553999"), ("x-id", "7")];
        assert!(millis.verify(event(&headers, None, "body"), NOW).is_ok());

        let old = verifier(json!({"type": "hmac", "secrets": ["s"], "scheme": {
            "header": "x-vercel-signature", "content": "{body}", "encoding": "hex", "algorithm": "sha1"}}));
        let signature = hex_hmac(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, b"s", "body");
        assert!(old.verify(event(&[("x-vercel-signature", &signature)], None, "body"), NOW).is_ok());
    }

    #[test]
    fn a_scheme_that_protects_nothing_is_refused() {
        let scheme = |content: &str, timestamp: serde_json::Value| {
            config_error(json!({"type": "hmac", "secrets": ["s"], "scheme": {
                "header": "x", "content": content, "encoding": "hex", "timestamp": timestamp}}))
        };
        let rule = json!({"header": "t", "tolerance_s": 300});
        assert!(scheme("{timestamp}", rule.clone()).contains("{body}"));
        assert!(scheme("{body}{body}", json!(null)).contains("{body}"));
        assert!(scheme("{body}", rule).contains("{timestamp}"));
        assert!(scheme("{timestamp}{body}", json!(null)).contains("{timestamp}"));
        assert!(scheme("{body", json!(null)).contains('}'));
        assert!(scheme("{url}{body}", json!(null)).contains("{header:NAME}"));
        assert!(scheme("{timestamp}{body}", json!({"header": "t", "tolerance_s": 0})).contains("tolerance_s"));
    }

    #[test]
    fn every_preset_makes_a_verifier() {
        assert_eq!(preset_names().collect::<Vec<_>>(), ["github", "standard_webhooks"]);
        for name in preset_names() {
            verifier(json!({"type": "preset", "name": name, "secrets": ["c2VjcmV0"]}));
        }
    }
}

mod credentials {
    use super::*;

    #[test]
    fn a_key_in_a_header_is_checked_and_consumed() {
        let verifier = verifier(json!({"type": "api_key", "header": "X-API-Key", "keys": ["old", "new"]}));
        let verified = verifier.verify(event(&[("x-api-key", "new"), ("x-other", "1")], None, ""), NOW).unwrap();
        assert_eq!(verified.event().request.header("x-api-key"), None);
        assert_eq!(verified.event().request.header("x-other"), Some(&b"1"[..]));
        for wrong in ["", "ne", "newer", "NEW"] {
            assert_eq!(refusal(&verifier, event(&[("x-api-key", wrong)], None, "")), VerifyError::WrongKey);
        }
        assert_eq!(refusal(&verifier, event(&[], None, "")), VerifyError::MissingHeader("x-api-key".to_owned()));
        let twice = event(&[("x-api-key", "new"), ("x-api-key", "new")], None, "");
        assert_eq!(refusal(&verifier, twice), VerifyError::RepeatedHeader("x-api-key".to_owned()));
    }

    #[test]
    fn a_bearer_key() {
        let verifier = verifier(json!({"type": "api_key", "header": "authorization", "prefix": "Bearer ", "keys": ["k"]}));
        let verified = verifier.verify(event(&[("authorization", "Bearer k")], None, ""), NOW).unwrap();
        assert_eq!(verified.event().request.headers, []);
        assert_eq!(refusal(&verifier, event(&[("authorization", "k")], None, "")), VerifyError::WrongKey);
    }

    #[test]
    fn a_key_in_the_query_is_checked_and_consumed_and_the_rest_stays_as_it_was() {
        let verifier = verifier(json!({"type": "api_key", "query": "api key", "keys": ["a b&c"]}));
        let left = |query| verifier.verify(event(&[], Some(query), ""), NOW).map(|verified| verified.into_event().request.query);
        assert_eq!(left("x=%41&api+key=a+b%26c&y&&z=1+2"), Ok(Some("x=%41&y&&z=1+2".to_owned())));
        assert_eq!(left("api%20key=a%20b%26c"), Ok(None));
        assert_eq!(left("api+key=wrong").unwrap_err(), VerifyError::WrongKey);
        assert_eq!(left("api+key").unwrap_err(), VerifyError::WrongKey);
        assert_eq!(left("other=1").unwrap_err(), VerifyError::MissingParameter("api key".to_owned()));
        assert_eq!(left("api+key=a+b%26c&api%20key=x").unwrap_err(), VerifyError::RepeatedParameter("api key".to_owned()));
        assert_eq!(refusal(&verifier, event(&[], None, "")), VerifyError::MissingParameter("api key".to_owned()));
    }

    #[test]
    fn basic_authentication_is_checked_and_consumed() {
        let users = json!([{"username": "ada", "password": "old"}, {"username": "ada", "password": "n:w"}]);
        let verifier = verifier(json!({"type": "basic", "users": users}));
        // ada:n:w
        let verified = verifier.verify(event(&[("authorization", "bAsIc YWRhOm46dw==")], None, ""), NOW).unwrap();
        assert_eq!(verified.event().request.headers, []);
        assert_eq!(refusal(&verifier, event(&[("authorization", "Basic YWRhOng=")], None, "")), VerifyError::WrongPassword);
        for malformed in ["", "Basic", "Basic !", "Bearer YWRhOm46dw=="] {
            assert_eq!(refusal(&verifier, event(&[("authorization", malformed)], None, "")), VerifyError::MalformedAuthorization);
        }
    }

    #[test]
    fn credentials_that_nobody_checks_end_here_too() {
        let headers = [("authorization", "x"), ("cookie", "x"), ("proxy-authorization", "x"), ("x-kept", "x")];
        let verified = Verifier::none().verify(event(&headers, Some("q"), "body"), NOW).unwrap();
        let request = &verified.event().request;
        assert_eq!(request.headers.iter().map(|header| header.name.as_str()).collect::<Vec<_>>(), ["x-kept"]);
        assert_eq!((request.query.as_deref(), &request.body[..]), (Some("q"), &b"body"[..]));
    }
}

#[test]
fn configuration_is_checked() {
    let cases = [
        (
            json!({"type": "preset", "name": "gitlab", "secrets": ["x"]}),
            "there is no preset `gitlab`; there are github, standard_webhooks",
        ),
        (json!({"type": "preset", "name": "github", "secrets": []}), "secrets: from 1 to 8 are needed"),
        (json!({"type": "preset", "name": "github", "secrets": ["x", ""]}), "secrets[1]: it is empty"),
        (json!({"type": "preset", "name": "github", "secrets": ["x"], "tolerance_s": 1}), "tolerance_s: this preset signs no time"),
        (json!({"type": "preset", "name": "standard_webhooks", "secrets": ["whsec_?"]}), "secrets[0]: it is not in the form"),
        (json!({"type": "api_key", "keys": ["x"]}), "exactly one of `header` and `query`"),
        (json!({"type": "api_key", "header": "a", "query": "b", "keys": ["x"]}), "exactly one of `header` and `query`"),
        (json!({"type": "api_key", "header": "a b", "keys": ["x"]}), "header: is not a header's name"),
        (json!({"type": "basic", "users": [{"username": "a:b", "password": "x"}]}), "users: a user name has a colon"),
    ];
    for (config, wanted) in cases {
        let error = config_error(config);
        assert!(error.contains(wanted), "{error}");
    }
    for unknown in [
        json!({"type": "none", "extra": 1}),
        json!({"type": "preset", "name": "github", "secret": "x", "secrets": []}),
        json!({"type": "basic", "users": [{"username": "a", "password": "x", "role": 1}]}),
        json!({"type": "other"}),
    ] {
        assert!(serde_json::from_value::<VerifierConfig>(unknown.clone()).is_err(), "{unknown}");
    }
}

#[test]
fn a_plugins_verdict_counts_where_a_plugin_is_to_decide_and_nowhere_else() {
    let credentials = [("authorization", "Bearer x"), ("cookie", "a=b"), ("proxy-authorization", "x"), ("x-own-signature", "y")];
    let by = |verifier: &Verifier, verdict| verifier.verify_by(event(&credentials, None, ""), NOW, verdict);
    let verifier = Verifier::plugin();
    assert_eq!(verifier.verify(event(&credentials, None, ""), NOW).unwrap_err(), VerifyError::NotAsked);
    assert_eq!(by(&verifier, Some(Verdict::Reject)).unwrap_err(), VerifyError::Rejected);
    let accepted = by(&verifier, Some(Verdict::Accept)).unwrap();
    let names: Vec<_> = accepted.event().request.headers.iter().map(|header| &*header.name).collect();
    assert_eq!(names, ["x-own-signature"], "credentials end here all the same");
    let github = json!({"type": "preset", "name": "github", "secrets": ["x"]});
    let github = Verifier::new(&serde_json::from_value(github).unwrap()).unwrap();
    assert!(by(&github, Some(Verdict::Accept)).is_err(), "the signature is missing, whatever a plugin says");
}

#[test]
fn secrets_are_never_shown() {
    let configs = [
        json!({"type": "preset", "name": "github", "secrets": ["hunter2"]}),
        json!({"type": "api_key", "header": "x", "keys": ["hunter2"]}),
        json!({"type": "basic", "users": [{"username": "ada", "password": "hunter2"}]}),
        json!({"type": "hmac", "secrets": ["hunter2"], "scheme": {"header": "x", "content": "{body}", "encoding": "hex"}}),
    ];
    for config in configs {
        let config: VerifierConfig = serde_json::from_value(config).unwrap();
        let verifier = Verifier::new(&config).unwrap();
        let shown = format!("{config:?} {verifier:?} {}", serde_json::to_string(&config.redacted()).unwrap());
        assert!(!shown.contains("hunter2") && shown.contains("[redacted]"), "{shown}");
        assert_eq!(serde_json::from_value::<VerifierConfig>(serde_json::to_value(&config).unwrap()).unwrap(), config);
    }
}

proptest! {
    #[test]
    fn no_header_or_query_makes_it_panic(value in "\\PC{0,64}", query in "\\PC{0,64}") {
        let headers = [("x-hub-signature-256", &*value), ("authorization", &*value), ("webhook-signature", &*value), ("webhook-id", &*value), ("webhook-timestamp", &*value)];
        for config in [
            json!({"type": "preset", "name": "github", "secrets": ["x"]}),
            json!({"type": "preset", "name": "standard_webhooks", "secrets": ["c2VjcmV0"]}),
            json!({"type": "basic", "users": [{"username": "a", "password": "b"}]}),
            json!({"type": "api_key", "query": "key", "keys": ["x"]}),
        ] {
            prop_assert!(verifier(config).verify(event(&headers, Some(&query), ""), NOW).is_err());
        }
    }
}

#[test]
fn signatures_stay_in_the_event_and_are_named_so_that_they_go_no_further() {
    let names = |config| verifier(config).signature_headers().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(names(json!({"type": "preset", "name": "github", "secrets": ["x"]})), ["x-hub-signature-256"]);
    let standard = json!({"type": "preset", "name": "standard_webhooks", "secrets": ["c2VjcmV0"]});
    assert_eq!(names(standard), ["webhook-signature", "webhook-timestamp"]);
    // The time may stand beside the signature.
    let scheme = json!({"header": "X-Sig", "prefix": "v1=", "split": ",", "content": "{timestamp}.{body}", "encoding": "hex",
        "timestamp": {"header": "x-sig", "prefix": "t=", "tolerance_s": 60}});
    assert_eq!(names(json!({"type": "hmac", "scheme": scheme, "secrets": ["x"]})), ["x-sig"]);
    for config in [
        json!({"type": "none"}),
        json!({"type": "api_key", "header": "x-key", "keys": ["x"]}),
        json!({"type": "basic", "users": [{"username": "a", "password": "b"}]}),
    ] {
        assert_eq!(names(config), [""; 0], "credentials are not in the event at all");
    }
}
