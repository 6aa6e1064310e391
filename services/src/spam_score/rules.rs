//! Rules: how a file holds them, and which of them fit a mail.

use std::collections::HashMap;
use std::ops::Range;

use regex::bytes::Regex;
use serde::Deserialize;
use toml::Spanned;

use super::fact::Fact;
use super::view::View;
use crate::setting::pattern;

/// The rules that are used unless a file is named.
pub(super) const DEFAULT: &str = include_str!("default-rules.toml");
/// The name and score of the rule for the test string that every spam filter knows, GTUBE.
const TEST_STRING: (&str, f64) = ("GTUBE", 1000.0);

/// The most rules of a file. With the bound on a pattern, that many MiB in the worst case; a
/// pattern as rules need them takes some ten KiB.
const MOST_RULES: usize = 2_000;
/// The longest name of a rule; names stand in a header field.
const LONGEST_NAME: usize = 64;

/// A rule file, as written.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct File {
    /// The rules, in order.
    rule: Vec<Spanned<Written>>,
}

/// A rule, as written: exactly one of `field`, `in`, `fact` and `of`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Written {
    name: String,
    /// What a mail that it fits gets; a rule of score 0 is there for other rules.
    #[serde(default)]
    score: f64,
    /// Why; for the reader of the file.
    #[serde(default, rename = "description")]
    _description: String,
    /// The field whose decoded values the pattern is looked for in.
    field: Option<String>,
    /// The area that the pattern is looked for in.
    r#in: Option<Area>,
    pattern: Option<String>,
    fact: Option<Fact>,
    /// Rules above this one.
    of: Option<Vec<String>>,
    /// How many of them have to fit; all unless given.
    at_least: Option<usize>,
    /// Rules above this one; if one of them fits, this one does not.
    #[serde(default)]
    unless: Vec<String>,
}

/// What patterns are looked for in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Area {
    /// The header section as it is.
    Header,
    /// The subject and the visible text.
    Text,
    /// HTML as it is written.
    Html,
    /// Each address of text and HTML.
    Uri,
    /// Each file name of a part.
    FileName,
    /// The envelope's sender.
    Sender,
    /// Each recipient of the envelope.
    Recipient,
}

/// Rules that are ready for use.
#[derive(Debug)]
pub(super) struct Rules(Vec<Rule>);

/// One rule.
#[derive(Debug)]
struct Rule {
    name: String,
    score: f64,
    test: Test,
    unless: Vec<usize>,
}

#[derive(Debug)]
enum Test {
    Field(String, Regex),
    In(Area, Regex),
    Fact(Fact),
    /// So many of these rules, by index.
    Of(Vec<usize>, usize),
    /// The test string itself.
    Gtube(String),
}

/// Why a file holds no rules.
#[derive(Debug)]
pub(super) struct RuleError {
    /// Octets of the file.
    pub(super) span: Option<Range<usize>>,
    pub(super) message: String,
}

/// What rules found.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Found<'a> {
    /// The sum, to one decimal place: what people are shown is what decides.
    pub(super) score: f64,
    /// Rules with a score that fitted, the highest first.
    pub(super) rules: Vec<(&'a str, f64)>,
}

impl Rules {
    /// The rules of a file.
    pub(super) fn parse(text: &str) -> Result<Self, RuleError> {
        let file: File = toml::from_str(text).map_err(|error| RuleError {
            span: error.span(),
            message: error.message().to_owned(),
        })?;
        let (name, score) = TEST_STRING;
        let test = Test::Gtube(test_string());
        let mut rules = vec![Rule { name: name.to_owned(), score, test, unless: Vec::new() }];
        let mut indexes = HashMap::from([(name.to_owned(), 0)]);
        for written in file.rule {
            let span = written.span();
            let name = written.get_ref().name.clone();
            let rule = compile(written.into_inner(), &indexes, rules.len());
            rules.push(rule.map_err(|message| RuleError {
                span: Some(span),
                message: format!("rule {name:?}: {message}"),
            })?);
            indexes.insert(name, rules.len() - 1);
        }
        Ok(Self(rules))
    }

    /// Gives the rule of this name another score; says whether there is one.
    pub(super) fn set_score(&mut self, name: &str, score: f64) -> bool {
        let rule = self.0.iter_mut().find(|rule| rule.name == name);
        rule.map(|rule| rule.score = score).is_some()
    }

