//! Regular expressions that were written for Python: where the `regex` crate reads an escape in another way.
//!
//! Most differences are errors there, so that nobody misses them. `\<` and `\>` are none: to Python they are
//! the signs `<` and `>`, to the crate the beginning and the end of a word.

use std::borrow::Cow;

use regex::{Regex, RegexBuilder};

use super::pattern::pattern;

/// What is read in another way, as the end of a sentence about the pattern.
pub(crate) fn difference(pattern: &str) -> Option<String> {
    escapes(pattern).find_map(|(_, letter)| {
        let (what, boundary) = match letter {
            '<' => ("beginning", r"\b{start}"),
            '>' => ("end", r"\b{end}"),
            _ => return None,
        };
        Some(format!(
            "has `\\{letter}`, which is the {what} of a word here and not the sign `{letter}`: write `{letter}`, or \
             `{boundary}` for the {what} of a word"
        ))
    })
}

/// The pattern with `\<` and `\>` as Python reads them.
pub(crate) fn translated(pattern: &str) -> Cow<'_, str> {
    let places: Vec<usize> =
        escapes(pattern).filter(|(_, letter)| matches!(letter, '<' | '>')).map(|(at, _)| at).collect();
    if places.is_empty() {
        return Cow::Borrowed(pattern);
    }
    Cow::Owned(
        pattern.char_indices().filter(|(at, _)| !places.contains(at)).map(|(_, letter)| letter).collect(),
    )
}

/// The text as a regular expression where it is one, letter by letter otherwise.
pub(crate) fn ignoring_case(text: &str) -> Regex {
    let text = &*translated(text);
    let build = |text: &str| RegexBuilder::new(text).case_insensitive(true).build();
    build(text).or_else(|_| build(&regex::escape(text))).unwrap_or_else(|_| pattern("$^"))
}

/// Every backslash that escapes something, with what it escapes.
fn escapes(pattern: &str) -> impl Iterator<Item = (usize, char)> {
    let mut letters = pattern.char_indices();
    std::iter::from_fn(move || {
        let (at, _) = letters.find(|(_, letter)| *letter == '\\')?;
        Some((at, letters.next()?.1))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_are_signs() {
        for (pattern, expected) in
            [(r"\<b\>", "<b>"), (r"\\<b", r"\\<b"), (r"\\\<b", r"\\<b"), (r"é\>\.", r"é>\."), ("a\\", "a\\")]
        {
            assert_eq!(translated(pattern), expected, "{pattern}");
            assert_eq!(difference(pattern).is_some(), pattern != expected, "{pattern}");
        }
    }
}
