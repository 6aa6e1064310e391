//! Mails and archives for tests.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use ocp_proto::smtp::{Command, DialogFacts, EffectName, Envelope};
use ocp_proto::wire::Structure;

pub(crate) use crate::mail::encode_base64 as base64;
use crate::mail::{Mail, Octets, header_length};
use crate::service::{Input, Request};

pub(crate) fn shared(path: &str) -> Option<PathBuf> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared")).join(path);
    path.exists().then_some(path)
}

pub(crate) fn mail(octets: impl Into<Bytes>) -> Arc<Mail> {
    let octets = octets.into();
    let header = header_length(&octets);
    Arc::new(Mail::new(octets.slice(..header), octets.slice(header..)))
}

/// All octets of a mail in memory.
pub(crate) fn whole(mail: &Mail) -> Vec<u8> {
    mail.whole().read(0..mail.len()).unwrap().to_vec()
}

/// The same mail with its body in a file.
pub(crate) fn spooled(mail: &Mail) -> Arc<Mail> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(mail.body().in_memory().unwrap()).unwrap();
    let body = Octets::from_file(Arc::new(file), mail.body().len());
    Arc::new(Mail::new(mail.header().clone(), body))
}

pub(crate) fn request(mail: &Arc<Mail>, granted: &[EffectName]) -> Request {
    Request {
        dialog: Arc::new(DialogFacts::default()),
        command: Command::Message,
        input: Input::Content(Arc::clone(mail)),
        envelope: Envelope::default(),
        parameters: Arc::new(Structure::default()),
        granted: granted.into(),
        may_notify: false,
    }
}

/// A message with a text and one attachment.
pub(crate) fn with_attachment(name: &str, octets: &[u8]) -> Vec<u8> {
    format!(
        "From: <a@example.org>\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"b\"\r\n\r\n\
         --b\r\n\r\nhello\r\n--b\r\nContent-Type: application/octet-stream; name=\"{name}\"\r\n\
         Content-Transfer-Encoding: base64\r\n\r\n{}\r\n--b--\r\n",
        base64(octets)
    )
    .into()
}

pub(crate) fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, octets) in files {
        let options = zip::write::SimpleFileOptions::default();
        writer.start_file(*name, options).unwrap();
        writer.write_all(octets).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

pub(crate) fn gzip(octets: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    writer.write_all(octets).unwrap();
    writer.finish().unwrap()
}

pub(crate) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = tar::Builder::new(Vec::new());
    for (name, octets) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(octets.len() as u64);
        header.set_cksum();
        writer.append_data(&mut header, name, *octets).unwrap();
    }
    writer.into_inner().unwrap()
}

pub(crate) fn cabinet(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = cab::CabinetBuilder::new();
    let folder = builder.add_folder(cab::CompressionType::MsZip);
    for (name, _) in files {
        folder.add_file(*name);
    }
    let mut writer = builder.build(std::io::Cursor::new(Vec::new())).unwrap();
    let mut contents = files.iter();
    while let Some(mut file) = writer.next_file().unwrap() {
        file.write_all(contents.next().unwrap().1).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// An OLE compound file with these streams, whose folders are made too.
pub(crate) fn compound(streams: &[(&str, &[u8])]) -> Vec<u8> {
    compound_of(cfb::Version::V3, streams)
}

/// The same of a certain version: with sectors of 512 octets (3) or 4,096 (4).
pub(crate) fn compound_of(version: cfb::Version, streams: &[(&str, &[u8])]) -> Vec<u8> {
    let octets = std::io::Cursor::new(Vec::new());
    let mut file = cfb::CompoundFile::create_with_version(version, octets).unwrap();
    for (path, octets) in streams {
        let path = std::path::Path::new(path);
        file.create_storage_all(path.parent().unwrap()).unwrap();
        file.create_stream(path).unwrap().write_all(octets).unwrap();
    }
    file.into_inner().into_inner()
}

/// The stream of an Excel workbook whose sheets are of these kinds, in its list and where they begin, with so
/// many octets before its list.
pub(crate) fn workbook(sheets: &[(u8, u8)], has_password: bool, padding: u16) -> Vec<u8> {
    let record = |kind: u16, content: &[u8]| {
        let length = u16::try_from(content.len()).unwrap();
        [&kind.to_le_bytes()[..], &length.to_le_bytes(), content].concat()
    };
    let begin = |kind: u8| record(0x0809, &[0, 6, kind, 0, 0, 0, 0, 0]);
    let mut globals = begin(5);
    if has_password {
        globals.extend(record(0x002f, &[0; 6]));
    }
    globals.extend(record(0x00e1, &vec![0; padding.into()]));
    let sheet = |start: usize, kind: u8| {
        let start = u32::try_from(start).unwrap().to_le_bytes();
        record(0x0085, &[&start[..], &[0, kind, 1, 0, b's']].concat())
    };
    let end = record(0x000a, &[]);
    let listed = globals.len() + sheets.len() * sheet(0, 0).len() + end.len();
    let each = begin(0).len() + end.len();
    for (nth, (kind, _)) in sheets.iter().enumerate() {
        globals.extend(sheet(listed + nth * each, *kind));
    }
    globals.extend(&end);
    for (_, kind) in sheets {
        globals.extend([begin(*kind), end.clone()].concat());
    }
    globals
}

pub(crate) fn uuencode(octets: &[u8]) -> String {
    let mut text = String::new();
    for line in octets.chunks(45) {
        text.push(char::from(b' ' + u8::try_from(line.len()).unwrap()));
        for group in line.chunks(3) {
            let bits = group.iter().fold(0u32, |bits, octet| bits << 8 | u32::from(*octet));
            let bits = bits << (8 * (3 - group.len()));
            for place in 0..4 {
                let sextet = u8::try_from(bits >> (18 - 6 * place) & 63).unwrap();
                text.push(char::from(b' ' + sextet));
            }
        }
        text.push_str("\r\n");
    }
    text
}

/// A `winmail.dat` of attachments ([MS-OXTNEF]).
pub(crate) fn tnef(files: &[(&str, &[u8])]) -> Vec<u8> {
    let attribute = |id: u32, data: &[u8]| {
        let length = u32::try_from(data.len()).unwrap().to_le_bytes();
        [&[2][..], &id.to_le_bytes(), &length, data, &[0, 0]].concat()
    };
    let mut octets = vec![0x78, 0x9f, 0x3e, 0x22, 1, 0];
    for (name, content) in files {
        octets.extend(attribute(0x0006_9002, &[0; 14]));
        octets.extend(attribute(0x0001_8010, format!("{name}\0").as_bytes()));
        octets.extend(attribute(0x0006_800f, content));
    }
    octets
}
