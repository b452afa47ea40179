//! Keys and values of one running sequence.

use crate::device::Device;
use crate::error::TorchError;
use crate::ffi::{Dtype, Tensor, TorchLib};

/// Rows that a cache begins with.
const FIRST_ROOM: usize = 64;

/// Per layer keys and values `[room, kv_width]`, of which the first `n_cached` are in use. The room doubles when it
/// is full, up to the capacity.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<[Tensor; 2]>,
    room: usize,
    pub(crate) n_cached: usize,
    pub(crate) capacity: usize,
}

impl KvCache {
    pub(crate) fn new(
        torch: &'static TorchLib,
        device: Device,
        dtype: Dtype,
        n_layers: usize,
        kv_width: usize,
        capacity: usize,
    ) -> Result<Self, TorchError> {
        let room = FIRST_ROOM.min(capacity);
        let empty = || Tensor::empty(torch, &[room, kv_width], dtype, device);
        let layers = (0..n_layers).map(|_| Ok([empty()?, empty()?])).collect::<Result<_, TorchError>>()?;
        Ok(Self { layers, room, n_cached: 0, capacity })
    }

    /// Makes room for `n_new` tokens more.
    pub(crate) fn reserve(&mut self, n_new: usize) -> Result<(), TorchError> {
        let needed = self.n_cached + n_new;
        if needed > self.room {
            let room = needed.max((2 * self.room).min(self.capacity));
            self.layers = self.copied(room)?;
            self.room = room;
        }
        Ok(())
    }

    /// Tensors with another room and the same tokens.
    fn copied(&self, room: usize) -> Result<Vec<[Tensor; 2]>, TorchError> {
        let copy = |old: &Tensor| {
            let new = old.empty_like(&[room, old.size(1)])?;
            new.rows(0..self.n_cached)?.copy_from(&old.rows(0..self.n_cached)?)?;
            Ok::<_, TorchError>(new)
        };
        self.layers.iter().map(|[keys, values]| Ok([copy(keys)?, copy(values)?])).collect()
    }

    /// A second sequence that continues this one.
    pub(crate) fn fork(&self) -> Result<Self, TorchError> {
        let room = (self.n_cached + FIRST_ROOM).min(self.capacity);
        let Self { n_cached, capacity, .. } = *self;
        Ok(Self { layers: self.copied(room)?, room, n_cached, capacity })
    }

    /// Writes rows of one layer after the tokens so far; the caller advances `n_cached` once all layers have theirs.
    pub(crate) fn append(&self, layer: usize, keys: &Tensor, values: &Tensor) -> Result<(), TorchError> {
        let rows = self.n_cached..self.n_cached + keys.size(0);
        for (room, new) in self.layers[layer].iter().zip([keys, values]) {
            room.rows(rows.clone())?.copy_from(new)?;
        }
        Ok(())
    }

    /// One layer's keys and values of the first `n` tokens.
    pub(crate) fn first(&self, layer: usize, n: usize) -> Result<[Tensor; 2], TorchError> {
        let [keys, values] = &self.layers[layer];
        Ok([keys.rows(0..n)?, values.rows(0..n)?])
    }
}
