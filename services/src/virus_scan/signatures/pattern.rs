//! Body signatures: hexadecimal octets with wildcards
//! (<https://docs.clamav.net/manual/Signatures/BodySignatureFormat.html>).

use std::ops::Range;

use super::content::{Content, Unfinished};

/// A body signature.
///
/// Unbounded gaps separate *segments*; within a segment, bounded gaps separate *runs* of fixed
/// length. All alternatives of a choice have the same length, so the leftmost match of a segment ends
/// first, and looking for one segment after the other finds a match if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    segments: Vec<Segment>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Segment {
    /// Octets that are at least between the segment before and this one.
    skip: usize,
    first: Run,
    /// Gaps, from and to that many octets, with the runs behind them.
    rest: Vec<(Range<usize>, Run)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Run {
    units: Vec<Unit>,
    length: usize,
    /// The longest literal: where in the run, and what.
    key: (usize, Vec<u8>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Unit {
    /// An octet, by the bits that count.
    Octet { mask: u8, value: u8 },
    /// One of these, or none of these.
    Choice { options: Vec<Vec<u8>>, negated: bool },
}

/// Where a signature may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offset {
    /// Anywhere.
    Any,
    /// At this octet, or so many behind it.
    Start { at: usize, shift: usize },
    /// That many octets before the end, or so many behind that.
    End { before: usize, shift: usize },
}

/// The longest literal that is searched for; what follows is compared where it is found.
const LONGEST_KEY: usize = 256;
/// The largest gap that is bounded: 1 MiB. Each octet of it is a place to try.
const LONGEST_GAP: usize = 1024 * 1024;

impl Pattern {
    /// The pattern in hexadecimal, or why it is none.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut parser = Parser { rest: text.as_bytes(), segments: vec![Segment::default()] };
        while !parser.rest.is_empty() {
            parser.next()?;
        }
        let mut segments = parser.segments;
        for segment in &mut segments {
            segment.first.close();
            segment.rest.iter_mut().for_each(|(_, run)| run.close());
            let runs = std::iter::once(&segment.first).chain(segment.rest.iter().map(|(_, r)| r));
            if runs.into_iter().any(|run| run.length == 0) {
                return Err("a gap has nothing before or behind it".to_owned());
            }
        }
        Ok(Self { segments })
    }

    /// The longest run of octets that stand in every match.
    pub(crate) fn literal(&self) -> &[u8] {
        let runs = self.segments.iter().flat_map(|segment| {
            std::iter::once(&segment.first).chain(segment.rest.iter().map(|(_, run)| run))
        });
        runs.map(|run| run.key.1.as_slice()).max_by_key(|key| key.len()).unwrap_or_default()
    }

    /// Whether the pattern stands in these octets.
    pub(crate) fn matches(
        &self,
        content: &mut Content,
        offset: Offset,
    ) -> Result<bool, Unfinished> {
        let length = content.len();
        let starts = match offset {
            Offset::Any => 0..length,
            Offset::Start { at, shift } => at..at.saturating_add(shift).saturating_add(1),
            Offset::End { before, shift } => match length.checked_sub(before) {
                Some(at) => at..at.saturating_add(shift).saturating_add(1),
                None => return Ok(false),
            },
        };
        let mut starts = starts.start..starts.end.min(length);
        for segment in &self.segments {
            starts.start = starts.start.saturating_add(segment.skip);
            match segment.find(content, starts)? {
                Some(end) => starts = end..length,
                None => return Ok(false),
            }
        }
        Ok(true)
    }
}

impl Segment {
    /// The end of the leftmost match that starts in this range.
    fn find(
        &self,
        content: &mut Content,
        mut starts: Range<usize>,
    ) -> Result<Option<usize>, Unfinished> {
        let (before, key) = (self.first.key.0, &self.first.key.1);
        while starts.start < starts.end {
            // The next place where the key of the first run stands.
            let places = starts.start + before..starts.end + before;
            let Some(found) = content.find(key, places)? else { return Ok(None) };
            let start = found - before;
            if let Some(end) = self.match_at(content, start)? {
                return Ok(Some(end));
            }
            starts.start = start + 1;
        }
        Ok(None)
    }

