//! Ways to run small models forward and backward, and comparisons that a NaN does not pass.

use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;

use truing_parallel::{Solo, run_thread_world};
use truing_types::{Groups, PackedBatch, RowOrigin, Seed, TargetTokens, TokenId};

pub(super) use super::models::*;
use truing_model::{
    AdamWStep, Adapters, ComputeDtype, Engine, EngineError, EngineOptions, ModelSpec, OptimizerStep,
    ParameterRole, ParameterSpec, ParameterTensor, PutWeight, SaveActivations, TrainableSpec, WeightSource,
};

/// Ways to save activations that a backward pass can start from.
pub(super) const SAVING: [SaveActivations; 3] =
    [SaveActivations::Everything, SaveActivations::Input, SaveActivations::InputAndAttention];

/// A folder below `conformance/` of truing-model.
pub(super) fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../truing-model/conformance").join(name)
}

/// A model and how it is loaded.
#[derive(Debug, Clone)]
pub(super) struct Case<S> {
    /// For messages: what it is and its number format.
    pub(super) name: String,
    pub(super) spec: S,
    pub(super) options: EngineOptions,
}

impl<S: Clone + Into<ModelSpec>> Case<S> {
    /// An engine in which everything learns.
    pub(super) fn load<E: Engine>(&self) -> E {
        self.load_with(&TrainableSpec::default())
    }

    pub(super) fn load_with<E: Engine>(&self, trainable: &TrainableSpec) -> E {
        load(self.spec.clone(), trainable, &self.options, &Solo::groups())
    }
}

/// What each rank of a world finds, in sequence groups of `sequence_size` ranks.
pub(super) fn on_ranks<T: Send>(
    n_ranks: usize,
    sequence_size: usize,
    work: impl Fn(&Groups) -> T + Sync,
) -> Vec<T> {
    run_thread_world(n_ranks, |rank| work(&Groups::new(Arc::new(rank), sequence_size).unwrap()))
}

/// Options for each number format that the engine loads.
pub(super) fn all_options<E: Engine>() -> Vec<EngineOptions> {
    let mut all = Vec::new();
    for dtype in [ComputeDtype::F32, ComputeDtype::Bf16] {
        let options = EngineOptions { dtype, n_threads: 2, ..EngineOptions::default() };
        let (spec, trainable) = (llama().into(), TrainableSpec::default());
        let mut weights = |put: &mut PutWeight<'_>| put_all(&llama().parameters(), put);
        match E::load(spec, trainable, &options, &Solo::groups(), &mut weights) {
            Ok(_) => all.push(options),
            Err(EngineError::UnsupportedDtype { dtype: refused }) if refused == dtype => {}
            Err(error) => panic!("a small model is not loaded in {dtype:?}: {error}"),
        }
    }
    assert!(!all.is_empty(), "the engine loads no number format");
    all
}

/// The given models in every number format.
pub(super) fn cases<E: Engine, S: Clone>(specs: &[(&str, S)]) -> Vec<Case<S>> {
    let case = |options: EngineOptions| {
        specs.iter().map(move |(name, spec)| Case {
            name: format!("{name} in {:?}", options.dtype),
            spec: spec.clone(),
            options,
        })
    };
    all_options::<E>().into_iter().flat_map(case).collect()
}

/// The values of a small model's parameter: normal numbers that depend on its name alone.
fn values(parameter: &ParameterSpec) -> Vec<f32> {
    let normals = |deviation: f32| Seed(1).normals(&parameter.name, parameter.n_elements(), deviation);
    match parameter.role {
        ParameterRole::Norm => normals(0.2).iter().map(|x| 1.0 + x).collect(),
        ParameterRole::Embedding | ParameterRole::Head | ParameterRole::Score => normals(0.6),
        _ => normals(0.25),
    }
}

/// Hands over every given parameter.
pub(super) fn put_all(parameters: &[ParameterSpec], put: &mut PutWeight<'_>) -> Result<(), EngineError> {
    parameters.iter().try_for_each(|p| put(&p.name, &p.shape, values(p)))
}

pub(super) fn load<E: Engine>(
    spec: impl Into<ModelSpec>,
    trainable: &TrainableSpec,
    options: &EngineOptions,
    groups: &Groups,
) -> E {
    let spec = spec.into();
    let parameters = spec.parameters();
    let mut weights = |put: &mut PutWeight<'_>| put_all(&parameters, put);
    load_from(spec, trainable, options, groups, &mut weights)
}

