//! Which layers of which models make the merged model, and whether the models fit each other.

use super::check::invalid;
use super::method::{BaseUse, Method};
use super::open_models::OpenModels;
use super::{MergeError, MergeRecipe, Parameters};
use crate::families::{ConfigFile, config_from_spec};
use crate::{DecoderSpec, HeadKind, ModelFiles};

/// Consecutive layers of the merged model.
pub(super) struct Slice<'a> {
    pub(super) first_layer: usize,
    pub(super) n_layers: usize,
    pub(super) base: Option<Layers>,
    pub(super) sources: Vec<(Layers, &'a Parameters, String)>,
    pub(super) parameters: Option<&'a Parameters>,
    pub(super) place: String,
}

/// Layers of a model, from one on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layers {
    pub(super) model: usize,
    pub(super) first: usize,
}

/// The recipe's slices; of whole models a single one. Opens the models.
pub(super) fn slices<'a>(
    recipe: &'a MergeRecipe,
    method: &Method,
    open: &mut OpenModels,
) -> Result<Vec<Slice<'a>>, MergeError> {
    let uses_base = method.base != BaseUse::ConfigurationOnly;
    let base_of = |base: Option<&String>, open: &mut OpenModels| {
        base.filter(|_| uses_base).map(|base| open.index(base, None)).transpose()
    };
    if !recipe.models.is_empty() {
        let base = base_of(recipe.base_model.as_ref(), open)?.map(|model| Layers { model, first: 0 });
        let mut sources = Vec::new();
        for (i, model) in recipe.models.iter().enumerate() {
            let layers = Layers { model: open.index(&model.model, model.adapter.as_deref())?, first: 0 };
            if base != Some(layers) {
                sources.push((layers, &model.parameters, format!("models.{i} ({})", model.model)));
            }
        }
        let n_layers = open.models[sources[0].0.model].spec.n_layers;
        let place = "parameters".to_owned();
        return Ok(vec![Slice { first_layer: 0, n_layers, base, sources, parameters: None, place }]);
    }
    let mut slices = Vec::new();
    let mut first_layer = 0;
    for (i, slice) in recipe.slices.iter().enumerate() {
        let base = base_of(slice.base_model.as_ref().or(recipe.base_model.as_ref()), open)?;
        let [start, end] = slice.sources[0].layer_range;
        let mut base_layers = None;
        let mut sources = Vec::new();
        for (j, source) in slice.sources.iter().enumerate() {
            let model = open.index(&source.model, source.adapter.as_deref())?;
            let n_layers = open.models[model].spec.n_layers;
            let place = format!("slices.{i}.sources.{j} ({})", source.model);
            let [first, end] = source.layer_range;
            if end > n_layers {
                return Err(invalid(format!(
                    "{place}: `layer_range` ends at {end}, the model has {n_layers} layers"
                )));
            }
            let layers = Layers { model, first };
            if base == Some(model) && base_layers.is_none() {
                base_layers = Some(layers);
            } else {
                sources.push((layers, &source.parameters, place));
            }
        }
        if let (Some(model), None) = (base, base_layers) {
            let n_layers = open.models[model].spec.n_layers;
            if slice.sources.iter().any(|source| source.layer_range != [start, end]) || end > n_layers {
                return Err(invalid(format!(
                    "slices.{i}: the sources have different layers, so the base model's `layer_range` is ambiguous: add it to the sources"
                )));
            }
            base_layers = Some(Layers { model, first: start });
        }
        let place = format!("slices.{i}");
        let parameters = Some(&slice.parameters);
        slices.push(Slice {
            first_layer,
            n_layers: end - start,
            base: base_layers,
            sources,
            parameters,
            place,
        });
        first_layer += end - start;
    }
    Ok(slices)
}

