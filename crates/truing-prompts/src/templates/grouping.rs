//! Skeletons that are one template's: leaders by frequency, followers by LCS.

use rayon::prelude::*;
use rustc_hash::FxHashMap;

use super::support::NGRAM;
use super::{GAP, Skeletons, TemplateOptions};
use crate::hashing::hash_tokens;
use crate::lcs::{LcsMatcher, ShareOf};
use crate::tokens::{END, START};

/// Leaders that a skeleton is compared with: those that share the most n-grams with it.
const CANDIDATES: usize = 8;
/// Leaders that an n-gram proposes: the first, whose skeletons are the most frequent. It bounds the cost of n-grams
/// that every skeleton holds.
const LEADERS_OF_NGRAM: usize = 64;
/// A skeleton of more tokens is text that recurs whole, not a template.
const MAX_FIXED_TOKENS: usize = 512;
/// Tokens by which the fixed text at an end may be longer in one of two alike skeletons: a filler may happen to begin
/// with a frequent word.
const END_SLACK: usize = 3;

/// Different skeletons of one template, each with the number of rows that have it. The first is the leader.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// (a row that has the skeleton, rows that have it)
    pub(super) members: Vec<(u32, usize)>,
}

impl Group {
    pub(super) fn n_rows(&self) -> usize {
        self.members.iter().map(|member| member.1).sum()
    }
}

/// The groups, leaders' frequency first.
pub(super) fn group(skeletons: &Skeletons, options: &TemplateOptions) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut leaders: Vec<Vec<u32>> = Vec::new();
    let mut leaders_of_ngram: FxHashMap<u64, Vec<u32>> = FxHashMap::default();
    let mut matcher = LcsMatcher::default();
    for (row, count) in different_skeletons(skeletons) {
        let skeleton = skeletons.row(row as usize);
        let fixed = skeletons.fixed_tokens(row as usize);
        let ngrams = ngrams_of(skeleton);
        if ngrams.is_empty() || fixed.len() > MAX_FIXED_TOKENS {
            continue;
        }
        let candidates: Vec<u32> = shared_ngrams(&ngrams, &leaders_of_ngram)
            .into_iter()
            .filter(|&leader| {
                ends_agree(skeleton, skeletons.row(groups[leader as usize].members[0].0 as usize))
            })
            .collect();
        let others: Vec<&[u32]> =
            candidates.iter().map(|&leader| leaders[leader as usize].as_slice()).collect();
        let least =
            |i: usize| ShareOf::Longer.min_length(options.min_similarity, fixed.len(), others[i].len());
        let lengths = matcher.one_to_many(&fixed, &others, least);
        let alike = (0..others.len()).filter(|&i| lengths[i] >= least(i));
        let share = |i: usize| ShareOf::Longer.share(lengths[i], fixed.len(), others[i].len());
        let best = alike.max_by(|&a, &b| share(a).total_cmp(&share(b)).then(b.cmp(&a)));
        if let Some(best) = best {
            groups[candidates[best] as usize].members.push((row, count));
            continue;
        }
        let leader = groups.len() as u32;
        for &hash in &ngrams {
            let known = leaders_of_ngram.entry(hash).or_default();
            if known.len() < LEADERS_OF_NGRAM {
                known.push(leader);
            }
        }
        groups.push(Group { members: vec![(row, count)] });
        leaders.push(fixed);
    }
    groups.retain(|group| group.n_rows() >= options.min_prompts);
    groups
}

/// A row for every different skeleton and how many rows have it: frequent ones first, then those with more fixed text,
/// then by text.
fn different_skeletons(skeletons: &Skeletons) -> Vec<(u32, usize)> {
    let mut rows: Vec<u32> = (0..skeletons.len() as u32).collect();
    let text = |row: u32| skeletons.row(row as usize);
    rows.par_sort_unstable_by(|&a, &b| text(a).cmp(text(b)).then(a.cmp(&b)));
    let mut different: Vec<(u32, usize)> =
        rows.chunk_by(|&a, &b| text(a) == text(b)).map(|same| (same[0], same.len())).collect();
    different.sort_by(|a, b| b.1.cmp(&a.1).then(text(b.0).len().cmp(&text(a.0).len())));
    different
}

fn ngrams_of(skeleton: &[u32]) -> Vec<u64> {
    let mut hashes: Vec<u64> =
        skeleton.windows(NGRAM).filter(|ngram| !ngram.contains(&GAP)).map(hash_tokens).collect();
    hashes.sort_unstable();
    hashes.dedup();
    hashes
}

/// The leaders that share the most n-grams, most first, then the earlier.
fn shared_ngrams(ngrams: &[u64], leaders_of_ngram: &FxHashMap<u64, Vec<u32>>) -> Vec<u32> {
    let mut shared: FxHashMap<u32, u32> = FxHashMap::default();
    for leader in ngrams.iter().filter_map(|hash| leaders_of_ngram.get(hash)).flatten() {
        *shared.entry(*leader).or_default() += 1;
    }
    let mut leaders: Vec<(u32, u32)> = shared.into_iter().collect();
    leaders.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    leaders.truncate(CANDIDATES);
    leaders.into_iter().map(|(leader, _)| leader).collect()
}

/// Whether two skeletons begin with the same fixed text and end with the same, as far as they do.
pub(super) fn ends_agree(a: &[u32], b: &[u32]) -> bool {
    let prefix = |skeleton: &[u32]| {
        let is_fixed = skeleton.first() == Some(&START);
        if is_fixed { skeleton.iter().take_while(|&&token| token != GAP).count() } else { 0 }
    };
    let suffix = |skeleton: &[u32]| {
        let is_fixed = skeleton.last() == Some(&END);
        if is_fixed { skeleton.iter().rev().take_while(|&&token| token != GAP).count() } else { 0 }
    };
    let common = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let common_from_end = a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count();
    end_agrees(prefix(a), prefix(b), common) && end_agrees(suffix(a), suffix(b), common_from_end)
}

/// `a` and `b` are tokens of fixed text at an end, `common` those that are equal.
fn end_agrees(a: usize, b: usize, common: usize) -> bool {
    if a == 0 || b == 0 {
        return a + b <= 2;
    }
    common + 1 >= a.min(b) && a.abs_diff(b) <= END_SLACK
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(a: &[u32], b: &[u32], expect: bool) {
        assert_eq!(ends_agree(a, b), expect, "{a:?} {b:?}");
        assert_eq!(ends_agree(b, a), expect, "{b:?} {a:?}");
    }

    #[test]
    fn templates_that_begin_or_end_otherwise_are_others() {
        check(&[START, 10, 11, 12, GAP, 20, 21, END], &[START, 10, 11, 12, GAP, 30, 20, 21, END], true);
        check(&[START, 10, 11, 12, GAP, 20, 21, END], &[START, 10, 11, 12, GAP, 20, 21, 22, 23, END], false);
        check(&[START, 10, 11, GAP, 20], &[20], false);
        check(&[START, 10, GAP, 20], &[20], true);
        check(&[START, 10, 11, 12], &[START, 10, 11, 12, 13, 14, 15, 16], false);
    }
}
