//! The little of HTML that it takes to add something to a body.

use std::fmt::Write;

/// The same HTML in ASCII: each other character as a reference, which every charset that has ASCII can hold.
pub(super) fn ascii(html: &str) -> String {
    let mut out = String::with_capacity(html.len());
    for character in html.chars() {
        match character.is_ascii() {
            true => out.push(character),
            false => drop(write!(out, "&#{};", u32::from(character))),
        }
    }
    out
}

/// A text as HTML.
pub(super) fn of_text(text: &str) -> String {
    let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    ascii(&format!("<p>{}</p>", escaped.replace('\n', "<br>\n")))
}

/// Where the content of the body begins: behind its tag, or that of the document, or at the start.
pub(super) fn body_start(html: &[u8]) -> usize {
    [&b"<body"[..], b"<html"].into_iter().find_map(|tag| behind_tag(html, tag)).unwrap_or(0)
}

/// Where the body ends: before the last tag that says so, or that ends the document, or at the end.
pub(super) fn body_end(html: &[u8]) -> usize {
    let last = |tag: &[u8]| html.windows(tag.len()).rposition(|at| at.eq_ignore_ascii_case(tag));
    last(b"</body").or_else(|| last(b"</html")).unwrap_or(html.len())
}

/// The end of the first such tag; what stands in quotes does not end it.
fn behind_tag(html: &[u8], tag: &[u8]) -> Option<usize> {
    let mut found = (0..html.len()).filter(|&at| {
        let here = html.get(at..at + tag.len());
        let next = html.get(at + tag.len());
        here.is_some_and(|here| here.eq_ignore_ascii_case(tag))
            && next.is_some_and(|next| *next == b'>' || next.is_ascii_whitespace() || *next == b'=')
    });
    let from = found.next()? + tag.len();
    let mut quote = None;
    for (at, &octet) in html.iter().enumerate().skip(from) {
        match (octet, quote) {
            (b'"' | b'\'', None) => quote = Some(octet),
            (_, Some(open)) if open == octet => quote = None,
            (b'>', None) => return Some(at + 1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_has_a_beginning_and_an_end() {
        for (html, start, end) in [
            ("<p>x</p>", 0, 8),
            ("<HTML><Body class='>'>x</BODY></html>", 22, 23),
            ("<html>x</html>", 6, 7),
            ("<html lang=de>x<body", 14, 20),
            ("<bodyguard>x</body>y</body >", 0, 20),
            ("<body a=\"", 0, 9),
            ("", 0, 0),
        ] {
            assert_eq!(
                (body_start(html.as_bytes()), body_end(html.as_bytes())),
                (start, end),
                "{html}"
            );
        }
    }

    #[test]
    fn a_text_becomes_html_that_any_charset_holds() {
        assert_eq!(
            of_text("a <b> & \u{fc}\n\u{20ac}"),
            "<p>a &lt;b&gt; &amp; &#252;<br>\n&#8364;</p>"
        );
    }
}