pub(super) fn load_from<E: Engine>(
    spec: ModelSpec,
    trainable: &TrainableSpec,
    options: &EngineOptions,
    groups: &Groups,
    weights: &mut dyn WeightSource,
) -> E {
    E::load(spec, trainable.clone(), options, groups, weights).unwrap()
}

/// Sequences of several lengths, one of a single token.
pub(super) fn sequences() -> Vec<Vec<TokenId>> {
    vec![vec![3, 1, 4, 1, 5, 9, 2, 6], vec![7], vec![5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6], vec![2, 6]]
}

pub(super) fn origin() -> RowOrigin {
    RowOrigin { source: "conformance".into(), line: 1 }
}

/// Packs sequences; every token but a sequence's first carries loss, with unequal weights.
pub(super) fn packed(sequences: &[Vec<TokenId>]) -> PackedBatch {
    let weights = |s: &Vec<TokenId>| (0..s.len()).map(|i| 1.0 - 0.1 * (i % 3) as f32).collect::<Vec<_>>();
    let weights: Vec<Vec<f32>> = sequences.iter().map(weights).collect();
    PackedBatch::new(sequences.iter().zip(&weights).map(|(s, w)| (&s[..], &w[..], origin()))).unwrap()
}

/// Fixed numbers of ordinary size `[n]`, for gradients at results.
pub(super) fn some_gradient(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 31 + 7) as f32).cos()).collect()
}

/// How a pass is divided into segments.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pass {
    pub(super) layers_per_segment: usize,
    /// How many of the last segments save everything.
    pub(super) n_whole: usize,
    /// What the others save.
    pub(super) save: SaveActivations,
}

impl Pass {
    /// All blocks in one segment that saves everything.
    pub(super) const WHOLE: Self =
        Self { layers_per_segment: usize::MAX, n_whole: 1, save: SaveActivations::Input };
}

/// All blocks at once.
pub(super) fn run_blocks<E: Engine>(
    engine: &mut E,
    batch: &PackedBatch,
    save: SaveActivations,
    adapters: Adapters,
) -> (E::Batch, E::Hidden, E::Saved) {
    let n_layers = engine.spec().n_layers();
    let device = engine.upload(batch).unwrap();
    let hidden = engine.embed(&device).unwrap();
    let (hidden, saved) = engine.segment_forward(&device, 0..n_layers, hidden, save, adapters).unwrap();
    (device, hidden, saved)
}

/// The last hidden states, without a backward pass to come.
pub(super) fn hidden<E: Engine>(engine: &mut E, batch: &PackedBatch) -> E::Hidden {
    run_blocks(engine, batch, SaveActivations::Nothing, Adapters::Enabled).1
}

/// Adds the gradients of a batch's log-probabilities, `d_log_probs` `[n_targets]`.
pub(super) fn backward_pass<E: Engine>(
    engine: &mut E,
    batch: &PackedBatch,
    pass: &Pass,
    d_log_probs: &[f32],
) {
    let n_layers = engine.spec().n_layers();
    let n_segment = pass.layers_per_segment.min(n_layers);
    let segments: Vec<_> =
        (0..n_layers).step_by(n_segment).map(|start| start..(start + n_segment).min(n_layers)).collect();
    let device = engine.upload(batch).unwrap();
    let mut hidden = engine.embed(&device).unwrap();
    let mut all_saved = Vec::new();
    for (idx, layers) in segments.iter().enumerate() {
        let is_whole = idx + pass.n_whole >= segments.len();
        let save = if is_whole { SaveActivations::Everything } else { pass.save };
        let (output, saved) =
            engine.segment_forward(&device, layers.clone(), hidden, save, Adapters::Enabled).unwrap();
        hidden = output;
        all_saved.push(saved);
    }
    let (_, mut d_hidden) = engine.log_probs_backward(hidden, &batch.targets(), d_log_probs).unwrap();
    for saved in all_saved.into_iter().rev() {
        d_hidden = engine.segment_backward(&device, saved, d_hidden).unwrap();
    }
    engine.embed_backward(&device, d_hidden).unwrap();
}

