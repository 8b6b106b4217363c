//! From JSON to conditions.

use serde_json::{Map, Value as Json};

use super::{Filter, FilterError, MAX_DEPTH, MAX_NODES, MAX_REGEX, MAX_TEXT, Node, Operand, Part, Problem, Root, Test};

pub(super) fn filter(source: &Json) -> Result<Filter, FilterError> {
    let mut compiler = Compiler { path: Vec::new(), nodes: 0, needs_body: false };
    let root = compiler.root(source)?;
    Ok(Filter { root, needs_body: compiler.needs_body })
}

struct Compiler {
    path: Vec<String>,
    nodes: usize,
    needs_body: bool,
}

impl Compiler {
    fn root(&mut self, source: &Json) -> Result<Root, FilterError> {
        let Json::Object(map) = source else { return Err(self.error(Problem::NotAnObject)) };
        let mut all = Vec::with_capacity(map.len());
        for (key, value) in map {
            let root = self.at(key, |this| match key.as_str() {
                "$or" => Ok(Root::Any(this.combined(value, Self::root)?)),
                "$and" => Ok(Root::All(this.combined(value, Self::root)?)),
                "$not" => Ok(Root::Not(Box::new(this.root(value)?))),
                part => {
                    let part = Part::named(part).ok_or_else(|| this.error(Problem::UnknownPart))?;
                    this.needs_body |= part == Part::Body;
                    Ok(Root::Part(part, this.node(value, part)?))
                }
            })?;
            all.push(root);
        }
        // What is dear to look at, the parsed body, is looked at last.
        all.sort_by_key(|root| if let Root::Part(part, _) = root { *part } else { Part::Body });
        Ok(Root::All(all))
    }

    fn node(&mut self, source: &Json, part: Part) -> Result<Node, FilterError> {
        match source {
            Json::Object(map) => self.object(map, part),
            Json::Array(_) => Ok(Node::Elements(self.list(source, |this, item| this.node(item, part))?)),
            literal => {
                self.count()?;
                Ok(Node::Tests(vec![Test::Equal(Operand::Literal(self.literal(literal)?))]))
            }
        }
    }

