//! What is refused, with what message, and that nothing is left.

use std::sync::atomic::AtomicBool;

use serde_json::{Value, json};
use truing_model::merge::{MergeError, MergePlan};
use truing_model::{DecoderSpec, SaveDtype};

use super::{Models, is_empty_but_for};

fn error(models: &Models, recipe: Value) -> String {
    models.plan(recipe.clone()).err().unwrap_or_else(|| panic!("no error: {recipe}")).to_string()
}

#[test]
fn recipes_that_cannot_be_meant_are_refused_before_a_model_is_looked_for() {
    let models = Models::llama();
    let ab = json!([{"model": "a"}, {"model": "b"}]);
    let with = |more: Value| {
        let mut recipe = json!({"models": ab});
        recipe.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        recipe
    };
    let cases = [
        (
            with(json!({"method": "dare-ties"})),
            "unknown merge method `dare-ties` (nearest: `dare_ties`); known are linear, ",
        ),
        (with(json!({"method": "ties"})), "`ties` needs a base model: set `base_model`"),
        (with(json!({"method": "model_stock"})), "`model_stock` needs a base model"),
        (
            with(json!({"method": "slerp", "base_model": "base", "parameters": {"t": 0.5}})),
            "models: 2 models besides the base model, `slerp` takes one",
        ),
        (
            json!({"method": "model_stock", "base_model": "a", "models": ab}),
            "models: 1 model besides the base model, `model_stock` takes at least 2",
        ),
        (json!({"method": "slerp", "base_model": "a", "models": ab}), "`slerp` needs `t`"),
        (json!({"method": "linear"}), "there is nothing to merge"),
        (with(json!({"method": "linear", "slices": [{"sources": []}]})), "both `models` and `slices`"),
        (
            with(json!({"method": "linear", "parameters": {"lambda": 0.5}})),
            "parameters: unknown setting `lambda` for method `linear`; known settings: `weight`, `normalize`",
        ),
        (
            json!({"method": "linear", "models": [{"model": "a", "parameters": {"density": 0.5}}]}),
            "models.0 (a): unknown setting `density` for method `linear`",
        ),
        (
            json!({"method": "ties", "base_model": "base", "models": [{"model": "a", "parameters": {"lambda": 0.5}}]}),
            "models.0 (a): `lambda` is a setting of all models together; put it into `[parameters]`",
        ),
        (
            with(
                json!({"method": "ties", "base_model": "base", "parameters": {"rescale": "keep_probability"}}),
            ),
            "`rescale` is \"keep_probability\", and `ties` does not drop entries at random",
        ),
        (
            json!({"method": "linear", "slices": [{"sources": [{"model": "a", "layer_range": [2, 2]}]}]}),
            "slices.0.sources.0: `layer_range` is [2, 2]",
        ),
        (
            json!({"method": "linear", "slices": [{"sources": [
            {"model": "a", "layer_range": [0, 2]}, {"model": "b", "layer_range": [0, 1]}]}]}),
            "slices.0: sources of 2 layers and 1 layer, expected the same number of layers from each",
        ),
    ];
    for (recipe, expected) in cases {
        let found = error(&models, recipe.clone());
        assert!(found.contains(expected), "{recipe}:\n{found}");
    }
    let mut nan: truing_model::merge::MergeRecipe =
        serde_json::from_value(with(json!({"method": "linear"}))).unwrap();
    nan.models[1].parameters.weight = Some(f64::NAN.into());
    assert_eq!(
        nan.check().unwrap_err().to_string(),
        "models.1 (b): `weight` is NaN, expected a finite number"
    );
}

