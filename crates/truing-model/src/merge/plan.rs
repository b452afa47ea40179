//! From a recipe to what is done: models opened and compared, layers placed, settings of every tensor filled in and checked. No
//! value of a tensor is read here.

use truing_types::Seed;

use super::adapter::adapter_spec;
use super::check::{check_filters, invalid};
use super::method::{Method, TensorSettings};
use super::open_models::OpenModels;
use super::settings::{PlannedSettings, settings_of};
use super::slices::{Layers, Slice, check_equal, merged_config, merged_spec, slices};
use super::tokenizer::{Tokenizers, template_file};
use super::vocabulary::RowMaps;
use super::{MergeError, MergeRecipe};
use crate::families::ConfigFile;
use crate::saving::cut_into_shards;
use crate::{DecoderSpec, LoraSpec, ModelFiles, ParameterRole, ParameterSpec, SaveDtype};

/// A merge that can be made: every name, shape and setting is checked.
#[derive(Debug)]
pub struct MergePlan {
    /// The merged model.
    pub spec: DecoderSpec,
    /// How its values are stored.
    pub dtype: SaveDtype,
    /// What a user should know before the merge is made.
    pub remarks: Vec<String>,
    pub(super) method: &'static Method,
    pub(super) recipe: MergeRecipe,
    pub(super) models: Vec<ModelFiles>,
    pub(super) tensors: Vec<PlannedTensor>,
    pub(super) rows: RowMaps,
    pub(super) config: ConfigFile,
    pub(super) generation_config: Option<ConfigFile>,
    pub(super) tokenizer_files: Vec<(String, Vec<u8>)>,
    /// The base model; the first where none is given.
    pub(super) base: usize,
    /// The adapter that is saved in place of the model.
    pub(super) lora: Option<LoraSpec>,
}

/// A tensor of the merged model.
#[derive(Debug)]
pub(super) struct PlannedTensor {
    pub(super) parameter: ParameterSpec,
    /// The base's tensor, where the method uses one.
    pub(super) base: Option<Source>,
    pub(super) models: Vec<Source>,
    settings: PlannedSettings,
}

/// A model's tensor.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) model: usize,
    pub(super) name: String,
}

impl PlannedTensor {
    pub(super) fn settings(&self, seed: Seed, method: &Method) -> TensorSettings<'_> {
        let PlannedSettings { models, t, lambda, normalize, rescale, row_wise } = self.settings.clone();
        TensorSettings {
            tensor: &self.parameter.name,
            n_values: self.parameter.n_elements(),
            seed,
            has_base: self.base.is_some(),
            elects_sign: method.elects_sign,
            models,
            t,
            lambda,
            normalize,
            rescale,
            row_wise,
        }
    }
}

impl MergePlan {
    /// Opens the models of a recipe, whose names are paths by now ([`MergeRecipe::find_models`]), and plans the merge.
    ///
    /// # Errors
    /// When a model cannot be opened or does not fit the others, vocabularies differ without a word on it, or a setting
    /// cannot be used. No tensor is read before.
    pub fn new(recipe: MergeRecipe) -> Result<Self, MergeError> {
        let mut remarks = recipe.check()?;
        let method = Method::find(&recipe.method)?;
        let mut open = OpenModels::default();
        let slices = slices(&recipe, method, &mut open)?;
        let base = match &recipe.base_model {
            Some(base) => open.index(base, None)?,
            None => slices
                .first()
                .and_then(|slice| slice.base)
                .map_or(slices[0].sources[0].0.model, |base| base.model),
        };
        let models = &open.models;
        check_equal(models, base, &mut remarks)?;
        let tokenizers = Tokenizers::choose(&recipe, models, &open.references, base, &mut remarks)?;
        let mut spec = merged_spec(models, base, &slices)?;
        spec.vocab_size = tokenizers.rows.n_rows;
        let origin = &models[tokenizers.origin];
        spec.bos_token_id = origin.spec.bos_token_id;
        spec.eos_token_ids.clone_from(&origin.spec.eos_token_ids);
        let parameters = spec.parameters();
        let names: Vec<&str> = parameters.iter().map(|parameter| parameter.name.as_str()).collect();
        check_filters(&recipe, &names, &mut remarks)?;
        let tensors = parameters
            .into_iter()
            .map(|parameter| planned(parameter, &slices, &recipe, method, models))
            .collect::<Result<Vec<_>, _>>()?;
        let dtype = match recipe.save_dtype {
            Some(dtype) => dtype,
            None => stored_dtype(models, &tensors)?,
        };
        let config = merged_config(&models[base], origin, &spec)?;
        let mut tokenizer_files = tokenizers.files;
        if let Some(template) = &recipe.chat_template {
            let file = template_file(template, models, &open.references)?;
            tokenizer_files.retain(|(name, _)| *name != file.0 && name != "chat_template.json");
            tokenizer_files.push(file);
        }
        let lora = match &recipe.save_adapter {
            Some(asked) => Some(adapter_spec(asked, &recipe, &spec, &models[base])?),
            None => None,
        };
        let generation_config = origin.generation_config.clone();
        remarks.extend(models.iter().flat_map(ModelFiles::notices));
        drop(slices);
        let (rows, models) = (tokenizers.rows, open.models);
        Ok(Self {
            spec,
            dtype,
            remarks,
            method,
            recipe,
            models,
            tensors,
            rows,
            config,
            generation_config,
            tokenizer_files,
            base,
            lora,
        })
    }

