//! The envelope as this next hop can take it: MAIL and RCPT with the parameters that it offers.

use ocp_proto::smtp::{Address, CommandLine};

use super::deliver::{Message, Options};
use crate::bypass;
use crate::smtp::extensions::{
    BINARY_MIME, CHUNKING, DSN, EIGHT_BIT_MIME, Extensions, PRDR, SIZE, SMTPUTF8,
};
use crate::smtp::reply::EnhancedStatus;

/// What can't go to the next hop, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unfit {
    pub(super) status: EnhancedStatus,
    pub(super) what: String,
}

impl Unfit {
    fn new(subject: u16, detail: u16, what: impl Into<String>) -> Self {
        Self { status: EnhancedStatus::new(5, subject, detail), what: what.into() }
    }
}

/// The commands of an envelope.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) mail: CommandLine,
    pub(super) recipients: Vec<Result<CommandLine, Unfit>>,
    /// Whether the content goes by BDAT.
    pub(super) has_chunks: bool,
    /// Whether each recipient gets a reply to the content (PRDR).
    pub(super) has_prdr: bool,
}

/// Makes the commands of an envelope, or says why its message can't go there at all.
pub(super) fn plan<R>(
    sender: &Address,
    recipients: &[Address],
    message: &Message<R>,
    options: Options,
    offered: &Extensions,
) -> Result<Plan, Unfit> {
    if let Some(maximum) = offered.maximum_size()
        && message.size > maximum
    {
        let size = message.size;
        let what = format!("the message has {size} octets, and the next hop takes {maximum}");
        return Err(Unfit::new(3, 4, what));
    }
    let mut mail = Vec::new();
    let is_binary = body(sender).is_some_and(|body| body.eq_ignore_ascii_case(b"BINARYMIME"));
    if is_binary {
        if !offered.offers(BINARY_MIME) || !offered.offers(CHUNKING) {
            let what = "the message is binary, and the next hop does not offer BINARYMIME";
            return Err(Unfit::new(6, 3, what));
        }
        mail.push(b"BODY=BINARYMIME".to_vec());
    } else if offered.offers(EIGHT_BIT_MIME) {
        if message.is_eight_bit || body(sender).is_some() {
            mail.push(b"BODY=8BITMIME".to_vec());
        }
    } else if message.is_eight_bit {
        let what = "the message has octets above 127, and the next hop does not offer 8BITMIME";
        return Err(Unfit::new(6, 3, what));
    }
    if offered.offers(SMTPUTF8) {
        let asked = sender.parameters.iter().any(|p| is_named(p, SMTPUTF8.as_bytes()));
        let is_international = std::iter::once(sender).chain(recipients).any(|a| !is_ascii(a));
        if asked || is_international || message.has_utf8_header {
            mail.push(SMTPUTF8.as_bytes().to_vec());
        }
    } else if !is_ascii(sender) {
        let what = "the sender is not ASCII, and the next hop does not offer SMTPUTF8";
        return Err(Unfit::new(6, 7, what));
    } else if message.has_utf8_header {
        let what = "the header is in UTF-8, and the next hop does not offer SMTPUTF8";
        return Err(Unfit::new(6, 9, what));
    }
    if offered.offers(SIZE) {
        mail.push(format!("SIZE={}", message.size).into_bytes());
    }
    let has_prdr = options.prdr && recipients.len() > 1 && offered.offers(PRDR);
    if has_prdr {
        mail.push(PRDR.as_bytes().to_vec());
    }
    mail.extend(others(sender, offered)?);
    let recipients = recipients.iter().map(|recipient| {
        if !is_ascii(recipient) && !offered.offers(SMTPUTF8) {
            let what = "the recipient is not ASCII, and the next hop does not offer SMTPUTF8";
            return Err(Unfit::new(6, 7, what));
        }
        line(b"RCPT TO:", recipient, &others(recipient, offered)?)
    });
    Ok(Plan {
        mail: line(b"MAIL FROM:", sender, &mail)?,
        recipients: recipients.collect(),
        has_chunks: is_binary || (options.chunking && offered.offers(CHUNKING)),
        has_prdr,
    })
}

fn line(verb: &[u8], address: &Address, parameters: &[Vec<u8>]) -> Result<CommandLine, Unfit> {
    let mut octets = [verb, address.path()].concat();
    for parameter in parameters {
        octets.push(b' ');
        octets.extend_from_slice(parameter);
    }
    CommandLine::new(octets).map_err(|error| Unfit::new(5, 4, error.to_string()))
}

/// Parameters that are not about the form of the content, where the next hop knows them.
fn others(address: &Address, offered: &Extensions) -> Result<Vec<Vec<u8>>, Unfit> {
    let mut kept = Vec::new();
    for parameter in &address.parameters {
        let name = name(parameter).to_ascii_uppercase();
        let keyword = match name.as_slice() {
            // The next hop gets these anew; AUTH is for who has authenticated (RFC 4954 section 5).
            b"SIZE" | b"BODY" | b"SMTPUTF8" | b"PRDR" | b"AUTH" => continue,
            // Who knows no notifications gets no word of them (RFC 3461 section 5.2.2).
            b"RET" | b"ENVID" | b"NOTIFY" | b"ORCPT" if !offered.offers(DSN) => continue,
            // A request that nobody there could hear.
            b"XOPES-BYPASS" if !offered.offers(bypass::PARAMETER) => continue,
            b"RET" | b"ENVID" | b"NOTIFY" | b"ORCPT" => DSN,
            b"BY" => "DELIVERBY",
            b"HOLDFOR" | b"HOLDUNTIL" => "FUTURERELEASE",
            other => std::str::from_utf8(other).unwrap_or_default(),
        };
        if !offered.offers(keyword) {
            let name = String::from_utf8_lossy(&name);
            return Err(Unfit::new(3, 3, format!("{name} is asked for, and not offered there")));
        }
        kept.push(parameter.to_vec());
    }
    Ok(kept)
}