/// Refuses models that are built differently. Fields that change how the same weights are used are remarks.
pub(super) fn check_equal(
    models: &[ModelFiles],
    base: usize,
    remarks: &mut Vec<String>,
) -> Result<(), MergeError> {
    let first = &models[base];
    let fields = |spec: &DecoderSpec| {
        [
            ("architectures", spec.architecture.clone()),
            ("hidden_size", spec.hidden_size.to_string()),
            ("intermediate_size", spec.intermediate_size.to_string()),
            ("num_attention_heads", spec.n_heads.to_string()),
            ("num_key_value_heads", spec.n_kv_heads.to_string()),
            ("head_dim", spec.head_dim.to_string()),
            ("attention_bias", format!("{}", spec.qkv_bias)),
            ("attention_bias", format!("{}", spec.output_bias)),
            ("mlp_bias", spec.mlp_bias.to_string()),
            (
                "num_labels",
                match spec.head {
                    HeadKind::LanguageModel => "none".to_owned(),
                    HeadKind::Score { n_outputs } => n_outputs.to_string(),
                },
            ),
        ]
    };
    for model in models {
        for ((field, found), (_, expected)) in fields(&model.spec).into_iter().zip(fields(&first.spec)) {
            if found != expected {
                let (path, other) = (model.path.clone(), first.path.clone());
                return Err(MergeError::Unequal { path, field, found, other, expected });
            }
        }
        let usage = |spec: &DecoderSpec| {
            [
                ("rope_theta", spec.rope_theta.to_string()),
                ("rope_scaling", format!("{:?}", spec.rope_scaling)),
                ("rms_norm_eps", spec.rms_norm_eps.to_string()),
                ("the family's own options", format!("{:?}", spec.variant)),
            ]
        };
        for ((field, found), (_, kept)) in usage(&model.spec).into_iter().zip(usage(&first.spec)) {
            if found != kept {
                remarks.push(format!(
                    "{}: `{field}` is {found}; the merged model has {kept}, from {}, so its weights run with another configuration than in training",
                    model.path.display(),
                    first.path.display()
                ));
            }
        }
    }
    Ok(())
}

/// The base's specification with the layers of the slices; with a head of its own if any model has one.
pub(super) fn merged_spec(
    models: &[ModelFiles],
    base: usize,
    slices: &[Slice<'_>],
) -> Result<DecoderSpec, MergeError> {
    let mut spec = models[base].spec.clone();
    spec.sliding_windows.clear();
    for slice in slices {
        let (first, ..) = slice.sources[0];
        for (layers, _, place) in &slice.sources {
            let other = &models[layers.model];
            if slice.parameters.is_none() && other.spec.n_layers != slice.n_layers {
                return Err(MergeError::Unequal {
                    path: other.path.clone(),
                    field: "num_hidden_layers",
                    found: other.spec.n_layers.to_string(),
                    other: models[first.model].path.clone(),
                    expected: slice.n_layers.to_string(),
                });
            }
            let windows =
                |layers: Layers| &models[layers.model].spec.sliding_windows[layers.first..][..slice.n_layers];
            if windows(*layers) != windows(first) {
                return Err(invalid(format!(
                    "{place}: the sliding windows of its layers differ from the first source's"
                )));
            }
        }
        if let Some(base) = slice.base {
            let model = &models[base.model];
            if model.spec.n_layers < base.first + slice.n_layers
                || slice.parameters.is_none() && model.spec.n_layers != slice.n_layers
            {
                return Err(MergeError::Unequal {
                    path: model.path.clone(),
                    field: "num_hidden_layers",
                    found: model.spec.n_layers.to_string(),
                    other: models[first.model].path.clone(),
                    expected: slice.n_layers.to_string(),
                });
            }
        }
        spec.sliding_windows
            .extend_from_slice(&models[first.model].spec.sliding_windows[first.first..][..slice.n_layers]);
    }
    spec.n_layers = spec.sliding_windows.len();
    let used = slices.iter().flat_map(|slice| slice.sources.iter().map(|(layers, ..)| layers.model));
    spec.tie_word_embeddings &= used.map(|model| &models[model].spec).all(|spec| spec.tie_word_embeddings);
    Ok(spec)
}

/// config.json of the base with what is different of the merged model: `spec`, and the special tokens of `origin`.
pub(super) fn merged_config(
    base: &ModelFiles,
    origin: &ModelFiles,
    spec: &DecoderSpec,
) -> Result<ConfigFile, MergeError> {
    let path = base.path.join("config.json");
    let mut fields = match &base.config {
        Some(config) => config.fields().clone(),
        None => config_from_spec(spec)?,
    };
    if spec.n_layers != base.spec.n_layers {
        // Fields that list something for each layer follow from the specification.
        let made = config_from_spec(spec)?;
        fields.insert("num_hidden_layers".to_owned(), spec.n_layers.into());
        for field in ["layer_types", "max_window_layers", "use_sliding_window", "sliding_window"] {
            match made.get(field) {
                Some(value) if fields.contains_key(field) => {
                    drop(fields.insert(field.to_owned(), value.clone()))
                }
                _ => drop(fields.remove(field).filter(|_| field == "layer_types")),
            }
        }
    }
    if spec.vocab_size != base.spec.vocab_size {
        fields.insert("vocab_size".to_owned(), spec.vocab_size.into());
    }
    if origin.path != base.path
        && let Some(config) = &origin.config
    {
        for field in ["bos_token_id", "eos_token_id", "pad_token_id"] {
            match config.fields().get(field) {
                Some(id) => drop(fields.insert(field.to_owned(), id.clone())),
                None => drop(fields.remove(field)),
            }
        }
    }
    Ok(ConfigFile::from_fields(fields, &path))
}
