//! Task templates: the fixed text that many prompts share around what differs between them.
//!
//! The Baichuan Alignment report (section 3.1.2) finds templates by longest common subsequences and heuristic rules it
//! does not state. Ours, in the order in which they are applied:
//!
//! 1. **Recurring with different fillers** (`support.rs`). Three tokens in a row recur as often as there are *different
//!    fillers* beside them, a prompt's filler being named by its rarest token. A passage that twenty templates were
//!    filled with recurs twenty times beside one and the same filler, its own, and counts once. What is no more
//!    frequent than chance brings together counts as if it did not recur: in a large pool frequent words meet as often
//!    as those of a template, and would make every prompt's fixed text another.
//! 2. **Fixed text of a prompt** (`skeleton.rs`). A token is fixed when three tokens around it recur at least
//!    [`TemplateOptions::min_prompts`] times, and more often than the split between the prompt's rare and frequent
//!    tokens (Otsu 1979, on logarithms). The runs of fixed tokens are the prompt's skeleton.
//! 3. **Alike skeletons** (`grouping.rs`). The most frequent skeleton leads; another joins when the LCS of the two is
//!    at least [`TemplateOptions::min_similarity`] of the longer, and when both begin alike and end alike: one that
//!    ends in "Yes or no?" is another template. Candidates share three tokens in a row; nothing is compared with
//!    everything.
//! 4. **What the group agrees on** (`pattern.rs`). Of the leader stays what at least
//!    [`TemplateOptions::min_agreement`] of the group hold in the same order. A single token between two slots stays
//!    only if it is an instruction word. What is left must hold [`TemplateOptions::min_fixed_tokens`] tokens, and an
//!    instruction word among them: lists and dialogue marks recur as well, but ask for nothing.
//! 5. **Exact membership** (`pattern.rs`). A prompt belongs to the template with the most fixed text whose runs it
//!    holds, whole and in order, at its very beginning or end where the template has them there. A template that is
//!    left with fewer prompts or different fillers than [`TemplateOptions::min_prompts`] is given up and its prompts go
//!    to the next.
//!
//! What the rules cannot see: fixed text of one or two tokens between two slots, which is part of the slots' fillers;
//! a template that fewer fillers went through than fillers went through many templates, for then the two change roles.
//!
//! Cost: one sort of the n-grams that may recur often enough, and of the skeletons, hence n log n.

mod grouping;
mod instruction_words;
mod pattern;
mod skeleton;
mod support;
mod view;

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::PromptsError;
use crate::error::check_option;
use crate::tokens::{TokenPool, join};

pub use instruction_words::{CHINESE_INSTRUCTION_WORDS, ENGLISH_INSTRUCTION_WORDS};
use pattern::Patterns;
pub use pattern::Template;
pub use skeleton::Skeletons;
use support::Support;

/// No token: separates two runs of fixed text, and where the middle of a long prompt is left out.
pub const GAP: u32 = u32::MAX;
/// Tokens of a prompt that are looked at: as many from its beginning as from its end. Templates are at the ends.
pub const MAX_ROW_TOKENS: usize = 2048;

/// The thresholds of the rules.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TemplateOptions {
    /// Minimum prompts of a template, and minimum different fillers of its slots.
    pub min_prompts: usize,
    /// Two skeletons are one template if their longest common subsequence (LCS) is at least this fraction of the longer
    /// one.
    pub min_similarity: f64,
    /// A token is fixed text of a template if at least this fraction of its prompts contains it.
    pub min_agreement: f64,
    /// Minimum fixed tokens of a template.
    pub min_fixed_tokens: usize,
    /// Instruction words, in lower case. A template has to contain at least one. A Chinese word is a sequence of
    /// characters.
    pub instruction_words: Vec<String>,
}

impl Default for TemplateOptions {
    fn default() -> Self {
        let words =
            ENGLISH_INSTRUCTION_WORDS.split_whitespace().chain(CHINESE_INSTRUCTION_WORDS.split_whitespace());
        TemplateOptions {
            min_prompts: 8,
            min_similarity: 0.8,
            min_agreement: 0.8,
            min_fixed_tokens: 3,
            instruction_words: words.map(str::to_owned).collect(),
        }
    }
}