    /// The first end of a match that starts here.
    fn match_at(&self, content: &mut Content, start: usize) -> Result<Option<usize>, Unfinished> {
        if !self.first.is_at(content, start)? {
            return Ok(None);
        }
        // All places where the runs so far can end, in order.
        let mut ends = vec![start + self.first.length];
        for (gap, run) in &self.rest {
            let mut next = Vec::new();
            let mut at = 0;
            for end in ends {
                // What was tried for an end before this one is not tried again.
                at = at.max(end + gap.start);
                while at < end + gap.end && at < content.len() {
                    if run.is_at(content, at)? {
                        next.push(at + run.length);
                    }
                    at += 1;
                }
            }
            if next.is_empty() {
                return Ok(None);
            }
            ends = next;
        }
        Ok(ends.first().copied())
    }
}

impl Run {
    /// Finds length and key, when all units are there.
    fn close(&mut self) {
        self.length = self.units.iter().map(Unit::len).sum();
        let mut at = 0;
        let mut literal: (usize, Vec<u8>) = (0, Vec::new());
        for unit in &self.units {
            match unit {
                Unit::Octet { mask: 0xff, value } if literal.1.len() < LONGEST_KEY => {
                    literal.1.push(*value);
                    if literal.1.len() > self.key.1.len() {
                        self.key = literal.clone();
                    }
                }
                _ => literal = (at + unit.len(), Vec::new()),
            }
            at += unit.len();
        }
    }

    fn is_at(&self, content: &mut Content, at: usize) -> Result<bool, Unfinished> {
        let Some(mut octets) = content.get(at, self.length)? else { return Ok(false) };
        let mut steps = 0;
        let mut is_at = true;
        for unit in &self.units {
            steps += unit.cost();
            let Some((head, tail)) = octets.split_at_checked(unit.len()) else { break };
            is_at = unit.is(head);
            if !is_at {
                break;
            }
            octets = tail;
        }
        content.take(steps)?;
        Ok(is_at)
    }
}

impl Unit {
    fn len(&self) -> usize {
        match self {
            Self::Octet { .. } => 1,
            Self::Choice { options, .. } => options.first().map_or(0, Vec::len),
        }
    }

    fn cost(&self) -> usize {
        match self {
            Self::Octet { .. } => 1,
            Self::Choice { options, .. } => options.len(),
        }
    }

    fn is(&self, octets: &[u8]) -> bool {
        match self {
            Self::Octet { mask, value } => octets.first().is_some_and(|o| o & mask == *value),
            Self::Choice { options, negated } => {
                options.iter().any(|option| option == octets) != *negated
            }
        }
    }
}

struct Parser<'a> {
    rest: &'a [u8],
    segments: Vec<Segment>,
}

impl Parser<'_> {
    /// Reads one octet, choice or gap.
    fn next(&mut self) -> Result<(), String> {
        match self.rest {
            [b'*', rest @ ..] => {
                self.rest = rest;
                self.segments.push(Segment::default());
            }
            [b'{', rest @ ..] => {
                let gap = self.until(rest, b'}')?;
                self.gap(&gap)?;
            }
            [b'!', b'(', rest @ ..] => self.choice(rest, true)?,
            [b'(', rest @ ..] => self.choice(rest, false)?,
            [b'[', ..] => return Err("not supported: anchored wildcards [n-m]".to_owned()),
            [high, low, rest @ ..] => {
                let (Some((high_mask, high)), Some((low_mask, low))) =
                    (nibble(*high), nibble(*low))
                else {
                    return Err(format!(
                        "{:?} is no octet",
                        String::from_utf8_lossy(&[*high, *low])
                    ));
                };
                self.rest = rest;
                self.push(Unit::Octet { mask: high_mask << 4 | low_mask, value: high << 4 | low });
            }
            _ => return Err("half an octet at the end".to_owned()),
        }
        Ok(())
    }

    fn until(&mut self, rest: &[u8], end: u8) -> Result<String, String> {
        let length = memchr::memchr(end, rest)
            .ok_or_else(|| format!("no {:?} at the end", char::from(end)))?;
        let (inner, after) = rest.split_at(length);
        let inner = String::from_utf8_lossy(inner).into_owned();
        let skipped = self.rest.len() - after.len() + 1;
        self.rest = self.rest.get(skipped..).unwrap_or_default();
        Ok(inner)
    }

    fn gap(&mut self, gap: &str) -> Result<(), String> {
        let wrong = || format!("{{{gap}}} is no gap");
        let number = |text: &str| text.parse::<usize>().map_err(|_| wrong());
        let (from, to) = match gap.split_once('-') {
            None => (number(gap)?, Some(number(gap)?)),
            Some(("", to)) => (0, Some(number(to)?)),
            Some((from, "")) => (number(from)?, None),
            Some((from, to)) => (number(from)?, Some(number(to)?)),
        };
        match to {
            Some(to) if to < from => return Err(wrong()),
            Some(to) if to > LONGEST_GAP => {
                return Err(format!("not supported: {{{gap}}}, a gap above {LONGEST_GAP}"));
            }
            Some(to) => {
                let segment = self.segments.last_mut().ok_or_else(wrong)?;
                segment.rest.push((from..to + 1, Run::default()));
            }
            None => self.segments.push(Segment { skip: from, ..Segment::default() }),
        }
        Ok(())
    }

    fn choice(&mut self, rest: &[u8], negated: bool) -> Result<(), String> {
        let inner = self.until(rest, b')')?;
        let options = inner
            .split('|')
            .map(|option| octets(option).ok_or_else(|| format!("not supported: choice ({inner})")))
            .collect::<Result<Vec<_>, _>>()?;
        let length = options.first().map_or(0, Vec::len);
        if length == 0 || options.iter().any(|option| option.len() != length) {
            return Err(format!("not supported: choice ({inner}) of different lengths"));
        }
        self.push(Unit::Choice { options, negated });
        Ok(())
    }

    fn push(&mut self, unit: Unit) {
        if let Some(segment) = self.segments.last_mut() {
            let run = segment.rest.last_mut().map_or(&mut segment.first, |(_, run)| run);
            run.units.push(unit);
        }
    }
}

