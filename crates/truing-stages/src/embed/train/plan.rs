//! What a run on triplets reads, and every decision that can be made before work starts.

use std::path::Path;

use serde_json::json;
use truing_cpu::CpuEncoder;
use truing_data::{HeldOut, SourceRange, Triplet, epoch_order, read_triplets, split_held_out};
use truing_model::engine::EngineMemory;
use truing_model::{EncoderEngine, EncoderFiles, Keep, TrainableSpec};
use truing_store::{Digest, InputFile, RunInputs};
use truing_text::{SentenceTokenizer, Tokenizer};
use truing_train::{Amount, EmbeddingLoss, OptimizerConfig, PlanRow, Schedule, ScheduleKind};
use truing_types::{Event, EventSink, PackedBatch, RowOrigin, Seed, TokenId};

use super::EmbedTrainConfig;
use crate::embed::{encoder_tokenizer, pack_texts};
use crate::{Machine, StageError};

const GIB: f64 = (1_u64 << 30) as f64;
/// Share of what the machine has left that a run takes unless told otherwise.
const DEFAULT_MEMORY_SHARE: f64 = 0.8;
/// Tokens of a pack where the loss is a sum over triplets and packs cost nothing.
const TOKENS_PER_PACK: u64 = 4096;
/// Triplets that are tokenized at a time.
const TRIPLETS_AT_A_TIME: usize = 2048;

/// Triplets as tokens.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct TokenizedTriplets {
    /// Anchor, positive, negative.
    tokens: Vec<[Vec<TokenId>; 3]>,
    origins: Vec<RowOrigin>,
}

impl TokenizedTriplets {
    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    fn n_tokens(&self, triplet: u32) -> u64 {
        self.tokens[triplet as usize].iter().map(|text| text.len() as u64).sum()
    }

    /// Three texts a triplet, one after the other.
    pub(super) fn pack(&self, triplets: &[u32]) -> Result<PackedBatch, StageError> {
        pack_texts(triplets.iter().flat_map(|&triplet| {
            let origin = &self.origins[triplet as usize];
            self.tokens[triplet as usize].iter().map(|text| (&text[..], origin.clone()))
        }))
    }

    fn chosen(&self, triplets: &[u32]) -> Self {
        Self {
            tokens: triplets.iter().map(|&i| self.tokens[i as usize].clone()).collect(),
            origins: triplets.iter().map(|&i| self.origins[i as usize].clone()).collect(),
        }
    }
}

/// What a run has read.
#[derive(Debug)]
pub struct EmbedTrainInputs {
    pub(super) model: EncoderFiles,
    pub(super) tokenizer: Tokenizer,
    pub(super) train: TokenizedTriplets,
    pub(super) eval: Option<TokenizedTriplets>,
    pub(super) record: RunInputs,
    /// Texts that lost their end.
    n_cut: usize,
}

impl EmbedTrainInputs {
    /// Reads the model's headers, its tokenizer and the triplets.
    ///
    /// # Errors
    /// When a setting is missing, or the model or a row cannot be used.
    pub fn load(config: &EmbedTrainConfig, events: &mut dyn EventSink) -> Result<Self, StageError> {
        for (key, is_missing, expected) in [
            ("model_name_or_path", config.model_name_or_path.is_empty(), "an encoder's folder or name"),
            ("output_dir", config.output_dir.as_os_str().is_empty(), "a folder for the run"),
            ("train_data", config.train_data.as_os_str().is_empty(), "a file of triplets"),
        ] {
            if is_missing {
                return Err(StageError::MissingSetting { key, expected });
            }
        }
        if config.eval_fraction > 0.0 && config.eval_data.is_some() {
            let reason = "rows are held out of `train_data`, or there are others";
            return Err(StageError::Conflict { first: "eval_fraction", second: "eval_data", reason });
        }
        let model = EncoderFiles::open(config.model_name_or_path.as_ref())?;
        let (tokenizer, sentences) = encoder_tokenizer(&model, config.max_seq_length)?;
        let mut n_cut = 0;
        let mut read = |path: &Path| tokenize(path, &sentences, &mut n_cut, events);
        let (mut train, keys) = read(&config.train_data)?;
        let mut eval = None;
        if let Some(path) = &config.eval_data {
            eval = Some(read(path)?.0);
        } else if config.eval_fraction > 0.0 {
            let split = split_held_out(&keys, HeldOut::Fraction(config.eval_fraction), Seed(config.seed));
            eval = Some(train.chosen(&split.held_out)).filter(|held_out| held_out.len() > 0);
            train = train.chosen(&split.train);
        }
        if train.len() == 0 {
            return Err(StageError::BadSetting {
                key: "train_data",
                found: format!("{} with no triplet left to learn from", config.train_data.display()),
                expected: "at least one".into(),
            });
        }
        let weights = model.weights().files().iter().map(|file| ("model", file.path.clone()));
        let data = [("data", config.train_data.clone())];
        let evaluation = config.eval_data.iter().map(|path| ("evaluation", path.clone()));
        let files = weights.chain(data).chain(evaluation).map(|(role, path)| InputFile::of(role, &path));
        let record = RunInputs {
            versions: [("truing".to_owned(), env!("CARGO_PKG_VERSION").to_owned())].into(),
            seeds: [("run".to_owned(), config.seed)].into(),
            files: files.collect::<Result<_, _>>()?,
        };
        if n_cut > 0 {
            events.emit(Event::Note(format!("{n_cut} texts are longer than the model reads and are cut")));
        }
        Ok(Self { model, tokenizer, train, eval, record, n_cut })
    }
}