impl TemplateOptions {
    fn check(&self) -> Result<(), PromptsError> {
        check_option(self.min_prompts >= 2, "min_prompts", self.min_prompts, "at least 2")?;
        let share = |x: f64| x > 0.0 && x <= 1.0;
        check_option(
            share(self.min_similarity),
            "min_similarity",
            self.min_similarity,
            "above 0, at most 1",
        )?;
        check_option(share(self.min_agreement), "min_agreement", self.min_agreement, "above 0, at most 1")?;
        let words = self.instruction_words.len();
        check_option(words > 0, "instruction_words", "empty", "at least one word")
    }
}

/// The templates of a pool and which row belongs to which.
#[derive(Debug, Clone)]
pub struct TemplateSet {
    /// The templates, the one with the most fixed text first.
    pub templates: Vec<Template>,
    /// For each row the index of its template.
    pub template_of_row: Vec<Option<u32>>,
    /// For each row its fixed text.
    pub skeletons: Skeletons,
}

/// Finds the templates of a pool. A pool of fewer prompts than make a template has none.
///
/// # Errors
/// When an option is outside its range.
pub fn mine_templates(pool: &TokenPool, options: &TemplateOptions) -> Result<TemplateSet, PromptsError> {
    options.check()?;
    let support = Support::count(pool, options.min_prompts as u32);
    let skeletons = Skeletons::of(pool, &support);
    let groups = grouping::group(&skeletons, options);
    let instructions = instruction_words::Matcher::new(&options.instruction_words, pool.vocabulary());
    let patterns =
        groups.iter().filter_map(|group| pattern::agree(group, &skeletons, options, &instructions));
    let (templates, template_of_row) =
        Patterns::new(patterns.collect(), &support).assign(pool, &support, options);
    Ok(TemplateSet { templates, template_of_row, skeletons })
}

impl TemplateSet {
    /// Whether the fixed text of two rows begins alike and ends alike, as far as it is at their ends.
    pub fn ends_agree(&self, a: usize, b: usize) -> bool {
        grouping::ends_agree(self.skeletons.row(a), self.skeletons.row(b))
    }

    /// The rows of each template, in order.
    pub fn rows_by_template(&self) -> Vec<Vec<u32>> {
        let mut rows = vec![Vec::new(); self.templates.len()];
        for (row, template) in self.template_of_row.iter().enumerate() {
            if let Some(template) = template {
                rows[*template as usize].push(row as u32);
            }
        }
        rows
    }

    /// The templates as a table for people, those with the most prompts first: how many prompts, the fixed text with
    /// its slots as `{1}`, `{2}`, and for each slot the fillers of `n_examples` prompts.
    pub fn table(&self, pool: &TokenPool, n_examples: usize) -> String {
        let rows = self.rows_by_template();
        let mut order: Vec<usize> = (0..self.templates.len()).collect();
        order.sort_by_key(|&index| std::cmp::Reverse(rows[index].len()));
        let entries: Vec<String> =
            order.par_iter().map(|&index| self.table_entry(pool, index, &rows[index], n_examples)).collect();
        format!("prompts  template\n{}", entries.concat())
    }

    fn table_entry(&self, pool: &TokenPool, index: usize, rows: &[u32], n_examples: usize) -> String {
        let template = &self.templates[index];
        let one_line = |text: String| text.replace('\n', "⏎");
        let mut entry = format!("{:>7}  {}\n", rows.len(), one_line(template.text(pool.vocabulary())));
        // Spread over the group: its first rows often come from one place.
        let examples =
            (0..n_examples.min(rows.len())).map(|i| rows[i * rows.len() / n_examples.min(rows.len())]);
        let fillers: Vec<Vec<String>> = examples.filter_map(|row| self.fillers(pool, row as usize)).collect();
        for slot in 0..template.n_slots() {
            let texts = fillers.iter().map(|fillers| shorten(&one_line(fillers[slot].clone()), 40));
            entry += &format!("         {{{}}}: {}\n", slot + 1, texts.collect::<Vec<_>>().join(" | "));
        }
        entry
    }

    /// The contents of the slots of a row's template; `None` for a row without one.
    pub fn fillers(&self, pool: &TokenPool, row: usize) -> Option<Vec<String>> {
        let template = &self.templates[self.template_of_row[row]? as usize];
        let tokens = view::view(pool.row(row));
        let slots = template.slots(&tokens)?;
        let text = |token: u32| if token == GAP { "…" } else { pool.vocabulary().text(token) };
        Some(slots.into_iter().map(|slot| join(tokens[slot].iter().map(|&token| text(token)))).collect())
    }
}

fn shorten(text: &str, most: usize) -> String {
    let text = text.trim();
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
