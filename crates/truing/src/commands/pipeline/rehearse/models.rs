//! Small models in the place of the real ones in a rehearsal: the same family, tokenizer, chat template, layers and
//! ratio of query to key heads, other widths, and random weights. An encoder is small already and is used as it is.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;
use truing_model::{
    DecoderSpec, EncoderFiles, HeadKind, ModelError, ModelFiles, ParameterRole, ParameterSpec, SaveDtype,
    SaveOptions, save_pretrained, tokenizer_files,
};
use truing_run::model;
use truing_types::Seed;

/// Parameters of a small model, at most, where the vocabulary allows it.
const MAX_PARAMETERS: usize = 4_000_000;
/// Widths of the hidden states that are tried, from the largest.
const WIDTHS: [usize; 8] = [128, 96, 64, 56, 48, 32, 24, 16];
/// Key heads, at most.
const MAX_KEY_HEADS: usize = 2;
/// Width of a head, at most.
const MAX_HEAD_DIM: usize = 16;
/// Standard deviation of the weights, as transformers draws them.
const DEVIATION: f32 = 0.02;
/// Larger files beside the weights are not copied.
const MAX_SIDE_FILE_BYTES: u64 = 1 << 20;

/// Small models by the real ones that they replace.
pub(super) struct SmallModels {
    folder: PathBuf,
    made: Mutex<BTreeMap<PathBuf, PathBuf>>,
}

impl SmallModels {
    /// None yet; they will be in a folder.
    pub(super) fn in_folder(folder: PathBuf) -> Self {
        Self { folder, made: Mutex::default() }
    }

    /// The small model in the place of a real one, made when it is first needed.
    ///
    /// # Errors
    /// When the real model's files cannot be used, or the small one cannot be written.
    pub(super) fn of(&self, real: &Path) -> anyhow::Result<PathBuf> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(small) = made.get(real) {
            return Ok(small.clone());
        }
        let small = if EncoderFiles::is_encoder(real) {
            EncoderFiles::open(real)?.path
        } else {
            let name = real.file_name().unwrap_or(real.as_os_str());
            let folder = self.folder.join(made.len().to_string()).join(name);
            write(&ModelFiles::open(real)?, &folder)?;
            folder
        };
        made.insert(real.to_path_buf(), small.clone());
        Ok(small)
    }

    /// Each small model with the real one.
    pub(super) fn pairs(&self) -> Vec<(PathBuf, PathBuf)> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.iter().map(|(real, small)| (small.clone(), real.clone())).collect()
    }
}

/// The description of a small decoder of the kind of a real one; a real one that is small keeps its sizes.
fn small_spec(real: &DecoderSpec) -> DecoderSpec {
    if real.n_parameters() <= MAX_PARAMETERS {
        return real.clone();
    }
    let n_kv_heads = real.n_kv_heads.min(MAX_KEY_HEADS);
    let of_width = |hidden_size: usize| DecoderSpec {
        hidden_size,
        intermediate_size: (hidden_size * real.intermediate_size / real.hidden_size).next_multiple_of(8),
        n_heads: n_kv_heads * (real.n_heads / real.n_kv_heads),
        n_kv_heads,
        head_dim: real.head_dim.min(MAX_HEAD_DIM),
        ..real.clone()
    };
    let mut specs = WIDTHS.into_iter().map(of_width);
    let fitting = specs.find(|spec| spec.n_parameters() <= MAX_PARAMETERS);
    fitting.unwrap_or_else(|| of_width(WIDTHS[WIDTHS.len() - 1]))
}

/// Writes a small model for a real one. A missing tokenizer is left out here: a stage that needs one says so.
fn write(real: &ModelFiles, folder: &Path) -> anyhow::Result<()> {
    let spec = small_spec(&real.spec);
    let mut files = model::tokenizer(real).map(|tokenizer| tokenizer.files()).unwrap_or_default();
    if let Some(beside) = real.tokenizer_directory() {
        let names = side_files(beside);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        files.extend(tokenizer_files(beside, &names)?);
    }
    for (name, _) in &files {
        // Chat templates may be in a folder of their own.
        if let Some(inner) = folder.join(name).parent() {
            fs::create_dir_all(inner)?;
        }
    }
    let output_names = output_names(real);
    let options = SaveOptions {
        dtype: SaveDtype::F32,
        tokenizer_files: &files,
        output_names: &output_names,
        pad_token_id: real.configured_padding(),
        ..SaveOptions::default()
    };
    save_pretrained(folder, &spec, &options, |parameter| Ok::<_, ModelError>(random_values(parameter)))?;
    Ok(())
}

