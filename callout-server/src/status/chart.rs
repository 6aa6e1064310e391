//! Pictures of numbers, as SVG within the page. All of what they say stands beside them as text too.

use maud::{Markup, html};

use super::throughput::{MINUTES, Messages};
use opes_mta::instruments::Buckets;

/// Units of the pictures' coordinates; they are as wide as the page lets them be.
const STEP: usize = 10;
const HEIGHT: u64 = 100;

/// What the tallest bar takes of it, so that there is room for parts that would be too small to be seen.
const TALLEST: u64 = 94;

/// The messages of the last hour: a bar a minute, what failed on top. An hour that is not full yet begins on the left
/// with nothing.
pub(super) fn hour(minutes: &[Messages]) -> Markup {
    let most = minutes.iter().map(|minute| minute.sum()).max().unwrap_or_default().max(1);
    let missing = MINUTES - minutes.len().min(MINUTES);
    html! {
        svg.hour viewBox=(format!("0 0 {} {HEIGHT}", MINUTES * STEP)) preserveAspectRatio="none"
            role="img" aria-label=(format!("Messages a minute in the last hour, {most} at the most")) {
            @for (index, minute) in minutes.iter().enumerate() {
                @let ago = minutes.len() - 1 - index;
                g {
                    title { (described(minute, ago)) }
                    rect.space x=((missing + index) * STEP) y="0" width=(STEP) height=(HEIGHT) {}
                    @for (class, from, to) in bars(minute, most) {
                        rect class=(class) x=((missing + index) * STEP + 1) y=(HEIGHT - to)
                            width=(STEP - 2) height=(to - from) {}
                    }
                }
            }
        }
    }
}

fn described(minute: &Messages, ago: usize) -> String {
    let Messages { passed, replied, failed } = minute;
    let when = match ago {
        0 => "This minute".to_owned(),
        1 => "A minute ago".to_owned(),
        ago => format!("{ago} minutes ago"),
    };
    format!("{when}: {passed} passed, {replied} replied, {failed} failed")
}

/// The parts of a bar, from below, each from one height to another. What is there is seen.
fn bars(minute: &Messages, most: u64) -> Vec<(&'static str, u64, u64)> {
    let parts = [("passed", minute.passed), ("replied", minute.replied), ("failed", minute.failed)];
    let (mut bars, mut from, mut sum) = (Vec::new(), 0, 0);
    for (class, count) in parts.into_iter().filter(|(_, count)| *count > 0) {
        sum += count;
        let to = share(sum, most, TALLEST).max(from + 2);
        bars.push((class, from, to));
        from = to;
    }
    bars
}

/// How often a service took how long: a bar a bucket, the quick ones on the left.
pub(super) fn latency(buckets: &Buckets) -> Markup {
    let most = buckets.counts.iter().copied().max().unwrap_or_default().max(1);
    html! {
        figure.latency {
            svg.latency viewBox=(format!("0 0 {} {HEIGHT}", buckets.counts.len() * STEP))
                preserveAspectRatio="none" role="img" aria-label="How often it took how long" {
                @for (index, count) in buckets.counts.iter().enumerate() {
                    @let height = if *count == 0 { 2 } else { share(*count, most, HEIGHT).max(6) };
                    g {
                        title { (bucket(index, *count)) }
                        rect class=(if *count == 0 { "none" } else { "passed" })
                            x=(index * STEP + 1) y=(HEIGHT - height) width=(STEP - 2)
                            height=(height) {}
                    }
                }
            }
            figcaption { span { "0.1 ms" } span { "60 s" } }
        }
    }
}

fn bucket(index: usize, count: u64) -> String {
    let bound = Buckets::BOUNDS.get(index).copied().unwrap_or(f64::INFINITY);
    format!("{}: {count} times", at_most(bound))
}

/// Seconds that something took at the most, as the buckets know it.
pub(super) fn at_most(seconds: f64) -> String {
    match seconds {
        long if long.is_infinite() => "> 60 s".to_owned(),
        long if long >= 1.0 => format!("≤ {long} s"),
        // Milliseconds, of which the bounds are tenths; 0.005 * 1000 is no round number.
        short => format!("≤ {} ms", (short * 10_000.0).round() / 10.0),
    }
}

/// A bar of parts of a whole.
pub(super) fn parts(label: &str, parts: &[(&'static str, u64)]) -> Markup {
    const WIDTH: u64 = 1_000;
    let all = parts.iter().fold(0u64, |all, (_, count)| all.saturating_add(*count));
    let drawn = parts.iter().scan(0, |end, (class, count)| {
        let (from, width) = (*end, share(*count, all, WIDTH));
        *end += width;
        Some((class, from, width))
    });
    html! {
        svg.parts viewBox=(format!("0 0 {WIDTH} 10")) preserveAspectRatio="none" role="img"
            aria-label=(label) {
            rect.space x="0" y="0" width=(WIDTH) height="10" {}
            @for (class, from, width) in drawn {
                rect class=(class) x=(from) y="0" width=(width) height="10" {}
            }
        }
    }
}

/// How much of a budget is used.
pub(super) fn used(label: &str, used: usize, most: usize) -> Markup {
    let free = most.saturating_sub(used) as u64;
    parts(label, &[("passed", used as u64), ("space", free)])
}

fn share(part: u64, all: u64, width: u64) -> u64 {
    let share = u128::from(part) * u128::from(width) / u128::from(all.max(1));
    u64::try_from(share).unwrap_or(width)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_stand_on_one_another_within_the_picture() {
        let minute = Messages { passed: 970, replied: 29, failed: 1 };
        assert_eq!(
            bars(&minute, 1_000),
            [("passed", 0, 91), ("replied", 91, 93), ("failed", 93, 95)]
        );
        assert_eq!(bars(&minute, 100_000), [("passed", 0, 2), ("replied", 2, 4), ("failed", 4, 6)]);
        assert_eq!(bars(&Messages::default(), 1), []);
    }

    #[test]
    fn times_are_said_in_the_unit_that_people_would_use() {
        let said: Vec<String> = Buckets::BOUNDS.iter().map(|bound| at_most(*bound)).collect();
        assert_eq!(
            said,
            [
                "≤ 0.1 ms",
                "≤ 0.5 ms",
                "≤ 1 ms",
                "≤ 5 ms",
                "≤ 10 ms",
                "≤ 50 ms",
                "≤ 100 ms",
                "≤ 500 ms",
                "≤ 1 s",
                "≤ 5 s",
                "≤ 15 s",
                "≤ 60 s",
                "> 60 s",
            ]
        );
    }

    #[test]
    fn parts_fill_no_more_than_the_whole() {
        let drawn = parts("x", &[("passed", u64::MAX / 2), ("failed", u64::MAX / 2)]).into_string();
        assert!(drawn.contains("x=\"0\" y=\"0\" width=\"500\""), "{drawn}");
        assert!(drawn.contains("x=\"500\" y=\"0\" width=\"500\""), "{drawn}");
        assert!(parts("x", &[]).into_string().contains("class=\"space\""));
    }
}
