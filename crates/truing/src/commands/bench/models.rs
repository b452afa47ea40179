//! A training step, decoding and embedding. Weights are random where no model is named: no speed depends on their
//! values.

use anyhow::ensure;
use truing_model::{
    AdamWStep, Adapters, ComputeDtype, DecoderSpec, DecodingWeights, EncoderSpec, Engine, EngineError,
    EngineOptions, HeadKind, HeadRequest, ModelFiles, ModelSpec, OptimizerStep, ParameterRole, ParameterSpec,
    ParameterStore, Pooling, PutWeight, SampleStep, Sampler, TrainableSpec,
};
use truing_parallel::Solo;
use truing_train::{LayersPerSegment, SegmentPlan, StepFlops, StepShape, plan_segments, segments};
use truing_types::{ExcludedTokens, PackedBatch, RowOrigin, SamplingOptions, Seed, TargetTokens, TokenId};

use super::kernels::Peaks;
use super::timing::{Spread, seconds_of};
use super::{Extent, Peak, Row};
use crate::Context;
use crate::commands::model::load_engine;
use crate::local_engine::{LocalEngine, own_dtype};

/// What is measured where no model is named.
pub(super) const DEFAULT_NAME: &str = "SmolLM2-135M's shape, random weights";

/// Tokens of a sequence of the training step, at most.
const SEQUENCE: usize = 256;
/// Tokens of the prompt that decoding continues.
const PROMPT: usize = 32;
/// Tokens of a text that is embedded.
const TEXT: usize = 64;

/// SmolLM2-135M.
pub(super) fn smollm2_135m() -> DecoderSpec {
    DecoderSpec {
        architecture: "LlamaForCausalLM".into(),
        vocab_size: 49_152,
        hidden_size: 576,
        intermediate_size: 1536,
        n_layers: 30,
        n_heads: 9,
        n_kv_heads: 3,
        head_dim: 64,
        rms_norm_eps: 1e-5,
        rope_theta: 100_000.0,
        rope_scaling: None,
        max_position_embeddings: 8192,
        head: HeadKind::LanguageModel,
        tie_word_embeddings: true,
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        qk_norm: false,
        sliding_windows: vec![None; 30],
        variant: truing_model::DecoderVariant::default(),
        bos_token_id: None,
        eos_token_ids: vec![],
    }
}

/// The shape of all-MiniLM-L6-v2.
fn minilm_l6() -> EncoderSpec {
    EncoderSpec {
        vocab_size: 30_522,
        hidden_size: 384,
        intermediate_size: 1536,
        n_layers: 6,
        n_heads: 12,
        max_position_embeddings: 512,
        n_token_types: 2,
        layer_norm_eps: 1e-12,
        pooling: Pooling::Mean,
        is_normalized: true,
        max_sequence_length: 256,
        is_lower_cased: false,
        n_outputs: None,
    }
}

/// The lengths of the training step's sequences, and what a step of them looks at.
fn step_shape(spec: &DecoderSpec, n_tokens: usize) -> (Vec<usize>, StepShape) {
    let longest = SEQUENCE.min(spec.max_position_embeddings).max(1);
    let lengths: Vec<usize> =
        (0..n_tokens).step_by(longest).map(|start| longest.min(n_tokens - start)).collect();
    let shape = StepShape {
        tokens: n_tokens as f64,
        loss_tokens: (n_tokens - lengths.len()) as f64,
        attention_pairs: lengths.iter().map(|&len| (len * (len + 1) / 2) as f64).sum(),
    };
    (lengths, shape)
}

/// Which layers are computed twice, so that a training step and decoding have room.
pub(super) fn plan(
    spec: &DecoderSpec,
    n_tokens: usize,
    usable_bytes: Option<u64>,
) -> anyhow::Result<SegmentPlan> {
    ensure!(spec.head == HeadKind::LanguageModel, "the model has a score head, expected a language model");
    let trainable = TrainableSpec::default();
    let memory = LocalEngine::memory(&ModelSpec::from(spec.clone()), &trainable, ComputeDtype::F32);
    let (_, shape) = step_shape(spec, n_tokens);
    let budget_bytes = usable_bytes.unwrap_or(u64::MAX).saturating_sub(memory.quantized_bytes);
    let attention_share = StepFlops::attention_share(spec, &shape);
    let plan = plan_segments(
        &memory,
        spec.n_layers,
        n_tokens as u64,
        budget_bytes,
        LayersPerSegment::Auto,
        attention_share,
    )?;
    Ok(plan.chosen.segments)
}

