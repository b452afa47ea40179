//! Counting sentences as a Punkt splitter does (Kiss and Strunk 2006, "Unsupervised Multilingual Sentence Boundary
//! Detection"), which IFEval's checker uses.
//!
//! Its rules are kept: a full stop ends a sentence before any text, unless it belongs to an abbreviation, an ellipsis,
//! an initial or a number; then the next word decides. What it learnt from newspapers (which words are abbreviations,
//! which begin sentences) is short lists of our own here, for English, Spanish and French.

/// Marks that can end a sentence.
const ENDS: [char; 3] = ['.', '!', '?'];
/// Marks that end a word wherever they stand.
const AFTER_WORDS: &[char] = &['?', '!', ')', '"', ';', '}', ']', '*', ':', '@', '\'', '(', '{', '['];
/// Marks that no word begins with, besides those that end one.
const NOT_FIRST: &[char] = &['`', '&', '#', '-', ','];
/// Closing marks at the beginning of a sentence belong to the one before.
const CLOSING: [char; 5] = ['"', '\'', ')', ']', '}'];

/// Whose abbreviations and beginnings of sentences are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    English,
    Spanish,
    French,
}

impl Language {
    fn abbreviations(self) -> &'static [&'static str] {
        match self {
            Self::English => ABBREVIATIONS,
            Self::Spanish => SPANISH_ABBREVIATIONS,
            Self::French => FRENCH_ABBREVIATIONS,
        }
    }

    fn common(self) -> &'static [&'static str] {
        match self {
            Self::English => COMMON,
            Self::Spanish => SPANISH_COMMON,
            Self::French => FRENCH_COMMON,
        }
    }
}

/// Abbreviations, without their last full stop.
const ABBREVIATIONS: &[&str] = &[
    "mr", "mrs", "ms", "dr", "prof", "sr", "jr", "st", "vs", "etc", "e.g", "i.e", "inc", "ltd", "co", "corp",
    "no", "fig", "al", "u.s", "u.k", "u.n", "a.m", "p.m", "ph.d", "d.c", "jan", "feb", "mar", "apr", "aug",
    "sept", "oct", "nov", "dec", "gen", "rep", "sen", "gov", "col", "capt", "lt", "sgt", "rev", "hon", "ave",
    "bros", "cf", "approx",
];

/// Words that are written small unless they begin a sentence.
const COMMON: &[&str] = &[
    "a", "an", "and", "after", "all", "also", "although", "any", "as", "at", "because", "before", "both",
    "but", "by", "can", "do", "don", "each", "even", "every", "finally", "first", "for", "from", "has",
    "have", "he", "her", "here", "his", "how", "however", "if", "in", "instead", "is", "it", "its", "let",
    "many", "maybe", "more", "most", "my", "next", "no", "not", "now", "of", "on", "once", "one", "or",
    "other", "our", "perhaps", "please", "she", "since", "so", "some", "such", "that", "the", "their",
    "then", "there", "these", "they", "this", "those", "to", "today", "under", "until", "we", "well", "what",
    "when", "where", "whether", "which", "while", "who", "why", "will", "with", "without", "yes", "yet",
    "you", "your",
];

const SPANISH_ABBREVIATIONS: &[&str] = &[
    "sr", "sra", "srta", "sres", "dr", "dra", "d", "dña", "ud", "uds", "vd", "vds", "prof", "profa", "lic",
    "ing", "arq", "etc", "p.ej", "ej", "pág", "págs", "núm", "nº", "tel", "av", "avda", "cía", "ltda", "s.a",
    "ee.uu", "a.c", "d.c", "a.m", "p.m", "vol", "cap", "fig", "aprox", "máx", "mín", "art", "gral", "cap",
    "sto", "sta", "hnos", "vs",
];

const FRENCH_ABBREVIATIONS: &[&str] = &[
    "m", "mm", "mme", "mmes", "mlle", "mlles", "dr", "pr", "prof", "me", "st", "ste", "etc", "p.ex", "ex",
    "cf", "env", "av", "apr", "j.-c", "p", "pp", "n", "no", "fig", "vol", "chap", "art", "éd", "tél", "bd",
    "boul", "min", "max", "c.-à-d", "s.a", "e.g", "i.e", "vs", "janv", "févr", "juil", "sept", "oct", "nov",
    "déc",
];

