//! Gradients over layers, filters, slices, ties of the head, adapters, and the files of a merged model.

use serde_json::{Value, json};
use truing_model::adapters::save_adapter;
use truing_model::{DecoderSpec, LoraSpec, ModelFiles, SaveDtype, SaveOptions, Tensor, Weights};
use truing_types::Seed;

use super::{Models, bits};

fn values<'a>(weights: &'a Weights, name: &str) -> &'a [f32] {
    &weights.get(name).unwrap_or_else(|| panic!("no {name}")).values
}

/// The share of `b` in a linear merge of `a` and `b`, by tensor.
fn shares_of_b(models: &Models, weight: Value) -> Vec<(String, f64)> {
    let recipe = json!({"method": "task_arithmetic", "base_model": "a", "models": [{"model": "b", "parameters": {"weight": weight}}]});
    let (merged, _) = models.merge(recipe);
    let (a, b) = (models.load("a"), models.load("b"));
    let share = |name: &String| {
        let i = 3;
        let [merged, a, b] = [&merged, &a, &b].map(|weights| f64::from(values(weights, name)[i]));
        (name.clone(), (merged - a) / (b - a))
    };
    merged.tensors.keys().map(share).collect()
}

#[test]
fn gradients_follow_the_layers_and_filters_the_names() {
    let models = Models::llama();
    let near = |found: f64, expected: f64| (found - expected).abs() < 1e-4;
    for (name, share) in shares_of_b(&models, json!([0.0, 1.0])) {
        let expected = match name.split('.').nth(2) {
            Some("0") => 0.0,
            Some("1") => 0.5,
            Some("2") => 1.0,
            // Embedding and final norm.
            _ => 0.0,
        };
        assert!(near(share, expected), "{name}: {share}");
    }
    let filters = json!([
        {"filter": "mlp", "value": [0.25, 0.75]}, {"filter": "self_attn", "value": 0.5}, {"value": 0.125}
    ]);
    for (name, share) in shares_of_b(&models, filters) {
        let expected = match (name.contains("mlp"), name.contains("self_attn"), name.split('.').nth(2)) {
            (true, _, Some("0")) => 0.25,
            (true, _, Some("1")) => 0.5,
            (true, _, _) => 0.75,
            (_, true, _) => 0.5,
            _ => 0.125,
        };
        assert!(near(share, expected), "{name}: {share}");
    }
}

#[test]
fn settings_of_a_model_come_before_those_of_all() {
    let models = Models::llama();
    let recipe = json!({
        "method": "task_arithmetic", "base_model": "a",
        "parameters": {"weight": 0.5},
        "models": [{"model": "b", "parameters": {"weight": {"filter": "norm", "value": 1.0}}}],
    });
    let (merged, _) = models.merge(recipe);
    let (a, b) = (models.load("a"), models.load("b"));
    assert_eq!(values(&merged, "model.norm.weight"), values(&b, "model.norm.weight"));
    let name = "model.layers.0.mlp.up_proj.weight";
    for ((merged, a), b) in values(&merged, name).iter().zip(values(&a, name)).zip(values(&b, name)) {
        assert!((merged - f32::midpoint(*a, *b)).abs() < 1e-7);
    }
}

