//! Prompts with their responses, tokenized. A sample is a whole group, so that what is compared always lies in one
//! pack, and the prompt that its responses share is computed once.

use std::ops::Range;
use std::sync::Arc;

use truing_store::Digest;
use truing_types::{BatchError, PackedBatch, RowOrigin, Seed, TokenId};

use crate::DataError;
use crate::dataset::{LongSamplePolicy, LongSampleReport};
use crate::mix::SourceRange;
use crate::mix::{HeldOut, Split, split_held_out};

/// One response after the group's common beginning.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TokenizedResponse {
    /// Token ids, at least one.
    pub tokens: Vec<TokenId>,
    /// Loss weight of each token as a target `[n_tokens]`.
    pub loss_weights: Vec<f32>,
    /// 0 is the best of the group; equal ranks are a tie.
    pub rank: u32,
    /// Absolute score in the source's own unit, where there is one.
    pub score: Option<f64>,
    /// A single verdict, where the source gives those.
    pub is_desirable: Option<bool>,
}

/// A prompt with its responses: one row.
#[derive(Debug, Clone, PartialEq)]
pub struct ResponseGroup {
    /// The tokens that all responses begin with; none of them carries loss. May be empty.
    pub prefix: Vec<TokenId>,
    /// At least one.
    pub responses: Vec<TokenizedResponse>,
    /// How much better the best is than the worst, where the row says so.
    pub margin: Option<f64>,
    /// The row.
    pub origin: RowOrigin,
}

impl ResponseGroup {
    /// Joins whole sequences (prompt and response each) of one row. What all begin with becomes the prefix, as far
    /// as no token of it carries loss and every response keeps a token of its own.
    #[must_use]
    pub fn new(sequences: Vec<TokenizedResponse>, margin: Option<f64>, origin: RowOrigin) -> Self {
        let mut responses = sequences;
        let of_one = |response: &TokenizedResponse| {
            let before_loss = response.loss_weights.iter().take_while(|&&weight| weight == 0.0).count();
            before_loss.min(response.tokens.len().saturating_sub(1))
        };
        let mut n_shared = responses.iter().map(of_one).min().unwrap_or(0);
        if let Some((first, others)) = responses.split_first() {
            for other in others {
                let common = first.tokens.iter().zip(&other.tokens).take_while(|(a, b)| a == b).count();
                n_shared = n_shared.min(common);
            }
        }
        let prefix = responses.first().map_or_else(Vec::new, |first| first.tokens[..n_shared].to_vec());
        for response in &mut responses {
            response.tokens.drain(..n_shared);
            response.loss_weights.drain(..n_shared);
        }
        Self { prefix, responses, margin, origin }
    }

    /// Tokens of prefix and responses together.
    #[must_use]
    pub fn n_tokens(&self) -> usize {
        self.prefix.len() + self.responses.iter().map(|response| response.tokens.len()).sum::<usize>()
    }

    /// Tokens that carry loss.
    #[must_use]
    pub fn n_loss_tokens(&self) -> usize {
        let weights = self.responses.iter().flat_map(|response| &response.loss_weights);
        weights.filter(|&&weight| weight != 0.0).count()
    }

    /// Pairs of a query and a key that attention looks at.
    #[must_use]
    pub fn n_attention_pairs(&self) -> f64 {
        let causal = |n: usize| n as f64 * (n as f64 + 1.0) / 2.0;
        let of_response = |response: &TokenizedResponse| {
            causal(response.tokens.len()) + (response.tokens.len() * self.prefix.len()) as f64
        };
        causal(self.prefix.len()) + self.responses.iter().map(of_response).sum::<f64>()
    }

    /// Every `(better, worse)` of the group, as places among its responses; ties are left out.
    #[must_use]
    pub fn pairs(&self) -> Vec<(usize, usize)> {
        let ranks: Vec<u32> = self.responses.iter().map(|response| response.rank).collect();
        let all = (0..ranks.len()).flat_map(|i| (0..ranks.len()).map(move |j| (i, j)));
        all.filter(|&(i, j)| ranks[i] < ranks[j]).collect()
    }

