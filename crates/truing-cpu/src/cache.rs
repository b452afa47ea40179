//! Keys and values of one running sequence, in blocks that sequences with a common beginning share.

use std::sync::{Arc, Mutex, PoisonError};

use truing_kernels::{CACHE_BLOCK, CacheBlock, CachedSequence};

/// Blocks of sequences that have ended, for those that run. An engine's caches share one list. Were they freed instead, the
/// allocator would keep each in the arena of the thread that has asked for it, where the other threads do not look.
#[derive(Debug, Default)]
pub(crate) struct FreeBlocks(Mutex<Vec<CacheBlock>>);

impl FreeBlocks {
    /// A block with unspecified content.
    fn take(&self, kv_width: usize, head_dim: usize) -> CacheBlock {
        let free = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        free.unwrap_or_else(|| CacheBlock::new(kv_width, head_dim))
    }

    /// Takes back those that no other sequence has.
    fn give(&self, blocks: impl Iterator<Item = Arc<CacheBlock>>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(blocks.filter_map(Arc::into_inner));
    }

    /// Frees all.
    pub(crate) fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Vec::new();
    }
}

/// Per layer, the blocks of the tokens so far. A copy shares all blocks; a block that is written while it is shared
/// is copied first, which only ever happens to the last.
#[derive(Debug, Clone)]
pub struct KvCache {
    layers: Vec<Vec<Arc<CacheBlock>>>,
    free: Arc<FreeBlocks>,
    kv_width: usize,
    head_dim: usize,
    pub(crate) n_cached: usize,
    pub(crate) capacity: usize,
}

impl Drop for KvCache {
    fn drop(&mut self) {
        self.free.give(self.layers.drain(..).flatten());
    }
}

impl KvCache {
    pub(crate) fn new(
        n_layers: usize,
        kv_width: usize,
        head_dim: usize,
        capacity: usize,
        free: Arc<FreeBlocks>,
    ) -> Self {
        Self { layers: vec![Vec::new(); n_layers], free, kv_width, head_dim, n_cached: 0, capacity }
    }

    /// Forgets all tokens after the first `n_tokens`, so that a prompt's shared beginning is not read twice.
    pub fn truncate(&mut self, n_tokens: usize) {
        if n_tokens < self.n_cached {
            let n_blocks = n_tokens.div_ceil(CACHE_BLOCK);
            for blocks in &mut self.layers {
                self.free.give(blocks.drain(n_blocks.min(blocks.len())..));
            }
            self.n_cached = n_tokens;
        }
    }

    /// Writes rows `[n, kv_width]` of one layer after the tokens so far; `n_cached` is the caller's to move once all
    /// layers have theirs.
    pub(crate) fn append(&mut self, layer: usize, keys: &[f32], values: &[f32]) {
        let Self { layers, free, head_dim, .. } = self;
        let (width, blocks) = (self.kv_width, &mut layers[layer]);
        let rows = keys.chunks_exact(width).zip(values.chunks_exact(width));
        for (position, (key, value)) in (self.n_cached..).zip(rows) {
            let (idx, row) = (position / CACHE_BLOCK, position % CACHE_BLOCK);
            if idx == blocks.len() {
                blocks.push(Arc::new(free.take(width, *head_dim)));
            }
            let block = &mut blocks[idx];
            if let Some(own) = Arc::get_mut(block) {
                own.write(row, key, value);
            } else {
                let mut own = free.take(width, *head_dim);
                own.copy_from(block);
                own.write(row, key, value);
                let shared = std::mem::replace(block, Arc::new(own));
                // The others may have left it meanwhile.
                free.give(std::iter::once(shared));
            }
        }
    }

    /// One layer's first `len` tokens.
    pub(crate) fn sequence(&self, layer: usize, len: usize) -> CachedSequence<'_> {
        let blocks = self.layers[layer].iter().take(len.div_ceil(CACHE_BLOCK));
        CachedSequence { blocks: blocks.map(|block| &**block).collect(), len }
    }

    /// One layer's keys and values of the tokens so far into the beginning of two buffers `[.., kv_width]`.
    pub(crate) fn gather(&self, layer: usize, keys: &mut [f32], values: &mut [f32]) {
        let n = self.n_cached * self.kv_width;
        let block_len = CACHE_BLOCK * self.kv_width;
        for (block, (keys, values)) in self.layers[layer]
            .iter()
            .zip(keys[..n].chunks_mut(block_len).zip(values[..n].chunks_mut(block_len)))
        {
            block.read(keys, values);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(from: usize, n: usize) -> Vec<f32> {
        (from..from + n).flat_map(|i| [i as f32, -(i as f32)]).collect()
    }

    fn grown(cache: &mut KvCache, n: usize) {
        let new = rows(cache.n_cached, n);
        cache.append(0, &new, &new);
        cache.n_cached += n;
    }

    #[test]
    fn copies_share_blocks_until_they_part() {
        let mut cache = KvCache::new(1, 2, 1, 1000, Arc::default());
        grown(&mut cache, CACHE_BLOCK + 5);
        let mut other = cache.clone();
        let shared =
            |a: &KvCache, b: &KvCache, block: usize| Arc::ptr_eq(&a.layers[0][block], &b.layers[0][block]);
        assert!(shared(&cache, &other, 0) && shared(&cache, &other, 1));
        other.append(0, &[7.0, 8.0], &[9.0, 10.0]);
        other.n_cached += 1;
        assert!(shared(&cache, &other, 0) && !shared(&cache, &other, 1));
        grown(&mut cache, CACHE_BLOCK);
        for (cache, n, at_fork) in
            [(&cache, 2 * CACHE_BLOCK + 5, [69.0, -69.0]), (&other, CACHE_BLOCK + 6, [7.0, 8.0])]
        {
            let (mut keys, mut values) = (vec![0.0; 2 * n], vec![0.0; 2 * n]);
            cache.gather(0, &mut keys, &mut values);
            assert_eq!(keys[..2 * 69], rows(0, 69));
            assert_eq!(keys[2 * 69..2 * 70], at_fork);
            assert_eq!(cache.sequence(0, n).blocks.len(), n.div_ceil(CACHE_BLOCK));
        }
    }

    #[test]
    fn what_was_cut_off_is_written_anew() {
        let mut cache = KvCache::new(1, 2, 1, 1000, Arc::default());
        grown(&mut cache, 3 * CACHE_BLOCK);
        let whole = cache.clone();
        cache.truncate(CACHE_BLOCK + 1);
        assert_eq!(cache.layers[0].len(), 2);
        cache.append(0, &[1.0, 2.0], &[3.0, 4.0]);
        cache.n_cached += 1;
        let (mut keys, mut values) = (rows(0, 3 * CACHE_BLOCK), rows(0, 3 * CACHE_BLOCK));
        whole.gather(0, &mut keys, &mut values);
        assert_eq!(
            (keys, values),
            (rows(0, 3 * CACHE_BLOCK), rows(0, 3 * CACHE_BLOCK)),
            "the copy is untouched"
        );
    }
}