    /// Looks at a mail. The time grows linearly with its text and the number of rules.
    pub(super) fn look_at(&self, view: &View<'_>) -> Found<'_> {
        let mut fits: Vec<bool> = Vec::with_capacity(self.0.len());
        let mut found = Found::default();
        for rule in &self.0 {
            let fitted = |index: &&usize| fits.get(**index).copied().unwrap_or_default();
            let fit = rule.unless.iter().find(fitted).is_none()
                && match &rule.test {
                    Test::Field(name, pattern) => {
                        view.fields(name).iter().any(|value| pattern.is_match(value.as_bytes()))
                    }
                    Test::In(area, pattern) => area.holds(view, pattern),
                    Test::Fact(fact) => fact.holds(view),
                    Test::Of(rules, at_least) => rules.iter().filter(fitted).count() >= *at_least,
                    Test::Gtube(string) => view.text.contains(string),
                };
            if fit && rule.score != 0.0 {
                found.rules.push((&rule.name, rule.score));
            }
            fits.push(fit);
        }
        found.rules.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        let sum: f64 = found.rules.iter().map(|(_, score)| score).sum();
        // Without the last addition a sum of nothing may be shown as -0.0.
        found.score = (sum * 10.0).round() / 10.0 + 0.0;
        found
    }
}

impl Area {
    fn holds(self, view: &View<'_>, pattern: &Regex) -> bool {
        let is_in = |text: &String| pattern.is_match(text.as_bytes());
        match self {
            Self::Header => pattern.is_match(view.header()),
            Self::Text => is_in(&view.text),
            Self::Html => !view.html.is_empty() && is_in(&view.html),
            Self::Uri => view.uris.iter().any(is_in),
            Self::FileName => view.file_names.iter().any(|name| pattern.is_match(name.as_bytes())),
            Self::Sender => {
                view.envelope.sender.iter().any(|sender| pattern.is_match(sender.mailbox()))
            }
            Self::Recipient => {
                view.envelope.recipients.iter().any(|path| pattern.is_match(path.mailbox()))
            }
        }
    }
}

fn compile(
    written: Written,
    indexes: &HashMap<String, usize>,
    count: usize,
) -> Result<Rule, String> {
    let Written { name, score, field, r#in, pattern: text, fact, of, at_least, unless, .. } =
        written;
    if count > MOST_RULES {
        return Err(format!("a file has at most {MOST_RULES} rules"));
    }
    let is_word = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'_' | b'-');
    if !(1..=LONGEST_NAME).contains(&name.len()) || !name.bytes().all(is_word) {
        return Err(format!("a name is 1 to {LONGEST_NAME} letters, digits, '_' and '-'"));
    }
    if indexes.contains_key(&name) {
        return Err("there is one of this name already".to_owned());
    }
    if !score.is_finite() {
        return Err("a score is a finite number".to_owned());
    }
    let index = |name: &String| {
        let known = indexes.get(name).copied();
        known.ok_or_else(|| format!("there is no rule {name:?} above it"))
    };
    let all = |names: Vec<String>| names.iter().map(index).collect::<Result<Vec<_>, _>>();
    if at_least.is_some() && of.is_none() {
        return Err("`at-least` goes with `of`".to_owned());
    }
    let test = match (field, r#in, fact, of, text) {
        (Some(field), None, None, None, Some(text)) => {
            Test::Field(field.to_ascii_lowercase(), pattern(&text)?)
        }
        (None, Some(area), None, None, Some(text)) => Test::In(area, pattern(&text)?),
        (None, None, Some(fact), None, None) => Test::Fact(fact),
        (None, None, None, Some(names), None) => {
            let at_least = at_least.unwrap_or(names.len());
            if at_least == 0 || at_least > names.len() {
                return Err(format!("`at-least` is 1 to {}", names.len()));
            }
            Test::Of(all(names)?, at_least)
        }
        _ => {
            let message = "it has `field` and `pattern`, `in` and `pattern`, `fact`, or `of`";
            return Err(message.to_owned());
        }
    };
    Ok(Rule { name, score, test, unless: all(unless)? })
}

/// Generic Test for Unsolicited Bulk Email. In two pieces, so that a mail with this file is none.
fn test_string() -> String {
    ["XJS*C4JDBQADN1.NSBN3*2IDNEN*", "GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"].concat()
}

#[cfg(test)]
pub(super) mod tests {
    use ocp_proto::smtp::{Address, Envelope};

    use super::super::view::tests::mail;
    use super::*;

    pub(in crate::spam_score) fn gtube() -> String {
        test_string()
    }

    fn names(rules: &str, text: &str) -> Vec<String> {
        let rules = Rules::parse(rules).unwrap();
        let envelope = Envelope {
            sender: Some(Address::new("<s@a.example>").unwrap()),
            recipients: vec![Address::new("<r@b.example>").unwrap()],
        };
        let mail = mail(text);
        let view = View::new(&mail, &envelope, 10_000).unwrap();
        let found = rules.look_at(&view);
        found.rules.into_iter().map(|(name, _)| name.to_owned()).collect()
    }

