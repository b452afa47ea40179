use std::borrow::Cow;
use std::path::Path;

use truing_model::adapters::{merge_lora, open_adapter, save_adapter};
use truing_model::families::ConfigFile;
use truing_model::{
    LoadedModel, LoraSpec, ModelError, ModelFiles, SaveDtype, SaveOptions, Tensor, Weights, save_pretrained,
};

use crate::{TINY_MODELS, tiny_model};

fn save(directory: &Path, model: &LoadedModel, options: &SaveOptions<'_>) -> Result<(), ModelError> {
    save_pretrained(directory, &model.spec, options, |parameter| {
        Ok(Cow::Borrowed(&model.weights.get(&parameter.name).unwrap().values[..]))
    })
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

const F32: SaveOptions<'_> = SaveOptions {
    dtype: SaveDtype::F32,
    max_shard_bytes: u64::MAX,
    original_config: None,
    generation_config: None,
    tokenizer_files: &[],
    output_names: &[],
    pad_token_id: None,
};

#[test]
fn what_is_saved_loads_again_with_and_without_the_original_config() {
    for name in TINY_MODELS {
        let files = ModelFiles::open(&tiny_model(name)).unwrap();
        let model = files.load().unwrap();
        for original_config in [None, files.config.as_ref()] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("deep/er");
            save(&path, &model, &SaveOptions { original_config, ..F32 }).unwrap();
            assert_eq!(names(&path), ["config.json", "generation_config.json", "model.safetensors"]);
            let back = ModelFiles::open(&path).unwrap().load().unwrap();
            assert_eq!(back.spec, model.spec, "{name}");
            assert!(back.weights == model.weights, "{name}");
        }
    }
}

#[test]
fn half_precision_is_rounded_to_nearest_and_named_in_the_config() {
    let files = ModelFiles::open(&tiny_model("qwen3")).unwrap();
    let model = files.load().unwrap();
    for (dtype, tolerance, name) in
        [(SaveDtype::Bf16, 1.0 / 256.0, "bfloat16"), (SaveDtype::F16, 1.0 / 2048.0, "float16")]
    {
        let directory = tempfile::tempdir().unwrap();
        let original_config = files.config.as_ref();
        save(directory.path(), &model, &SaveOptions { dtype, original_config, ..F32 }).unwrap();
        let config = ConfigFile::open(&directory.path().join("config.json")).unwrap();
        assert_eq!(config.fields()["dtype"], name);
        let back = ModelFiles::open(directory.path()).unwrap().load().unwrap();
        for (name, tensor) in &model.weights.tensors {
            for (value, found) in tensor.values.iter().zip(&back.weights.get(name).unwrap().values) {
                assert!(
                    (value - found).abs() <= tolerance * value.abs() / 1.0 + 1e-7,
                    "{name}: {value} {found}"
                );
            }
        }
    }
}

#[test]
fn large_models_are_cut_into_shards_and_old_weights_are_removed() {
    let model = ModelFiles::open(&tiny_model("mistral")).unwrap().load().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    save(path, &model, &F32).unwrap();
    let tokenizer_files = [("tokenizer.json".to_owned(), b"{}".to_vec())];
    let sharded = SaveOptions { max_shard_bytes: 40_000, tokenizer_files: &tokenizer_files, ..F32 };
    save(path, &model, &sharded).unwrap();
    let shards: Vec<String> = names(path).into_iter().filter(|n| n.ends_with(".safetensors")).collect();
    assert!(shards.len() > 3, "{shards:?}");
    assert_eq!(shards[0], format!("model-00001-of-{:05}.safetensors", shards.len()));
    for shard in &shards {
        assert!(std::fs::metadata(path.join(shard)).unwrap().len() < 45_000);
    }
    assert!(names(path).contains(&"tokenizer.json".to_owned()));
    assert!(ModelFiles::open(path).unwrap().load().unwrap().weights == model.weights);
    save(path, &model, &F32).unwrap();
    assert_eq!(names(path), ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]);
}

