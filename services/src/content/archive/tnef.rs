//! Members of Outlook's `winmail.dat` ([MS-OXTNEF]): attachments, and the text of the message as HTML or RTF.

use std::io::{self, Read};
use std::ops::Range;

use super::rtf::CompressedRtf;
use super::{Each, Ended, Handed, Incomplete, LONGEST_NAME, Member, distinct, lossy};
use crate::mail::{Octets, Window};

/// Octets before the first attribute: signature and key ([MS-OXTNEF] section 2.1.3.1).
const HEADER: usize = 6;
/// Octets of an attribute before its data: level, identifier and length; a checksum follows.
const ATTRIBUTE: usize = 9;
const CHECKSUM: usize = 2;
/// Octets before an embedded object: the identifier of its interface.
const INTERFACE: usize = 16;

/// Attributes ([MS-OXTNEF] section 2.1.3.2).
const RENDERING: u32 = 0x0006_9002;
const TITLE: u32 = 0x0001_8010;
const DATA: u32 = 0x0006_800f;
const ATTACHMENT: u32 = 0x0006_9005;
const MESSAGE: u32 = 0x0006_9003;

/// Properties ([MS-OXPROPS]).
const DISPLAY_NAME: u16 = 0x3001;
const ATTACH_DATA: u16 = 0x3701;
const ATTACH_FILENAME: u16 = 0x3704;
const ATTACH_LONG_FILENAME: u16 = 0x3707;
const BODY_HTML: u16 = 0x1013;
const RTF_COMPRESSED: u16 = 0x1009;

/// Types of properties ([MS-OXCDATA] section 2.11.1).
const OBJECT: u16 = 0x000d;
const STRING: u16 = 0x001e;
const UNICODE: u16 = 0x001f;
const BINARY: u16 = 0x0102;
const SEVERAL: u16 = 0x1000;

/// An attachment, as far as its attributes have come.
#[derive(Default)]
struct Attachment {
    names: Vec<String>,
    contents: Vec<Range<usize>>,
}

/// A property whose value has octets of its own.
struct Property {
    id: u16,
    kind: u16,
    value: Range<usize>,
}

/// Hands out what is in it.
pub(super) fn members<B>(octets: &Octets, each: Each<'_, B>) -> Handed<B> {
    let mut window = Window::new(octets.clone());
    let mut attachment = Attachment::default();
    let mut at = HEADER;
    // Each attribute takes eleven octets of the file, so their number is bounded by its size.
    while at < octets.len() {
        let head = window.at(at, ATTRIBUTE)?;
        let (Some(id), Some(length)) = (number(head, 1), number(head, 5)) else {
            return cut_short(octets, attachment, each);
        };
        let data = at + ATTRIBUTE..(at + ATTRIBUTE).saturating_add(size(length));
        if data.end > octets.len() {
            // What there is of it is looked at.
            if id == DATA {
                attachment.contents.push(data.start..octets.len());
            }
            return cut_short(octets, attachment, each);
        }
        match id {
            RENDERING => hand_out(octets, std::mem::take(&mut attachment), each)?,
            TITLE => attachment.names.push(text(&octets.slice(data.clone()), STRING)?),
            DATA => attachment.contents.push(data.clone()),
            ATTACHMENT => {
                for property in properties(&mut window, data.clone())? {
                    attachment.add(octets, property)?;
                }
            }
            MESSAGE => {
                for property in properties(&mut window, data.clone())? {
                    body(octets, &property, each)?;
                }
            }
            _ => {}
        }
        at = data.end + CHECKSUM;
    }
    hand_out(octets, attachment, each)
}

/// What was there, and that it is not all.
fn cut_short<B>(octets: &Octets, attachment: Attachment, each: Each<'_, B>) -> Handed<B> {
    hand_out(octets, attachment, each)?;
    Err(Incomplete::Broken("an attribute is cut short".to_owned()).into())
}

fn hand_out<B>(octets: &Octets, attachment: Attachment, each: Each<'_, B>) -> Handed<B> {
    let names = distinct(attachment.names);
    for content in attachment.contents {
        let mut content = octets.slice(content).reader();
        each(Member::file(names.clone(), &mut content)).map_err(Ended::Left)?;
    }
    Ok(())
}