#[test]
fn slices_stack_layers_and_take_their_scale() {
    for name in ["llama_tied_llama3_rope", "qwen2", "mistral"] {
        let models = Models::new(name);
        let n = models.spec.n_layers;
        let recipe = json!({
            "method": "passthrough",
            "slices": [
                {"sources": [{"model": "a", "layer_range": [0, n]}]},
                {"sources": [{"model": "b", "layer_range": [1, n],
                              "parameters": {"scale": [{"filter": "down_proj", "value": 0.5}, {"value": 1.0}]}}]},
            ],
        });
        models.merge_to("stacked", recipe);
        let opened = ModelFiles::open(&models.path("stacked")).unwrap();
        assert_eq!(opened.spec.n_layers, 2 * n - 1, "{name}");
        let windows = &models.spec.sliding_windows;
        assert_eq!(opened.spec.sliding_windows, [&windows[..], &windows[1..]].concat(), "{name}");
        let merged = opened.load().unwrap().weights;
        let (a, b) = (models.load("a"), models.load("b"));
        for (name, tensor) in &merged.tensors {
            let layer: Option<usize> = name.split('.').nth(2).and_then(|layer| layer.parse().ok());
            let (from, name_there) = match layer {
                Some(layer) if layer >= n => {
                    (&b, name.replace(&format!(".{layer}."), &format!(".{}.", layer - n + 1)))
                }
                None if name.starts_with("model.norm") || name.starts_with("lm_head") => (&b, name.clone()),
                _ => (&a, name.clone()),
            };
            let scale =
                if name.contains("down_proj") && layer.is_some_and(|layer| layer >= n) { 0.5 } else { 1.0 };
            let expected: Vec<f32> = values(from, &name_there).iter().map(|value| value * scale).collect();
            assert_eq!(tensor.values, expected, "{name}");
        }
    }
}

#[test]
fn a_slice_of_several_models_is_merged_with_its_base() {
    let models = Models::llama();
    let recipe = json!({
        "method": "slerp", "base_model": "a", "parameters": {"t": [0, 1]},
        "slices": [{"sources": [{"model": "a", "layer_range": [0, 2]}, {"model": "b", "layer_range": [1, 3]}]}],
    });
    let (merged, _) = models.merge(recipe);
    let (a, b) = (models.load("a"), models.load("b"));
    let up = |layer: usize| format!("model.layers.{layer}.mlp.up_proj.weight");
    assert_eq!(values(&merged, &up(0)), values(&a, &up(0)), "t = 0");
    assert_eq!(values(&merged, &up(1)), values(&b, &up(2)), "t = 1");
    assert!(merged.get(&up(2)).is_none());
}

/// A model with a head of its own, merged with one that ties it: the embedding stands in for the head.
#[test]
fn a_tied_head_is_the_embedding() {
    let models = Models::llama();
    let untied = DecoderSpec { tie_word_embeddings: false, ..models.spec.clone() };
    let mut weights = models.load("a");
    let embedding = weights.get("model.embed_tokens.weight").unwrap().clone();
    let values_of_head = Seed(4).normals("head", embedding.values.len(), 0.1);
    weights
        .tensors
        .insert("lm_head.weight".to_owned(), Tensor { values: values_of_head.clone(), ..embedding });
    models.save("untied", &untied, &weights, SaveDtype::F32);
    models.merge_to("out", json!({"method": "linear", "models": [{"model": "b"}, {"model": "untied"}]}));
    let opened = ModelFiles::open(&models.path("out")).unwrap();
    assert!(!opened.spec.tie_word_embeddings);
    let merged = opened.load().unwrap().weights;
    let b = models.load("b");
    let pairs = values(&b, "model.embed_tokens.weight").iter().zip(&values_of_head);
    for (found, (b, own)) in values(&merged, "lm_head.weight").iter().zip(pairs) {
        assert!((found - f32::midpoint(*b, *own)).abs() < 1e-7);
    }
}

fn save_lora(models: &Models, name: &str, base: &str, seed: u64) -> LoraSpec {
    let lora = LoraSpec { rank: 2, alpha: 3.0, targets: vec!["q_proj".into(), "down_proj".into()] };
    let base = models.path(base);
    let options = SaveOptions { dtype: SaveDtype::F32, ..SaveOptions::default() };
    save_adapter(&models.path(name), &models.spec, &lora, base.to_str(), &options, |parameter| {
        Ok::<_, truing_model::ModelError>(
            Seed(seed).normals(&parameter.name, parameter.n_elements(), 0.1).into(),
        )
    })
    .unwrap();
    lora
}

