//! Ulysses sequence parallelism (DeepSpeed-Ulysses, arXiv 2309.14509; report 2.2): the ranks of a sequence group divide
//! the rows of a pack, and exchange them for heads around the attention.
//!
//! Rank r of P holds rows `n r/P .. n (r+1)/P` and query heads `h r/P .. h (r+1)/P`, and every key head that one of its
//! query heads reads. With more ranks than key heads, key heads are copied, and the gradients of the copies are summed
//! in rank order. Everything of a layer but the attention works on single rows and needs no other rank. The attention
//! sees `[all rows, own heads]`: spans and prefixes stay those of the whole pack, and sequences may cross ranks.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;
use truing_kernels::AttentionShape;
use truing_model::{EngineError, owned_range};
use truing_types::{CommunicationError, Communicator};

use crate::buffers::BufferPool;

/// The ranks that divide each pack between them.
#[derive(Clone)]
pub(crate) struct SequenceGroup(Arc<dyn Communicator>);

impl std::fmt::Debug for SequenceGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SequenceGroup(rank {} of {})", self.rank(), self.size())
    }
}

/// The rows of a pack that this rank holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PackRows {
    /// Rows of the pack.
    pub(crate) own: Range<usize>,
    /// Rows of the whole pack.
    pub(crate) n_pack: usize,
}

impl SequenceGroup {
    pub(crate) fn new(ranks: Arc<dyn Communicator>) -> Self {
        Self(ranks)
    }

    pub(crate) fn size(&self) -> usize {
        self.0.world_size()
    }

    pub(crate) fn rank(&self) -> usize {
        self.0.rank().0
    }

    pub(crate) fn is_alone(&self) -> bool {
        self.size() == 1
    }

    /// The rows of a pack of `n_pack` rows that a rank holds.
    pub(crate) fn rows_of(&self, rank: usize, n_pack: usize) -> Range<usize> {
        owned_range(n_pack, rank, self.size())
    }

    /// The rows that this rank holds.
    pub(crate) fn own_rows(&self, n_pack: usize) -> PackRows {
        PackRows { own: self.rows_of(self.rank(), n_pack), n_pack }
    }

    /// A buffer for `[n_rows, width]` over rows of the whole pack. It has the size of one over own rows that is as many
    /// times wider as there are ranks, so that the pool can use either for the other.
    pub(crate) fn take(&self, pool: &mut BufferPool, n_rows: usize, width: usize) -> Vec<f32> {
        let mut buffer = pool.take(n_rows.div_ceil(self.size()), self.size() * width);
        buffer.truncate(n_rows * width);
        buffer
    }

    /// The rows of all ranks, `[n_pack, width]`, of own rows `[own rows, width]`. Alone they are the same buffer.
    pub(crate) fn all_rows(
        &self,
        pool: &mut BufferPool,
        rows: &PackRows,
        own: Vec<f32>,
        width: usize,
    ) -> Result<Vec<f32>, CommunicationError> {
        if self.is_alone() {
            return Ok(own);
        }
        // Blocks of one size; a rank with a row less than others leaves the last one as it is.
        let block = rows.n_pack.div_ceil(self.size()) * width;
        let mut send = pool.take(block / width, width);
        send[..own.len()].copy_from_slice(&own);
        let mut received = pool.take(block / width, self.size() * width);
        self.0.all_gather(&send, &mut received)?;
        let mut all = self.take(pool, rows.n_pack, width);
        for (rank, block) in received.chunks_exact(block).enumerate() {
            let of_rank = self.rows_of(rank, rows.n_pack);
            all[of_rank.start * width..of_rank.end * width].copy_from_slice(&block[..of_rank.len() * width]);
        }
        for buffer in [own, send, received] {
            pool.give(buffer);
        }
        Ok(all)
    }

    /// The words of every rank, in rank order.
    pub(crate) fn all_words(&self, own: &[u32]) -> Result<Vec<Vec<u32>>, CommunicationError> {
        let bytes: Vec<u8> = own.iter().flat_map(|word| word.to_le_bytes()).collect();
        let words =
            |bytes: &Vec<u8>| bytes.as_chunks::<4>().0.iter().map(|&b| u32::from_le_bytes(b)).collect();
        Ok(self.0.all_gather_bytes(&bytes)?.iter().map(words).collect())
    }
}

