//! Adapters beside their base model, and what is said of files that contradict each other.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use truing_model::adapters::{merge_lora, save_adapter};
use truing_model::sources::{FindOptions, find_model, hub_name, names_base_of_hub};
use truing_model::weights::SafetensorsFile;
use truing_model::{
    HeadKind, LoadedModel, LoraSpec, ModelError, ModelFiles, ParameterSpec, SaveDtype, SaveOptions, Tensor,
    Weights, save_pretrained,
};

use crate::{copied_model, tiny_model};

const MODEL: &str = "llama_tied_llama3_rope";

fn f32_options() -> SaveOptions<'static> {
    SaveOptions { dtype: SaveDtype::F32, ..SaveOptions::default() }
}

fn numbers(parameter: &ParameterSpec) -> Vec<f32> {
    (0..parameter.n_elements()).map(|i| ((i * 7 + parameter.name.len()) % 11) as f32 / 11.0 - 0.4).collect()
}

fn lora() -> LoraSpec {
    LoraSpec { rank: 2, alpha: 6.0, targets: vec!["q_proj".into(), "down_proj".into()] }
}

/// Writes an adapter of `base`; with a score head where `n_outputs` is given.
fn write_adapter(directory: &Path, base: &str, n_outputs: Option<usize>) -> Weights {
    let files = ModelFiles::open(&tiny_model(MODEL)).unwrap();
    let files = match n_outputs {
        Some(n) => files.with_new_outputs(n),
        None => files,
    };
    let mut saved = Weights::default();
    save_adapter(directory, &files.spec, &lora(), Some(base), &f32_options(), |parameter| {
        let tensor = Tensor { shape: parameter.shape.clone(), values: numbers(parameter) };
        saved.tensors.insert(parameter.name.clone(), tensor.clone());
        Ok::<_, ModelError>(Cow::Owned(tensor.values))
    })
    .unwrap();
    saved
}