    fn content_key(&self) -> u64 {
        let mut bytes = Vec::new();
        let parts = self.responses.iter().map(|response| &response.tokens);
        for tokens in std::iter::once(&self.prefix).chain(parts) {
            bytes.extend((tokens.len() as u64).to_le_bytes());
            bytes.extend(tokens.iter().flat_map(|token| token.to_le_bytes()));
        }
        let mut key = [0; 8];
        key.copy_from_slice(&Digest::of_bytes(&bytes).as_bytes()[..8]);
        u64::from_le_bytes(key)
    }

    /// Equal for rows with the same prompt, so that they are held out together.
    fn prompt_key(&self) -> u64 {
        match self.prefix.is_empty() {
            true => self.content_key(),
            false => Self { responses: Vec::new(), ..self.clone() }.content_key(),
        }
    }
}

/// Groups in memory, ready to be packed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ResponseDataset {
    groups: Vec<ResponseGroup>,
    sources: Vec<SourceRange>,
}

/// Groups joined into one batch.
#[derive(Debug, Clone, PartialEq)]
pub struct ResponseBatch {
    /// The tokens.
    pub batch: PackedBatch,
    /// Sequence of each response, group by group.
    pub sequences: Vec<usize>,
}

impl ResponseDataset {
    /// Begins a data set whose groups have at most `max_length` tokens each.
    #[must_use]
    pub fn builder(max_length: u32, policy: LongSamplePolicy) -> ResponseDatasetBuilder {
        ResponseDatasetBuilder {
            dataset: Self::default(),
            max_length: max_length as usize,
            policy,
            report: LongSampleReport::default(),
        }
    }

    /// All groups, source by source.
    #[must_use]
    pub fn groups(&self) -> &[ResponseGroup] {
        &self.groups
    }

    /// The sources, each a range of groups.
    #[must_use]
    pub fn sources(&self) -> &[SourceRange] {
        &self.sources
    }

    /// Tokens of each group `[n_groups]`.
    #[must_use]
    pub fn lengths(&self) -> Vec<u32> {
        self.groups.iter().map(|group| group.n_tokens() as u32).collect()
    }

    /// The source that a group belongs to.
    #[must_use]
    pub fn source_of(&self, group_idx: usize) -> Option<&SourceRange> {
        self.sources.iter().find(|source| source.samples.contains(&group_idx))
    }

    /// The groups named, in that order, with their sources. `groups` must rise.
    #[must_use]
    pub fn subset(&self, groups: &[u32]) -> Self {
        debug_assert!(groups.is_sorted());
        let place = |end: usize| groups.partition_point(|&i| (i as usize) < end);
        let of_source = |source: &SourceRange| SourceRange {
            samples: place(source.samples.start)..place(source.samples.end),
            ..source.clone()
        };
        Self {
            groups: groups.iter().map(|&i| self.groups[i as usize].clone()).collect(),
            sources: self.sources.iter().map(of_source).collect(),
        }
    }

    /// Splits off what is held out, `(train, held out)`; groups with the same prompt stay together.
    #[must_use]
    pub fn split(&self, held_out: HeldOut, seed: Seed) -> (Self, Self) {
        let keys: Vec<u64> = self.groups.iter().map(ResponseGroup::prompt_key).collect();
        let Split { train, held_out } = split_held_out(&keys, held_out, seed);
        (self.subset(&train), self.subset(&held_out))
    }

