//! Weights in 8-bit floating point (e4m3: a sign, 4 bits of exponent, 3 of mantissa; Micikevicius et al. 2022, arXiv
//! 2209.05433) with their scales, as two kinds of checkpoints store them:
//!
//! - `X.weight` with `X.weight_scale_inv`, a number for each block of rows and columns (DeepSeek, Qwen3-FP8; the blocks'
//!   size is `weight_block_size` in config.json);
//! - `X.weight` with `X.weight_scale`, one number, one for each row, or one for each block (vLLM's `fp8` and
//!   `compressed-tensors`, which calls the blocks' size `block_structure`).
//!
//! Either way the value is the product. Scales of activations, `X.input_scale`, are not used: nothing is computed in 8
//! bits here.

use std::array;

use super::{SafetensorsFile, SafetensorsFiles, SafetensorsInfo, Tensor, read_blocks, read_error};
use crate::ModelError;

/// The name of the type in safetensors headers.
const E4M3: &str = "F8_E4M3";
/// What follows the name of a weight in the name of its scales.
const SCALE_SUFFIXES: [&str; 2] = ["_scale_inv", "_scale"];
/// What replaces `weight` in the name of the scale of a layer's inputs.
const INPUT_SCALE: &str = "input_scale";

/// Rows and columns that share a scale.
pub(crate) type ScaleBlock = [usize; 2];

/// The value of each byte: `±(1 + m / 8) 2^(e - 7)`, with `e = 0` `±m / 8 2^-6`; all other bits set is not a number.
fn values_of_bytes() -> [f32; 256] {
    array::from_fn(|byte| {
        let (exponent, mantissa) = (((byte >> 3) & 0xf) as i32, (byte & 7) as f32);
        let magnitude = match (exponent, byte & 7) {
            (15, 7) => f32::NAN,
            (0, _) => mantissa / 8.0 * 2f32.powi(-6),
            _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
        };
        if byte & 0x80 == 0 { magnitude } else { -magnitude }
    })
}

/// Rows and columns that share a number, of scales `found` for a weight of shape `[rows, columns]`.
fn shared(shape: &[usize], found: &[usize], block: Option<ScaleBlock>) -> Result<ScaleBlock, Vec<usize>> {
    let [rows, columns] = shape else { return Err(vec![1]) };
    if found.iter().product::<usize>() == 1 {
        return Ok([*rows, *columns]);
    }
    match (found, block) {
        ([n] | [n, 1], _) if n == rows => Ok([1, *columns]),
        (_, None) => Err(vec![*rows, 1]),
        (found, Some([height, width])) => {
            let expected = [rows.div_ceil(height), columns.div_ceil(width)];
            if found == expected { Ok([height, width]) } else { Err(expected.to_vec()) }
        }
    }
}

impl SafetensorsFiles {
    /// The file and header of a tensor in 8 bits.
    fn in_8_bits(&self, name: &str) -> Option<(&SafetensorsFile, &SafetensorsInfo)> {
        let file = self.file_of(name)?;
        file.tensor(name).filter(|info| info.dtype == E4M3).map(|info| (file, info))
    }

    /// Whether a tensor of these files is stored in 8 bits; `info` is its entry, not one of other files.
    pub(crate) fn is_in_8_bits(&self, info: &SafetensorsInfo) -> bool {
        self.in_8_bits(&info.name).is_some_and(|(_, own)| std::ptr::eq(own, info))
    }

    /// Whether a tensor belongs to one in 8 bits.
    pub(crate) fn is_scale(&self, name: &str) -> bool {
        let is_of = |weight: &str| self.in_8_bits(weight).is_some();
        SCALE_SUFFIXES.iter().filter_map(|suffix| name.strip_suffix(suffix)).any(is_of)
            || name.strip_suffix(INPUT_SCALE).is_some_and(|layer| is_of(&format!("{layer}weight")))
    }