fn change_config(directory: &Path, field: &str, value: Value) {
    let path = directory.join("adapter_config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config[field] = value;
    std::fs::write(&path, config.to_string()).unwrap();
}

#[test]
fn a_score_head_is_saved_with_the_adapter_under_pefts_names() {
    for (n_outputs, task, modules) in [
        (None, "CAUSAL_LM", Value::Null),
        (Some(1), "SEQ_CLS", json!(["score"])),
        (Some(3), "SEQ_CLS", json!(["score"])),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let saved = write_adapter(directory.path(), "base", n_outputs);
        let file = SafetensorsFile::open(directory.path().join("adapter_model.safetensors")).unwrap();
        assert_eq!(file.tensors.len(), saved.tensors.len());
        for (name, tensor) in &saved.tensors {
            assert_eq!(file.read(&format!("base_model.model.{name}")).unwrap(), *tensor);
        }
        let score = file.tensor("base_model.model.score.weight").map(|tensor| tensor.shape.clone());
        assert_eq!(score, n_outputs.map(|n| vec![n, 48]));
        let text = std::fs::read(directory.path().join("adapter_config.json")).unwrap();
        let config: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!((&config["task_type"], &config["modules_to_save"]), (&json!(task), &modules));
        assert_eq!(config["base_model_name_or_path"], "base");
        assert!(!directory.path().join("config.json").exists(), "transformers would take it for a model");
    }
}

#[test]
fn an_adapter_opens_with_its_base_merged_or_apart() {
    for n_outputs in [None, Some(1), Some(3)] {
        let directory = tempfile::tempdir().unwrap();
        let base = tiny_model(MODEL);
        let saved = write_adapter(directory.path(), &base.to_string_lossy(), n_outputs);
        let files = ModelFiles::open(directory.path()).unwrap();
        let expected_head =
            n_outputs.map_or(HeadKind::LanguageModel, |n_outputs| HeadKind::Score { n_outputs });
        assert_eq!(files.spec.head, expected_head);
        assert_eq!((files.path.as_path(), files.base_path()), (directory.path(), base.as_path()));
        let adapter = files.adapter.as_ref().unwrap();
        assert!(adapter.lora.is_same(&lora()));

        let mut expected = ModelFiles::open(&base).unwrap().load().unwrap().weights;
        expected
            .tensors
            .extend(saved.tensors.get_key_value("score.weight").map(|(k, v)| (k.clone(), v.clone())));
        let apart = expected.clone();
        merge_lora(&mut expected, &files.spec, &lora(), &saved).unwrap();
        assert!(files.load().unwrap().weights == expected);

        let mut found = BTreeMap::new();
        files
            .load_weights_and_adapter(|parameter, tensor| {
                assert!(
                    found.insert(parameter.name.clone(), tensor).is_none(),
                    "{} comes twice",
                    parameter.name
                );
                Ok::<_, ModelError>(())
            })
            .unwrap();
        let mut all = apart.tensors;
        all.extend(saved.tensors);
        assert!(found == all);
    }
}

/// Puts tensors of the base's names into an adapter, as `modules_to_save` does.
fn add_whole(adapter: &Path, tensors: &[(&str, &Tensor)]) {
    let path = adapter.join("adapter_model.safetensors");
    let file = SafetensorsFile::open(&path).unwrap();
    let held = file.tensors.iter().map(|tensor| (tensor.name.clone(), file.read(&tensor.name).unwrap()));
    let more = tensors.iter().map(|(name, tensor)| (format!("base_model.model.{name}"), (*tensor).clone()));
    let all: Weights = held.chain(more).collect();
    crate::loading::write_weights(&path, &all);
}

#[test]
fn an_adapter_that_holds_one_side_of_a_tied_pair_leaves_the_other_as_in_the_base() {
    const EMBEDDING: &str = "model.embed_tokens.weight";
    const HEAD: &str = "lm_head.weight";
    let base = tiny_model(MODEL);
    let of_base = ModelFiles::open(&base).unwrap().load().unwrap().weights.get(EMBEDDING).unwrap().clone();
    let changed = |by: f32| {
        let values = of_base.values.iter().map(|value| value + by).collect();
        Tensor { values, ..of_base.clone() }
    };
    let (first, second) = (changed(1.0), changed(2.0));
    let open = |ensure_weight_tying: Option<bool>, held: &[(&str, &Tensor)]| {
        let adapter = tempfile::tempdir().unwrap();
        write_adapter(adapter.path(), &base.to_string_lossy(), None);
        change_config(adapter.path(), "ensure_weight_tying", json!(ensure_weight_tying));
        add_whole(adapter.path(), held);
        let files = ModelFiles::open(adapter.path()).unwrap();
        (files.spec.tie_word_embeddings, files.notices(), files.load().unwrap().weights)
    };
    for ensures in [None, Some(false), Some(true)] {
        for (held, embedding, head, named) in [
            (vec![(EMBEDDING, &first)], &first, &of_base, "`model.embed_tokens.weight`"),
            (vec![(HEAD, &first)], &of_base, &first, "`lm_head.weight`"),
            (vec![(EMBEDDING, &first), (HEAD, &second)], &first, &second, "` and `lm_head.weight`"),
        ] {
            let (is_tied, notices, weights) = open(ensures, &held);
            assert!(!is_tied);
            assert_eq!((weights.get(EMBEDDING), weights.get(HEAD)), (Some(embedding), Some(head)), "{named}");
            assert!(notices.len() == 1 && notices[0].contains(named), "{notices:?}");
        }
    }
    // What PEFT saves with `ensure_weight_tying`: both, equal.
    let (is_tied, notices, weights) = open(Some(true), &[(EMBEDDING, &first), (HEAD, &first)]);
    assert!(is_tied && notices.is_empty(), "{notices:?}");
    assert_eq!((weights.get(EMBEDDING), weights.get(HEAD)), (Some(&first), None));
    // Neither is held: nothing is untied.
    assert!(open(Some(false), &[]).0);
}

#[test]
fn targets_are_module_names_as_peft_matches_them() {
    let base = tiny_model(MODEL);
    let n_layers = ModelFiles::open(&base).unwrap().spec.n_layers;
    let adapter = tempfile::tempdir().unwrap();
    write_adapter(adapter.path(), &base.to_string_lossy(), None);
    let open = |targets: Value, excluded: Value| {
        change_config(adapter.path(), "target_modules", targets);
        change_config(adapter.path(), "exclude_modules", excluded);
        ModelFiles::open(adapter.path()).map(|files| files.adapter.unwrap().lora.targets)
    };
    let whole_names = |n: usize| -> Vec<String> {
        let of_layer =
            |i| [format!("model.layers.{i}.self_attn.q_proj"), format!("model.layers.{i}.mlp.down_proj")];
        (0..n).flat_map(of_layer).collect()
    };
    for targets in [
        json!(["q_proj", "down_proj"]),
        json!(["self_attn.q_proj", "mlp.down_proj", "a_module_of_another_model"]),
        json!(whole_names(n_layers)),
    ] {
        assert_eq!(open(targets, Value::Null).unwrap(), ["down_proj", "q_proj"]);
    }
    let others = json!(["k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"]);
    assert_eq!(open(json!("all-linear"), others).unwrap(), ["down_proj", "q_proj"]);

    let refused = |targets: Value| open(targets, Value::Null).unwrap_err().to_string();
    let message = refused(json!(whole_names(1)));
    let expected = format!("field `target_modules` is `down_proj` on 1 of the {n_layers} layers");
    assert!(message.contains(&expected) && message.contains("on every layer or on none"), "{message}");
    for (name, module) in
        [("embed_tokens", "`model.embed_tokens`"), ("lm_head", "`lm_head`"), ("model.embed_tokens", "embed")]
    {
        let message = refused(json!(["q_proj", name]));
        assert!(message.contains(module) && message.contains("only projections of the blocks"), "{message}");
    }
    // Patterns are of the whole name.
    for (pattern, excluded) in [
        (r".*\.(q_proj|down_proj)", Value::Null),
        (r"model\.layers\.\d+\.(self_attn\.q_proj|mlp\.down_proj)", Value::Null),
        (r".*_proj", json!(r".*\.(k|v|o|gate|up)_proj")),
        ("All-Linear", json!(r".*(k|v|o|gate|up)_proj")),
    ] {
        assert_eq!(open(json!(pattern), excluded).unwrap(), ["down_proj", "q_proj"], "{pattern}");
    }
    for (pattern, expected) in [
        ("q_proj", "a pattern that no module's name matches"),
        (r".*layers\.0\..*q_proj", "on every layer or on none"),
        (r".*(q_proj|lm_head)", "`lm_head` among others"),
        (r"(?!x).*q_proj", "a pattern without look-around"),
    ] {
        let message = refused(json!(pattern));
        assert!(message.contains("`target_modules`") && message.contains(expected), "{message}");
    }
    // The end of a name without a dot before it is another name.
    let message = refused(json!(["proj"]));
    assert!(message.contains(r#"is ["proj"]"#) && message.contains("such as q_proj"), "{message}");
}

#[test]
fn what_changes_the_computation_besides_plain_lora_is_refused() {
    let adapter = tempfile::tempdir().unwrap();
    let base = tiny_model(MODEL);
    for (field, value, is_supported) in [
        ("init_lora_weights", json!("gaussian"), true),
        ("init_lora_weights", json!(false), true),
        ("init_lora_weights", json!("pissa"), false),
        ("init_lora_weights", json!("pissa_niter_4"), false),
        ("init_lora_weights", json!("olora"), false),
        ("alora_invocation_tokens", json!([1, 2]), false),
        ("alora_invocation_tokens", Value::Null, true),
        ("layer_replication", json!([[0, 1], [0, 2]]), false),
        ("use_qalora", Value::Null, true),
        ("use_some_new_method", json!(true), false),
        ("use_some_new_method", json!(false), true),
        ("some_new_config", json!({"a": 1}), false),
        ("loftq_config", json!({}), true),
        ("qalora_group_size", json!(16), true),
        ("use_qalora", json!(true), false),
        ("use_qalora", json!(false), true),
        ("rank_pattern", json!({}), true),
    ] {
        write_adapter(adapter.path(), &base.to_string_lossy(), None);
        change_config(adapter.path(), field, value.clone());
        match ModelFiles::open(adapter.path()) {
            Ok(_) => assert!(is_supported, "{field} {value}"),
            Err(error) => {
                let message = error.to_string();
                assert!(
                    !is_supported && message.contains(&format!("field `{field}` is {value}")),
                    "{message}"
                );
            }
        }
    }
}

/// Fields that PEFT reads module by module are read where they come to one adapter of the model, and refused by name
/// where they do not.
#[test]
fn patterns_of_ranks_alphas_and_layers_are_read_where_all_modules_come_out_equal() {
    let base = tiny_model(MODEL);
    let n_layers = ModelFiles::open(&base).unwrap().spec.n_layers;
    let all_layers: Vec<usize> = (0..n_layers).collect();
    let adapter = tempfile::tempdir().unwrap();
    let open = |fields: &[(&str, Value)]| {
        // Its tensors have rank 2.
        write_adapter(adapter.path(), &base.to_string_lossy(), None);
        for (field, value) in fields {
            change_config(adapter.path(), field, value.clone());
        }
        let files = ModelFiles::open(adapter.path()).map_err(|error| error.to_string())?;
        let lora = files.adapter.unwrap().lora;
        Ok::<_, String>((lora.rank, lora.alpha))
    };
    for (fields, expected) in [
        (&[("rank_pattern", json!({"q_proj": 2, "down_proj": 2})), ("r", json!(8))][..], (2, 6.0)),
        (&[("rank_pattern", json!({r".*\.(q|down)_proj": 2})), ("r", json!(8))], (2, 6.0)),
        (&[("rank_pattern", json!({"k_proj": 9}))], (2, 6.0)),
        (&[("alpha_pattern", json!({"q_proj": 3.0, "mlp.down_proj": 3}))], (2, 3.0)),
        (&[("alpha_pattern", json!({"_proj": 3.0}))], (2, 6.0)),
        (&[("alpha_pattern", json!({"q_proj": 6, "o_proj": 7}))], (2, 6.0)),
        (
            &[("use_rslora", json!(true)), ("r", json!(7)), ("rank_pattern", json!({".*": 2}))],
            (2, 72.0_f32.sqrt()),
        ),
        (&[("layers_to_transform", json!(all_layers))], (2, 6.0)),
        (&[("layers_to_transform", json!(all_layers)), ("layers_pattern", json!("layers"))], (2, 6.0)),
        (&[("layers_to_transform", json!(all_layers)), ("layers_pattern", json!(["h", "layers"]))], (2, 6.0)),
        (&[("layers_to_transform", json!([]))], (2, 6.0)),
    ] {
        assert_eq!(open(fields), Ok(expected), "{fields:?}");
    }
    for (fields, field, expected) in [
        (
            &[("rank_pattern", json!({"q_proj": 4}))][..],
            "rank_pattern",
            "2 for `model.layers.0.mlp.down_proj`, 4 for",
        ),
        (
            &[("alpha_pattern", json!({"q_proj": 4}))],
            "alpha_pattern",
            "4 for `model.layers.0.self_attn.q_proj`, 6 for",
        ),
        (&[("alpha_pattern", json!({"layers.0.self_attn.q_proj": 4}))], "alpha_pattern", "only one value"),
        (&[("alpha_pattern", json!({"q_proj": 4, ".*": 6}))], "alpha_pattern", "only one value"),
        (&[("rank_pattern", json!({"(": 4}))], "rank_pattern", "a number for each pattern"),
        (&[("rank_pattern", json!({".*": 2.5}))], "rank_pattern", "a whole number"),
        (&[("layers_to_transform", json!(0))], "target_modules", "on every layer or on none"),
        (&[("layers_to_transform", json!([0]))], "target_modules", "on every layer or on none"),
        (&[("layers_to_transform", json!("all"))], "layers_to_transform", "indices of layers"),
        (
            &[("layers_to_transform", json!(all_layers)), ("layers_pattern", json!("h"))],
            "target_modules",
            "projections of the model",
        ),
    ] {
        let message = open(fields).unwrap_err();
        assert!(
            message.contains(&format!("field `{field}`")) && message.contains(expected),
            "{fields:?}: {message}"
        );
    }
}

#[test]
fn a_new_head_replaces_the_adapters_and_one_output_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let base = tiny_model(MODEL);
    write_adapter(directory.path(), &base.to_string_lossy(), Some(1));
    let has_score = |files: ModelFiles| files.load().unwrap().weights.get("score.weight").is_some();
    assert!(has_score(ModelFiles::open(directory.path()).unwrap().with_score_head()));
    assert!(!has_score(ModelFiles::open(directory.path()).unwrap().with_new_outputs(2)));
}

#[test]
fn a_base_is_found_beside_the_adapter_and_a_missing_one_is_named_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = folder.path().join("adapter");
    write_adapter(&adapter, "../base", None);
    let message = ModelFiles::open(&adapter).unwrap_err().to_string();
    assert!(
        message.contains(&*adapter.to_string_lossy()) && message.contains("base model `../base`"),
        "{message}"
    );
    let base = folder.path().join("base");
    std::fs::create_dir(&base).unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(tiny_model(MODEL).join(file), base.join(file)).unwrap();
    }
    let files = ModelFiles::open(&adapter).unwrap();
    assert_eq!(files.base_path().canonicalize().unwrap(), base.canonicalize().unwrap());

    change_config(&adapter, "base_model_name_or_path", Value::Null);
    let message = ModelFiles::open(&adapter).unwrap_err().to_string();
    assert!(message.contains("field `base_model_name_or_path` is missing"), "{message}");

    write_adapter(&base, "elsewhere", None);
    assert_eq!(ModelFiles::open(&base).unwrap().base_path(), base, "a whole model is its own base");
    std::fs::remove_file(base.join("config.json")).unwrap();
    change_config(&adapter, "base_model_name_or_path", json!(base));
    let message = ModelFiles::open(&adapter).unwrap_err().to_string();
    assert!(message.contains("is an adapter itself"), "{message}");

    std::fs::rename(adapter.join("adapter_model.safetensors"), adapter.join("adapter_model.bin")).unwrap();
    change_config(&adapter, "base_model_name_or_path", json!(tiny_model(MODEL)));
    let message = ModelFiles::open(&adapter).unwrap_err().to_string();
    assert!(message.contains("pickled weights are not read"), "{message}");
}

