//! An entry as a syslog message (RFC 5424).

use std::fs;

use serde::Deserialize;

/// Facility 13 (log audit) with severity 5 (notice) or 4 (warning).
const NOTICE: u8 = 13 * 8 + 5;
const WARNING: u8 = 13 * 8 + 4;

/// Marks a message as UTF-8, as section 6.4 demands.
const BOM: &str = "\u{feff}";

/// What is taken out of an entry. Of one that can't be read, nothing: it is sent all the same.
#[derive(Default, Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    time: &'a str,
    #[serde(borrow)]
    event: Kind<'a>,
}

#[derive(Default, Deserialize)]
struct Kind<'a> {
    kind: &'a str,
}

/// The message of the entry at `index` of the log of that name, which holds nothing that would have
/// to be escaped.
pub(super) fn message(index: u64, entry: &str, host: &str, log: &str) -> String {
    let head: Head<'_> = serde_json::from_str(entry).unwrap_or_default();
    let kind = head.event.kind;
    let priority = if kind.ends_with("-refused") {
        WARNING
    } else {
        NOTICE
    };
    let (time, kind) = (field(head.time, 32), field(kind, 32));
    format!(
        "<{priority}>1 {time} {host} hallpass - {kind} [hallpass@32473 index=\"{index}\" \
         log=\"{log}\"] {BOM}{entry}"
    )
}

/// The same behind its length, by which messages on a stream are told apart (RFC 5425).
pub(super) fn frame(message: &str) -> Vec<u8> {
    format!("{} {message}", message.len()).into_bytes()
}

/// This machine's name as messages have it.
pub(super) fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    field(name.trim(), 255).to_owned()
}

/// A field of the head, or the sign that there is none.
fn field(word: &str, longest: usize) -> &str {
    let is_legal =
        (1..=longest).contains(&word.len()) && word.bytes().all(|c| c.is_ascii_graphic());
    if is_legal { word } else { "-" }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_is_that_of_rfc_5424() {
        let entry =
            r#"{"index":7,"time":"2026-01-31T09:30:00.250Z","event":{"kind":"user-removed"}}"#;
        assert_eq!(
            message(7, entry, "ca-1", "hallpass/0123456789abcdef"),
            format!(
                "<109>1 2026-01-31T09:30:00.250Z ca-1 hallpass - user-removed [hallpass@32473 \
                 index=\"7\" log=\"hallpass/0123456789abcdef\"] \u{feff}{entry}"
            )
        );
        let refused = entry.replace("user-removed", "request-refused");
        assert!(message(7, &refused, "-", "-").starts_with("<108>1 2026"));
        assert!(message(8, "ä", "-", "-").starts_with("<109>1 - - hallpass - - [hallpass@32473 "));
        assert_eq!(frame("ä"), "2 ä".as_bytes());
    }

    proptest! {
        #[test]
        fn no_entry_breaks_the_head(entry: String, time: String, kind: String) {
            let event = serde_json::json!({"time": time, "event": {"kind": kind}}).to_string();
            for entry in [entry, event] {
                let text = message(1, &entry, "h", "l");
                let (head, rest) = text.split_once(BOM).unwrap();
                prop_assert_eq!(rest, entry.as_str());
                prop_assert!(head.bytes().all(|c| c.is_ascii_graphic() || c == b' '));
                prop_assert_eq!(head.split(' ').count(), 10);
            }
        }
    }
}
