//! Reads JSON of the kind that the server writes, in less than half of the time that it takes when it
//! may be any JSON.

/// How deep objects and lists may stand in each other. In entries it is five.
const DEEPEST: usize = 16;
/// How many bytes are looked at together.
const BLOCK: usize = 64;

/// A place in a JSON text.
///
/// What is not JSON gives nothing, and so does much that is: white space, escapes in names, `\u`,
/// numbers that are negative or not whole. Only a complete parser can tell which of the two it was.
pub(super) struct Scan<'a> {
    text: &'a str,
    at: usize,
    /// Those from `at` on.
    marks: Marks<'a>,
}

impl<'a> Scan<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            text,
            at: 0,
            marks: Marks::new(text.as_bytes()),
        }
    }

    /// Nothing may follow.
    pub(super) fn end(&self) -> Option<()> {
        (self.at == self.text.len()).then_some(())
    }

    /// An object. `member` reads the value of each member by its name.
    #[inline(always)]
    pub(super) fn object(
        &mut self,
        mut member: impl FnMut(&mut Self, &'a str) -> Option<()>,
    ) -> Option<()> {
        self.expect(b'{')?;
        if self.passes(b'}') {
            return Some(());
        }
        loop {
            let name = self.string()?;
            self.expect(b':')?;
            member(self, name)?;
            if !self.passes(b',') {
                return self.expect(b'}');
            }
        }
    }

    /// What `value` reads, unless it is null.
    #[inline(always)]
    pub(super) fn nullable<T>(
        &mut self,
        value: impl FnOnce(&mut Self) -> Option<T>,
    ) -> Option<Option<T>> {
        if self.peek() == Some(b'n') {
            self.word("null")?;
            return Some(None);
        }
        value(self).map(Some)
    }

    /// A string without escapes.
    #[inline(always)]
    pub(super) fn string(&mut self) -> Option<&'a str> {
        self.open()?;
        let end = self.marks.next()?;
        let string = self.text.get(self.at..end)?;
        self.at = end;
        self.expect(b'"')?;
        Some(string)
    }

    /// A string as it stands there, with its quotes and escapes.
    #[inline(always)]
    pub(super) fn raw_string(&mut self) -> Option<&'a str> {
        let begin = self.at;
        self.open()?;
        loop {
            self.at = self.marks.next()?;
            if self.passes(b'"') {
                return self.text.get(begin..self.at);
            }
            self.expect(b'\\')?;
            match self.peek()? {
                // What is escaped is a mark itself.
                b'"' | b'\\' => self.at = self.marks.next()?,
                b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                _ => return None,
            }
            self.at += 1;
        }
    }

    /// The digits of a whole number.
    #[inline(always)]
    pub(super) fn digits(&mut self) -> Option<&'a str> {
        let begin = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        let digits = self.text.get(begin..self.at)?;
        let is_number = digits == "0" || !(digits.is_empty() || digits.starts_with('0'));
        is_number.then_some(digits)
    }

    /// Any value.
    #[inline(always)]
    pub(super) fn skip(&mut self) -> Option<()> {
        self.skip_within(DEEPEST)
    }

    fn skip_within(&mut self, depth: usize) -> Option<()> {
        match self.peek()? {
            b'"' => self.raw_string().map(drop),
            b'{' => {
                let depth = depth.checked_sub(1)?;
                self.object(|scan, _| scan.skip_within(depth))
            }
            b'[' => self.skip_list(depth.checked_sub(1)?),
            b'n' => self.word("null"),
            b't' => self.word("true"),
            b'f' => self.word("false"),
            _ => self.digits().map(drop),
        }
    }

    fn skip_list(&mut self, depth: usize) -> Option<()> {
        self.expect(b'[')?;
        if self.passes(b']') {
            return Some(());
        }
        loop {
            self.skip_within(depth)?;
            if !self.passes(b',') {
                return self.expect(b']');
            }
        }
    }

    fn word(&mut self, word: &str) -> Option<()> {
        let rest = self.text.get(self.at..)?;
        self.at += word.len();
        rest.starts_with(word).then_some(())
    }

    /// The quote that a string begins with.
    #[inline(always)]
    fn open(&mut self) -> Option<()> {
        let is_mark = self.marks.next()? == self.at;
        is_mark.then_some(())?;
        self.expect(b'"')
    }

    #[inline(always)]
    fn expect(&mut self, byte: u8) -> Option<()> {
        self.passes(byte).then_some(())
    }

    #[inline(always)]
    fn passes(&mut self, byte: u8) -> bool {
        let is_there = self.peek() == Some(byte);
        self.at += usize::from(is_there);
        is_there
    }

    #[inline(always)]
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }
}

/// Where the bytes are that can't stand in a string for themselves: quotes, backslashes and control
/// characters.
///
/// They are found for a whole block at once, before anybody knows where its strings begin: so the
/// processor does not wait for the end of one string to look for that of the next.
struct Marks<'a> {
    /// What was not looked at yet.
    rest: &'a [u8],
    /// Where the block ends that was looked at last.
    end: usize,
    /// Its marks that were not given yet, the first as the lowest bit.
    left: u64,
}

