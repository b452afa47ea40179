//! The checks on engines with a known flaw: each must be found by the claim it breaks, and by no other.

use std::borrow::Cow;
use std::ops::Range;

use truing_cpu::{CpuEngine, DeviceBatch, Hidden, KvCache, Logits, SavedActivations};
use truing_model::{
    Adapters, ComputeDtype, DecodingWeights, Engine, EngineError, EngineMemory, EngineOptions, Guarantees,
    HeadGradient, HeadOutput, HeadRequest, ModelFiles, ModelSpec, OptimizerStep, ParameterSpec,
    ParameterStore, ParameterTensor, SampleStep, SampledToken, SaveActivations, TopLogProbs, TrainableSpec,
    WeightSource,
};
use truing_parallel::Solo;
use truing_stages::model::load_engine;
use truing_train::verify::{VerifyError, verify};
use truing_types::{ExcludedTokens, Groups, PackedBatch, RowOrigin, Seed, Silent, TokenId, TokenizedSample};

use crate::setup;
use crate::setup::{Cpu, SOLO};

/// What an engine, or a trainer above it, may get wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    /// The sequences of a pack run as one: attention and positions go on across their borders.
    SeesAcross,
    /// The loss is a mean over the pack, not over the step.
    MeanOfEachPack,
    /// A segment that is computed again adds one of its gradients twice.
    RecomputedTwice,
    /// The head's gradient is not a number.
    NotANumber,
}

/// The CPU's engine with a flaw.
struct Flawed {
    engine: CpuEngine,
    flaw: Flaw,
}

impl ParameterStore for Flawed {
    fn trainable(&self) -> &TrainableSpec {
        self.engine.trainable()
    }

    fn parameters(&self) -> &[ParameterSpec] {
        self.engine.parameters()
    }

    fn zero_gradients(&mut self) -> Result<(), EngineError> {
        self.engine.zero_gradients()
    }

    fn reduce_gradients(&mut self) -> Result<(), EngineError> {
        self.engine.reduce_gradients()
    }

    fn gradient_norm(&mut self) -> Result<f64, EngineError> {
        self.engine.gradient_norm()
    }

    fn optimizer_step(&mut self, step: &OptimizerStep) -> Result<(), EngineError> {
        self.engine.optimizer_step(step)
    }

    fn read(&self, parameter_idx: usize, tensor: ParameterTensor) -> Result<Cow<'_, [f32]>, EngineError> {
        self.engine.read(parameter_idx, tensor)
    }

    fn write(
        &mut self,
        parameter_idx: usize,
        tensor: ParameterTensor,
        values: &[f32],
    ) -> Result<(), EngineError> {
        self.engine.write(parameter_idx, tensor, values)
    }
}

impl Engine for Flawed {
    const NAME: &'static str = "flawed";

    type Batch = DeviceBatch;
    type Hidden = Hidden;
    type Saved = (Range<usize>, SaveActivations, SavedActivations);
    type Cache = KvCache;
    type Logits = Logits;

    fn memory(spec: &ModelSpec, trainable: &TrainableSpec, dtype: ComputeDtype) -> EngineMemory {
        CpuEngine::memory(spec, trainable, dtype)
    }

    fn load(
        spec: ModelSpec,
        trainable: TrainableSpec,
        options: &EngineOptions,
        groups: &Groups,
        weights: &mut dyn WeightSource,
    ) -> Result<Self, EngineError> {
        let engine = CpuEngine::load(spec, trainable, options, groups, weights)?;
        Ok(Self { engine, flaw: Flaw::None })
    }

    fn guarantees(&self) -> Guarantees {
        self.engine.guarantees()
    }

    fn spec(&self) -> &ModelSpec {
        self.engine.spec()
    }

    fn upload(&mut self, batch: &PackedBatch) -> Result<DeviceBatch, EngineError> {
        if self.flaw != Flaw::SeesAcross {
            return self.engine.upload(batch);
        }
        let joined = PackedBatch::new([(batch.tokens(), batch.loss_weights(), batch.origins()[0].clone())]);
        self.engine.upload(&joined.unwrap())
    }

