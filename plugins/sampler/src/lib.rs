//! Keeps a part of the events, always the same ones. The [README](../README.md) has the configuration.

use plugin_common::json::{Json, Kind};
use plugin_common::{Pointer, config, wrong};
use serde::Deserialize;
use tidegate_plugin::{Event, Failure, Filter, Host};

struct Sampler;

impl Filter for Sampler {
    fn keep(event: Event, host: &dyn Host) -> Result<bool, Failure> {
        let config: Config = config(host)?;
        let (keep, of) = config.share()?;
        let found = match &config.by {
            By::Event => Some(hash(&config.salt, event.id.as_bytes())),
            By::Header(name) => event.request.header(name).map(|value| hash(&config.salt, value)),
            By::Pointer(pointer) => at(&event.request.body, pointer)?.map(|key| hash(&config.salt, key.as_bytes())),
        };
        match (found, config.missing) {
            (Some(hash), _) => Ok(((u128::from(hash) * u128::from(of)) >> 64) < u128::from(keep)),
            (None, Missing::Keep) => Ok(true),
            (None, Missing::Drop) => Ok(false),
            (None, Missing::Fail) => {
                Err(Failure::never("missing-key", format!("the event has nothing at {}, which it is sampled by", config.by)))
            }
        }
    }
}

tidegate_plugin::export!(filter: Sampler);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    keep: Option<u32>,
    of: Option<u32>,
    percent: Option<f64>,
    #[serde(default)]
    by: By,
    #[serde(default)]
    salt: String,
    #[serde(default)]
    missing: Missing,
}

impl Config {
    /// How many of how many.
    fn share(&self) -> Result<(u32, u32), Failure> {
        match (self.keep, self.of, self.percent) {
            (Some(_), Some(0), None) => Err(wrong("of", "it must be at least 1")),
            (Some(keep), Some(of), None) if keep > of => Err(wrong("keep", format_args!("{keep} of {of} is more than all"))),
            (Some(keep), Some(of), None) => Ok((keep, of)),
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            (None, None, Some(percent)) if (0.0..=100.0).contains(&percent) => Ok(((percent * 1e4).round() as u32, 1_000_000)),
            (None, None, Some(percent)) => Err(wrong("percent", format_args!("it must be from 0 to 100, and is {percent}"))),
            _ => Err(wrong("percent", "give either `percent`, or both `keep` and `of`")),
        }
    }
}

/// What decides: events that are alike in it are kept or dropped together.
#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum By {
    #[default]
    Event,
    Header(String),
    Pointer(Pointer),
}

impl std::fmt::Display for By {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Event => write!(f, "its id"),
            Self::Header(name) => write!(f, "header `{name}`"),
            Self::Pointer(pointer) => write!(f, "pointer `{}`", pointer.as_str()),
        }
    }
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Missing {
    #[default]
    Fail,
    Keep,
    Drop,
}

/// The value at the pointer: a text as it reads, everything else as it stands; `null` is nothing.
fn at(body: &[u8], pointer: &Pointer) -> Result<Option<String>, Failure> {
    let json = Json::read(body)?;
    let Some(span) = json.find(pointer)? else { return Ok(None) };
    let mut cursor = json.cursor_at(span);
    match cursor.kind() {
        Kind::String => cursor.string().unescape().map(|text| Some(text.into_owned())),
        Kind::Word if json.at(span) == "null" => Ok(None),
        _ => Ok(Some(json.at(span).to_owned())),
    }
}