#[test]
fn a_base_that_is_a_name_is_found_as_models_are() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = folder.path().join("adapter");
    write_adapter(&adapter, "org/tiny", Some(1));
    assert!(names_base_of_hub(&adapter) && !names_base_of_hub(&tiny_model(MODEL)));
    let mut options = FindOptions::new(folder.path().join("cache"), "http://127.0.0.1:9");
    options.is_offline = true;
    let find = |options: &FindOptions| find_model(&adapter.to_string_lossy(), options, &mut |_| ());
    let message = find(&options).unwrap_err().to_string();
    assert!(
        message.contains(&*adapter.to_string_lossy()) && message.contains("base model `org/tiny`"),
        "{message}"
    );
    assert!(message.contains("not used, because offline was chosen"), "{message}");

    let model = folder.path().join("cache/models/org--tiny");
    std::fs::create_dir_all(model.join("0123")).unwrap();
    std::fs::create_dir_all(model.join("refs")).unwrap();
    std::fs::write(model.join("refs/main"), "0123").unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(tiny_model(MODEL).join(file), model.join("0123").join(file)).unwrap();
    }
    let found = find(&options).unwrap().path;
    let files = ModelFiles::open(&found).unwrap();
    assert_eq!(files.base_path(), model.join("0123"));
    assert_eq!(hub_name(files.base_path()).as_deref(), Some("org/tiny"));
    assert_eq!(hub_name(&model.join("4567")), None, "a commit that is not main");
    assert_eq!(hub_name(&tiny_model(MODEL)), None);
    assert_eq!(files.spec.head, HeadKind::Score { n_outputs: 1 });
    files.load().unwrap();
    // Weights that are trained further meanwhile are seen.
    let before = std::fs::read(found.join("adapter_model.safetensors")).unwrap();
    std::fs::write(adapter.join("adapter_model.safetensors"), [&before[..], b"x"].concat()).unwrap();
    assert_eq!(find(&options).unwrap().path, found);
    assert_eq!(std::fs::read(found.join("adapter_model.safetensors")).unwrap().len(), before.len() + 1);
}

