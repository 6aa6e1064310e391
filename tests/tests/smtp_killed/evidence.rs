//! What arrived and what is kept, beside what the clients and the log of the proxy say of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Instant;

use serde_json::Value;
use tests::attempts::Attempt;
use tests::smtp::Delivered;
use tests::text;

use super::chain::{Chain, Kill, Life, Victim};
use super::mail::{self, Kind};

/// Messages of which a failure tells all that is known.
const MOST_TOLD: usize = 5;
/// Octets of a message that it shows.
const MOST_OCTETS: usize = 2_000;
/// Lines of the log that it tells of one.
const MOST_LINES: usize = 60;

/// What the next hop calls a message, by what the proxy calls its way through the services.
type Passes = BTreeMap<String, BTreeSet<String>>;

/// All that is known after the end.
pub(crate) struct Evidence {
    attempts: Vec<Vec<Attempt>>,
    kills: Vec<Kill>,
    lives: Vec<Life>,
    /// Lines of the log by what they are about: the process that said it, and the line.
    about: BTreeMap<String, Vec<(usize, Value)>>,
    /// What arrived, by number.
    arrived: BTreeMap<usize, Passes>,
    /// What is in the quarantine, by number: its pass, and its name there.
    kept: BTreeMap<usize, Vec<(String, String)>>,
    /// Files in both stores.
    files: usize,
}

impl Evidence {
    /// Looks at each message that arrived or is kept.
    pub(crate) fn gather(chain: Chain, attempts: Vec<Vec<Attempt>>) -> Self {
        let mut arrived: BTreeMap<usize, Passes> = BTreeMap::new();
        for delivered in chain.hop.wait_for(chain.hop.len()) {
            let name = queue_id(&delivered);
            let (number, pass) = opened(delivered.without_received());
            // Postfix may bring one twice after it was killed, under one name.
            arrived.entry(number).or_default().entry(pass).or_default().insert(name);
        }
        let mut kept: BTreeMap<usize, Vec<(String, String)>> = BTreeMap::new();
        for record in chain.stores.kept() {
            let id = text(&record, "id");
            let (number, pass) = opened(&chain.stores.message(&id));
            kept.entry(number).or_default().push((pass, id));
        }
        let files = chain.stores.files().len();
        let Chain { kills, lives, .. } = chain;
        let mut about: BTreeMap<String, Vec<(usize, Value)>> = BTreeMap::new();
        for (life, said) in lives.iter().enumerate() {
            for line in &said.lines {
                about.entry(text(line, "id")).or_default().push((life, line.clone()));
            }
        }
        Self { attempts, kills, lives, about, arrived, kept, files }
    }

    /// Everything holds.
    pub(crate) fn check(&self) {
        let mut told = String::new();
        let wrong: Vec<_> = (0..self.attempts.len())
            .filter_map(|number| Some((number, self.check_message(number).err()?)))
            .collect();
        for (number, why) in wrong.iter().take(MOST_TOLD) {
            let _ = writeln!(told, "message {number}: {why}\n{}", self.story_of(*number));
        }
        assert!(wrong.is_empty(), "{} messages went wrong\n{told}", wrong.len());
        self.check_log();
        let kept: usize = self.kept.values().map(Vec::len).sum();
        assert_eq!(self.files, 2 * kept, "leftovers in the quarantine or the spool");
        self.sum_up(kept);
    }

    fn check_message(&self, number: usize) -> Result<(), String> {
        let attempts = &self.attempts[number];
        let last = attempts.last().ok_or("it was not brought")?;
        let kept = self.kept.get(&number).map(Vec::as_slice).unwrap_or_default();
        let none = Passes::new();
        let arrived = self.arrived.get(&number).unwrap_or(&none);
        for open in attempts.iter().filter(|attempt| attempt.is_open()) {
            let (victim, what) = match &open.reply {
                None => (Victim::Proxy, "the connection was lost"),
                Some(_) => (Victim::NextHop, "the next hop was lost"),
            };
            let during = |kill: &Kill| {
                kill.victim == victim && open.begin <= kill.until && kill.from <= open.end
            };
            ensure(self.kills.iter().any(during), || format!("{what}, and nobody was killed"))?;
        }
        let open = attempts.iter().filter(|attempt| attempt.is_open()).count();
        match mail::kind(number) {
            Kind::Spam | Kind::Denied => {
                ensure(last.is_refused(), || "it was not refused".to_owned())?;
                ensure(arrived.is_empty(), || "it was refused and arrived".to_owned())?;
                ensure(kept.is_empty(), || "it was refused and is kept".to_owned())
            }
            Kind::Marked => {
                ensure(last.is_accepted(), || "it was not accepted".to_owned())?;
                ensure(kept.is_empty(), || "it is kept".to_owned())?;
                let reply = last.reply.as_deref().unwrap_or_default();
                self.check_marked(arrived, queued_as(reply), open)
            }
            Kind::Infected => {
                ensure(last.is_accepted(), || "it was not accepted".to_owned())?;
                self.check_kept(arrived, kept, open)
            }
        }
    }