impl Attachment {
    fn add(&mut self, octets: &Octets, property: Property) -> io::Result<()> {
        let Property { id, kind, value } = property;
        match (id, kind) {
            (DISPLAY_NAME | ATTACH_FILENAME | ATTACH_LONG_FILENAME, STRING | UNICODE) => {
                self.names.push(text(&octets.slice(value), kind)?);
            }
            (ATTACH_DATA, BINARY) => self.contents.push(value),
            (ATTACH_DATA, OBJECT) if value.len() > INTERFACE => {
                self.contents.push(value.start + INTERFACE..value.end);
            }
            _ => {}
        }
        Ok(())
    }
}

/// The text of the message, if this is it.
fn body<B>(octets: &Octets, property: &Property, each: Each<'_, B>) -> Handed<B> {
    let value = octets.slice(property.value.clone());
    let (name, mut content): (_, Box<dyn Read>) = match property.id {
        BODY_HTML => ("body.html", Box::new(value.reader())),
        RTF_COMPRESSED => ("body.rtf", Box::new(CompressedRtf::new(value.reader())?)),
        _ => return Ok(()),
    };
    each(Member::file(vec![name.to_owned()], &mut *content)).map_err(Ended::Left)
}

/// The properties in this range whose values have a length ([MS-OXTNEF] section 2.1.3.4); up to one that can't be read.
fn properties(window: &mut Window, range: Range<usize>) -> io::Result<Vec<Property>> {
    /// What is wanted of a part or message is among so many; each takes eight octets.
    const MOST: usize = 4_096;
    let mut found = Vec::new();
    let count = number(window.at(range.start, 4)?, 0).map_or(0, size);
    let mut at = range.start + 4;
    for _ in 0..count.min(MOST) {
        let Some(next) = property(window, at, range.end, &mut found)? else { break };
        at = next;
    }
    Ok(found)
}

/// Reads a property, and returns where the next one begins.
fn property(
    window: &mut Window,
    mut at: usize,
    end: usize,
    found: &mut Vec<Property>,
) -> io::Result<Option<usize>> {
    let head = window.at(at, 4)?;
    let (Some(kind), Some(id)) = (short(head, 0), short(head, 2)) else { return Ok(None) };
    at += 4;
    if id >= 0x8000 {
        // A name: its set, then a number, or a text with its length.
        let name = window.at(at + 16, 8)?;
        let (Some(sort), Some(value)) = (number(name, 0), number(name, 4)) else { return Ok(None) };
        at = (at + 24).saturating_add(if sort == 0 { 0 } else { padded(size(value)) });
    }
    let is_several = kind & SEVERAL != 0;
    let kind = kind & !SEVERAL;
    let fixed = match kind {
        0x0002 | 0x0003 | 0x0004 | 0x000a | 0x000b => Some(4),
        0x0005 | 0x0006 | 0x0007 | 0x0014 | 0x0040 => Some(8),
        0x0048 => Some(16),
        OBJECT | STRING | UNICODE | BINARY => None,
        _ => return Ok(None),
    };
    let mut count = 1;
    if is_several || fixed.is_none() {
        let Some(values) = number(window.at(at, 4)?, 0) else { return Ok(None) };
        (count, at) = (size(values), at + 4);
    }
    if let Some(fixed) = fixed {
        at = at.saturating_add(count.saturating_mul(fixed));
        return Ok((at <= end).then_some(at));
    }
    // Each value takes four octets.
    for _ in 0..count {
        let Some(length) = number(window.at(at, 4)?, 0).map(size) else { return Ok(None) };
        let value = at + 4..(at + 4).saturating_add(length);
        if value.end > end {
            return Ok(None);
        }
        at = value.start.saturating_add(padded(length));
        found.push(Property { id, kind, value });
    }
    Ok(Some(at))
}

/// A name, up to its zero octet.
fn text(octets: &Octets, kind: u16) -> io::Result<String> {
    let octets = octets.read(0..2 * LONGEST_NAME)?;
    let text = match kind {
        UNICODE => {
            let units = octets.chunks_exact(2).map_while(|pair| pair.first_chunk().copied());
            let units: Vec<u16> = units.map(u16::from_le_bytes).collect();
            String::from_utf16_lossy(&units)
        }
        _ => lossy(&octets),
    };
    Ok(text.split('\0').next().unwrap_or_default().to_owned())
}

fn short(octets: &[u8], at: usize) -> Option<u16> {
    octets.get(at..)?.first_chunk().map(|octets| u16::from_le_bytes(*octets))
}

fn number(octets: &[u8], at: usize) -> Option<u32> {
    octets.get(at..)?.first_chunk().map(|octets| u32::from_le_bytes(*octets))
}