/// The triplets of a file, and a key of each anchor.
fn tokenize(
    path: &Path,
    tokenizer: &SentenceTokenizer,
    n_cut: &mut usize,
    events: &mut dyn EventSink,
) -> Result<(TokenizedTriplets, Vec<u64>), StageError> {
    events.emit(Event::PhaseStarted { phase: format!("reading {}", path.display()), total: None });
    let (mut all, mut keys) = (TokenizedTriplets::default(), Vec::new());
    let mut rows = read_triplets(path)?;
    loop {
        let rows: Vec<Triplet> = rows.by_ref().take(TRIPLETS_AT_A_TIME).collect::<Result<_, _>>()?;
        if rows.is_empty() {
            break;
        }
        let texts: Vec<&str> =
            rows.iter().flat_map(|row| [&row.anchor, &row.positive, &row.negative].map(|t| &t[..])).collect();
        let mut tokenized = tokenizer.encode_many(&texts)?.into_iter();
        *n_cut += tokenized.as_slice().iter().filter(|text| text.is_cut).count();
        for row in rows {
            let digest = Digest::of_bytes(row.anchor.as_bytes());
            let first_bytes = digest.as_bytes().first_chunk::<8>().copied().unwrap_or_default();
            keys.push(u64::from_le_bytes(first_bytes));
            all.tokens.push([(); 3].map(|()| tokenized.next().unwrap_or_default().tokens));
            all.origins.push(row.origin);
        }
        events.emit(Event::Progress { done: all.len() as u64, note: String::new() });
    }
    events.emit(Event::PhaseFinished);
    Ok((all, keys))
}

/// A run as it will be.
#[derive(Debug)]
pub struct EmbedTrainPlan {
    /// The settings.
    pub config: EmbedTrainConfig,
    /// The loss.
    pub loss: EmbeddingLoss,
    /// What learns.
    pub trainable: TrainableSpec,
    /// Learning rate by step.
    pub schedule: Schedule,
    /// Optimiser without what changes by step.
    pub optimizer: OptimizerConfig,
    /// Optimiser steps of the run.
    pub n_steps: u64,
    /// What layers leave behind for their backward.
    pub keep: Keep,
    /// Most tokens of a pack; a triplet is never cut.
    pub tokens_per_pack: u64,
    /// Predicted peak memory.
    pub peak_bytes: u64,
    /// What it may be.
    pub budget_bytes: u64,
    /// Threads to compute with.
    pub n_threads: usize,
    /// Digest of everything that decides the weights.
    pub digest: Digest,
    /// Triplets of every epoch in training order.
    epochs: Vec<Vec<u32>>,
    n_eval_triplets: usize,
    n_parameters: u64,
    n_cut: usize,
    memory: EngineMemory,
}

/// A step's triplets.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StepTriplets {
    /// Triplets of each pack.
    pub(super) packs: Vec<Vec<u32>>,
    /// Epochs done once the step is.
    pub(super) epochs_done: f64,
    /// Whether it is its epoch's last.
    pub(super) ends_epoch: bool,
}

