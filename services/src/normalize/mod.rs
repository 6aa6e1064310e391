//! `normalize`: puts malformed messages and commands right (RFC 4496 section 4.6), or refuses them.
//!
//! Readers disagree about what a malformed message is, and some of them stumble over it. Each correction has a name
//! and is made, leads to a refusal, or is not looked for; all edits are ranges, and a message that is right stays
//! octet for octet. In this order, and once more if one of them has uncovered something, at most four times:
//!
//! | correction | what is wrong, and what becomes of it |
//! | --- | --- |
//! | `nul` | NUL: a blank |
//! | `line-ends` | CR or LF alone: CRLF; CR in a header section: a blank; CRs before a line end: gone |
//! | `header-lines` | lines that are no field: the field `X-Invalid-Line`; blank folds: gone, and so are blanks before a colon; text in the place of a part's fields: an empty line before it |
//! | `boundaries` | a boundary that the type does not name, or that is nowhere: the one that the body has; one of more than 70 octets, or with other characters: another one; no last delimiter: added |
//! | `doubled-fields` | fields that are there more than once and may not be (RFC 5322 section 3.6): the first one stays, which most readers show and all services look at |
//! | `raw-fields` | octets beyond ASCII without SMTPUTF8: encoded words; in parameters RFC 2231 |
//! | `long-fields` | lines beyond 998 octets: folded; text without blanks: encoded words |
//! | `uuencode` | files in plain text: attachments; `x-uuencode`: base64 |
//! | `transfer-encoding` | an unknown one, `7bit` for 8-bit content, an encoding of a multipart: the one that is there |
//! | `base64`, `quoted-printable` | what is neither: what readers decode, encoded anew |
//! | `charset` | text beyond ASCII without a charset, or with a wrong or an unknown one: `utf-8` if it is, else `charset` |
//! | `long-lines` | lines beyond 998 octets: text becomes quoted-printable, all else base64 |
//! | `date`, `message-id`, `from`, `mime-version` | a field that is not there: added; the author is the envelope's sender |
//!
//! What is signed or encrypted stays as it is: all of a message with a DKIM signature, and parts of S/MIME and OpenPGP,
//! in MIME or in the text. No signature is verified, so anybody can have a message left by adding one: `signed` names
//! what is corrected in spite of that, such as `nul` and `line-ends`, which no signature survives on its way anyway.
//! Inside messages in parts, fields that a message has once are left alone.
//!
//! Of commands, `source-route` and `quotes` have another form: the mailbox alone, and the local part without quotes that
//! it does not need. All else is refused:
//!
//! | check | what is refused |
//! | --- | --- |
//! | `length` | more than 510 octets without parameters, a path of more than 256, a name in HELO of more than 255 (RFC 5321 section 4.5.3.1) |
//! | `local-part-length` | a local part of more than 64 octets |
//! | `control-characters` | control characters |
//! | `syntax` | what is no path (RFC 5321 section 4.1.2), address literals that hold no address, wrong parameters |
//! | `smtputf8` | an address beyond ASCII without SMTPUTF8 |
//! | `local-part` | quoted characters other than those of an atom and blanks; `-`, `\|` or `/` as the first one |
//! | `percent-hack`, `bang-path` | `%` and `!` in a recipient's local part |
//! | `helo` | no name, blanks or octets beyond ASCII in it, an address literal that holds no address |
//!
//! The verdict is `unchanged`, `corrected`, `refused`, `left` (what was found is signed, or has no other form) or `limit`; the
//! reason names what was found, and where.
//!
//! ```toml
//! charset = "windows-1252"    # of octets that are no UTF-8 and say nothing of theirs
//! #domain = "example.org"     # of a new Message-ID; the mail server's name without it
//! signed = []                 # corrections that are made in what is signed too
//! # Not all of it could be put right: accept, tag, quarantine, tempfail, discard, reject.
//! on-limit = "accept"
//! tag = { field = "X-Content-Warning" }
//! new-octets = 16777216       # the most that one message gets; an edit counts 256 more
//! scans = 4                   # messages of more than 64 KiB at a time
//! reject-reply = "554 5.6.0 The message is malformed"
//!
//! [message]                   # each: correct, reject or leave
//! nul = "correct"
//! line-ends = "correct"
//! header-lines = "correct"
//! boundaries = "correct"
//! doubled-fields = "correct"
//! raw-fields = "correct"
//! long-fields = "correct"
//! uuencode = "correct"
//! transfer-encoding = "correct"
//! base64 = "correct"
//! quoted-printable = "correct"
//! charset = "correct"
//! long-lines = "correct"
//! date = "correct"
//! message-id = "correct"
//! from = "leave"
//! mime-version = "correct"
//!
//! [commands]                  # the same
//! length = "reject"
//! local-part-length = "leave" # return paths that encode a recipient are longer
//! control-characters = "reject"
//! syntax = "reject"
//! smtputf8 = "reject"
//! source-route = "correct"
//! quotes = "correct"
//! local-part = "reject"
//! percent-hack = "reject"
//! bang-path = "reject"
//! helo = "reject"
//! ```