/// Which heads a tensor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heads {
    /// Those of the queries, and of the attention's results.
    Queries,
    /// Those of the keys and values.
    Keys,
}

/// The two exchanges of a layer: `[own rows, all heads]` to `[all rows, own heads]`, and back. A rank that is alone
/// exchanges and copies nothing.
#[derive(Debug, Clone)]
pub(crate) struct HeadExchange {
    pub(crate) group: SequenceGroup,
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
}

impl HeadExchange {
    pub(crate) fn new(group: &SequenceGroup, shape: &AttentionShape) -> Self {
        let AttentionShape { n_heads, n_kv_heads, head_dim, .. } = *shape;
        Self { group: group.clone(), n_heads, n_kv_heads, head_dim }
    }

    /// The attention of this rank's heads.
    pub(crate) fn own_shape(&self, shape: &AttentionShape) -> AttentionShape {
        let n_own = |heads| self.heads_of(heads, self.group.rank()).len();
        AttentionShape { n_heads: n_own(Heads::Queries), n_kv_heads: n_own(Heads::Keys), ..*shape }
    }

    /// The heads that a rank computes.
    fn heads_of(&self, heads: Heads, rank: usize) -> Range<usize> {
        let queries = owned_range(self.n_heads, rank, self.group.size());
        match heads {
            Heads::Queries => queries,
            Heads::Keys => {
                let queries_per_key = self.n_heads / self.n_kv_heads;
                queries.start / queries_per_key..queries.end.div_ceil(queries_per_key)
            }
        }
    }

    /// Columns of a rank's heads.
    fn columns(&self, heads: Heads, rank: usize) -> Range<usize> {
        let of_rank = self.heads_of(heads, rank);
        of_rank.start * self.head_dim..of_rank.end * self.head_dim
    }

    /// Width of all heads.
    fn width(&self, heads: Heads) -> usize {
        let n_heads = match heads {
            Heads::Queries => self.n_heads,
            Heads::Keys => self.n_kv_heads,
        };
        n_heads * self.head_dim
    }

    /// Width of this rank's heads.
    fn own_width(&self, heads: Heads) -> usize {
        self.columns(heads, self.group.rank()).len()
    }

    /// Buffers for what is sent and received, `[ranks, block]`, and the length of a block: the same for all pairs of
    /// ranks, with room for the most rows and heads that a rank has. What a pair does not need at the end of its block
    /// is not read.
    fn blocks(&self, pool: &mut BufferPool, rows: &PackRows, kinds: &[Heads]) -> (usize, [Vec<f32>; 2]) {
        let most = |heads: &Heads| (0..self.group.size()).map(|rank| self.columns(*heads, rank).len()).max();
        let widest: usize = kinds.iter().filter_map(most).sum();
        let most_rows = rows.n_pack.div_ceil(self.group.size());
        (most_rows * widest, [(); 2].map(|()| pool.take(most_rows, self.group.size() * widest)))
    }

