//! The CA's log live, over as many connections as it takes.

use std::io::{self, BufRead, BufReader, Read};
use std::time::Duration;

use serde_json::value::RawValue;

use super::{Api, ApiError, ConfigFolder, History, HistoryError, Query};
use crate::model::EntryIndex;

/// After so long without a word from the server, which sends one each 15 s, it is gone.
const SILENCE: Duration = Duration::from_secs(45);
/// How soon the first attempt follows on a broken connection, and the longest time between two.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// No entry is longer.
const LONGEST_LINE: u64 = 1 << 20;

/// Follows the log, and goes on after the last entry that it gave when the connection breaks.
pub struct Follower<'a> {
    folder: &'a ConfigFolder,
    api: &'a Api,
    filter: Query,
    next: EntryIndex,
    events: Option<Events>,
    pause: Duration,
    /// Why the server does not go on, as it was told last.
    refusal: Option<String>,
}

/// What there is to tell.
#[derive(Debug)]
pub enum News {
    /// The next entry, as the log has it.
    Entry(EntryIndex, Box<RawValue>),
    /// The connection was lost. It is tried again until it is back.
    Lost(String),
    /// The server is there and does not go on, for a reason that may pass. It is tried again.
    Refused(String),
    /// The connection is back, and nothing was missed.
    Regained,
}

impl<'a> Follower<'a> {
    /// Connects, to follow from `from` on what fits `filter`, the target's query without `from`.
    ///
    /// # Errors
    /// When there is no good answer, or the log was rewritten.
    pub fn start(
        folder: &'a ConfigFolder,
        api: &'a Api,
        filter: Query,
        from: EntryIndex,
    ) -> Result<Self, HistoryError> {
        let mut follower = Self {
            folder,
            api,
            filter,
            next: from,
            events: None,
            pause: FIRST_PAUSE,
            refusal: None,
        };
        follower.events = Some(follower.connect()?);
        Ok(follower)
    }

    /// Waits for what comes next.
    ///
    /// # Errors
    /// When it makes no sense to try again: the log was rewritten, or may not be read any more.
    pub fn wait(&mut self) -> Result<News, HistoryError> {
        loop {
            let Some(events) = &mut self.events else {
                std::thread::sleep(self.pause);
                self.pause = LONGEST_PAUSE.min(self.pause * 2);
                match self.connect() {
                    Ok(events) => self.events = Some(events),
                    Err(error) if is_passing(&error) => {
                        let HistoryError::Api(ApiError::Refused { detail, .. }) = error else {
                            continue;
                        };
                        if self.refusal.as_ref() == Some(&detail) {
                            continue;
                        }
                        self.refusal = Some(detail.clone());
                        return Ok(News::Refused(detail));
                    }
                    Err(error) => return Err(error),
                }
                self.refusal = None;
                return Ok(News::Regained);
            };
            let why = match events.next() {
                Ok(Some(event)) => {
                    self.pause = FIRST_PAUSE;
                    match event {
                        Event::Entry(index, entry) => return self.entry(index, entry),
                        Event::Quiet => continue,
                    }
                }
                Ok(None) => "the server ended it".to_owned(),
                Err(why) => why,
            };
            self.events = None;
            return Ok(News::Lost(why));
        }
    }

    fn entry(&mut self, index: u64, entry: Box<RawValue>) -> Result<News, HistoryError> {
        if index < self.next.0 {
            let what = format!(
                "entry {index}, when {} and later were asked for",
                self.next.0
            );
            return Err(self.api.strange(what).into());
        }
        self.next = EntryIndex(index.saturating_add(1));
        Ok(News::Entry(EntryIndex(index), entry))
    }

    /// Checks that the log is still the one seen before: if it was put back to an old backup, it
    /// would have other entries where this one goes on.
    fn connect(&self) -> Result<Events, HistoryError> {
        History::new(self.folder, self.api).newest()?;
        let target = self.filter.clone().with("from", Some(self.next.0));
        let stream = self.api.stream(target.as_str(), SILENCE)?;
        Ok(Events(BufReader::new(Box::new(stream))))
    }
}

/// Whether it may be better in a while.
fn is_passing(error: &HistoryError) -> bool {
    matches!(
        error,
        HistoryError::Api(
            ApiError::Unreachable { .. }
                | ApiError::Strange { .. }
                | ApiError::Refused {
                    status: 408 | 429 | 500..,
                    ..
                }
        )
    )
}

/// A stream of server-sent events.
struct Events(BufReader<Box<dyn Read>>);

enum Event {
    Entry(u64, Box<RawValue>),
    /// The server shows that it is there.
    Quiet,
}

impl Events {
    /// The next event; nothing at the end. One that broke off half-way is none.
    fn next(&mut self) -> Result<Option<Event>, String> {
        let (mut index, mut entry) = (None, None);
        loop {
            let mut line = String::new();
            let length = self
                .0
                .by_ref()
                .take(LONGEST_LINE)
                .read_line(&mut line)
                .map_err(|error| in_words(&error))?;
            if length == 0 {
                return Ok(None);
            }
            let Some(line) = line.strip_suffix('\n') else {
                return Err("it broke off within an entry".to_owned());
            };
            if let Some(id) = line.strip_prefix("id: ") {
                index = Some(id.parse().map_err(|_| "an entry without an index")?);
            } else if let Some(data) = line.strip_prefix("data: ") {
                let data = serde_json::from_str(data).map_err(|_| "an entry that is no JSON")?;
                entry = Some(data);
            } else if line.starts_with(':') {
                return Ok(Some(Event::Quiet));
            } else if line.is_empty()
                && let (Some(index), Some(entry)) = (index, entry.take())
            {
                return Ok(Some(Event::Entry(index, entry)));
            }
        }
    }
}

/// Why reading failed.
fn in_words(error: &io::Error) -> String {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    match cause {
        Some(ureq::Error::Timeout(_)) => {
            format!("the server was silent for {} s", SILENCE.as_secs())
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(text: &'static str) -> Events {
        Events(BufReader::new(Box::new(text.as_bytes())))
    }

    #[test]
    fn silence_is_told_in_words() {
        let silence = ureq::Error::Timeout(ureq::Timeout::PerRead).into_io();
        assert_eq!(in_words(&silence), "the server was silent for 45 s");
        assert_eq!(in_words(&io::Error::other("other")), "other");
    }

    #[test]
    fn events_are_taken_whole_or_not_at_all() {
        let mut stream = events(":\n\nid: 7\ndata: {\"a\": 1}\n\nretry: 1\n\nid: 8\ndata: {}\n");
        assert!(matches!(stream.next(), Ok(Some(Event::Quiet))));
        let Ok(Some(Event::Entry(7, entry))) = stream.next() else {
            panic!("no entry");
        };
        assert_eq!(entry.get(), "{\"a\": 1}");
        assert!(matches!(stream.next(), Ok(None)));
        for bad in [
            "id: x\n",
            "id: -1\n",
            "data: {\n\n",
            "id: 1\ndata: {}",
            "\u{0}",
        ] {
            assert!(events(bad).next().is_err(), "{bad:?}");
        }
    }
}
