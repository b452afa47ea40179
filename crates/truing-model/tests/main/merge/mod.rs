//! Merging, on small models made here: every method against a formula written again in double precision; properties;
//! vocabularies; layers; what is refused.

mod layers;
mod methods;
mod oracle;
mod refusals;
mod vocabularies;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde_json::{Value, json};
use truing_model::merge::{MergeError, MergePlan, MergeRecipe, MergeReport};
use truing_model::{DecoderSpec, ModelFiles, SaveDtype, SaveOptions, Tensor, Weights, save_pretrained};
use truing_types::Seed;

use crate::tiny_model;

/// A folder with models that differ by noise.
struct Models {
    folder: tempfile::TempDir,
    spec: DecoderSpec,
    weights: Weights,
}

impl Models {
    /// `base` and variants `a`, `b` and `c` of it, with a tokenizer.
    fn new(name: &str) -> Self {
        let model = ModelFiles::open(&tiny_model(name)).unwrap().load().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let models = Self { folder, spec: model.spec, weights: model.weights };
        models.save("base", &models.spec, &models.weights, SaveDtype::F32);
        for (seed, name) in ["a", "b", "c"].into_iter().enumerate() {
            models.save_variant(name, seed as u64 + 1);
        }
        models
    }

    fn llama() -> Self {
        Self::new("llama_tied_llama3_rope")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The base with noise of its own, and some that all variants share, so that deltas point to one side.
    fn save_variant(&self, name: &str, seed: u64) {
        let mut weights = self.weights.clone();
        for (tensor, Tensor { values, .. }) in &mut weights.tensors {
            let own = Seed(seed).normals(tensor, values.len(), 0.02);
            let shared = Seed(99).normals(tensor, values.len(), 0.02);
            for ((value, own), shared) in values.iter_mut().zip(own).zip(shared) {
                *value += own + shared;
            }
        }
        self.save(name, &self.spec, &weights, SaveDtype::F32);
    }

    fn save(&self, name: &str, spec: &DecoderSpec, weights: &Weights, dtype: SaveDtype) {
        let files = [
            ("tokenizer.json".to_owned(), tokenizer(spec.vocab_size, &[]).to_string().into_bytes()),
            ("tokenizer_config.json".to_owned(), br#"{"chat_template": "base's"}"#.to_vec()),
        ];
        let options = SaveOptions { dtype, tokenizer_files: &files, ..SaveOptions::default() };
        save_pretrained(&self.path(name), spec, &options, |parameter| {
            Ok::<_, truing_model::ModelError>((&weights.get(&parameter.name).unwrap().values[..]).into())
        })
        .unwrap();
    }

    /// A recipe whose models are names of this folder.
    fn recipe(&self, mut recipe: Value) -> MergeRecipe {
        let tolerant = recipe.as_object_mut().unwrap().remove("tolerant").is_some();
        let mut recipe: MergeRecipe = serde_json::from_value(recipe).unwrap();
        recipe.tolerates_unused_parameters = tolerant;
        recipe.check().unwrap();
        recipe.find_models(&mut |name| Ok::<_, MergeError>(self.path(name))).unwrap();
        recipe
    }

    fn plan(&self, recipe: Value) -> Result<MergePlan, MergeError> {
        let mut recipe: MergeRecipe = serde_json::from_value(recipe).unwrap();
        recipe.check()?;
        recipe.find_models(&mut |name| Ok::<_, MergeError>(self.path(name)))?;
        MergePlan::new(recipe)
    }

    /// Merges into `output` of this folder.
    fn merge_to(&self, output: &str, recipe: Value) -> MergeReport {
        let plan = MergePlan::new(self.recipe(recipe)).unwrap();
        let mut done = Vec::new();
        let report = plan.run(&self.path(output), &AtomicBool::new(false), &mut |n| done.push(n)).unwrap();
        assert_eq!(done, (1..=plan.n_tensors() as u64).collect::<Vec<_>>());
        report
    }

    /// Merges and reads the result.
    fn merge(&self, recipe: Value) -> (Weights, MergeReport) {
        let output = format!("out-{}", std::fs::read_dir(self.folder.path()).unwrap().count());
        let report = self.merge_to(&output, recipe);
        (self.load(&output), report)
    }

    fn load(&self, name: &str) -> Weights {
        ModelFiles::open(&self.path(name)).unwrap().load().unwrap().weights
    }
}

/// A tokenizer.json of `t0`, `t1`, ... and added tokens.
fn tokenizer(n_tokens: usize, added: &[&str]) -> Value {
    let n = n_tokens - added.len();
    let vocab: serde_json::Map<String, Value> = (0..n).map(|id| (format!("t{id}"), json!(id))).collect();
    let added: Vec<Value> = added
        .iter()
        .enumerate()
        .map(|(i, content)| json!({"id": n + i, "content": content, "special": true}))
        .collect();
    json!({
        "version": "1.0", "added_tokens": added, "normalizer": null, "pre_tokenizer": null, "decoder": null,
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    })
}

fn bits(weights: &Weights) -> Vec<(&String, Vec<u32>)> {
    let bits = |tensor: &Tensor| tensor.values.iter().map(|value| value.to_bits()).collect();
    weights.tensors.iter().map(|(name, tensor)| (name, bits(tensor))).collect()
}

fn is_empty_but_for(folder: &Path, names: &[&str]) -> bool {
    let mut found: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    found == names
}