#[test]
fn adapters_are_merged_as_the_models_they_make() {
    let models = Models::llama();
    save_lora(&models, "lora1", "base", 1);
    save_lora(&models, "lora2", "base", 2);
    for (name, adapter) in [("whole1", "lora1"), ("whole2", "lora2")] {
        models.save(name, &models.spec, &models.load(adapter), SaveDtype::F32);
    }
    let merged = |a: Value, b: Value| {
        models.merge(json!({"method": "ties", "base_model": "base", "parameters": {"density": 0.5}, "models": [a, b]})).0
    };
    let whole = merged(json!({"model": "whole1"}), json!({"model": "whole2"}));
    let adapters = merged(json!({"model": "lora1"}), json!({"model": "lora2"}));
    assert_eq!(bits(&whole), bits(&adapters));
    let on_base = merged(json!({"model": "base", "adapter": "lora1"}), json!({"model": "lora2"}));
    assert_eq!(bits(&whole), bits(&on_base));
    // On another base than its own.
    let on_a =
        models.merge(json!({"method": "passthrough", "models": [{"model": "a", "adapter": "lora1"}]})).0;
    let (a, base, lora) = (models.load("a"), models.load("base"), models.load("lora1"));
    for (name, tensor) in &on_a.tensors {
        for (i, found) in tensor.values.iter().enumerate() {
            let [a, base, lora] = [&a, &base, &lora].map(|weights| values(weights, name)[i]);
            assert!((found - (a + lora - base)).abs() < 1e-6, "{name}");
        }
    }
}