    /// The digest of everything that decides what is trained on.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut bytes = Vec::new();
        for group in &self.groups {
            bytes.extend(group.content_key().to_le_bytes());
            bytes.extend(group.margin.unwrap_or(f64::NAN).to_le_bytes());
            for response in &group.responses {
                bytes.extend(response.rank.to_le_bytes());
                bytes.extend(response.score.unwrap_or(f64::NAN).to_le_bytes());
                bytes.push(response.is_desirable.map_or(2, u8::from));
                bytes.extend(response.loss_weights.iter().flat_map(|weight| weight.to_le_bytes()));
            }
        }
        Digest::of_bytes(&bytes)
    }

    /// Joins groups into one batch: each prefix once, and its responses after it.
    ///
    /// # Errors
    /// When no groups are named.
    pub fn batch(&self, groups: &[u32]) -> Result<ResponseBatch, BatchError> {
        let (mut parts, mut sequences) = (Vec::new(), Vec::new());
        let no_loss =
            vec![0.0; groups.iter().map(|&i| self.groups[i as usize].prefix.len()).max().unwrap_or(0)];
        for &i in groups {
            let group = &self.groups[i as usize];
            let prefix = (!group.prefix.is_empty()).then_some(parts.len());
            if prefix.is_some() {
                let weights = &no_loss[..group.prefix.len()];
                parts.push((&group.prefix[..], weights, group.origin.clone(), None));
            }
            for response in &group.responses {
                sequences.push(parts.len());
                parts.push((&response.tokens[..], &response.loss_weights[..], group.origin.clone(), prefix));
            }
        }
        Ok(ResponseBatch { batch: PackedBatch::with_prefixes(parts)?, sequences })
    }
}

/// Takes groups one by one; see [`ResponseDataset::builder`].
#[derive(Debug)]
pub struct ResponseDatasetBuilder {
    dataset: ResponseDataset,
    max_length: usize,
    policy: LongSamplePolicy,
    report: LongSampleReport,
}

impl ResponseDatasetBuilder {
    /// All groups that follow belong to this source.
    pub fn begin_source(&mut self, name: impl Into<Arc<str>>, sampling_weight: f64) {
        let at = self.dataset.groups.len();
        self.dataset.sources.push(SourceRange { name: name.into(), sampling_weight, samples: at..at });
    }

    /// Takes a group. One that is too long is left out or cut: responses lose their ends so far that the longest
    /// fits. A group cannot be split.
    pub fn push(&mut self, mut group: ResponseGroup) {
        if self.dataset.sources.is_empty() {
            self.begin_source(group.origin.source.clone(), 1.0);
        }
        self.report.n_samples += 1;
        let n_tokens = group.n_tokens();
        if n_tokens > self.max_length {
            self.report.n_long += 1;
            if self.report.long.len() < crate::MAX_LISTED_ROWS {
                self.report.long.push((group.origin.clone(), n_tokens));
            }
            let room = self.max_length.saturating_sub(group.prefix.len()) / group.responses.len().max(1);
            if self.policy != LongSamplePolicy::Truncate || room == 0 {
                self.report.n_tokens_lost += n_tokens as u64;
                return;
            }
            for response in &mut group.responses {
                response.tokens.truncate(room);
                response.loss_weights.truncate(room);
            }
            self.report.n_tokens_lost += (n_tokens - group.n_tokens()) as u64;
        }
        self.dataset.groups.push(group);
        if let Some(source) = self.dataset.sources.last_mut() {
            source.samples = Range { end: source.samples.end + 1, ..source.samples.clone() };
        }
    }

