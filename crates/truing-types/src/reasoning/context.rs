//! The text around a mark, which decides whether it is one: quotes, code, a sentence that continues after it.

use std::ops::Range;

/// Characters that are not seen beside white space: byte order mark, joiners, marks of direction.
pub(super) const INVISIBLE: [char; 8] =
    ['\u{feff}', '\u{200b}', '\u{200c}', '\u{200d}', '\u{200e}', '\u{200f}', '\u{2060}', '\u{ad}'];

/// White space and what is as invisible.
pub(super) fn is_unseen(c: char) -> bool {
    c.is_whitespace() || c.is_control() || INVISIBLE.contains(&c)
}

/// Whether a sentence continues after a mark: a space before it, a space and a small letter after it.
pub(super) fn is_in_sentence(text: &str, range: &Range<usize>) -> bool {
    let mut after = text[range.end..].chars();
    text[..range.start].trim_end_matches(' ').len() < range.start
        && after.next() == Some(' ')
        && after.next().is_some_and(char::is_lowercase)
        && text[..range.start].trim_end_matches(' ').chars().next_back().is_some_and(|c| c != '\n')
}

/// Where a mark stands next, not in quotes.
pub(super) fn find_unquoted(lower: &str, from: usize, mark: &str) -> Option<Range<usize>> {
    lower[from..]
        .match_indices(mark)
        .map(|(at, _)| from + at..from + at + mark.len())
        .find(|range| !is_quoted(lower, range))
}

pub(super) fn count_unquoted(lower: &str, mark: &str) -> usize {
    lower.match_indices(mark).filter(|(at, _)| !is_quoted(lower, &(*at..at + mark.len()))).count()
}

/// Whether quotes are directly around it. A quote that opens and closes alike is no opening one right after a word or
/// the end of a sentence: `"yes"</think>"yes"` are two quotations, one before the mark and one after it.
pub(super) fn is_quoted(text: &str, range: &Range<usize>) -> bool {
    const QUOTES: [(char, char); 8] =
        [('`', '`'), ('"', '"'), ('\'', '\''), ('“', '”'), ('‘', '’'), ('«', '»'), ('„', '“'), ('「', '」')];
    let mut before = text[..range.start].chars().rev();
    let (Some(open), Some(close)) = (before.next(), text[range.end..].chars().next()) else { return false };
    let ends_a_quotation =
        open == close && before.next().is_some_and(|c| c.is_alphanumeric() || ".,;!?…。！？".contains(c));
    QUOTES.contains(&(open, close)) && !ends_a_quotation
}

/// Blocks between fences that are closed, and code between backticks of one line.
pub(super) fn code_ranges(text: &str) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let mut fence: Option<(usize, &str)> = None;
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim();
        let mark = ["```", "~~~"].into_iter().find(|mark| trimmed.starts_with(mark));
        match (fence, mark) {
            (None, Some(mark)) => fence = Some((start, mark)),
            // A closing fence has nothing behind it.
            (Some((from, opened)), Some(mark))
                if opened == mark && trimmed.trim_start_matches(&mark[..1]).is_empty() =>
            {
                ranges.push(from..start + line.len());
                fence = None;
            }
            (None, None) => {
                ranges.extend(inline_code(line).map(|range| start + range.start..start + range.end))
            }
            (Some(_), _) => {}
        }
        start += line.len();
    }
    ranges
}

fn inline_code(line: &str) -> impl Iterator<Item = Range<usize>> {
    let ticks: Vec<usize> = line.match_indices('`').map(|(at, _)| at).collect();
    let pairs: Vec<Range<usize>> = ticks.chunks_exact(2).map(|pair| pair[0]..pair[1]).collect();
    pairs.into_iter()
}
