//! Small random models and one way to run them forward and backward.

use truing_cpu::{CpuEngine, CpuOptions, Loader};
use truing_model::engine::ParameterTensor;
use truing_model::{DecoderSpec, Engine, Keep, ParameterRole, ParameterStore, TrainableSpec};
use truing_types::{PackedBatch, RowOrigin, TokenId};

/// Three-layer models, one for each option in which families differ.
pub(crate) mod tiny_spec {
    use truing_model::DecoderSpec;

    pub(crate) fn llama() -> DecoderSpec {
        DecoderSpec {
            architecture: "LlamaForCausalLM".into(),
            vocab_size: 24,
            hidden_size: 12,
            intermediate_size: 20,
            n_layers: 3,
            n_heads: 6,
            n_kv_heads: 2,
            head_dim: 4,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: None,
            max_position_embeddings: 64,
            head: truing_model::HeadKind::LanguageModel,
            tie_word_embeddings: true,
            qkv_bias: false,
            output_bias: false,
            mlp_bias: false,
            qk_norm: false,
            sliding_windows: vec![None; 3],
            bos_token_id: None,
            eos_token_ids: vec![],
        }
    }

    pub(crate) fn untied_with_biases() -> DecoderSpec {
        DecoderSpec {
            head: truing_model::HeadKind::LanguageModel,
            tie_word_embeddings: false,
            qkv_bias: true,
            output_bias: true,
            mlp_bias: true,
            ..llama()
        }
    }

    pub(crate) fn qwen3() -> DecoderSpec {
        DecoderSpec { qk_norm: true, head_dim: 6, ..llama() }
    }

    pub(crate) fn sliding() -> DecoderSpec {
        DecoderSpec { sliding_windows: vec![Some(4), None, Some(2)], n_kv_heads: 6, ..llama() }
    }

    pub(crate) fn all() -> [(&'static str, DecoderSpec); 4] {
        [
            ("llama", llama()),
            ("untied with biases", untied_with_biases()),
            ("query-key norm", qwen3()),
            ("sliding window", sliding()),
        ]
    }
}

/// An engine whose weights are a fixed function of name and place.
pub(crate) fn tiny_engine(spec: &DecoderSpec, trainable: &TrainableSpec, n_threads: usize) -> CpuEngine {
    let options = CpuOptions { n_threads, ..CpuOptions::default() };
    let mut loader = Loader::new(spec.clone(), trainable.clone(), options).unwrap();
    for (idx, parameter) in spec.parameters().iter().enumerate() {
        let n = parameter.n_elements();
        let wave = |i: usize| ((i * 7919 + idx * 104_729 + 13) as f32 * 0.618).sin();
        let values = (0..n).map(|i| match parameter.role {
            ParameterRole::Norm => 1.0 + 0.2 * wave(i),
            ParameterRole::Embedding | ParameterRole::Head | ParameterRole::Score => 0.9 * wave(i),
            _ => 0.4 * wave(i),
        });
        loader.put(&parameter.name, &parameter.shape, values.collect()).unwrap();
    }
    loader.finish().unwrap()
}

/// Packs sequences; every token but a sequence's first carries loss, with unequal weights.
pub(crate) fn packed(sequences: &[Vec<TokenId>]) -> PackedBatch {
    let weights: Vec<Vec<f32>> =
        sequences.iter().map(|s| (0..s.len()).map(|i| 1.0 - 0.1 * (i % 3) as f32).collect()).collect();
    let origin = |line: usize| RowOrigin { source: "test".into(), line: line as u64 + 1 };
    PackedBatch::new(
        sequences.iter().zip(&weights).enumerate().map(|(i, (s, w))| (&s[..], &w[..], origin(i))),
    )
    .unwrap()
}

/// How a pass is cut into segments.
pub(crate) struct Pass {
    pub(crate) layers_per_segment: usize,
    pub(crate) n_kept: usize,
    pub(crate) keeps_attention: bool,
}

impl Pass {
    pub(crate) fn whole(spec: &DecoderSpec) -> Self {
        Self { layers_per_segment: spec.n_layers, n_kept: 1, keeps_attention: false }
    }
}

/// Forward and backward of the weighted mean of negative log-probabilities.
pub(crate) fn backward_pass(engine: &mut CpuEngine, batch: &PackedBatch, pass: &Pass) {
    let n_layers = engine.spec().n_layers;
    let segments: Vec<_> = (0..n_layers)
        .step_by(pass.layers_per_segment)
        .map(|start| start..(start + pass.layers_per_segment).min(n_layers))
        .collect();
    let device = engine.upload(batch).unwrap();
    let mut hidden = engine.embed(&device).unwrap();
    let mut kept = Vec::new();
    for (idx, layers) in segments.iter().enumerate() {
        let keep = match (idx + pass.n_kept >= segments.len(), pass.keeps_attention) {
            (true, _) => Keep::Activations,
            (false, true) => Keep::InputAndAttention,
            (false, false) => Keep::Input,
        };
        let (output, segment) = engine.segment_forward(&device, layers.clone(), hidden, keep).unwrap();
        hidden = output;
        kept.push(segment);
    }
    let targets = batch.targets();
    let total: f32 = targets.weights.iter().sum();
    let d_log_probs: Vec<f32> = targets.weights.iter().map(|w| -w / total).collect();
    let (_, mut d_hidden) = engine.log_probs_backward(hidden, &targets, &d_log_probs).unwrap();
    for segment in kept.into_iter().rev() {
        d_hidden = engine.segment_backward(&device, segment, d_hidden).unwrap();
    }
    engine.embed_backward(&device, d_hidden).unwrap();
}

/// The weighted mean of negative log-probabilities.
pub(crate) fn loss(engine: &mut CpuEngine, batch: &PackedBatch) -> f64 {
    let n_layers = engine.spec().n_layers;
    let device = engine.upload(batch).unwrap();
    let hidden = engine.embed(&device).unwrap();
    let (hidden, _) = engine.segment_forward(&device, 0..n_layers, hidden, Keep::Nothing).unwrap();
    let targets = batch.targets();
    let results = engine.log_probs(&hidden, &targets).unwrap();
    let weighted: f64 =
        results.log_probs.iter().zip(&targets.weights).map(|(&l, &w)| -f64::from(l) * f64::from(w)).sum();
    weighted / targets.weights.iter().map(|&w| f64::from(w)).sum::<f64>()
}

/// Logits of every token, `[n_tokens, vocab]`.
pub(crate) fn all_logits(engine: &mut CpuEngine, batch: &PackedBatch) -> Vec<f32> {
    let n_layers = engine.spec().n_layers;
    let device = engine.upload(batch).unwrap();
    let hidden = engine.embed(&device).unwrap();
    let (hidden, _) = engine.segment_forward(&device, 0..n_layers, hidden, Keep::Nothing).unwrap();
    let rows: Vec<u32> = (0..batch.n_tokens() as u32).collect();
    engine.logits(&hidden, &rows).unwrap()
}

/// Every gradient, in parameter order.
pub(crate) fn gradients(engine: &CpuEngine) -> Vec<Vec<f32>> {
    (0..engine.parameters().len())
        .map(|idx| engine.read(idx, ParameterTensor::Gradient).unwrap().into_owned())
        .collect()
}
