//! A decoder out of a GGUF file: metadata `{architecture}.*`, tensor names, and the row order of the query and
//! key projections. Biases and tied heads are recognised by the tensors that are there.

use super::{ConfigFile, Family, GgufRotary, MAX_LAYERS};
use crate::{DecoderSpec, GgufFile, ModelError, RopeScaling, Tensor};

/// A GGUF file understood as a decoder.
#[derive(Debug)]
pub struct GgufDecoder<'a> {
    /// What the metadata and the tensor table say.
    pub spec: DecoderSpec,
    file: &'a GgufFile,
    rotary: GgufRotary,
}

/// GGUF's names of a block's parts and ours.
const BLOCK_PARTS: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];
/// Divisors of the rotary frequencies: Llama 3's scaling, multiplied out.
const ROTARY_DIVISORS: &str = "rope_freqs.weight";

/// Our name of a GGUF tensor; `None` for one that a decoder does not have.
fn name_from_gguf(name: &str) -> Option<String> {
    match name {
        "token_embd.weight" => return Some("model.embed_tokens.weight".to_owned()),
        "output_norm.weight" => return Some("model.norm.weight".to_owned()),
        "output.weight" => return Some("lm_head.weight".to_owned()),
        _ => {}
    }
    let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
    let (part, kind) = part.rsplit_once('.')?;
    let layer: u32 = layer.parse().ok()?;
    let (_, ours) = BLOCK_PARTS.iter().find(|(theirs, _)| *theirs == part)?;
    matches!(kind, "weight" | "bias").then(|| format!("model.layers.{layer}.{ours}.{kind}"))
}

impl<'a> GgufDecoder<'a> {
    pub(super) fn read(file: &'a GgufFile, family: &Family, prefix: &str) -> Result<Self, ModelError> {
        let metadata = Metadata { file, prefix };
        if let Some(experts) = file.find::<u64>(&metadata.key("expert_count"))?.filter(|experts| *experts > 0)
        {
            return Err(metadata.malformed("expert_count", experts));
        }
        let hidden_size = metadata.size("embedding_length")?;
        let n_layers = metadata.size("block_count")?;
        let n_heads = metadata.size("attention.head_count")?;
        if n_layers > MAX_LAYERS {
            return Err(metadata.malformed("block_count", n_layers));
        }
        let n_kv_heads = metadata.size_if_given("attention.head_count_kv")?.unwrap_or(n_heads);
        let head_dim = metadata.size_if_given("attention.key_length")?.unwrap_or(hidden_size / n_heads);
        metadata.check_width("attention.value_length", head_dim)?;
        metadata.check_width("rope.dimension_count", head_dim)?;
        let embedding = file.tensor("token_embd.weight").ok_or_else(|| ModelError::MissingTensor {
            path: file.path.clone(),
            tensor: "token_embd.weight".to_owned(),
        })?;
        let window = match file.find::<u64>(&metadata.key("attention.sliding_window"))? {
            None | Some(0) => None,
            Some(_) => Some(metadata.size("attention.sliding_window")?),
        };
        // Files of this name with a window are Mistral's.
        let architecture = match (family.architecture, window) {
            ("LlamaForCausalLM", Some(_)) => "MistralForCausalLM",
            (architecture, _) => architecture,
        };
        let has_bias = |part: &str| file.tensor(&format!("blk.0.{part}.bias")).is_some();
        let mut spec = DecoderSpec {
            architecture: architecture.to_owned(),
            vocab_size: embedding.shape.first().copied().unwrap_or(0),
            hidden_size,
            intermediate_size: metadata.size("feed_forward_length")?,
            n_layers,
            n_heads,
            n_kv_heads,
            head_dim,
            rms_norm_eps: file.require::<f64>(&metadata.key("attention.layer_norm_rms_epsilon"))? as f32,
            rope_theta: metadata.positive("rope.freq_base")?.unwrap_or(10_000.0),
            rope_scaling: None,
            max_position_embeddings: metadata.size("context_length")?,
            head: crate::spec::HeadKind::LanguageModel,
            tie_word_embeddings: file.tensor("output.weight").is_none(),
            qkv_bias: has_bias("attn_q"),
            output_bias: has_bias("attn_output"),
            mlp_bias: has_bias("ffn_down"),
            qk_norm: file.tensor("blk.0.attn_q_norm.weight").is_some(),
            sliding_windows: vec![window; n_layers],
            variant: crate::DecoderVariant::default(),
            bos_token_id: token_id(file, "tokenizer.ggml.bos_token_id")?,
            eos_token_ids: end_token_ids(file)?,
        };
        ConfigFile::from_fields(serde_json::Map::new(), &file.path).check(&spec)?;
        spec.rope_scaling = metadata.rope_scaling(&spec)?;
        Ok(Self { spec, file, rotary: family.gguf_rotary })
    }

    /// Every tensor as `(our name, its name in the file)`, in file order; the name in the file alone where a
    /// decoder has no such tensor.
    pub fn names(&self) -> impl Iterator<Item = (Option<String>, &'a str)> {
        let tensors = self.file.tensors.iter().map(|tensor| tensor.name.as_str());
        tensors.filter(|name| *name != ROTARY_DIVISORS).map(|name| (name_from_gguf(name), name))
    }