/// Values of a parameter, the same every time.
fn random_values(parameter: &ParameterSpec) -> Cow<'static, [f32]> {
    let n = parameter.n_elements();
    Cow::Owned(match parameter.role {
        ParameterRole::Norm => vec![1.0; n],
        ParameterRole::Bias => vec![0.0; n],
        _ => Seed(0).normals(&parameter.name, n, DEVIATION),
    })
}

/// Small files that say how a model is used, such as a classifier's labels.
fn side_files(folder: &Path) -> Vec<String> {
    const OWN: [&str; 3] = ["config.json", "generation_config.json", "adapter_config.json"];
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let is_small = |entry: &fs::DirEntry| {
        fs::metadata(entry.path()).is_ok_and(|found| found.is_file() && found.len() <= MAX_SIDE_FILE_BYTES)
    };
    let names = entries.filter(is_small).filter_map(|entry| entry.file_name().into_string().ok());
    let says_how = |name: &String| {
        name.ends_with(".json") && !name.ends_with(".index.json") && !OWN.contains(&name.as_str())
    };
    names.filter(says_how).collect()
}

/// What the outputs of a classifier are called.
fn output_names(real: &ModelFiles) -> Vec<String> {
    let HeadKind::Score { n_outputs } = real.spec.head else { return Vec::new() };
    let labels = real.config.as_ref().and_then(|config| config.fields().get("id2label"));
    let name = |labels: &Value, idx: usize| {
        labels[idx.to_string()].as_str().map_or_else(|| format!("LABEL_{idx}"), str::to_owned)
    };
    labels.map_or_else(Vec::new, |labels| (0..n_outputs).map(|idx| name(labels, idx)).collect())
}

#[cfg(test)]
mod tests {
    use truing_model::families::{ConfigFile, spec_from_config};

    use super::*;

    fn spec(config: Value) -> DecoderSpec {
        let Value::Object(fields) = config else { panic!("an object") };
        spec_from_config(&ConfigFile::from_fields(fields, Path::new("config.json"))).unwrap()
    }

    fn qwen() -> Value {
        serde_json::json!({
            "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu",
            "vocab_size": 152_064, "hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28,
            "num_attention_heads": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
            "max_position_embeddings": 32_768, "tie_word_embeddings": false, "bos_token_id": 151_643,
            "eos_token_id": 151_645,
        })
    }

    #[test]
    fn a_small_model_has_the_kind_and_the_ratios_of_the_real_one() {
        let real = spec(qwen());
        let small = small_spec(&real);
        assert!((1_000_000..6_000_000).contains(&small.n_parameters()), "{}", small.n_parameters());
        assert_eq!((small.n_heads, small.n_kv_heads), (14, 2), "seven query heads for a key head");
        assert_eq!(
            (&small.architecture, small.vocab_size, small.n_layers, small.qkv_bias),
            (&real.architecture, real.vocab_size, 28, true)
        );
        // It can be written as a config.json and read back.
        assert!(truing_model::families::config_from_spec(&small).is_ok());
        let mut tied = qwen();
        tied["tie_word_embeddings"] = true.into();
        tied["vocab_size"] = 1000.into();
        let small = small_spec(&spec(tied));
        assert!(small.hidden_size >= 48 && small.n_parameters() <= MAX_PARAMETERS, "{small:?}");
        assert_eq!(small_spec(&small), small, "a small model keeps its sizes");
    }

    #[test]
    fn a_small_model_is_written_and_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().join("real");
        let mut config = qwen();
        config["vocab_size"] = 300.into();
        let spec = small_spec(&spec(config));
        let options = SaveOptions { dtype: SaveDtype::F32, ..SaveOptions::default() };
        let values = |parameter: &ParameterSpec| Ok::<_, ModelError>(random_values(parameter));
        save_pretrained(&real, &spec, &options, values).unwrap();
        fs::write(real.join("classifier.json"), "{}").unwrap();
        let models = SmallModels::in_folder(folder.path().join("small"));
        let small = models.of(&real).unwrap();
        assert_eq!(models.of(&real).unwrap(), small, "made once");
        assert_eq!(models.pairs(), [(small.clone(), real)]);
        assert_eq!(ModelFiles::open(&small).unwrap().spec, spec);
        assert!(small.join("classifier.json").is_file());
        let missing = models.of(&folder.path().join("none")).unwrap_err().to_string();
        assert!(missing.contains("none"), "{missing}");
    }
}
