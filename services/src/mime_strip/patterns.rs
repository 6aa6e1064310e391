//! Names, types and kinds of files.

use regex::{Regex, RegexBuilder};
use toml::Spanned;

use super::settings::{MimeStripSettings, RuleSettings};
use crate::content::FileKind;
use crate::registry::SettingsError;

/// Names, types and kinds of files, ready for use.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    names: Vec<(String, Regex)>,
    extensions: Vec<String>,
    types: Vec<(String, Regex)>,
    content: Vec<FileKind>,
}

/// The memory that one pattern may take when it is compiled.
const PATTERN_OCTETS: usize = 1024 * 1024;

impl Patterns {
    /// What is forbidden for all.
    pub(super) fn of_all(settings: &MimeStripSettings) -> Result<Self, SettingsError> {
        let compiled = |patterns: &[String], setting| {
            let compiled = patterns.iter().map(|pattern| {
                named(pattern).map_err(|error| SettingsError::new(format!("{setting}: {error}")))
            });
            compiled.collect::<Result<Vec<_>, SettingsError>>()
        };
        Ok(Self {
            names: compiled(&settings.forbidden_names, "forbidden-names")?,
            extensions: extensions(&settings.forbidden_extensions),
            types: compiled(&settings.forbidden_types, "forbidden-types")?,
            content: settings.forbidden_content.clone(),
        })
    }

    /// What a rule is about.
    pub(super) fn of_rule(settings: &RuleSettings) -> Result<Self, SettingsError> {
        let compiled = |patterns: &[Spanned<String>]| {
            let compiled = patterns.iter().map(|pattern| {
                named(pattern.get_ref()).map_err(|error| SettingsError::at(pattern.span(), error))
            });
            compiled.collect::<Result<Vec<_>, SettingsError>>()
        };
        Ok(Self {
            names: compiled(&settings.names)?,
            extensions: extensions(&settings.extensions),
            types: compiled(&settings.types)?,
            content: settings.content.clone(),
        })
    }

    /// Whether no file is meant.
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
            && self.extensions.is_empty()
            && self.types.is_empty()
            && self.content.is_empty()
    }

    /// Why a file is forbidden, by its names, its declared type or its octets.
    pub(super) fn forbid(&self, names: &[String], declared: &str, octets: &[u8]) -> Option<String> {
        names
            .iter()
            .find_map(|name| self.forbid_name(name))
            .or_else(|| self.forbid_type(declared))
            .or_else(|| {
                let kind = FileKind::of(octets).filter(|kind| self.content.contains(kind))?;
                Some(format!("forbidden content ({})", kind.name()))
            })
    }

    fn forbid_name(&self, name: &str) -> Option<String> {
        spellings(name).iter().find_map(|name| {
            let extension = extension(name);
            if self.extensions.iter().any(|forbidden| forbidden == extension) {
                return Some(format!("forbidden extension .{extension}"));
            }
            let (pattern, _) = self.names.iter().find(|(_, regex)| regex.is_match(name))?;
            Some(format!("forbidden name ({pattern})"))
        })
    }

    fn forbid_type(&self, declared: &str) -> Option<String> {
        let (pattern, _) = self.types.iter().find(|(_, regex)| regex.is_match(declared))?;
        Some(format!("forbidden type ({pattern})"))
    }
}

/// A pattern as it is written, and compiled; or what is wrong with it.
fn named(pattern: &str) -> Result<(String, Regex), String> {
    let regex = compile(pattern).map_err(|error| format!("{pattern:?}: {error}"))?;
    Ok((pattern.to_owned(), regex))
}

fn extensions(written: &[String]) -> Vec<String> {
    written.iter().map(|extension| extension.trim_start_matches('.').to_lowercase()).collect()
}

fn extension(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(_, extension)| extension)
}

/// The last extensions that systems may read in a name, lower case, without the dot.
pub(super) fn extensions_of(name: &str) -> impl Iterator<Item = String> {
    spellings(name).into_iter().map(|name| extension(&name).to_owned())
}