    fn embed(&mut self, batch: &DeviceBatch) -> Result<Hidden, EngineError> {
        self.engine.embed(batch)
    }

    fn segment_forward(
        &mut self,
        batch: &DeviceBatch,
        layers: Range<usize>,
        input: Hidden,
        save: SaveActivations,
        adapters: Adapters,
    ) -> Result<(Hidden, Self::Saved), EngineError> {
        let (output, saved) = self.engine.segment_forward(batch, layers.clone(), input, save, adapters)?;
        Ok((output, (layers, save, saved)))
    }

    fn segment_backward(
        &mut self,
        batch: &DeviceBatch,
        (layers, save, saved): Self::Saved,
        d_output: Hidden,
    ) -> Result<Hidden, EngineError> {
        let d_input = self.engine.segment_backward(batch, saved, d_output)?;
        if self.flaw == Flaw::RecomputedTwice && save == SaveActivations::Input {
            let name = format!("model.layers.{}.mlp.down_proj.weight", layers.start);
            let idx = self.parameters().iter().position(|parameter| parameter.name == name).unwrap();
            let gradient = self.engine.read(idx, ParameterTensor::Gradient)?;
            let doubled: Vec<f32> = gradient.iter().map(|g| 2.0 * g).collect();
            self.engine.write(idx, ParameterTensor::Gradient, &doubled)?;
        }
        Ok(d_input)
    }

    fn embed_backward(&mut self, batch: &DeviceBatch, d_hidden: Hidden) -> Result<(), EngineError> {
        self.engine.embed_backward(batch, d_hidden)
    }

    fn head(&mut self, hidden: &Hidden, request: &HeadRequest<'_>) -> Result<HeadOutput, EngineError> {
        self.engine.head(hidden, request)
    }

    fn head_backward(
        &mut self,
        hidden: Hidden,
        request: &HeadRequest<'_>,
        gradient: &HeadGradient,
    ) -> Result<(HeadOutput, Hidden), EngineError> {
        let factor = match self.flaw {
            Flaw::MeanOfEachPack => -1.0 / gradient.log_probs.iter().sum::<f32>(),
            Flaw::NotANumber => f32::NAN,
            _ => 1.0,
        };
        let log_probs = gradient.log_probs.iter().map(|d| factor * d).collect();
        self.engine.head_backward(hidden, request, &HeadGradient { log_probs, ..HeadGradient::default() })
    }

    fn top_log_probs(
        &mut self,
        hidden: &Hidden,
        rows: &[u32],
        temperature: f32,
        excluded: &ExcludedTokens,
        k: usize,
    ) -> Result<TopLogProbs, EngineError> {
        self.engine.top_log_probs(hidden, rows, temperature, excluded, k)
    }

    fn log_probs_of(
        &mut self,
        hidden: &Hidden,
        rows: &[u32],
        temperature: f32,
        tokens: &TopLogProbs,
    ) -> Result<TopLogProbs, EngineError> {
        self.engine.log_probs_of(hidden, rows, temperature, tokens)
    }

    fn logits(&mut self, hidden: &Hidden, rows: &[u32]) -> Result<Vec<f32>, EngineError> {
        self.engine.logits(hidden, rows)
    }

    fn new_cache(&mut self, capacity: usize) -> Result<KvCache, EngineError> {
        self.engine.new_cache(capacity)
    }

    fn fork_cache(&mut self, cache: &KvCache) -> Result<KvCache, EngineError> {
        self.engine.fork_cache(cache)
    }

    fn cache_len(&self, cache: &KvCache) -> usize {
        self.engine.cache_len(cache)
    }

    fn truncate_cache(&mut self, cache: &mut KvCache, n_tokens: usize) -> Result<(), EngineError> {
        self.engine.truncate_cache(cache, n_tokens)
    }

    fn extend(
        &mut self,
        cache: &mut KvCache,
        tokens: &[TokenId],
        weights: DecodingWeights,
    ) -> Result<Logits, EngineError> {
        self.engine.extend(cache, tokens, weights)
    }

