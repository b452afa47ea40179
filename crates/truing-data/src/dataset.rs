//! Tokenized samples in memory: one run of tokens, and the loss weights as runs of equal ones, because a whole turn
//! carries the same. A sample costs 4 bytes a token and about 50 besides, so a million chats fit.

use std::ops::Range;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_store::Digest;
use truing_types::{BatchError, PackedBatch, RowOrigin, Seed, TokenId, TokenizedSample};

use crate::DataError;
use crate::mix::{HeldOut, SourceRange, Split, split_held_out};
use crate::statistics::{LengthSummary, SourceStatistics};

/// What to do with a sample that is longer than a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LongSamplePolicy {
    /// Stop with an error.
    #[default]
    Error,
    /// Drop the sample.
    Drop,
    /// Keep the beginning.
    Truncate,
    /// Cut the sample into pieces that are trained on one by one. Each piece begins with the last token of the one
    /// before, so that every token is a target once.
    Split,
}

/// What became of samples that could not be taken as they were.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LongSampleReport {
    /// Samples offered.
    pub n_samples: usize,
    /// Samples longer than the limit.
    pub n_long: usize,
    /// Tokens of them that are not trained on.
    pub n_tokens_lost: u64,
    /// The first thousand long ones with their lengths.
    pub long: Vec<(RowOrigin, usize)>,
    /// Samples (or pieces) left out because no token of them carries loss.
    pub n_without_loss: usize,
    /// The first thousand of them.
    pub without_loss: Vec<RowOrigin>,
}

impl LongSampleReport {
    /// Refuses long samples under [`LongSamplePolicy::Error`], and a data set in which no sample is left.
    pub(crate) fn check(
        &self,
        policy: LongSamplePolicy,
        max_length: usize,
        is_empty: bool,
    ) -> Result<(), DataError> {
        if policy == LongSamplePolicy::Error
            && let Some((origin, n_tokens)) = self.long.first()
        {
            return Err(DataError::LongSamples {
                n_samples: self.n_long,
                max_length: max_length as u32,
                origin: origin.clone(),
                n_tokens: *n_tokens,
            });
        }
        if is_empty {
            return Err(DataError::NothingToLearn {
                n_rows: self.n_samples as u64,
                n_unused: 0,
                n_long: self.n_long,
                n_without_loss: self.n_without_loss,
            });
        }
        Ok(())
    }
}

/// Tokenized samples, ready to be packed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Dataset {
    tokens: Vec<TokenId>,
    /// First token of each sample, and the end: `[n_samples + 1]`.
    token_offsets: Vec<u64>,
    weight_runs: Vec<WeightRun>,
    /// First weight run of each sample, and the end: `[n_samples + 1]`.
    run_offsets: Vec<u64>,
    files: Vec<Arc<str>>,
    /// File and line of each sample.
    origins: Vec<(u32, u64)>,
    row_keys: Vec<u64>,
    sources: Vec<SourceRange>,
}

/// Tokens up to `end` (counted from the sample's beginning) that share a loss weight.
#[derive(Debug, Clone, Copy, PartialEq)]
struct WeightRun {
    end: u32,
    weight: f32,
}

/// One sample of a [`Dataset`].
#[derive(Debug, Clone, Copy)]
pub struct SampleRef<'a> {
    dataset: &'a Dataset,
    sample_idx: usize,
}

impl Dataset {
    /// Begins a data set whose samples have at most `max_length` tokens.
    #[must_use]
    pub fn builder(max_length: u32, policy: LongSamplePolicy) -> DatasetBuilder {
        DatasetBuilder {
            dataset: Self { token_offsets: vec![0], run_offsets: vec![0], ..Self::default() },
            max_length: max_length as usize,
            policy,
            report: LongSampleReport::default(),
        }
    }

    /// Number of samples.
    #[must_use]
    pub fn n_samples(&self) -> usize {
        self.origins.len()
    }

    /// Tokens of all samples.
    #[must_use]
    pub fn n_tokens(&self) -> u64 {
        self.tokens.len() as u64
    }