#[test]
fn the_folder_is_a_whole_model() {
    let models = Models::llama();
    std::fs::write(models.path("b").join("chat_template.jinja"), "b's").unwrap();
    let generation = br#"{"eos_token_id": [2, 5], "temperature": 0.6}"#;
    std::fs::write(models.path("a").join("generation_config.json"), generation).unwrap();
    let recipe = json!({
        "method": "linear", "models": [{"model": "a"}, {"model": "b"}], "max_shard_size": "20KB", "save_dtype": "bf16",
        "chat_template": "b",
    });
    let report = models.merge_to("out", recipe);
    let out = models.path("out");
    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    assert_eq!(read("chat_template.jinja"), "b's");
    assert_eq!(read("tokenizer_config.json"), r#"{"chat_template": "base's"}"#);
    assert_eq!(serde_json::from_str::<Value>(&read("generation_config.json")).unwrap()["temperature"], 0.6);
    let saved: Value = serde_json::from_str(&read("merge.json")).unwrap();
    assert_eq!(saved["method"], "linear");
    assert_eq!(saved["tensors"].as_array().unwrap().len(), report.tensors.len());
    let opened = ModelFiles::open(&out).unwrap();
    assert!(opened.safetensors().unwrap().files().len() > 3, "shards");
    assert_eq!(opened.spec.eos_token_ids, [2, 5]);
    assert_eq!(opened.config.as_ref().unwrap().fields()["torch_dtype"], "bfloat16");
    assert!(opened.notices().is_empty(), "{:?}", opened.notices());
    truing_store::CommittedDirectory::open_verified(&out).unwrap();
    // Without a word, as the inputs are stored; computed in f32 from there.
    models.merge_to("again", json!({"method": "passthrough", "models": [{"model": "out"}]}));
    let again = ModelFiles::open(&models.path("again")).unwrap();
    assert_eq!(again.config.as_ref().unwrap().fields()["torch_dtype"], "bfloat16");
    assert_eq!(bits(&models.load("again")), bits(&models.load("out")));
}

#[test]
fn the_most_frequent_template_is_found() {
    let models = Models::llama();
    for (name, template) in [("a", "one"), ("b", "two"), ("c", "two")] {
        std::fs::write(models.path(name).join("chat_template.jinja"), template).unwrap();
    }
    let list = ["a", "b", "c"].map(|name| json!({"model": name}));
    models.merge_to("out", json!({"method": "linear", "models": list, "chat_template": "auto"}));
    assert_eq!(std::fs::read_to_string(models.path("out/chat_template.jinja")).unwrap(), "two");
}

/// Two adapters merged linearly are an adapter again, exactly where the rank is large enough.
#[test]
fn adapters_come_out_as_an_adapter() {
    let models = Models::llama();
    save_lora(&models, "lora1", "base", 1);
    save_lora(&models, "lora2", "base", 2);
    let recipe = |rank: usize, adapter: bool| {
        let mut recipe = json!({
            "method": "task_arithmetic", "base_model": "base", "save_dtype": "f32", "parameters": {"weight": 0.5},
            "models": [{"model": "lora1"}, {"model": "lora2"}],
        });
        if adapter {
            recipe["save_adapter"] = json!({"rank": rank, "target_modules": ["q_proj", "down_proj"]});
        }
        recipe
    };
    let (whole, _) = models.merge(recipe(0, false));
    for (rank, is_exact) in [(4, true), (1, false)] {
        let name = format!("adapter-{rank}");
        let report = models.merge_to(&name, recipe(rank, true));
        assert!(truing_model::is_adapter(&models.path(&name)));
        let opened = ModelFiles::open(&models.path(&name)).unwrap();
        assert_eq!(opened.adapter.as_ref().unwrap().lora.rank, rank);
        assert_eq!(opened.base_path(), std::fs::canonicalize(models.path("base")).unwrap());
        let adapter = models.load(&name);
        let mut largest = 0.0_f32;
        for (name, tensor) in &whole.tensors {
            for (found, expected) in adapter.get(name).unwrap().values.iter().zip(&tensor.values) {
                largest = largest.max((found - expected).abs());
            }
        }
        assert_eq!(largest < 1e-5, is_exact, "{largest}");
        let captured = report.summary().captured.unwrap();
        assert_eq!(captured > 1.0 - 1e-6, is_exact, "{captured}");
        assert!(captured > 0.2, "{captured}");
    }
    let refused = |more: Value| {
        let mut recipe = recipe(4, true);
        recipe.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        models.plan(recipe).unwrap_err().to_string()
    };
    let found = refused(json!({"save_adapter": {"rank": 4, "target_modules": ["qproj"]}}));
    assert!(found.contains("has `qproj` (nearest: `q_proj`), expected some of q_proj, k_proj"), "{found}");
    let found = refused(json!({"save_adapter": {"rank": 0}}));
    assert!(found.contains("`save_adapter.rank` is 0, expected 1 to 48"), "{found}");
    let found = refused(json!({"method": "linear", "base_model": null}));
    assert!(found.contains("`save_adapter` needs `base_model`"), "{found}");
}

#[test]
fn weights_in_8_bits_are_merged_with_their_scales() {
    let models = Models::new("qwen3");
    for name in ["a", "b"] {
        let folder = models.path(name);
        crate::loading::write_in_8_bits(&folder, "_scale_inv", [32, 20], |counts| counts.to_vec());
        let quantization = json!({"quant_method": "fp8", "weight_block_size": [32, 20]});
        crate::loading::set_quantization(&folder, quantization);
    }
    let of = |name: &str| json!({"model": name, "parameters": {"weight": 0.5}});
    models.merge_to("merged", json!({"method": "linear", "models": [of("a"), of("b")]}));
    let [merged, a, b] = ["merged", "a", "b"].map(|name| models.load(name));
    for (name, tensor) in &merged.tensors {
        let pairs = values(&a, name).iter().zip(values(&b, name));
        for (found, (a, b)) in tensor.values.iter().zip(pairs) {
            assert!((found - (a + b) / 2.0).abs() < 1e-6, "{name}: {found}, not the mean of {a} and {b}");
        }
    }
    let config = std::fs::read_to_string(models.path("merged").join("config.json")).unwrap();
    assert!(!config.contains("quantization_config"), "{config}");
}
