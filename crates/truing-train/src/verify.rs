//! The user's own check, on their model and their data, of what a trainer silently gets wrong elsewhere:
//! (a) sequences of a pack cannot see each other, (b) a pack gives the loss and the gradients of its sequences
//! one by one, (c) activation checkpointing changes no gradient, (d) nor does the way a step is cut into
//! micro-batches.

use std::ops::ControlFlow;

use truing_model::{Adapters, Engine, EngineError, ParameterTensor};
use truing_types::{BatchError, Communicator, Event, EventSink, PackedBatch, RowOrigin, TokenizedSample};

use crate::segments::forward_only;
use crate::{Measures, SegmentPlan, Sft, TrainError, accumulate_gradients};

/// Largest deviation that single-precision rounding explains, as a share of a parameter's gradient.
const GRADIENT_TOLERANCE: f64 = 1e-4;
/// The same for the loss.
const LOSS_TOLERANCE: f64 = 1e-5;

/// A check that could not be carried out; a check that failed is a [`Check`].
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// One sequence cannot be packed with another.
    #[error("a check needs at least two sequences of two tokens or more with loss, found {found}")]
    TooFewSequences {
        /// Sequences that would do.
        found: usize,
    },
    /// The samples make no pack.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A gradient could not be computed.
    #[error(transparent)]
    Train(#[from] TrainError),
}

/// One claim and what was found.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Check {
    /// What is claimed.
    pub claim: String,
    /// How it was tried.
    pub trial: String,
    /// What was compared.
    pub quantity: &'static str,
    /// The largest deviation found.
    pub largest_deviation: f64,
    /// Where it was found.
    pub place: String,
    /// The largest deviation that holds the claim.
    pub tolerance: f64,
}

impl Check {
    /// Whether the claim holds. A deviation that is not a number does not.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.largest_deviation <= self.tolerance
    }
}

/// Carries out all four checks on one pack of `samples` (at least two; as many as memory allows).
///
/// # Errors
/// When there are too few samples or the engine fails.
pub fn verify<E: Engine>(
    engine: &mut E,
    samples: &[TokenizedSample],
    communicator: &dyn Communicator,
    events: &mut dyn EventSink,
) -> Result<Vec<Check>, VerifyError> {
    let samples: Vec<&TokenizedSample> =
        samples.iter().filter(|sample| sample.tokens.len() > 1 && sample.loss_weight() > 0.0).collect();
    if samples.len() < 2 {
        return Err(VerifyError::TooFewSequences { found: samples.len() });
    }
    let mut checks = Vec::new();
    let phase = |name: &str, events: &mut dyn EventSink| {
        events.emit(Event::PhaseStarted { phase: name.to_owned(), total: None });
    };

    phase("isolation of packed sequences", events);
    checks.push(isolation(engine, &samples)?);
    events.emit(Event::PhaseFinished);

    phase("gradients of the pack", events);
    let n_layers = engine.spec().n_layers();
    let whole = SegmentPlan::keep_everything(n_layers);
    let pack = [PackedBatch::from_samples(samples.iter().copied())?];
    let reference = Reference::compute(engine, &whole, &pack, communicator)?;
    events.emit(Event::PhaseFinished);

    phase("gradients of its sequences one by one", events);
    let singles = packs_of(&samples, 1)?;
    let deviation = reference.compare(engine, &whole, &singles, communicator)?;
    let trial = format!("{} sequences, together and one by one", samples.len());
    checks.extend(deviation.checks("packed equals unpacked", &trial));
    events.emit(Event::PhaseFinished);

    for layers_per_segment in layers_per_segment_to_try(n_layers) {
        phase(&format!("gradients with segments of {layers_per_segment}"), events);
        let plan = SegmentPlan::checkpoint(n_layers, layers_per_segment);
        let deviation = reference.compare(engine, &plan, &pack, communicator)?;
        let trial = format!("segments of {layers_per_segment} of {n_layers} layers against none");
        checks
            .extend(deviation.checks("gradients do not depend on the number of layers per segment", &trial));
        events.emit(Event::PhaseFinished);
    }

    let mut sizes = vec![samples.len().div_ceil(2), samples.len().div_ceil(3)];
    sizes.dedup();
    for size in sizes.into_iter().filter(|&size| size < samples.len()) {
        let packs = packs_of(&samples, size)?;
        phase(&format!("gradients in {} micro-batches", packs.len()), events);
        let deviation = reference.compare(engine, &whole, &packs, communicator)?;
        let trial = format!("{} micro-batches against one", packs.len());
        checks.extend(deviation.checks("gradients do not depend on micro-batches", &trial));
        events.emit(Event::PhaseFinished);
    }
    Ok(checks)
}