/// As [`COMMON`], of Spanish.
const SPANISH_COMMON: &[&str] = &[
    "a", "además", "al", "ante", "así", "aunque", "cada", "como", "con", "cuando", "de", "del", "desde",
    "después", "donde", "e", "el", "él", "ella", "ellos", "en", "entonces", "entre", "era", "es", "esa",
    "ese", "eso", "esta", "este", "esto", "había", "hay", "la", "las", "le", "les", "lo", "los", "luego",
    "me", "mi", "mientras", "muchos", "muy", "nada", "ni", "no", "nos", "nuestro", "o", "otra", "otro",
    "para", "pero", "por", "porque", "primero", "pues", "que", "quien", "se", "según", "si", "sí", "sin",
    "sobre", "son", "su", "sus", "también", "tan", "te", "todo", "todos", "tras", "tu", "tú", "un", "una",
    "unos", "y", "ya", "yo",
];

/// As [`COMMON`], of French.
const FRENCH_COMMON: &[&str] = &[
    "à", "afin", "ainsi", "alors", "après", "au", "aucun", "aussi", "avant", "avec", "beaucoup", "car", "ce",
    "cela", "ces", "cet", "cette", "chaque", "comme", "comment", "dans", "de", "depuis", "des", "donc", "du",
    "elle", "elles", "en", "enfin", "ensuite", "est", "et", "il", "ils", "je", "la", "le", "les", "leur",
    "leurs", "lors", "lorsque", "mais", "mes", "mon", "ne", "non", "nos", "notre", "nous", "on", "or", "ou",
    "où", "oui", "par", "parce", "pendant", "peut", "plus", "pour", "pourquoi", "puis", "quand", "que",
    "quel", "qui", "sa", "sans", "se", "selon", "ses", "si", "son", "sous", "sur", "ta", "tes", "ton",
    "tous", "tout", "toute", "très", "tu", "un", "une", "vers", "voici", "voilà", "vos", "votre", "vous",
    "y",
];

/// How many sentences a text has.
pub(super) fn count_sentences(text: &str, language: Language) -> usize {
    let text = text.trim_end();
    let (mut n, mut start) = (0, 0);
    for end in breaks(text, language) {
        n += usize::from(has_words(&text[start..end], n > 0));
        start = end;
    }
    n + usize::from(has_words(&text[start..], n > 0))
}

/// Whether a piece is more than white space, and more than the closing marks of the sentence before.
fn has_words(piece: &str, is_after_another: bool) -> bool {
    let piece = piece.trim();
    let rest = if is_after_another { piece.trim_start_matches(CLOSING) } else { piece };
    !rest.is_empty()
}

/// Where sentences end: byte offsets just after the mark.
fn breaks(text: &str, language: Language) -> Vec<usize> {
    let mut breaks = Vec::new();
    let mut chunks = chunks(text).peekable();
    while let Some((start, chunk)) = chunks.next() {
        let following = chunks.peek().map(|(_, chunk)| *chunk);
        // Of the marks between two white spaces only the last can end a sentence.
        let last =
            chunk.char_indices().rev().filter(|(_, letter)| ENDS.contains(letter)).find_map(|(at, _)| {
                let end = at + 1;
                match chunk[end..].chars().next() {
                    Some(next) if AFTER_WORDS.contains(&next) => {
                        Some((end, &chunk[end..end + next.len_utf8()]))
                    }
                    Some(_) => None,
                    None => following.map(|following| (end, first_token(following))),
                }
            });
        if let Some((end, next)) = last
            && ends_sentence(&chunk[..end], next, language)
        {
            breaks.push(start + end);
        }
    }
    breaks
}

/// Pieces between white space, with their offsets.
fn chunks(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split_whitespace().map(|chunk| (chunk.as_ptr() as usize - text.as_ptr() as usize, chunk))
}

