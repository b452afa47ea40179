//! Encoders: what their files say, and that a saved one is the same.

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;
use truing_model::encoder::{EncoderSaveOptions, save_sentence_transformer};
use truing_model::weights::SafetensorsFile;
use truing_model::{EncoderFiles, ModelError, ParameterSpec, Pooling, SaveDtype, Tensor, Weights};

use crate::tiny_model;

const SIDE_FILES: [&str; 3] = ["modules.json", "sentence_bert_config.json", "1_Pooling/config.json"];

/// A copy of a tiny encoder that a test may spoil.
fn copied(name: &str) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("1_Pooling")).unwrap();
    for file in ["config.json", "model.safetensors"].into_iter().chain(SIDE_FILES) {
        fs::copy(tiny_model(name).join(file), directory.path().join(file)).unwrap();
    }
    directory
}

fn load(directory: &Path) -> (EncoderFiles, Weights) {
    let files = EncoderFiles::open(directory).unwrap();
    let mut weights = Weights::default();
    files
        .load_weights(|parameter, tensor| {
            weights.tensors.insert(parameter.name.clone(), tensor);
            Ok::<_, ModelError>(())
        })
        .unwrap();
    (files, weights)
}

fn save(directory: &Path, files: &EncoderFiles, weights: &Weights, dtype: SaveDtype) {
    let options = EncoderSaveOptions {
        dtype,
        original: files,
        tokenizer_files: &[("vocab.txt".into(), b"a\n".to_vec())],
    };
    save_sentence_transformer(directory, &options, |parameter: &ParameterSpec| {
        Ok::<_, ModelError>(Cow::Borrowed(&weights.get(&parameter.name).unwrap().values[..]))
    })
    .unwrap();
}

/// Gives tensors other names, in the header alone.
fn rename_tensors(directory: &Path, rename: impl Fn(&str) -> String) {
    let path = directory.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let n_header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Map<String, Value> = serde_json::from_slice(&bytes[8..8 + n_header]).unwrap();
    let renamed = header.into_iter().map(|(name, entry)| {
        let name = if name.starts_with("__") { name } else { rename(&name) };
        (name, entry)
    });
    let header = Value::Object(renamed.collect()).to_string().into_bytes();
    let mut renamed = (header.len() as u64).to_le_bytes().to_vec();
    renamed.extend(header);
    renamed.extend(&bytes[8 + n_header..]);
    fs::write(path, renamed).unwrap();
}