/// One layer a segment, the least memory by the report's formula for Llama's kind of layer, and a k that does
/// not divide the layers.
fn layers_per_segment_to_try(n_layers: usize) -> Vec<usize> {
    let uneven = (2..n_layers).find(|k| !n_layers.is_multiple_of(*k));
    let mut tried = vec![1, 2.min(n_layers)];
    tried.extend(uneven);
    tried.sort_unstable();
    tried.dedup();
    tried
}

fn packs_of(samples: &[&TokenizedSample], size: usize) -> Result<Vec<PackedBatch>, BatchError> {
    samples.chunks(size).map(|chunk| PackedBatch::from_samples(chunk.iter().copied())).collect()
}

/// (a) Every token of one sequence is replaced; the logits of all others must keep every bit.
fn isolation<E: Engine>(engine: &mut E, samples: &[&TokenizedSample]) -> Result<Check, VerifyError> {
    const ROWS_AT_ONCE: usize = 64;
    let vocab_size = engine.spec().vocab_size();
    let original = PackedBatch::from_samples(samples.iter().copied())?;
    let mut perturbed_sequences = vec![0, samples.len() / 2, samples.len() - 1];
    perturbed_sequences.dedup();

    let mut largest = (0.0_f64, String::from("no bit differs"));
    let mut n_logits = 0_usize;
    for &perturbed_idx in &perturbed_sequences {
        let mut changed = samples[perturbed_idx].clone();
        for token in &mut changed.tokens {
            *token = (*token + 1) % vocab_size as u32;
        }
        let perturbed = PackedBatch::from_samples(
            samples.iter().enumerate().map(|(idx, &s)| if idx == perturbed_idx { &changed } else { s }),
        )?;
        let before = hidden_states(engine, &original)?;
        let after = hidden_states(engine, &perturbed)?;
        let own = original.sequence_range(perturbed_idx);
        let others: Vec<u32> =
            (0..original.n_tokens() as u32).filter(|row| !own.contains(&(*row as usize))).collect();
        for rows in others.chunks(ROWS_AT_ONCE) {
            let (a, b) = (engine.logits(&before, rows)?, engine.logits(&after, rows)?);
            n_logits += a.len();
            for (idx, (a, b)) in a.iter().zip(&b).enumerate() {
                if a.to_bits() == b.to_bits() {
                    continue;
                }
                // Two different bit patterns deviate even where their difference is 0 or not a number.
                let deviation = f64::from((a - b).abs());
                let deviation =
                    if deviation.is_nan() { f64::INFINITY } else { deviation.max(f64::MIN_POSITIVE) };
                if deviation > largest.0 {
                    let row = rows[idx / vocab_size];
                    let origin = origin_of(&original, row);
                    largest = (deviation, format!("token {row} of {origin} saw sequence {perturbed_idx}"));
                }
            }
        }
    }
    Ok(Check {
        claim: "packed sequences are isolated".into(),
        trial: format!(
            "{} of {} sequences perturbed one at a time, {n_logits} logits of the others compared bit by bit",
            perturbed_sequences.len(),
            samples.len()
        ),
        quantity: "logit",
        largest_deviation: largest.0,
        place: largest.1,
        tolerance: 0.0,
    })
}

