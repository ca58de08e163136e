use std::fmt;

/// A value that is not a legal one of its kind.
///
/// Its text names the kind, quotes the value with control characters escaped and cut to a length
/// that fits a line, and says what would be legal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {value} is not legal: {expected}")]
pub struct Invalid {
    kind: &'static str,
    value: Quoted,
    expected: String,
}

impl Invalid {
    /// `kind` is what the value was meant to be, `expected` a sentence part such as
    /// `use 1 to 48 of a-z, 0-9 and '-'`.
    pub fn new(kind: &'static str, value: &str, expected: impl Into<String>) -> Self {
        Self {
            kind,
            value: Quoted::new(value),
            expected: expected.into(),
        }
    }
}

/// Foreign text made safe to stand in an error or a log line.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Quoted(String);

impl Quoted {
    const LONGEST: usize = 60;

    fn new(value: &str) -> Self {
        let mut shown: String = value.chars().take(Self::LONGEST).collect();
        let cut = shown.len() < value.len();
        shown = shown.escape_debug().to_string();
        if cut {
            shown.push_str("...");
        }
        Self(shown)
    }
}

impl fmt::Display for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0)
    }
}
