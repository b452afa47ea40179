//! Which instructions there are: their ids, the languages that have them, and the names of their kwargs.

use super::locale::Locale;
use super::locale::Locale::{En, Es, Fr, Ja, Zh};

/// An instruction as rows name it.
pub(super) struct Entry {
    /// Its id without a language.
    pub(super) id: &'static str,
    /// The languages that have it.
    pub(super) locales: &'static [Locale],
    /// Every kwarg that it takes.
    pub(super) keys: &'static [&'static str],
}

const fn entry(id: &'static str, locales: &'static [Locale], keys: &'static [&'static str]) -> Entry {
    Entry { id, locales, keys }
}

const ALL: &[Locale] = &[En, Es, Fr, Ja, Zh];
/// Scripts with upper and lower case.
const CASED: &[Locale] = &[En, Es, Fr];

/// Every instruction, by id.
pub(super) const CATALOGUE: &[Entry] = &[
    entry("change_case:capital_word_frequency", CASED, &["capital_relation", "capital_frequency"]),
    entry("change_case:english_capital", &[En], &[]),
    entry("change_case:english_lowercase", &[En], &[]),
    entry("change_case:french_capital", &[Fr], &[]),
    entry("change_case:french_lowercase", &[Fr], &[]),
    entry("change_case:spanish_capital", &[Es], &[]),
    entry("change_case:spanish_lowercase", &[Es], &[]),
    entry("combination:repeat_prompt", ALL, &["prompt_to_repeat"]),
    entry("combination:two_responses", ALL, &[]),
    entry("detectable_content:informal_address", &[Fr], &[]),
    entry("detectable_content:no_digits", &[Fr], &[]),
    entry("detectable_content:number_placeholders", ALL, &["num_placeholders", "relation"]),
    entry("detectable_content:postscript", ALL, &["postscript_marker"]),
    // No fixed answers in Chinese are published.
    entry("detectable_format:constrained_response", &[En, Es, Fr, Ja], &[]),
    entry("detectable_format:json_format", ALL, &[]),
    entry("detectable_format:multiple_sections", ALL, &["section_spliter", "num_sections", "relation"]),
    entry("detectable_format:number_bullet_lists", ALL, &["num_bullets"]),
    entry("detectable_format:number_highlighted_sections", ALL, &["num_highlights", "relation"]),
    entry("detectable_format:number_numbered_lists", &[Ja], &["num_items"]),
    entry("detectable_format:title", ALL, &[]),
    entry("keywords:existence", ALL, &["keywords"]),
    entry("keywords:forbidden_words", ALL, &["forbidden_words"]),
    entry("keywords:frequency", ALL, &["keyword", "relation", "frequency"]),
    entry("keywords:letter_frequency", ALL, &["letter", "let_relation", "let_frequency"]),
    entry("language:response_language", ALL, &["language"]),
    entry(
        "length_constraints:nth_paragraph_first_word",
        ALL,
        &["num_paragraphs", "nth_paragraph", "first_word"],
    ),
    // Japanese has no spaces between words, and its rows count letters.
    entry("length_constraints:number_letters", &[Ja], &["relation", "num_letters"]),
    entry("length_constraints:number_paragraphs", ALL, &["num_paragraphs"]),
    entry("length_constraints:number_sentences", ALL, &["relation", "num_sentences"]),
    entry("length_constraints:number_words", &[En, Es, Fr, Zh], &["relation", "num_words"]),
    entry("letters:furigana", &[Ja], &[]),
    entry("letters:hiragana_only", &[Ja], &[]),
    entry("letters:kanji", &[Ja], &["kanji_limit", "relation"]),
    entry("letters:kansuuji", &[Ja], &[]),
    entry("letters:katakana_only", &[Ja], &[]),
    entry("letters:no_hiragana", &[Ja], &[]),
    entry("letters:no_katakana", &[Ja], &[]),
    entry("punctuation:exclamation_marks", &[Es], &[]),
    entry("punctuation:no_comma", ALL, &[]),
    entry("punctuation:no_period", &[Ja], &[]),
    entry("punctuation:question_marks", &[Es], &[]),
    entry("special_character:accents", &[Fr], &["word_to_accentuate"]),
    entry("special_character:dieresis", &[Es], &["let_frequency"]),
    entry("special_character:enie", &[Es], &["let_frequency"]),
    entry("special_character:ethel_or_cedilla", &[Fr], &["forbidden_char"]),
    entry("special_character:no_accents", &[Fr], &[]),
    entry("special_character:tildes", &[Es], &["relation", "num_words"]),
    entry("startend:end_checker", ALL, &["end_phrase"]),
    entry("startend:quotation", ALL, &[]),
    entry("startend:sentence_unified_end", &[Ja], &["ending"]),
];

/// The instructions of a language.
pub(super) fn of(locale: Locale) -> impl Iterator<Item = &'static Entry> {
    CATALOGUE.iter().filter(move |entry| entry.locales.contains(&locale))
}

/// The instruction, or what is known in its place: the ids of its group, or the groups.
pub(super) fn find(locale: Locale, id: &str) -> Result<&'static Entry, String> {
    if let Some(entry) = of(locale).find(|entry| entry.id == id) {
        return Ok(entry);
    }
    let group = id.split(':').next().unwrap_or_default();
    let of_group: Vec<&str> =
        of(locale).filter(|entry| entry.id.split(':').next() == Some(group)).map(|entry| entry.id).collect();
    if !of_group.is_empty() {
        return Err(of_group.join(", "));
    }
    let mut groups: Vec<&str> = of(locale).filter_map(|entry| entry.id.split(':').next()).collect();
    groups.dedup();
    Err(groups.iter().map(|group| format!("{group}:...")).collect::<Vec<_>>().join(", "))
}

/// The ids of some languages that are most like a text, the likeliest first. With `is_prefixed` they have their
/// language before them.
pub(super) fn nearest(text: &str, locales: &[Locale], is_prefixed: bool) -> Vec<String> {
    const MOST: usize = 3;
    let named = |locale: &Locale| {
        let code = locale.code();
        let name = move |entry: &Entry| match is_prefixed {
            true => format!("{code}:{}", entry.id),
            false => entry.id.to_owned(),
        };
        of(*locale).map(name).collect::<Vec<_>>()
    };
    let text = text.to_lowercase();
    let mut known: Vec<(usize, String)> =
        locales.iter().flat_map(named).map(|id| (strsim::damerau_levenshtein(&id, &text), id)).collect();
    known.sort();
    known.into_iter().take(MOST).map(|(_, id)| id).collect()
}