mod boundaries;
mod charsets;
mod commands;
mod corrections;
mod encodings;
mod fields;
mod folds;
pub(crate) mod fuzzing;
mod message;
mod octets;
mod parameters;
mod sealed;
mod settings;
#[cfg(test)]
mod tests;
mod uuencode;
mod words;

use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt};
use ocp_proto::smtp::FailurePolicy;

use crate::content::{Scans, effects};
use crate::outcome::Outcome;
use crate::registry::{Kind, Settings, SettingsError};
use crate::service::{Declaration, Request, Service, ServiceError};
use settings::Checked;

/// The kind `normalize`.
pub const KIND: Kind = Kind {
    name: "normalize",
    summary: "puts malformed messages and commands right, or refuses them",
    needs_settings: false,
    build: |settings| Ok(Arc::new(Normalize::new(settings)?)),
};

/// Octets of a message that is put right on the spot; of larger ones there is a bound at a time.
const SMALL: usize = 64 * 1024;

/// The service.
#[derive(Debug)]
pub struct Normalize {
    settings: Arc<Checked>,
    scans: Scans,
}

impl Normalize {
    /// The service with these settings.
    ///
    /// # Errors
    /// If a name, the charset, the domain, the number of scans or the reply is not valid.
    pub fn new(settings: Settings<'_>) -> Result<Self, SettingsError> {
        let settings = Checked::read(settings)?;
        let scans = Scans::new(settings.scans)?;
        Ok(Self { settings: Arc::new(settings), scans })
    }

    /// What becomes of an event.
    pub(crate) fn normalized(&self, request: &Request) -> Result<Outcome, ServiceError> {
        normalized(&self.settings, request)
    }
}

fn normalized(settings: &Checked, request: &Request) -> Result<Outcome, ServiceError> {
    match request.mail() {
        Some(mail) => message::normalized(settings, request, mail),
        None => commands::normalized(&settings.commands, request),
    }
}

impl Service for Normalize {
    fn declaration(&self) -> Declaration {
        Declaration {
            effects: effects(&[self.settings.on_limit]),
            // What is malformed passed before, too.
            on_failure: FailurePolicy::Accept,
            ..Declaration::on(self.settings.events())
        }
    }

    fn handle<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Outcome, ServiceError>> {
        async move {
            if request.mail().is_none_or(|mail| mail.len() <= SMALL) {
                return self.normalized(request);
            }
            let (settings, request) = (Arc::clone(&self.settings), request.clone());
            self.scans.start().await?.run(move || normalized(&settings, &request)).await?
        }
        .boxed()
    }

    fn worst_case_memory(&self) -> usize {
        // What is new stands in the edits and in a version of the message.
        self.settings.new_octets.saturating_mul(2).saturating_mul(self.settings.scans)
    }
}
