//! What people see of an HTML text, and where its links go.
//!
//! No browser: comments, scripts, styles and tags go, entities are decoded, blocks end lines. Every
//! octet is looked at a bounded number of times, whatever the markup is.

use memchr::{memchr, memmem};

/// How far the quoted attributes of one tag are followed; behind that the first `>` ends it. A
/// `data:` URI may be longer.
const LONGEST_TAG: usize = 8 * 1024;
/// The most links, and addresses of images and forms, that are looked at. Worst case: with
/// addresses of [`LONGEST_URI`] octets 2 MiB.
pub(super) const MOST_URIS: usize = 1_000;
/// The most octets of an address that are looked at.
pub(super) const LONGEST_URI: usize = 2 * 1024;
/// The longest entity between `&` and `;`.
const LONGEST_ENTITY: usize = 10;

/// An HTML text, taken apart.
#[derive(Debug, Default)]
pub(super) struct Html {
    /// Its visible text.
    pub(super) text: String,
    /// Where its links, images and forms point to.
    pub(super) uris: Vec<String>,
    /// Its links with their visible text.
    pub(super) links: Vec<Link>,
    /// How many images it shows.
    pub(super) images: usize,
}

/// A link and the text that people click on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) uri: String,
    pub(super) text: String,
}

impl Html {
    pub(super) fn read(html: &str) -> Self {
        let mut this = Self::default();
        // The link that is open, and where its text starts.
        let mut open: Option<(String, usize)> = None;
        let mut rest = html;
        while let Some(at) = memchr(b'<', rest.as_bytes()) {
            let (text, markup) = rest.split_at(at);
            decode_entities(text, &mut this.text);
            if let Some(comment) = markup.strip_prefix("<!--") {
                rest = after(comment, "-->");
                continue;
            }
            let starts_tag = |octet: &u8| octet.is_ascii_alphabetic() || b"/!?".contains(octet);
            if !markup.as_bytes().get(1).is_some_and(starts_tag) {
                this.text.push('<');
                rest = markup.get(1..).unwrap_or_default();
                continue;
            }
            let (tag, behind) = markup.split_at(tag_length(markup));
            rest = this.tag(tag, behind, &mut open);
        }
        decode_entities(rest, &mut this.text);
        this
    }

    /// Reads one tag with its brackets; gives what is left to read behind it.
    fn tag<'a>(
        &mut self,
        tag: &str,
        behind: &'a str,
        open: &mut Option<(String, usize)>,
    ) -> &'a str {
        let inner = tag.trim_start_matches('<').trim_end_matches('>');
        let end = inner.find(|c: char| c.is_whitespace() || (c == '/' && !inner.starts_with('/')));
        let (name, attributes) = inner.split_at(end.unwrap_or(inner.len()));
        let name = name.to_ascii_lowercase();
        match name.as_str() {
            "script" => return after_ignoring_case(behind, "</script"),
            "style" => return after_ignoring_case(behind, "</style"),
            "/a" => {
                if let Some((uri, start)) = open.take() {
                    let text = self.text.get(start..).unwrap_or_default();
                    let text = text.trim().chars().take(256).collect();
                    self.links.push(Link { uri, text });
                }
            }
            "br" | "/p" | "p" | "/div" | "div" | "/tr" | "tr" | "/li" | "li" | "/table" | "hr"
            | "/title" | "/h1" | "/h2" | "/h3" | "/h4" | "blockquote" => self.text.push('\n'),
            "td" | "/td" | "th" | "/th" => self.text.push(' '),
            _ => {}
        }
        self.images += usize::from(name == "img");
        if matches!(name.as_str(), "a" | "area" | "img" | "form" | "iframe" | "body" | "base") {
            let wanted = ["href", "src", "action", "background"];
            for (attribute, value) in Attributes(attributes) {
                if !wanted.iter().any(|wanted| attribute.eq_ignore_ascii_case(wanted)) {
                    continue;
                }
                if self.uris.len() >= MOST_URIS {
                    break;
                }
                let mut uri = String::new();
                decode_entities(value.trim(), &mut uri);
                cut(&mut uri, LONGEST_URI);
                if name == "a" {
                    *open = Some((uri.clone(), self.text.len()));
                }
                self.uris.push(uri);
            }
        }
        behind
    }
}

/// Octets of the tag at the start of a text, with its brackets: quoted `>` do not end it.
fn tag_length(markup: &str) -> usize {
    let octets = markup.as_bytes();
    let mut quote = None;
    for (at, octet) in octets.iter().enumerate().take(LONGEST_TAG) {
        match (quote, octet) {
            (None, b'>') => return at + 1,
            (None, b'"' | b'\'') => quote = Some(*octet),
            (Some(open), octet) if open == *octet => quote = None,
            _ => {}
        }
    }
    memchr(b'>', octets).map_or(octets.len(), |end| end + 1)
}

/// The attributes of a tag: name and value, quotes removed.
struct Attributes<'a>(&'a str);

impl<'a> Iterator for Attributes<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let is_between = |c: char| c.is_whitespace() || c == '/';
        let text = self.0.trim_start_matches(is_between);
        let end = text.find(|c: char| c.is_whitespace() || c == '=').unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        let Some(value) = rest.trim_start().strip_prefix('=') else {
            self.0 = rest;
            return (!text.is_empty()).then_some((name, ""));
        };
        let value = value.trim_start();
        let quoted = value.chars().next().filter(|first| matches!(first, '"' | '\''));
        let (value, rest) = match quoted {
            Some(quote) => {
                let inner = value.get(1..).unwrap_or_default();
                inner.split_once(quote).unwrap_or((inner, ""))
            }
            None => value.split_at(value.find(char::is_whitespace).unwrap_or(value.len())),
        };
        self.0 = rest;
        Some((name, value))
    }
}