fn save(directory: &Path, model: &LoadedModel, options: &SaveOptions<'_>) -> Result<(), ModelError> {
    save_pretrained(directory, &model.spec, options, |parameter| {
        Ok(Cow::Borrowed(&model.weights.get(&parameter.name).unwrap().values[..]))
    })
}

/// A tied model whose files hold a head as well.
fn with_stored_head(change: impl Fn(&mut Tensor)) -> tempfile::TempDir {
    let directory = copied_model(MODEL);
    let mut model = ModelFiles::open(directory.path()).unwrap().load().unwrap();
    assert!(model.spec.tie_word_embeddings);
    let mut head = model.weights.get("model.embed_tokens.weight").unwrap().clone();
    change(&mut head);
    model.weights.tensors.insert("lm_head.weight".into(), head);
    model.spec.tie_word_embeddings = false;
    save(directory.path(), &model, &f32_options()).unwrap();
    let config = std::fs::read(tiny_model(MODEL).join("config.json")).unwrap();
    std::fs::write(directory.path().join("config.json"), config).unwrap();
    directory
}

#[test]
fn a_tied_configuration_with_another_stored_head_is_said_and_the_stored_head_counts() {
    let same = with_stored_head(|_| ());
    let files = ModelFiles::open(same.path()).unwrap();
    assert!(files.spec.tie_word_embeddings && files.notices().is_empty() && files.unused_tensors.is_empty());

    // The last value alone differs.
    let other = with_stored_head(|head| *head.values.last_mut().unwrap() += 1.0);
    let files = ModelFiles::open(other.path()).unwrap();
    assert!(!files.spec.tie_word_embeddings);
    assert_eq!(files.notices(), files.contradictions);
    assert!(
        files.notices()[0].contains("`lm_head.weight` that differs from the embedding"),
        "{:?}",
        files.notices()
    );
    let model = files.load().unwrap();
    assert!(model.weights.get("lm_head.weight") != model.weights.get("model.embed_tokens.weight"));
    // Saved again, the configuration tells the truth and keeps its other fields.
    let again = tempfile::tempdir().unwrap();
    let options = SaveOptions { original_config: files.config.as_ref(), ..f32_options() };
    save(again.path(), &model, &options).unwrap();
    let back = ModelFiles::open(again.path()).unwrap();
    assert!(!back.spec.tie_word_embeddings && back.notices().is_empty());
    let [before, after] = [&files, &back].map(|files| files.config.as_ref().unwrap().fields().clone());
    assert_eq!(after["tie_word_embeddings"], false);
    assert!(before.keys().all(|key| after.contains_key(key)));
    assert!(back.load().unwrap().weights == model.weights);
    // A reward model has no use for either.
    assert!(ModelFiles::open(other.path()).unwrap().with_score_head().load().is_ok());
}