#[test]
fn values_are_checked_for_every_tensor() {
    let models = Models::llama();
    let ties = |density: Value| json!({"method": "ties", "base_model": "base", "models": [{"model": "a", "parameters": {"density": density}}]});
    let expected = "expected a number above 0 and at most 1: the share that is kept";
    for (density, found) in [
        (json!(0), "`density` is 0 for tensor `model.embed_tokens.weight`"),
        (json!(1.5), "`density` is 1.5 for tensor `model.embed_tokens.weight`"),
        (json!([0.5, 2.0]), "`density` is 1.25 for tensor `model.layers.1.input_layernorm.weight`"),
    ] {
        let error = error(&models, ties(density));
        assert!(error.contains(found) && error.contains(expected), "{error}");
    }
    let cases = [
        (
            json!({"method": "slerp", "base_model": "base", "parameters": {"t": 1.5}, "models": [{"model": "a"}]}),
            "parameters: `t` is 1.5 for tensor `model.embed_tokens.weight`, expected a number from 0 to 1",
        ),
        (
            json!({"method": "slerp", "base_model": "base", "parameters": {"t": {"filter": "mlp", "value": 0.5}},
                "models": [{"model": "a"}]}),
            "parameters: `slerp` has no `t` for tensor `model.embed_tokens.weight`",
        ),
        (
            json!({"method": "della", "base_model": "base", "parameters": {"density": 0.9, "epsilon": 0.2},
                "models": [{"model": "a"}]}),
            "expected a number such that density - epsilon and density + epsilon are between 0 and 1",
        ),
        (
            json!({"method": "breadcrumbs", "base_model": "base", "parameters": {"density": 0.9, "gamma": 1.0},
                "models": [{"model": "a"}]}),
            "`gamma` is 1 for tensor",
        ),
        (
            json!({"method": "linear", "models": [{"model": "a", "parameters": {"weight": 1}},
                                               {"model": "b", "parameters": {"weight": -1}}]}),
            "`sum of the weights` is 0 for tensor `model.embed_tokens.weight`, expected weights whose sum is not 0, or `normalize = false`",
        ),
        (
            json!({"method": "linear", "models": [{"model": "a", "parameters": {"weight": {"filter": "self_atn", "value": 1}}}]}),
            "models.0 (",
        ),
        (
            json!({"method": "linear", "models": [{"model": "a"}], "chat_template": "bb"}),
            "`chat_template` is `bb`",
        ),
        (
            json!({"method": "linear", "models": [{"model": "a"}], "tokenizer": "unoin"}),
            "`tokenizer` is `unoin` (nearest: `union`), expected \"base\", \"union\", \"none\" or one of the models",
        ),
    ];
    for (recipe, expected) in cases {
        let found = error(&models, recipe.clone());
        assert!(found.contains(expected), "{recipe}:\n{found}");
    }
    let filter = error(
        &models,
        json!({"method": "linear", "models": [
        {"model": "a", "parameters": {"weight": {"filter": "self_atn", "value": 1}}}]}),
    );
    assert!(filter.ends_with("filter `self_atn` matches no tensor (nearest: `self_attn`)"), "{filter}");
}

#[test]
fn models_that_do_not_fit_are_refused() {
    let models = Models::llama();
    let pair = |other: &str| json!({"method": "linear", "models": [{"model": "a"}, {"model": other}]});
    // Fewer layers.
    let shorter = DecoderSpec {
        n_layers: models.spec.n_layers - 1,
        sliding_windows: models.spec.sliding_windows[1..].to_vec(),
        ..models.spec.clone()
    };
    models.save("shorter", &shorter, &models.weights, SaveDtype::F32);
    let found = error(&models, pair("shorter"));
    assert!(
        found.contains("`num_hidden_layers` is 2, ") && found.contains(" has 3: only models of one"),
        "{found}"
    );
    // Another architecture.
    for other in ["qwen3", "mistral"] {
        let path = crate::tiny_model(other);
        let found = error(
            &models,
            json!({"method": "linear", "tokenizer": "none", "models": [
            {"model": "a"}, {"model": path}]}),
        );
        assert!(found.contains("`architectures` is "), "{found}");
    }
    // A missing tensor, and one of another shape.
    let mut weights = models.weights.clone();
    let name = "model.layers.1.mlp.up_proj.weight";
    let tensor = weights.tensors.get_mut(name).unwrap();
    tensor.values.truncate(80 * 40);
    tensor.shape[1] = 40;
    let narrow = models.path("narrow");
    std::fs::create_dir(&narrow).unwrap();
    for file in ["config.json", "tokenizer.json"] {
        std::fs::copy(models.path("a").join(file), narrow.join(file)).unwrap();
    }
    write_raw(&narrow.join("model.safetensors"), &weights);
    let found = error(&models, pair("narrow"));
    assert!(
        found.contains("`model.layers.1.mlp.up_proj.weight` has shape [80, 40], expected [80, 48]"),
        "{found}"
    );
    weights.tensors.remove(name);
    write_raw(&narrow.join("model.safetensors"), &weights);
    let found = error(&models, pair("narrow"));
    assert!(
        found.contains("1 of 29 parameters are missing, the first is `model.layers.1.mlp.up_proj.weight`"),
        "{found}"
    );
    // No tokenizer.
    std::fs::remove_file(models.path("b").join("tokenizer.json")).unwrap();
    let found = error(&models, pair("b"));
    assert!(
        found.contains("there is no tokenizer.json") && found.contains("set `tokenizer` to \"none\""),
        "{found}"
    );
    // GGUF.
    let gguf = crate::fixture("gguf");
    let file = std::fs::read_dir(gguf)
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.extension().is_some_and(|e| e == "gguf"));
    let found =
        error(&models, json!({"method": "linear", "models": [{"model": "a"}, {"model": file.unwrap()}]}));
    assert!(found.contains("a GGUF file cannot be merged"), "{found}");
    // Nothing there.
    let found = error(&models, pair("nothing"));
    assert!(found.contains("nothing"), "{found}");
}

