//! A decoder as data: sizes, rotary embedding, the options in which families differ, and the parameters by
//! their Hugging Face names.

mod rope;
mod variant;

use serde::{Deserialize, Serialize};
use truing_types::TokenId;

pub use rope::RopeScaling;
pub use variant::{Activation, DecoderVariant, QkvLayout};

/// What turns the last hidden states into a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum HeadKind {
    /// Logits over the vocabulary.
    #[default]
    LanguageModel,
    /// Numbers, `score.weight` `[n_outputs, hidden]`: a reward model's one, a classifier's one a label;
    /// `...ForSequenceClassification` in transformers.
    Score {
        /// How many.
        n_outputs: usize,
    },
}

/// A decoder-only language model of the Llama kind: pre-normalised blocks of grouped-query attention with
/// rotary positions and a gated feed-forward. The families differ only in the fields below.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecoderSpec {
    /// The `architectures[0]` it was read from and is saved as, for instance `LlamaForCausalLM`.
    pub architecture: String,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Width of the feed-forward.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Epsilon of every root-mean-square norm.
    pub rms_norm_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Change of the rotary frequencies for longer contexts.
    pub rope_scaling: Option<RopeScaling>,
    /// Longest context the model was made for.
    pub max_position_embeddings: usize,
    /// Language model, or reward model or classifier.
    #[serde(default)]
    pub head: HeadKind,
    /// The head is the embedding.
    pub tie_word_embeddings: bool,
    /// Biases on the query, key and value projections.
    pub qkv_bias: bool,
    /// Bias on the attention's output projection.
    pub output_bias: bool,
    /// Biases on the three feed-forward projections.
    pub mlp_bias: bool,
    /// Root-mean-square norm over each query and key head before the rotation (Qwen3).
    pub qk_norm: bool,
    /// Per layer: a token sees this many tokens, itself included; `None` sees all before it.
    pub sliding_windows: Vec<Option<usize>>,
    /// What the family computes or stores differently from Llama.
    #[serde(default)]
    pub variant: DecoderVariant,
    /// Beginning-of-sequence token.
    pub bos_token_id: Option<TokenId>,
    /// Tokens that end generation.
    pub eos_token_ids: Vec<TokenId>,
}

/// What a parameter does, which decides weight decay, LoRA targets and how it is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ParameterRole {
    /// `[vocab, hidden]`.
    Embedding,
    /// `[vocab, hidden]`, present only where the head is not tied.
    Head,
    /// The head of a reward model, a classifier or a scorer `[n_outputs, hidden]`; learns with LoRA too.
    Score,
    /// A projection `[out, in]`.
    Matrix,
    /// A projection's bias `[out]`.
    Bias,
    /// A norm's weight.
    Norm,
    /// LoRA's down projection `[rank, in]`.
    LoraA,
    /// LoRA's up projection `[out, rank]`.
    LoraB,
}

impl ParameterRole {
    /// Norms and biases are not decayed.
    #[must_use]
    pub fn is_decayed(self) -> bool {
        !matches!(self, Self::Bias | Self::Norm)
    }
}

/// One named parameter.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ParameterSpec {
    /// Hugging Face name, for instance `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// What it does.
    pub role: ParameterRole,
    /// The block it belongs to.
    pub layer: Option<usize>,
}

impl ParameterSpec {
    /// Number of elements.
    #[must_use]
    pub fn n_elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685): `y = x W^T + (alpha / rank) x A^T B^T`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraSpec {
    /// Inner width.
    pub rank: usize,
    /// The product is scaled by `alpha / rank`.
    pub alpha: f32,
    /// Projections to adapt by their last name, for instance `q_proj`.
    pub targets: Vec<String>,
}

/// Which parameters learn.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct TrainableSpec {
    /// With LoRA, only its own parameters learn.
    pub lora: Option<LoraSpec>,
    /// Parameters whose name starts with one of these are frozen, for instance `model.embed_tokens`.
    pub frozen: Vec<String>,
}

impl TrainableSpec {
    /// Nothing learns, and no gradient takes memory: the empty prefix begins every name.
    #[must_use]
    pub fn frozen() -> Self {
        Self { lora: None, frozen: vec![String::new()] }
    }

    /// Whether a parameter learns.
    #[must_use]
    pub fn is_trainable(&self, parameter: &ParameterSpec) -> bool {
        let is_adapter =
            matches!(parameter.role, ParameterRole::LoraA | ParameterRole::LoraB | ParameterRole::Score);
        (self.lora.is_none() || is_adapter)
            && !self.frozen.iter().any(|prefix| parameter.name.starts_with(prefix.as_str()))
    }
}

impl LoraSpec {
    /// Whether adapters of the one have the shapes, places and scale of the other.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let sorted = |lora: &Self| {
            let mut targets = lora.targets.clone();
            targets.sort();
            targets.dedup();
            targets
        };
        self.rank == other.rank && self.alpha == other.alpha && sorted(self) == sorted(other)
    }
}