/// FNV-1a of salt, a zero and key, then the finaliser of SplitMix64, which spreads it over all bits. Released: never changes.
fn hash(salt: &str, key: &[u8]) -> u64 {
    let bytes = salt.bytes().chain([0]).chain(key.iter().copied());
    let mut hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ hash >> 31
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tidegate_plugin::testing::{FakeHost, event};

    use super::*;

    fn keep(event: Event, config: &Value) -> Result<bool, Failure> {
        Sampler::keep(event, &FakeHost::new().with_config(config))
    }

    fn kept(config: &Value) -> Vec<u32> {
        (0..10_000)
            .filter(|id| {
                let mut event = event("{}");
                event.id = format!("evt_{id:026}");
                keep(event, config).unwrap()
            })
            .collect()
    }

    #[test]
    fn the_share_is_kept_and_a_larger_one_keeps_the_same_and_more() {
        let (tenth, fifth) = (kept(&json!({"percent": 10})), kept(&json!({"keep": 1, "of": 5})));
        assert!((900..1100).contains(&tenth.len()) && (1850..2150).contains(&fifth.len()), "{} {}", tenth.len(), fifth.len());
        assert!(tenth.iter().all(|id| fifth.contains(id)));
        assert_eq!(kept(&json!({"percent": 10})), tenth, "it is stable");
        let salted = kept(&json!({"percent": 10, "salt": "b"}));
        let both = salted.iter().filter(|id| tenth.contains(id)).count();
        assert!((50..160).contains(&both), "another salt chooses apart from the first: {both}");
        assert_eq!(kept(&json!({"percent": 0})).len(), 0);
        assert_eq!(kept(&json!({"percent": 100})).len(), 10_000);
        assert_eq!(kept(&json!({"keep": 0, "of": 3})).len(), 0);
    }

    #[test]
    fn events_with_one_key_go_together() {
        let by_pointer = json!({"percent": 50, "by": {"pointer": "/user"}});
        let of = |user: &str, id: &str| {
            let mut event = event(format!(r#"{{"user": {user}}}"#));
            event.id = id.into();
            keep(event, &by_pointer).unwrap()
        };
        let chosen: Vec<bool> = (0..64).map(|user| of(&user.to_string(), "a")).collect();
        assert!(chosen.contains(&true) && chosen.contains(&false));
        for (user, kept) in chosen.iter().enumerate() {
            assert_eq!(of(&user.to_string(), "another"), *kept);
            assert_eq!(of(&format!("\"{user}\""), "b"), *kept, "a number and its text are one key");
        }
        let by_header = json!({"percent": 50, "by": {"header": "X-User"}});
        let first = keep(event("no json").with_header("x-user", b"\xff1"), &by_header).unwrap();
        assert_eq!(keep(event("").with_header("x-user", b"\xff1"), &by_header).unwrap(), first);
    }

    #[test]
    fn what_has_no_key_is_configured() {
        for body in ["{}", r#"{"user": null}"#] {
            let with = |missing: &str| {
                keep(event(body), &json!({"percent": 50, "by": {"pointer": "/user"}, "missing": missing})).map_err(|f| f.code)
            };
            assert_eq!((with("keep"), with("drop"), with("fail")), (Ok(true), Ok(false), Err("missing-key".into())));
        }
    }

    #[test]
    fn the_hash_is_released() {
        let hashes = [hash("", b""), hash("", b"evt_00000000000000000000000000"), hash("a", b"b")];
        assert_eq!(hashes, [2_737_183_428_366_584_608, 16_375_736_393_609_305_619, 16_949_517_343_777_446_270]);
    }

    #[test]
    fn a_wrong_configuration_is_named() {
        for (config, field) in [
            (json!({}), "`percent`"),
            (json!({"percent": 101}), "`percent`"),
            (json!({"percent": 1, "keep": 1, "of": 2}), "`percent`"),
            (json!({"keep": 3, "of": 2}), "`keep`"),
            (json!({"keep": 0, "of": 0}), "`of`"),
            (json!({"percent": 1, "by": {"pointer": "x"}}), "`by.pointer`"),
            (json!({"percent": 1, "by": "colour"}), "`by`"),
            (json!({"percent": 1, "missing": 1}), "`missing`"),
        ] {
            let failure = keep(event("{}"), &config).unwrap_err();
            assert_eq!(failure.code, "bad-config");
            assert!(failure.message.contains(field), "{config}: {}", failure.message);
        }
    }
}