impl<'a> Marks<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self {
            rest: bytes,
            end: 0,
            left: 0,
        }
    }

    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        while self.left == 0 {
            self.look()?;
        }
        let place = self.left.trailing_zeros() as usize;
        self.left &= self.left - 1;
        Some(self.end - BLOCK + place)
    }

    #[inline(always)]
    fn look(&mut self) -> Option<()> {
        if let Some((block, rest)) = self.rest.split_first_chunk() {
            self.left = marks(block);
            self.rest = rest;
        } else if self.rest.is_empty() {
            return None;
        } else {
            let mut block = [b' '; BLOCK];
            block[..self.rest.len()].copy_from_slice(self.rest);
            self.left = marks(&block);
            self.rest = &[];
        }
        self.end += BLOCK;
        Some(())
    }
}

/// A bit for each mark of a block.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn marks(block: &[u8; BLOCK]) -> u64 {
    use std::arch::x86_64::{
        _mm_cmpeq_epi8, _mm_loadu_si128, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128,
        _mm_set1_epi8,
    };
    let (parts, _) = block.as_chunks::<16>();
    parts.iter().rev().fold(0, |marks, part| {
        // SAFETY: every x86_64 has SSE2, and what is read are the 16 bytes of `part`.
        let found = unsafe {
            let bytes = _mm_loadu_si128(part.as_ptr().cast());
            let is = |byte: u8| _mm_cmpeq_epi8(bytes, _mm_set1_epi8(byte as i8));
            let control = _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(0x1f)), bytes);
            let quoting = _mm_or_si128(is(b'"'), is(b'\\'));
            _mm_movemask_epi8(_mm_or_si128(quoting, control))
        };
        marks << 16 | u64::from(found as u16)
    })
}

/// The same on other processors.
#[cfg(any(test, not(target_arch = "x86_64")))]
fn marks_one_by_one(block: &[u8; BLOCK]) -> u64 {
    let is_mark = |byte: &u8| matches!(byte, b'"' | b'\\' | ..b' ');
    let bits = block.iter().rev().map(is_mark);
    bits.fold(0, |marks, mark| marks << 1 | u64::from(mark))
}

#[cfg(not(target_arch = "x86_64"))]
use marks_one_by_one as marks;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::de::IgnoredAny;

    use super::*;

    fn is_taken(text: &str) -> bool {
        let mut scan = Scan::new(text);
        scan.skip().and_then(|()| scan.end()).is_some()
    }

    fn is_json(text: &str) -> bool {
        serde_json::from_str::<IgnoredAny>(text).is_ok()
    }

    #[test]
    fn what_the_server_may_write_is_taken() {
        for json in [
            "{}",
            "[]",
            "\"\"",
            "0",
            "12345678901234567890123",
            "null",
            "true",
            "[false,null,[[]],{\"a\":[1,\"\"]}]",
            r#"{"a":"\n\\\"\/\t\r\b\f","é":"🔑"}"#,
        ] {
            assert!(is_taken(json), "{json}");
            assert!(is_json(json), "{json}");
        }
    }

    #[test]
    fn what_is_not_json_is_not_taken() {
        for no_json in [
            "",
            "{",
            "}",
            "[",
            "[1",
            "[1,",
            "[1,]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{1:1}",
            "\"",
            "\"a",
            "a",
            "01",
            "1 1",
            "nul",
            "nulll",
            "truefalse",
            "[1}",
            "{\"a\":1]",
            "\"a\nb\"",
            "\"\u{1}\"",
            "\"\u{1f}\"",
            r#""\""#,
            r#""\a""#,
            r#""\"#,
            "\"\"\"",
            "[\"\"\"]",
            "{}{}",
            ",",
            "[,1]",
            "{,}",
            "\"a\" \"b\"",
        ] {
            assert!(!is_taken(no_json), "{no_json:?}");
            assert!(!is_json(no_json), "{no_json:?}");
        }
    }

    #[test]
    fn strings_may_end_anywhere_in_a_block() {
        for length in 0..3 * BLOCK {
            for end in ["", "\\\\", "\\\"", "\\n", "\u{1f511}"] {
                let string = format!("\"{}{end}\"", "a".repeat(length));
                let list = format!("[{string},{string}]");
                assert!(is_taken(&list), "{list}");
                assert_eq!(Scan::new(&string).raw_string(), Some(string.as_str()));
                for cut in 0..list.len() {
                    let cut = list.get(..cut).unwrap_or_default();
                    assert!(!is_taken(cut), "{cut}");
                }
            }
        }
    }

    #[test]
    fn what_is_nested_too_deeply_is_left_to_others() {
        for depth in [DEEPEST, DEEPEST + 1, 100_000] {
            let lists = "[".repeat(depth) + &"]".repeat(depth);
            assert_eq!(is_taken(&lists), depth == DEEPEST);
            assert!(!is_taken(&"{\"a\":".repeat(depth)));
        }
    }

    proptest! {
        #[test]
        fn marks_are_the_same_one_by_one(
            block in proptest::array::uniform32((any::<u8>(), prop::sample::select(&b"\"\\\x1f az"[..])))
        ) {
            let bytes: Vec<u8> = block.iter().flat_map(|(one, other)| [*one, *other]).collect();
            let block = bytes.first_chunk().unwrap();
            prop_assert_eq!(marks(block), marks_one_by_one(block));
        }

        #[test]
        fn nothing_else_than_json_is_taken(text in r#"([\[\]{}:,"\\ 0-9a-z\n]|"[a-z]{0,3}"|null|true|"a":){0,12}"#) {
            prop_assert!(!is_taken(&text) || is_json(&text));
        }
    }
}