    /// The data set, and what could not be taken as it was.
    ///
    /// # Errors
    /// When groups are too long under [`LongSamplePolicy::Error`], or none is left.
    pub fn finish(self) -> Result<(ResponseDataset, LongSampleReport), DataError> {
        self.report.check(self.policy, self.max_length, self.dataset.groups.is_empty())?;
        Ok((self.dataset, self.report))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(tokens: &[TokenId], n_prompt: usize, rank: u32) -> TokenizedResponse {
        let weight = |i| if i < n_prompt { 0.0 } else { 1.0 };
        TokenizedResponse {
            tokens: tokens.to_vec(),
            loss_weights: (0..tokens.len()).map(weight).collect(),
            rank,
            ..TokenizedResponse::default()
        }
    }

    fn group(line: u64, responses: Vec<TokenizedResponse>) -> ResponseGroup {
        ResponseGroup::new(responses, None, RowOrigin { source: "a".into(), line })
    }

    fn build(
        max_length: u32,
        policy: LongSamplePolicy,
        groups: Vec<ResponseGroup>,
    ) -> ResponseDatasetBuilder {
        let mut builder = ResponseDataset::builder(max_length, policy);
        groups.into_iter().for_each(|group| builder.push(group));
        builder
    }

    #[test]
    fn the_prefix_ends_where_loss_begins_and_where_responses_part() {
        let same_start = group(1, vec![response(&[1, 2, 3, 4], 2, 0), response(&[1, 2, 3, 5], 2, 1)]);
        assert_eq!(same_start.prefix, [1, 2], "token 3 carries loss in both");
        let different = group(1, vec![response(&[1, 2, 3], 2, 0), response(&[1, 7, 3], 2, 1)]);
        assert_eq!(different.prefix, [1]);
        let nothing = group(1, vec![response(&[1, 2], 1, 0), response(&[3, 2], 1, 1)]);
        assert!(nothing.prefix.is_empty());
        let no_loss = group(1, vec![response(&[1, 2, 3], 9, 0), response(&[1, 2, 3], 9, 0)]);
        assert_eq!(no_loss.prefix, [1, 2], "each keeps a token");
    }

    #[test]
    fn all_pairs_of_a_ranking_but_no_ties() {
        let ranked = group(1, (0..4).map(|i| response(&[1, 2 + i], 1, i.min(2))).collect());
        assert_eq!(ranked.pairs(), [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3)]);
    }

    #[test]
    fn a_batch_holds_each_prompt_once() {
        let groups = vec![
            group(1, vec![response(&[1, 2, 3], 2, 0), response(&[1, 2, 4, 5], 2, 1)]),
            group(2, vec![response(&[9, 8], 1, 0), response(&[7, 8], 1, 1)]),
        ];
        let (dataset, _) = build(10, LongSamplePolicy::Error, groups).finish().unwrap();
        let ResponseBatch { batch, sequences } = dataset.batch(&[1, 0]).unwrap();
        assert_eq!(batch.tokens(), [9, 8, 7, 8, 1, 2, 3, 4, 5]);
        assert_eq!(sequences, [0, 1, 3, 4]);
        assert_eq!(batch.prefixes(), [None, None, None, Some(2), Some(2)]);
        assert_eq!(batch.targets().tokens, [8, 8, 3, 4, 5]);
        assert_eq!(dataset.lengths(), [5, 4]);
        assert_eq!(dataset.groups()[0].n_attention_pairs(), 3.0 + 2.0 + 1.0 + 4.0 + 3.0);
    }

    #[test]
    fn long_groups_are_refused_dropped_or_cut() {
        let long = || vec![group(3, vec![response(&[1, 2, 3, 4, 5], 2, 0), response(&[1, 2, 6], 2, 1)])];
        assert!(matches!(
            build(5, LongSamplePolicy::Error, long()).finish(),
            Err(DataError::LongSamples { n_tokens: 6, .. })
        ));
        assert!(matches!(
            build(5, LongSamplePolicy::Drop, long()).finish(),
            Err(DataError::NothingToLearn { n_rows: 1, n_unused: 0, n_long: 1, n_without_loss: 0 })
        ));
        let (cut, report) = build(5, LongSamplePolicy::Truncate, long()).finish().unwrap();
        assert_eq!(cut.groups()[0].responses[0].tokens, [3]);
        assert_eq!(report.n_tokens_lost, 2);
    }

    #[test]
    fn rows_with_the_same_prompt_are_held_out_together() {
        let two_of_each = (0..100).flat_map(|i| {
            let prompt = 10 + i / 2;
            [group(u64::from(i), vec![response(&[prompt, 1, i], 2, 0), response(&[prompt, 1, 99 + i], 2, 1)])]
        });
        let (dataset, _) = build(10, LongSamplePolicy::Error, two_of_each.collect()).finish().unwrap();
        let (train, held_out) = dataset.split(HeldOut::Fraction(0.3), Seed(1));
        assert_eq!(train.groups().len() + held_out.groups().len(), 100);
        assert!(!held_out.groups().is_empty());
        for group in held_out.groups() {
            assert!(train.groups().iter().all(|other| other.prefix != group.prefix));
        }
        assert_eq!(train.sources()[0].samples, 0..train.groups().len());
    }
}