/// The model of `files`, or one of random weights.
pub(super) fn load(
    spec: &DecoderSpec,
    files: Option<&ModelFiles>,
    context: &Context,
) -> anyhow::Result<LocalEngine> {
    let trainable = TrainableSpec::default();
    match files {
        Some(files) => load_engine(context, files, &trainable),
        None => with_random_weights(spec.clone().into(), trainable, context),
    }
}

/// A model of random weights. They repeat: no speed depends on that, and normal numbers take time.
fn with_random_weights(
    spec: ModelSpec,
    trainable: TrainableSpec,
    context: &Context,
) -> anyhow::Result<LocalEngine> {
    let parameters = spec.parameters();
    let normals = Seed(0).normals("weights to measure with", 65_537, 0.04);
    let mut weights = |put: &mut PutWeight<'_>| {
        parameters.iter().try_for_each(|parameter| {
            let n_elements = parameter.n_elements();
            let values = match parameter.role {
                ParameterRole::Norm => vec![1.0; n_elements],
                _ => normals.iter().copied().cycle().take(n_elements).collect(),
            };
            put(&parameter.name, &parameter.shape, values)
        })
    };
    let options = EngineOptions::with_threads(context.n_threads, Seed(0));
    Ok(LocalEngine::load(spec, trainable, &options, &Solo::groups(), &mut weights)?)
}

/// Token ids all over the vocabulary.
fn tokens(n: usize, vocab_size: usize) -> Vec<TokenId> {
    (0..n).map(|i| (i * 7919 % vocab_size) as TokenId).collect()
}

/// Sequences of these lengths, one after the other.
fn packed(tokens: &[TokenId], lengths: &[usize]) -> anyhow::Result<PackedBatch> {
    let weights = vec![1.0; tokens.len()];
    let mut start = 0;
    Ok(PackedBatch::new(lengths.iter().map(|&len| {
        let range = start..start + len;
        start += len;
        (&tokens[range.clone()], &weights[range], RowOrigin { source: "bench".into(), line: 1 })
    }))?)
}

/// One optimiser step of AdamW on every weight: tokens a second.
pub(super) fn training_step(
    engine: &mut LocalEngine,
    spec: &DecoderSpec,
    segments: &SegmentPlan,
    extent: &Extent,
    peaks: &Peaks,
) -> anyhow::Result<Row> {
    let (lengths, shape) = step_shape(spec, extent.n_tokens);
    let batch = packed(&tokens(extent.n_tokens, spec.vocab_size), &lengths)?;
    let targets = batch.targets();
    let mut n_done = 0;
    let seconds = seconds_of(extent.n_steps, || {
        n_done += 1;
        step(engine, &batch, &targets, segments, n_done)
    })?;
    let flops = StepFlops::of(spec, &TrainableSpec::default(), &shape, segments).total();
    let rate = Spread::of_rates(extent.n_tokens as f64, &seconds);
    let peak = peak_of_products(own_dtype());
    let format = if peak == Peak::Bf16 { " bf16" } else { "" };
    Ok(Row {
        name: format!("training step{format}, {} tokens", extent.n_tokens),
        unit: "tokens/s",
        rate,
        share_of_peak: peaks.share(peak, flops / extent.n_tokens as f64 * rate.median / 1e9),
        peak: Some(peak),
    })
}

fn step(
    engine: &mut LocalEngine,
    batch: &PackedBatch,
    targets: &TargetTokens,
    segments: &SegmentPlan,
    number: u64,
) -> Result<(), EngineError> {
    let d_log_probs = vec![-1.0 / targets.rows.len() as f32; targets.rows.len()];
    engine.zero_gradients()?;
    let device = engine.upload(batch)?;
    let (hidden, saved) = segments::forward(engine, &device, segments)?;
    let (_, d_hidden) = engine.log_probs_backward(hidden, targets, &d_log_probs)?;
    segments::backward(engine, &device, saved, d_hidden)?;
    engine.reduce_gradients()?;
    let norm = engine.gradient_norm()?;
    engine.optimizer_step(&OptimizerStep::AdamW(AdamWStep {
        step: number,
        learning_rate: 1e-6,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.0,
        gradient_scale: (1.0 / norm.max(1.0)) as f32,
    }))
}