fn change_json(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

#[test]
fn a_sentence_transformers_directory_says_everything() {
    let (files, weights) = load(&tiny_model("bert_mean"));
    let spec = &files.spec;
    assert_eq!((spec.hidden_size, spec.n_layers, spec.n_heads, spec.intermediate_size), (24, 3, 4, 44));
    assert_eq!((spec.vocab_size, spec.max_position_embeddings, spec.n_token_types), (96, 40, 2));
    assert_eq!((spec.pooling, spec.is_normalized, spec.max_sequence_length), (Pooling::Mean, true, 32));
    assert_eq!(spec.layer_norm_eps, 1e-6);
    assert_eq!(weights.tensors.len(), spec.parameters().len());
    assert!(files.unused_tensors.is_empty(), "{:?}", files.unused_tensors);
    let cls = EncoderFiles::open(&tiny_model("bert_cls")).unwrap().spec;
    assert_eq!((cls.pooling, cls.is_normalized), (Pooling::Cls, false));
    assert!(EncoderFiles::is_encoder(&tiny_model("bert_mean")));
    assert!(!EncoderFiles::is_encoder(&tiny_model("qwen2")));
}

#[test]
fn a_plain_bert_is_pooled_by_the_mean_whatever_its_tensors_are_called() {
    let directory = copied("bert_mean");
    SIDE_FILES.iter().for_each(|name| fs::remove_file(directory.path().join(name)).unwrap());
    rename_tensors(directory.path(), |name| {
        let name =
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
        if name.starts_with("pooler") { format!("cls.{name}") } else { format!("bert.{name}") }
    });
    let (files, weights) = load(directory.path());
    assert_eq!((files.spec.pooling, files.spec.is_normalized), (Pooling::Mean, false));
    assert_eq!(files.spec.max_sequence_length, 40);
    assert_eq!(weights, load(&tiny_model("bert_mean")).1);
    assert_eq!(files.unused_tensors, ["cls.pooler.dense.bias", "cls.pooler.dense.weight"]);
    // Saved, it is a sentence-transformers directory with names as everybody has them.
    let saved = tempfile::tempdir().unwrap();
    save(saved.path(), &files, &weights, SaveDtype::F32);
    let (again, same) = load(saved.path());
    assert_eq!((again.spec, same), (files.spec, weights));
    assert!(saved.path().join("modules.json").is_file());
    assert!(
        SafetensorsFile::open(saved.path().join("model.safetensors"))
            .unwrap()
            .tensor("pooler.dense.bias")
            .is_none()
    );
}

#[test]
fn the_transformer_may_lie_in_a_folder_of_its_own() {
    let directory = copied("bert_mean");
    let inner = directory.path().join("0_Transformer");
    fs::create_dir(&inner).unwrap();
    for file in ["config.json", "model.safetensors", "sentence_bert_config.json"] {
        fs::rename(directory.path().join(file), inner.join(file)).unwrap();
    }
    change_json(&directory.path().join("modules.json"), |modules| {
        modules[0]["path"] = json!("0_Transformer")
    });
    assert!(EncoderFiles::is_encoder(directory.path()));
    let (files, weights) = load(directory.path());
    assert_eq!(files.spec, EncoderFiles::open(&tiny_model("bert_mean")).unwrap().spec);
    let saved = tempfile::tempdir().unwrap();
    save(saved.path(), &files, &weights, SaveDtype::F32);
    assert_eq!(load(saved.path()).0.spec, files.spec);
}

#[test]
fn what_is_saved_is_the_same_and_keeps_files_and_pooler() {
    for name in ["bert_mean", "bert_cls"] {
        let (files, weights) = load(&tiny_model(name));
        let saved = tempfile::tempdir().unwrap();
        save(saved.path(), &files, &weights, SaveDtype::F32);
        let (again, same) = load(saved.path());
        assert_eq!((&again.spec, same), (&files.spec, weights.clone()));
        for file in SIDE_FILES {
            let read = |folder: &Path| fs::read(folder.join(file)).unwrap();
            assert_eq!(read(saved.path()), read(&tiny_model(name)), "{file}");
        }
        let pooler = |files: &EncoderFiles| files.weights().read("pooler.dense.weight").unwrap();
        assert_eq!(pooler(&again), pooler(&files));
        assert_eq!(fs::read(saved.path().join("vocab.txt")).unwrap(), b"a\n");

        // Over it, rounded.
        save(saved.path(), &files, &weights, SaveDtype::Bf16);
        let (rounded, other) = load(saved.path());
        assert_eq!(rounded.config.fields()["dtype"], "bfloat16");
        let Tensor { values, .. } = other.get("embeddings.LayerNorm.weight").unwrap();
        let exact = &weights.get("embeddings.LayerNorm.weight").unwrap().values;
        assert!(values != exact && values.iter().zip(exact).all(|(a, b)| (a - b).abs() < 0.01));
    }
}

#[test]
fn what_is_not_known_is_refused_by_file_and_field() {
    let check = |file: &str, change: &dyn Fn(&mut Value), expected: &str| {
        let directory = copied("bert_mean");
        change_json(&directory.path().join(file), change);
        let error = EncoderFiles::open(directory.path()).unwrap_err().to_string();
        assert!(error.contains(file) && error.contains(expected), "{file}: {error}");
    };
    let config = "config.json";
    check(
        config,
        &|c| c["hidden_act"] = json!("gelu_new"),
        "field `hidden_act` is \"gelu_new\", expected \"gelu\"",
    );
    check(config, &|c| c["position_embedding_type"] = json!("relative_key"), "expected \"absolute\"");
    check(config, &|c| c["num_attention_heads"] = json!(5), "expected a divisor of hidden_size 24");
    check(config, &|c| c["hidden_size"] = json!(null), "field `hidden_size` is missing");
    check(config, &|c| c["num_hidden_layers"] = json!(1 << 20), "expected at most 4096");
    check("sentence_bert_config.json", &|c| c["max_seq_length"] = json!(2), "expected at least 3");
    let pooling = "1_Pooling/config.json";
    check(pooling, &|c| c["pooling_mode_max_tokens"] = json!(true), "expected one pooling mode alone");
    check(pooling, &|c| *c = json!({"pooling_mode": "weightedmean"}), "`mean`, `cls` or `lasttoken`");
    check("modules.json", &|c| c[2]["type"] = json!("a.models.LSTM"), "module 2 is `LSTM`");
    check("modules.json", &|c| c[1]["path"] = json!("../x"), "a folder of the model's");

    let directory = copied("bert_mean");
    change_json(&directory.path().join(pooling), |c| *c = json!({"pooling_mode": "lasttoken"}));
    assert_eq!(EncoderFiles::open(directory.path()).unwrap().spec.pooling, Pooling::LastToken);
    rename_tensors(directory.path(), |name| name.replace("0.attention.self.query.bias", "other"));
    let error = EncoderFiles::open(directory.path()).unwrap_err().to_string();
    assert!(error.contains("the first is `encoder.layer.0.attention.self.query.bias`"), "{error}");
    let directory = copied("bert_mean");
    change_json(&directory.path().join(config), |c| c["vocab_size"] = json!(97));
    let error = EncoderFiles::open(directory.path()).unwrap_err().to_string();
    assert!(
        error.contains("`embeddings.word_embeddings.weight` has shape [96, 24], expected [97, 24]"),
        "{error}"
    );
}

#[test]
fn an_output_layer_is_saved_as_a_module_of_its_own_and_read_again() {
    let (files, mut weights) = load(&tiny_model("bert_mean"));
    let width = files.spec.hidden_size;
    let files = files.with_new_output_layer(3);
    assert_eq!((files.spec.width(), files.spec.is_normalized), (3, false));
    let values = |n: usize, of: f32| (0..n).map(|i| i as f32 * of).collect();
    let tensor = |shape: &[usize], values| Tensor { shape: shape.to_vec(), values };
    weights.tensors.insert("2_Dense.linear.weight".into(), tensor(&[3, width], values(3 * width, 0.5)));
    weights.tensors.insert("2_Dense.linear.bias".into(), tensor(&[3], values(3, -0.25)));
    let saved = tempfile::tempdir().unwrap();
    save(saved.path(), &files, &weights, SaveDtype::F32);
    let read = |name: &str| -> Value {
        serde_json::from_slice(&fs::read(saved.path().join(name)).unwrap()).unwrap()
    };
    let modules = read("modules.json");
    let kinds: Vec<&str> = modules
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["type"].as_str().unwrap().rsplit('.').next().unwrap())
        .collect();
    assert_eq!(kinds, ["Transformer", "Pooling", "Dense"], "not divided by its norm");
    let config = read("2_Dense/config.json");
    assert_eq!((&config["in_features"], &config["out_features"]), (&json!(width), &json!(3)));
    let own = SafetensorsFile::open(saved.path().join("2_Dense/model.safetensors")).unwrap();
    assert_eq!(own.read("linear.bias").unwrap().values, [0.0, -0.25, -0.5]);
    let (again, same) = load(saved.path());
    assert_eq!(again.spec, files.spec);
    assert!(same == weights && again.unused_tensors.is_empty());
    assert_eq!(again.weight_files().count(), 2);
    let twice = tempfile::tempdir().unwrap();
    save(twice.path(), &again, &same, SaveDtype::F32);
    assert!(load(twice.path()).1 == weights);

    let check = |change: fn(&mut Value), expected: &str| {
        let mut changed = config.clone();
        change(&mut changed);
        fs::write(saved.path().join("2_Dense/config.json"), changed.to_string()).unwrap();
        let error = EncoderFiles::open(saved.path()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(|c| c["activation_function"] = json!("torch.nn.modules.activation.Tanh"), "activation_function");
    check(|c| c["bias"] = json!(false), "`bias`");
    check(|c| c["in_features"] = json!(5), "in_features");
    check(|c| c["out_features"] = json!(4), "`linear.weight` has shape [3, 24], expected [4, 24]");
}

#[test]
fn minilm_opens_and_is_saved_with_the_same_tensors() {
    let Some(model) = std::env::var_os("TRUING_TEST_MINILM") else {
        println!("skipped: TRUING_TEST_MINILM names no model");
        return;
    };
    let (files, weights) = load(Path::new(&model));
    assert_eq!((files.spec.hidden_size, files.spec.n_layers, files.spec.max_sequence_length), (384, 6, 256));
    assert_eq!(files.spec.n_parameters(), 22_565_376);
    assert!(files.unused_tensors.is_empty(), "{:?}", files.unused_tensors);
    let saved = tempfile::tempdir().unwrap();
    save(saved.path(), &files, &weights, SaveDtype::F32);
    let (again, same) = load(saved.path());
    assert_eq!((again.spec, same == weights), (files.spec, true));
}