impl DecoderSpec {
    /// Width of all query heads together.
    #[must_use]
    pub fn q_width(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Width of all key (or value) heads together.
    #[must_use]
    pub fn kv_width(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// The sizes of sequence groups that the heads allow, ascending (Ulysses, arXiv 2309.14509). A size must divide the
    /// query heads. It must divide the key heads too, or be a multiple of them: every rank then has a copy of one key
    /// head.
    #[must_use]
    pub fn sequence_parallel_sizes(&self) -> Vec<usize> {
        let (heads, key_heads) = (self.n_heads, self.n_kv_heads);
        let divides_keys = |&size: &usize| key_heads.is_multiple_of(size) || size.is_multiple_of(key_heads);
        (1..=heads).filter(|&size| heads.is_multiple_of(size)).filter(divides_keys).collect()
    }

    /// Every parameter in the order of the forward pass, without adapters.
    #[must_use]
    pub fn parameters(&self) -> Vec<ParameterSpec> {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let (q, kv) = (self.q_width(), self.kv_width());
        let mut all = Vec::new();
        let mut add = |name: String, shape: &[usize], role, layer| {
            all.push(ParameterSpec { name, shape: shape.to_vec(), role, layer });
        };
        add("model.embed_tokens.weight".into(), &[self.vocab_size, hidden], ParameterRole::Embedding, None);
        for layer in 0..self.n_layers {
            let prefix = format!("model.layers.{layer}");
            let mut norm = |name: &str, width: usize| {
                add(format!("{prefix}.{name}.weight"), &[width], ParameterRole::Norm, Some(layer));
            };
            norm("input_layernorm", hidden);
            if self.qk_norm {
                norm("self_attn.q_norm", self.head_dim);
                norm("self_attn.k_norm", self.head_dim);
            }
            norm("post_attention_layernorm", hidden);
            if self.variant.has_post_norms {
                norm("pre_feedforward_layernorm", hidden);
                norm("post_feedforward_layernorm", hidden);
            }
            let mut projection = |name: &str, out: usize, input: usize, has_bias: bool| {
                let name = format!("{prefix}.{name}");
                add(format!("{name}.weight"), &[out, input], ParameterRole::Matrix, Some(layer));
                if has_bias {
                    add(format!("{name}.bias"), &[out], ParameterRole::Bias, Some(layer));
                }
            };
            match self.variant.qkv_layout.fused_name() {
                Some(name) => projection(name, q + 2 * kv, hidden, self.qkv_bias),
                None => {
                    projection("self_attn.q_proj", q, hidden, self.qkv_bias);
                    projection("self_attn.k_proj", kv, hidden, self.qkv_bias);
                    projection("self_attn.v_proj", kv, hidden, self.qkv_bias);
                }
            }
            projection("self_attn.o_proj", hidden, q, self.output_bias);
            if self.variant.has_fused_gate_up {
                projection("mlp.gate_up_proj", 2 * inner, hidden, self.mlp_bias);
            } else {
                projection("mlp.gate_proj", inner, hidden, self.mlp_bias);
                projection("mlp.up_proj", inner, hidden, self.mlp_bias);
            }
            projection("mlp.down_proj", hidden, inner, self.mlp_bias);
        }
        add("model.norm.weight".into(), &[hidden], ParameterRole::Norm, None);
        match self.head {
            HeadKind::Score { n_outputs } => {
                add("score.weight".into(), &[n_outputs, hidden], ParameterRole::Score, None);
            }
            HeadKind::LanguageModel if !self.tie_word_embeddings => {
                add("lm_head.weight".into(), &[self.vocab_size, hidden], ParameterRole::Head, None);
            }
            HeadKind::LanguageModel => {}
        }
        all
    }

    /// LoRA targets by the names that the model's projections have: where several projections are stored as one matrix
    /// and all of them are named, that matrix is meant.
    #[must_use]
    pub fn stored_targets(&self, targets: &[String]) -> Vec<String> {
        let qkv = self.variant.qkv_layout.fused_name().and_then(|name| name.rsplit('.').next());
        let gate_up = self.variant.has_fused_gate_up.then_some("gate_up_proj");
        let mut stored = targets.to_vec();
        for (parts, fused) in
            [(&["q_proj", "k_proj", "v_proj"][..], qkv), (&["gate_proj", "up_proj"][..], gate_up)]
        {
            let is_named = |part: &&str| stored.iter().any(|target| target == part);
            if let Some(fused) = fused
                && parts.iter().all(is_named)
            {
                stored.retain(|target| !parts.contains(&target.as_str()) && target != fused);
                stored.push(fused.to_owned());
            }
        }
        stored
    }

    /// The adapters that `lora` adds: for each target projection `P` of each block, `P.lora_A.weight`
    /// `[rank, in]` and `P.lora_B.weight` `[out, rank]`, named as in the model (PEFT prepends
    /// `base_model.model.` in files).
    #[must_use]
    pub fn lora_parameters(&self, lora: &LoraSpec) -> Vec<ParameterSpec> {
        let (mut all, targets) = (Vec::new(), self.stored_targets(&lora.targets));
        for matrix in self.parameters().into_iter().filter(|p| p.role == ParameterRole::Matrix) {
            let Some(projection) = matrix.name.strip_suffix(".weight") else { continue };
            if !targets.iter().any(|target| projection.rsplit('.').next() == Some(target.as_str())) {
                continue;
            }
            for (part, shape, role) in [
                ("lora_A", vec![lora.rank, matrix.shape[1]], ParameterRole::LoraA),
                ("lora_B", vec![matrix.shape[0], lora.rank], ParameterRole::LoraB),
            ] {
                let name = format!("{projection}.{part}.weight");
                all.push(ParameterSpec { name, shape, role, layer: matrix.layer });
            }
        }
        all
    }

    /// Number of parameters without adapters.
    #[must_use]
    pub fn n_parameters(&self) -> usize {
        self.parameters().iter().map(ParameterSpec::n_elements).sum()
    }
}