    /// What the client was told of has arrived, and so has nothing else but what somebody's end left open.
    fn check_marked(&self, arrived: &Passes, told: &str, open: usize) -> Result<(), String> {
        let is_told = |names: &&BTreeSet<String>| names.contains(told);
        ensure(arrived.values().any(|names| is_told(&names)), || {
            format!("it was accepted as {told} and did not arrive")
        })?;
        ensure(arrived.len() <= 1 + open, || {
            format!("it arrived {} times after {open} open attempts", arrived.len())
        })?;
        for (pass, names) in arrived {
            ensure(names.len() == 1, || format!("{pass} went out as {names:?}"))?;
            self.check_pass(pass, is_told(&names))?;
        }
        Ok(())
    }

    /// The log says of a message that arrived that it went out, and then that it had; or the client was told
    /// that the next hop was lost; or nothing, since the process was killed.
    fn check_pass(&self, pass: &str, is_told: bool) -> Result<(), String> {
        let (life, lines) = self.lines_of(pass)?;
        let went = lines.iter().filter(|line| line["message"] == "goes to the next hop").count();
        ensure(went == 1, || format!("{pass} arrived and went out {went} times"))?;
        let end = lines.iter().find(|line| line["message"] == "message");
        let decision = end.map(|line| (text(line, "decision"), text(line, "reason")));
        let is_explained = match &decision {
            Some((decision, _)) if decision == "modify" => is_told || life.is_killed,
            Some((decision, reason)) => {
                decision == "tempfail" && reason.starts_with("421 4.4.1 ") && !is_told
            }
            None => life.is_killed && !is_told,
        };
        ensure(is_explained, || format!("{pass} arrived, and the log says {decision:?} of it"))
    }

    /// It is kept as often as the client was told so or could not be told, and each of these arrived.
    fn check_kept(
        &self,
        arrived: &Passes,
        kept: &[(String, String)],
        open: usize,
    ) -> Result<(), String> {
        ensure((1..=1 + open).contains(&kept.len()), || {
            format!("it is kept {} times after {open} open attempts", kept.len())
        })?;
        let passes: BTreeSet<_> = kept.iter().map(|(pass, _)| pass).collect();
        ensure(passes.len() == kept.len(), || "one pass is kept twice".to_owned())?;
        ensure(arrived.keys().collect::<BTreeSet<_>>() == passes, || {
            "what was released is not what arrived".to_owned()
        })?;
        let mut was_told = false;
        for (pass, id) in kept {
            let (life, lines) = self.lines_of(pass)?;
            let end = lines.iter().find(|line| line["message"] == "message");
            match end.map(|line| text(line, "decision")).as_deref() {
                Some("quarantine") => was_told = true,
                None if life.is_killed => {}
                decision => return Err(format!("{pass} is kept, and the log says {decision:?}")),
            }
            self.check_release(id, &arrived[pass])?;
        }
        ensure(was_told, || "the log does not say that it was kept".to_owned())
    }

    /// A message that was released arrived once, and once more at most for each attempt that was lost or
    /// was cut short.
    fn check_release(&self, id: &str, names: &BTreeSet<String>) -> Result<(), String> {
        let id = format!("{id}-release");
        let (mut lost, mut delivered) = (0, BTreeSet::new());
        let said = self.about.get(&id).map(Vec::as_slice).unwrap_or_default();
        for lines in said.chunk_by(|(one, _), (other, _)| one == other) {
            let life = &self.lives[lines[0].0];
            let lines: Vec<_> = lines.iter().map(|(_, line)| line).collect();
            let went = lines.iter().filter(|line| line["message"] == "goes to the next hop");
            let ends = lines.iter().filter(|line| line["message"] == "delivery");
            let cut = went.count() - ends.clone().count();
            ensure(cut == 0 || life.is_killed && cut == 1, || format!("{id}: no end: {lines:?}"))?;
            lost += cut;
            for end in ends {
                match &text(end, "outcome")[..] {
                    "delivered" => {
                        delivered.insert(queued_as(&text(end, "reply")).to_owned());
                    }
                    "deferred" => lost += 1,
                    _ => return Err(format!("{end}")),
                }
            }
        }
        ensure(names.is_superset(&delivered), || {
            format!("{id} was delivered as {delivered:?} and arrived as {names:?}")
        })?;
        ensure((1..=delivered.len() + lost).contains(&names.len()), || {
            format!("{id} arrived as {names:?}, {lost} attempts were lost")
        })
    }

    /// What the log says was taken has arrived, and nothing in it is an error.
    fn check_log(&self) {
        let arrived: BTreeSet<_> = self.arrived.values().flat_map(Passes::keys).collect();
        for life in &self.lives {
            for (place, line) in life.lines.iter().enumerate() {
                let is_cut = life.is_killed && place + 1 == life.lines.len();
                let is_bad = !line.is_object() || line["level"] == "ERROR";
                assert!(is_cut || !is_bad, "{line}");
                if line["message"] == "message" && line["decision"] == "modify" {
                    assert!(arrived.contains(&text(line, "id")), "it did not arrive: {line}");
                }
            }
        }
    }