fn write_raw(path: &std::path::Path, weights: &truing_model::Weights) {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, tensor) in &weights.tensors {
        let begin = data.len();
        data.extend(tensor.values.iter().flat_map(|value| value.to_le_bytes()));
        let entry = json!({"dtype": "F32", "shape": tensor.shape, "data_offsets": [begin, data.len()]});
        header.insert(name.clone(), entry);
    }
    let header = Value::Object(header).to_string().into_bytes();
    let bytes = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn values_that_are_no_numbers_stop_the_merge_and_leave_nothing() {
    let models = Models::llama();
    for (value, name) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        let mut weights = models.load("b");
        weights.tensors.get_mut("model.layers.2.mlp.down_proj.weight").unwrap().values[5 * 80 + 3] = value;
        models.save("broken", &models.spec, &weights, SaveDtype::F32);
        let folder = tempfile::tempdir().unwrap();
        let plan = models
            .plan(json!({"method": "linear", "models": [{"model": "a"}, {"model": "broken"}]}))
            .unwrap();
        let error = plan
            .run(&folder.path().join("out"), &AtomicBool::new(false), &mut |_| {})
            .unwrap_err()
            .to_string();
        let expected = format!(
            "tensor `model.layers.2.mlp.down_proj.weight` has 1 value that is no finite number, the first is {name} at row 5"
        );
        assert!(error.contains(&expected), "{error}");
        assert!(is_empty_but_for(folder.path(), &[]));
    }
}

#[test]
fn a_value_that_the_dtype_cannot_hold_and_a_stop_leave_nothing() {
    let models = Models::llama();
    let recipe = json!({"method": "task_arithmetic", "base_model": "base", "save_dtype": "f16",
                        "parameters": {"lambda": 1e9}, "models": [{"model": "a"}]});
    let plan = models.plan(recipe).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let error = plan.run(&out, &AtomicBool::new(false), &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("which float16 cannot hold"), "{error}");
    assert!(is_empty_but_for(folder.path(), &[]));
    let stopped = plan.run(&out, &AtomicBool::new(true), &mut |_| {});
    assert!(matches!(stopped, Err(MergeError::Interrupted)));
    assert!(is_empty_but_for(folder.path(), &[]));
}

#[test]
fn an_existing_folder_is_never_replaced() {
    let models = Models::llama();
    let recipe = json!({"method": "linear", "output_dir": models.path("c"), "models": [{"model": "a"}]});
    let found = error(&models, recipe);
    assert!(found.contains("exists already; a merge never replaces a folder"), "{found}");
    let plan =
        MergePlan::new(models.recipe(json!({"method": "linear", "models": [{"model": "a"}]}))).unwrap();
    let run = plan.run(&models.path("c"), &AtomicBool::new(false), &mut |_| {});
    assert!(matches!(run, Err(MergeError::OutputExists { .. })));
    assert_eq!(models.load("c").tensors.len(), models.weights.tensors.len());
}

/// mergekit ignores settings that a method does not have, so a file of its own must not fail for them.
#[test]
fn what_mergekit_ignores_is_a_remark() {
    let models = Models::llama();
    let plan = MergePlan::new(models.recipe(json!({
        "tolerant": true, "method": "linear", "parameters": {"lambda": 0.5, "row_wise": true},
        "models": [{"model": "a", "parameters": {"weight": [{"filter": "lm_head", "value": 0.5}, {"value": 1}]}}],
    })))
    .unwrap();
    let remarks = plan.remarks.join("\n");
    for expected in [
        "parameters: unknown setting `lambda` for method `linear`; ignored",
        "parameters: unknown setting `row_wise` for method `linear`; ignored",
        "filter `lm_head` matches no tensor",
    ] {
        assert!(remarks.contains(expected), "{remarks}");
    }
}
