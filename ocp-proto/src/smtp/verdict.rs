//! What each service found (profile section 4, `verdict`).

use std::fmt;

use crate::wire::{Atom, Name, NamedValues, Structure, Value};

/// What one service found, for logs and traces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The service's URI.
    pub service: Atom,
    /// One word: `clean`, `spam`, `infected`, `unchanged`, `bypassed`, ...
    pub verdict: Atom,
    /// A number that only the service can read, such as `7.4/5.0`.
    pub score: Option<Atom>,
    /// Why, for people.
    pub reason: Option<Atom>,
    /// How long the service took.
    pub milliseconds: Option<u32>,
}

impl Verdict {
    /// Several in one line, for logs: `spam-score=spam (7.4/5.0) (BULK 1.0), mime-strip=clean`.
    pub fn summary(verdicts: &[Self]) -> String {
        verdicts.iter().map(Self::to_string).collect::<Vec<_>>().join(", ")
    }

    /// The service's name: the end of its URI.
    pub fn service_name(&self) -> &[u8] {
        self.service.rsplit(|octet| *octet == b'/').next().unwrap_or_default()
    }

    /// The verdict in a value, or `None` if it is none.
    pub fn from_value(value: &Value) -> Option<Self> {
        let structure = value.as_structure()?;
        let optional = |name| match structure.named.get(name) {
            Some(value) => value.as_atom().cloned().map(Some),
            None => Some(None),
        };
        Some(Self {
            service: structure.members.first()?.as_atom()?.clone(),
            verdict: structure.members.get(1)?.as_atom()?.clone(),
            score: optional("Score")?,
            reason: optional("Reason")?,
            milliseconds: match optional("Milliseconds")? {
                Some(number) => Some(crate::ids::parse_number(&number)?),
                None => None,
            },
        })
    }

    /// The verdict as a value.
    pub fn to_value(&self) -> Value {
        let mut named = NamedValues::new();
        if let Some(score) = &self.score {
            named.push(Name::from_static("Score"), Value::Atom(score.clone()));
        }
        if let Some(reason) = &self.reason {
            named.push(Name::from_static("Reason"), Value::Atom(reason.clone()));
        }
        if let Some(milliseconds) = self.milliseconds {
            named.push(Name::from_static("Milliseconds"), Value::number(milliseconds));
        }
        let members = vec![Value::Atom(self.service.clone()), Value::Atom(self.verdict.clone())];
        Value::Structure(Structure { members, named })
    }
}

impl fmt::Display for Verdict {
    /// The service's name, the verdict, and what there is of score and reason.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy;
        write!(f, "{}={}", text(self.service_name()), text(&self.verdict))?;
        for detail in [&self.score, &self.reason].into_iter().flatten() {
            write!(f, " ({})", text(detail))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_survives_the_wire() {
        let verdict = Verdict {
            service: Atom::from_static(b"ocp://service/spam-score"),
            verdict: Atom::from_static(b"spam"),
            score: Some(Atom::from_static(b"7.4/5.0")),
            reason: None,
            milliseconds: Some(3),
        };
        assert_eq!(Verdict::from_value(&verdict.to_value()), Some(verdict));
    }

    #[test]
    fn verdicts_make_one_line() {
        let spam = Verdict {
            service: "ocp://service/spam-score".into(),
            verdict: "spam".into(),
            score: Some("7.4/5.0".into()),
            reason: Some("BULK 1.0".into()),
            milliseconds: Some(3),
        };
        let bare = Verdict {
            service: "x".into(),
            verdict: "clean".into(),
            score: None,
            reason: None,
            ..spam.clone()
        };
        assert_eq!(
            Verdict::summary(&[spam, bare]),
            "spam-score=spam (7.4/5.0) (BULK 1.0), x=clean"
        );
        assert_eq!(Verdict::summary(&[]), "");
    }
}
