//! A trained reward model at work: conversations in, numbers out.

use std::path::Path;

use serde::Serialize;
use truing_data::{LongSamplePolicy, OnBadRow, ResponseBatch, ResponseDataset, SourceConfig};
use truing_eval::reward::{RewardDiagnostics, ScoreNormaliser, diagnose};
use truing_model::{Adapters, Engine, EngineOptions, HeadKind, HeadRequest, ModelFiles, TrainableSpec};
use truing_parallel::Solo;
use truing_run::samples::{ResponseOptions, RowReader, tokenize};
use truing_run::{DataReport, RunError, model};
use truing_text::{ChatRenderer, RenderOptions};
use truing_train::segments;
use truing_types::{Conversation, Event, EventSink, Message, PackedBatch, RowOrigin, Seed, TokenId};

/// Tokens of a pack when only scoring.
const BUDGET: usize = 2048;

/// A reward model, loaded.
#[derive(Debug)]
pub struct RewardScorer<E> {
    engine: E,
    renderer: ChatRenderer,
    normaliser: ScoreNormaliser,
    vocab_size: usize,
    max_length: usize,
}

/// One response of a data set with its reward.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scored {
    /// The row's file.
    pub source: String,
    /// The row's line.
    pub line: u64,
    /// Which of the row's responses, from the best.
    pub response: usize,
    /// The row's rank of it.
    pub rank: u32,
    /// The reward in the model's unit.
    pub reward: f64,
    /// The reward in the unit of the source's own scores, where the model knows that unit.
    pub reward_in_unit: Option<f64>,
    /// The row's own score.
    pub score: Option<f64>,
}

impl<E: Engine> RewardScorer<E> {
    /// Opens a reward model's directory.
    ///
    /// # Errors
    /// When it is no model, or one without a scalar head.
    pub fn open(
        path: &Path,
        options: RenderOptions,
        n_threads: usize,
        events: &mut dyn EventSink,
    ) -> Result<Self, RunError> {
        let files = ModelFiles::open(path)?;
        if files.spec.head != (HeadKind::Score { n_outputs: 1 }) {
            return Err(RunError::BadSetting {
                key: "the reward model",
                found: format!("{} ({})", path.display(), files.spec.architecture),
                expected: "a model with a scalar head, as `truing reward train` saves it".into(),
            });
        }
        let renderer = model::renderer_of_any_head(&files, options)?;
        let frozen = TrainableSpec::frozen();
        let options = EngineOptions::with_threads(n_threads, Seed(0));
        let phase = "loading the reward model";
        let engine = model::announce_and_load(&files, &frozen, &options, &Solo::groups(), phase, events)?;
        let normaliser = ScoreNormaliser::open(path)?;
        let (vocab_size, max_length) = (files.spec.vocab_size, files.spec.max_position_embeddings);
        Ok(Self { engine, renderer, normaliser, vocab_size, max_length })
    }

    /// The scales that it was trained with.
    #[must_use]
    pub fn normaliser(&self) -> &ScoreNormaliser {
        &self.normaliser
    }