fn first_token(chunk: &str) -> &str {
    let Some(first) = chunk.chars().next() else { return "" };
    if AFTER_WORDS.contains(&first) || NOT_FIRST.contains(&first) {
        return &chunk[..first.len_utf8()];
    }
    chunk.split(AFTER_WORDS).next().unwrap_or_default()
}

/// What the next word says.
#[derive(PartialEq)]
enum Next {
    Begins,
    GoesOn,
    Unknown,
}

fn judge_next(word: &str, language: Language) -> Next {
    let mut letters = word.chars();
    match letters.next() {
        Some(';' | ':' | ',' | '.' | '!' | '?') => Next::GoesOn,
        Some(first) if first.is_lowercase() => Next::GoesOn,
        Some(first) if first.is_uppercase() => {
            let plain = word.trim_end_matches(['.', ',']).to_lowercase();
            if language.common().contains(&plain.as_str()) { Next::Begins } else { Next::Unknown }
        }
        _ => Next::Unknown,
    }
}

/// Whether the mark at the end of `chunk` ends a sentence before the token `next`.
fn ends_sentence(chunk: &str, next: &str, language: Language) -> bool {
    // A mark of question or exclamation in the chunk is a token of its own, and always ends one.
    if !chunk.ends_with('.') || chunk.contains(['?', '!']) {
        return true;
    }
    if chunk.ends_with("..") {
        return judge_next(next, language) == Next::Begins;
    }
    let word = chunk.trim_end_matches('.').rsplit(AFTER_WORDS).next().unwrap_or_default();
    let word = word.trim_start_matches(NOT_FIRST).to_lowercase();
    let mut letters = word.chars();
    let is_initial =
        matches!((letters.next(), letters.next()), (Some(letter), None) if letter.is_alphabetic());
    let is_number = word.trim_start_matches(['-', '.', ',']).starts_with(|c: char| c.is_ascii_digit())
        && word.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | ',' | '-'));
    let last_part = word.rsplit('-').next().unwrap_or_default();
    let abbreviations = language.abbreviations();
    let is_abbreviation = abbreviations.contains(&word.as_str()) || abbreviations.contains(&last_part);
    match judge_next(next, language) {
        Next::Begins => true,
        Next::GoesOn => !(is_abbreviation || is_initial || is_number),
        // "J. Bach", where a number or another word would end.
        Next::Unknown => !(is_abbreviation || is_initial && next.starts_with(char::is_uppercase)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_end_sentences_unless_the_word_says_otherwise() {
        for (text, expect) in [
            ("", 0),
            ("  \n", 0),
            ("no mark", 1),
            ("One. two. three", 3),
            ("What?! Yes. \"Go.\" Then (yes.) Well", 5),
            ("He said \"go.\"", 1),
            ("Dr. Smith met J. Bach at 3 p.m. on Monday, e.g. there.", 1),
            ("I like cats, dogs, etc. They like me.", 2),
            ("Wait... what... The end", 2),
            ("1. **Bold**: text", 2),
            ("1. Buy milk. 2. buy eggs.", 3),
            ("The sum is 3.5 and the rest 4. Then 5.", 2),
            ("you are in o. Let us see", 2),
            ("**so.** next", 2),
        ] {
            assert_eq!(count_sentences(text, Language::English), expect, "{text:?}");
        }
        for (text, expect) in [
            ("El Sr. García llegó a las 3 p.m. con la Sra. López. ¿Quién lo vio? Nadie.", 3),
            ("Vive en EE.UU. desde 2010. No volverá.", 2),
            ("Compró pan, leche, etc. Después se fue.", 2),
            ("¡Hola! ¿Qué tal?", 2),
        ] {
            assert_eq!(count_sentences(text, Language::Spanish), expect, "{text:?}");
        }
        for (text, expect) in [
            ("M. Dupont et Mme. Martin sont arrivés. Ils repartent demain.", 2),
            ("Né en 44 av. J.-C. à Rome, il régna longtemps. Qui le sait ?", 2),
            ("Il aime les chats, les chiens, etc. Elle préfère le calme.", 2),
        ] {
            assert_eq!(count_sentences(text, Language::French), expect, "{text:?}");
        }
    }
}