/// The gradient of the weighted sum of negative log-probabilities, divided by `denominator`.
pub(super) fn loss_gradient(targets: &TargetTokens, denominator: f32) -> Vec<f32> {
    targets.weights.iter().map(|w| -w / denominator).collect()
}

/// Zeroes the gradients, and adds those of the batch's weighted mean of negative log-probabilities.
pub(super) fn mean_loss_backward<E: Engine>(engine: &mut E, batch: &PackedBatch, pass: &Pass) {
    let targets = batch.targets();
    engine.zero_gradients().unwrap();
    backward_pass(engine, batch, pass, &loss_gradient(&targets, targets.weights.iter().sum()));
}

/// The weighted mean of negative log-probabilities.
pub(super) fn mean_loss<E: Engine>(engine: &mut E, batch: &PackedBatch) -> f64 {
    let hidden = hidden(engine, batch);
    let targets = batch.targets();
    let results = engine.log_probs(&hidden, &targets).unwrap();
    let weights = targets.weights.iter().map(|&w| f64::from(w));
    let weighted: f64 = results.log_probs.iter().zip(weights.clone()).map(|(&l, w)| -f64::from(l) * w).sum();
    weighted / weights.sum::<f64>()
}

/// Logits of every token `[n_tokens, vocab]`.
pub(super) fn all_logits<E: Engine>(engine: &mut E, batch: &PackedBatch) -> Vec<f32> {
    let hidden = hidden(engine, batch);
    let rows: Vec<u32> = (0..batch.n_tokens() as u32).collect();
    engine.logits(&hidden, &rows).unwrap()
}

/// Every gradient that there is, with its parameter's index.
pub(super) fn gradients<E: Engine>(engine: &E) -> Vec<(usize, Vec<f32>)> {
    let learns = |idx: &usize| engine.trainable().is_trainable(&engine.parameters()[*idx]);
    let gradient = |idx: usize| (idx, read(engine, idx, ParameterTensor::Gradient));
    (0..engine.parameters().len()).filter(learns).map(gradient).collect()
}

pub(super) fn read<E: Engine>(engine: &E, parameter_idx: usize, tensor: ParameterTensor) -> Vec<f32> {
    engine.read(parameter_idx, tensor).unwrap().into_owned()
}

/// The index of a parameter.
pub(super) fn index_of<E: Engine>(engine: &E, name: &str) -> usize {
    engine.parameters().iter().position(|p| p.name == name).unwrap()
}

/// Overwrites one element of a parameter.
pub(super) fn set_element<E: Engine>(engine: &mut E, name: &str, element: usize, value: f32) {
    let idx = index_of(engine, name);
    let mut values = read(engine, idx, ParameterTensor::Value);
    values[element] = value;
    engine.write(idx, ParameterTensor::Value, &values).unwrap();
}

/// Puts fixed numbers into LoRA's up projections, which start at 0.
pub(super) fn raise_adapters<E: Engine>(engine: &mut E) {
    for (idx, parameter) in engine.parameters().to_vec().iter().enumerate() {
        if parameter.role == ParameterRole::LoraB {
            let values: Vec<f32> =
                (0..parameter.n_elements()).map(|i| 0.3 * ((i + 5 * idx) as f32 * 0.7).sin()).collect();
            engine.write(idx, ParameterTensor::Value, &values).unwrap();
        }
    }
}

/// An AdamW step with PyTorch's defaults and without decay.
#[must_use]
pub fn adamw(step: u64, learning_rate: f32) -> OptimizerStep {
    OptimizerStep::AdamW(AdamWStep {
        step,
        learning_rate,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.0,
        gradient_scale: 1.0,
    })
}

/// The error of a call that has to fail.
pub(super) fn refusal<T>(result: Result<T, EngineError>, what: &str) -> EngineError {
    match result {
        Ok(_) => panic!("{what} was not refused"),
        Err(error) => error,
    }
}

/// Asserts that a call fails, and with which error.
macro_rules! assert_refused {
    ($result:expr, $pattern:pat $(if $guard:expr)?) => {
        let error = $crate::engine::support::refusal($result, stringify!($result));
        assert!(
            matches!(&error, $pattern $(if $guard)?),
            "{} was refused by {error:?}, expected {}",
            stringify!($result),
            stringify!($pattern)
        );
    };
}
pub(super) use assert_refused;

