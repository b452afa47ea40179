//! Which prompts hold text of an evaluation: exact n-grams of words, letter case and punctuation aside.
//!
//! The length of 13 words is that of Brown et al. 2020 (arXiv 2005.14165, appendix C). An evaluation item shorter than
//! that is looked for whole. Every hit is compared word by word; a hash only proposes. A sentence that prompt and
//! evaluation both took from elsewhere is a hit like any other.

use rustc_hash::{FxHashMap, FxHashSet};

use crate::PromptsError;
use crate::error::check_option;
use crate::hashing::hash_tokens;
use crate::tokens::{LetterCase, Vocabulary};

/// What counts as a shared text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecontaminationOptions {
    /// Words in a row that prompt and item must share.
    pub ngram_words: usize,
    /// Items with fewer words are not looked for: any prompt might hold them.
    pub min_item_words: usize,
}

impl Default for DecontaminationOptions {
    fn default() -> Self {
        DecontaminationOptions { ngram_words: 13, min_item_words: 6 }
    }
}

/// Items of an n-gram that are kept. One that more items hold belongs to none of them.
const MAX_PLACES: usize = 64;

/// A text that a prompt shares with an evaluation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contamination {
    /// The evaluation, as it was named.
    pub evaluation: String,
    /// The item, counted from 0.
    pub item: usize,
    /// The shared words.
    pub words: String,
}

/// The n-grams of all evaluations.
#[derive(Debug, Clone)]
pub struct EvaluationIndex {
    options: DecontaminationOptions,
    vocabulary: Vocabulary,
    evaluations: Vec<String>,
    /// Words of all items.
    words: Vec<u32>,
    /// From the hash of an n-gram to where it is.
    places: FxHashMap<u64, Vec<Place>>,
    /// Lengths of the items looked for whole.
    short_lengths: Vec<usize>,
    n_skipped: usize,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    evaluation: u32,
    item: u32,
    start: usize,
    n_words: usize,
}

impl EvaluationIndex {
    /// An index without items.
    ///
    /// # Errors
    /// When an option is 0, or whole items would be longer than n-grams.
    pub fn new(options: DecontaminationOptions) -> Result<Self, PromptsError> {
        check_option(options.ngram_words > 0, "ngram_words", options.ngram_words, "at least 1")?;
        let fits = (1..=options.ngram_words).contains(&options.min_item_words);
        check_option(fits, "min_item_words", options.min_item_words, "1 to `ngram_words`")?;
        Ok(EvaluationIndex {
            options,
            vocabulary: Vocabulary::new(LetterCase::Folded),
            evaluations: Vec::new(),
            words: Vec::new(),
            places: FxHashMap::default(),
            short_lengths: Vec::new(),
            n_skipped: 0,
        })
    }

    /// Adds an evaluation's items under its name.
    ///
    /// # Errors
    /// When there are more words than numbers.
    pub fn add<T: AsRef<str>>(
        &mut self,
        evaluation: &str,
        items: impl IntoIterator<Item = T>,
    ) -> Result<(), PromptsError> {
        let number = self.evaluations.len() as u32;
        self.evaluations.push(evaluation.to_owned());
        for (item, text) in items.into_iter().enumerate() {
            let mut tokens = Vec::new();
            self.vocabulary.encode(text.as_ref(), &mut tokens)?;
            tokens.retain(|&token| is_word(self.vocabulary.text(token)));
            if tokens.len() < self.options.min_item_words {
                self.n_skipped += 1;
                continue;
            }
            let n_words = self.options.ngram_words.min(tokens.len());
            if n_words < self.options.ngram_words && !self.short_lengths.contains(&n_words) {
                self.short_lengths.push(n_words);
                self.short_lengths.sort_unstable_by(|a, b| b.cmp(a));
            }
            let first = self.words.len();
            self.words.extend(&tokens);
            for (offset, ngram) in tokens.windows(n_words).enumerate() {
                let place = Place { evaluation: number, item: item as u32, start: first + offset, n_words };
                let places = self.places.entry(hash_tokens(ngram)).or_default();
                let is_known = |known: &Place| {
                    (known.evaluation, known.item) == (place.evaluation, place.item)
                        && self.words[known.start..][..known.n_words] == *ngram
                };
                if places.len() < MAX_PLACES && !places.iter().any(is_known) {
                    places.push(place);
                }
            }
        }
        Ok(())
    }

    /// Items too short to be looked for.
    pub fn n_skipped(&self) -> usize {
        self.n_skipped
    }

