use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::milter::options::{Actions, Steps};
use crate::milter::packet::{Decoder, MAXIMUM_PACKET, Packet};

fn parse(octets: &'static [u8]) -> Result<Command, InvalidCommand> {
    let (letter, data) = octets.split_first().unwrap();
    Command::parse(Packet { letter: *letter, data: Bytes::from_static(data) })
}

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

/// As Postfix 3.7.11 sent them.
#[test]
fn commands_of_postfix_are_understood() {
    let macros = |stage, values: &[(&'static str, &'static str)]| {
        let values = values.iter().map(|(name, v)| (MacroName::new(*name), text(v))).collect();
        Command::Macros(Macros { stage, values })
    };
    let offer = Offer {
        version: 6,
        actions: Actions::from_bits(0x1ff),
        steps: Steps::from_bits(0x1f_ffff),
    };
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let client = Client::Internet { address, port: 51_934 };
    let path = |address, arguments: &[&'static str]| Path {
        address: text(address),
        arguments: arguments.iter().map(|argument| text(argument)).collect(),
    };
    let cases: [(&[u8], Command); 17] = [
        (b"O\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff", Command::Negotiate(offer)),
        (
            b"DCj\0mx.example\0v\0Postfix 3.7.11\0_\0unknown [127.0.0.1]\0",
            macros(
                Stage::Connect,
                &[("{j}", "mx.example"), ("v", "Postfix 3.7.11"), ("_", "unknown [127.0.0.1]")],
            ),
        ),
        (
            b"C[127.0.0.1]\x004\xca\xde127.0.0.1\0",
            Command::Connect { host: text("[127.0.0.1]"), client },
        ),
        (b"DH", macros(Stage::Helo, &[])),
        (b"Htwo-mails\0", Command::Helo(text("two-mails"))),
        (b"DM{mail_addr}\0a@b\0", macros(Stage::Mail, &[("mail_addr", "a@b")])),
        (b"M<a@b>\0SIZE=100\0", Command::Mail(path("<a@b>", &["SIZE=100"]))),
        (b"R<b@c>\0", Command::Rcpt(path("<b@c>", &[]))),
        (b"DTi\0E698E98C312\0", macros(Stage::Data, &[("i", "E698E98C312")])),
        (b"T", Command::Data),
        (
            b"LSubject\0 one\n two\0",
            Command::Header { name: text("Subject"), value: text(" one\n two") },
        ),
        (b"LX-Gone\0at once\0", Command::Header { name: text("X-Gone"), value: text("at once") }),
        (b"N", Command::EndOfHeader),
        (b"BHello\r\n\r\n.dot\r\n", Command::Body(text("Hello\r\n\r\n.dot\r\n"))),
        (b"E", Command::EndOfMessage(Bytes::new())),
        (b"A", Command::Abort),
        (b"UFOO\0", Command::Unknown(text("FOO"))),
    ];
    for (octets, command) in cases {
        assert_eq!(parse(octets), Ok(command));
    }
}

/// As sendmail and its libmilter have them.
#[test]
fn commands_of_sendmail_are_understood() {
    let address = IpAddr::V6("2001:db8::1".parse().unwrap());
    let client = Client::Internet { address, port: 25 };
    let connect = Command::Connect { host: text("a"), client };
    assert_eq!(parse(b"Ca\x006\0\x19IPv6:2001:db8::1\0"), Ok(connect.clone()));
    assert_eq!(parse(b"Ca\x006\0\x192001:db8::1%eth0\0"), Ok(connect));
    let unix = Client::Unix(text("/run/s"));
    assert_eq!(parse(b"Ca\0L\0\0/run/s\0"), Ok(Command::Connect { host: text("a"), client: unix }));
    let unknown = Command::Connect { host: text("a"), client: Client::Unknown };
    assert_eq!(parse(b"Ca\0U"), Ok(unknown));
    assert_eq!(parse(b"K"), Ok(Command::QuitNewConnection));
    assert_eq!(parse(b"Elast"), Ok(Command::EndOfMessage(text("last"))));
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let cases: [(&[u8], usize, Rule); 24] = [
        (b"Zx", 0, Rule::Letter),
        (b"\0", 0, Rule::Letter),
        (b"Tx", 0, Rule::End),
        (b"Qx", 0, Rule::End),
        (b"Hx", 0, Rule::String),
        (b"H", 0, Rule::String),
        (b"Hx\0y", 2, Rule::End),
        (b"UFOO", 0, Rule::String),
        (b"O\0\0\0\x06\0\0\x01\xff\0\x1f\xff", 8, Rule::Offer),
        (b"O\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff\0", 12, Rule::End),
        (b"D", 0, Rule::Stage),
        (b"DQ", 0, Rule::Stage),
        (b"DM\0\0", 1, Rule::MacroName),
        (b"DM{}\0\0", 1, Rule::MacroName),
        (b"DMi\0", 3, Rule::MacroValue),
        (b"DMi\0x", 3, Rule::String),
        (b"Ca\0X", 2, Rule::Family),
        (b"Ca\0", 2, Rule::Family),
        (b"Ca\x004\0", 3, Rule::Port),
        (b"Ca\x004\0\x19::1\0", 5, Rule::Address),
        (b"Ca\0Ux", 3, Rule::End),
        (b"M\0", 0, Rule::Path),
        (b"LA:\0x\0", 0, Rule::FieldName),
        (b"LA\0x", 2, Rule::String),
    ];
    for (octets, at, rule) in cases {
        let expected = InvalidCommand { letter: octets[0], at, rule };
        assert_eq!(parse(octets), Err(expected), "{}", octets.escape_ascii());
    }
    let text = "milter command 'D', octet 1 of its data: the name of a macro";
    assert_eq!(parse(b"DM\0\0").unwrap_err().to_string(), text);
    let text = "milter command 0x00, octet 0 of its data: no such command in version 6";
    assert_eq!(parse(b"\0").unwrap_err().to_string(), text);
}

