//! Where two JSON values differ.

use std::fmt::Write;

use serde_json::Value;

/// The most differences that are told of one value.
const MOST: usize = 8;

/// How much of the value is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inside {
    /// All of it.
    Whole,
    /// Objects may have more members.
    Part,
}

/// A path such as `.items[0].name`, what is expected there, and what there is.
pub(super) type Place<'a> = (String, Option<&'a Value>, Option<&'a Value>);

/// The innermost places in which `got` differs from what is expected; the first few of them.
pub(super) fn differences<'a>(expected: &'a Value, got: &'a Value, inside: Inside) -> Vec<Place<'a>> {
    let mut found = Vec::new();
    walk(&mut String::new(), expected, got, inside, &mut found);
    found
}

fn walk<'a>(path: &mut String, expected: &'a Value, got: &'a Value, inside: Inside, found: &mut Vec<Place<'a>>) {
    if found.len() >= MOST {
        return;
    }
    match (expected, got) {
        (Value::Object(expected), Value::Object(got)) => {
            for (name, expected) in expected {
                below(path, &member(name), Some(expected), got.get(name), inside, found);
            }
            if inside == Inside::Whole {
                for (name, got) in got.iter().filter(|(name, _)| !expected.contains_key(*name)) {
                    below(path, &member(name), None, Some(got), inside, found);
                }
            }
        }
        (Value::Array(expected), Value::Array(got)) => {
            for index in 0..expected.len().max(got.len()) {
                below(path, &format!("[{index}]"), expected.get(index), got.get(index), inside, found);
            }
        }
        (expected, got) if expected != got => found.push((path.clone(), Some(expected), Some(got))),
        _ => {}
    }
}

fn below<'a>(
    path: &mut String,
    step: &str,
    expected: Option<&'a Value>,
    got: Option<&'a Value>,
    inside: Inside,
    found: &mut Vec<Place<'a>>,
) {
    let length = path.len();
    path.push_str(step);
    match (expected, got) {
        (Some(expected), Some(got)) => walk(path, expected, got, inside, found),
        _ if found.len() < MOST => found.push((path.clone(), expected, got)),
        _ => {}
    }
    path.truncate(length);
}

/// `.name`, or `["a name"]`.
fn member(name: &str) -> String {
    let mut step = String::new();
    let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let _ = if plain { write!(step, ".{name}") } else { write!(step, "[{name:?}]") };
    step
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_innermost_places_are_told() {
        let expected = json!({"a": {"b": [1, 2]}, "c d": true});
        let got = json!({"a": {"b": [1, 3, 4]}, "e": null});
        let paths = |inside| differences(&expected, &got, inside).into_iter().map(|(path, ..)| path).collect::<Vec<_>>();
        assert_eq!(paths(Inside::Whole), [".a.b[1]", ".a.b[2]", "[\"c d\"]", ".e"]);
        assert_eq!(paths(Inside::Part), [".a.b[1]", ".a.b[2]", "[\"c d\"]"]);
        assert!(differences(&expected, &expected, Inside::Whole).is_empty());
    }

    #[test]
    fn the_innermost_places_are_not_too_many() {
        let expected = json!(vec![0; 100]);
        assert_eq!(differences(&expected, &json!(vec![1; 100]), Inside::Whole).len(), MOST);
    }
}