/// Mask and value of a hexadecimal digit; `?` stands for all.
fn nibble(digit: u8) -> Option<(u8, u8)> {
    match digit {
        b'?' => Some((0, 0)),
        b'0'..=b'9' => Some((0xf, digit - b'0')),
        b'a'..=b'f' => Some((0xf, digit - b'a' + 10)),
        b'A'..=b'F' => Some((0xf, digit - b'A' + 10)),
        _ => None,
    }
}

/// Octets in hexadecimal without wildcards.
pub(super) fn octets(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let pairs = pairs.iter().map(|[high, low]| match (nibble(*high)?, nibble(*low)?) {
        ((0xf, high), (0xf, low)) => Some(high << 4 | low),
        _ => None,
    });
    if rest.is_empty() { pairs.collect() } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, offset: Offset, octets: &[u8]) -> bool {
        let pattern = Pattern::parse(pattern).unwrap();
        let mut content = Content::new(&octets.to_vec().into());
        pattern.matches(&mut content, offset).unwrap()
    }

    #[test]
    fn every_kind_of_wildcard() {
        for (pattern, octets, expected) in [
            ("616263", &b"xxabcxx"[..], true),
            ("61??63", b"xaxcx", true),
            ("6?63", b"acbc", true),
            ("?163", b"ac", true),
            ("?263", b"ac", false),
            ("61*63", b"a....c", true),
            ("61*63", b"c....a", false),
            ("61{2}63", b"a..c", true),
            ("61{2}63", b"a.c", false),
            ("61{-2}63", b"ac", true),
            ("61{1-2}63", b"ac", false),
            ("61{3-}63", b"a..c.c", true),
            ("61{5-}63", b"a..c.c", false),
            ("61(62|63)64", b"acd", true),
            ("61!(62|63)64", b"acd", false),
            ("61!(62|63)64", b"aed", true),
            ("61(6262|6363)", b"acc", true),
        ] {
            assert_eq!(matches(pattern, Offset::Any, octets), expected, "{pattern} {octets:?}");
        }
    }

    #[test]
    fn offsets() {
        let start = |at, shift| Offset::Start { at, shift };
        let end = |before, shift| Offset::End { before, shift };
        assert!(matches("6162", start(0, 0), b"abxx"));
        assert!(!matches("6162", start(0, 0), b"xabx"));
        assert!(matches("6162", start(0, 1), b"xabx"));
        assert!(!matches("6162", start(0, 1), b"xxab"));
        assert!(matches("6162", end(2, 0), b"xxab"));
        assert!(!matches("6162", end(3, 0), b"xxab"));
        assert!(matches("6162", end(3, 1), b"xxab"));
        assert!(!matches("6162", end(9, 9), b"xxab"));
        assert!(matches("61*62", start(0, 0), b"axxb"));
    }

    #[test]
    fn what_is_not_supported_is_said() {
        for (pattern, why) in [
            ("6", "half an octet at the end"),
            ("zz", "\"zz\" is no octet"),
            ("61[2-4]62", "not supported: anchored wildcards [n-m]"),
            ("61(62|6363)", "not supported: choice (62|6363) of different lengths"),
            ("61(B)62", "not supported: choice (B)"),
            ("*61", "a gap has nothing before or behind it"),
            ("61{5-3}62", "{5-3} is no gap"),
            ("61{5", "no '}' at the end"),
        ] {
            assert_eq!(Pattern::parse(pattern), Err(why.to_owned()), "{pattern}");
        }
    }

    #[test]
    fn hostile_content_runs_out_of_steps() {
        let pattern = Pattern::parse("61{-1000000}61{-1000000}62").unwrap();
        let octets = vec![b'a'; 100_000];
        let mut content = Content::new(&octets.into());
        let found = pattern.matches(&mut content, Offset::Any);
        assert!(matches!(found, Err(Unfinished::OutOfSteps)), "{found:?}");
    }

    /// What a pattern means, without any thought of speed.
    fn naive(units: &[Piece], octets: &[u8]) -> bool {
        let Some((first, rest)) = units.split_first() else { return true };
        match first {
            Piece::Unit(_, unit) => octets
                .split_at_checked(unit.len())
                .is_some_and(|(head, tail)| unit.is(head) && naive(rest, tail)),
            Piece::Gap(from, to) => (*from..=to.unwrap_or(octets.len()))
                .any(|gap| octets.get(gap..).is_some_and(|tail| naive(rest, tail))),
        }
    }

    #[derive(Clone, Debug)]
    enum Piece {
        Unit(String, Unit),
        Gap(usize, Option<usize>),
    }

    fn unit() -> impl Strategy<Value = Piece> {
        let octet = |mask, value, text: &str| {
            Just(Piece::Unit(text.to_owned(), Unit::Octet { mask, value }))
        };
        let choice = |negated, text: &str| {
            let options = vec![b"ab".to_vec(), b"bb".to_vec()];
            Just(Piece::Unit(text.to_owned(), Unit::Choice { options, negated }))
        };
        prop_oneof![
            4 => octet(0xff, b'a', "61"),
            4 => octet(0xff, b'b', "62"),
            1 => octet(0, 0, "??"),
            1 => octet(0xf0, 0x60, "6?"),
            1 => choice(false, "(6162|6262)"),
            1 => choice(true, "!(6162|6262)"),
        ]
    }

    fn gap() -> impl Strategy<Value = Option<Piece>> {
        prop_oneof![
            4 => Just(None),
            1 => (0usize..3, 0usize..3).prop_map(|(from, more)| Some(Piece::Gap(from, Some(from + more)))),
            1 => (0usize..3).prop_map(|from| Some(Piece::Gap(from, None))),
        ]
    }

    proptest! {
        #[test]
        fn matching_is_what_naive_matching_is(
            first in unit(),
            rest in proptest::collection::vec((gap(), unit()), 0..6),
            octets in proptest::collection::vec(prop_oneof![Just(b'a'), Just(b'b'), Just(b'z')], 0..14),
            block in 1usize..9,
        ) {
            let mut pieces = vec![first];
            for (gap, unit) in rest {
                pieces.extend(gap);
                pieces.push(unit);
            }
            let text: String = pieces.iter().map(|piece| match piece {
                Piece::Unit(text, _) => text.clone(),
                Piece::Gap(0, None) => "*".to_owned(),
                Piece::Gap(from, None) => format!("{{{from}-}}"),
                Piece::Gap(from, Some(to)) => format!("{{{from}-{to}}}"),
            }).collect();
            let pattern = Pattern::parse(&text).unwrap();
            let anywhere = (0..octets.len()).any(|start| naive(&pieces, &octets[start..]));
            let at_start = Offset::Start { at: 0, shift: 0 };
            let expected = !octets.is_empty() && naive(&pieces, &octets);
            let in_memory = Content::new(&octets.clone().into());
            for mut content in [in_memory, Content::in_blocks(&octets, block)] {
                let found = pattern.matches(&mut content, Offset::Any).unwrap();
                prop_assert_eq!(found, anywhere, "{}", text);
                let found = pattern.matches(&mut content, at_start).unwrap();
                prop_assert_eq!(found, expected, "{}", text);
            }
        }

        #[test]
        fn any_text_is_a_pattern_or_is_not(text in "[0-9a-f?*{}()|!\\[\\]-]{0,24}", octets: Vec<u8>) {
            if let Ok(pattern) = Pattern::parse(&text) {
                let _ = pattern.matches(&mut Content::new(&octets.into()), Offset::Any);
            }
        }
    }
}