/// What BODY says of the content, but for 7BIT.
fn body(sender: &Address) -> Option<&[u8]> {
    let parameter = sender.parameters.iter().find(|p| is_named(p, b"BODY"))?;
    parameter.get(5..).filter(|value| !value.eq_ignore_ascii_case(b"7BIT"))
}

fn name(parameter: &[u8]) -> &[u8] {
    parameter.split(|octet| *octet == b'=').next().unwrap_or_default()
}

fn is_named(parameter: &[u8], wanted: &[u8]) -> bool {
    name(parameter).eq_ignore_ascii_case(wanted)
}

fn is_ascii(address: &Address) -> bool {
    address.path().is_ascii()
}

#[cfg(test)]
mod tests {
    use ocp_proto::smtp::Reply;
    use ocp_proto::wire::Atom;

    use super::*;

    const ALL: &[&str] =
        &["8BITMIME", "SMTPUTF8", "SIZE 1000", "DSN", "CHUNKING", "BINARYMIME", "PRDR", "RRVS"];

    fn offers(keywords: &[&str]) -> Extensions {
        let lines: String = keywords.iter().map(|keyword| format!("250-{keyword}\r\n")).collect();
        Extensions::of(&Reply::parse(format!("250-mx\r\n{lines}250 HELP\r\n")).unwrap())
    }

    fn address(path: &str, parameters: &[&str]) -> Address {
        let parameters = parameters.iter().map(|p| Atom::from(p.as_bytes())).collect();
        Address::new(path.as_bytes().to_vec()).unwrap().with_parameters(parameters).unwrap()
    }

    fn message(is_eight_bit: bool, has_utf8_header: bool) -> Message<()> {
        Message { content: (), size: 900, is_eight_bit, has_utf8_header }
    }

    fn text(line: &CommandLine) -> String {
        String::from_utf8_lossy(line.as_bytes()).into_owned()
    }

    #[test]
    fn parameters_go_to_who_offers_them() {
        let sender = address("<a@b>", &["SIZE=7", "BODY=8BITMIME", "ret=HDRS", "AUTH=<>", "PRDR"]);
        let recipients =
            [address("<c@d>", &["NOTIFY=NEVER", "ORCPT=rfc822;c@d"]), address("<e@f>", &[])];
        for (keywords, mail, rcpt) in [
            (
                ALL,
                "MAIL FROM:<a@b> BODY=8BITMIME SIZE=900 PRDR ret=HDRS",
                "RCPT TO:<c@d> NOTIFY=NEVER ORCPT=rfc822;c@d",
            ),
            (&[][..], "MAIL FROM:<a@b>", "RCPT TO:<c@d>"),
        ] {
            let offered = offers(keywords);
            let options = Options::default();
            let plan = plan(&sender, &recipients, &message(false, false), options, &offered);
            let plan = plan.unwrap();
            assert_eq!(text(&plan.mail), mail);
            assert_eq!(text(plan.recipients[0].as_ref().unwrap()), rcpt);
            assert_eq!(plan.has_chunks, !keywords.is_empty());
        }
    }

    #[test]
    fn what_the_next_hop_can_not_take_is_refused_in_its_place() {
        let plain = address("<a@b>", &[]);
        let binary = address("<a@b>", &["BODY=BINARYMIME"]);
        let foreign = address("<ä@b>", &["SMTPUTF8"]);
        let held = address("<a@b>", &["HOLDFOR=10"]);
        for (sender, eight_bit, utf8, keywords, status) in [
            (&plain, true, false, &["SMTPUTF8"][..], "5.6.3"),
            (&binary, false, false, &["8BITMIME", "CHUNKING"], "5.6.3"),
            (&binary, false, false, &["BINARYMIME"], "5.6.3"),
            (&foreign, false, false, &["8BITMIME"], "5.6.7"),
            (&plain, true, true, &["8BITMIME"], "5.6.9"),
            (&plain, false, false, &["SIZE 899"], "5.3.4"),
            (&held, false, false, ALL, "5.3.3"),
        ] {
            let message = message(eight_bit, utf8);
            let offered = offers(keywords);
            let plan = plan(sender, &[], &message, Options::default(), &offered);
            assert_eq!(plan.unwrap_err().status.to_string(), status);
        }
    }

    #[test]
    fn a_recipient_that_does_not_fit_leaves_the_others() {
        let recipients = [
            address("<ä@b>", &[]),
            address("<c@d>", &["RRVS=2020-01-01T00:00:00Z"]),
            address("<e@f>", &[]),
        ];
        let offered = offers(&["RRVS"]);
        let sender = address("<a@b>", &["SMTPUTF8"]);
        let message = message(false, false);
        let plan = plan(&sender, &recipients, &message, Options::default(), &offered).unwrap();
        assert_eq!(text(&plan.mail), "MAIL FROM:<a@b>");
        let [foreign, rrvs, plain] = &plan.recipients[..] else { panic!("{plan:?}") };
        assert_eq!(foreign.as_ref().unwrap_err().status.to_string(), "5.6.7");
        assert_eq!(text(rrvs.as_ref().unwrap()), "RCPT TO:<c@d> RRVS=2020-01-01T00:00:00Z");
        assert_eq!(text(plain.as_ref().unwrap()), "RCPT TO:<e@f>");
    }
}
