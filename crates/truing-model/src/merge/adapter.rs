//! A merge saved as a LoRA adapter of its base model: for each projection the two factors that are nearest to the difference
//! between the merged model and the base. Adapters that are merged linearly come out exactly where the rank is the sum of
//! theirs; of other merges the report says what share of the difference is captured.

use std::borrow::Cow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use truing_store::StagedDirectory;
use truing_types::nearest_name;

use super::check::invalid;
use super::low_rank::factor;
use super::report::MergedTensor;
use super::{MergeError, MergePlan, MergeRecipe, SaveAdapter};
use crate::adapters::save_adapter;
use crate::sources::hub_name;
use crate::{
    DecoderSpec, HeadKind, LoraSpec, ModelError, ModelFiles, ParameterRole, ParameterSpec, SaveOptions,
    Tensor, Weights,
};

/// The adapter that a recipe asks for.
pub(super) fn adapter_spec(
    asked: &SaveAdapter,
    recipe: &MergeRecipe,
    spec: &DecoderSpec,
    base: &ModelFiles,
) -> Result<LoraSpec, MergeError> {
    if recipe.base_model.is_none() {
        return Err(invalid("`save_adapter` needs `base_model`: the model that the adapter is for"));
    }
    if base.adapter.is_some() {
        return Err(invalid(
            "`save_adapter`: the base model is an adapter itself; an adapter is for a whole model",
        ));
    }
    let has_base_shape = spec.n_layers == base.spec.n_layers
        && spec.vocab_size == base.spec.vocab_size
        && spec.tie_word_embeddings == base.spec.tie_word_embeddings;
    if !has_base_shape || spec.head != HeadKind::LanguageModel {
        return Err(invalid(
            "`save_adapter` needs a merged language model with the layers, vocabulary and tied head of the base model",
        ));
    }
    let mut projections: Vec<String> = Vec::new();
    for parameter in spec.parameters().iter().filter(|parameter| parameter.role == ParameterRole::Matrix) {
        let name = parameter.name.trim_end_matches(".weight").rsplit('.').next().unwrap_or_default();
        if projections.iter().all(|known| known != name) {
            projections.push(name.to_owned());
        }
    }
    for target in &asked.target_modules {
        if !projections.contains(target) {
            let nearest = nearest_name(target, projections.iter().map(String::as_str));
            let hint = nearest.map_or_else(String::new, |nearest| format!(" (nearest: `{nearest}`)"));
            return Err(invalid(format!(
                "`save_adapter.target_modules` has `{target}`{hint}, expected some of {}",
                projections.join(", ")
            )));
        }
    }
    let largest = spec.hidden_size.min(spec.intermediate_size);
    if asked.rank == 0 || asked.rank > largest {
        return Err(invalid(format!("`save_adapter.rank` is {}, expected 1 to {largest}", asked.rank)));
    }
    let targets = if asked.target_modules.is_empty() { projections } else { asked.target_modules.clone() };
    Ok(LoraSpec { rank: asked.rank, alpha: asked.rank as f32, targets })
}

impl MergePlan {
    /// Merges one tensor after another, and writes the factors of those that the adapter has.
    pub(super) fn write_adapter(
        &self,
        staged: &StagedDirectory,
        lora: &LoraSpec,
        stop: &AtomicBool,
        on_tensor: &mut dyn FnMut(u64),
    ) -> Result<Vec<MergedTensor>, MergeError> {
        let mut weights = Weights::default();
        let mut report = Vec::new();
        let adapted = self.spec.lora_parameters(lora);
        for tensor in &self.tensors {
            if stop.load(Ordering::Relaxed) {
                return Err(MergeError::Interrupted);
            }
            let name = &tensor.parameter.name;
            let projection = name.strip_suffix(".weight").unwrap_or(name);
            let [a, b] = ["lora_A", "lora_B"].map(|part| format!("{projection}.{part}.weight"));
            let factors: Vec<&ParameterSpec> =
                adapted.iter().filter(|p| p.name == a || p.name == b).collect();
            let base = self.models[self.base].parameter_reader(name)?;
            let (mut delta, mut row, mut difference) = (Vec::new(), 0, 0.0);
            let mut of_base = Vec::new();
            let mut merged = self.merge_values(tensor, &mut |values| {
                of_base.resize(values.len(), 0.0);
                base.read_rows(row, &mut of_base)?;
                row += values.len() / base.width;
                let deltas = values.iter().zip(&of_base).map(|(value, base)| value - base);
                difference += deltas.clone().map(|delta| f64::from(delta).powi(2)).sum::<f64>();
                if !factors.is_empty() {
                    delta.extend(deltas);
                }
                Ok(())
            })?;
            let mut captured = if difference == 0.0 { 1.0 } else { 0.0 };
            if let [of_a, of_b] = factors[..] {
                let found = factor(&delta, base.width, lora.rank, self.recipe.seed, name);
                captured = found.captured;
                for (parameter, values) in [(of_a, found.a), (of_b, found.b)] {
                    weights
                        .tensors
                        .insert(parameter.name.clone(), Tensor { shape: parameter.shape.clone(), values });
                }
            }
            (merged.figures.captured, merged.figures.difference) = (Some(captured), Some(difference));
            report.push(merged);
            on_tensor(report.len() as u64);
        }
        let options = SaveOptions {
            dtype: self.dtype,
            tokenizer_files: &self.tokenizer_files,
            ..SaveOptions::default()
        };
        let base = self.name_of_base();
        save_adapter(staged.path(), &self.spec, lora, Some(&base), &options, |parameter| {
            let missing =
                || ModelError::MissingTensor { path: staged.path().into(), tensor: parameter.name.clone() };
            let tensor = weights.get(&parameter.name).ok_or_else(missing)?;
            Ok::<_, ModelError>(Cow::Borrowed(&tensor.values[..]))
        })?;
        Ok(report)
    }

    /// The base model as the adapter names it: one of the hub by its name, any other by its whole path.
    fn name_of_base(&self) -> String {
        let path: &Path = &self.models[self.base].path;
        let whole = || std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        hub_name(path).unwrap_or_else(|| whole().to_string_lossy().into_owned())
    }
}
