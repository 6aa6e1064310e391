//! A record for people at a terminal.

use std::fmt::{self, Write};

use super::record::{Event, Finding, Profile, Record, Version};
use super::text::Text;

impl fmt::Display for Record {
    /// A line that says who wrote to whom and what became of it, and below it everything that is known.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.time.to_string();
        // To the second: the events have their milliseconds.
        let time = time.get(..19).unwrap_or(&time).replace('T', " ");
        let recipients = list(&self.recipients, self.recipient_count);
        write!(f, "{time}Z  {:<10}  ", self.result.name())?;
        match (&self.sender, recipients.is_empty()) {
            (Some(sender), false) => writeln!(f, "{sender} to {recipients}")?,
            (Some(sender), true) => writeln!(f, "{sender}")?,
            (None, false) => writeln!(f, "to {recipients}")?,
            (None, true) => writeln!(f, "no envelope")?,
        }
        writeln!(f, "  {}", self.details().join(", "))?;
        for event in &self.events {
            event.write(f)?;
        }
        if self.events_left_out > 0 {
            writeln!(f, "  and {} more events", self.events_left_out)?;
        }
        let unasked = self.unasked();
        if !unasked.is_empty() {
            writeln!(f, "  not asked: {}", unasked.join(", "))?;
        }
        Ok(())
    }
}

impl Record {
    /// Whose it is, and how it came.
    fn details(&self) -> Vec<String> {
        let mut details = vec![format!("#{}", self.id)];
        let mut say = |what: &str, text: Option<&Text>| {
            details.extend(text.map(|text| format!("{what}{text}")));
        };
        let facts = &self.facts;
        say("", self.queue_id.as_ref());
        say("client ", facts.client_address.as_ref());
        say("named ", facts.client_name.as_ref());
        say("HELO ", facts.helo.as_ref());
        say("user ", facts.user.as_ref());
        say("", facts.protocol.as_ref());
        say("", facts.tls.as_ref());
        say("", Some(&facts.activation));
        details.extend(self.octets.map(|octets| format!("{octets} octets")));
        details.push(format!("{} ms", self.took_ms));
        if self.profile == Profile::Reply {
            details.push("replies of the next hop".to_owned());
        }
        details.push(format!("asked by {} (connection {})", self.peer, self.connection));
        details
    }

    /// The services of the group that found nothing: they did not want these events, or another one had
    /// replied before their turn.
    pub(crate) fn unasked(&self) -> Vec<&str> {
        let asked = |service: &&Text| {
            let mut findings = self.events.iter().flat_map(|event| &event.findings);
            findings.any(|finding| finding.service == **service)
        };
        let unasked = self.services.iter().filter(|service| !asked(service));
        unasked.map(Text::as_str).collect()
    }
}

impl Event {
    /// What it was: its command line, or its name.
    pub(crate) fn title(&self) -> &str {
        self.line.as_ref().unwrap_or(&self.event).as_str()
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  {:<40} {}", self.title(), self.result.name())?;
        if let Some(cause) = &self.cause {
            write!(f, ": {cause}")?;
        }
        writeln!(f, ", {} ms", self.took_ms)?;
        if let Some(reply) = &self.next_hop_reply {
            writeln!(f, "    next hop: {reply}")?;
        }
        for finding in &self.findings {
            writeln!(f, "    {finding}")?;
        }
        for version in &self.versions {
            version.write(f)?;
        }
        if self.notifications > 0 {
            writeln!(f, "    new messages: {}", self.notifications)?;
        }
        match &self.outcome {
            Some(outcome) if !outcome.success || outcome.reply.is_some() => {
                let said = [&outcome.reason, &outcome.reply].into_iter().flatten();
                let said: Vec<&str> = said.map(Text::as_str).collect();
                writeln!(f, "    outcome at the MTA: {} {}", outcome.word(), said.join(" "))
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.service, self.verdict)?;
        for detail in [&self.score, &self.reason].into_iter().flatten() {
            write!(f, " ({detail})")?;
        }
        write!(f, ", {} ms", self.took_ms)
    }
}

impl Version {
    /// Whether it says something that its event alone does not.
    pub(crate) fn says_more(&self) -> bool {
        self.reply.is_some() || !self.effects.is_empty() || !self.recipients.is_empty()
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.says_more() {
            return Ok(());
        }
        let mut said = String::new();
        if let Some(reply) = &self.reply {
            write!(said, " {reply}")?;
        }
        for effect in &self.effects {
            write!(said, " [{effect}]")?;
        }
        match self.recipients.is_empty() {
            true => writeln!(f, "    answer:{said}"),
            false => {
                let recipients = list(&self.recipients, self.recipient_count);
                writeln!(f, "    for {recipients}: {}{said}", self.result.name())
            }
        }
    }
}

/// Those that are named, and how many there are besides.
pub(crate) fn list(recipients: &[Text], count: u64) -> String {
    let named: Vec<&str> = recipients.iter().map(Text::as_str).collect();
    let named = named.join(", ");
    match count.saturating_sub(recipients.len() as u64) {
        0 => named,
        more if named.is_empty() => format!("{more} recipients"),
        more => format!("{named} and {more} more"),
    }
}
