//! A template as a pattern: runs of fixed text in order, with slots between them; which prompts match it.

use std::ops::Range;

use rayon::prelude::*;
use rustc_hash::{FxHashMap, FxHashSet};

use super::grouping::Group;
use super::instruction_words::Matcher;
use super::support::{NGRAM, Support};
use super::view::view;
use super::{GAP, Skeletons, TemplateOptions};
use crate::hashing::hash_tokens;
use crate::tokens::{END, START, TokenPool, Vocabulary, join};

/// Different skeletons of a group, the most frequent first, that are asked what they agree on.
const MAX_VOTERS: usize = 64;
/// Times that templates without enough prompts are given up and their prompts assigned anew.
const MAX_ROUNDS: usize = 4;

/// Fixed text with slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// The runs of fixed tokens. The first begins with [`START`] when the template is at a prompt's beginning, the
    /// last ends with [`END`] when it is at its end.
    pub runs: Vec<Vec<u32>>,
    /// Prompts that match no template with more fixed text.
    pub n_rows: usize,
    /// Different fillers among them.
    pub n_fillers: usize,
}

impl Template {
    fn begins_prompt(&self) -> bool {
        self.runs.first().and_then(|run| run.first()) == Some(&START)
    }

    fn ends_prompt(&self) -> bool {
        self.runs.last().and_then(|run| run.last()) == Some(&END)
    }

    /// Slots: between runs, and before and after them where the template does not reach the prompt's end.
    pub fn n_slots(&self) -> usize {
        self.runs.len() + 1 - usize::from(self.begins_prompt()) - usize::from(self.ends_prompt())
    }

    /// All fixed tokens, in order.
    pub fn fixed_tokens(&self) -> Vec<u32> {
        self.runs.concat()
    }

    /// The fixed text with `{1}`, `{2}` and so on in its slots.
    pub fn text(&self, vocabulary: &Vocabulary) -> String {
        let mut words: Vec<String> = Vec::new();
        let mut slot = 0;
        let mut next_slot = || {
            slot += 1;
            format!("{{{slot}}}")
        };
        if !self.begins_prompt() {
            words.push(next_slot());
        }
        for (i, run) in self.runs.iter().enumerate() {
            words.extend(
                run.iter().filter(|&&token| token > END).map(|&token| vocabulary.text(token).to_owned()),
            );
            if i + 1 < self.runs.len() || !self.ends_prompt() {
                words.push(next_slot());
            }
        }
        join(words.iter().map(String::as_str))
    }

    /// Where the slots are in a row's tokens; `None` when the row does not match.
    pub(super) fn slots(&self, row: &[u32]) -> Option<Vec<Range<usize>>> {
        let mut slots = Vec::with_capacity(self.runs.len() + 1);
        let mut at = 0;
        for (i, run) in self.runs.iter().enumerate() {
            let begin = if i == 0 && self.begins_prompt() {
                row.starts_with(run).then_some(0)
            } else if i + 1 == self.runs.len() && self.ends_prompt() {
                row.ends_with(run).then(|| row.len() - run.len()).filter(|&begin| begin >= at)
            } else {
                find(&row[at..], run).map(|offset| at + offset)
            }?;
            if i > 0 || !self.begins_prompt() {
                slots.push(at..begin);
            }
            at = begin + run.len();
        }
        if !self.ends_prompt() {
            slots.push(at..row.len());
        }
        Some(slots)
    }
}

fn find(row: &[u32], run: &[u32]) -> Option<usize> {
    row.windows(run.len()).position(|window| window == run)
}

