//! One parameter of an open model, read in parts: what merging streams.

use truing_types::counted;

use super::{ModelFiles, Place, Store};
use crate::adapters::{EMBEDDING, HEAD};
use crate::families::ConfigFile;
use crate::weights::{SafetensorsFile, SafetensorsInfo};
use crate::{LoraSpec, ModelError, ParameterSpec, Tensor};

/// A parameter of an open model. Its values are read row by row; an adapter's product is added to the rows it adapts.
pub(crate) struct ParameterReader<'a> {
    file: &'a SafetensorsFile,
    info: &'a SafetensorsInfo,
    /// Values of a row: the last dimension, or all values of a vector.
    pub(crate) width: usize,
    adapter: Option<(&'a LoraSpec, [Tensor; 2])>,
    /// All values, where they are stored in 8 bits and have scales.
    scaled: Option<Vec<f32>>,
}

impl ModelFiles {
    /// A parameter by its name. The head of a model that ties the two is its embedding.
    ///
    /// # Errors
    /// When the model has no such parameter, its weights are in a GGUF file, or the adapter's factors or a tensor in 8
    /// bits cannot be read.
    pub(crate) fn parameter_reader(&self, name: &str) -> Result<ParameterReader<'_>, ModelError> {
        let (parameter, file, info) = self.stored(name)?;
        let adapter = match &self.adapter {
            Some(adapter) => adapter.tensors.factors(parameter)?.map(|factors| (&adapter.lora, factors)),
            None => None,
        };
        let width = match parameter.shape.len() {
            0 | 1 => parameter.n_elements(),
            _ => parameter.shape.last().copied().unwrap_or(1),
        };
        let scaled = match &self.store {
            Store::Safetensors(files) if files.is_in_8_bits(info) => {
                let block = self.config.as_ref().map(ConfigFile::scale_block).transpose()?.flatten();
                Some(files.read_scaled(&info.name, block)?.values)
            }
            _ => None,
        };
        Ok(ParameterReader { file, info, width: width.max(1), adapter, scaled })
    }

    /// The type that a parameter is stored as, by its name in safetensors headers.
    ///
    /// # Errors
    /// As [`ModelFiles::parameter_reader`].
    pub(crate) fn stored_dtype(&self, name: &str) -> Result<&str, ModelError> {
        self.stored(name).map(|(_, _, info)| info.dtype.as_str())
    }

    fn stored(&self, name: &str) -> Result<(&ParameterSpec, &SafetensorsFile, &SafetensorsInfo), ModelError> {
        let missing = || ModelError::MissingTensor { path: self.path.clone(), tensor: name.to_owned() };
        let is_tied_head = name == HEAD && self.spec.tie_word_embeddings;
        let name = if is_tied_head { EMBEDDING } else { name };
        let found = self.places.iter().find(|(parameter, _)| parameter.name == name);
        let (parameter, place) = found.ok_or_else(missing)?;
        let (file, info) = match (place, &self.store, &self.adapter) {
            (Place::Adapter, _, Some(adapter)) => adapter.tensors.whole_tensor(name).ok_or_else(missing)?,
            (Place::Base(theirs), Store::Safetensors(files), _) => {
                let file = files.file_of(theirs).ok_or_else(missing)?;
                (file, file.tensor(theirs).ok_or_else(missing)?)
            }
            _ => return Err(missing()),
        };
        Ok((parameter, file, info))
    }
}

impl ParameterReader<'_> {
    /// Whole rows from `first_row` on.
    ///
    /// # Errors
    /// When the file cannot be read, or a value is infinite or not a number.
    pub(crate) fn read_rows(&self, first_row: usize, values: &mut [f32]) -> Result<(), ModelError> {
        let start = first_row * self.width;
        match &self.scaled {
            Some(all) => values.copy_from_slice(&all[start..start + values.len()]),
            None => self.file.read_part(self.info, start, values)?,
        }
        if let Some((lora, [a, b])) = &self.adapter {
            let rows = first_row..first_row + values.len() / self.width;
            let lora_b = &b.values[rows.start * lora.rank..rows.end * lora.rank];
            crate::adapters::add_lora_product(values, &a.values, lora_b, lora);
        }
        // Without a branch for each value: all bits of the exponent are set in infinities and NaNs.
        const EXPONENT: u32 = 0x7f80_0000;
        if values.iter().fold(true, |all, value| all & (value.to_bits() & EXPONENT != EXPONENT)) {
            return Ok(());
        }
        let is_wrong = |value: &&f32| !value.is_finite();
        let n_wrong = values.iter().filter(is_wrong).count() as u64;
        let first = values.iter().position(|value| !value.is_finite()).unwrap_or(0);
        Err(ModelError::Malformed {
            path: self.file.path.clone(),
            problem: format!(
                "tensor `{}` has {} that {} no finite number, the first is {} at row {}",
                self.info.name,
                counted(n_wrong, "value", "values"),
                if n_wrong == 1 { "is" } else { "are" },
                values[first],
                first_row + first / self.width,
            ),
        })
    }
}