    fn sum_up(&self, kept: usize) {
        let attempts: Vec<_> = self.attempts.iter().flatten().collect();
        let open = |has_reply: bool| {
            let open = attempts.iter().filter(|attempt| attempt.is_open());
            open.filter(|attempt| attempt.reply.is_some() == has_reply).count()
        };
        let (proxy, hop) = (open(false), open(true));
        let marked = |number: &&usize| mail::kind(**number) == Kind::Marked;
        let twice = self.arrived.keys().filter(marked).map(|number| self.arrived[number].len() - 1);
        let names = self.arrived.values().flat_map(Passes::values);
        let released = names.map(|names| names.len() - 1).sum::<usize>();
        let told = self.kept.values().map(|kept| kept.len() - 1).sum::<usize>();
        let kills = |victim| self.kills.iter().filter(|kill| kill.victim == victim).count();
        println!(
            "{} messages in {} attempts; killed: {} proxies, {} next hops, {} times servers",
            self.attempts.len(),
            attempts.len(),
            kills(Victim::Proxy),
            kills(Victim::NextHop),
            kills(Victim::Server)
        );
        println!(
            "left open by the end of the proxy: {proxy}, of the next hop: {hop}; {kept} were kept\n\
             twice: {} at the next hop, {told} in the quarantine, {released} from the spool",
            twice.sum::<usize>()
        );
        assert!(proxy + hop > 0 && kept > 0, "this shows nothing");
    }

    /// The process that a message passed, and its lines about it.
    fn lines_of(&self, pass: &str) -> Result<(&Life, Vec<&Value>), String> {
        let said = self.about.get(pass).map(Vec::as_slice).unwrap_or_default();
        let (life, _) = said.first().ok_or_else(|| format!("the log does not know {pass}"))?;
        Ok((&self.lives[*life], said.iter().map(|(_, line)| line).collect()))
    }

    /// All that is known of a message.
    fn story_of(&self, number: usize) -> String {
        let mut story = String::new();
        let start = self.attempts.iter().flatten().map(|attempt| attempt.begin).min();
        let at = |moment: Instant| start.map_or(0, |start| (moment - start).as_millis());
        for Attempt { begin, end, reply, is_sent } in &self.attempts[number] {
            let (begin, end) = (at(*begin), at(*end));
            let _ = writeln!(story, "  {begin}..{end} ms, sent: {is_sent}, reply: {reply:?}");
        }
        for kill in &self.kills {
            let during =
                |attempt: &Attempt| attempt.begin <= kill.until && kill.from <= attempt.end;
            if self.attempts[number].iter().any(during) {
                let _ = writeln!(story, "  {} ms: killed: {:?}", at(kill.from), kill.victim);
            }
        }
        let (arrived, kept) = (self.arrived.get(&number), self.kept.get(&number));
        let _ = writeln!(story, "  arrived: {arrived:?}\n  kept: {kept:?}");
        let mut names: Vec<_> = arrived.into_iter().flat_map(Passes::keys).cloned().collect();
        names.extend(kept.into_iter().flatten().map(|(_, id)| format!("{id}-release")));
        names.push(format!("<{}>", mail::sender(number)));
        let is_about = |line: &str| names.iter().any(|name| line.contains(name));
        let lives = self.lives.iter().enumerate();
        let lines = lives
            .flat_map(|(life, said)| said.lines.iter().map(move |line| (life, line.to_string())));
        for (life, line) in lines.filter(|(_, line)| is_about(line)).take(MOST_LINES) {
            let _ = writeln!(story, "  process {life}: {line}");
        }
        story
    }
}

fn ensure(holds: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why()) }
}

/// What Postfix has called a message that it brings.
fn queue_id(delivered: &Delivered) -> String {
    let mail = String::from_utf8_lossy(&delivered.octets);
    let (_, name) = mail.split_once(" with ESMTP id ").expect("Postfix says how it got it");
    name.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
}

/// What Postfix says that it calls a message; empty if it says something else.
fn queued_as(reply: &str) -> &str {
    reply.split_once(" queued as ").unwrap_or_default().1
}

/// A message's number and pass. It has its fields from the services once each, and is as it was sent.
fn opened(message: &[u8]) -> (usize, String) {
    let told = || String::from_utf8_lossy(&message[..message.len().min(MOST_OCTETS)]).into_owned();
    let number = mail::number(message).unwrap_or_else(|| panic!("whose is this? {}", told()));
    let sent = mail::message(number);
    let added = message.strip_suffix(&sent[..]);
    let added = added.unwrap_or_else(|| panic!("{number} is not what was sent: {}", told()));
    let added = String::from_utf8_lossy(added).replace("\r\n\t", "").replace("\r\n ", " ");
    let fields: Vec<_> =
        added.lines().map(|line| line.split_once(": ").unwrap_or((line, ""))).collect();
    let names: Vec<_> = fields.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["OPES-System", "X-Spam-Score", "X-Spam-Status"], "{number}: {}", told());
    let pass = fields[0].1.rsplit("session=").next().unwrap_or_default();
    (number, pass.to_owned())
}