    #[test]
    fn each_area_is_looked_at() {
        let rules = r#"
            [[rule]]
            name = "FIELD"
            score = 9
            field = "subject"
            pattern = '^caf\xc3\xa9$'
            [[rule]]
            name = "HEADER"
            score = 8
            in = "header"
            pattern = 'utf-8'
            [[rule]]
            name = "TEXT"
            score = 7
            in = "text"
            pattern = 'two words'
            [[rule]]
            name = "HTML"
            score = 6
            in = "html"
            pattern = '<b>'
            [[rule]]
            name = "URI"
            score = 5
            in = "uri"
            pattern = '^http://c\.example/$'
            [[rule]]
            name = "FILE"
            score = 4
            in = "file-name"
            pattern = '\.exe$'
            [[rule]]
            name = "SENDER"
            score = 3
            in = "sender"
            pattern = '^s@a\.example$'
            [[rule]]
            name = "RECIPIENT"
            score = 2
            in = "recipient"
            pattern = '^r@'
        "#;
        let text = "Subject: =?utf-8?Q?caf=C3=A9?=\nContent-Type: text/html; name=a.exe\n\n\
                    <b>two</b>\nwords http://c.example/";
        let expected = ["FIELD", "HEADER", "TEXT", "HTML", "URI", "FILE", "SENDER", "RECIPIENT"];
        assert_eq!(names(rules, text), expected);
        assert_eq!(names(rules, "Subject: x\n\ny"), ["SENDER", "RECIPIENT"]);
    }

    #[test]
    fn rules_are_put_together() {
        let rules = r#"
            rule = [
                { name = "_A", in = "text", pattern = 'a' },
                { name = "_B", in = "text", pattern = 'b' },
                { name = "_C", in = "text", pattern = 'c' },
                { name = "TWO", score = 2, of = ["_A", "_B", "_C"], at-least = 2 },
                { name = "ALL", score = 3, of = ["_A", "_B", "_C"] },
                { name = "ONLY_A", score = 1, of = ["_A"], unless = ["_B", "_C"] },
            ]"#;
        assert_eq!(names(rules, "\na"), ["ONLY_A"]);
        assert_eq!(names(rules, "\nab"), ["TWO"]);
        assert_eq!(names(rules, "\nabc"), ["ALL", "TWO"]);
    }

    #[test]
    fn the_test_string_is_found_in_decoded_text_alone() {
        assert_eq!(names("rule = []", &format!("Subject: x\n\n {}\n", gtube())), ["GTUBE"]);
        assert_eq!(names("rule = []", &format!("\n{}", gtube().to_lowercase())), [""; 0]);
        let encoded = "Content-Transfer-Encoding: base64\n\nWEpTKkM0SkRCUUFETjEuTlNCTjMqMklETkVOKkdUVUJFLVNUQU5EQVJELUFOVEktVUJFLVRFU1Qt\nRU1BSUwqQy4zNFgNCg==";
        assert_eq!(names("rule = []", encoded), ["GTUBE"]);
        assert_eq!(names("rule = []", &format!("X: {}\n\n", gtube())), [""; 0]);
    }

    #[test]
    fn a_wrong_rule_is_named_and_shown() {
        let cases = [
            ("{ name = 'A', in = 'text', pattern = '(' }", "rule \"A\": \"(\" is no regular"),
            ("{ name = 'A', in = 'body', pattern = 'a' }", "unknown variant `body`"),
            ("{ name = 'A', fact = 'missing-date', scor = 1 }", "unknown field `scor`"),
            (
                "{ name = 'A', fact = 'missing-date', pattern = 'x' }",
                "rule \"A\": it has `field` and",
            ),
            ("{ name = 'A', in = 'text' }", "rule \"A\": it has `field` and"),
            ("{ name = 'A B', fact = 'missing-date' }", "rule \"A B\": a name is"),
            ("{ name = 'GTUBE', fact = 'missing-date' }", "rule \"GTUBE\": there is one"),
            ("{ name = 'A', of = ['B'] }", "rule \"A\": there is no rule \"B\" above it"),
            ("{ name = 'A', of = ['GTUBE'], at-least = 2 }", "rule \"A\": `at-least` is 1 to 1"),
            ("{ name = 'A', fact = 'html-only', at-least = 2 }", "rule \"A\": `at-least` goes"),
            ("{ name = 'A', fact = 'html-only', score = nan }", "rule \"A\": a score is a finite"),
        ];
        for (rule, expected) in cases {
            let error = Rules::parse(&format!("rule = [{rule}]")).unwrap_err();
            assert!(error.message.starts_with(expected), "{rule}: {}", error.message);
            assert!(error.span.is_some_and(|span| span.start >= 8), "{rule}");
        }
    }

    #[test]
    fn scores_can_be_changed() {
        let mut rules =
            Rules::parse("rule = [{name = 'A', score = 1.04, in = 'text', pattern = '' }]")
                .unwrap();
        let mail = mail("\nx");
        let envelope = Envelope::default();
        let view = View::new(&mail, &envelope, 100).unwrap();
        assert_eq!(rules.look_at(&view), Found { score: 1.0, rules: vec![("A", 1.04)] });
        assert!(rules.set_score("A", 0.0) && !rules.set_score("B", 0.0));
        assert_eq!(rules.look_at(&view), Found::default());
    }
}