    /// Tokens of each sample, `[n_samples]`.
    #[must_use]
    pub fn lengths(&self) -> Vec<u32> {
        self.token_offsets.windows(2).map(|w| (w[1] - w[0]) as u32).collect()
    }

    /// Lengths in five numbers.
    #[must_use]
    pub fn summary(&self) -> LengthSummary {
        LengthSummary::of(&self.lengths())
    }

    /// Each source in numbers.
    #[must_use]
    pub fn source_statistics(&self) -> Vec<SourceStatistics> {
        let of_source = |source: &SourceRange| {
            let samples = source.samples.clone().map(|i| self.sample(i));
            let mut statistics = SourceStatistics {
                name: source.name.to_string(),
                weight: source.sampling_weight,
                n_samples: source.samples.len(),
                n_tokens: 0,
                n_loss_tokens: 0,
            };
            for sample in samples {
                statistics.n_tokens += sample.tokens().len() as u64;
                statistics.n_loss_tokens += sample.n_loss_tokens() as u64;
            }
            statistics
        };
        self.sources.iter().map(of_source).collect()
    }

    /// The sources, each a range of samples.
    #[must_use]
    pub fn sources(&self) -> &[SourceRange] {
        &self.sources
    }

    /// A number for the content of each sample's row `[n_samples]`: equal for duplicates and for the pieces of one
    /// row, independent of file and place.
    #[must_use]
    pub fn row_keys(&self) -> &[u64] {
        &self.row_keys
    }

    /// One sample.
    ///
    /// # Panics
    /// When there is no such sample.
    #[must_use]
    pub fn sample(&self, sample_idx: usize) -> SampleRef<'_> {
        assert!(sample_idx < self.n_samples(), "sample {sample_idx} of {}", self.n_samples());
        SampleRef { dataset: self, sample_idx }
    }

    /// All samples in order.
    pub fn samples(&self) -> impl ExactSizeIterator<Item = SampleRef<'_>> {
        (0..self.n_samples()).map(|sample_idx| SampleRef { dataset: self, sample_idx })
    }

    /// Joins samples into one batch.
    ///
    /// # Errors
    /// When no samples are named.
    pub fn batch(&self, samples: &[u32]) -> Result<PackedBatch, BatchError> {
        let weights: Vec<Vec<f32>> =
            samples.iter().map(|&i| self.sample(i as usize).loss_weights()).collect();
        PackedBatch::new(samples.iter().zip(&weights).map(|(&i, weights)| {
            let sample = self.sample(i as usize);
            (sample.tokens(), &weights[..], sample.origin())
        }))
    }

    /// The samples named, in that order, with their sources. `samples` must rise.
    #[must_use]
    pub fn subset(&self, samples: &[u32]) -> Self {
        debug_assert!(samples.is_sorted());
        let mut subset = Self {
            token_offsets: vec![0],
            run_offsets: vec![0],
            files: self.files.clone(),
            ..Self::default()
        };
        for source in &self.sources {
            let start = samples.partition_point(|&i| (i as usize) < source.samples.start);
            let end = samples.partition_point(|&i| (i as usize) < source.samples.end);
            subset.sources.push(SourceRange { samples: start..end, ..source.clone() });
        }
        for &i in samples {
            let sample = self.sample(i as usize);
            subset.tokens.extend_from_slice(sample.tokens());
            subset.token_offsets.push(subset.tokens.len() as u64);
            subset.weight_runs.extend_from_slice(sample.weight_runs());
            subset.run_offsets.push(subset.weight_runs.len() as u64);
            subset.origins.push(self.origins[i as usize]);
            subset.row_keys.push(self.row_keys[i as usize]);
        }
        subset
    }

    /// Splits off what is held out: `(train, held out)`. See [`split_held_out`].
    #[must_use]
    pub fn split(&self, held_out: HeldOut, seed: Seed) -> (Self, Self) {
        let Split { train, held_out } = split_held_out(&self.row_keys, held_out, seed);
        (self.subset(&train), self.subset(&held_out))
    }

    /// The digest of all tokens, weights and lengths: equal data sets train equally.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut bytes = Vec::with_capacity(self.tokens.len() * 4 + self.weight_runs.len() * 8);
        for offset in self.token_offsets.iter().chain(&self.run_offsets) {
            bytes.extend_from_slice(&offset.to_le_bytes());
        }
        for token in &self.tokens {
            bytes.extend_from_slice(&token.to_le_bytes());
        }
        for run in &self.weight_runs {
            bytes.extend_from_slice(&run.end.to_le_bytes());
            bytes.extend_from_slice(&run.weight.to_le_bytes());
        }
        Digest::of_bytes(&bytes)
    }
}

