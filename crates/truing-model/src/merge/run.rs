//! A plan carried out: tensor by tensor into a folder that is either complete or not there.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use rayon::prelude::*;
use serde_json::{Map, Value, json};
use truing_store::StagedDirectory;

use super::check::check_output;
use super::input::Input;
use super::plan::{PlannedTensor, Source};
use super::report::{MergeReport, MergedTensor, REPORT_FILE};
use super::stream::{Limits, TensorInputs, merge_tensor};
use super::{MergeError, MergePlan};
use crate::saving::{
    SaveOptions, check_range, generation_config, safetensors_header, saved_config, shard_name,
};
use crate::weights::INDEX_FILE;
use crate::{ModelError, ParameterRole, ParameterSpec};

/// Values that are converted at a time.
const CHUNK_VALUES: usize = 1 << 16;
/// Parts that may wait for the disk.
const N_WAITING: usize = 2;

impl MergePlan {
    /// Merges into a folder that is not there yet. `on_tensor` gets the number of tensors done. Nothing is left where the merge
    /// fails or `stop` is set.
    ///
    /// # Errors
    /// When the folder is there, a tensor cannot be read, a value is not finite or does not fit into the dtype, or the disk
    /// refuses.
    pub fn run(
        &self,
        output: &Path,
        stop: &AtomicBool,
        on_tensor: &mut dyn FnMut(u64),
    ) -> Result<MergeReport, MergeError> {
        check_output(output)?;
        let mut staged = StagedDirectory::begin(output)?;
        if let Some(lora) = &self.lora {
            let tensors = self.write_adapter(&staged, lora, stop, on_tensor)?;
            let report = self.report(tensors);
            write_json(&mut staged, REPORT_FILE, &serde_json::to_value(&report).unwrap_or_default())?;
            staged.commit()?;
            return Ok(report);
        }
        let shards = self.shards();
        let mut weight_map = Map::new();
        let mut tensors = Vec::new();
        let mut planned = self.tensors.iter();
        for (i, shard) in shards.iter().enumerate() {
            let name = shard_name(i, shards.len());
            let of_shard: Vec<&PlannedTensor> = planned.by_ref().take(shard.len()).collect();
            let mut done = |n: usize| on_tensor((tensors.len() + n) as u64);
            let merged = self.write_shard(&mut staged, &name, shard, &of_shard, stop, &mut done)?;
            tensors.extend(merged);
            weight_map.extend(shard.iter().map(|parameter| (parameter.name.clone(), json!(name))));
        }
        if shards.len() > 1 {
            let index = json!({"metadata": {"total_size": self.bytes_out()}, "weight_map": weight_map});
            write_json(&mut staged, INDEX_FILE, &index)?;
        }
        let report = self.report(tensors);
        self.write_beside_weights(&mut staged, &report)?;
        staged.commit()?;
        Ok(report)
    }

    fn report(&self, tensors: Vec<MergedTensor>) -> MergeReport {
        MergeReport {
            method: self.method(),
            recipe: self.recipe.clone(),
            remarks: self.remarks.clone(),
            tensors,
            bytes_out: self.bytes_out(),
        }
    }

    fn write_beside_weights(
        &self,
        staged: &mut StagedDirectory,
        report: &MergeReport,
    ) -> Result<(), MergeError> {
        for (name, content) in &self.tokenizer_files {
            staged.write(name, content)?;
        }
        let options =
            SaveOptions { dtype: self.dtype, original_config: Some(&self.config), ..SaveOptions::default() };
        let generation = match &self.generation_config {
            Some(config) => config.fields().clone(),
            None => generation_config(&self.spec),
        };
        write_json(staged, "generation_config.json", &Value::Object(generation))?;
        write_json(staged, REPORT_FILE, &serde_json::to_value(report).unwrap_or_default())?;
        write_json(staged, "config.json", &Value::Object(saved_config(&self.spec, &options)?))
    }

