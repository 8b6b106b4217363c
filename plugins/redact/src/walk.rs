//! Through a JSON text, rewriting what must not stay.

use std::borrow::Cow;

use memchr::memchr;
use plugin_common::json::{Cursor, Json, Kind, MAX_DEPTH, Span, too_deep};
use tidegate_plugin::Failure;

use crate::apply::Redactor;
use crate::config::{Action, Field, Place};

/// The rewritten body; none if nothing was found.
pub(crate) fn json(body: &[u8], fields: &[Field], redactor: &Redactor) -> Result<Option<Vec<u8>>, Failure> {
    let json = Json::read(body)?;
    let plain = redactor.without_escapes(json.text());
    let fields_alone = plain.patterns.is_empty() && memchr(b'\\', body).is_none();
    if fields.is_empty() && fields_alone {
        // Nothing to be found, but it may nest too deep.
        return json.cursor().skip().map(|_| None);
    }
    let fields = fields.iter().map(|field| Wanted { field, place: field.place(), seen: false }).collect();
    let mut walk = Walk {
        text: json.text(),
        redactor,
        plain,
        fields_alone,
        fields,
        path: Vec::with_capacity(16),
        written: String::new(),
        copied: 0,
    };
    walk.value(&mut json.cursor(), None)?;
    if let Some(missing) = walk.fields.iter().find(|wanted| wanted.field.required && !wanted.seen) {
        return Err(Failure::never(
            "missing-field",
            format!("the body has nothing at {}, which is required", missing.field.name()),
        ));
    }
    if walk.copied == 0 {
        return Ok(None);
    }
    walk.written.push_str(&walk.text[walk.copied..]);
    Ok(Some(walk.written.into_bytes()))
}

struct Wanted<'f> {
    field: &'f Field,
    place: Place,
    seen: bool,
}

enum Step<'a> {
    Key(Cow<'a, str>),
    Index(usize),
}

impl Step<'_> {
    fn is(&self, part: &str) -> bool {
        part == "*"
            || match self {
                Self::Key(key) => key == part,
                Self::Index(index) => part.parse() == Ok(*index),
            }
    }
}

struct Walk<'a, 'f> {
    text: &'a str,
    redactor: &'f Redactor<'f>,
    /// For what is written without escapes.
    plain: Redactor<'f>,
    /// Whether only fields can be found.
    fields_alone: bool,
    fields: Vec<Wanted<'f>>,
    /// Where the walk is.
    path: Vec<Step<'a>>,
    written: String,
    /// How much of the text is written, or left out.
    copied: usize,
}

impl<'a, 'f> Walk<'a, 'f> {
    /// The first field that is meant by the path; marks all that are.
    fn field(&mut self) -> Option<&'f Field> {
        let (path, mut first) = (&self.path, None);
        for wanted in &mut self.fields {
            let is_meant = match &wanted.place {
                Place::At(parts) => parts.len() == path.len() && path.iter().zip(parts).rev().all(|(step, part)| step.is(part)),
                Place::Anywhere(name) => matches!(path.last(), Some(Step::Key(key)) if key.eq_ignore_ascii_case(name)),
            };
            if is_meant {
                wanted.seen = true;
                first = first.or(Some(wanted.field));
            }
        }
        first
    }

    /// Whether nothing that is looked for can stand inside of what is at the path.
    fn is_done_here(&self) -> bool {
        let may_be_inside = |wanted: &Wanted| match &wanted.place {
            Place::At(parts) => parts.len() > self.path.len() && self.path.iter().zip(parts).all(|(step, part)| step.is(part)),
            Place::Anywhere(_) => true,
        };
        self.fields_alone && !self.fields.iter().any(may_be_inside)
    }

    fn value(&mut self, cursor: &mut Cursor<'a>, field: Option<&Field>) -> Result<(), Failure> {
        let kind = cursor.kind();
        let start = cursor.place();
        if let Some(field) = field {
            let text = match kind {
                Kind::String => cursor.string().unescape()?,
                _ => {
                    let span = cursor.skip()?;
                    Cow::Borrowed(&self.text[span.start..span.end])
                }
            };
            let instead = if field.action == Action::Hash { Cow::Owned(self.redactor.hash(&text)?) } else { field.with().into() };
            self.put(Span { start, end: cursor.place() }, &instead);
            return Ok(());
        }
        match kind {
            Kind::Object | Kind::Array if self.is_done_here() => cursor.skip_inside(self.path.len()).map(drop),
            Kind::Object | Kind::Array => self.inside(cursor, kind),
            Kind::String => {
                let text = cursor.string();
                if self.redactor.patterns.is_empty() {
                    // What is no text must not go on either.
                    return text.unescape().map(drop);
                }
                self.pattern(text.unescape()?, Span { start, end: cursor.place() })
            }
            Kind::Number => {
                let number = cursor.word();
                self.pattern(Cow::Borrowed(number), Span { start, end: cursor.place() })
            }
            Kind::Word => cursor.skip().map(drop),
        }
    }

    /// Through an object or array. What is removed takes the comma before it along, or the one after it if nothing stays before.
    fn inside(&mut self, cursor: &mut Cursor<'a>, kind: Kind) -> Result<(), Failure> {
        if self.path.len() == MAX_DEPTH {
            return Err(too_deep());
        }
        let (mut inside, mut index, mut stays_until) = (cursor.enter(), 0, None);
        while inside.item(cursor) {
            let start = cursor.place();
            let key = (kind == Kind::Object).then(|| cursor.string());
            let key_end = cursor.place();
            let key = match key {
                Some(key) => {
                    cursor.mark();
                    Some(key.unescape()?)
                }
                None => None,
            };
            self.path.push(key.clone().map_or(Step::Index(index), Step::Key));
            match self.field() {
                Some(field) if field.action == Action::Remove => {
                    let mut end = cursor.skip()?.end;
                    let from = stays_until.map_or(start, |until: usize| until.max(self.copied));
                    let mut next = *cursor;
                    if stays_until.is_none() && next.is_at_comma() {
                        next.mark();
                        end = next.place();
                    }
                    self.cut(Span { start: from, end });
                }
                field => {
                    if let Some(key) = key {
                        self.pattern(key, Span { start, end: key_end })?;
                    }
                    self.value(cursor, field)?;
                    stays_until = Some(cursor.place());
                }
            }
            self.path.pop();
            index += 1;
        }
        Ok(())
    }

    /// Looks through a text or a number; it is borrowed if it is written without escapes.
    fn pattern(&mut self, text: Cow<'_, str>, span: Span) -> Result<(), Failure> {
        let redactor = if matches!(text, Cow::Borrowed(_)) { &self.plain } else { self.redactor };
        if let Some(redacted) = redactor.text(&text)? {
            self.put(span, &redacted);
        }
        Ok(())
    }

    fn put(&mut self, span: Span, text: &str) {
        self.cut(span);
        if text.bytes().any(|byte| byte < b' ' || matches!(byte, b'"' | b'\\')) {
            self.written.push_str(&serde_json::Value::from(text).to_string());
        } else {
            self.written.push('"');
            self.written.push_str(text);
            self.written.push('"');
        }
    }

    fn cut(&mut self, span: Span) {
        if self.written.is_empty() {
            // Once, rather than step by step as it grows.
            self.written.reserve(self.text.len());
        }
        self.written.push_str(&self.text[self.copied..span.start]);
        self.copied = span.end;
    }
}