#[test]
fn a_stale_single_file_beside_shards_is_said() {
    let directory = copied_model(MODEL);
    let path = directory.path();
    let model = ModelFiles::open(path).unwrap().load().unwrap();
    let single = std::fs::read(path.join("model.safetensors")).unwrap();
    save(path, &model, &SaveOptions { max_shard_bytes: 40_000, ..f32_options() }).unwrap();
    assert!(ModelFiles::open(path).unwrap().notices().is_empty());
    std::fs::write(path.join("model.safetensors"), single).unwrap();
    let notices = ModelFiles::open(path).unwrap().notices();
    assert!(notices.len() == 1 && notices[0].contains("`model.safetensors` is loaded"), "{notices:?}");
    // An index of the single file is no contradiction.
    std::fs::write(
        path.join("model.safetensors.index.json"),
        r#"{"weight_map": {"model.norm.weight": "model.safetensors"}}"#,
    )
    .unwrap();
    assert!(ModelFiles::open(path).unwrap().notices().is_empty());
}

#[test]
fn tensors_that_no_parameter_wants_are_counted_and_the_first_are_named() {
    let directory = copied_model(MODEL);
    let model = ModelFiles::open(directory.path()).unwrap().load().unwrap();
    let extra: Vec<ParameterSpec> = (0..5)
        .map(|i| ParameterSpec {
            name: format!("visual.{i}.weight"),
            shape: vec![1],
            ..model.spec.parameters()[0].clone()
        })
        .collect();
    let mut tensors = model.weights.clone();
    for parameter in &extra {
        tensors.tensors.insert(parameter.name.clone(), Tensor { shape: vec![1], values: vec![0.0] });
    }
    crate::loading::write_weights(&directory.path().join("model.safetensors"), &tensors);
    let notices = ModelFiles::open(directory.path()).unwrap().notices();
    let expected = "5 tensors in the files are not used by this architecture and are not loaded: \
                    `visual.0.weight`, `visual.1.weight`, `visual.2.weight`, 2 more";
    assert!(notices.len() == 1 && notices[0].ends_with(expected), "{notices:?}");
}

