//! What is sent: a GitHub push of 1 KB, so that the same body serves the cases with and without the transform.

/// Size of the body in bytes.
pub(super) const SIZE: usize = 1024;

/// A push of 250 bytes: one commit, and nothing that the transform does not read.
pub(super) const SMALL: &str = concat!(
    r#"{"ref":"refs/heads/main","repository":{"full_name":"tide/gate","html_url":"https://github.com/tide/gate"},"#,
    r#""pusher":{"name":"ada"},"commits":[{"id":"4d5e6f","url":"https://github.com/tide/gate/commit/4d5e6f","#,
    r#""author":{"name":"Ada"},"message":"Open"}]}"#
);

/// Headers that are sent with it, besides framing.
pub(super) const HEADERS: [(&str, &str); 3] =
    [("content-type", "application/json"), ("user-agent", "GitHub-Hookshot/7c1d3a6"), ("x-github-event", "push")];

/// Digits of the number that makes each body different.
const DIGITS: usize = 12;

/// A body whose number can be changed in place.
#[derive(Clone)]
pub(super) struct Body {
    bytes: Vec<u8>,
    number_at: usize,
}

impl Body {
    /// The body with number 0.
    pub(super) fn new() -> Self {
        Self::of(SIZE)
    }

    /// The same in another size, not below the usual one.
    pub(super) fn of(size: usize) -> Self {
        let zero = "0".repeat(DIGITS);
        let before = format!(
            concat!(
                r#"{{"ref":"refs/heads/main","before":"9f4ab2c1d07e5836a1b2c3d4e5f60718293a4b5c","#,
                r#""after":"4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f70","created":false,"deleted":false,"forced":false,"#,
                r#""repository":{{"id":186853002,"full_name":"tide/gate","private":false,"#,
                r#""html_url":"https://github.com/tide/gate","default_branch":"main"}},"#,
                r#""pusher":{{"name":"harbour","email":"harbour@example.com"}},"#,
                r#""compare":"https://github.com/tide/gate/compare/9f4ab2c1d07e...4d5e6f708192","#,
                r#""commits":[{{"id":"4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f70","distinct":true,"#,
                r#""timestamp":"2026-01-31T10:00:00Z","url":"https://github.com/tide/gate/commit/4d5e6f708192","#,
                r#""author":{{"name":"Harbour Master","email":"harbour@example.com"}},"message":"Open gate {zero}\n\n"#
            ),
            zero = zero
        );
        let after = r#""}]}"#;
        let text = "Let the water in at high tide and out again at low tide. ";
        let fill: String = text.chars().cycle().take(size.max(SIZE) - before.len() - after.len()).collect();
        let number_at = before.find(&zero).expect("the number was just written");
        Self { bytes: format!("{before}{fill}{after}").into_bytes(), number_at }
    }

    /// Where the number's digits are.
    pub(super) fn number_range(&self) -> std::ops::Range<usize> {
        self.number_at..self.number_at + DIGITS
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Writes `number` in decimal, with leading zeros.
pub(super) fn write_number(mut number: u64, digits: &mut [u8]) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_one_kilobyte_of_json_whatever_its_number() {
        let mut body = Body::new();
        let range = body.number_range();
        write_number(987_654_321, &mut body.bytes[range]);
        assert_eq!(body.bytes().len(), SIZE);
        let push: serde_json::Value = serde_json::from_slice(body.bytes()).unwrap();
        assert!(push["commits"][0]["message"].as_str().unwrap().starts_with("Open gate 000987654321\n"));
        assert_eq!(SMALL.len(), 250);
    }
}
