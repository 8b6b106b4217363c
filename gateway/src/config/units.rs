//! Sizes and durations as people write them: `"1MiB"`, `"30s"`. For `#[serde(with = "...")]`.

use std::fmt;

/// A text that is not a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a size: write a number of bytes, or one with KB, MB, GB, KiB, MiB or GiB, like \"1MiB\"")]
pub struct SizeError(String);

const UNITS: [(&str, u64); 8] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("B", 1),
];

/// Reads a size in bytes.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let wrong = || SizeError(text.chars().take(32).collect());
    let (number, unit) = UNITS
        .iter()
        .find_map(|(suffix, unit)| text.strip_suffix(suffix).map(|number| (number.trim_end(), *unit)))
        .unwrap_or((text, 1));
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).ok_or_else(wrong)
}

/// A size in the largest unit that divides it.
pub struct ShownSize(pub u64);

impl fmt::Display for ShownSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |unit: &u64| self.0 != 0 && self.0.is_multiple_of(*unit);
        match UNITS[..4].iter().rev().find(|(_, unit)| fits(unit)) {
            Some((suffix, unit)) => write!(f, "{}{suffix}", self.0 / unit),
            None => write!(f, "{}B", self.0),
        }
    }
}

/// Durations as text.
pub mod duration {
    use std::borrow::Cow;
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de};

    /// Writes `30s`.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*duration))
    }

    /// Reads `30s`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        humantime::parse_duration(&text)
            .map_err(|_| de::Error::custom(format_args!("`{text}` is not a duration: write it like \"30s\", \"5m\" or \"1h 30m\"")))
    }
}

/// Points in time as text (RFC 3339).
pub mod time {
    use std::borrow::Cow;

    use serde::{Deserialize, Deserializer, Serializer, de};

    use crate::clock::Timestamp;

    /// Writes `2026-01-31T10:00:00.000Z`.
    pub fn serialize<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(time)
    }

    /// Reads `2026-01-31T10:00:00Z`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        let time = humantime::parse_rfc3339(&text).map(Timestamp::from);
        time.map_err(|_| de::Error::custom(format_args!("`{text}` is not a time: write it like \"2026-01-31T10:00:00Z\"")))
    }
}

/// Durations as text, or none.
pub mod duration_option {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    #[derive(Deserialize)]
    #[serde(transparent)]
    struct Text(#[serde(with = "super::duration")] Duration);

    /// Writes `30s`.
    pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => super::duration::serialize(duration, serializer),
            None => serializer.serialize_none(),
        }
    }

    /// Reads `30s`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<Text>::deserialize(deserializer)?.map(|text| text.0))
    }
}

/// Sizes as text; a plain number of bytes is read too.
pub mod size {
    use serde::{Deserialize, Deserializer, Serializer, de};

    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a size like \"1MiB\" or a number of bytes")]
    enum Form {
        Number(u64),
        Text(String),
    }

    /// Writes `1MiB`.
    pub fn serialize<S: Serializer, T: Copy + TryInto<u64>>(size: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&super::ShownSize((*size).try_into().unwrap_or(u64::MAX)))
    }

    /// Reads `1MiB`.
    pub fn deserialize<'de, D: Deserializer<'de>, T: TryFrom<u64>>(deserializer: D) -> Result<T, D::Error> {
        let bytes = match Form::deserialize(deserializer)? {
            Form::Number(bytes) => bytes,
            Form::Text(text) => super::parse_size(&text).map_err(de::Error::custom)?,
        };
        T::try_from(bytes).map_err(|_| de::Error::custom("the size is too large"))
    }
}

/// Sizes as text, or none.
pub mod size_option {
    use serde::{Deserialize, Deserializer, Serializer};

    #[derive(Deserialize)]
    #[serde(transparent)]
    struct Size(#[serde(with = "super::size")] u64);

    /// Writes `1MiB`.
    pub fn serialize<S: Serializer>(size: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        match size {
            Some(size) => super::size::serialize(size, serializer),
            None => serializer.serialize_none(),
        }
    }

    /// Reads `1MiB`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
        Ok(Option::<Size>::deserialize(deserializer)?.map(|size| size.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_and_show() {
        for (text, bytes, shown) in
            [("1MiB", 1 << 20, "1MiB"), ("1500", 1500, "1500B"), ("2 KB", 2000, "2000B"), ("0", 0, "0B"), ("3GiB", 3 << 30, "3GiB")]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
            assert_eq!(ShownSize(bytes).to_string(), shown);
        }
        for text in ["", "MiB", "1.5MiB", "-1", "1 Mib", "99999999999TiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