fn origin_of(batch: &PackedBatch, row: u32) -> &RowOrigin {
    &batch.origins()[batch.cumulative_lengths().partition_point(|&start| start <= row) - 1]
}

fn hidden_states<E: Engine>(engine: &mut E, batch: &PackedBatch) -> Result<E::Hidden, EngineError> {
    let device = engine.upload(batch)?;
    forward_only(engine, &device, Adapters::Enabled)
}

/// Loss and gradients that others are compared with.
struct Reference {
    measures: Measures,
    gradients: Vec<Option<Vec<f32>>>,
    norm: f64,
}

struct Deviation {
    loss: f64,
    gradient: f64,
    parameter: String,
}

impl Reference {
    fn compute<E: Engine>(
        engine: &mut E,
        plan: &SegmentPlan,
        packs: &[PackedBatch],
        communicator: &dyn Communicator,
    ) -> Result<Self, VerifyError> {
        let measures = gradients_of(engine, plan, packs, communicator)?;
        let norm = engine.gradient_norm()?;
        let trainable = engine.trainable();
        let gradients = engine
            .parameters()
            .iter()
            .enumerate()
            .map(|(idx, parameter)| {
                trainable
                    .is_trainable(parameter)
                    .then(|| engine.read(idx, ParameterTensor::Gradient).map(std::borrow::Cow::into_owned))
                    .transpose()
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { measures, gradients, norm })
    }

    /// Computes loss and gradients another way. A parameter's deviation is the norm of the difference as a
    /// share of its gradient's norm; gradients below a thousandth of the whole model's count as that large,
    /// because some are zero in exact arithmetic (a key bias, for one).
    fn compare<E: Engine>(
        &self,
        engine: &mut E,
        plan: &SegmentPlan,
        packs: &[PackedBatch],
        communicator: &dyn Communicator,
    ) -> Result<Deviation, VerifyError> {
        let measures = gradients_of(engine, plan, packs, communicator)?;
        let mut largest = (0.0, String::from("no bit differs"));
        for (idx, parameter) in engine.parameters().iter().enumerate() {
            let Some(expected) = &self.gradients[idx] else { continue };
            let found = engine.read(idx, ParameterTensor::Gradient)?;
            let squares = expected.iter().zip(found.iter()).fold((0.0, 0.0), |(own, difference), (e, f)| {
                let (e, f) = (f64::from(*e), f64::from(*f));
                (own + e * e, difference + (e - f) * (e - f))
            });
            let deviation: f64 =
                squares.1.sqrt() / squares.0.sqrt().max(1e-3 * self.norm).max(f64::MIN_POSITIVE);
            if deviation.is_nan() || deviation > largest.0 {
                largest = (deviation, parameter.name.clone());
            }
        }
        Ok(Deviation {
            loss: (measures.loss - self.measures.loss).abs()
                / self.measures.loss.abs().max(f64::MIN_POSITIVE),
            gradient: largest.0,
            parameter: largest.1,
        })
    }
}

impl Deviation {
    fn checks(self, claim: &str, trial: &str) -> [Check; 2] {
        let check = |quantity, largest_deviation, place, tolerance| Check {
            claim: claim.to_owned(),
            trial: trial.to_owned(),
            quantity,
            largest_deviation,
            place,
            tolerance,
        };
        [
            check("loss", self.loss, "the whole pack".into(), LOSS_TOLERANCE),
            check("gradient", self.gradient, self.parameter, GRADIENT_TOLERANCE),
        ]
    }
}

fn gradients_of<E: Engine>(
    engine: &mut E,
    plan: &SegmentPlan,
    packs: &[PackedBatch],
    communicator: &dyn Communicator,
) -> Result<Measures, TrainError> {
    accumulate_gradients(engine, plan, packs, &Sft, communicator, &mut |_| ControlFlow::Continue(()))
}