    /// The recipe, with the models' paths.
    #[must_use]
    pub fn recipe(&self) -> &MergeRecipe {
        &self.recipe
    }

    /// Whether rows of the embeddings are matched by token, because the vocabularies differ.
    #[must_use]
    pub fn matches_tokens(&self) -> bool {
        self.rows.of_model.iter().any(Option::is_some)
    }

    /// The method's name.
    #[must_use]
    pub fn method(&self) -> &'static str {
        self.method.name
    }

    /// The models that are read, the base among them.
    #[must_use]
    pub fn models(&self) -> &[ModelFiles] {
        &self.models
    }

    /// How many of the merged model's tensors a model takes part in.
    #[must_use]
    pub fn n_tensors_of(&self, model: usize) -> usize {
        let is_in =
            |tensor: &&PlannedTensor| tensor.base.iter().chain(&tensor.models).any(|s| s.model == model);
        self.tensors.iter().filter(is_in).count()
    }

    /// The weights of a model over its tensors: the smallest and the largest. `None` for the base, and for methods without
    /// weights.
    #[must_use]
    pub fn weights_of(&self, model: usize) -> Option<[f64; 2]> {
        if !self.method.parameters.contains(&"weight") {
            return None;
        }
        let of_tensor = |tensor: &PlannedTensor| {
            let sources = tensor.models.iter().zip(tensor.settings.models.clone());
            sources.filter(|(source, _)| source.model == model).map(|(_, s)| s.weight).collect::<Vec<_>>()
        };
        let weights: Vec<f64> = self.tensors.iter().flat_map(of_tensor).collect();
        let first = *weights.first()?;
        Some(weights.iter().fold([first, first], |[low, high], w| [low.min(*w), high.max(*w)]))
    }

    /// Tensors of the merged model.
    #[must_use]
    pub fn n_tensors(&self) -> usize {
        self.tensors.len()
    }

    /// Bytes of values that will be written.
    #[must_use]
    pub fn bytes_out(&self) -> u64 {
        let n_values = match &self.lora {
            Some(lora) => self.spec.lora_parameters(lora).iter().map(ParameterSpec::n_elements).sum(),
            None => self.spec.n_parameters(),
        };
        n_values as u64 * self.dtype.n_bytes()
    }

    /// Files of weights that will be written.
    #[must_use]
    pub fn n_shards(&self) -> usize {
        if self.lora.is_some() { 1 } else { self.shards().len() }
    }

    pub(super) fn shards(&self) -> Vec<Vec<ParameterSpec>> {
        cut_into_shards(self.spec.parameters(), self.dtype, self.recipe.max_shard_size.0)
    }
}

fn planned(
    parameter: ParameterSpec,
    slices: &[Slice<'_>],
    recipe: &MergeRecipe,
    method: &Method,
    models: &[ModelFiles],
) -> Result<PlannedTensor, MergeError> {
    let (slice, layer) = match parameter.layer {
        Some(layer) => {
            let slice = slices.iter().rfind(|slice| slice.first_layer <= layer);
            let slice = slice.ok_or_else(|| invalid(format!("no slice has layer {layer}")))?;
            (slice, Some(layer - slice.first_layer))
        }
        None if parameter.role == ParameterRole::Embedding => (&slices[0], None),
        None => (&slices[slices.len() - 1], None),
    };
    // As in mergekit: the only layer of a slice is its last, and what is in no layer comes first.
    let position = match layer {
        Some(layer) if slice.n_layers > 1 => layer as f64 / (slice.n_layers - 1) as f64,
        Some(_) => 1.0,
        None => 0.0,
    };
    let name_in = |layers: Layers| match (layer, parameter.layer) {
        (Some(offset), Some(merged)) => {
            let from = format!("layers.{merged}.");
            parameter.name.replacen(&from, &format!("layers.{}.", layers.first + offset), 1)
        }
        _ => parameter.name.clone(),
    };
    let source = |layers: Layers| Source { model: layers.model, name: name_in(layers) };
    let settings = settings_of(&parameter.name, slice, recipe, method, position, &name_in)?;
    let models_of_tensor: Vec<Source> = slice.sources.iter().map(|(layers, ..)| source(*layers)).collect();
    let base = slice.base.map(source);
    for source in base.iter().chain(&models_of_tensor) {
        // Opening a model has checked this; a tied head is read from the embedding.
        models[source.model].stored_dtype(&source.name)?;
    }
    Ok(PlannedTensor { parameter, base, models: models_of_tensor, settings })
}

/// The type that all inputs are stored as, else f32.
fn stored_dtype(models: &[ModelFiles], tensors: &[PlannedTensor]) -> Result<SaveDtype, MergeError> {
    let mut found: Option<&str> = None;
    for source in tensors.iter().flat_map(|tensor| tensor.base.iter().chain(&tensor.models)) {
        let dtype = models[source.model].stored_dtype(&source.name)?;
        if found.is_some_and(|found| found != dtype) {
            return Ok(SaveDtype::F32);
        }
        found = Some(dtype);
    }
    Ok(match found {
        Some("BF16") => SaveDtype::Bf16,
        Some("F16") => SaveDtype::F16,
        _ => SaveDtype::F32,
    })
}
