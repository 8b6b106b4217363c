use serde::de::{Deserialize, Deserializer, Error};

/// A JSON pointer (RFC 6901): empty, or parts that begin with `/` each; `~1` stands for `/` and `~0` for `~`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer(String);

impl Pointer {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its parts, unescaped.
    pub fn parts(&self) -> impl Iterator<Item = String> {
        self.0.split('/').skip(1).map(|part| part.replace("~1", "/").replace("~0", "~"))
    }
}

impl TryFrom<String> for Pointer {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if !text.is_empty() && !text.starts_with('/') {
            return Err(format!("a JSON pointer is empty or begins with `/`; this is `{text}`"));
        }
        if text.split('~').skip(1).any(|rest| !rest.starts_with(['0', '1'])) {
            return Err(format!("in a JSON pointer `~` is followed by `0` or `1`; this is `{text}`"));
        }
        Ok(Self(text))
    }
}

impl<'de> Deserialize<'de> for Pointer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.try_into().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_unescaped() {
        let parts = |text: &str| Pointer::try_from(text.to_owned()).map(|pointer| pointer.parts().collect::<Vec<_>>());
        assert_eq!(parts(""), Ok(vec![]));
        assert_eq!(parts("/"), Ok(vec![String::new()]));
        assert_eq!(parts("/a~1b/m~0n/~01"), Ok(vec!["a/b".into(), "m~n".into(), "~1".into()]));
        assert!(parts("a/b").is_err() && parts("/a~").is_err() && parts("/~2").is_err());
    }
}