/// What the skeletons of a group agree on, if it is enough for a template.
pub(super) fn agree(
    group: &Group,
    skeletons: &Skeletons,
    options: &TemplateOptions,
    instructions: &Matcher<'_>,
) -> Option<Template> {
    let leader = skeletons.row(group.members[0].0 as usize);
    let leader_tokens: Vec<u32> = leader.iter().copied().filter(|&token| token != GAP).collect();
    let voters = &group.members[..group.members.len().min(MAX_VOTERS)];
    let mut votes = vec![0; leader_tokens.len()];
    for &(row, count) in voters {
        let holds = common_places(&leader_tokens, &skeletons.fixed_tokens(row as usize));
        votes.iter_mut().zip(holds).for_each(|(votes, holds)| *votes += count * usize::from(holds));
    }
    let n_votes: usize = voters.iter().map(|voter| voter.1).sum();
    let mut agreed = votes.iter().map(|&votes| votes as f64 >= options.min_agreement * n_votes as f64);
    let mut runs: Vec<Vec<u32>> = Vec::new();
    for run in leader.split(|&token| token == GAP) {
        let kept: Vec<u32> =
            run.iter().map(|&token| if agreed.next() == Some(true) { token } else { GAP }).collect();
        let parts = kept.split(|&token| token == GAP).filter(|part| !part.is_empty());
        runs.extend(parts.filter(|part| part.len() > 1 || instructions.is_in(part)).map(<[u32]>::to_vec));
    }
    let n_fixed = runs.iter().flatten().filter(|&&token| token > END).count();
    let is_enough = n_fixed >= options.min_fixed_tokens
        && runs.iter().any(|run| run.len() >= NGRAM)
        && runs.iter().any(|run| instructions.is_in(run));
    is_enough.then_some(Template { runs, n_rows: 0, n_fillers: 0 })
}

/// For each token of `a` whether it is in one longest common subsequence with `b`, the one that takes tokens of `a` as
/// early as it can.
fn common_places(a: &[u32], b: &[u32]) -> Vec<bool> {
    let width = b.len() + 1;
    // table[i * width + j]: the length for a[i..] and b[j..]
    let mut table = vec![0_u16; (a.len() + 1) * width];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            table[i * width + j] = if a[i] == b[j] {
                table[(i + 1) * width + j + 1] + 1
            } else {
                table[(i + 1) * width + j].max(table[i * width + j + 1])
            };
        }
    }
    let mut places = vec![false; a.len()];
    let (mut i, mut j) = (0, 0);
    while i < a.len() && j < b.len() {
        if a[i] == b[j] {
            places[i] = true;
            (i, j) = (i + 1, j + 1);
        } else if table[i * width + j] == table[i * width + j + 1] {
            j += 1;
        } else {
            i += 1;
        }
    }
    places
}

/// Templates to be matched against prompts, the one with the most fixed text first.
pub(super) struct Patterns {
    templates: Vec<Template>,
    /// From an n-gram of fixed text, each template's least frequent, to templates.
    templates_of_ngram: FxHashMap<u64, Vec<u32>>,
}

impl Patterns {
    pub(super) fn new(mut templates: Vec<Template>, support: &Support) -> Self {
        let n_fixed = |template: &Template| template.runs.iter().map(Vec::len).sum::<usize>();
        templates.sort_by(|a, b| n_fixed(b).cmp(&n_fixed(a)).then_with(|| a.runs.cmp(&b.runs)));
        templates.dedup_by(|a, b| a.runs == b.runs);
        let mut templates_of_ngram: FxHashMap<u64, Vec<u32>> = FxHashMap::default();
        for (index, template) in templates.iter().enumerate() {
            let ngrams = template.runs.iter().flat_map(|run| run.windows(NGRAM)).map(hash_tokens);
            if let Some(rarest) = ngrams.min_by_key(|&hash| (support.of(hash), hash)) {
                templates_of_ngram.entry(rarest).or_default().push(index as u32);
            }
        }
        Patterns { templates, templates_of_ngram }
    }