    /// The first text, longest n-grams first, that the prompt shares with an evaluation. An n-gram that several items
    /// hold is given for the first.
    pub fn find(&self, prompt: &str) -> Option<Contamination> {
        // A word that no evaluation holds ends every n-gram: u32::MAX is no word's number.
        let words: Vec<u32> = crate::tokens::split(prompt)
            .filter(|(_, word)| is_word(word))
            .map(|(_, word)| self.vocabulary.find(word).unwrap_or(u32::MAX))
            .collect();
        std::iter::once(self.options.ngram_words)
            .chain(self.short_lengths.iter().copied())
            .find_map(|n_words| words.windows(n_words).find_map(|ngram| self.look_up(ngram)))
    }

    /// Every item that the text shares an n-gram with, each once, with the first n-gram that is shared. N-grams that
    /// more than `max_items` items hold are passed over: they are the wording of the evaluation, not an item.
    pub fn find_all(&self, text: &str, max_items: usize) -> Vec<Contamination> {
        let words: Vec<u32> = crate::tokens::split(text)
            .filter(|(_, word)| is_word(word))
            .map(|(_, word)| self.vocabulary.find(word).unwrap_or(u32::MAX))
            .collect();
        let mut found: Vec<Contamination> = Vec::new();
        let mut seen = FxHashSet::default();
        let lengths = std::iter::once(self.options.ngram_words).chain(self.short_lengths.iter().copied());
        for ngram in lengths.flat_map(|n_words| words.windows(n_words)) {
            if ngram.contains(&u32::MAX) {
                continue;
            }
            let Some(places) = self.places.get(&hash_tokens(ngram)) else { continue };
            let holds = |place: &&Place| self.words[place.start..][..place.n_words] == *ngram;
            let places: Vec<&Place> = places.iter().filter(holds).collect();
            if places.len() > max_items {
                continue;
            }
            for place in places {
                if seen.insert((place.evaluation, place.item)) {
                    found.push(self.contamination(place, ngram));
                }
            }
        }
        found
    }

    fn contamination(&self, place: &Place, ngram: &[u32]) -> Contamination {
        Contamination {
            evaluation: self.evaluations[place.evaluation as usize].clone(),
            item: place.item as usize,
            words: crate::tokens::join(ngram.iter().map(|&word| self.vocabulary.text(word))),
        }
    }

    fn look_up(&self, ngram: &[u32]) -> Option<Contamination> {
        if ngram.contains(&u32::MAX) {
            return None;
        }
        let places = self.places.get(&hash_tokens(ngram))?;
        let place = places.iter().find(|place| self.words[place.start..][..place.n_words] == *ngram)?;
        Some(self.contamination(place, ngram))
    }
}

fn is_word(token: &str) -> bool {
    token.chars().next().is_some_and(char::is_alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRAVITY: &str =
        "Why does an apple that falls from a tree never fall sideways or upwards, but always down?";

    fn index() -> EvaluationIndex {
        let mut index = EvaluationIndex::new(DecontaminationOptions::default()).unwrap();
        index.add("physics", ["too short", GRAVITY]).unwrap();
        index.add("capitals", ["What is the capital of France?", GRAVITY]).unwrap();
        index
    }

    fn check(prompt: &str, expect: Option<(&str, usize, &str)>) {
        let found = index().find(prompt);
        let found = found.as_ref().map(|f| (f.evaluation.as_str(), f.item, f.words.as_str()));
        assert_eq!(found, expect, "{prompt:?}");
    }

    #[test]
    fn thirteen_words_in_a_row_or_a_whole_short_item() {
        let words = "an apple that falls from a tree never fall sideways or upwards but";
        check(&format!("Tell me: {}", words.to_uppercase()), Some(("physics", 1, words)));
        check("an apple that falls from a tree never fall sideways or upwards", None);
        check("an apple that falls from a tree, we see, never fall sideways or upwards but always", None);
        let capital = "what is the capital of france";
        check("Answer!\n'What is the capital of France?'", Some(("capitals", 0, capital)));
        check("What is the capital of Spain?", None);
        check("too short", None);
        check("", None);
        assert_eq!(index().n_skipped(), 1);
    }

    #[test]
    fn every_item_is_found_and_common_wording_is_none() {
        let found = |text: &str, max_items| -> Vec<(String, usize)> {
            index()
                .find_all(text, max_items)
                .into_iter()
                .map(|found| (found.evaluation, found.item))
                .collect()
        };
        let text = format!("What is the capital of France? {GRAVITY}");
        let both = [("physics".to_owned(), 1), ("capitals".to_owned(), 1), ("capitals".to_owned(), 0)];
        assert_eq!(found(&text, 2), both);
        // Two items hold the sentence.
        assert_eq!(found(&text, 1), [("capitals".to_owned(), 0)]);
        assert_eq!(found("What is the capital of Spain?", 2), []);
    }

    #[test]
    fn bad_options_are_named() {
        let options = DecontaminationOptions { ngram_words: 3, min_item_words: 4 };
        let error = EvaluationIndex::new(options).unwrap_err();
        assert_eq!(error.to_string(), "`min_item_words` is 4, expected 1 to `ngram_words`");
    }
}