/// The logarithm of the softmax of each row `[n_rows, vocab]`, in double precision.
pub(super) fn log_softmax(logits: &[f32], vocab_size: usize) -> Vec<f64> {
    let row = |row: &[f32]| {
        let row: Vec<f64> = row.iter().map(|&z| f64::from(z)).collect();
        let highest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total = row.iter().map(|z| (z - highest).exp()).sum::<f64>().ln() + highest;
        row.into_iter().map(move |z| z - total).collect::<Vec<_>>()
    };
    logits.chunks_exact(vocab_size).flat_map(row).collect()
}

pub(super) fn norm(values: &[f32]) -> f64 {
    values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

/// The norm of several tensors together.
pub(super) fn norm_of_all<'a>(tensors: impl IntoIterator<Item = &'a [f32]>) -> f64 {
    tensors.into_iter().map(|tensor| norm(tensor).powi(2)).sum::<f64>().sqrt()
}

/// The norm of a difference. Infinite where a number is none.
pub(super) fn distance(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |(&f, &e): (&f32, &f32)| (f64::from(f) - f64::from(e)).powi(2);
    let distance = found.iter().zip(expected).map(square).sum::<f64>().sqrt();
    if distance.is_nan() { f64::INFINITY } else { distance }
}

/// The largest difference. Infinite where a number is none.
pub(super) fn largest_difference(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let larger = |largest: f64, (f, e): (&f64, &f64)| match (f - e).abs() {
        difference if difference.is_nan() => f64::INFINITY,
        difference => largest.max(difference),
    };
    found.iter().zip(expected).fold(0.0, larger)
}

pub(super) fn doubles(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

/// The largest error so far, and where it was.
#[derive(Debug, Default, Clone)]
pub(super) struct Worst {
    pub(super) largest: f64,
    pub(super) place: String,
}

impl Worst {
    /// Takes an error into account; a NaN is larger than every other.
    pub(super) fn add(&mut self, error: f64, place: impl FnOnce() -> String) {
        let error = if error.is_nan() { f64::INFINITY } else { error };
        if error >= self.largest {
            *self = Self { largest: error, place: place() };
        }
    }

    pub(super) fn assert_within(&self, tolerance: f64, what: &str) {
        let Self { largest, place } = self;
        assert!(
            *largest <= tolerance,
            "{place}: {what} is {largest:.2e} off, guaranteed are {tolerance:.2e}"
        );
    }
}

/// What a gradient's error is a share of: its norm, or a hundredth of that of all gradients.
pub(super) fn gradient_scale(gradient: &[f32], norm_of_all: f64) -> f64 {
    norm(gradient).max(0.01 * norm_of_all)
}

/// Asserts that gradients are the same: in every bit where `is_exact`, else within `tolerance` of their scale.
pub(super) fn assert_same_gradients(
    found: &[(usize, Vec<f32>)],
    expected: &[(usize, Vec<f32>)],
    is_exact: bool,
    tolerance: f64,
    what: impl Display,
) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let norm_of_all = norm_of_all(expected.iter().map(|(_, gradient)| &gradient[..]));
    for ((idx, found), (_, expected)) in found.iter().zip(expected) {
        if is_exact {
            assert_same_bits(found, expected, format_args!("{what}: gradient of parameter {idx}"));
            continue;
        }
        let error = distance(found, expected) / gradient_scale(expected, norm_of_all);
        assert!(error <= tolerance, "{what}: the gradient of parameter {idx} is {error:.2e} off");
    }
}

pub(super) fn assert_same_bits(found: &[f32], expected: &[f32], what: impl Display) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let differs = |i: &usize| found[*i].to_bits() != expected[*i].to_bits();
    if let Some(i) = (0..found.len()).find(differs) {
        panic!("{what}: number {i} is {:e}, expected the same bits as {:e}", found[i], expected[i]);
    }
}

/// Asserts that logits are the same: in every bit where `is_exact`, else log-probabilities within `tolerance`.
pub(super) fn assert_same_logits(
    found: &[f32],
    expected: &[f32],
    vocab_size: usize,
    is_exact: bool,
    tolerance: f64,
    what: impl Display,
) {
    if is_exact {
        return assert_same_bits(found, expected, what);
    }
    let off = largest_difference(&log_softmax(found, vocab_size), &log_softmax(expected, vocab_size));
    assert!(off <= tolerance, "{what}: a log-probability is {off:.2e} off");
}

