//! The small models of the suite: those that PyTorch computed, and one for each option in which families differ.

use super::support::{Case, cases};
use truing_model::{
    Activation, DecoderSpec, DecoderVariant, EncoderSpec, Engine, HeadKind, ParameterRole, ParameterSpec,
    Pooling, QkvLayout,
};

/// Names of the small models that PyTorch computed.
pub(super) const FAMILIES: [&str; 10] = [
    "llama_tied_llama3_rope",
    "llama_untied_biases",
    "qwen2",
    "qwen3",
    "mistral",
    "llama_yarn",
    "phi3",
    "gemma2",
    "gemma3_text",
    "baichuan",
];

/// The projections of a block, which take adapters.
pub(super) fn projections(spec: &DecoderSpec) -> Vec<String> {
    let parameters = spec.parameters().into_iter();
    let of_first_block = parameters.filter(|p| p.role == ParameterRole::Matrix && p.layer == Some(0));
    let last_name = |p: ParameterSpec| {
        p.name.strip_suffix(".weight").and_then(|name| name.rsplit('.').next()).map(str::to_owned)
    };
    of_first_block.filter_map(last_name).collect()
}

/// Two of them: of the attention and of the feed-forward.
pub(super) fn first_and_last_projection(spec: &DecoderSpec) -> Vec<String> {
    let all = projections(spec);
    [all.first(), all.last()].into_iter().flatten().cloned().collect()
}

/// A small decoder with tied embeddings and grouped queries.
#[must_use]
pub fn llama() -> DecoderSpec {
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
        head: HeadKind::LanguageModel,
        tie_word_embeddings: true,
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        qk_norm: false,
        sliding_windows: vec![None; 3],
        variant: DecoderVariant::default(),
        bos_token_id: None,
        eos_token_ids: vec![],
    }
}

/// The same untied, with every bias.
#[must_use]
pub fn untied_with_biases() -> DecoderSpec {
    DecoderSpec { tie_word_embeddings: false, qkv_bias: true, output_bias: true, mlp_bias: true, ..llama() }
}

pub(super) fn qwen3() -> DecoderSpec {
    DecoderSpec { qk_norm: true, head_dim: 6, ..llama() }
}

pub(super) fn reward_model(n_outputs: usize) -> DecoderSpec {
    DecoderSpec { head: HeadKind::Score { n_outputs }, ..llama() }
}

/// A small encoder.
#[must_use]
pub fn bert() -> EncoderSpec {
    EncoderSpec {
        vocab_size: 40,
        hidden_size: 12,
        intermediate_size: 20,
        n_layers: 3,
        n_heads: 3,
        max_position_embeddings: 32,
        n_token_types: 2,
        layer_norm_eps: 1e-5,
        pooling: Pooling::Mean,
        is_normalized: true,
        max_sequence_length: 32,
        is_lower_cased: false,
        n_outputs: None,
    }
}

/// One small decoder for each option in which families differ.
pub(super) fn decoders<E: Engine>() -> Vec<Case<DecoderSpec>> {
    let windows = vec![Some(4), None, Some(2)];
    cases::<E, _>(&[
        ("llama", llama()),
        ("untied with biases", untied_with_biases()),
        ("query-key norm", qwen3()),
        ("sliding window", DecoderSpec { sliding_windows: windows, n_kv_heads: 6, ..llama() }),
        ("fused projections", fused()),
        ("soft caps and post-norms", gemma2()),
        ("two rotary bases", gemma3()),
        ("normalised head", normalized_head()),
    ])
}

/// As Phi-3, with half of each head turning.
fn fused() -> DecoderSpec {
    let variant = DecoderVariant {
        qkv_layout: QkvLayout::QkvProj,
        has_fused_gate_up: true,
        rotary_dim: Some(2),
        ..DecoderVariant::default()
    };
    DecoderSpec { variant, tie_word_embeddings: false, ..llama() }
}

fn gemma2() -> DecoderSpec {
    let variant = DecoderVariant {
        activation: Activation::GeluTanh,
        norms_add_one: true,
        has_post_norms: true,
        embedding_scale: Some(12f32.sqrt()),
        attention_scale: Some(0.4),
        attention_soft_cap: Some(1.5),
        logit_soft_cap: Some(4.0),
        ..DecoderVariant::default()
    };
    DecoderSpec { variant, sliding_windows: vec![Some(4), None, Some(2)], ..llama() }
}

fn gemma3() -> DecoderSpec {
    let spec = gemma2();
    let variant = DecoderVariant {
        attention_scale: Some(0.1),
        attention_soft_cap: None,
        local_rope_theta: Some(100.0),
        ..spec.variant
    };
    DecoderSpec { variant, qk_norm: true, ..spec }
}

/// As Baichuan 2.
fn normalized_head() -> DecoderSpec {
    let variant = DecoderVariant {
        qkv_layout: QkvLayout::WPack,
        has_normalized_head: true,
        ..DecoderVariant::default()
    };
    DecoderSpec { variant, tie_word_embeddings: false, n_kv_heads: 6, ..llama() }
}
