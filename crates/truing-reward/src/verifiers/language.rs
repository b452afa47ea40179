//! Which language a text is in.
//!
//! Told apart are the languages of `LANGUAGES` by the trigrams and alphabets of `whatlang`, and Swahili, which it does
//! not know, by its small words.

use std::sync::LazyLock;

use whatlang::{Detector, Lang};

/// A language that was told.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Detected {
    /// ISO 639-1.
    pub(crate) code: &'static str,
    /// How much more like this language than like any other, 0 to 1.
    pub(crate) confidence: f64,
}

/// The language of a text, upper and lower case alike; `None` where it has no letters.
pub(crate) fn detect(text: &str) -> Option<Detected> {
    // The detector knows small letters better.
    let text = text.to_lowercase();
    if is_swahili(&text) {
        return Some(Detected { code: SWAHILI, confidence: 1.0 });
    }
    let found = DETECTOR.detect(&text)?;
    let (_, code) = LANGUAGES.iter().find(|(three, _)| *three == found.lang().code())?;
    Some(Detected { code, confidence: found.confidence() })
}

/// Leaving out what nobody writes by chance (Latin, Esperanto) keeps short texts apart better.
static DETECTOR: LazyLock<Detector> = LazyLock::new(|| {
    Detector::with_allowlist(LANGUAGES.iter().filter_map(|(three, _)| Lang::from_code(*three)).collect())
});

const SWAHILI: &str = "sw";

/// Whether a fifth of the words, and at least three, are small words of Swahili.
fn is_swahili(text: &str) -> bool {
    const WORDS: &[&str] = &[
        "na", "ya", "wa", "kwa", "ni", "katika", "za", "cha", "vya", "hii", "hiyo", "kama", "lakini", "pia",
        "yake", "wake", "kutoka", "baada", "kabla", "kuwa", "ambao", "ambayo", "sana", "watu", "hakuna",
        "mimi", "wewe",
    ];
    let (mut n, mut n_known) = (0, 0);
    for word in text.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty()) {
        n += 1;
        n_known += usize::from(WORDS.contains(&word));
    }
    n_known >= 3 && 5 * n_known >= n
}

/// ISO 639-3, as the detector names them, and 639-1, as rows do.
const LANGUAGES: &[(&str, &str)] = &[
    ("afr", "af"),
    ("ara", "ar"),
    ("bel", "be"),
    ("ben", "bn"),
    ("bul", "bg"),
    ("cat", "ca"),
    ("ces", "cs"),
    ("cmn", "zh"),
    ("dan", "da"),
    ("deu", "de"),
    ("ell", "el"),
    ("eng", "en"),
    ("est", "et"),
    ("fin", "fi"),
    ("fra", "fr"),
    ("guj", "gu"),
    ("heb", "he"),
    ("hin", "hi"),
    ("hrv", "hr"),
    ("hun", "hu"),
    ("hye", "hy"),
    ("ind", "id"),
    ("ita", "it"),
    ("jpn", "ja"),
    ("kan", "kn"),
    ("kat", "ka"),
    ("khm", "km"),
    ("kor", "ko"),
    ("lav", "lv"),
    ("lit", "lt"),
    ("mal", "ml"),
    ("mar", "mr"),
    ("mkd", "mk"),
    ("mya", "my"),
    ("nep", "ne"),
    ("nld", "nl"),
    ("nob", "no"),
    ("ori", "or"),
    ("pan", "pa"),
    ("pes", "fa"),
    ("pol", "pl"),
    ("por", "pt"),
    ("ron", "ro"),
    ("rus", "ru"),
    ("sin", "si"),
    ("slk", "sk"),
    ("slv", "sl"),
    ("spa", "es"),
    ("swe", "sv"),
    ("tam", "ta"),
    ("tel", "te"),
    ("tgl", "tl"),
    ("tha", "th"),
    ("tur", "tr"),
    ("ukr", "uk"),
    ("urd", "ur"),
    ("vie", "vi"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_a_line_are_told_apart() {
        for (text, expect) in [
            ("The house by the lake was sold to a family from the city last year.", "en"),
            ("Das Haus am See wurde im letzten Jahr an eine Familie aus der Stadt verkauft.", "de"),
            ("LA MAISON AU BORD DU LAC A ÉTÉ VENDUE À UNE FAMILLE DE LA VILLE.", "fr"),
            ("Дом у озера был продан в прошлом году семье из города.", "ru"),
            ("湖边的房子去年卖给了城里的一家人。", "zh"),
            ("湖のそばの家は去年、町の家族に売られました。", "ja"),
            ("झील के किनारे का घर पिछले साल शहर के एक परिवार को बेच दिया गया था।", "hi"),
            ("Nyumba ya kando ya ziwa iliuzwa mwaka jana kwa familia ya watu kutoka mjini.", "sw"),
        ] {
            assert_eq!(detect(text).map(|found| found.code), Some(expect), "{text}");
        }
        assert_eq!(detect("12 + 3 = 15"), None);
    }

    #[test]
    fn every_language_is_one_of_the_detectors() {
        assert!(LANGUAGES.iter().all(|(three, two)| Lang::from_code(*three).is_some() && two.len() == 2));
    }
}