#[test]
fn a_value_that_the_dtype_cannot_hold_is_refused_by_name() {
    let mut model = ModelFiles::open(&tiny_model("qwen2")).unwrap().load().unwrap();
    let name = "model.layers.1.mlp.down_proj.weight";
    for (dtype, largest, beyond, named) in
        [(SaveDtype::F16, 65_504.0, -65_520.0, "float16"), (SaveDtype::Bf16, 3.389e38, 3.4e38, "bfloat16")]
    {
        let directory = tempfile::tempdir().unwrap();
        let options = SaveOptions { dtype, ..SaveOptions::default() };
        *model.weights.tensors.get_mut(name).unwrap().values.last_mut().unwrap() = largest;
        save(directory.path(), &model, &options).unwrap();
        let back = ModelFiles::open(directory.path()).unwrap().load().unwrap();
        assert!(back.weights.get(name).unwrap().values.iter().all(|value| value.is_finite()));
        *model.weights.tensors.get_mut(name).unwrap().values.last_mut().unwrap() = beyond;
        let message = save(directory.path(), &model, &options).unwrap_err().to_string();
        assert!(message.contains(&format!("tensor `{name}`")) && message.contains(named), "{message}");
        assert!(!directory.path().join("config.json").exists());
        save(directory.path(), &model, &f32_options()).unwrap();
    }
}
