//! The proofs on engines with a known flaw: each must be found by the claim it breaks, and by no other.

use std::borrow::Cow;
use std::ops::Range;

use truing_cpu::{CpuEngine, DeviceBatch, Hidden, KeptSegment, KvCache};
use truing_model::engine::{EngineMemory, OptimizerStep, ParameterStore, ParameterTensor};
use truing_model::{
    DecoderSpec, DecodingWeights, Engine, EngineError, HeadGradient, HeadOutput, HeadRequest, Keep,
    ModelFiles, ParameterSpec, TopLogProbs, TrainableSpec,
};
use truing_parallel::Solo;
use truing_stages::model::load_engine;
use truing_train::prove::{ProveError, prove};
use truing_types::{
    Communicator, ExcludedTokens, PackedBatch, RowOrigin, Seed, Silent, TokenId, TokenizedSample,
};

use crate::setup;

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

    fn zero_gradients(&mut self) {
        self.engine.zero_gradients();
    }

    fn reduce_gradients(&mut self, communicator: &dyn Communicator) -> Result<(), EngineError> {
        self.engine.reduce_gradients(communicator)
    }

    fn gradient_norm(&mut self) -> f64 {
        self.engine.gradient_norm()
    }

    fn optimizer_step(&mut self, step: &OptimizerStep) {
        self.engine.optimizer_step(step);
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
    type Batch = DeviceBatch;
    type Hidden = Hidden;
    type Kept = (Range<usize>, Keep, KeptSegment);
    type Cache = KvCache;

    fn memory(spec: &DecoderSpec, trainable: &TrainableSpec) -> EngineMemory {
        CpuEngine::memory(spec, trainable)
    }

    fn spec(&self) -> &DecoderSpec {
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
        keep: Keep,
    ) -> Result<(Hidden, Self::Kept), EngineError> {
        let (output, kept) = self.engine.segment_forward(batch, layers.clone(), input, keep)?;
        Ok((output, (layers, keep, kept)))
    }

    fn segment_backward(
        &mut self,
        batch: &DeviceBatch,
        (layers, keep, kept): Self::Kept,
        d_output: Hidden,
    ) -> Result<Hidden, EngineError> {
        let d_input = self.engine.segment_backward(batch, kept, d_output)?;
        if self.flaw == Flaw::RecomputedTwice && keep == Keep::Input {
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

    fn enable_adapters(&mut self, are_enabled: bool) {
        self.engine.enable_adapters(are_enabled);
    }

    fn set_decoding_weights(&mut self, weights: DecodingWeights) {
        self.engine.set_decoding_weights(weights);
    }

    fn logits(&mut self, hidden: &Hidden, rows: &[u32]) -> Result<Vec<f32>, EngineError> {
        self.engine.logits(hidden, rows)
    }

    fn new_cache(&self, capacity: usize) -> KvCache {
        self.engine.new_cache(capacity)
    }

    fn fork_cache(&self, cache: &KvCache) -> KvCache {
        self.engine.fork_cache(cache)
    }

    fn extend_each(
        &mut self,
        caches: &mut [&mut KvCache],
        tokens: &[TokenId],
    ) -> Result<Vec<f32>, EngineError> {
        self.engine.extend_each(caches, tokens)
    }

    fn cache_len(&self, cache: &KvCache) -> usize {
        self.engine.cache_len(cache)
    }

    fn truncate_cache(&self, cache: &mut KvCache, n_tokens: usize) {
        self.engine.truncate_cache(cache, n_tokens);
    }

    fn extend(&mut self, cache: &mut KvCache, tokens: &[TokenId]) -> Result<Vec<f32>, EngineError> {
        self.engine.extend(cache, tokens)
    }
}

const ISOLATION: &str = "one sequence of a pack cannot be seen by another";
const PACKED: &str = "packed equals unpacked";
const SEGMENTS: &str = "gradients do not depend on k";
const MICRO_BATCHES: &str = "nor on the cut into micro-batches";

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
    let engine = load_engine(&files, &TrainableSpec::default(), 1, Seed(0), &mut |_| ()).unwrap();
    let proofs = prove(&mut Flawed { engine, flaw }, &samples(5), &Solo, &mut Silent).unwrap();
    let mut verdicts: Vec<(String, bool)> = Vec::new();
    for proof in proofs {
        match verdicts.iter_mut().find(|(claim, _)| *claim == proof.claim) {
            Some((_, holds)) => *holds &= proof.holds(),
            None => verdicts.push((proof.claim.clone(), proof.holds())),
        }
        assert!(proof.holds() || proof.place != "no bit differs", "{flaw:?}: {proof:?}");
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
    let mut engine = load_engine(&files, &TrainableSpec::default(), 1, Seed(0), &mut |_| ()).unwrap();
    let mut samples = samples(2);
    samples[1].loss_weights.fill(0.0);
    let error = prove(&mut engine, &samples, &Solo, &mut Silent).unwrap_err();
    assert!(matches!(error, ProveError::TooFewSequences { found: 1 }), "{error}");
}
