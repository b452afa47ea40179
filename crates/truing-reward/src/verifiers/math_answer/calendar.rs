//! Times of day and dates as one text each.

use std::sync::LazyLock;

use regex::{Captures, Regex};

use crate::verifiers::pattern::pattern;

/// Without braces, dollar signs, full stops and commands for text and space, in lower case.
fn bare(text: &str) -> Option<String> {
    static COMMANDS: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"(?:\\(?:text|textbf|textrm|mathrm|mbox)\b|\\[,;:! ]|[~\s])+"));
    let is_short = text.len() <= 80 && text.contains(|letter: char| letter.is_ascii_digit());
    is_short.then(|| {
        let text = text.replace(['{', '}'], " ").replace(['$', '.'], "").to_lowercase();
        COMMANDS.replace_all(&text, " ").trim().to_owned()
    })
}

fn part<'a>(found: &'a Captures<'_>, name: &str) -> &'a str {
    found.name(name).map_or("", |part| part.as_str())
}

/// `7:45 pm` of `7:45 p.m.`, `07:45 PM` and the like; a time without "am" or "pm" is none.
pub(super) fn time(text: &str) -> Option<String> {
    static TIME: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"^0?(?P<hour>[1-9]|1[0-2])(?:\s*:\s*(?P<minute>\d\d) ?|\s)(?P<half>[ap]) ?m",
            r"(?: in the (?:morning|afternoon|evening))?$",
        ))
    });
    let bare = bare(text)?;
    let found = TIME.captures(&bare)?;
    let minute = found.name("minute").map_or("00", |minute| minute.as_str());
    Some(format!("{}:{minute} {}m", part(&found, "hour"), part(&found, "half")))
}

/// `5 march 2024` of `March 5th, 2024`, `the 5th of March, 2024` and the like.
pub(super) fn date(text: &str) -> Option<String> {
    static DATE: LazyLock<Regex> = LazyLock::new(|| {
        let day = |name: &str| format!(r"(?:the )?(?P<{name}>\d{{1,2}})(?:st|nd|rd|th)?");
        let months = concat!(
            r"january|february|march|april|may|june|july|august|september|october|november|december",
            r"|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec",
        );
        let month = |name: &str| format!("(?P<{name}>{months})");
        let (first, second) = (
            format!("{}(?: of)? {}", day("day"), month("month")),
            format!("{} {}", month("name"), day("number")),
        );
        pattern(&format!(r"^(?:{first}|{second})(?:,? (?P<year>\d{{4}}))?$"))
    });
    static NUMBERS: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"^(?:(?P<year>[12]\d{3})-(?P<month>0[1-9]|1[0-2])-(?P<day>[0-3]\d)|\d{1,2}/\d{1,2}/\d{4})$")
    });
    let bare = bare(text)?;
    if let Some(found) = NUMBERS.captures(&bare) {
        let month = part(&found, "month").parse::<usize>().ok().and_then(|month| MONTHS.get(month - 1));
        return Some(match month {
            Some(month) => {
                format!("{} {month} {}", part(&found, "day").trim_start_matches('0'), part(&found, "year"))
            }
            None => bare,
        });
    }
    let found = DATE.captures(&bare)?;
    let either = |a, b| format!("{}{}", part(&found, a), part(&found, b));
    let date =
        format!("{} {} {}", either("day", "number"), full(&either("month", "name")), part(&found, "year"));
    Some(date.trim_end().to_owned())
}

const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];

/// The whole name of a month.
fn full(month: &str) -> String {
    let found = MONTHS.iter().find(|name| month.len() >= 3 && name.starts_with(&month[..3]));
    found.map_or_else(|| month.to_owned(), |name| (*name).to_owned())
}