    fn extend_each_by(
        &mut self,
        caches: &mut [&mut KvCache],
        tokens: &[&[TokenId]],
        weights: DecodingWeights,
    ) -> Result<Logits, EngineError> {
        self.engine.extend_each_by(caches, tokens, weights)
    }

    fn sample(
        &mut self,
        logits: &Logits,
        excluded: &ExcludedTokens,
        steps: &mut [SampleStep<'_>],
    ) -> Result<Vec<Option<SampledToken>>, EngineError> {
        self.engine.sample(logits, excluded, steps)
    }

    fn read_logits(&mut self, logits: &Logits) -> Result<Vec<f32>, EngineError> {
        self.engine.read_logits(logits)
    }
}

const ISOLATION: &str = "packed sequences are isolated";
const PACKED: &str = "packed equals unpacked";
const SEGMENTS: &str = "gradients do not depend on the number of layers per segment";
const MICRO_BATCHES: &str = "gradients do not depend on micro-batches";

fn samples(n_samples: usize) -> Vec<TokenizedSample> {
    let sample = |idx: usize| {
        let length = 5 + 7 * idx;
        TokenizedSample {
            tokens: (0..length).map(|t| ((t * t + 31 * idx) % 251) as TokenId).collect(),
            loss_weights: (0..length).map(|t| if t < 3 { 0.0 } else { 1.0 }).collect(),
            origin: RowOrigin { source: "made".into(), line: idx as u64 + 1 },
        }
    };
    (0..n_samples).map(sample).collect()
}

/// The claims, each once and in order, with whether all that was tried for it held.
fn verdicts(flaw: Flaw) -> Vec<(String, bool)> {
    let folder = setup::folder();
    let files = ModelFiles::open(&folder.path().join("model")).unwrap();
    let engine = load_engine::<Cpu>(
        &files,
        &TrainableSpec::default(),
        &EngineOptions::with_threads(1, Seed(0)),
        &SOLO,
        &mut |_| (),
    )
    .unwrap();
    let checks = verify(&mut Flawed { engine, flaw }, &samples(5), &Solo, &mut Silent).unwrap();
    let mut verdicts: Vec<(String, bool)> = Vec::new();
    for check in checks {
        match verdicts.iter_mut().find(|(claim, _)| *claim == check.claim) {
            Some((_, holds)) => *holds &= check.holds(),
            None => verdicts.push((check.claim.clone(), check.holds())),
        }
        assert!(check.holds() || check.place != "no bit differs", "{flaw:?}: {check:?}");
    }
    verdicts
}

#[test]
fn each_flaw_breaks_its_own_claims_and_no_others() {
    for (flaw, broken) in [
        (Flaw::None, &[][..]),
        (Flaw::SeesAcross, &[ISOLATION, PACKED, MICRO_BATCHES]),
        (Flaw::MeanOfEachPack, &[PACKED, MICRO_BATCHES]),
        (Flaw::RecomputedTwice, &[SEGMENTS]),
        (Flaw::NotANumber, &[PACKED, SEGMENTS, MICRO_BATCHES]),
    ] {
        let expected = [ISOLATION, PACKED, SEGMENTS, MICRO_BATCHES]
            .map(|claim| (claim.to_owned(), !broken.contains(&claim)));
        assert_eq!(verdicts(flaw), expected, "{flaw:?}");
    }
}

#[test]
fn one_sequence_proves_nothing() {
    let folder = setup::folder();
    let files = ModelFiles::open(&folder.path().join("model")).unwrap();
    let mut engine = load_engine::<Cpu>(
        &files,
        &TrainableSpec::default(),
        &EngineOptions::with_threads(1, Seed(0)),
        &SOLO,
        &mut |_| (),
    )
    .unwrap();
    let mut samples = samples(2);
    samples[1].loss_weights.fill(0.0);
    let error = verify(&mut engine, &samples, &Solo, &mut Silent).unwrap_err();
    assert!(matches!(error, VerifyError::TooFewSequences { found: 1 }), "{error}");
}