/// A pattern with `*` and `?`, or a regular expression between slashes.
fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    let expression = match pattern.strip_prefix('/').and_then(|rest| rest.strip_suffix('/')) {
        Some(expression) => expression.to_owned(),
        None => {
            let escaped = regex::escape(pattern).replace(r"\*", ".*").replace(r"\?", ".");
            format!("^{escaped}$")
        }
    };
    RegexBuilder::new(&expression)
        .case_insensitive(true)
        .dot_matches_new_line(true)
        .size_limit(PATTERN_OCTETS)
        .build()
}

/// The ways in which systems may read a name, lower case: without directories, invisible characters
/// and what Windows drops at the end (dots, blanks, the name of a stream), and up to a NUL.
fn spellings(name: &str) -> Vec<String> {
    let plain: String = name.chars().filter(|c| !is_invisible(*c)).collect();
    let until_nul = plain.split('\0').next().unwrap_or_default();
    let mut spellings: Vec<String> = Vec::new();
    for name in [plain.as_str(), until_nul] {
        let base = name.rsplit(['/', '\\']).next().unwrap_or_default();
        let stream = base.split(':').next().unwrap_or_default();
        for name in [base, stream] {
            let ends_with = |c: char| {
                c == '.' || c.is_whitespace() || c.is_control() || matches!(c, '"' | '\'')
            };
            let name = name.trim_end_matches(ends_with).to_lowercase();
            if !name.is_empty() && !spellings.contains(&name) {
                spellings.push(name);
            }
        }
    }
    spellings
}

/// Characters without width, and those that turn the direction of writing.
fn is_invisible(character: char) -> bool {
    matches!(character,
        '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn default() -> Patterns {
        Patterns::of_all(&MimeStripSettings::default()).unwrap()
    }

    #[test]
    fn names_as_systems_read_them() {
        let rules = default();
        for name in [
            "a.exe",
            "A.EXE",
            "invoice.pdf.exe",
            "a.exe. . ",
            "a.exe\0.txt",
            "a.exe::$DATA",
            "dir\\a.scr",
            "dir/a.scr",
            "a.ex\u{200b}e",
            "gpj.\u{202e}exe",
            "a.exe\"",
            "a.{3050f4d8-98b5-11cf-bb82-00aa00bdce0b}",
        ] {
            let name = name.to_owned();
            assert!(rules.forbid(std::slice::from_ref(&name), "", b"").is_some(), "{name:?}");
        }
        for name in ["a.txt", "exe", "a.exe.txt", "a.pdf", "", "..."] {
            assert_eq!(rules.forbid(&[name.to_owned()], "text/plain", b"text"), None, "{name:?}");
        }
    }

    #[test]
    fn reasons() {
        let settings = MimeStripSettings {
            forbidden_names: vec!["secret*".to_owned(), "/^x[0-9]+$/".to_owned()],
            forbidden_types: vec!["application/x-ms*".to_owned()],
            ..MimeStripSettings::default()
        };
        let rules = Patterns::of_all(&settings).unwrap();
        let forbid = |name: &str, declared: &str, octets: &[u8]| {
            rules.forbid(&[name.to_owned()], declared, octets).unwrap()
        };
        assert_eq!(forbid("a.exe", "", b""), "forbidden extension .exe");
        assert_eq!(forbid("Secret.txt", "", b""), "forbidden name (secret*)");
        assert_eq!(forbid("x12", "", b""), "forbidden name (/^x[0-9]+$/)");
        assert_eq!(
            forbid("a", "application/x-msdownload", b""),
            "forbidden type (application/x-ms*)"
        );
        assert_eq!(forbid("a", "", b"\x7fELF"), "forbidden content (elf)");
    }

    #[test]
    fn a_pattern_that_is_none_is_named() {
        let settings =
            MimeStripSettings { forbidden_names: vec!["/(/".to_owned()], ..Default::default() };
        let error = Patterns::of_all(&settings).unwrap_err();
        assert!(error.message.starts_with("forbidden-names: \"/(/\": "), "{error}");
    }
}
