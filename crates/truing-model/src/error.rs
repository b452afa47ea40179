//! Everything that can be wrong with a model's files.

use std::path::{Path, PathBuf};

/// A model that could not be found, read or written. Every message names the file, and the field or tensor.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Its reason.
        source: std::io::Error,
    },
    /// A file that ends too early.
    #[error("{}: the file ends inside {what}", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// What was being read.
        what: String,
    },
    /// A file that contradicts its own format.
    #[error("{}: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what was expected.
        problem: String,
    },
    /// GGUF metadata without a key that is needed.
    #[error("{}: metadata has no `{key}` ({expected})", path.display())]
    MissingMetadata {
        /// The GGUF file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The type it should have.
        expected: &'static str,
    },
    /// GGUF metadata of another type than the key should have.
    #[error("{}: metadata `{key}` is {found}, expected {expected}", path.display())]
    WrongMetadata {
        /// The GGUF file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The type it should have.
        expected: &'static str,
        /// The type it has.
        found: &'static str,
    },
    /// A tensor stored in a format that is not read here.
    #[error("{}: tensor `{tensor}` is stored as {dtype}; readable are {readable}", path.display())]
    UnsupportedDtype {
        /// The weights file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its stored type.
        dtype: String,
        /// The types that are read.
        readable: &'static str,
    },
    /// A tensor that the file does not hold.
    #[error("{}: there is no tensor `{tensor}`", path.display())]
    MissingTensor {
        /// The weights file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A tensor of another shape than expected.
    #[error("{}: tensor `{tensor}` has shape {found:?}, expected {expected:?}", path.display())]
    TensorShape {
        /// The weights file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that the configuration asks for.
        expected: Vec<usize>,
    },
    /// Tensors that two files of a set both hold.
    #[error("tensor `{tensor}` is in both {} and {}", first.display(), second.display())]
    DuplicateTensor {
        /// The tensor.
        tensor: String,
        /// One file.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// A configuration without a field that is needed.
    #[error("{}: field `{field}` is missing ({expected})", path.display())]
    MissingField {
        /// The configuration file.
        path: PathBuf,
        /// The field.
        field: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// A configuration field that cannot be used.
    #[error("{}: field `{field}` is {found}, expected {expected}", path.display())]
    WrongField {
        /// The configuration file.
        path: PathBuf,
        /// The field, with a dot before each inner name.
        field: String,
        /// What it holds.
        found: String,
        /// What it should hold.
        expected: String,
    },
    /// An architecture of no known family.
    #[error("{}: architecture `{architecture}` is not known; known are {known}", path.display())]
    UnknownArchitecture {
        /// The file that names it.
        path: PathBuf,
        /// The name.
        architecture: String,
        /// All names that would do.
        known: String,
    },
    /// A specification that its family's config.json has no words for.
    #[error("a config.json of `{architecture}` cannot say {option}")]
    Inexpressible {
        /// The family.
        architecture: String,
        /// What it cannot say.
        option: &'static str,
    },
    /// Parameters that the weights do not hold.
    #[error(
        "{}: {n_missing} of {n_expected} parameters are missing, the first is `{tensor}`", path.display()
    )]
    MissingTensors {
        /// The directory or file.
        path: PathBuf,
        /// The first one missing.
        tensor: String,
        /// How many are missing.
        n_missing: usize,
        /// How many the configuration asks for.
        n_expected: usize,
    },
    /// A directory that is no model.
    #[error(
        "{}: no config.json, and {n_gguf_files} GGUF files (a model is a directory with config.json and \
         safetensors, or one GGUF file){}", path.display(), model_inside(inside.as_deref())
    )]
    NoModel {
        /// The directory.
        path: PathBuf,
        /// GGUF files found in it.
        n_gguf_files: usize,
        /// The model in its folder `model`, as a run's folder has it.
        inside: Option<PathBuf>,
    },
    /// A directory without weights.
    #[error(
        "{}: no weights; expected model.safetensors, or model.safetensors.index.json with the files that it names",
        path.display()
    )]
    NoWeights {
        /// The directory.
        path: PathBuf,
    },
    /// An adapter whose base model is not where the adapter says.
    #[error(
        "{}: this is an adapter of the base model `{base}`, which was not found. Looked at:{}\n`base_model_name_or_path` \
         in its adapter_config.json has to name the base model", adapter.display(), as_list(looked_at)
    )]
    MissingBase {
        /// The adapter's directory.
        adapter: PathBuf,
        /// The base model as the adapter names it.
        base: String,
        /// Every place that was tried.
        looked_at: Vec<String>,
    },
    /// A value that the stored type cannot hold.
    #[error(
        "{}: tensor `{tensor}` has the value {value:e}, which {dtype} cannot hold (at most {largest:e}); nothing was \
         saved under that name. Save as another dtype", path.display()
    )]
    OutOfRange {
        /// The file that was being written.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The value.
        value: f32,
        /// The type.
        dtype: &'static str,
        /// The largest value of that type.
        largest: f32,
    },
    /// An adapter made in a way that is not supported here.
    #[error("{}: field `{field}` is {found}, which is not supported ({supported})", path.display())]
    UnsupportedAdapter {
        /// The adapter's configuration.
        path: PathBuf,
        /// The field.
        field: String,
        /// What it holds.
        found: String,
        /// What would do.
        supported: &'static str,
    },
    /// A file that could not be written.
    #[error(transparent)]
    Store(#[from] truing_store::StoreError),
    /// A model that is nowhere.
    #[error("model `{reference}` was not found. Looked at:{}\n{advice}", as_list(looked_at))]
    NotFound {
        /// What was asked for.
        reference: String,
        /// Every place that was tried, and why it failed.
        looked_at: Vec<String>,
        /// What to do.
        advice: String,
    },
    /// A data set of the hub that is nowhere.
    #[error(
        "data set `{reference}` was not found. Looked at:{}\ngive the path of a file or folder, or a data set of the hub as \
         `organisation/name[/configuration][:split][@revision]`; without a network, copy its files to this machine and give \
         their folder as the path; HF_HUB_OFFLINE=1 asks the caches alone",
        as_list(looked_at)
    )]
    DatasetNotFound {
        /// What was asked for.
        reference: String,
        /// Every place that was tried, and why it failed.
        looked_at: Vec<String>,
    },
    /// A download that failed.
    #[error("{url}: {problem}")]
    Download {
        /// What was asked for.
        url: String,
        /// What happened.
        problem: String,
    },
    /// A file whose content is not what was published.
    #[error("{}: sha256 is {found}, expected {expected}; the file was removed", path.display())]
    Checksum {
        /// The file.
        path: PathBuf,
        /// The published digest.
        expected: String,
        /// The digest found.
        found: String,
    },
}

/// Where the model is in a directory that is none itself.
fn model_inside(model: Option<&Path>) -> String {
    model.map_or_else(String::new, |model| format!("; there is a model in `{}`", model.display()))
}

fn as_list(places: &[String]) -> String {
    places.iter().map(|place| format!("\n  - {place}")).collect()
}