    /// Writes one file of weights. Its bytes go to the disk while the next rows are merged.
    fn write_shard(
        &self,
        staged: &mut StagedDirectory,
        name: &str,
        parameters: &[ParameterSpec],
        tensors: &[&PlannedTensor],
        stop: &AtomicBool,
        done: &mut dyn FnMut(usize),
    ) -> Result<Vec<MergedTensor>, MergeError> {
        let path = staged.path().join(name);
        let io_error = |source| MergeError::Model(ModelError::Io { path: path.clone(), source });
        let mut file = staged.file(name)?;
        file.write_all(&safetensors_header(parameters, self.dtype)).map_err(io_error)?;
        let (send, receive) = sync_channel::<Vec<u8>>(N_WAITING);
        thread::scope(|scope| {
            let writer = scope.spawn(move || -> std::io::Result<_> {
                for bytes in receive {
                    file.write_all(&bytes)?;
                }
                Ok(file)
            });
            let mut merged = Vec::with_capacity(tensors.len());
            let mut result = Ok(());
            for tensor in tensors {
                if stop.load(Ordering::Relaxed) {
                    result = Err(MergeError::Interrupted);
                    break;
                }
                match self.merge_one(tensor, &path, &send) {
                    Ok(one) => merged.push(one),
                    Err(error) => {
                        result = Err(error);
                        break;
                    }
                }
                done(merged.len());
            }
            drop(send);
            // The writer's error comes first: a merge that could not hand its bytes on failed because of it.
            let file =
                writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).map_err(io_error)?;
            result?;
            file.finish()?;
            Ok(merged)
        })
    }

    /// Merges a tensor for the file at `path` and sends its bytes.
    fn merge_one(
        &self,
        tensor: &PlannedTensor,
        path: &Path,
        send: &SyncSender<Vec<u8>>,
    ) -> Result<MergedTensor, MergeError> {
        let (dtype, name) = (self.dtype, &tensor.parameter.name);
        self.merge_values(tensor, &mut |values| {
            let n_bytes = dtype.n_bytes() as usize;
            let mut bytes = vec![0; values.len() * n_bytes];
            let parts = values.par_chunks(CHUNK_VALUES).zip(bytes.par_chunks_mut(CHUNK_VALUES * n_bytes));
            let results: Vec<_> = parts
                .map(|(values, bytes)| {
                    check_range(dtype, values, path, name)?;
                    dtype.encode_into(values, bytes);
                    Ok::<_, ModelError>(())
                })
                .collect();
            results.into_iter().collect::<Result<(), _>>()?;
            // The receiver is gone only where writing failed, which is reported in place of this.
            send.send(bytes).map_err(|_| MergeError::Interrupted)
        })
    }

    /// Merges a tensor; `put` gets its values in order, whole rows at a time.
    pub(super) fn merge_values(
        &self,
        tensor: &PlannedTensor,
        put: &mut dyn FnMut(&[f32]) -> Result<(), MergeError>,
    ) -> Result<MergedTensor, MergeError> {
        let ParameterSpec { name, shape, role, .. } = &tensor.parameter;
        let is_by_token = matches!(role, ParameterRole::Embedding | ParameterRole::Head);
        let open = |source: &Source| {
            let rows = self.rows.of_model[source.model].as_deref().filter(|_| is_by_token);
            Input::open(&self.models, source.model, &source.name, rows)
        };
        let (n_rows, width) = match shape[..] {
            [n_rows, width] => (n_rows, width),
            _ => (1, tensor.parameter.n_elements()),
        };
        let inputs = TensorInputs {
            base: tensor.base.as_ref().map(open).transpose()?,
            models: tensor.models.iter().map(open).collect::<Result<_, _>>()?,
            n_rows,
            width,
            limits: Limits::default(),
        };
        let mut rule = self.method.rule(&tensor.settings(self.recipe.seed, self.method));
        let figures = merge_tensor(&inputs, &mut *rule, put)?;
        let models = match figures.kept.is_empty() {
            true => Vec::new(),
            false => tensor.models.iter().map(|source| self.models[source.model].path.clone()).collect(),
        };
        Ok(MergedTensor { name: name.clone(), shape: shape.clone(), models, figures })
    }
}

fn write_json(staged: &mut StagedDirectory, name: &str, value: &Value) -> Result<(), MergeError> {
    Ok(staged.write(name, format!("{value:#}\n").as_bytes())?)
}