impl EmbedTrainPlan {
    /// Makes the plan, or says why there is none. Pure: it opens no file.
    ///
    /// # Errors
    /// When a setting cannot be meant, or the memory does not suffice.
    pub fn resolve(
        config: EmbedTrainConfig,
        inputs: &EmbedTrainInputs,
        machine: &Machine,
    ) -> Result<Self, StageError> {
        check(&config)?;
        let (spec, train) = (&inputs.model.spec, &inputs.train);
        let trainable = config.trainable();
        let steps_per_epoch = train.len().div_ceil(config.batch_size) as u64;
        let n_steps = config
            .max_steps
            .unwrap_or_else(|| ((config.num_train_epochs * steps_per_epoch as f64).round() as u64).max(1));
        let whole = SourceRange { name: "train".into(), weight: 1.0, samples: 0..train.len() };
        let epochs: Vec<Vec<u32>> = (0..n_steps.div_ceil(steps_per_epoch))
            .map(|epoch| epoch_order(std::slice::from_ref(&whole), Seed(config.seed), epoch))
            .collect();
        let loss = config.embedding_loss();

        let memory = CpuEncoder::memory(spec, &trainable);
        let budget_bytes = config.memory_gib.map_or_else(
            || machine.resident_bytes + (machine.available_bytes as f64 * DEFAULT_MEMORY_SHARE) as u64,
            |gib| (gib * GIB) as u64,
        );
        let sizes = Sizes { n_layers: spec.n_layers as u64, resident_bytes: machine.resident_bytes };
        let all_triplets = [Some(train), inputs.eval.as_ref()].into_iter().flatten();
        let largest_triplet = all_triplets
            .clone()
            .flat_map(|triplets| (0..triplets.len() as u32).map(|i| triplets.n_tokens(i)))
            .max()
            .unwrap_or(0);
        let largest_step = epochs
            .iter()
            .flat_map(|epoch| epoch.chunks(config.batch_size))
            .map(|step| step.iter().map(|&i| train.n_tokens(i)).sum::<u64>())
            .max()
            .unwrap_or(0);
        let wanted = if loss.couples_triplets() { largest_step } else { largest_step.min(TOKENS_PER_PACK) };
        let wanted = wanted.max(largest_triplet);
        let Some((keep, tokens_per_pack)) = [Keep::Activations, Keep::Input].into_iter().find_map(|keep| {
            let fitting = sizes.fitting_tokens(&memory, keep, budget_bytes);
            (fitting >= largest_triplet).then_some((keep, fitting.min(wanted)))
        }) else {
            let needed = sizes.peak_bytes(&memory, Keep::Input, largest_triplet);
            return Err(StageError::BadSetting {
                key: "memory_gib",
                found: format!("{:.2}", budget_bytes as f64 / GIB),
                expected: format!("at least {:.2}, which one triplet needs", needed as f64 / GIB),
            });
        };
        let share = |ratio: f64| (ratio * n_steps as f64).ceil() as u64;
        let is_wsd = config.lr_scheduler_type == ScheduleKind::Wsd;
        Ok(Self {
            loss,
            schedule: Schedule {
                kind: config.lr_scheduler_type,
                peak: config.learning_rate,
                min_ratio: config.min_lr_ratio,
                warmup_steps: share(config.warmup_ratio).min(n_steps),
                decay_steps: if is_wsd { share(config.decay_ratio) } else { 0 },
                total_steps: n_steps,
            },
            optimizer: OptimizerConfig {
                beta1: config.adam_beta1 as f32,
                beta2: config.adam_beta2 as f32,
                epsilon: config.adam_epsilon as f32,
                weight_decay: config.weight_decay as f32,
                max_grad_norm: (config.max_grad_norm > 0.0).then_some(config.max_grad_norm),
            },
            trainable,
            n_steps,
            keep,
            tokens_per_pack,
            peak_bytes: sizes.peak_bytes(&memory, keep, tokens_per_pack),
            budget_bytes,
            n_threads: config.threads.unwrap_or(machine.n_threads),
            digest: digest(&config, &inputs.record),
            epochs,
            n_eval_triplets: inputs.eval.as_ref().map_or(0, TokenizedTriplets::len),
            n_parameters: spec.n_parameters() as u64,
            n_cut: inputs.n_cut,
            memory,
            config,
        })
    }

