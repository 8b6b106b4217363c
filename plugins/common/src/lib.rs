//! What several first-party plugins need: configurations whose errors name the field, JSON pointers, JSON read in place, times, and
//! chat messages.

pub mod chat;
pub mod json;
mod pointer;
mod time;

use serde::de::DeserializeOwned;
use tidegate_plugin::{Failure, Host};

pub use pointer::Pointer;
pub use time::rfc3339;

/// The plugin's configuration. Fails with `bad-config`, which names the field.
pub fn config<T: DeserializeOwned>(host: &dyn Host) -> Result<T, Failure> {
    let text = host.config_text();
    serde_json::from_str(&text).or_else(|_| explain(&text))
}

/// Reads it once more, now with an eye on where it is: that costs too much to do it for each event.
fn explain<T: DeserializeOwned>(text: &str) -> Result<T, Failure> {
    let mut json = serde_json::Deserializer::from_str(text);
    let config = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let (field, error) = (error.path().to_string(), error.into_inner());
        if field == "." { bad_config(format_args!("{error}")) } else { wrong(&field, error) }
    })?;
    json.end().map_err(|error| bad_config(format_args!("{error}")))?;
    Ok(config)
}

/// A field of the configuration that cannot be used.
pub fn wrong(field: &str, why: impl std::fmt::Display) -> Failure {
    bad_config(format_args!("`{field}`: {why}"))
}

fn bad_config(why: std::fmt::Arguments) -> Failure {
    Failure::never("bad-config", format!("the plugin's configuration: {why}"))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use tidegate_plugin::testing::FakeHost;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[serde(rename = "list")]
        _list: Vec<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[serde(rename = "at")]
        _at: Pointer,
    }

    #[test]
    fn a_wrong_configuration_names_the_field() {
        let cases = [
            ("{}", "missing field `list`"),
            (r#"{"list": [], "lost": 1}"#, "`lost`: unknown field `lost`, expected `list`"),
            (r#"{"list": [{"at": "/a"}, {"at": 1}]}"#, "`list[1].at`: invalid type: integer `1`"),
            (r#"{"list": [{"at": "a"}]}"#, "`list[0].at`: a JSON pointer is empty or begins with `/`; this is `a`"),
            (r#"{"list": []"#, "EOF while parsing"),
            (r#"{"list": []} x"#, "trailing characters"),
        ];
        for (text, expected) in cases {
            let host = FakeHost::new().with_config(text);
            let failure = config::<Outer>(&host).unwrap_err();
            assert_eq!(failure.code, "bad-config");
            assert!(failure.message.starts_with("the plugin's configuration: "), "{}", failure.message);
            assert!(failure.message.contains(expected), "{text}: {}", failure.message);
        }
    }
}
