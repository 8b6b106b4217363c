//! From conditions and an event to yes or no, inside a budget of steps.

use std::cmp::Ordering;

use serde_json::{Number, Value as Json};

use super::view::{Value, View};
use super::{MAX_STEPS, Node, Operand, Root, Test, TooCostly};

pub(super) fn matches(root: &Root, event: &View<'_>) -> Result<bool, TooCostly> {
    let mut evaluation = Evaluation { event, steps_left: MAX_STEPS };
    let matched = evaluation.root(root);
    // Past the budget everything is cut short, so that the answer means nothing.
    if evaluation.steps_left == 0 { Err(TooCostly) } else { Ok(matched) }
}

struct Evaluation<'a, 'request> {
    event: &'a View<'request>,
    steps_left: u32,
}

impl<'a> Evaluation<'a, '_> {
    fn root(&mut self, root: &'a Root) -> bool {
        match root {
            Root::All(all) => all.iter().all(|root| self.root(root)),
            Root::Any(any) => any.iter().any(|root| self.root(root)),
            Root::Not(root) => !self.root(root),
            Root::Part(part, node) => self.node(node, self.event.part(*part)),
        }
    }

    fn node(&mut self, node: &'a Node, value: Value<'a>) -> bool {
        if !self.step(0) {
            return false;
        }
        match node {
            Node::All(all) => all.iter().all(|node| self.node(node, value)),
            Node::Any(any) => any.iter().any(|node| self.node(node, value)),
            Node::Not { node, asks } => (*asks || !value.is_missing()) && !self.node(node, value),
            Node::Exist(wanted) => *wanted != value.is_missing(),
            Node::Object(fields) => {
                value.any_element(|element| self.fields(fields, element)).unwrap_or_else(|| self.fields(fields, value))
            }
            Node::Elements(wanted) => {
                value.is_array() && wanted.iter().all(|node| value.any_element(|element| self.node(node, element)).unwrap_or(false))
            }
            Node::Tests(tests) => {
                self.tests(tests, value) || value.any_element(|element| self.tests(tests, element)).unwrap_or(false)
            }
            Node::Contains(operand) => self.contains(value, operand),
            Node::ButNot(node) => !value.is_missing() && !self.node(node, value),
        }
    }

    fn fields(&mut self, fields: &'a [(String, Node)], value: Value<'a>) -> bool {
        if fields.is_empty() {
            return !value.is_missing();
        }
        fields.iter().all(|(name, node)| self.node(node, value.get(name)))
    }

    fn tests(&mut self, tests: &'a [Test], value: Value<'a>) -> bool {
        !value.is_missing() && tests.iter().all(|test| self.test(test, value))
    }

    fn test(&mut self, test: &'a Test, value: Value<'a>) -> bool {
        let is = |ordering: Option<Ordering>, wanted: fn(Ordering) -> bool| ordering.is_some_and(wanted);
        match test {
            Test::Equal(operand) => {
                let other = self.operand(operand);
                self.equal(value, other)
            }
            Test::Greater(operand) => is(self.ordering(value, operand), Ordering::is_gt),
            Test::GreaterOrEqual(operand) => is(self.ordering(value, operand), Ordering::is_ge),
            Test::Less(operand) => is(self.ordering(value, operand), Ordering::is_lt),
            Test::LessOrEqual(operand) => is(self.ordering(value, operand), Ordering::is_le),
            Test::OneOf(list) => list.iter().any(|item| self.equal(value, Value::Json(item))),
            Test::StartsWith(operand) => self.texts(value, operand).is_some_and(|(text, part)| text.starts_with(part)),
            Test::EndsWith(operand) => self.texts(value, operand).is_some_and(|(text, part)| text.ends_with(part)),
            // An automaton with a large state set may take many instructions a byte.
            Test::Regex(regex) => {
                text_of(value).is_some_and(|text| self.step(text.len().saturating_mul(16)) && regex.is_match(text))
            }
        }
    }

    fn contains(&mut self, value: Value<'a>, operand: &'a Operand) -> bool {
        let wanted = self.operand(operand);
        if let Some(found) = value.any_element(|element| self.equal(element, wanted)) {
            return found;
        }
        let (Some(text), Some(part)) = (text_of(value), text_of(wanted)) else { return false };
        self.step(text.len()) && text.contains(part)
    }

    fn operand(&mut self, operand: &'a Operand) -> Value<'a> {
        match operand {
            Operand::Literal(literal) => Value::Json(literal),
            Operand::Reference(part, keys) => keys.iter().fold(self.event.part(*part), |value, key| value.get(key)),
        }
    }

    fn texts(&mut self, value: Value<'a>, operand: &'a Operand) -> Option<(&'a str, &'a str)> {
        let part = text_of(self.operand(operand))?;
        let text = text_of(value)?;
        self.step(text.len().min(part.len())).then_some((text, part))
    }

    fn ordering(&mut self, value: Value<'a>, operand: &'a Operand) -> Option<Ordering> {
        let other = self.operand(operand);
        if let (Some(left), Some(right)) = (text_of(value), text_of(other)) {
            return self.step(left.len().min(right.len())).then(|| left.cmp(right));
        }
        self.step(0);
        compare_numbers(&number_of(value, other)?, &number_of(other, value)?)
    }

    fn equal(&mut self, left: Value<'a>, right: Value<'a>) -> bool {
        if let (Some(left), Some(right)) = (text_of(left), text_of(right)) {
            return self.step(left.len().min(right.len())) && left == right;
        }
        if !self.step(0) {
            return false;
        }
        match (left, right) {
            (Value::Json(left), Value::Json(right)) => self.equal_json(left, right),
            (Value::Text(text), Value::Json(json)) | (Value::Json(json), Value::Text(text)) => match json {
                Json::Bool(flag) => text == if *flag { "true" } else { "false" },
                Json::Number(number) => {
                    read_number(text).is_some_and(|read| compare_numbers(&read, number) == Some(Ordering::Equal))
                }
                _ => false,
            },
            _ => false,
        }
    }

    fn equal_json(&mut self, left: &'a Json, right: &'a Json) -> bool {
        match (left, right) {
            (Json::Array(left), Json::Array(right)) => {
                left.len() == right.len()
                    && left.iter().zip(right).all(|(left, right)| self.equal(Value::Json(left), Value::Json(right)))
            }
            (Json::Object(left), Json::Object(right)) => {
                left.len() == right.len()
                    && left.iter().all(|(key, left)| {
                        right
                            .get(key)
                            .is_some_and(|right| self.step(key.len()) && self.equal(Value::Json(left), Value::Json(right)))
                    })
            }
            (Json::Number(left), Json::Number(right)) => compare_numbers(left, right) == Some(Ordering::Equal),
            _ => left == right,
        }
    }

    /// Takes one step, and one for each 64 bytes. False when none are left.
    fn step(&mut self, bytes: usize) -> bool {
        let steps = u32::try_from(bytes / 64).unwrap_or(u32::MAX).saturating_add(1);
        self.steps_left = self.steps_left.saturating_sub(steps);
        self.steps_left > 0
    }
}

fn text_of(value: Value<'_>) -> Option<&str> {
    match value {
        Value::Text(text) => Some(text),
        Value::Json(json) => json.as_str(),
        Value::Missing | Value::Fields(_) | Value::Repeated(..) => None,
    }
}

/// A number, or a text of the request's head that says one when it is compared with a number.
fn number_of(value: Value<'_>, with: Value<'_>) -> Option<Number> {
    match (value, with) {
        (Value::Json(Json::Number(number)), _) => Some(number.clone()),
        (Value::Text(text), Value::Json(Json::Number(_))) => read_number(text),
        _ => None,
    }
}

fn read_number(text: &str) -> Option<Number> {
    // Longer ones are not worth the work.
    if text.len() > 64 { None } else { serde_json::from_str(text).ok() }
}

/// Whole numbers exactly, all others as floating point.
fn compare_numbers(left: &Number, right: &Number) -> Option<Ordering> {
    match (left.as_i128(), right.as_i128()) {
        (Some(left), Some(right)) => Some(left.cmp(&right)),
        _ => left.as_f64()?.partial_cmp(&right.as_f64()?),
    }
}
