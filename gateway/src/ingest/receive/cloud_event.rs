//! Whether a request is a CloudEvent (1.0.2, HTTP protocol binding, JSON format): in binary mode, structured, or a batch. Pure.
//! <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md>

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::event::Request;

/// What stands in an envelope, as far as it is checked.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    specversion: Option<Cow<'a, str>>,
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    source: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    data: Option<IgnoredAny>,
    data_base64: Option<IgnoredAny>,
}

/// Why a request is no CloudEvent: the part that is wrong, and what is wrong with it.
pub(super) fn check(request: &Request) -> Result<(), (&'static str, String)> {
    let content_type = request.header("content-type").unwrap_or_default();
    let content_type = String::from_utf8_lossy(content_type).to_ascii_lowercase();
    match content_type.split(';').next().unwrap_or_default().trim() {
        "application/cloudevents+json" => {
            let envelope = read(serde_json::from_slice::<Envelope>(&request.body))?;
            check_envelope(&envelope).map_err(|problem| ("body", problem))
        }
        "application/cloudevents-batch+json" => {
            let envelopes = read(serde_json::from_slice::<Vec<Envelope>>(&request.body))?;
            for (index, envelope) in envelopes.iter().enumerate() {
                check_envelope(envelope).map_err(|problem| ("body", format!("number {index} of the batch: {problem}")))?;
            }
            Ok(())
        }
        other if other.starts_with("application/cloudevents") => {
            Err(("content-type", format!("`{}` is not JSON, the only format that is understood", short(other))))
        }
        _ => {
            let attribute = |name: &str| request.header(&format!("ce-{name}")).map(String::from_utf8_lossy);
            if attribute("specversion").is_none() {
                let problem = "it has no header `ce-specversion`, and its content type is not `application/cloudevents+json`";
                return Err(("headers", problem.to_owned()));
            }
            check_attributes(attribute).map_err(|problem| ("headers", problem))
        }
    }
}

fn read<T>(envelope: Result<T, serde_json::Error>) -> Result<T, (&'static str, String)> {
    envelope.map_err(|error| ("body", error.to_string()))
}

fn check_envelope(envelope: &Envelope) -> Result<(), String> {
    if envelope.data.is_some() && envelope.data_base64.is_some() {
        return Err("it has both `data` and `data_base64`".to_owned());
    }
    let Envelope { specversion, id, source, kind, .. } = envelope;
    check_attributes(|name| match name {
        "specversion" => specversion.clone(),
        "id" => id.clone(),
        "source" => source.clone(),
        _ => kind.clone(),
    })
}

/// What every CloudEvent has.
fn check_attributes<'a>(attribute: impl Fn(&str) -> Option<Cow<'a, str>>) -> Result<(), String> {
    match attribute("specversion").as_deref() {
        Some("1.0") => {}
        Some(other) => return Err(format!("its `specversion` is `{}`; 1.0 is understood", short(other))),
        None => return Err("it has no `specversion`".to_owned()),
    }
    let missing = ["id", "source", "type"].into_iter().find(|name| attribute(name).is_none_or(|value| value.is_empty()));
    missing.map_or(Ok(()), |name| Err(format!("it has no `{name}`")))
}

fn short(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Header;

    fn request(headers: &[(&str, &str)], body: &str) -> Request {
        let line = |(name, value): &(&str, &str)| Header { name: (*name).to_owned(), value: value.as_bytes().to_vec().into() };
        Request { headers: headers.iter().map(line).collect(), body: body.as_bytes().to_vec().into(), ..Request::default() }
    }

    #[test]
    fn every_mode_is_known_and_what_is_wrong_is_named() {
        let structured = |body: &str| check(&request(&[("content-type", "application/cloudevents+json; charset=utf-8")], body));
        let whole = r#"{"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": [1]}"#;
        assert_eq!(structured(whole), Ok(()));
        let binary = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")];
        assert_eq!(check(&request(&binary, "anything")), Ok(()));
        let batch = |body: &str| check(&request(&[("content-type", "application/cloudevents-batch+json")], body));
        assert_eq!([batch("[]"), batch(&format!("[{whole},{whole}]"))], [Ok(()), Ok(())]);

        for (body, problem) in [
            (r#"{"specversion": "1.0", "id": "1", "source": "/s"}"#, "no `type`"),
            (r#"{"specversion": "1.0", "id": "", "source": "/s", "type": "t"}"#, "no `id`"),
            (r#"{"specversion": "0.3", "id": "1", "source": "/s", "type": "t"}"#, "`specversion` is `0.3`"),
            (r#"{"specversion": "1.0", "id": 1, "source": "/s", "type": "t"}"#, "invalid type"),
            (r#"{"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": 1, "data_base64": "aGk="}"#, "both"),
            ("{", "EOF"),
        ] {
            let found = structured(body);
            assert!(found.as_ref().is_err_and(|(field, text)| *field == "body" && text.contains(problem)), "{body}: {found:?}");
        }
        assert!(batch(&format!("[{whole},{{}}]")).is_err_and(|(_, text)| text.starts_with("number 1 of the batch")));
        assert!(check(&request(&binary[..3], "")).is_err_and(|(field, text)| field == "headers" && text.contains("no `type`")));
        assert!(check(&request(&[("content-type", "application/json")], whole)).is_err_and(|(field, _)| field == "headers"));
        let avro = check(&request(&[("content-type", "application/cloudevents+avro")], whole));
        assert!(avro.is_err_and(|(field, _)| field == "content-type"));
    }
}
