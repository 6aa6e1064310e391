//! What a browser shows.

use axum::response::Html;
use mail_parser::DateTime;
use maud::{DOCTYPE, Markup, html};

use super::store::Record;

/// Where the style is, beside the files.
pub(super) const STYLE: &str = "links.css";

/// Why the password has to be typed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Wrong,
    TooMany,
    Busy,
}

/// A file that can be fetched: the form is what fetches it, so that programs which only look at links do not.
pub(super) fn file(record: &Record, refusal: Option<Refusal>) -> Html<String> {
    let left = record.most_downloads.map(|most| most.saturating_sub(record.downloads));
    let said = refusal.map(|refusal| match refusal {
        Refusal::Wrong => "This is not the password of the file.",
        Refusal::TooMany => "Too many wrong passwords. Try again in an hour.",
        Refusal::Busy => "Too many tries at a time. Try again in a few seconds.",
    });
    document(
        &record.file_name,
        html! {
            form method="post" {
                h1 { (record.file_name) }
                p { (octets(record.octets)) ", until " (date(record.until)) }
                @if let Some(left) = left {
                    p { "It can be fetched " (left) @if left == 1 { " time" } @else { " times" } "." }
                }
                @if let Some(said) = said {
                    p.refused role="alert" { (said) }
                }
                @if record.password.is_some() {
                    label for="password" { "Password" }
                    input id="password" name="password" type="password" autocomplete="off" required
                        autofocus;
                }
                button type="submit" { "Download" }
            }
        },
    )
}

/// There is none, or no more.
pub(super) fn nothing() -> Html<String> {
    document(
        "No file",
        html! {
            h1 { "There is no such file" }
            p { "Perhaps its time is over, or it was fetched as often as it may be." }
        },
    )
}

fn document(title: &str, main: Markup) -> Html<String> {
    let document = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                link rel="stylesheet" href=(STYLE);
            }
            body { main { (main) } }
        }
    };
    Html(document.into_string())
}

/// A number of octets as people say it.
pub(super) fn octets(octets: u64) -> String {
    const UNITS: [&str; 4] = ["KB", "MB", "GB", "TB"];
    if octets < 1_000 {
        return format!("{octets} octets");
    }
    let mut amount = octets as f64 / 1_000.0;
    let mut units = UNITS.into_iter();
    let mut unit = units.next().unwrap_or_default();
    for larger in units {
        // What would be shown as 1000.0.
        if amount < 999.95 {
            break;
        }
        (amount, unit) = (amount / 1_000.0, larger);
    }
    format!("{amount:.1} {unit}")
}

/// The day of a time in seconds since 1970, in UTC.
pub(super) fn date(seconds: u64) -> String {
    let date = DateTime::from_timestamp(i64::try_from(seconds).unwrap_or_default());
    format!("{:04}-{:02}-{:02}", date.year, date.month, date.day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_and_days_are_said_as_people_say_them() {
        let said = [0, 999, 1_000, 1_550, 999_999, 25_000_000, 3_000_000_000].map(octets);
        let expected =
            ["0 octets", "999 octets", "1.0 KB", "1.6 KB", "1.0 MB", "25.0 MB", "3.0 GB"];
        assert_eq!(said, expected);
        assert_eq!([0, 1_767_225_600].map(date), ["1970-01-01", "2026-01-01"]);
    }
}
