//! What we say ourselves.

use ocp_proto::smtp::Reply;

/// A reply of this program.
///
/// # Panics
/// If it is none; give constants only.
pub(super) fn fixed(code: u16, enhanced: &str, text: &str) -> Reply {
    Reply::new(code, enhanced, text).expect("replies of this program are valid")
}

/// A message that can't be shown to services can't be let pass unseen either.
pub(super) fn syntax() -> Reply {
    fixed(501, "5.5.4", "This can't be checked")
}

/// It is taken, and goes nowhere.
pub(super) fn taken() -> Reply {
    fixed(250, "2.0.0", "Ok")
}

/// There is no room for it now.
pub(super) fn no_room() -> Reply {
    fixed(452, "4.3.1", "Too much mail waits, try again later")
}

/// It could not be put where it belongs.
pub(super) fn not_kept() -> Reply {
    fixed(451, "4.3.0", "The message could not be kept, try again later")
}

/// What services have made of a message can't be sent as one.
pub(super) fn unfit() -> Reply {
    fixed(554, "5.6.0", "The message can't be passed on as it was adapted")
}

/// The octets of a chunk.
pub(super) fn chunk() -> Reply {
    fixed(250, "2.0.0", "Octets received")
}

/// Content may come.
pub(super) fn go_on() -> Reply {
    Reply::parse("354 End data with <CR><LF>.<CR><LF>\r\n").expect("it is a reply")
}

/// The next hop can't be reached, or was lost.
pub(super) fn no_next_hop() -> Reply {
    fixed(421, "4.4.1", "The next mail server is not there, try again later")
}

/// The next hop was lost before it had this recipient's message; others have theirs.
pub(super) fn lost() -> Reply {
    fixed(451, "4.4.2", "The next mail server was lost, try again later")
}

/// The next hop that a recipient should go to is not there now.
pub(super) fn not_there() -> Reply {
    fixed(451, "4.4.1", "The mail server of this recipient is not there, try again later")
}

/// The services want this client to go.
pub(super) fn disconnected() -> Reply {
    fixed(421, "4.7.0", "Closing")
}

/// The next hop has said something that has no place here.
pub(super) fn no_sense() -> Reply {
    fixed(421, "4.5.0", "The next mail server makes no sense, try again later")
}

/// The client has said nothing for too long.
pub(super) fn silence() -> Reply {
    fixed(421, "4.4.2", "Nothing came for too long")
}

/// There are as many clients as may be.
pub(super) fn too_many() -> Reply {
    fixed(421, "4.3.2", "Too many connections, try again later")
}

/// We are going down.
pub(super) fn stopping() -> Reply {
    fixed(421, "4.3.2", "Going down, try again later")
}

/// The handshake of TLS may begin.
pub(super) fn begin_tls() -> Reply {
    fixed(220, "2.0.0", "Begin TLS")
}

/// STARTTLS behind AUTH: the next hop would not forget who the client was.
pub(super) fn tls_too_late() -> Reply {
    fixed(503, "5.5.1", "STARTTLS comes before AUTH")
}

/// AUTH in plain text, to a next hop that we speak to within TLS: it may offer it for that reason alone.
pub(super) fn auth_needs_tls() -> Reply {
    fixed(538, "5.7.11", "AUTH needs TLS here")
}

/// A command that does not get through.
pub(super) fn unknown() -> Reply {
    fixed(502, "5.5.1", "This command does not get through here")
}

/// A reply for each recipient follows, and one for all (draft-hall-prdr).
pub(super) fn each_follows() -> Reply {
    Reply::parse("353 Each recipient's reply follows\r\n").expect("it is a reply")
}

/// A parameter XOPES-BYPASS without a value, or with one that is no xtext.
pub(super) fn no_bypass() -> Reply {
    fixed(501, "5.5.4", "XOPES-BYPASS is * or a list of URIs, in xtext")
}

/// Some recipients have the message, and some do not.
pub(super) fn taken_for_some() -> Reply {
    fixed(250, "2.0.0", "Ok for some recipients")
}

/// XCLIENT behind AUTH, as STARTTLS.
pub(super) fn xclient_too_late() -> Reply {
    fixed(503, "5.5.1", "XCLIENT comes before AUTH")
}

/// XFORWARD and XCLIENT from somebody who could be anybody.
pub(super) fn not_heard() -> Reply {
    fixed(550, "5.7.0", "You may not speak for others")
}

/// Lines that end with CR or LF alone: others could take what follows for something else (RFC 5321 section
/// 2.3.8).
pub(super) fn bare_line_end() -> Reply {
    fixed(550, "5.6.0", "A line of the message ends with CR or LF alone")
}
