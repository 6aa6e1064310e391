//! What happens to which files, in which mail, for whom.

use std::sync::Arc;

use ocp_proto::smtp::{Activation, Address, DialogFacts};

use super::notices::{Language, Notices};
use super::patterns::{Patterns, extensions_of};
use super::settings::{Action, Direction, MimeStripSettings, RuleSettings};
use crate::content::Object;
use crate::mail::{Part, SpoolError};
use crate::mail_from::AddressList;
use crate::registry::SettingsError;
use crate::service::Request;

/// The most rules: a recipient's are a number of 64 bits with the language, for which eight are left.
const MOST_RULES: usize = 56;
/// The most languages.
const MOST_LANGUAGES: usize = 256;

/// Rules in their order, that for all others last.
#[derive(Debug)]
pub(super) struct Rules {
    rules: Vec<Rule>,
    notices: Notices,
}

/// A rule, ready for use.
#[derive(Debug)]
struct Rule {
    direction: Option<Direction>,
    senders: Option<AddressList>,
    recipients: Option<AddressList>,
    patterns: Patterns,
    macros: bool,
    encrypted: bool,
    mismatched: bool,
    larger_than: Option<usize>,
    /// It is about every file.
    is_for_all: bool,
    action: Action,
    notice: Option<String>,
    language: Option<Language>,
}

/// The rules of one recipient: whom has the same is treated alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Treatment(u64);

/// The rules that are for a mail.
#[derive(Clone, Debug)]
pub(super) struct Applied {
    rules: Arc<Rules>,
    /// Those that are for its direction and its sender, whoever has it.
    mask: u64,
    /// The treatments of its recipients, each once.
    treatments: Vec<Treatment>,
}

/// What happens to a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) action: Action,
    /// Why.
    pub(super) reason: String,
    /// The notice for it, not filled in yet.
    pub(super) notice: String,
}

impl Rules {
    pub(super) fn new(
        settings: &MimeStripSettings,
        notices: Notices,
    ) -> Result<Self, SettingsError> {
        let mut rules = Vec::new();
        for rule in &settings.rules {
            if rules.len() == MOST_RULES - 1 {
                let why = format!("mime-strip has at most {} rules", MOST_RULES - 1);
                return Err(SettingsError::at(rule.action.span(), why));
            }
            rules.push(Rule::new(rule, &notices)?);
        }
        if notices.count() > MOST_LANGUAGES {
            return Err(SettingsError::new(format!("notices: at most {MOST_LANGUAGES} languages")));
        }
        rules.push(Rule::of_all(settings)?);
        Ok(Self { rules, notices })
    }

    /// The actions that there are.
    pub(super) fn actions(&self) -> impl Iterator<Item = Action> {
        self.rules.iter().map(|rule| rule.action)
    }

    /// Whether recipients may have different rules or languages.
    pub(super) fn differ(&self) -> bool {
        self.notices.differ() || self.rules.iter().any(|rule| rule.recipients.is_some())
    }

    /// The treatment of a recipient.
    pub(super) fn treatment(&self, recipient: &Address) -> Treatment {
        let is_for = |rule: &Rule| {
            rule.recipients.as_ref().is_none_or(|named| named.find(recipient).is_some())
        };
        Treatment::new(self.rules.iter().map(is_for), self.notices.of(recipient))
    }

    /// The rules for a mail.
    pub(super) fn applied(self: &Arc<Self>, request: &Request) -> Applied {
        let direction = direction(&request.dialog);
        let sender = request.envelope.sender.as_ref();
        let is_for = |rule: &Rule| {
            let senders = rule.senders.as_ref();
            rule.direction.is_none_or(|wanted| wanted == direction)
                && senders.is_none_or(|named| sender.and_then(|one| named.find(one)).is_some())
        };
        let mask = mask(self.rules.iter().map(is_for));
        let mut treatments: Vec<Treatment> = Vec::new();
        for recipient in &request.envelope.recipients {
            let treatment = self.treatment(recipient);
            if !treatments.contains(&treatment) {
                treatments.push(treatment);
            }
        }
        if treatments.is_empty() {
            // Nobody is named: rules for some are not for such a mail.
            let is_for = |rule: &Rule| rule.recipients.is_none();
            treatments
                .push(Treatment::new(self.rules.iter().map(is_for), self.notices.of_others()));
        }
        Applied { rules: Arc::clone(self), mask, treatments }
    }
}

/// Which way a mail goes.
fn direction(dialog: &DialogFacts) -> Direction {
    match dialog.auth.is_some() || dialog.activation == Activation::Sending {
        true => Direction::Outbound,
        false => Direction::Inbound,
    }
}

/// A number with a bit for each rule that is meant.
fn mask(rules: impl Iterator<Item = bool>) -> u64 {
    rules.enumerate().fold(0, |mask, (nth, is_meant)| mask | u64::from(is_meant) << nth)
}

impl Treatment {
    fn new(rules: impl Iterator<Item = bool>, language: Language) -> Self {
        let language = u64::try_from(language).unwrap_or_default();
        Self(mask(rules) | language << MOST_RULES)
    }

    fn language(self) -> Language {
        usize::try_from(self.0 >> MOST_RULES).unwrap_or_default()
    }

    /// The number: equal for whom the rules and the language are the same.
    pub(super) fn number(self) -> u64 {
        self.0
    }
}

impl Applied {
    /// Whether all that is in the mail passes, for everybody who gets it.
    pub(super) fn are_all_exempt(&self) -> bool {
        let is_exempt = |treatment: &Treatment| {
            let first = self.rules_of(*treatment).next();
            first.is_some_and(|rule| rule.is_for_all && rule.action == Action::Accept)
        };
        self.treatments.iter().all(is_exempt)
    }