/// What limits the products of projections in a number format.
fn peak_of_products(dtype: ComputeDtype) -> Peak {
    match dtype {
        ComputeDtype::F32 => Peak::MultiplyAdd,
        ComputeDtype::Bf16 => Peak::Bf16,
    }
}

/// The same while decoding: the copy in 8 bits is multiplied in f32, whatever the number format.
fn peak_of_decoding(weights: DecodingWeights, dtype: ComputeDtype) -> Peak {
    match weights {
        DecodingWeights::F32 => peak_of_products(dtype),
        DecodingWeights::Int8 => Peak::MultiplyAdd,
    }
}

/// Decoding with each kind of weights and each number of sequences, sampling included: tokens a second of all
/// sequences.
pub(super) fn decoding(
    engine: &mut LocalEngine,
    spec: &DecoderSpec,
    extent: &Extent,
    peaks: &Peaks,
) -> anyhow::Result<Vec<Row>> {
    let streamed = n_streamed(spec) as f64;
    let memory =
        LocalEngine::memory(&ModelSpec::from(spec.clone()), &TrainableSpec::frozen(), ComputeDtype::F32);
    let (format, bytes) = match own_dtype() {
        ComputeDtype::F32 => ("f32", 4.0 * streamed),
        ComputeDtype::Bf16 => ("bf16", 2.0 * streamed),
    };
    let kinds = [
        (format, DecodingWeights::F32, bytes),
        ("int8", DecodingWeights::Int8, memory.quantized_bytes as f64),
    ];
    let mut rows = Vec::new();
    for (kind, weights, bytes) in kinds.into_iter().filter(|(_, _, bytes)| *bytes > 0.0) {
        let of_products = peak_of_decoding(weights, own_dtype());
        for &batch in extent.batches {
            let seconds = decode(engine, spec, weights, batch, extent.n_decoded)?;
            let rate = Spread::of_rates(batch as f64, &seconds);
            // One sequence waits for the weights from memory, many for their products.
            let (peak, used) = match batch {
                1 => (Peak::MemoryRead, bytes),
                _ => (of_products, 2.0 * streamed),
            };
            rows.push(Row {
                name: format!("decoding {kind}, batch {batch}"),
                unit: "tokens/s",
                rate,
                share_of_peak: peaks.share(peak, used * rate.median / 1e9),
                peak: Some(peak),
            });
        }
    }
    Ok(rows)
}

/// Weights that every new token is multiplied with: the projections and the head.
fn n_streamed(spec: &DecoderSpec) -> usize {
    let head = if spec.tie_word_embeddings { ParameterRole::Embedding } else { ParameterRole::Head };
    let is_streamed = |p: &&ParameterSpec| p.role == ParameterRole::Matrix || p.role == head;
    spec.parameters().iter().filter(is_streamed).map(ParameterSpec::n_elements).sum()
}

/// Seconds of each step of some sequences that continue one prompt.
fn decode(
    engine: &mut LocalEngine,
    spec: &DecoderSpec,
    weights: DecodingWeights,
    batch: usize,
    n_steps: usize,
) -> anyhow::Result<Vec<f64>> {
    let prompt = tokens(PROMPT.min(spec.max_position_embeddings / 2).max(1), spec.vocab_size);
    let mut read = engine.new_cache(prompt.len() + n_steps + 1)?;
    engine.extend(&mut read, &prompt, DecodingWeights::F32)?;
    let mut caches = (0..batch).map(|_| engine.fork_cache(&read)).collect::<Result<Vec<_>, _>>()?;
    let options = SamplingOptions { temperature: 1.0, ..SamplingOptions::default() };
    let samplers = (0..batch).map(|idx| Sampler::keyed(&options, &[idx as u64]));
    let mut samplers = samplers.collect::<Result<Vec<_>, _>>()?;
    let mut last = vec![prompt[0]; batch];
    let seconds = seconds_of(n_steps, || {
        let mut borrowed: Vec<_> = caches.iter_mut().collect();
        let logits = engine.extend_each(&mut borrowed, &last, weights)?;
        let samplers = samplers.iter_mut().enumerate();
        let mut steps: Vec<SampleStep<'_>> =
            samplers.map(|(row, sampler)| SampleStep { row, sampler, history: &[], allowed: None }).collect();
        let sampled = engine.sample(&logits, &ExcludedTokens::none(), &mut steps)?;
        for (last, sampled) in last.iter_mut().zip(sampled) {
            *last = sampled.map_or(*last, |sampled| sampled.token);
        }
        Ok::<(), EngineError>(())
    })?;
    Ok(seconds)
}