fn after<'a>(text: &'a str, end: &str) -> &'a str {
    let at = memmem::find(text.as_bytes(), end.as_bytes());
    at.and_then(|at| text.get(at + end.len()..)).unwrap_or_default()
}

/// What follows the tag that starts with `end`, which is ASCII in lower case.
fn after_ignoring_case<'a>(text: &'a str, end: &str) -> &'a str {
    let mut windows = text.as_bytes().windows(end.len());
    let at = windows.position(|window| window.eq_ignore_ascii_case(end.as_bytes()));
    at.and_then(|at| text.get(at..)).map_or("", |closing| after(closing, ">"))
}

/// Appends a text with its character references decoded (HTML section 13.5; those that mail uses).
fn decode_entities(text: &str, out: &mut String) {
    let mut rest = text;
    while let Some(at) = memchr(b'&', rest.as_bytes()) {
        let (before, reference) = rest.split_at(at);
        out.push_str(before);
        match entity(reference) {
            Some((character, length)) => {
                out.push(character);
                rest = reference.get(length..).unwrap_or_default();
            }
            None => {
                out.push('&');
                rest = reference.get(1..).unwrap_or_default();
            }
        }
    }
    out.push_str(rest);
}

/// The character that a reference at the start of a text stands for, and the reference's octets.
fn entity(text: &str) -> Option<(char, usize)> {
    let body = text.strip_prefix('&')?;
    let name = |c: char| c.is_ascii_alphanumeric() || c == '#';
    let length = body.find(|c| !name(c)).unwrap_or(body.len());
    let reference = body.get(..length).filter(|body| body.len() <= LONGEST_ENTITY)?;
    let semicolon = usize::from(body.as_bytes().get(length) == Some(&b';'));
    let character = match reference.strip_prefix('#') {
        Some(number) => {
            let code = match number.strip_prefix(['x', 'X']) {
                Some(digits) => u32::from_str_radix(digits, 16),
                None => number.parse(),
            };
            char::from_u32(code.ok()?)?
        }
        // Without a semicolon a name may as well be the parameter of an address.
        None if semicolon == 0 => return None,
        None => match reference {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            "nbsp" | "ensp" | "emsp" | "thinsp" => ' ',
            "shy" => '\u{ad}',
            "zwnj" => '\u{200c}',
            "zwj" => '\u{200d}',
            "euro" => '\u{20ac}',
            "pound" => '\u{a3}',
            "copy" => '\u{a9}',
            "reg" => '\u{ae}',
            "trade" => '\u{2122}',
            "hellip" => '\u{2026}',
            "ndash" => '\u{2013}',
            "mdash" => '\u{2014}',
            "lsquo" => '\u{2018}',
            "rsquo" => '\u{2019}',
            "ldquo" => '\u{201c}',
            "rdquo" => '\u{201d}',
            _ => return None,
        },
    };
    Some((character, 1 + length + semicolon))
}

/// Cuts a text at a character's start.
pub(super) fn cut(text: &mut String, longest: usize) {
    let mut length = text.len().min(longest);
    while !text.is_char_boundary(length) {
        length -= 1;
    }
    text.truncate(length);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_people_see_is_left() {
        let html = Html::read(
            "<STYLE>p{x:'<'}</sTyle ><p title=\"a>b\">V<b></b>ia<!-- <p>no -->gra&nbsp;&#52;&#x32;&bogus; 1 < 2\
             <script>if (a<b) {}</script><br/>x<td>y &lt;z&gt;",
        );
        assert_eq!(html.text, "\nViagra 42&bogus; 1 < 2\nx y <z>");
    }

    #[test]
    fn links_are_found_with_their_text() {
        let html = Html::read(
            "<a class=x href='http://a.example/?x=1&amp;y=2'><b>www.b.example</b> </a>\
             <img/src=\"http://i.example/1.png\"><form ACTION=http://f.example/ method=post><a name=q>",
        );
        let uris = ["http://a.example/?x=1&y=2", "http://i.example/1.png", "http://f.example/"];
        assert_eq!(html.uris, uris);
        let link = Link { uri: uris[0].to_owned(), text: "www.b.example".to_owned() };
        assert_eq!((html.links, html.images), (vec![link], 1));
    }

    #[test]
    fn broken_markup_hides_little() {
        assert_eq!(Html::read("<a href=\"x>see <b>this").text, "see this");
        assert_eq!(Html::read("seen<!-- not").text, "seen");
        assert_eq!(Html::read("seen<p not").text, "seen\n");
        let image = format!("<img src=\"data:image/png;base64,{}\">seen", "A".repeat(20_000));
        assert_eq!(Html::read(&image).text, "seen");
    }

    proptest! {
        #[test]
        fn any_markup_is_read(pieces in proptest::collection::vec(prop_oneof![
            Just("<"), Just(">"), Just("a"), Just("/"), Just("\""), Just("'"), Just("="), Just(" "), Just("<!--"),
            Just("-->"), Just("<script"), Just("&#"), Just("x41;"), Just("\u{fc}"), Just("<a href="), Just("</a>"),
            Just("&"), Just("<style>"), Just("</style"),
        ], 0..40)) {
            let html = pieces.concat();
            let read = Html::read(&html);
            // Entities only shrink, and a tag makes at most one octet.
            prop_assert!(read.text.len() <= html.len());
        }
    }
}
