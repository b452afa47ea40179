//! One tensor through a rule: blocks of rows are read, worked on by all threads, and handed on in order. Only as many are in
//! memory at once as keep the threads busy; tensors that are small, and that a rule has to see several times, are read once.

use rayon::prelude::*;

use super::MergeError;
use super::input::Input;
use super::rule::{Block, Figures, Rule, Sums};

/// How much is in memory at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Values of a block, about. It stays in a core's cache with all its inputs.
    pub(super) block_values: usize,
    /// Values of each input that are read at once.
    pub(super) wave_values: usize,
    /// Inputs of this size in all are kept from pass to pass.
    pub(super) held_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { block_values: 1 << 15, wave_values: 1 << 20, held_bytes: 64 << 20 }
    }
}

/// The inputs of a tensor.
pub(super) struct TensorInputs<'a> {
    pub(super) base: Option<Input<'a>>,
    pub(super) models: Vec<Input<'a>>,
    pub(super) n_rows: usize,
    pub(super) width: usize,
    pub(super) limits: Limits,
}

/// Rows of all inputs in memory: of the base first, where there is one.
struct Wave {
    first_row: usize,
    values: Vec<Vec<f32>>,
}

impl TensorInputs<'_> {
    fn rows_per_block(&self) -> usize {
        (self.limits.block_values / self.width.max(1)).max(1)
    }

    fn rows_per_wave(&self) -> usize {
        let blocks = (self.limits.wave_values / (self.rows_per_block() * self.width.max(1))).max(1);
        blocks * self.rows_per_block()
    }

    /// Reads rows of all inputs, on all threads.
    fn read(&self, first_row: usize, n_rows: usize, wave: &mut Wave) -> Result<(), MergeError> {
        wave.first_row = first_row;
        let inputs: Vec<&Input<'_>> = self.base.iter().chain(&self.models).collect();
        wave.values.resize_with(inputs.len(), Vec::new);
        let block = self.rows_per_block() * self.width;
        wave.values.iter_mut().for_each(|values| values.resize(n_rows * self.width, 0.0));
        let parts: Vec<(usize, usize, &mut [f32])> = wave
            .values
            .iter_mut()
            .enumerate()
            .flat_map(|(input, values)| {
                values.chunks_mut(block).enumerate().map(move |(part, values)| (input, part, values))
            })
            .collect();
        let rows_per_block = self.rows_per_block();
        // All parts are read before an error is looked at, so that the first one is always the same.
        let results: Vec<_> = parts
            .into_par_iter()
            .map(|(input, part, values)| inputs[input].read_rows(first_row + part * rows_per_block, values))
            .collect();
        results.into_iter().collect::<Result<(), _>>()?;
        Ok(())
    }

    fn blocks<'w>(&self, wave: &'w Wave) -> Vec<Block<'w>> {
        let size = self.rows_per_block() * self.width;
        let n_values = wave.values.first().map_or(0, Vec::len);
        let has_base = self.base.is_some();
        (0..n_values.div_ceil(size))
            .map(|block| {
                let places = block * size..((block + 1) * size).min(n_values);
                let part = |values: &'w Vec<f32>| &values[places.clone()];
                let (base, models) = wave.values.split_at(usize::from(has_base));
                Block {
                    first_row: wave.first_row + block * self.rows_per_block(),
                    width: self.width,
                    base: base.first().map_or(&[], part),
                    models: models.iter().map(part).collect(),
                }
            })
            .collect()
    }
}

