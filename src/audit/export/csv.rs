//! Exports as RFC 4180 has them: a table for people, with the entry itself in the last column.

use std::fmt::Write;

use serde_json::Value;

/// The columns. What is not in them is in the last.
pub(super) const HEADER: &str =
    "index,time,kind,user,subject,source,role,purpose,reason,ttl,serial,detail,entry\r\n";

/// An entry as a line. `text` is how the log has it.
pub(super) fn line(entry: &Value, text: &str) -> String {
    let event = &entry["event"];
    let (by, request, refused) = (&event["by"], &event["request"], &event["refused"]);
    let source = match &event["source"] {
        Value::Null => &by["source"],
        source => source,
    };
    let detail = match refused["code"].as_str() {
        Some(code) => format!("{code}: {}", words(&refused["detail"])),
        None => words(&event["certificate"]["key_id"]),
    };
    let cells = [
        words(&entry["index"]),
        words(&entry["time"]),
        words(&event["kind"]),
        words(&by["requester"]),
        words(&event["user"]),
        words(source),
        words(&request["role"]),
        words(&request["purpose"]),
        words(&request["reason"]),
        words(&request["ttl"]),
        words(&event["certificate"]["serial"]),
        detail,
    ];
    let mut line = String::new();
    for cell in cells {
        line.push_str(&quoted(&harmless(&cell)));
        line.push(',');
    }
    line.push_str(&quoted(text));
    line.push_str("\r\n");
    line
}

/// The entry in the last cell of a line, when it is a line.
pub(super) fn entry(line: &str) -> Option<String> {
    let mut rest = line.strip_suffix("\r\n")?;
    loop {
        let (cell, after) = cell(rest)?;
        match after.strip_prefix(',') {
            Some(more) => rest = more,
            None => return after.is_empty().then_some(cell),
        }
    }
}

/// The first cell and what stands behind it.
fn cell(text: &str) -> Option<(String, &str)> {
    let Some(mut rest) = text.strip_prefix('"') else {
        let end = text.find(',').unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut cell = String::new();
    loop {
        let end = rest.find('"')?;
        cell.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(more) => {
                cell.push('"');
                rest = more;
            }
            None => return Some((cell, rest)),
        }
    }
}

fn words(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A cell that no spreadsheet takes for a formula, on one line. The entry has it as it was.
fn harmless(cell: &str) -> String {
    let mut shown = String::with_capacity(cell.len());
    if cell.starts_with([
        '=', '+', '-', '@', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}',
    ]) {
        shown.push('\'');
    }
    for c in cell.chars() {
        if c.is_control() {
            write!(shown, "{}", c.escape_default()).expect("a String takes any text");
        } else {
            shown.push(c);
        }
    }
    shown
}

fn quoted(cell: &str) -> String {
    if cell.contains(['"', ',', ' ', '\'']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell.to_owned()
    }
}
