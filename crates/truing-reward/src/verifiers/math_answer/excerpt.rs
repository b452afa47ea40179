//! Parts of a text: its ends as far as they are looked at, and what stands between marks and spaces.

/// Bytes of a line or sentence that are looked at.
pub(super) const MOST: usize = 1000;

/// The start of a text, as far as it is looked at.
pub(super) fn head(text: &str) -> &str {
    let mut end = MOST.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The end of a text, of so many bytes.
pub(super) fn tail(text: &str, most: usize) -> &str {
    let mut start = text.len().saturating_sub(most);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

/// Marks after an answer that say that it is right.
pub(super) const CHECK_MARKS: [char; 7] =
    ['\u{2713}', '\u{2714}', '\u{2705}', '\u{2611}', '\u{fe0f}', '\u{1f389}', ' '];

/// Without markdown's marks and the full stop.
pub(super) fn trimmed(text: &str) -> String {
    let text = text.trim().trim_end_matches(CHECK_MARKS);
    let text = text.trim_matches(|c: char| matches!(c, '*' | '_' | '`' | '"') || c.is_whitespace());
    if text.ends_with("...") {
        return text.to_owned();
    }
    text.trim_end_matches(['.', '\u{3002}', ',', ';']).trim_end_matches(['*', '_']).trim().to_owned()
}

/// Without spaces and commands for spaces at the ends.
pub(super) fn without_spaces(mut text: &str) -> &str {
    const SPACES: [&str; 7] = ["\\,", "\\;", "\\:", "\\!", "\\ ", "~", "\\quad"];
    loop {
        let trimmed = text.trim();
        // The space of `\ ` at the end has been trimmed.
        let trimmed = match trimmed.strip_suffix('\\') {
            Some(kept) if trimmed.len() < text.len() && !kept.ends_with('\\') => kept,
            _ => trimmed,
        };
        let shorter = SPACES.iter().find_map(|space| {
            let from_end = trimmed.strip_suffix(space).filter(|kept| !kept.ends_with('\\'));
            from_end.or_else(|| trimmed.strip_prefix(space))
        });
        match shorter {
            Some(shorter) => text = shorter,
            None if trimmed.len() == text.len() => return trimmed,
            None => text = trimmed,
        }
    }
}