impl<'a> SampleRef<'a> {
    /// Token ids `[length]`.
    #[must_use]
    pub fn tokens(self) -> &'a [TokenId] {
        let offsets = &self.dataset.token_offsets[self.sample_idx..=self.sample_idx + 1];
        &self.dataset.tokens[offsets[0] as usize..offsets[1] as usize]
    }

    fn weight_runs(self) -> &'a [WeightRun] {
        let offsets = &self.dataset.run_offsets[self.sample_idx..=self.sample_idx + 1];
        &self.dataset.weight_runs[offsets[0] as usize..offsets[1] as usize]
    }

    /// Loss weight of each token as a target `[length]`.
    #[must_use]
    pub fn loss_weights(self) -> Vec<f32> {
        let mut weights = Vec::with_capacity(self.tokens().len());
        for run in self.weight_runs() {
            weights.resize(run.end as usize, run.weight);
        }
        weights
    }

    /// Tokens that carry loss.
    #[must_use]
    pub fn n_loss_tokens(self) -> usize {
        let mut start = 1;
        let mut n_loss_tokens = 0;
        for run in self.weight_runs() {
            if run.weight != 0.0 {
                n_loss_tokens += (run.end as usize).saturating_sub(start);
            }
            start = (run.end as usize).max(1);
        }
        n_loss_tokens
    }

    /// The row it was made from.
    #[must_use]
    pub fn origin(self) -> RowOrigin {
        let (file, line) = self.dataset.origins[self.sample_idx];
        RowOrigin { source: self.dataset.files[file as usize].clone(), line }
    }
}

/// Takes samples one by one; see [`Dataset::builder`].
#[derive(Debug)]
pub struct DatasetBuilder {
    dataset: Dataset,
    max_length: usize,
    policy: LongSamplePolicy,
    report: LongSampleReport,
}

impl DatasetBuilder {
    /// All samples that follow belong to this source.
    pub fn begin_source(&mut self, name: impl Into<Arc<str>>, sampling_weight: f64) {
        let at = self.dataset.n_samples();
        self.dataset.sources.push(SourceRange { name: name.into(), sampling_weight, samples: at..at });
    }

    /// Takes a sample. One that is too long is treated as the policy says, and one without loss left out; both are
    /// reported by [`DatasetBuilder::finish`].
    pub fn push(&mut self, sample: &TokenizedSample) {
        if self.dataset.sources.is_empty() {
            self.begin_source(sample.origin.source.clone(), 1.0);
        }
        self.report.n_samples += 1;
        let n_tokens = sample.tokens.len();
        let row_key = content_key(&sample.tokens);
        if n_tokens <= self.max_length {
            self.take(sample, 0..n_tokens, row_key);
            return;
        }
        self.report.n_long += 1;
        if self.report.long.len() < crate::MAX_LISTED_ROWS {
            self.report.long.push((sample.origin.clone(), n_tokens));
        }
        match self.policy {
            LongSamplePolicy::Error => {}
            LongSamplePolicy::Drop => self.report.n_tokens_lost += n_tokens as u64,
            LongSamplePolicy::Truncate => {
                self.report.n_tokens_lost += (n_tokens - self.max_length) as u64;
                self.take(sample, 0..self.max_length, row_key);
            }
            LongSamplePolicy::Split => {
                // A piece of one token predicts nothing, so shorter limits cannot be split.
                if self.max_length < 2 {
                    self.report.n_tokens_lost += n_tokens as u64;
                    return;
                }
                for start in (0..n_tokens - 1).step_by(self.max_length - 1) {
                    self.take(sample, start..n_tokens.min(start + self.max_length), row_key);
                }
            }
        }
    }