    /// Reads a tensor by both its names, with its rows in our order.
    ///
    /// # Errors
    /// As [`GgufFile::dequantize`].
    pub fn read_tensor(&self, name: &str, gguf_name: &str) -> Result<Tensor, ModelError> {
        let shape = self.file.tensor(gguf_name).map(|info| info.shape.clone()).unwrap_or_default();
        let values = self.file.dequantize(gguf_name)?;
        let mut tensor = Tensor { shape, values };
        let is_rotated = |part: &str| name.contains(&format!(".self_attn.{part}."));
        if self.rotary == GgufRotary::Interleaved && (is_rotated("q_proj") || is_rotated("k_proj")) {
            tensor.values = halves_from_interleaved(&tensor, self.spec.head_dim);
        }
        Ok(tensor)
    }
}

/// The metadata of an architecture, whose keys begin with its name.
struct Metadata<'a> {
    file: &'a GgufFile,
    prefix: &'a str,
}

impl Metadata<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    /// A whole number above 0.
    fn size(&self, name: &str) -> Result<usize, ModelError> {
        let size = self.file.require::<u64>(&self.key(name))?;
        usize::try_from(size).ok().filter(|size| *size > 0).ok_or_else(|| self.malformed(name, size))
    }

    fn size_if_given(&self, name: &str) -> Result<Option<usize>, ModelError> {
        self.file.find::<u64>(&self.key(name))?.map(|_| self.size(name)).transpose()
    }

    fn positive(&self, name: &str) -> Result<Option<f64>, ModelError> {
        match self.file.find::<f64>(&self.key(name))? {
            Some(value) if !(value.is_finite() && value > 0.0) => Err(self.malformed(name, value)),
            value => Ok(value),
        }
    }

    /// Refuses another width than that of a head.
    fn check_width(&self, name: &str, head_dim: usize) -> Result<(), ModelError> {
        match self.file.find::<u64>(&self.key(name))? {
            Some(width) if width != head_dim as u64 => Err(self.malformed(name, width)),
            _ => Ok(()),
        }
    }

    fn rope_scaling(&self, spec: &DecoderSpec) -> Result<Option<RopeScaling>, ModelError> {
        match self.file.find::<&str>(&self.key("rope.scaling.type"))? {
            None | Some("none") => match self.file.tensor(ROTARY_DIVISORS) {
                None => Ok(None),
                Some(_) => recognise_llama3(self.file, spec).map(Some),
            },
            Some("linear") => {
                let factor = self.file.require::<f64>(&self.key("rope.scaling.factor"))?;
                Ok(Some(RopeScaling::Linear { factor }))
            }
            Some(other) => Err(self.malformed("rope.scaling.type", other)),
        }
    }

    fn malformed(&self, name: &str, value: impl std::fmt::Display) -> ModelError {
        malformed(self.file, &self.key(name), value)
    }
}

/// Undoes the row order of llama's GGUF files: row `2 j + half` of each head becomes row
/// `half * head_dim / 2 + j`. Leaves a tensor alone whose rows are not whole heads; its shape is refused later.
fn halves_from_interleaved(tensor: &Tensor, head_dim: usize) -> Vec<f32> {
    let rows = tensor.shape.first().copied().unwrap_or(0);
    if rows == 0 || !rows.is_multiple_of(head_dim) {
        return tensor.values.clone();
    }
    let width = tensor.values.len() / rows;
    let mut values = Vec::with_capacity(tensor.values.len());
    for head in tensor.values.chunks_exact(head_dim * width) {
        for half in 0..2 {
            for j in 0..head_dim / 2 {
                values.extend_from_slice(&head[(2 * j + half) * width..][..width]);
            }
        }
    }
    values
}

/// GGUF files of Llama 3.1 and later hold, for each frequency, the number that scaling divides it by, and not
/// the four numbers of the rule. Both releases of the rule are tried.
fn recognise_llama3(file: &GgufFile, spec: &DecoderSpec) -> Result<RopeScaling, ModelError> {
    let divisors = file.dequantize(ROTARY_DIVISORS)?;
    let (plain, _) = spec.rotary_inverse_frequencies();
    let factor = f64::from(divisors.iter().copied().fold(1.0, f32::max));
    let scaling = RopeScaling::Llama3 {
        factor,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192.0,
    };
    let scaled = DecoderSpec { rope_scaling: Some(scaling.clone()), ..spec.clone() };
    let (scaled, _) = scaled.rotary_inverse_frequencies();
    let is_llama3 = divisors.len() == plain.len()
        && divisors
            .iter()
            .zip(plain.iter().zip(&scaled))
            .all(|(divisor, (plain, scaled))| (plain / divisor - scaled).abs() <= 1e-4 * scaled);
    if is_llama3 {
        Ok(scaling)
    } else {
        Err(ModelError::Malformed {
            path: file.path.clone(),
            problem: format!("tensor `{ROTARY_DIVISORS}` does not follow Llama 3's rotary scaling"),
        })
    }
}

fn token_id(file: &GgufFile, key: &str) -> Result<Option<u32>, ModelError> {
    file.find::<u64>(key)?.map(|id| u32::try_from(id).map_err(|_| malformed(file, key, id))).transpose()
}

fn end_token_ids(file: &GgufFile) -> Result<Vec<u32>, ModelError> {
    let mut ids: Vec<u32> = Vec::new();
    for name in ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"] {
        if let Some(id) = token_id(file, name)?.filter(|id| !ids.contains(id)) {
            ids.push(id);
        }
    }
    Ok(ids)
}

fn malformed(file: &GgufFile, key: &str, value: impl std::fmt::Display) -> ModelError {
    ModelError::Malformed {
        path: file.path.clone(),
        problem: format!("metadata `{key}` is {value}, which this decoder cannot be"),
    }
}
