//! Reused memory. A training step asks for the same few sizes again and again; giving them back here instead
//! of to the system saves the page faults of every first touch.

use std::collections::HashMap;

/// Buffers by capacity. Each has room for the largest batch so far, in whole blocks of tokens, so that batches of
/// any size share them. Only a larger batch lets everything go and begins anew: letting go for every smaller
/// one would leave holes in the heap that cost as much memory again.
#[derive(Debug, Default)]
pub(crate) struct BufferPool {
    free: HashMap<usize, Vec<Vec<f32>>>,
    n_token_blocks: usize,
}

const TOKEN_BLOCK: usize = 256;

impl BufferPool {
    /// Says how many tokens the coming batch has.
    pub(crate) fn prepare(&mut self, n_tokens: usize) {
        let n_token_blocks = n_tokens.div_ceil(TOKEN_BLOCK);
        if n_token_blocks > self.n_token_blocks {
            self.free.clear();
            self.n_token_blocks = n_token_blocks;
        }
    }

    /// A buffer of `[n_rows, width]` with unspecified content.
    pub(crate) fn take(&mut self, n_rows: usize, width: usize) -> Vec<f32> {
        let n_token_blocks = n_rows.div_ceil(TOKEN_BLOCK).max(self.n_token_blocks);
        let capacity = n_token_blocks * TOKEN_BLOCK * width;
        let mut buffer = self
            .free
            .get_mut(&capacity)
            .and_then(Vec::pop)
            .unwrap_or_else(|| truing_kernels::zeroed(capacity));
        buffer.resize(n_rows * width, 0.0);
        buffer
    }

    /// A copy of `source`, `[n_rows, width]`.
    pub(crate) fn copy(&mut self, source: &[f32], width: usize) -> Vec<f32> {
        let mut buffer = self.take(source.len() / width, width);
        truing_kernels::copy(&mut buffer, source);
        buffer
    }

    /// Gives a buffer back.
    pub(crate) fn give(&mut self, buffer: Vec<f32>) {
        if buffer.capacity() > 0 {
            self.free.entry(buffer.capacity()).or_default().push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_whatever_the_batch_until_one_is_larger() {
        let mut pool = BufferPool::default();
        pool.prepare(1000);
        let buffer = pool.take(1000, 8);
        let address = buffer.as_ptr();
        assert_eq!(buffer.len(), 8000);
        pool.give(buffer);
        for n_tokens in [1020, 1, 300] {
            pool.prepare(n_tokens);
            let again = pool.take(n_tokens, 8);
            assert_eq!((again.as_ptr(), again.len()), (address, n_tokens * 8));
            pool.give(again);
        }
        pool.prepare(1025);
        assert!(pool.free.is_empty());
    }
}
