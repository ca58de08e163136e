//! An entry of the audit log, for people. Entries are taken as JSON: a newer server may log more
//! than this program knows of.

use std::fmt::Write;

use serde_json::Value;

use super::output::{both, clean};
use crate::model::Timestamp;

/// Its line in a table: entry, time, kind, user, role, purpose, serial, detail.
pub(super) fn row(entry: &Value) -> [String; 8] {
    let event = &entry["event"];
    let asked = &event["request"];
    let by = text(&event["by"]["requester"]);
    let user = if by.is_empty() {
        text(&event["user"])
    } else {
        by
    };
    [
        text(&entry["index"]),
        text(&entry["time"]),
        text(&event["kind"]),
        user,
        text(&asked["role"]),
        text(&asked["purpose"]),
        text(&event["certificate"]["serial"]),
        detail(event),
    ]
}

/// What matters most of an event beyond the table's columns.
fn detail(event: &Value) -> String {
    let refused = &event["refused"];
    if !refused.is_null() {
        let mut words = format!("{}: {}", text(&refused["code"]), text(&refused["detail"]));
        if let Some(host) = event["host"].as_str() {
            write!(words, " (host {host})").expect("a String takes any text");
        }
        if let Some(source) = event["source"].as_str() {
            write!(words, " (from {source})").expect("a String takes any text");
        }
        return words;
    }
    if let Some(names) = event["names"].as_array() {
        return names.iter().map(text).collect::<Vec<_>>().join(", ");
    }
    if event["kind"] == "approval-given" {
        return format!(
            "{} for {}",
            text(&event["entry"]),
            text(&event["requester"])
        );
    }
    let reason = text(&event["request"]["reason"]);
    if !reason.is_empty() {
        return reason;
    }
    let mut words = Vec::new();
    if !event["by"].is_null() {
        words.push(text(&event["user"]));
    }
    words.extend(["fingerprint", "version", "file"].map(|name| text(&event[name])));
    words.extend(["provider", "subject"].map(|name| text(&event["account"][name])));
    if let Some(groups) = event["groups"].as_array() {
        words.push(groups.iter().map(text).collect::<Vec<_>>().join(", "));
    }
    words.retain(|word| !word.is_empty());
    words.join(" ")
}

/// All that it says.
pub(super) fn in_words(entry: &Value) -> String {
    let mut words = Words {
        text: String::new(),
    };
    words.add(0, "entry", &entry["index"]);
    words.add(0, "time", &entry["time"]);
    if let Some(event) = entry["event"].as_object() {
        words.add(0, "kind", &event["kind"]);
        for (name, value) in event.iter().filter(|(name, _)| *name != "kind") {
            words.add(0, name, value);
        }
    }
    words.text
}

struct Words {
    text: String,
}

impl Words {
    const COLUMN: usize = 16;

    fn add(&mut self, depth: usize, name: &str, value: &Value) {
        let name = name.replace('_', " ");
        match value {
            Value::Object(parts) => {
                self.line(depth, &name, "");
                for (name, value) in parts {
                    self.add(depth + 1, name, value);
                }
            }
            Value::Array(parts) if parts.iter().any(|part| part.is_object() || part.is_array()) => {
                for part in parts {
                    self.add(depth, &name, part);
                }
            }
            Value::Array(parts) => {
                self.line(
                    depth,
                    &name,
                    &parts.iter().map(text).collect::<Vec<_>>().join(", "),
                );
            }
            Value::Null => {}
            // The one number that is no count: a lifetime.
            Value::Number(seconds) if name == "ttl" => {
                self.line(depth, &name, &format!("{seconds} s"));
            }
            value => self.lines(depth, &name, &text(value)),
        }
    }

    /// Text of several lines, such as PEM, stands below its name.
    fn lines(&mut self, depth: usize, name: &str, value: &str) {
        if let Ok(time) = value.parse::<Timestamp>() {
            return self.line(depth, name, &both(time));
        }
        let mut lines = value.lines();
        match (lines.next(), lines.clone().next()) {
            (Some(only), None) => self.line(depth, name, only),
            _ => {
                self.line(depth, name, "");
                for line in value.lines() {
                    self.line(depth + 1, line, "");
                }
            }
        }
    }

    fn line(&mut self, depth: usize, name: &str, value: &str) {
        let (indent, width) = (2 * depth, Self::COLUMN.saturating_sub(2 * depth));
        let line = format!("{:indent$}{:<width$}  {}", "", clean(name), clean(value));
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_entry_is_a_line_and_a_page() {
        let entry = json!({
            "index": 7,
            "time": "2026-01-31T09:30:00Z",
            "event": {
                "kind": "request-refused",
                "by": {"requester": "bob", "method": "ssh-key"},
                "request": {"role": "deploy", "purpose": "incident", "ttl": 600},
                "refused": {"request": "POST /v1", "code": "denied", "detail": "no \u{1b}[31m"},
                "certificate": {"certificate": "-----BEGIN\nAAAA\n"},
            },
        });
        assert_eq!(
            row(&entry)[..6],
            [
                "7",
                "2026-01-31T09:30:00Z",
                "request-refused",
                "bob",
                "deploy",
                "incident"
            ]
        );
        assert_eq!(row(&entry)[7], "denied: no \u{1b}[31m");
        let words = in_words(&entry);
        for line in [
            "entry             7",
            "  role            deploy",
            "    -----BEGIN",
        ] {
            assert!(words.contains(line), "{words}");
        }
        assert!(words.contains(r"no \u{1b}[31m") && !words.contains('\u{1b}'));
    }
}