/// Asserts that vectors are the same: in every bit where `is_exact`, else within `tolerance` of their norms.
pub(super) fn assert_same_vectors(
    found: &[f32],
    expected: &[f32],
    width: usize,
    is_exact: bool,
    tolerance: f64,
    what: impl Display,
) {
    if is_exact {
        return assert_same_bits(found, expected, what);
    }
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (found, expected)) in found.chunks(width).zip(expected.chunks(width)).enumerate() {
        let error = distance(found, expected) / norm(expected);
        assert!(error <= tolerance, "{what}: vector {i} is {error:.2e} off");
    }
}

/// The largest error of a gradient with which finite differences say anything: beyond that of single precision, within
/// that of bf16.
const COARSEST_WITH_SLOPES: f64 = 1e-3;

/// Asserts that gradients are the slopes of `value`: along a parameter's gradient its slope is the gradient's norm.
///
/// `noise` is the error of `value`. The step is chosen by it, and gradients that are lost in it are left out; two
/// central differences cancel the error of the third order (Richardson). Where the engine computes in bf16 nothing is
/// asserted: a step that is small enough for a slope is lost in the rounding of the weights. There gradients are
/// compared with PyTorch's alone.
pub(super) fn assert_slopes<E: Engine>(
    engine: &mut E,
    gradients: &[(usize, Vec<f32>)],
    noise: f64,
    what: impl Display,
    mut value: impl FnMut(&mut E) -> f64,
) {
    if engine.guarantees().gradient_tolerance > COARSEST_WITH_SLOPES {
        return;
    }
    let step = (0.3 * noise.cbrt()).clamp(1e-3, 0.1);
    let slope_noise = 2.0 * noise / step;
    let mut n_checked = 0;
    for (idx, gradient) in gradients {
        let norm = norm(gradient);
        let name = engine.parameters()[*idx].name.clone();
        assert!(norm.is_finite(), "{what}: {name}: the gradient's norm is {norm}");
        if norm == 0.0 {
            continue;
        }
        let start = read(engine, *idx, ParameterTensor::Value);
        let mut value_at = |engine: &mut E, step: f64| {
            let moved = |(&v, &g): (&f32, &f32)| (f64::from(v) + step * f64::from(g) / norm) as f32;
            let moved: Vec<f32> = start.iter().zip(gradient).map(moved).collect();
            engine.write(*idx, ParameterTensor::Value, &moved).unwrap();
            value(engine)
        };
        let mut difference = |step: f64| (value_at(engine, step) - value_at(engine, -step)) / (2.0 * step);
        let slope = (4.0 * difference(step) - difference(2.0 * step)) / 3.0;
        engine.write(*idx, ParameterTensor::Value, &start).unwrap();
        let allowed = 0.02 * norm + slope_noise;
        assert!(
            (slope - norm).abs() <= allowed,
            "{what}: {name}: slope {slope}, the gradient's norm is {norm}"
        );
        n_checked += usize::from(norm > 10.0 * slope_noise);
    }
    let needed = if slope_noise < 1e-2 { gradients.len() / 2 } else { 1 };
    assert!(n_checked >= needed.max(1), "{what}: {n_checked} gradients are large enough to be checked");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nan_passes_no_comparison() {
        assert_eq!(distance(&[f32::NAN], &[1.0]), f64::INFINITY);
        assert_eq!(largest_difference(&[f64::NAN, 1.0], &[1.0, 1.0]), f64::INFINITY);
        assert_eq!(largest_difference(&[1.0, f64::NAN], &[1.0, 1.0]), f64::INFINITY);
        let mut worst = Worst::default();
        worst.add(f64::NAN, || "here".into());
        worst.add(1.0, || "there".into());
        assert_eq!((worst.largest, worst.place.as_str()), (f64::INFINITY, "here"));
    }

    #[test]
    fn log_softmax_sums_to_one() {
        let rows = log_softmax(&[1.0, 2.0, 3.0, -5.0, 100.0, 7.0], 3);
        for row in rows.chunks(3) {
            assert!((row.iter().map(|l| l.exp()).sum::<f64>() - 1.0).abs() < 1e-12);
        }
        assert!((rows[2] - rows[0] - 2.0).abs() < 1e-12);
    }
}