#[test]
fn a_save_that_breaks_off_leaves_nothing_that_looks_like_a_model() {
    let model = ModelFiles::open(&tiny_model("mistral")).unwrap().load().unwrap();
    let directory = tempfile::tempdir().unwrap();
    save(directory.path(), &model, &F32).unwrap();
    let result = save_pretrained(directory.path(), &model.spec, &F32, |parameter| {
        if parameter.name == "model.norm.weight" {
            return Ok(Cow::Owned(vec![0.0; 3]));
        }
        Ok(Cow::Borrowed(&model.weights.get(&parameter.name).unwrap().values[..]))
    });
    let message = ModelError::to_string(&result.unwrap_err());
    assert!(message.ends_with("tensor `model.norm.weight` has shape [3], expected [48]"), "{message}");
    assert!(!directory.path().join("config.json").exists());
    // The disk's refusal names the file.
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(save(&file.join("below"), &model, &F32).unwrap_err().to_string().contains("file"));
}

fn adapter(model: &LoadedModel, lora: &LoraSpec) -> Weights {
    let tensors = model.spec.lora_parameters(lora).into_iter().map(|parameter| {
        let values = (0..parameter.n_elements()).map(|i| (i % 7) as f32 / 7.0 - 0.4).collect();
        (parameter.name, Tensor { shape: parameter.shape, values })
    });
    tensors.collect()
}

#[test]
fn adapters_come_back_and_faults_are_named() {
    let model = ModelFiles::open(&tiny_model("qwen2")).unwrap().load().unwrap();
    let lora = LoraSpec { rank: 4, alpha: 6.0, targets: vec!["down_proj".into(), "q_proj".into()] };
    let weights = adapter(&model, &lora);
    let directory = tempfile::tempdir().unwrap();
    let write = || {
        save_adapter(directory.path(), &model.spec, &lora, Some("base"), &F32, |parameter| {
            Ok::<_, ModelError>(Cow::Borrowed(&weights.get(&parameter.name).unwrap().values[..]))
        })
        .unwrap();
    };
    write();
    let (found_lora, found) = open_adapter(directory.path(), &model.spec).unwrap();
    assert_eq!(found_lora, lora);
    assert!(found == weights);

    let change = |field: &str, value: serde_json::Value| {
        write();
        let path = directory.path().join("adapter_config.json");
        let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config[field] = value;
        std::fs::write(&path, config.to_string()).unwrap();
        open_adapter(directory.path(), &model.spec)
    };
    let message = |field: &str, value| change(field, value).unwrap_err().to_string();
    assert!(
        message("use_dora", true.into())
            .ends_with("field `use_dora` is true, which is not supported (only false)")
    );
    assert!(message("r", 8.into()).contains("has shape [4, 48], expected [8, 48]"));
    assert!(
        message("target_modules", "all-linear".into()).contains("k_proj.lora_A.weight"),
        "k_proj is missing"
    );
    let pattern = message("target_modules", r"(?!x).*\.q_proj".into());
    assert!(pattern.contains("a pattern without look-around"), "{pattern}");
    let number = message("target_modules", 3.into());
    assert!(number.contains("a list of module names or a pattern"), "{number}");
    let fewer = serde_json::json!(["q_proj"]);
    assert!(message("target_modules", fewer).contains("adapts nothing that this model has"));
    let more = serde_json::json!(["q_proj", "down_proj", "v_proj"]);
    assert!(message("target_modules", more).contains("v_proj.lora_A.weight"));
    assert_eq!(change("use_rslora", true.into()).unwrap().0.alpha, 12.0);
}

#[test]
fn a_merged_projection_is_the_sum() {
    let mut model = ModelFiles::open(&tiny_model("qwen2")).unwrap().load().unwrap();
    let lora = LoraSpec { rank: 3, alpha: 6.0, targets: vec!["down_proj".into()] };
    let weights = adapter(&model, &lora);
    let before = model.weights.clone();
    merge_lora(&mut model.weights, &model.spec, &lora, &weights).unwrap();
    let name = "model.layers.1.mlp.down_proj";
    let get = |weights: &Weights, name: String| weights.get(&name).unwrap().values.clone();
    let (a, b) =
        (get(&weights, format!("{name}.lora_A.weight")), get(&weights, format!("{name}.lora_B.weight")));
    let (old, new) = (get(&before, format!("{name}.weight")), get(&model.weights, format!("{name}.weight")));
    for (out, input) in [(0, 0), (5, 79), (47, 33)] {
        let delta: f32 = (0..3).map(|r| b[out * 3 + r] * a[r * 80 + input]).sum();
        let at = out * 80 + input;
        assert!((new[at] - old[at] - 2.0 * delta).abs() < 1e-5, "{out} {input}");
    }
    let q = "model.layers.1.self_attn.q_proj.weight";
    assert!(model.weights.get(q) == before.get(q));
}