    /// The packs of one step, counted from 1.
    pub(super) fn packs_of(&self, step: u64, train: &TokenizedTriplets) -> StepTriplets {
        let steps_per_epoch = train.len().div_ceil(self.config.batch_size) as u64;
        let (epoch, in_epoch) = ((step - 1) / steps_per_epoch, (step - 1) % steps_per_epoch);
        let order = &self.epochs[epoch as usize];
        let first = in_epoch as usize * self.config.batch_size;
        let triplets = &order[first..order.len().min(first + self.config.batch_size)];
        StepTriplets {
            packs: self.cut_into_packs(triplets, train),
            epochs_done: epoch as f64 + (in_epoch + 1) as f64 / steps_per_epoch as f64,
            ends_epoch: in_epoch + 1 == steps_per_epoch,
        }
    }

    /// Steps of an evaluation, each in packs.
    pub(super) fn eval_packs(&self, eval: &TokenizedTriplets) -> Vec<Vec<Vec<u32>>> {
        let all: Vec<u32> = (0..eval.len() as u32).collect();
        all.chunks(self.config.batch_size).map(|step| self.cut_into_packs(step, eval)).collect()
    }

    fn cut_into_packs(&self, triplets: &[u32], data: &TokenizedTriplets) -> Vec<Vec<u32>> {
        let mut packs: Vec<Vec<u32>> = Vec::new();
        let mut room = 0;
        for &triplet in triplets {
            let n_tokens = data.n_tokens(triplet);
            match packs.last_mut() {
                Some(pack) if n_tokens <= room => {
                    pack.push(triplet);
                    room -= n_tokens;
                }
                _ => {
                    packs.push(vec![triplet]);
                    room = self.tokens_per_pack.saturating_sub(n_tokens);
                }
            }
        }
        packs
    }

    /// The plan as lines.
    #[must_use]
    pub fn rows(&self) -> Vec<PlanRow> {
        let row = PlanRow::new;
        vec![
            row("parameters of the model", Amount::Count(self.n_parameters)),
            row("triplets of an epoch", Amount::Count(self.epochs.first().map_or(0, Vec::len) as u64)),
            row("triplets to evaluate on", Amount::Count(self.n_eval_triplets as u64)),
            row("texts that are cut", Amount::Count(self.n_cut as u64)),
            row("tokens of the largest pack", Amount::Count(self.tokens_per_pack)),
            row("weights", Amount::Bytes(self.memory.parameter_bytes)),
            row("gradients", Amount::Bytes(self.memory.gradient_bytes)),
            row("optimiser", Amount::Bytes(self.memory.optimizer_bytes)),
            row("peak", Amount::Bytes(self.peak_bytes)),
            row("budget", Amount::Bytes(self.budget_bytes)),
            row("steps", Amount::Count(self.n_steps)),
        ]
    }

    /// In one sentence.
    #[must_use]
    pub fn summary(&self) -> String {
        let kept = match self.keep {
            Keep::Activations => "activations are kept",
            _ => "layers are computed twice, since their activations do not fit",
        };
        format!("{} steps of {} triplets; {kept}", self.n_steps, self.config.batch_size)
    }

    /// `plan.json` of the run directory.
    pub(super) fn to_json(&self) -> serde_json::Value {
        let parts: Vec<_> = self
            .rows()
            .into_iter()
            .filter(|row| !matches!(row.name.as_str(), "peak" | "budget"))
            .filter_map(|row| match row.amount {
                Amount::Bytes(bytes) => Some(json!({"name": row.name, "bytes": bytes})),
                _ => None,
            })
            .collect();
        json!({
            "peak_bytes": self.peak_bytes,
            "budget_bytes": self.budget_bytes,
            "reason": self.summary(),
            "n_steps": self.n_steps,
            "parts": parts,
        })
    }
}

/// What a pack's memory follows from.
struct Sizes {
    n_layers: u64,
    resident_bytes: u64,
}

impl Sizes {
    fn fixed_bytes(&self, memory: &EngineMemory) -> u64 {
        let store = memory.parameter_bytes + memory.gradient_bytes + memory.optimizer_bytes;
        store + memory.fixed_bytes + self.resident_bytes
    }

