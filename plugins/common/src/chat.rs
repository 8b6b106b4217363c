//! Chat messages: what people typed must not become markup, and links look as each chat wants them.

pub mod push;

use std::borrow::Cow;

use serde::Deserialize;

/// How links are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `<https://example.com|text>`
    #[default]
    Slack,
    /// `[text](https://example.com)`
    Markdown,
    /// The text alone.
    Plain,
}

/// A link, or its text alone where the URL is not one that a browser should follow from a chat.
pub fn link(url: &str, text: &str, format: Format) -> String {
    let text = escape(text, format);
    let is_url = (url.starts_with("https://") || url.starts_with("http://"))
        && url.bytes().all(|byte| byte > b' ' && !matches!(byte, b'(' | b')' | b'<' | b'>' | b'|' | 0x7f));
    match format {
        _ if !is_url => text.into_owned(),
        Format::Slack => format!("<{}|{text}>", escape(url, format)),
        Format::Markdown => format!("[{text}]({url})"),
        Format::Plain => text.into_owned(),
    }
}

/// What people typed must not become markup: mentions, links, formatting.
pub fn escape(text: &str, format: Format) -> Cow<'_, str> {
    match format {
        Format::Slack if text.contains(['&', '<', '>']) => {
            Cow::Owned(text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;"))
        }
        Format::Markdown if text.contains(MARKDOWN) => {
            Cow::Owned(text.chars().flat_map(|c| MARKDOWN.contains(&c).then_some('\\').into_iter().chain([c])).collect())
        }
        _ => Cow::Borrowed(text),
    }
}

const MARKDOWN: &[char] = &['\\', '`', '*', '_', '[', ']', '<', '>', '@', '#', '|', '~'];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_typed_stays_text() {
        let cases = [
            (Format::Slack, "<!channel> & *b*", "&lt;!channel&gt; &amp; *b*"),
            (Format::Markdown, "[x](y) *b* @all", "\\[x\\](y) \\*b\\* \\@all"),
            (Format::Plain, "<b> & *b*", "<b> & *b*"),
        ];
        for (format, typed, expected) in cases {
            assert_eq!(escape(typed, format), expected);
        }
    }

    #[test]
    fn only_urls_become_links() {
        assert_eq!(link("https://a.example/?a=1&b", "t<", Format::Slack), "<https://a.example/?a=1&amp;b|t&lt;>");
        assert_eq!(link("https://a.example/", "t]", Format::Markdown), "[t\\]](https://a.example/)");
        for url in ["javascript:alert(1)", "https://a.example/|x", "https://a.example/) [y](z", "https://a b", ""] {
            for format in [Format::Slack, Format::Markdown, Format::Plain] {
                assert_eq!(link(url, "text", format), "text", "{url}");
            }
        }
    }
}
