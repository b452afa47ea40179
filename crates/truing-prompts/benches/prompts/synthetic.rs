//! Prompts without end: seeded templates, each filled with text of one of many topics.
//!
//! A fifth of the prompts has no template, 1 in 50 repeats an earlier prompt, 1 in 25 nearly does. Words are made of
//! syllables; half of a filler are small words that all topics share, so that runs of them recur by chance, as those of
//! a language do. A prompt is a function of the seed and its row: nothing is kept.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;
use truing_types::Seed;

const SYLLABLES: [&str; 32] = [
    "ba", "ke", "lo", "mi", "nu", "pa", "re", "so", "ti", "vu", "da", "fe", "go", "hi", "ju", "ka", "le",
    "mo", "ni", "pu", "ra", "se", "to", "vi", "zu", "cha", "dre", "flo", "gri", "spu", "sta", "tre",
];
const SMALL_WORDS: [&str; 40] = [
    "the", "of", "and", "a", "to", "in", "is", "was", "he", "for", "it", "with", "as", "his", "on", "be",
    "at", "by", "had", "not", "are", "but", "from", "or", "have", "an", "they", "which", "one", "you",
    "were", "her", "all", "she", "there", "would", "their", "we", "him", "been",
];
const ASKING: [&str; 24] = [
    "write",
    "answer",
    "translate",
    "summarize",
    "explain",
    "list",
    "classify",
    "rewrite",
    "question",
    "following",
    "text",
    "sentence",
    "passage",
    "story",
    "given",
    "describe",
    "compare",
    "choose",
    "options",
    "paragraph",
    "generate",
    "title",
    "words",
    "reason",
];

/// A pool.
pub(crate) struct Synthetic {
    seed: Seed,
    pub(crate) n_templates: usize,
    pub(crate) n_topics: usize,
}

/// A prompt and what made it.
pub(crate) struct Prompt {
    pub(crate) text: String,
    pub(crate) template: Option<usize>,
    pub(crate) topic: usize,
}

impl Synthetic {
    pub(crate) fn new(seed: Seed, n_prompts: usize) -> Self {
        Synthetic {
            seed,
            n_templates: (n_prompts / 400).max(10),
            n_topics: (n_prompts / 500).clamp(10, 2000),
        }
    }

    pub(crate) fn prompt(&self, row: usize) -> Prompt {
        let mut draw = self.seed.generator("prompt", &[row as u64]);
        let kind = below(&mut draw, 100);
        if row > 0 && kind < 2 {
            return self.prompt(below(&mut draw, row));
        }
        if row > 0 && kind < 6 {
            let mut near = self.prompt(below(&mut draw, row));
            near.text.push_str(" thanks");
            return near;
        }
        let topic = below(&mut draw, self.n_topics);
        let filler = |draw: &mut ChaCha8Rng| self.filler(draw, topic);
        if kind < 26 {
            return Prompt { text: filler(&mut draw), template: None, topic };
        }
        let template = below(&mut draw, self.n_templates);
        let parts = self.parts(template);
        let mut text = String::new();
        for (i, part) in parts.iter().enumerate() {
            text.push_str(part);
            if i + 1 < parts.len() || parts.len() == 1 {
                text.push_str(&filler(&mut draw));
            }
        }
        Prompt { text, template: Some(template), topic }
    }

    /// The fixed texts of a template: a slot after each but the last.
    fn parts(&self, template: usize) -> Vec<String> {
        let mut draw = self.seed.generator("template", &[template as u64]);
        let n_parts = 1 + below(&mut draw, 3);
        let part = |draw: &mut ChaCha8Rng, is_first: bool| {
            let n_words = 4 + below(draw, 9);
            let words: Vec<String> = (0..n_words)
                .map(|_| match below(draw, 4) {
                    0 => ASKING[below(draw, ASKING.len())].to_owned(),
                    1 => word(below(draw, 3000)),
                    _ => SMALL_WORDS[below(draw, SMALL_WORDS.len())].to_owned(),
                })
                .collect();
            let end = if is_first { ": " } else { "?" };
            let begin = if is_first { "" } else { "\n" };
            format!("{begin}{}{end}", words.join(" "))
        };
        (0..n_parts).map(|i| part(&mut draw, i == 0)).collect()
    }

    fn filler(&self, draw: &mut ChaCha8Rng, topic: usize) -> String {
        let n_words = 8 + below(draw, 50);
        let words: Vec<String> = (0..n_words)
            .map(|_| match below(draw, 20) {
                0..10 => {
                    SMALL_WORDS[below(draw, SMALL_WORDS.len()).min(below(draw, SMALL_WORDS.len()))].to_owned()
                }
                10..18 => word(5000 + topic * 60 + below(draw, 60)),
                _ => word(5000 + self.n_topics * 60 + below(draw, 400_000)),
            })
            .collect();
        words.join(" ")
    }
}

fn below(draw: &mut ChaCha8Rng, n: usize) -> usize {
    (draw.next_u64() % n as u64) as usize
}

/// The word of a number: its digits to base 32 as syllables.
fn word(number: usize) -> String {
    let mut word = String::new();
    let mut left = number + 32;
    while left > 0 {
        word.push_str(SYLLABLES[left % 32]);
        left /= 32;
    }
    word
}