/// Merges a tensor and hands its values on in order, a part at a time.
pub(super) fn merge_tensor(
    inputs: &TensorInputs<'_>,
    rule: &mut dyn Rule,
    put: &mut dyn FnMut(&[f32]) -> Result<(), MergeError>,
) -> Result<Figures, MergeError> {
    let n_inputs = inputs.models.len() + usize::from(inputs.base.is_some());
    let n_values = inputs.n_rows * inputs.width;
    let is_held = rule.n_passes() > 0 && n_inputs * n_values * size_of::<f32>() <= inputs.limits.held_bytes;
    let rows_per_wave = if is_held { inputs.n_rows } else { inputs.rows_per_wave() };
    let mut wave = Wave { first_row: 0, values: Vec::new() };
    if is_held {
        inputs.read(0, inputs.n_rows, &mut wave)?;
    }
    for pass in 0..rule.n_passes() {
        let mut sums = Sums::default();
        for first_row in (0..inputs.n_rows).step_by(rows_per_wave.max(1)) {
            if !is_held {
                inputs.read(first_row, rows_per_wave.min(inputs.n_rows - first_row), &mut wave)?;
            }
            let of_blocks: Vec<Sums> =
                inputs.blocks(&wave).into_par_iter().map(|block| rule.measure(pass, &block)).collect();
            of_blocks.iter().for_each(|block| sums.add(block));
        }
        rule.finish_pass(pass, &sums);
    }
    let mut sums = Sums::default();
    let mut merged = Vec::new();
    let rule = &*rule;
    let step = inputs.rows_per_wave();
    for first_row in (0..inputs.n_rows).step_by(step.max(1)) {
        let n_rows = step.min(inputs.n_rows - first_row);
        merged.resize(n_rows * inputs.width, 0.0);
        let blocks: Vec<Block<'_>> = if is_held {
            let skipped = first_row / inputs.rows_per_block();
            let n_blocks = n_rows.div_ceil(inputs.rows_per_block());
            inputs.blocks(&wave).into_iter().skip(skipped).take(n_blocks).collect()
        } else {
            inputs.read(first_row, n_rows, &mut wave)?;
            inputs.blocks(&wave)
        };
        let size = inputs.rows_per_block() * inputs.width;
        let parts = merged.par_chunks_mut(size.max(1)).zip(blocks);
        let of_blocks: Vec<Sums> = parts.map(|(merged, block)| rule.merge(&block, merged)).collect();
        of_blocks.iter().for_each(|block| sums.add(block));
        put(&merged)?;
    }
    Ok(rule.figures(n_values, &sums))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;
    use truing_types::Seed;

    use super::super::method::{METHODS, ModelSettings, TensorSettings};
    use super::*;
    use crate::ModelFiles;

    /// A tensor of three models by a method, under some limits and with some threads.
    fn merged(
        models: &[ModelFiles],
        method: usize,
        row_wise: bool,
        limits: Limits,
        n_threads: usize,
    ) -> (Vec<u32>, Figures) {
        let name = "model.layers.0.mlp.up_proj.weight";
        let open = |model| Input::open(models, model, name, None).unwrap();
        let shape = &models[0].spec.parameters().into_iter().find(|p| p.name == name).unwrap().shape;
        let method = &METHODS[method];
        let n_models = method.n_models.1.min(2);
        let inputs = TensorInputs {
            base: (method.name != "linear" && method.name != "passthrough").then(|| open(0)),
            models: (1..=n_models).map(open).collect(),
            n_rows: shape[0],
            width: shape[1],
            limits,
        };
        let model = ModelSettings { weight: 0.7, density: 0.4, gamma: 0.1, epsilon: 0.2, scale: 0.5 };
        let mut rule = method.rule(&TensorSettings {
            tensor: name,
            n_values: shape[0] * shape[1],
            seed: Seed(3),
            has_base: inputs.base.is_some(),
            elects_sign: method.elects_sign,
            models: vec![model; n_models],
            t: 0.3,
            lambda: 0.9,
            normalize: method.normalizes,
            rescale: if method.is_random() { super::super::Rescale::L1 } else { method.rescale },
            row_wise,
        });
        let mut bits = Vec::new();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
        let figures = pool.install(|| {
            merge_tensor(&inputs, &mut *rule, &mut |values| {
                bits.extend(values.iter().map(|value| value.to_bits()));
                Ok(())
            })
        });
        (bits, figures.unwrap())
    }

    #[test]
    fn neither_threads_nor_what_is_held_change_a_bit() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance");
        // Three models of one shape: the same with other noise.
        let whole = ModelFiles::open(&folder.join("llama_tied_llama3_rope")).unwrap();
        let places: Vec<tempfile::TempDir> = (0..3)
            .map(|i| {
                let place = tempfile::tempdir().unwrap();
                let options = crate::SaveOptions { dtype: crate::SaveDtype::F32, ..Default::default() };
                let mut weights = whole.load().unwrap().weights;
                crate::save_pretrained(place.path(), &whole.spec, &options, |parameter| {
                    let mut values = weights.take(&parameter.name).unwrap().values;
                    let noise = Seed(i).normals(&parameter.name, values.len(), 0.01);
                    values.iter_mut().zip(noise).for_each(|(value, noise)| *value += noise);
                    Ok::<_, crate::ModelError>(values.into())
                })
                .unwrap();
                place
            })
            .collect();
        let models: Vec<ModelFiles> =
            places.iter().map(|place| ModelFiles::open(place.path()).unwrap()).collect();
        for (method, info) in METHODS.iter().enumerate() {
            for row_wise in [false, true] {
                let limits = |held| Limits { block_values: 100, wave_values: 300, held_bytes: held };
                let expected = merged(&models, method, row_wise, limits(0), 1);
                assert!(expected.0.len() > 1000, "several waves");
                for n_threads in 1..=4 {
                    for held in [0, 1 << 20] {
                        let found = merged(&models, method, row_wise, limits(held), n_threads);
                        assert!(found == expected, "{}: {n_threads} threads, {held} bytes held", info.name);
                    }
                }
            }
        }
        assert_eq!(
            json!(merged(&models, 0, false, Limits::default(), 1).1),
            json!({}),
            "linear reports nothing"
        );
    }
}
