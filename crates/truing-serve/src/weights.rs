//! `/update_weights_from_disk`: other weights for a language model while the server runs (SGLang's endpoint). A trainer
//! writes a folder and sends its path.
//!
//! The folder is read beside the requests that run. They finish with the weights that they began with; later ones wait
//! for the new weights. Prefixes of prompts that were cached are dropped, and `system_fingerprint` names the new
//! files. A folder that cannot be used changes nothing. While it is read, the weights are in memory twice.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use truing_model::{DecoderSpec, EngineError, ModelFiles, PutWeight, WeightSource as _};
use truing_run::{RunError, inputs};

use crate::blocking::blocking;
use crate::error::ApiError;
use crate::fields::{FieldInfo, Fields, honoured, neutral, refused};
use crate::model::ModelEntry;
use crate::state::{Logged, Server};

/// Fields of `/update_weights_from_disk`.
pub(crate) const UPDATE_WEIGHTS_FIELDS: &[FieldInfo] = &[
    honoured("model_path", "folder of the new weights on the server's machine"),
    honoured("model", "may be left out where one model is served"),
    neutral("load_format", "`\"auto\"`, `\"safetensors\"`"),
    neutral("flush_cache", "`true`"),
    neutral("abort_all_requests", "`false`"),
    neutral("is_async", "`false`"),
    neutral("keep_pause", "`false`"),
    neutral("torch_empty_cache", "`false`"),
    neutral("recapture_cuda_graph", "`false`"),
    refused("weight_version", "the digest of the files names the weights (`system_fingerprint`)"),
    refused("token_step", "the digest of the files names the weights (`system_fingerprint`)"),
    refused("manifest", "the tensors are those of the model that is served"),
];

/// A model as it was read from a folder.
struct ReadWeights {
    fingerprint: String,
    tensors: Vec<(String, Vec<f32>)>,
}

/// What names the weights of a model in replies: the digest of its files, shortened.
///
/// # Errors
/// When a file cannot be read.
pub fn fingerprint_of(deciding_files: &[PathBuf]) -> Result<String, RunError> {
    const N_DIGITS: usize = 16;
    let digest = inputs::digest_of_files(deciding_files)?.to_string();
    Ok(format!("truing-{}", &digest[..N_DIGITS]))
}

/// Answers `/update_weights_from_disk`.
pub(crate) async fn update_weights(
    server: &Arc<Server>,
    body: &[u8],
    logged: &mut Logged,
) -> Result<Value, ApiError> {
    if !server.options.updates_weights {
        let message = "weights are not replaced: the server was not started with `--enable-weight-updates`";
        return Err(ApiError::with_status(403, message));
    }
    let mut fields = Fields::of_body(body)?;
    let model = server.model(&mut fields)?;
    logged.model = Some(model.name.clone());
    let spec = model.text()?.spec.clone();
    let path = fields.text("model_path")?;
    let path = fields.required("model_path", path, "the folder of a model")?;
    fields.neutral("load_format", &[json!("auto"), json!("safetensors")])?;
    fields.neutral("flush_cache", &[json!(true)])?;
    for name in ["abort_all_requests", "is_async", "keep_pause", "torch_empty_cache", "recapture_cuda_graph"]
    {
        fields.neutral(name, &[json!(false)])?;
    }
    fields.finish(&[UPDATE_WEIGHTS_FIELDS])?;
    let read = blocking(move || read_weights(Path::new(&path), &spec)).await?;
    // A client that leaves does not keep the new weights from getting their name.
    let replacing = tokio::spawn(replace(Arc::clone(server), model, read));
    replacing.await.map_err(|_| ApiError::with_status(500, "replacing the weights failed"))?
}

/// Replaces the weights once every request that holds them has been answered.
async fn replace(server: Arc<Server>, model: Arc<ModelEntry>, read: ReadWeights) -> Result<Value, ApiError> {
    let limit = server.options.request_timeout;
    let Ok(owned) = tokio::time::timeout(limit, model.own_weights()).await else {
        let seconds = limit.as_secs_f64();
        let message = format!("requests with the former weights were not finished within {seconds} seconds");
        return Err(ApiError::with_status(503, message));
    };
    if let Err(error) = server.replace_weights(model.idx, read.tensors).await {
        // Some parameters may have been written.
        model.rename_weights(&owned, "truing-unknown");
        return Err(error);
    }
    model.rename_weights(&owned, &read.fingerprint);
    Ok(json!({
        "success": true,
        "message": format!("the weights of `{}` were replaced", model.name),
        "num_paused_requests": 0,
        "system_fingerprint": read.fingerprint,
    }))
}

/// Reads a folder with a model like the one that is served.
fn read_weights(path: &Path, served: &DecoderSpec) -> Result<ReadWeights, ApiError> {
    let unusable = |reason: String| ApiError::field("model_path", format!("`model_path`: {reason}"));
    let files = ModelFiles::open(path).map_err(|error| unusable(error.to_string()))?;
    if let Some(difference) = first_difference(served, &files.spec) {
        return Err(unusable(format!("{} is another model: {difference}", path.display())));
    }
    let mut tensors = Vec::new();
    let put: &mut PutWeight<'_> = &mut |name, _, values| {
        tensors.push((name.to_owned(), values));
        Ok::<(), EngineError>(())
    };
    files.weight_source().read_into(put).map_err(|error| unusable(error.to_string()))?;
    let fingerprint = fingerprint_of(&files.deciding_files()).map_err(|error| unusable(error.to_string()))?;
    Ok(ReadWeights { fingerprint, tensors })
}

/// The first setting in which two models differ, in words.
fn first_difference(served: &DecoderSpec, found: &DecoderSpec) -> Option<String> {
    let [served, found] = [served, found].map(|spec| serde_json::to_value(spec).unwrap_or_default());
    let settings = served.as_object()?.iter();
    let mut differing = settings.filter(|(name, value)| found.get(name.as_str()) != Some(value));
    let (name, value) = differing.next()?;
    let found = found.get(name.as_str()).unwrap_or(&Value::Null);
    Some(format!("`{name}` is {found}, expected {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_model_is_named_by_what_differs() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../truing-model/conformance/qwen2");
        let served = ModelFiles::open(&folder).unwrap().spec;
        assert_eq!(first_difference(&served, &served), None);
        let found = DecoderSpec { rope_theta: 5e5, ..served.clone() };
        let expected = format!("`rope_theta` is 500000.0, expected {:?}", served.rope_theta);
        assert_eq!(first_difference(&served, &found), Some(expected));
        let error = read_weights(&folder, &found).err().unwrap();
        assert!(error.message.contains("qwen2 is another model: `rope_theta`"), "{error}");
        let read = read_weights(&folder, &served).unwrap();
        assert_eq!(read.tensors.len(), served.parameters().len());
        assert!(read.fingerprint.starts_with("truing-"), "{}", read.fingerprint);
    }
}
