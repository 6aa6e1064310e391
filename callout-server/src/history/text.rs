//! What peers and services wrote, as people may see it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Text that is bounded and does nothing where it is shown: what controls a terminal, turns the direction of
/// writing or can't be seen stands as `\u{202e}`, and octets that are no UTF-8 as U+FFFD. Markup of a page is the
/// page's own affair.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String")]
pub(crate) struct Text(Box<str>);

impl Text {
    /// The most octets of one text.
    pub(crate) const LONGEST: usize = 512;

    /// At most [`Text::LONGEST`] octets of it; what is cut ends with `…`.
    pub(crate) fn new(octets: &[u8]) -> Self {
        // One octet too many shows that there are more.
        let text = String::from_utf8_lossy(octets.get(..=Self::LONGEST).unwrap_or(octets));
        let mut shown = String::with_capacity(text.len().min(Self::LONGEST));
        for character in text.chars() {
            let before = shown.len();
            match is_visible(character) {
                true => shown.push(character),
                false => shown.extend(character.escape_unicode()),
            }
            if shown.len() > Self::LONGEST {
                shown.truncate(before);
                while shown.len() > Self::LONGEST - '…'.len_utf8() {
                    shown.pop();
                }
                shown.push('…');
                break;
            }
        }
        Self(shown.into())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self::new(text.as_bytes())
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self::new(text.as_bytes())
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Neither a control character nor one that formats (Unicode's general categories Cc, Cf, Zl and Zp, as far as
/// these have an effect on others).
fn is_visible(character: char) -> bool {
    let is_format = matches!(
        character,
        '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    );
    !character.is_control() && !is_format
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_acts_on_a_terminal_or_on_other_text_is_spelt_out() {
        let shown = |text: &str| Text::from(text).as_str().to_owned();
        assert_eq!(shown("mx.\u{1b}[31mexample\r\n"), r"mx.\u{1b}[31mexample\u{d}\u{a}");
        assert_eq!(shown("\u{202e}gpj.exe\u{200b}\u{9b}"), r"\u{202e}gpj.exe\u{200b}\u{9b}");
        assert_eq!(shown("Grüße <b>&amp;</b> 日本"), "Grüße <b>&amp;</b> 日本");
        assert_eq!(Text::new(b"a\xffb").as_str(), "a\u{fffd}b");
    }

    #[test]
    fn what_is_cut_says_so() {
        let whole = "x".repeat(Text::LONGEST);
        assert_eq!(Text::from(whole.as_str()).as_str(), whole);
        let cut = Text::from(format!("{whole}y"));
        assert_eq!(cut.as_str().len(), Text::LONGEST);
        assert_eq!(cut.as_str(), format!("{}…", "x".repeat(Text::LONGEST - 3)));
    }

    proptest! {
        #[test]
        fn no_text_is_longer_or_acts(octets in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            let text = Text::new(&octets);
            prop_assert!(text.as_str().len() <= Text::LONGEST);
            prop_assert!(text.as_str().chars().all(is_visible));
            // What was shown once is shown as it is.
            prop_assert_eq!(Text::from(text.as_str()), text);
        }

        #[test]
        fn characters_of_any_kind_are_bounded(text in "\\PC{0,400}[\u{202a}-\u{202e}\u{1b}a]{0,400}") {
            let text = Text::from(text);
            prop_assert!(text.as_str().len() <= Text::LONGEST);
            prop_assert!(text.as_str().chars().all(is_visible));
        }
    }
}
