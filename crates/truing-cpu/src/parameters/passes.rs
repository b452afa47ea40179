//! What passes see of sharded states. A pass goes from unit to unit: the embeddings, each block, the head. Around each
//! unit whole values are gathered (ZeRO-3), and gradients are summed over the ranks, after which a rank keeps what it
//! owns (ZeRO-2 and 3).
//!
//! Ranks may be in different places: one has more packs than another, or samples longer texts. So before each exchange
//! the ranks agree on one ([`Shards::agree`](crate::shards::Shards::agree)), and those that need another one take part
//! in it first. Ranks that have no pass left do the same in [`Parameters::join_others`].

use truing_kernels::{all_finite, zeroed};
use truing_model::{EngineError, ZeroStage};

use super::Parameters;
use crate::shards::Exchange;

/// A part of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Embeddings,
    Block(usize),
    Head,
}

/// The parameters that each part of a pass uses. A parameter may be in two.
#[derive(Debug, Clone)]
pub(crate) struct Units {
    pub(crate) embeddings: Vec<usize>,
    pub(crate) blocks: Vec<Vec<usize>>,
    pub(crate) head: Vec<usize>,
}

impl Parameters {
    /// Says which parameters each part of a pass uses. All that learn have to be in one.
    pub(crate) fn set_units(&mut self, units: Units) {
        let Units { embeddings, mut blocks, head } = units;
        blocks.extend([embeddings, head]);
        self.units = blocks;
    }

    fn number_of(&self, unit: Unit) -> usize {
        let n_blocks = self.units.len() - 2;
        match unit {
            Unit::Block(block) => block,
            Unit::Embeddings => n_blocks,
            Unit::Head => n_blocks + 1,
        }
    }

    /// Makes the values of a unit whole.
    pub(crate) fn gather(&mut self, unit: Unit) -> Result<(), EngineError> {
        if self.zero_stage() < ZeroStage::Parameters || self.is_gathered {
            return Ok(());
        }
        let unit = self.number_of(unit);
        for &idx in &self.units[unit] {
            self.values[idx] = zeroed(self.specs[idx].n_elements());
        }
        self.exchange(Exchange::Gather(unit))
    }

    /// Where products are made in bf16: rounds what has changed of a unit, whose values are whole. Call it with the
    /// engine's threads, before anything multiplies with the unit's weights.
    pub(crate) fn round_weights(&mut self, unit: Unit) {
        let unit = self.number_of(unit);
        let Self { rounded: Some(rounded), specs, values, units, .. } = self else { return };
        for &idx in &units[unit] {
            rounded.refresh(idx, &specs[idx], &values[idx]);
        }
    }

    /// The same of all units, after [`gather_all`](Self::gather_all).
    pub(crate) fn round_all_weights(&mut self) {
        let Self { rounded: Some(rounded), specs, values, .. } = self else { return };
        for (idx, (spec, values)) in specs.iter().zip(values).enumerate() {
            rounded.refresh(idx, spec, values);
        }
    }

    /// Frees the whole values of a unit.
    pub(crate) fn release(&mut self, unit: Unit) {
        if self.zero_stage() < ZeroStage::Parameters || self.is_gathered {
            return;
        }
        let unit = self.number_of(unit);
        for &idx in &self.units[unit] {
            self.values[idx] = Vec::new();
            if let Some(rounded) = &mut self.rounded {
                rounded.release(idx);
            }
        }
    }

    /// Makes the values of all units whole, for decoding, until [`release_gathered`](Self::release_gathered).
    pub(crate) fn gather_all(&mut self) -> Result<(), EngineError> {
        if self.zero_stage() < ZeroStage::Parameters || self.is_gathered {
            return Ok(());
        }
        for unit in 0..self.units.len() {
            for &idx in &self.units[unit] {
                self.values[idx] = zeroed(self.specs[idx].n_elements());
            }
            self.exchange(Exchange::Gather(unit))?;
        }
        self.is_gathered = true;
        Ok(())
    }

    /// Frees what decoding has gathered.
    pub(crate) fn release_gathered(&mut self) {
        if std::mem::take(&mut self.is_gathered) {
            self.values.iter_mut().for_each(|values| *values = Vec::new());
            if let Some(rounded) = &mut self.rounded {
                (0..self.specs.len()).for_each(|idx| rounded.release(idx));
            }
        }
    }

    /// Makes the values of a unit whole, and room for its gradients.
    pub(crate) fn begin_backward(&mut self, unit: Unit) -> Result<(), EngineError> {
        self.gather(unit)?;
        if self.zero_stage() < ZeroStage::Gradients || !self.has_gradients {
            return Ok(());
        }
        let unit = self.number_of(unit);
        for &idx in self.units[unit].iter().filter(|&&idx| self.is_trainable[idx]) {
            self.gradients[idx] = zeroed(self.specs[idx].n_elements());
        }
        Ok(())
    }

    /// Sums a unit's gradients over the ranks, and frees what this rank does not own.
    pub(crate) fn end_backward(&mut self, unit: Unit) -> Result<(), EngineError> {
        self.release(unit);
        if self.zero_stage() < ZeroStage::Gradients || !self.has_gradients {
            return Ok(());
        }
        let unit = self.number_of(unit);
        self.has_finite_gradients &= self.units[unit].iter().all(|&idx| all_finite(&self.gradients[idx]));
        self.exchange(Exchange::Reduce(unit))?;
        self.units[unit].iter().for_each(|&idx| self.gradients[idx] = Vec::new());
        Ok(())
    }

    /// Takes part in the exchanges of other ranks until all ranks have called this. What decoding has gathered is
    /// freed: in the passes that follow every rank of a sequence group has to make the same exchanges, whoever has
    /// decoded.
    pub(crate) fn join_others(&mut self) -> Result<(), EngineError> {
        if self.zero_stage() < ZeroStage::Gradients {
            return Ok(());
        }
        while let Some(exchange) = self.shards.agree(None)? {
            self.take_part(exchange, false)?;
        }
        self.release_gathered();
        Ok(())
    }

    /// Takes part in exchanges until it was this one.
    fn exchange(&mut self, mine: Exchange) -> Result<(), EngineError> {
        while let Some(exchange) = self.shards.agree(Some(mine))? {
            self.take_part(exchange, exchange == mine)?;
            if exchange == mine {
                break;
            }
        }
        Ok(())
    }

    /// One exchange. Where it is not this rank's, it sends what it owns, and adds nothing to sums.
    fn take_part(&mut self, exchange: Exchange, is_mine: bool) -> Result<(), EngineError> {
        let Self {
            specs, units, shards, is_trainable, values, gradients, owned_values, owned_gradients, ..
        } = self;
        match exchange {
            Exchange::Gather(unit) => {
                for &idx in &units[unit] {
                    let whole = is_mine.then_some(&mut values[idx][..]);
                    shards.all_gather(specs[idx].n_elements(), &owned_values[idx], whole)?;
                }
            }
            Exchange::Reduce(unit) => {
                for &idx in units[unit].iter().filter(|&&idx| is_trainable[idx]) {
                    let whole = is_mine.then_some(&gradients[idx][..]);
                    shards.reduce_scatter(specs[idx].n_elements(), whole, &mut owned_gradients[idx])?;
                }
            }
        }
        Ok(())
    }
}