fn size(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Values are padded to four octets.
fn padded(length: usize) -> usize {
    length.saturating_add(3) & !3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(level: u8, id: u32, data: &[u8]) -> Vec<u8> {
        let sum = data.iter().fold(0_u16, |sum, octet| sum.wrapping_add(u16::from(*octet)));
        let length = u32::try_from(data.len()).unwrap().to_le_bytes();
        [&[level], &id.to_le_bytes()[..], &length, data, &sum.to_le_bytes()].concat()
    }

    fn value(kind: u16, id: u16, value: &[u8]) -> Vec<u8> {
        let length = u32::try_from(value.len()).unwrap().to_le_bytes();
        let padding = vec![0; padded(value.len()) - value.len()];
        [&kind.to_le_bytes()[..], &id.to_le_bytes(), &1_u32.to_le_bytes(), &length, value, &padding]
            .concat()
    }

    fn properties_of(properties: &[Vec<u8>]) -> Vec<u8> {
        let count = u32::try_from(properties.len()).unwrap().to_le_bytes();
        [&count[..], &properties.concat()].concat()
    }

    fn tnef(attributes: &[Vec<u8>]) -> Vec<u8> {
        [&[0x78, 0x9f, 0x3e, 0x22, 1, 0], &attributes.concat()[..]].concat()
    }

    fn unicode(text: &str) -> Vec<u8> {
        text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
    }

    /// Names and octets of a member.
    type Found = (Vec<String>, Vec<u8>);

    /// The members, and what is wrong.
    fn read(octets: Vec<u8>) -> (Vec<Found>, Option<String>) {
        let mut found = Vec::new();
        let mut each = |member: Member<'_>| {
            let Member::Files { content, files } = member else { panic!() };
            let mut octets = Vec::new();
            content.read_to_end(&mut octets).unwrap();
            found.push((files[0].names.clone(), octets));
            Ok::<(), ()>(())
        };
        let error = match members(&octets.into(), &mut each) {
            Err(Ended::Incomplete(Incomplete::Broken(why))) => Some(why),
            Ok(()) => None,
            _ => panic!(),
        };
        (found, error)
    }

    fn sample() -> Vec<u8> {
        let object = [&[7; INTERFACE][..], b"object"].concat();
        let named = {
            let mut named = value(STRING, 0x8001, b"x\0");
            named.splice(
                4..4,
                [&[9; 16][..], &1_u32.to_le_bytes(), &5_u32.to_le_bytes(), &[0; 8]].concat(),
            );
            named
        };
        let fixed = [&0x0003_u16.to_le_bytes()[..], &0x0e20_u16.to_le_bytes(), &[1; 4]].concat();
        tnef(&[
            attribute(1, 0x0008_9006, &[0, 0, 1, 0]),
            attribute(1, MESSAGE, &properties_of(&[value(BINARY, BODY_HTML, b"<p>")])),
            attribute(2, RENDERING, &[0; 14]),
            attribute(2, TITLE, b"LONG~1.EXE\0"),
            attribute(2, DATA, b"MZ first"),
            attribute(
                2,
                ATTACHMENT,
                &properties_of(&[
                    fixed,
                    named,
                    value(UNICODE, ATTACH_LONG_FILENAME, &unicode("long n\u{e4}me.exe")),
                ]),
            ),
            attribute(2, RENDERING, &[0; 14]),
            attribute(2, ATTACHMENT, &properties_of(&[value(OBJECT, ATTACH_DATA, &object)])),
        ])
    }

    #[test]
    fn attachments_have_all_their_names() {
        let (found, error) = read(sample());
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let expected = [
            (names(&["body.html"]), b"<p>".to_vec()),
            (names(&["LONG~1.EXE", "long n\u{e4}me.exe"]), b"MZ first".to_vec()),
            (names(&[]), b"object".to_vec()),
        ];
        assert_eq!((found, error), (expected.to_vec(), None));
    }

    #[test]
    fn what_is_cut_short_is_shown_as_far_as_it_goes() {
        let sample = sample();
        let cut = sample.windows(8).position(|window| window == b"MZ first").unwrap() + 4;
        let (found, error) = read(sample[..cut].to_vec());
        assert_eq!(found[1], (vec!["LONG~1.EXE".to_owned()], b"MZ f".to_vec()));
        assert_eq!(error.as_deref(), Some("an attribute is cut short"));
        for cut in HEADER..sample.len() {
            read(sample[..cut].to_vec());
        }
    }
}