    /// The scales of a weight in 8 bits, and what shares one.
    fn scales_of(
        &self,
        file: &SafetensorsFile,
        info: &SafetensorsInfo,
        block: Option<ScaleBlock>,
    ) -> Result<(String, ScaleBlock), ModelError> {
        let mut names = SCALE_SUFFIXES.iter().map(|suffix| format!("{}{suffix}", info.name));
        let Some(name) = names.find(|name| self.file_of(name).is_some()) else {
            return Err(ModelError::Malformed {
                path: file.path.clone(),
                problem: format!(
                    "tensor `{name}` is stored as {E4M3}, but there is no `{name}_scale_inv` or `{name}_scale`",
                    name = info.name
                ),
            });
        };
        let of_scales = self.file_of(&name).and_then(|file| Some((file, file.tensor(&name)?)));
        let Some((scale_file, scales)) = of_scales else {
            return Err(ModelError::MissingTensor { path: file.path.clone(), tensor: name });
        };
        scale_file.check_dtype(scales)?;
        let shared =
            shared(&info.shape, &scales.shape, block).map_err(|expected| ModelError::TensorShape {
                path: scale_file.path.clone(),
                tensor: name.clone(),
                found: scales.shape.clone(),
                expected,
            })?;
        Ok((name, shared))
    }

    /// Checks, without reading it, that [`read_scaled`](Self::read_scaled) can read a tensor.
    ///
    /// # Errors
    /// When it is not stored as floats, or in 8 bits without scales that fit.
    pub(crate) fn check_scaled(&self, name: &str, block: Option<ScaleBlock>) -> Result<(), ModelError> {
        if let Some((file, info)) = self.in_8_bits(name) {
            return self.scales_of(file, info, block).map(|_| ());
        }
        match self.file_of(name).and_then(|file| Some((file, file.tensor(name)?))) {
            Some((file, info)) => file.check_dtype(info),
            None => Ok(()),
        }
    }

    /// A tensor's values as f32; of one in 8 bits the products with its scales. `block` is `weight_block_size`.
    ///
    /// # Errors
    /// As [`SafetensorsFiles::read`], and when scales are missing or have another shape.
    pub(crate) fn read_scaled(&self, name: &str, block: Option<ScaleBlock>) -> Result<Tensor, ModelError> {
        let Some((file, info)) = self.in_8_bits(name) else { return self.read(name) };
        let (scale_name, [height, width]) = self.scales_of(file, info, block)?;
        let scales = self.read(&scale_name)?.values;
        let table = values_of_bytes();
        let mut values = vec![0.0; info.n_elements()];
        let convert = |bytes: &[u8], values: &mut [f32]| {
            values.iter_mut().zip(bytes).for_each(|(value, byte)| *value = table[usize::from(*byte)]);
        };
        read_blocks(&file.reader, info.offset, (1, 1), &mut values, convert)
            .map_err(|source| read_error(&file.path, &format!("the data of tensor `{name}`"), source))?;
        let columns = info.shape.last().copied().unwrap_or(1).max(1);
        let scales_in_a_row = columns.div_ceil(width.max(1));
        for (row, values) in values.chunks_exact_mut(columns).enumerate() {
            let of_row = scales.iter().skip(row / height * scales_in_a_row);
            for (values, scale) in values.chunks_mut(width).zip(of_row) {
                values.iter_mut().for_each(|value| *value *= scale);
            }
        }
        Ok(Tensor { shape: info.shape.clone(), values })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_the_numbers_of_the_format() {
        let values = values_of_bytes();
        let known = [(0x00, 0.0), (0x01, 2f32.powi(-9)), (0x08, 2f32.powi(-6)), (0x38, 1.0), (0x39, 1.125)];
        for (byte, value) in known.into_iter().chain([(0x7e, 448.0), (0xb8, -1.0), (0xfe, -448.0)]) {
            assert_eq!(values[byte], value, "{byte:#x}");
        }
        assert!(values[0x7f].is_nan() && values[0xff].is_nan());
        assert!(values[..0x7f].is_sorted() && values[..0x7f].iter().all(|value| value.is_finite()));
    }

    #[test]
    fn scales_are_of_all_of_rows_or_of_blocks() {
        let shape = [5, 6];
        assert_eq!(shared(&shape, &[], None), Ok([5, 6]));
        assert_eq!(shared(&shape, &[1], None), Ok([5, 6]));
        assert_eq!(shared(&shape, &[5], None), Ok([1, 6]));
        assert_eq!(shared(&shape, &[5, 1], Some([4, 4])), Ok([1, 6]));
        assert_eq!(shared(&shape, &[2, 2], Some([4, 4])), Ok([4, 4]));
        assert_eq!(shared(&shape, &[2, 3], Some([4, 4])), Err(vec![2, 2]));
        assert_eq!(shared(&shape, &[2, 3], None), Err(vec![5, 1]));
    }
}