    /// `[own rows, all heads]` to `[all rows, own heads]`.
    pub(crate) fn to_heads<const N: usize>(
        &self,
        pool: &mut BufferPool,
        rows: &PackRows,
        tensors: [(Vec<f32>, Heads); N],
    ) -> Result<[Vec<f32>; N], EngineError> {
        if self.group.is_alone() {
            return Ok(tensors.map(|(values, _)| values));
        }
        let kinds = tensors.each_ref().map(|(_, heads)| *heads);
        let (block, [mut send, mut received]) = self.blocks(pool, rows, &kinds);
        send.par_chunks_exact_mut(block).enumerate().for_each(|(rank, to)| {
            let mut n_written = 0;
            for (values, heads) in &tensors {
                let columns = self.columns(*heads, rank);
                for row in values.chunks_exact(self.width(*heads)) {
                    to[n_written..n_written + columns.len()].copy_from_slice(&row[columns.clone()]);
                    n_written += columns.len();
                }
            }
        });
        self.group.0.all_to_all(&send, &mut received)?;
        let mut n_read = vec![0; self.group.size()];
        let exchanged = kinds.map(|heads| {
            let width = self.own_width(heads);
            let mut all = self.group.take(pool, rows.n_pack, width);
            for (rank, (from, n_read)) in received.chunks_exact(block).zip(&mut n_read).enumerate() {
                let of_rank = self.group.rows_of(rank, rows.n_pack);
                let n = of_rank.len() * width;
                all[of_rank.start * width..of_rank.end * width].copy_from_slice(&from[*n_read..*n_read + n]);
                *n_read += n;
            }
            all
        });
        for buffer in tensors.into_iter().map(|(values, _)| values).chain([send, received]) {
            pool.give(buffer);
        }
        Ok(exchanged)
    }

    /// `[all rows, own heads]` to `[own rows, all heads]`. Copies of a key head are summed in rank order.
    pub(crate) fn to_rows<const N: usize>(
        &self,
        pool: &mut BufferPool,
        rows: &PackRows,
        tensors: [(&[f32], Heads); N],
    ) -> Result<[Vec<f32>; N], EngineError> {
        let kinds = tensors.map(|(_, heads)| heads);
        let (block, [mut send, mut received]) = self.blocks(pool, rows, &kinds);
        send.par_chunks_exact_mut(block).enumerate().for_each(|(rank, to)| {
            let of_rank = self.group.rows_of(rank, rows.n_pack);
            let mut n_written = 0;
            for (values, heads) in &tensors {
                let width = self.own_width(*heads);
                let part = &values[of_rank.start * width..of_rank.end * width];
                to[n_written..n_written + part.len()].copy_from_slice(part);
                n_written += part.len();
            }
        });
        self.group.0.all_to_all(&send, &mut received)?;
        let mut n_read = vec![0; self.group.size()];
        let exchanged = kinds.map(|heads| {
            let mut own = pool.take(rows.own.len(), self.width(heads));
            let mut n_columns = 0;
            for (rank, (from, n_read)) in received.chunks_exact(block).zip(&mut n_read).enumerate() {
                let columns = self.columns(heads, rank);
                let n = rows.own.len() * columns.len();
                // The first of these columns may hold the copies of ranks before.
                let n_shared = n_columns - columns.start;
                put_columns(
                    &from[*n_read..*n_read + n],
                    &mut own,
                    self.width(heads),
                    columns.clone(),
                    n_shared,
                );
                *n_read += n;
                n_columns = columns.end;
            }
            own
        });
        pool.give(send);
        pool.give(received);
        Ok(exchanged)
    }

    /// [`to_rows`](Self::to_rows) of buffers that are not needed by heads any more.
    pub(crate) fn back_to_rows<const N: usize>(
        &self,
        pool: &mut BufferPool,
        rows: &PackRows,
        tensors: [(Vec<f32>, Heads); N],
    ) -> Result<[Vec<f32>; N], EngineError> {
        if self.group.is_alone() {
            return Ok(tensors.map(|(values, _)| values));
        }
        let by_rows =
            self.to_rows(pool, rows, tensors.each_ref().map(|(values, heads)| (&values[..], *heads)))?;
        for (values, _) in tensors {
            pool.give(values);
        }
        Ok(by_rows)
    }
}

/// Writes `from` `[n_rows, columns]` into columns of `to` `[n_rows, width]`; to the first `n_shared` of them it is
/// added.
fn put_columns(from: &[f32], to: &mut [f32], width: usize, columns: Range<usize>, n_shared: usize) {
    for (from, row) in from.chunks_exact(columns.len()).zip(to.chunks_exact_mut(width)) {
        let (shared, new) = row[columns.clone()].split_at_mut(n_shared);
        shared.iter_mut().zip(from).for_each(|(sum, copy)| *sum += copy);
        new.copy_from_slice(&from[n_shared..]);
    }
}

#[cfg(test)]
mod tests;