/// Vectors of texts of 64 tokens by an encoder of MiniLM-L6's shape: texts a second.
pub(super) fn embedding(extent: &Extent, peaks: &Peaks, context: &Context) -> anyhow::Result<Row> {
    let spec = minilm_l6();
    let mut encoder = with_random_weights(spec.clone().into(), TrainableSpec::frozen(), context)?;
    let (n_texts, n_tokens) = (extent.n_texts, TEXT);
    let batch = packed(&tokens(n_texts * n_tokens, spec.vocab_size), &vec![n_tokens; n_texts])?;
    let request = HeadRequest::vectors(&batch, &spec);
    let seconds = seconds_of(extent.n_products, || {
        let device = encoder.upload(&batch)?;
        let hidden = segments::forward_only(&mut encoder, &device, Adapters::Enabled)?;
        encoder.head(&hidden, &request).map(|_| ())
    })?;
    let (hidden, inner) = (spec.hidden_size as f64, spec.intermediate_size as f64);
    let projections = 2.0 * (4.0 * hidden * hidden + 2.0 * hidden * inner);
    let attention = 4.0 * n_tokens as f64 * hidden;
    let flops_of_text = (n_tokens * spec.n_layers) as f64 * (projections + attention);
    let rate = Spread::of_rates(n_texts as f64, &seconds);
    let peak = peak_of_products(own_dtype());
    Ok(Row {
        name: format!("embedding, MiniLM-L6's shape, {n_tokens} tokens"),
        unit: "texts/s",
        rate,
        share_of_peak: peaks.share(peak, flops_of_text * rate.median / 1e9),
        peak: Some(peak),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_has_sequences_of_at_most_256_tokens_and_no_more_than_asked_for() {
        let (lengths, shape) = step_shape(&smollm2_135m(), 600);
        assert_eq!(lengths, [256, 256, 88]);
        assert_eq!((shape.tokens, shape.loss_tokens), (600.0, 597.0));
        assert_eq!(shape.attention_pairs, (2 * 256 * 257 / 2 + 88 * 89 / 2) as f64);
    }

    #[test]
    fn a_model_that_does_not_fit_is_refused_before_it_is_loaded() {
        let refused = plan(&smollm2_135m(), 512, Some(1 << 30)).unwrap_err().to_string();
        assert!(refused.contains("are needed for packs of 512 tokens"), "{refused}");
        assert!(plan(&smollm2_135m(), 512, None).is_ok());
        let scored = DecoderSpec { head: HeadKind::Score { n_outputs: 1 }, ..smollm2_135m() };
        assert!(plan(&scored, 512, None).unwrap_err().to_string().contains("expected a language model"));
    }

    /// Shares of the f32 peak would be above 100 % in bf16.
    #[test]
    fn products_are_compared_with_the_peak_of_their_number_format() {
        let (f32, bf16) = (ComputeDtype::F32, ComputeDtype::Bf16);
        assert_eq!([f32, bf16].map(peak_of_products), [Peak::MultiplyAdd, Peak::Bf16]);
        let of = |weights| [f32, bf16].map(|dtype| peak_of_decoding(weights, dtype));
        assert_eq!(of(DecodingWeights::F32), [Peak::MultiplyAdd, Peak::Bf16]);
        assert_eq!(of(DecodingWeights::Int8), [Peak::MultiplyAdd; 2]);
    }

    #[test]
    fn a_tied_head_is_streamed_and_an_untied_embedding_is_not() {
        let tied = smollm2_135m();
        assert_eq!(n_streamed(&tied), 134_515_008 - 61 * 576);
        let untied = DecoderSpec { tie_word_embeddings: false, ..tied.clone() };
        assert_eq!(n_streamed(&untied), n_streamed(&tied));
    }
}