    /// The reward of each `(prompt, response)`, in the model's unit. A response that cannot be shown to the model has
    /// an error of its own.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn score(
        &mut self,
        asked: &[(&Conversation, &[Message])],
    ) -> Result<Vec<Result<f64, String>>, RunError> {
        let origin = RowOrigin { source: "completions".into(), line: 0 };
        let mut results: Vec<Result<f64, String>> = Vec::with_capacity(asked.len());
        let mut sequences: Vec<(usize, Vec<TokenId>)> = Vec::new();
        for (i, (prompt, response)) in asked.iter().enumerate() {
            results.push(Err(String::new()));
            match tokenize(&self.renderer, prompt, response, &origin) {
                Ok(sample) if sample.tokens.len() > self.max_length => {
                    results[i] = Err(format!(
                        "{} tokens are more than the reward model's context of {}",
                        sample.tokens.len(),
                        self.max_length
                    ));
                }
                Ok(sample) => sequences.push((i, sample.tokens)),
                Err(error) => results[i] = Err(error.to_string()),
            }
        }
        let mut start = 0;
        while start < sequences.len() {
            let (mut end, mut n_tokens) = (start, 0);
            while end < sequences.len() && (end == start || n_tokens + sequences[end].1.len() <= BUDGET) {
                n_tokens += sequences[end].1.len();
                end += 1;
            }
            let part = &sequences[start..end];
            let weights = vec![0.0; n_tokens];
            let batch = PackedBatch::new(
                part.iter().map(|(_, tokens)| (&tokens[..], &weights[..tokens.len()], origin.clone())),
            )?;
            let rows = (0..part.len()).map(|i| (batch.sequence_range(i).end - 1) as u32).collect();
            for ((i, _), score) in part.iter().zip(self.scores(&batch, rows)?) {
                results[*i] = Ok(f64::from(score));
            }
            start = end;
        }
        Ok(results)
    }

    fn scores(&mut self, batch: &PackedBatch, rows: Vec<u32>) -> Result<Vec<f32>, RunError> {
        let device = self.engine.upload(batch)?;
        let hidden = segments::forward_only(&mut self.engine, &device, Adapters::Enabled)?;
        Ok(self.engine.head(&hidden, &HeadRequest::Scores { rows: rows.into() })?.scores)
    }

    /// Scores every response of some preference files.
    ///
    /// # Errors
    /// When a file cannot be read, or the engine fails.
    pub fn score_files(
        &mut self,
        sources: &[SourceConfig],
        max_length: u32,
        events: &mut dyn EventSink,
    ) -> Result<(Vec<Scored>, RewardDiagnostics, DataReport), RunError> {
        let reader = RowReader {
            data_dir: Path::new(""),
            on_bad_row: OnBadRow::Skip,
            max_length,
            long_samples: LongSamplePolicy::Drop,
            renderer: &self.renderer,
            vocab_size: self.vocab_size,
        };
        let options = ResponseOptions { keep_scored: true, ..ResponseOptions::default() };
        let (data, report) = reader.responses(sources, &options, "data", "the preferences", events)?;
        let packs = in_order(&data, BUDGET.max(max_length as usize));
        events.emit(Event::PhaseStarted { phase: "scoring".into(), total: Some(data.groups().len() as u64) });
        let mut outputs = Vec::new();
        let mut n_done = 0;
        for groups in &packs {
            let ResponseBatch { batch, sequences } = data.batch(groups)?;
            let rows = sequences.iter().map(|&s| (batch.sequence_range(s).end - 1) as u32).collect();
            outputs.push((&groups[..], self.scores(&batch, rows)?));
            n_done += groups.len() as u64;
            events.emit(Event::Progress { done: n_done, note: String::new() });
        }
        events.emit(Event::PhaseFinished);
        let diagnostics = diagnose(&data, &outputs, &self.normaliser);
        let mut scored = Vec::new();
        for (groups, scores) in &outputs {
            let mut scores = scores.iter();
            for &group_idx in *groups {
                let group = &data.groups()[group_idx as usize];
                let source = data.source_of(group_idx as usize).map_or("", |source| &*source.name);
                let knows_unit = self.normaliser.scale(source).is_some();
                for (idx, (response, &reward)) in group.responses.iter().zip(scores.by_ref()).enumerate() {
                    let reward = f64::from(reward);
                    scored.push(Scored {
                        source: group.origin.source.to_string(),
                        line: group.origin.line,
                        response: idx,
                        rank: response.rank,
                        reward,
                        reward_in_unit: knows_unit.then(|| self.normaliser.undo(source, reward)),
                        score: response.score,
                    });
                }
            }
        }
        Ok((scored, diagnostics, report))
    }
}

/// Groups in their order, as many as fit.
fn in_order(data: &ResponseDataset, budget: usize) -> Vec<Vec<u32>> {
    let mut packs: Vec<Vec<u32>> = Vec::new();
    let mut n_tokens = 0;
    for (i, length) in data.lengths().into_iter().enumerate() {
        n_tokens += length as usize;
        match packs.last_mut() {
            Some(pack) if n_tokens <= budget => pack.push(i as u32),
            _ => {
                packs.push(vec![i as u32]);
                n_tokens = length as usize;
            }
        }
    }
    packs
}