#[test]
fn strings_are_counted() {
    let path = |count: usize| {
        let data = [&b"<a@b>\0"[..], &b"\0".repeat(count)].concat();
        Command::parse(Packet { letter: b'M', data: data.into() })
    };
    assert!(path(MAXIMUM_STRINGS).is_ok());
    let expected = InvalidCommand { letter: b'M', at: 6 + MAXIMUM_STRINGS, rule: Rule::Count };
    assert_eq!(path(MAXIMUM_STRINGS + 1), Err(expected));
}

#[test]
fn macros_have_one_name_with_and_without_braces() {
    let Ok(Command::Macros(macros)) = parse(b"DT{i}\0one\0{auth_type}\0two\0") else { panic!() };
    assert_eq!(macros.get("i"), Some(&text("one")));
    assert_eq!(macros.get("auth_type"), Some(&text("two")));
    assert_eq!(macros.get("{i}"), None);
    let mut out = BytesMut::new();
    macros.values.iter().for_each(|(name, _)| name.write(&mut out));
    assert_eq!(out, "i{auth_type}");
}

fn string() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(1_u8.., 0..20).prop_map(Bytes::from)
}

fn any_path() -> impl Strategy<Value = Path> {
    let arguments = proptest::collection::vec(string(), 0..4);
    ("<[a-z@]{0,8}>", arguments)
        .prop_map(|(address, arguments)| Path { address: address.into(), arguments })
}

fn any_client() -> impl Strategy<Value = Client> {
    let internet = (any::<IpAddr>(), any::<u16>());
    prop_oneof![
        internet.prop_map(|(address, port)| Client::Internet { address, port }),
        string().prop_map(Client::Unix),
        Just(Client::Unknown),
    ]
}

fn any_macros() -> impl Strategy<Value = Macros> {
    let values = ("[a-z_]{1,8}".prop_map(MacroName::new), string());
    let stage = proptest::sample::select(&Stage::ALL[..]);
    (stage, proptest::collection::vec(values, 0..5))
        .prop_map(|(stage, values)| Macros { stage, values })
}

fn any_command() -> impl Strategy<Value = Command> {
    let octets = || proptest::collection::vec(any::<u8>(), 0..50).prop_map(Bytes::from);
    prop_oneof![
        any::<(u32, u32, u32)>().prop_map(|(v, a, s)| Command::Negotiate(Offer::new(v, a, s))),
        any_macros().prop_map(Command::Macros),
        (string(), any_client()).prop_map(|(host, client)| Command::Connect { host, client }),
        string().prop_map(Command::Helo),
        any_path().prop_map(Command::Mail),
        any_path().prop_map(Command::Rcpt),
        ("[A-Za-z-]{1,9}", string())
            .prop_map(|(name, value)| Command::Header { name: name.into(), value }),
        octets().prop_map(Command::Body),
        octets().prop_map(Command::EndOfMessage),
        string().prop_map(Command::Unknown),
        proptest::sample::select(vec![
            Command::Data,
            Command::EndOfHeader,
            Command::Abort,
            Command::Quit,
            Command::QuitNewConnection,
        ]),
    ]
}

proptest! {
    #[test]
    fn every_command_is_read_as_it_was_written(command in any_command()) {
        let mut written = BytesMut::new();
        command.encode(&mut written);
        let packet = Decoder::new(MAXIMUM_PACKET).decode(&mut written).unwrap().unwrap();
        prop_assert!(written.is_empty());
        prop_assert_eq!(Command::parse(packet), Ok(command));
    }

    /// A command whose end is missing is none, or another one.
    #[test]
    fn no_command_is_read_from_a_part_of_it(command in any_command(), cut in 1_usize..40) {
        let mut written = BytesMut::new();
        command.encode(&mut written);
        let packet = Decoder::new(MAXIMUM_PACKET).decode(&mut written).unwrap().unwrap();
        let length = packet.data.len().saturating_sub(cut);
        prop_assume!(length < packet.data.len());
        let part = Packet { data: packet.data.slice(..length), ..packet };
        prop_assert_ne!(Command::parse(part), Ok(command));
    }
}
