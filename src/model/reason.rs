use std::fmt;
use std::str::FromStr;

use regex::Regex;
use serde::{Deserialize, Serialize};

use super::Invalid;

/// Why access is asked for, in a person's words or as a ticket number. Kept in the log, not on
/// the certificate. 1 to 500 characters on one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reason(String);

impl Reason {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Reason {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let length = text.chars().count();
        if (1..=500).contains(&length) && !text.trim().is_empty() && !text.chars().any(invisible) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Invalid::new(
                "reason",
                text,
                "use 1 to 500 characters on one line, without control characters",
            ))
        }
    }
}

/// Control characters, and the format characters that reorder or hide what stands on a line.
fn invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

impl TryFrom<String> for Reason {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<Reason> for String {
    fn from(reason: Reason) -> Self {
        reason.0
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a role demands of the reason.
#[derive(Clone, Debug)]
pub enum ReasonRule {
    /// May be left out.
    Optional,
    /// Must be there.
    Required,
    /// Must be there and match as a whole.
    Pattern(Regex),
}

impl ReasonRule {
    /// A rule by pattern. The pattern is anchored at both ends.
    ///
    /// # Errors
    /// When it is no regular expression, or one that would need more than 64 KiB.
    pub fn pattern(pattern: &str) -> Result<Self, Invalid> {
        let compile = |text: &str| regex::RegexBuilder::new(text).size_limit(64 * 1024).build();
        // Whole by itself first: the unbalanced `a)|(b` would slip out of the anchors.
        compile(pattern)
            .and_then(|_| compile(&format!("^(?:{pattern})$")))
            .map(Self::Pattern)
            .map_err(|_| Invalid::new("reason pattern", pattern, "use a regular expression"))
    }

    /// The pattern as it was written.
    pub fn written_pattern(&self) -> Option<&str> {
        match self {
            Self::Pattern(regex) => regex
                .as_str()
                .strip_prefix("^(?:")
                .and_then(|rest| rest.strip_suffix(")$")),
            Self::Optional | Self::Required => None,
        }
    }

    /// Whether `reason` is good enough.
    pub fn accepts(&self, reason: Option<&Reason>) -> bool {
        match (self, reason) {
            (Self::Optional, _) | (Self::Required, Some(_)) => true,
            (Self::Pattern(regex), Some(reason)) => regex.is_match(reason.as_str()),
            (Self::Required | Self::Pattern(_), None) => false,
        }
    }
}

impl fmt::Display for ReasonRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Optional => f.write_str("optional"),
            Self::Required => f.write_str("required"),
            Self::Pattern(_) => write!(f, "must match {}", self.written_pattern().unwrap_or("")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_the_whole_reason() {
        let rule = ReasonRule::pattern("INC-[0-9]+|CHG-[0-9]+").unwrap();
        let reason = |text: &str| text.parse::<Reason>().unwrap();
        assert!(rule.accepts(Some(&reason("INC-7"))));
        assert!(rule.accepts(Some(&reason("CHG-7"))));
        assert!(!rule.accepts(Some(&reason("see INC-7"))));
        assert!(!rule.accepts(Some(&reason("INC-7 "))));
        assert!(!rule.accepts(None));
        assert_eq!(rule.written_pattern(), Some("INC-[0-9]+|CHG-[0-9]+"));
        assert!(ReasonRule::pattern("(").is_err());
        assert!(ReasonRule::pattern("a)|(?:b").is_err());
    }

    #[test]
    fn a_reason_is_one_visible_line() {
        for bad in ["", "  ", "a\nb", "a\0", "a\u{202e}b", &"x".repeat(501)] {
            assert!(bad.parse::<Reason>().is_err(), "{bad:?}");
        }
        assert!("Pager 4711: Röntgen-DB hängt".parse::<Reason>().is_ok());
    }
}