    /// The templates with enough prompts, and each row's.
    pub(super) fn assign(
        mut self,
        pool: &TokenPool,
        support: &Support,
        options: &TemplateOptions,
    ) -> (Vec<Template>, Vec<Option<u32>>) {
        let is_enough = |template: &Template| template.n_fillers >= options.min_prompts;
        for _ in 1..MAX_ROUNDS {
            let of_row = self.match_all(pool, support);
            if self.templates.iter().all(is_enough) {
                return (self.templates, of_row);
            }
            self.templates.retain(is_enough);
            self = Patterns::new(self.templates, support);
        }
        let of_row = self.match_all(pool, support);
        without_small(self.templates, of_row, is_enough)
    }

    /// The template of each row; counts rows and fillers.
    fn match_all(&mut self, pool: &TokenPool, support: &Support) -> Vec<Option<u32>> {
        let of_row: Vec<Option<u32>> =
            (0..pool.len()).into_par_iter().map(|row| self.find(&view(pool.row(row)))).collect();
        let mut fillers = vec![FxHashSet::default(); self.templates.len()];
        self.templates.iter_mut().for_each(|template| template.n_rows = 0);
        for (row, template) in of_row.iter().enumerate() {
            if let Some(template) = *template {
                self.templates[template as usize].n_rows += 1;
                fillers[template as usize].insert(support.fillers[row]);
            }
        }
        self.templates
            .iter_mut()
            .zip(&fillers)
            .for_each(|(template, fillers)| template.n_fillers = fillers.len());
        of_row
    }

    /// The template with the most fixed text that a row matches.
    fn find(&self, row: &[u32]) -> Option<u32> {
        let ngrams = row.windows(NGRAM).map(hash_tokens);
        let candidates = ngrams.filter_map(|hash| self.templates_of_ngram.get(&hash)).flatten().copied();
        let mut best: Option<u32> = None;
        for candidate in candidates {
            let is_better = best.is_none_or(|best| candidate < best);
            if is_better && self.templates[candidate as usize].slots(row).is_some() {
                best = Some(candidate);
            }
        }
        best
    }
}

/// Templates that are enough, numbered anew.
fn without_small(
    templates: Vec<Template>,
    of_row: Vec<Option<u32>>,
    is_enough: impl Fn(&Template) -> bool,
) -> (Vec<Template>, Vec<Option<u32>>) {
    let mut number = 0;
    let numbers: Vec<Option<u32>> = templates
        .iter()
        .map(|template| {
            is_enough(template).then(|| {
                number += 1;
                number - 1
            })
        })
        .collect();
    let of_row = of_row.into_iter().map(|template| numbers[template? as usize]).collect();
    (templates.into_iter().filter(is_enough).collect(), of_row)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(runs: &[&[u32]], row: &[u32], expect: Option<&[Range<usize>]>) {
        let runs = runs.iter().map(|run| run.to_vec()).collect();
        let template = Template { runs, n_rows: 0, n_fillers: 0 };
        let slots = template.slots(row);
        assert_eq!(slots.as_deref(), expect, "{row:?}");
        assert!(slots.is_none_or(|slots| slots.len() == template.n_slots()));
    }

    #[test]
    fn runs_match_whole_in_order_and_at_the_ends() {
        let row = [START, 5, 6, 7, 8, 9, END];
        let middle = 2..5;
        check(&[&[START, 5], &[9, END]], &row, Some(std::slice::from_ref(&middle)));
        check(&[&[6, 7]], &row, Some(&[0..2, 4..7]));
        check(&[&[START, 5], &[7]], &row, Some(&[2..3, 4..7]));
        check(&[&[START, 6]], &row, None);
        check(&[&[8], &[6]], &row, None);
        check(&[&[START, 5, 6, 7], &[7, 8, 9, END]], &row, None);
    }

    #[test]
    fn places_of_a_common_subsequence() {
        assert_eq!(common_places(&[1, 2, 3, 4], &[2, 9, 4]), [false, true, false, true]);
        assert_eq!(common_places(&[1], &[]), [false]);
    }
}