    fn take(&mut self, sample: &TokenizedSample, range: Range<usize>, row_key: u64) {
        let tokens = &sample.tokens[range.clone()];
        let weights = &sample.loss_weights[range];
        if !weights.iter().skip(1).any(|&w| w != 0.0) {
            self.report.n_without_loss += 1;
            if self.report.without_loss.len() < crate::MAX_LISTED_ROWS {
                self.report.without_loss.push(sample.origin.clone());
            }
            return;
        }
        let dataset = &mut self.dataset;
        dataset.tokens.extend_from_slice(tokens);
        dataset.token_offsets.push(dataset.tokens.len() as u64);
        let mut end = 0;
        for run in weights.chunk_by(|a, b| a == b) {
            end += run.len() as u32;
            dataset.weight_runs.push(WeightRun { end, weight: run[0] });
        }
        dataset.run_offsets.push(dataset.weight_runs.len() as u64);
        if dataset.files.last() != Some(&sample.origin.source) {
            dataset.files.push(sample.origin.source.clone());
        }
        dataset.origins.push((dataset.files.len() as u32 - 1, sample.origin.line));
        dataset.row_keys.push(row_key);
        if let Some(source) = dataset.sources.last_mut() {
            source.samples.end += 1;
        }
    }

    /// The data set, and what could not be taken as it was.
    ///
    /// # Errors
    /// When samples are too long under [`LongSamplePolicy::Error`], or none is left.
    pub fn finish(self) -> Result<(Dataset, LongSampleReport), DataError> {
        self.report.check(self.policy, self.max_length, self.dataset.n_samples() == 0)?;
        Ok((self.dataset, self.report))
    }
}