    /// Keys descend, operators test; together they must all hold.
    fn object(&mut self, map: &Map<String, Json>, part: Part) -> Result<Node, FilterError> {
        self.count()?;
        let (mut all, mut tests, mut fields) = (Vec::new(), Vec::new(), Vec::new());
        for (key, value) in map {
            self.at(key, |this| {
                if !key.starts_with('$') {
                    this.text(key)?;
                    let name = if part == Part::Headers { key.to_ascii_lowercase() } else { key.clone() };
                    fields.push((name, this.node(value, part)?));
                } else if let Some(test) = this.test(key, value)? {
                    tests.push(test);
                } else {
                    all.push(this.condition(key, value, part)?);
                }
                Ok(())
            })?;
        }
        if !tests.is_empty() {
            all.push(Node::Tests(tests));
        }
        if !fields.is_empty() || all.is_empty() {
            all.push(Node::Object(fields));
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Node::All(all) })
    }

    fn test(&mut self, operator: &str, value: &Json) -> Result<Option<Test>, FilterError> {
        let test = match operator {
            "$eq" => Test::Equal(self.operand(value)?),
            "$gt" => Test::Greater(self.ordered(value)?),
            "$gte" => Test::GreaterOrEqual(self.ordered(value)?),
            "$lt" => Test::Less(self.ordered(value)?),
            "$lte" => Test::LessOrEqual(self.ordered(value)?),
            "$in" if value.is_array() => Test::OneOf(self.list(value, Self::literal)?),
            "$startsWith" => Test::StartsWith(self.textual(value)?),
            "$endsWith" => Test::EndsWith(self.textual(value)?),
            "$regex" => Test::Regex(self.regex(value)?),
            _ => return Ok(None),
        };
        self.count()?;
        Ok(Some(test))
    }

    fn condition(&mut self, operator: &str, value: &Json, part: Part) -> Result<Node, FilterError> {
        self.count()?;
        let but_not = |node| Node::ButNot(Box::new(node));
        match operator {
            "$or" => Ok(Node::Any(self.combined(value, |this, item| this.node(item, part))?)),
            "$and" => Ok(Node::All(self.combined(value, |this, item| this.node(item, part))?)),
            "$not" => {
                let node = Box::new(self.node(value, part)?);
                let asks = asks_existence(&node);
                Ok(Node::Not { node, asks })
            }
            "$exist" => value.as_bool().map(Node::Exist).ok_or_else(|| self.error(Problem::Operand("true or false"))),
            "$neq" => Ok(but_not(Node::Tests(vec![Test::Equal(self.operand(value)?)]))),
            "$nin" if value.is_array() => Ok(but_not(Node::Tests(vec![Test::OneOf(self.list(value, Self::literal)?)]))),
            "$in" | "$contains" => Ok(Node::Contains(self.operand(value)?)),
            "$nin" => Ok(but_not(Node::Contains(self.operand(value)?))),
            _ => Err(self.error(Problem::UnknownOperator)),
        }
    }

    fn operand(&mut self, value: &Json) -> Result<Operand, FilterError> {
        match value {
            Json::Object(map) if map.contains_key("$ref") => self.at("$ref", |this| this.reference(map)),
            literal => Ok(Operand::Literal(self.literal(literal)?)),
        }
    }

    fn ordered(&mut self, value: &Json) -> Result<Operand, FilterError> {
        match self.operand(value)? {
            Operand::Literal(Json::Null | Json::Bool(_) | Json::Array(_) | Json::Object(_)) => {
                Err(self.error(Problem::Operand("a number, a text or a $ref")))
            }
            operand => Ok(operand),
        }
    }

    fn textual(&mut self, value: &Json) -> Result<Operand, FilterError> {
        match self.operand(value)? {
            operand @ (Operand::Literal(Json::String(_)) | Operand::Reference(..)) => Ok(operand),
            Operand::Literal(_) => Err(self.error(Problem::Operand("a text or a $ref"))),
        }
    }

    fn reference(&mut self, map: &Map<String, Json>) -> Result<Operand, FilterError> {
        let (Some(text), 1) = (map["$ref"].as_str(), map.len()) else { return Err(self.error(Problem::Reference)) };
        self.text(text)?;
        let mut steps = text.split('.').map(str::to_owned);
        let part = steps.next().and_then(|name| Part::named(&name)).ok_or_else(|| self.error(Problem::Reference))?;
        let mut keys: Vec<String> = steps.collect();
        if keys.len() > MAX_DEPTH || keys.iter().any(String::is_empty) {
            return Err(self.error(Problem::Reference));
        }
        if part == Part::Headers {
            keys.iter_mut().for_each(|key| key.make_ascii_lowercase());
        }
        self.needs_body |= part == Part::Body;
        Ok(Operand::Reference(part, keys))
    }

    fn regex(&mut self, value: &Json) -> Result<regex::Regex, FilterError> {
        let Some(pattern) = value.as_str() else { return Err(self.error(Problem::Operand("an expression as a text"))) };
        self.text(pattern)?;
        regex::RegexBuilder::new(pattern).size_limit(MAX_REGEX).dfa_size_limit(MAX_REGEX).nest_limit(50).build().map_err(|error| {
            let reason = match error {
                regex::Error::CompiledTooBig(_) => "it is too large when compiled".to_owned(),
                // The last line tells what; those before it draw a picture of where.
                other => other.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned(),
            };
            self.error(Problem::Regex(reason))
        })
    }

    /// A value as it stands, every value in it counted.
    fn literal(&mut self, value: &Json) -> Result<Json, FilterError> {
        self.check_literal(value)?;
        Ok(value.clone())
    }

    fn check_literal(&mut self, value: &Json) -> Result<(), FilterError> {
        self.count()?;
        match value {
            Json::String(text) => self.text(text),
            Json::Array(_) => self.list(value, Self::check_literal).map(drop),
            Json::Object(map) => map.iter().try_for_each(|(key, value)| {
                self.at(key, |this| {
                    this.text(key)?;
                    this.check_literal(value)
                })
            }),
            Json::Null | Json::Bool(_) | Json::Number(_) => Ok(()),
        }
    }

    /// A combination of nothing would match what is missing, or nothing at all: neither was meant.
    fn combined<T>(
        &mut self,
        value: &Json,
        each: impl Fn(&mut Self, &Json) -> Result<T, FilterError>,
    ) -> Result<Vec<T>, FilterError> {
        let list = self.list(value, each)?;
        if list.is_empty() { Err(self.error(Problem::Operand("a list with something in it"))) } else { Ok(list) }
    }

    fn list<T>(&mut self, value: &Json, each: impl Fn(&mut Self, &Json) -> Result<T, FilterError>) -> Result<Vec<T>, FilterError> {
        let Json::Array(items) = value else { return Err(self.error(Problem::Operand("a list"))) };
        let mut list = Vec::with_capacity(items.len().min(MAX_NODES));
        for (index, item) in items.iter().enumerate() {
            list.push(self.at(&format!("[{index}]"), |this| {
                this.count()?;
                each(this, item)
            })?);
        }
        Ok(list)
    }

    fn at<T>(&mut self, step: &str, inner: impl FnOnce(&mut Self) -> Result<T, FilterError>) -> Result<T, FilterError> {
        self.path.push(step.chars().take(MAX_STEP_SHOWN).collect());
        if self.path.len() > MAX_DEPTH {
            return Err(self.error(Problem::TooDeep));
        }
        let result = inner(self);
        self.path.pop();
        result
    }

    fn count(&mut self) -> Result<(), FilterError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES { Err(self.error(Problem::TooManyNodes)) } else { Ok(()) }
    }

    fn text(&self, text: &str) -> Result<(), FilterError> {
        if text.len() > MAX_TEXT { Err(self.error(Problem::TextTooLong)) } else { Ok(()) }
    }

    fn error(&self, problem: Problem) -> FilterError {
        let mut path = String::new();
        for step in &self.path {
            if !path.is_empty() && !step.starts_with('[') {
                path.push('.');
            }
            path.push_str(step);
        }
        FilterError { path, problem }
    }
}

const MAX_STEP_SHOWN: usize = 64;

impl Part {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "method" => Self::Method,
            "path" => Self::Path,
            "headers" => Self::Headers,
            "query" => Self::Query,
            "body" => Self::Body,
            _ => return None,
        })
    }
}

/// Whether a condition on this very value speaks of existence.
fn asks_existence(node: &Node) -> bool {
    match node {
        Node::Exist(_) => true,
        Node::All(nodes) | Node::Any(nodes) => nodes.iter().any(asks_existence),
        Node::Not { asks, .. } => *asks,
        Node::Object(_) | Node::Elements(_) | Node::Tests(_) | Node::Contains(_) | Node::ButNot(_) => false,
    }
}