    /// Whether the recipients have different rules: what is done is done for all of them.
    pub(super) fn are_different(&self) -> bool {
        self.treatments.len() > 1
    }

    /// Whether some rule is about what may be known only from inside a file.
    pub(super) fn look_inside(&self) -> bool {
        let mut rules = self.treatments.iter().flat_map(|treatment| self.rules_of(*treatment));
        rules.any(|rule| rule.macros || rule.encrypted)
    }

    /// What happens to a part that holds others.
    ///
    /// # Errors
    /// Never: nothing is read for it.
    pub(super) fn container(&self, part: &Part) -> Result<Option<Decision>, SpoolError> {
        let essence = &part.content_type.essence;
        self.strictest(|rule| Ok(rule.patterns.forbid(&part.names, essence, b"")))
    }

    /// What happens to a file.
    ///
    /// # Errors
    /// If its octets can't be read.
    pub(super) fn file(&self, object: &Object<'_>) -> Result<Option<Decision>, SpoolError> {
        self.strictest(|rule| {
            match rule.patterns.forbid(object.names, object.declared, object.head) {
                Some(reason) => Ok(Some(reason)),
                None => rule.forbid(object),
            }
        })
    }

    /// The same of a file in an archive that is not looked into: what counts is what the archive holds then.
    ///
    /// # Errors
    /// If its octets can't be read.
    pub(super) fn shut_file(&self, object: &Object<'_>) -> Result<Option<Decision>, SpoolError> {
        self.strictest(|rule| rule.forbid_inside(object))
    }

    /// For each treatment the first rule that is about it decides; of several treatments the strictest counts.
    fn strictest(
        &self,
        mut reason: impl FnMut(&Rule) -> Result<Option<String>, SpoolError>,
    ) -> Result<Option<Decision>, SpoolError> {
        let mut strictest: Option<Decision> = None;
        for treatment in &self.treatments {
            for rule in self.rules_of(*treatment) {
                let reason = match rule.is_for_all {
                    true => Some(String::new()),
                    false => reason(rule)?,
                };
                let Some(reason) = reason else { continue };
                if strictest.as_ref().is_none_or(|known| known.action < rule.action) {
                    let language = rule.language.unwrap_or_else(|| treatment.language());
                    let notice = rule.notice.as_deref();
                    let notice = notice.unwrap_or_else(|| self.rules.notices.text(language));
                    let notice = notice.to_owned();
                    strictest = Some(Decision { action: rule.action, reason, notice });
                }
                break;
            }
        }
        Ok(strictest.filter(|decision| decision.action != Action::Accept))
    }

    fn rules_of(&self, treatment: Treatment) -> impl Iterator<Item = &Rule> {
        let mask = self.mask & treatment.0;
        let rules = self.rules.rules.iter().enumerate();
        rules.filter(move |(nth, _)| mask >> nth & 1 == 1).map(|(_, rule)| rule)
    }
}

impl Rule {
    fn new(settings: &RuleSettings, notices: &Notices) -> Result<Self, SettingsError> {
        let list = |written: &Option<Vec<_>>| written.as_deref().map(AddressList::new).transpose();
        let patterns = Patterns::of_rule(settings)?;
        let &RuleSettings { macros, encrypted, mismatched, larger_than, .. } = settings;
        let is_for_all =
            patterns.is_empty() && !(macros || encrypted || mismatched) && larger_than.is_none();
        let action = *settings.action.get_ref();
        if is_for_all && action != Action::Accept {
            let why = "the rule names no files: it needs names, extensions, types, content, macros, \
                       encrypted, mismatched or larger-than";
            return Err(SettingsError::at(settings.action.span(), why));
        }
        let language = settings.language.as_ref();
        Ok(Self {
            direction: settings.direction,
            senders: list(&settings.senders)?,
            recipients: list(&settings.recipients)?,
            patterns,
            macros,
            encrypted,
            mismatched,
            larger_than,
            is_for_all,
            action,
            notice: settings.notice.clone(),
            language: language.map(|language| notices.language(language)).transpose()?,
        })
    }

    /// The one of the settings for all.
    fn of_all(settings: &MimeStripSettings) -> Result<Self, SettingsError> {
        Ok(Self {
            direction: None,
            senders: None,
            recipients: None,
            patterns: Patterns::of_all(settings)?,
            macros: false,
            encrypted: false,
            mismatched: false,
            larger_than: None,
            is_for_all: false,
            action: Action::Replace,
            notice: None,
            language: None,
        })
    }

    /// Why a file is meant, by what is known of its octets.
    fn forbid(&self, object: &Object<'_>) -> Result<Option<String>, SpoolError> {
        if let Some(most) = self.larger_than.filter(|most| object.octets.len() > *most) {
            return Ok(Some(format!("larger than {most} octets")));
        }
        if self.mismatched {
            let mut extensions = object.names.iter().flat_map(|name| extensions_of(name));
            let lie = extensions.find_map(|extension| {
                let kind = object.mismatch(&extension)?;
                Some(format!("named .{extension}, but of the kind {kind}"))
            });
            if lie.is_some() {
                return Ok(lie);
            }
        }
        self.forbid_inside(object)
    }

    fn forbid_inside(&self, object: &Object<'_>) -> Result<Option<String>, SpoolError> {
        if self.macros
            && let Some(macros) = object.macros()?
        {
            return Ok(Some(macros.to_owned()));
        }
        let is_locked = self.encrypted && object.is_encrypted()?;
        Ok(is_locked.then(|| "only a password opens it".to_owned()))
    }
}