    fn bytes_per_token(&self, memory: &EngineMemory, keep: Keep) -> u64 {
        let always = memory.workspace_bytes_per_token + memory.head_bytes_per_token;
        match keep {
            Keep::Activations => always + self.n_layers * memory.layer_bytes_per_token,
            // One layer at a time is computed again.
            _ => {
                let inputs = self.n_layers * memory.segment_input_bytes_per_token;
                always + inputs + memory.layer_bytes_per_token
            }
        }
    }

    fn fitting_tokens(&self, memory: &EngineMemory, keep: Keep, budget_bytes: u64) -> u64 {
        budget_bytes.saturating_sub(self.fixed_bytes(memory)) / self.bytes_per_token(memory, keep)
    }

    fn peak_bytes(&self, memory: &EngineMemory, keep: Keep, tokens: u64) -> u64 {
        self.fixed_bytes(memory) + tokens * self.bytes_per_token(memory, keep)
    }
}

fn digest(config: &EmbedTrainConfig, record: &RunInputs) -> Digest {
    let files: Vec<String> =
        record.files.iter().map(|file| format!("{} {}", file.role, file.blake3)).collect();
    Digest::of_bytes(format!("{}\n{}", config.decisive_toml(), files.join("\n")).as_bytes())
}

fn check(config: &EmbedTrainConfig) -> Result<(), StageError> {
    let is_share = |x: f64| (0.0..=1.0).contains(&x);
    let is_positive = |x: f64| x.is_finite() && x > 0.0;
    let is_zero_or_more = |x: f64| x.is_finite() && x >= 0.0;
    let found = |x: f64| x.to_string();
    let steps = |steps: Option<u64>| steps.map_or_else(String::new, |steps| steps.to_string());
    let margin = config.triplet_margin.unwrap_or(1.0);
    for (key, is_fine, found, expected) in [
        (
            "eval_fraction",
            (0.0..1.0).contains(&config.eval_fraction),
            found(config.eval_fraction),
            "0 or more and less than 1",
        ),
        ("triplet_margin", is_positive(margin), found(margin), "a number above 0"),
        ("scale", is_positive(config.scale), found(config.scale), "a number above 0"),
        (
            "num_train_epochs",
            is_positive(config.num_train_epochs),
            found(config.num_train_epochs),
            "a number above 0",
        ),
        ("max_steps", config.max_steps != Some(0), steps(config.max_steps), "1 or more"),
        ("batch_size", config.batch_size > 0, config.batch_size.to_string(), "1 or more"),
        ("learning_rate", is_zero_or_more(config.learning_rate), found(config.learning_rate), "0 or more"),
        ("warmup_ratio", is_share(config.warmup_ratio), found(config.warmup_ratio), "0 to 1"),
        ("min_lr_ratio", is_share(config.min_lr_ratio), found(config.min_lr_ratio), "0 to 1"),
        ("decay_ratio", is_share(config.decay_ratio), found(config.decay_ratio), "0 to 1"),
        ("weight_decay", is_zero_or_more(config.weight_decay), found(config.weight_decay), "0 or more"),
        (
            "adam_beta1",
            (0.0..1.0).contains(&config.adam_beta1),
            found(config.adam_beta1),
            "0 or more and less than 1",
        ),
        (
            "adam_beta2",
            (0.0..1.0).contains(&config.adam_beta2),
            found(config.adam_beta2),
            "0 or more and less than 1",
        ),
        ("adam_epsilon", is_positive(config.adam_epsilon), found(config.adam_epsilon), "a number above 0"),
        ("max_grad_norm", is_zero_or_more(config.max_grad_norm), found(config.max_grad_norm), "0 or more"),
        ("eval_steps", config.eval_steps != Some(0), steps(config.eval_steps), "1 or more"),
        ("save_steps", config.save_steps != Some(0), steps(config.save_steps), "1 or more"),
        ("logging_steps", config.logging_steps > 0, config.logging_steps.to_string(), "1 or more"),
        ("save_total_limit", config.save_total_limit > 0, config.save_total_limit.to_string(), "1 or more"),
    ] {
        if !is_fine {
            return Err(StageError::BadSetting { key, found, expected: expected.to_owned() });
        }
    }
    if config.load_best_model_at_end && config.eval_data.is_none() && config.eval_fraction == 0.0 {
        return Err(StageError::BadSetting {
            key: "load_best_model_at_end",
            found: "true".into(),
            expected: "false, where there is nothing to evaluate on".into(),
        });
    }
    Ok(())
}
