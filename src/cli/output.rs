//! How things look on a terminal.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;

use super::failure::Failure;
use crate::model::Timestamp;

/// Writes to standard output. A reader that has seen enough is no failure.
pub(super) fn print(text: impl AsRef<[u8]>) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_ref())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::output(format!("can't write the output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes for programs: one line of JSON.
pub(super) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    print(json(value)?)
}

fn json(value: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string(value).map_err(Failure::internal)?;
    Ok(printable(&text) + "\n")
}

/// JSON without what could harm a terminal: it stands there as an escape, which means the same.
pub(super) fn printable(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if is_harmful(c) {
            // Only within strings: serde_json puts nothing of the kind around them.
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(text, "\\u{unit:04x}").expect("a String takes any text");
            }
        } else {
            text.push(c);
        }
    }
    text
}

fn is_harmful(c: char) -> bool {
    c != '\t' && c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Foreign text without what could move the cursor, colour the screen or turn the line around.
pub(super) fn clean(text: &str) -> Cow<'_, str> {
    if !text.contains(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_harmful(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// Lines of a name and what it is, the latter in one column.
pub(super) struct Facts {
    rows: Vec<(String, String)>,
}

impl Facts {
    pub(super) fn new() -> Self {
        Self { rows: Vec::new() }
    }

    pub(super) fn add(&mut self, name: &str, value: impl ToString) {
        self.rows.push((
            clean(name).into_owned(),
            clean(&value.to_string()).into_owned(),
        ));
    }

    pub(super) fn add_all(&mut self, name: &str, values: impl IntoIterator<Item = impl ToString>) {
        for (place, value) in values.into_iter().enumerate() {
            self.add(if place == 0 { name } else { "" }, value);
        }
    }
}

impl std::fmt::Display for Facts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let width = self
            .rows
            .iter()
            .map(|(name, _)| name.chars().count())
            .max()
            .unwrap_or(0);
        self.rows
            .iter()
            .try_for_each(|(name, value)| writeln!(f, "{name:<width$}  {value}"))
    }
}

/// Lines of columns.
pub(super) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub(super) fn new(titles: [&str; N]) -> Self {
        Self {
            rows: vec![titles.map(str::to_owned)],
        }
    }

    pub(super) fn add(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| clean(&cell).into_owned()));
    }
}

impl<const N: usize> std::fmt::Display for Table<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let widths: [usize; N] = std::array::from_fn(|column| {
            self.rows
                .iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        });
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(widths) {
                write!(line, "{cell:<width$}  ")?;
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// An instant in this machine's time zone and in UTC.
pub(super) fn both(time: Timestamp) -> String {
    match local(time) {
        Some(local) => format!("{local} ({time})"),
        None => time.to_string(),
    }
}

/// An instant in this machine's time zone.
pub(super) fn local(time: Timestamp) -> Option<String> {
    let seconds = libc::time_t::try_from(time.as_secs()).ok()?;
    let mut text = [0u8; 64];
    // SAFETY: localtime_r writes the whole `parts` or returns null; strftime writes at most the
    // buffer's length and returns how much, without the final zero.
    let length = unsafe {
        let mut parts = std::mem::zeroed::<libc::tm>();
        if libc::localtime_r(&raw const seconds, &raw mut parts).is_null() {
            return None;
        }
        libc::strftime(
            text.as_mut_ptr().cast(),
            text.len(),
            c"%Y-%m-%d %H:%M:%S %Z".as_ptr(),
            &raw const parts,
        )
    };
    String::from_utf8(text[..length].to_vec()).ok()
}

/// A length of time for people.
pub(super) fn length(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..172_800 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} days", seconds / 86400),
    }
}

/// A path or another word as a shell reads it.
pub(super) fn shell(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn foreign_text_can_not_move_the_cursor() {
        assert_eq!(clean("a\u{1b}[31mb\nc\u{202e}"), r"a\u{1b}[31mb\nc\u{202e}");
        assert_eq!(clean("grüße"), "grüße");
    }

    #[test]
    fn words_reach_the_shell_whole() {
        assert_eq!(shell("/run/user/1000/hallpass"), "/run/user/1000/hallpass");
        assert_eq!(shell("/tmp/a b'c"), r"'/tmp/a b'\''c'");
        assert_eq!(shell(""), "''");
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(["A", "BB"]);
        table.add(["long".to_owned(), "x".to_owned()]);
        assert_eq!(table.to_string(), "A     BB\nlong  x\n");
    }

    proptest! {
        #[test]
        fn nothing_clean_holds_control_characters(text: String) {
            prop_assert!(!clean(&text).chars().any(|c| c.is_control() && c != '\t'));
        }
    }
}