fn content_key(tokens: &[TokenId]) -> u64 {
    let bytes: Vec<u8> = tokens.iter().flat_map(|t| t.to_le_bytes()).collect();
    let mut key = [0; 8];
    key.copy_from_slice(&Digest::of_bytes(&bytes).as_bytes()[..8]);
    u64::from_le_bytes(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(line: u64, weights: &[f32]) -> TokenizedSample {
        let first = line as u32 * 100;
        TokenizedSample {
            tokens: (first..first + weights.len() as u32).collect(),
            loss_weights: weights.to_vec(),
            origin: RowOrigin { source: "a.jsonl".into(), line },
        }
    }

    fn build(policy: LongSamplePolicy, samples: &[TokenizedSample]) -> (Dataset, LongSampleReport) {
        let mut builder = Dataset::builder(4, policy);
        samples.iter().for_each(|s| builder.push(s));
        builder.finish().unwrap()
    }

    #[test]
    fn samples_come_back_as_they_went_in() {
        let samples = [sample(1, &[0.0, 1.0, 1.0]), sample(2, &[0.5, 0.5, 0.0, 2.0])];
        let (dataset, report) = build(LongSamplePolicy::Error, &samples);
        for (found, expected) in dataset.samples().zip(&samples) {
            assert_eq!(found.tokens(), expected.tokens);
            assert_eq!(found.loss_weights(), expected.loss_weights);
            assert_eq!(found.origin(), expected.origin);
            assert_eq!(found.n_loss_tokens(), 2);
        }
        assert_eq!(
            dataset.batch(&[1, 0]).unwrap(),
            PackedBatch::from_samples([&samples[1], &samples[0]]).unwrap()
        );
        assert_eq!((report.n_samples, report.n_long, dataset.lengths()), (2, 0, vec![3, 4]));
        let statistics = &dataset.source_statistics()[0];
        assert_eq!((statistics.n_samples, statistics.n_tokens, statistics.n_loss_tokens), (2, 7, 4));
        assert!((statistics.loss_share() - 4.0 / 7.0).abs() < 1e-12);
    }

    #[test]
    fn long_samples_follow_the_policy() {
        let samples = [sample(1, &[0.0, 1.0]), sample(2, &[0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0])];
        let mut builder = Dataset::builder(4, LongSamplePolicy::Error);
        samples.iter().for_each(|s| builder.push(s));
        let error = builder.finish().unwrap_err().to_string();
        assert!(error.starts_with("1 sample is longer than 4 tokens, the first a.jsonl:2 with 7"), "{error}");

        let (dropped, report) = build(LongSamplePolicy::Drop, &samples);
        assert_eq!((dropped.n_samples(), report.n_tokens_lost), (1, 7));
        let (truncated, report) = build(LongSamplePolicy::Truncate, &samples);
        assert_eq!(truncated.sample(1).tokens(), [200, 201, 202, 203]);
        assert_eq!(report.n_tokens_lost, 3);
        assert_eq!(report.long, [(samples[1].origin.clone(), 7)]);

        let (split, report) = build(LongSamplePolicy::Split, &samples);
        assert_eq!(split.sample(1).tokens(), [200, 201, 202, 203]);
        assert_eq!(split.sample(2).tokens(), [203, 204, 205, 206]);
        assert_eq!(report.n_tokens_lost, 0);
        let n_targets: usize = split.samples().skip(1).map(SampleRef::n_loss_tokens).sum();
        assert_eq!(n_targets, 5, "every target once");
        assert_eq!(split.row_keys()[1], split.row_keys()[2]);
    }

    #[test]
    fn splitting_keeps_every_target_once_at_any_length() {
        for n_tokens in 5..40 {
            let long = sample(1, &vec![1.0; n_tokens]);
            let (split, _) = build(LongSamplePolicy::Split, &[long]);
            let targets: Vec<u32> = split.samples().flat_map(|s| s.tokens()[1..].to_vec()).collect();
            assert!(targets.into_iter().eq(101..100 + n_tokens as u32), "{n_tokens}");
        }
    }

    #[test]
    fn samples_without_loss_are_reported_and_left_out() {
        let samples =
            [sample(1, &[1.0, 0.0, 0.0]), sample(2, &[0.0, 0.0, 0.0, 0.0, 1.0]), sample(3, &[0.0, 1.0])];
        let (dataset, report) = build(LongSamplePolicy::Truncate, &samples);
        assert_eq!(dataset.n_samples(), 1);
        assert_eq!(report.n_without_loss, 2);
        assert!(report.without_loss.iter().map(|o| o.line).eq([1, 2]));
        let mut builder = Dataset::builder(4, LongSamplePolicy::Drop);
        builder.push(&samples[0]);
        let error = builder.finish().unwrap_err();
        assert_eq!(
            error.to_string(),
            "nothing is left to train on: of 1 row that was read, 1 without a token that carries loss"
        );
    }

    #[test]
    fn a_split_keeps_sources_and_loses_nothing() {
        let mut builder = Dataset::builder(4, LongSamplePolicy::Error);
        for (name, lines) in [("a", 0..50), ("b", 50..60)] {
            builder.begin_source(name, 1.0);
            lines.for_each(|line| builder.push(&sample(line, &[0.0, 1.0])));
        }
        let (dataset, _) = builder.finish().unwrap();
        let (train, held_out) = dataset.split(HeldOut::Samples(12), Seed(1));
        assert_eq!((train.n_samples(), held_out.n_samples()), (48, 12));
        for side in [&train, &held_out] {
            assert_eq!(side.sources()[0].samples.end, side.sources()[1].samples.start);
            assert_eq!(side.sources()[1].samples.end, side.n_samples());
            for (source, expected) in side.sources().iter().zip([0..50, 50..60]) {
                assert!(source.samples.clone().all(|i| expected.contains(&side.sample(i).origin().line)));
            }
        }
        assert_ne!(train.digest(), dataset.digest());
        assert_eq!(dataset.subset(&(0..60).collect::<Vec<_>>()).digest(), dataset.digest());
    }
}
