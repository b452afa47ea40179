//! What can be wrong with a merge. All but what lies in the values is found before a tensor is read.

use std::path::PathBuf;

use crate::ModelError;

/// A merge that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// No method of that name.
    #[error("unknown merge method `{name}`{}; known are {known}", nearest.as_ref().map_or_else(String::new, |nearest| format!(" (nearest: `{nearest}`)")))]
    UnknownMethod {
        /// The name.
        name: String,
        /// The method that is most like it.
        nearest: Option<String>,
        /// All methods.
        known: String,
    },
    /// A method that needs a base model, and none is given.
    #[error("`{method}` needs a base model: set `base_model` to the model that the others were trained from")]
    NoBase {
        /// The method.
        method: &'static str,
    },
    /// Too few or too many models for the method.
    #[error("{place}: {found} besides the base model, `{method}` takes {expected}")]
    NumberOfModels {
        /// Where: the models, or a slice.
        place: String,
        /// The method.
        method: &'static str,
        /// How many there are, in words.
        found: String,
        /// How many it takes, in words.
        expected: String,
    },
    /// A setting that the method does not have.
    #[error("{place}: unknown setting `{parameter}` for method `{method}`{}; known settings: {known}", nearest.as_ref().map_or_else(String::new, |nearest| format!(" (nearest: `{nearest}`)")))]
    UnusedParameter {
        /// Where it stands.
        place: String,
        /// The setting.
        parameter: String,
        /// The method.
        method: &'static str,
        /// The method's setting that is most like it.
        nearest: Option<String>,
        /// All settings of the method.
        known: String,
    },
    /// A value that the method cannot use.
    #[error("{place}: `{parameter}` is {found} for tensor `{tensor}`, expected {expected}")]
    ParameterValue {
        /// The model or slice.
        place: String,
        /// The setting.
        parameter: &'static str,
        /// The tensor.
        tensor: String,
        /// The value.
        found: f64,
        /// What would do.
        expected: &'static str,
    },
    /// Settings that contradict each other or the models.
    #[error("{0}")]
    Recipe(String),
    /// A filter that matches no tensor.
    #[error("{place}: filter `{filter}` matches no tensor{}", nearest.as_ref().map_or_else(String::new, |nearest| format!(" (nearest: `{nearest}`)")))]
    UnusedFilter {
        /// Where it stands.
        place: String,
        /// The filter.
        filter: String,
        /// The part of a name that is most like it.
        nearest: Option<String>,
    },
    /// Models that cannot be merged because they are built differently.
    #[error("{}: `{field}` is {found}, {} has {expected}: only models of one architecture and size can be merged", path.display(), other.display())]
    Unequal {
        /// The model.
        path: PathBuf,
        /// The field of config.json.
        field: &'static str,
        /// What it has.
        found: String,
        /// The model that it is compared with.
        other: PathBuf,
        /// What that one has.
        expected: String,
    },
    /// Vocabularies that differ, and no word on what to do about it.
    #[error("the vocabularies of {} and {} differ: {difference}. Rows of the embedding would be averaged with rows of other tokens; set `tokenizer` to \"base\" or \"union\" to match them by token", first.display(), second.display())]
    UnequalVocabularies {
        /// One model.
        first: PathBuf,
        /// The other.
        second: PathBuf,
        /// The first difference.
        difference: String,
    },
    /// A model without a tokenizer.
    #[error("{}: there is no tokenizer.json, so rows of the embedding cannot be matched to tokens; copy the tokenizer there, or set `tokenizer` to \"none\" to merge rows by number and save no tokenizer", path.display())]
    NoTokenizer {
        /// The model's folder.
        path: PathBuf,
    },
    /// Weights that are quantised.
    #[error("{}: a GGUF file cannot be merged, since its weights are quantised; merge the original model of config.json and safetensors", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
    },
    /// The output is there already.
    #[error("{}: exists already; a merge never replaces a folder. Choose another `output_dir`, or remove it", path.display())]
    OutputExists {
        /// The folder.
        path: PathBuf,
    },
    /// Stopped by the user. Nothing was saved.
    #[error("the merge was stopped; nothing was saved")]
    Interrupted,
    /// A model's files.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl From<truing_store::StoreError> for MergeError {
    fn from(error: truing_store::StoreError) -> Self {
        Self::Model(ModelError::Store(error))
    }
}
