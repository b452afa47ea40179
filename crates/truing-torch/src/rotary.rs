//! Rotary positions (Su et al. 2021, arXiv 2104.09864), in the half-split layout of transformers: component `i` of a
//! head turns with component `i + head_dim / 2`. With the halves of a head exchanged,
//!
//! ```text
//! x' = x cos + exchanged(x) [-sin, sin]
//! ```
//!
//! and the backward pass turns the other way. Some families turn the first components of a head alone, and some have
//! other frequencies in layers with a sliding window.

use truing_model::DecoderSpec;

use crate::device::Device;
use crate::error::TorchError;
use crate::ffi::{Dtype, Tensor, TorchLib};

/// The rotary embeddings of a model's layers.
#[derive(Debug)]
pub(crate) struct RotaryTables {
    global: RotaryTable,
    /// Of layers with a sliding window, where they have another one.
    local: Option<RotaryTable>,
}

/// The angles of some tokens, for every kind of layer.
#[derive(Debug)]
pub(crate) struct AllAngles {
    global: Angles,
    local: Option<Angles>,
}

impl RotaryTables {
    pub(crate) fn new(spec: &DecoderSpec) -> Self {
        let (frequencies, attention_factor) = spec.rotary_inverse_frequencies();
        let global = RotaryTable::new(frequencies, attention_factor, spec.head_dim);
        let local = spec.local_rotary_inverse_frequencies();
        Self { global, local: local.map(|frequencies| RotaryTable::new(frequencies, 1.0, spec.head_dim)) }
    }

    /// The angles of tokens at some positions.
    pub(crate) fn angles(
        &mut self,
        torch: &'static TorchLib,
        device: Device,
        positions: &[u32],
    ) -> Result<AllAngles, TorchError> {
        let local = self.local.as_mut().map(|local| local.angles(torch, device, positions));
        Ok(AllAngles { global: self.global.angles(torch, device, positions)?, local: local.transpose()? })
    }
}

impl AllAngles {
    /// Those of a layer, which has a sliding window or has none.
    pub(crate) fn of(&self, has_window: bool) -> &Angles {
        self.local.as_ref().filter(|_| has_window).unwrap_or(&self.global)
    }
}

/// Cosines and signed sines of every position so far `[n_positions, rotary_dim]`, on the device.
#[derive(Debug)]
struct RotaryTable {
    inverse_frequencies: Vec<f32>,
    attention_factor: f32,
    head_dim: usize,
    tables: Option<[Tensor; 2]>,
    n_positions: usize,
}

/// Cosines and signed sines of some tokens `[n_tokens, 1, rotary_dim]`.
#[derive(Debug)]
pub(crate) struct Angles {
    cosines: Tensor,
    sines: Tensor,
    head_dim: usize,
}

impl RotaryTable {
    fn new(inverse_frequencies: Vec<f32>, attention_factor: f32, head_dim: usize) -> Self {
        Self { inverse_frequencies, attention_factor, head_dim, tables: None, n_positions: 0 }
    }

    /// The angles of tokens at some positions. Angles are computed in single precision, as transformers does.
    fn angles(
        &mut self,
        torch: &'static TorchLib,
        device: Device,
        positions: &[u32],
    ) -> Result<Angles, TorchError> {
        let needed = positions.iter().max().map_or(1, |&last| last as usize + 1);
        if needed > self.n_positions {
            self.tables = Some(self.make(torch, device, needed.next_power_of_two())?);
            self.n_positions = needed.next_power_of_two();
        }
        let numbers: Vec<i64> = positions.iter().map(|&position| i64::from(position)).collect();
        let indices = Tensor::from_i64(torch, &numbers, &[numbers.len()], device)?;
        let Some([cosines, sines]) = &self.tables else {
            return Err(TorchError::Arguments { operator: "rotary", reason: "no table".into() });
        };
        let rotary_dim = 2 * self.inverse_frequencies.len();
        let of_tokens =
            |table: &Tensor| table.select(0, &indices)?.reshape(&[positions.len(), 1, rotary_dim]);
        Ok(Angles { cosines: of_tokens(cosines)?, sines: of_tokens(sines)?, head_dim: self.head_dim })
    }

    fn make(&self, torch: &'static TorchLib, device: Device, n: usize) -> Result<[Tensor; 2], TorchError> {
        let rotary_dim = 2 * self.inverse_frequencies.len();
        let (mut cosines, mut sines) =
            (Vec::with_capacity(n * rotary_dim), Vec::with_capacity(n * rotary_dim));
        for position in 0..n {
            let angles = || self.inverse_frequencies.iter().map(|frequency| position as f32 * frequency);
            for sign in [-1.0, 1.0] {
                cosines.extend(angles().map(|angle| angle.cos() * self.attention_factor));
                sines.extend(angles().map(|angle| sign * angle.sin() * self.attention_factor));
            }
        }
        let table = |values: &[f32]| Tensor::from_f32(torch, values, &[n, rotary_dim], device);
        Ok([table(&cosines)?, table(&sines)?])
    }
}

impl Angles {
    /// Turns every head of `x` `[n_tokens, n_heads * head_dim]`.
    pub(crate) fn turn(&self, x: &Tensor) -> Result<Tensor, TorchError> {
        self.turned(x, 1.0)
    }

    /// Turns back: the gradient at the input, from that at the output.
    pub(crate) fn turn_back(&self, d_x: &Tensor) -> Result<Tensor, TorchError> {
        self.turned(d_x, -1.0)
    }

    fn turned(&self, x: &Tensor, direction: f64) -> Result<Tensor, TorchError> {
        let shape = x.shape();
        let (head_dim, rotary_dim) = (self.head_dim, self.cosines.size(2));
        let n_heads = x.n_elements() / (self.cosines.size(0) * head_dim).max(1);
        let whole = x.to(Dtype::F32)?.reshape(&[shape[0], n_heads, head_dim])?;
        let heads = whole.narrow(2, 0, rotary_dim)?;
        let half = rotary_dim / 2;
        let exchanged = Tensor::cat(&[&heads.narrow(2, half, half)?, &heads.narrow(2, 0, half)?], 2)?;
        let turned = heads.mul(&self.cosines)?.add_scaled(&exchanged.mul(&self.sines)?, direction)?;
        let turned = if rotary_dim == head_dim {
            turned
        } else {
            Tensor::cat(&[&turned, &whole.narrow(2, rotary_dim, head_dim - rotary_dim)?], 2)?
        };
        let turned = turned.reshape(&shape)?;
        x.dtype().map_or_else(|| turned.alias(), |dtype| turned.to(dtype))
    }
}
