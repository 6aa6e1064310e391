//! What all pages have in common.

use axum::response::Html;
use maud::{DOCTYPE, Markup, html};

/// Seconds after which a page that shows how things are is loaded again.
const REFRESH: u32 = 30;

/// A page for users, at one of the places that its head names.
pub(super) struct Page {
    /// Its title.
    pub(super) title: String,
    /// The place that it is at or below.
    pub(super) place: Place,
    /// Whether it is loaded again by itself.
    pub(super) is_live: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Overview,
    History,
}

impl Page {
    /// The page with its main part.
    pub(super) fn with(self, main: Markup) -> Html<String> {
        let link = |place: Place, path: &'static str, name: &'static str| {
            html! {
                a href=(path) aria-current=[(place == self.place).then_some("page")] { (name) }
            }
        };
        document(
            &self.title,
            self.is_live,
            html! {
                a.skip href="#main" { "Skip to the content" }
                header {
                    nav aria-label="Pages" {
                        span.name { "callout-server" }
                        (link(Place::Overview, "/", "Overview"))
                        (link(Place::History, "/history", "History"))
                    }
                    form method="post" action="/logout" {
                        button.quiet type="submit" { "Log out" }
                    }
                }
                main id="main" { (main) }
                footer { "callout-server " (env!("CARGO_PKG_VERSION")) ". Times are UTC." }
            },
        )
    }
}

/// A page for everybody.
pub(super) fn bare(main: Markup) -> Html<String> {
    document("Log in", false, html! { main.bare { (main) } })
}

fn document(title: &str, is_live: bool, body: Markup) -> Html<String> {
    let document = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                @if is_live {
                    meta http-equiv="refresh" content=(REFRESH);
                }
                title { (title) " – callout-server" }
                link rel="stylesheet" href="/status.css";
            }
            body { (body) }
        }
    };
    Html(document.into_string())
}

/// A number of octets as people say it.
pub(super) fn octets(octets: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if octets < 1_024 {
        return format!("{octets} octets");
    }
    let mut amount = octets as f64 / 1_024.0;
    let mut units = UNITS.into_iter();
    let mut unit = units.next().unwrap_or_default();
    for larger in units {
        // What would be shown as 1024.0.
        if amount < 1_023.95 {
            break;
        }
        (amount, unit) = (amount / 1_024.0, larger);
    }
    format!("{amount:.1} {unit}")
}

/// A number with its thousands apart.
pub(super) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push('\u{2009}');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_said_as_people_say_them() {
        let said = [0, 1_023, 1_024, 1_536, 1024 * 1024 - 1, 1 << 30, u64::MAX].map(octets);
        assert_eq!(
            said,
            [
                "0 octets",
                "1023 octets",
                "1.0 KiB",
                "1.5 KiB",
                "1.0 MiB",
                "1.0 GiB",
                "16777216.0 TiB"
            ]
        );
        assert_eq!(
            [7, 999, 1_000, 1_234_567].map(number),
            ["7", "999", "1\u{2009}000", "1\u{2009}234\u{2009}567"]
        );
    }

    #[test]
    fn what_stands_in_a_page_is_escaped() {
        let page = Page { title: "<b>".to_owned(), place: Place::History, is_live: true };
        let page = page.with(html! { p { "<script>alert(1)</script>\"'&" } }).0;
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;&quot;'&amp;"), "{page}");
        assert!(page.contains("<title>&lt;b&gt; – callout-server</title>"), "{page}");
        assert!(!page.contains("<script"), "{page}");
    }
}
