//! Beginnings of prompts that have been read, kept for prompts that begin the same.

use std::collections::HashMap;
use std::sync::Arc;

use truing_model::{DecodingWeights, Engine};
use truing_types::TokenId;

use crate::GenerateError;

/// Tokens of a piece of a prompt. Prompts are read in pieces that begin at multiples of this, whatever is cached, so
/// that a prompt's logits are the same bits whether its beginning was read now or earlier.
pub const PROMPT_PIECE: usize = 64;

/// Stands for the empty beginning.
const ROOT: u64 = 0;

/// A beginning, one piece longer than its parent.
struct Node<C> {
    id: u64,
    /// Keys and values of the whole beginning.
    cache: C,
    last_used: u64,
}

/// A piece: the beginning that it follows, and its tokens.
type Key = (u64, Arc<[TokenId]>);

/// Whole pieces of prompts with their keys and values, the least recently used dropped first.
///
/// A beginning is found by its tokens, piece by piece, never by a hash alone. Engines whose caches share blocks when
/// they are copied, as the CPU's do, hold each piece once.
pub(crate) struct PrefixCache<E: Engine> {
    nodes: HashMap<Key, Node<E::Cache>>,
    max_pieces: usize,
    next_id: u64,
    n_uses: u64,
}

impl<E: Engine> PrefixCache<E> {
    /// Keeps up to `max_tokens` tokens; 0 keeps nothing.
    pub(crate) fn new(max_tokens: usize) -> Self {
        Self { nodes: HashMap::new(), max_pieces: max_tokens / PROMPT_PIECE, next_id: ROOT + 1, n_uses: 0 }
    }

    /// The longest beginning of a prompt that is cached, as a cache of its own, with its number of tokens. The last
    /// token of a prompt is never part of it: its logits are what a completion begins with.
    pub(crate) fn find(
        &mut self,
        engine: &mut E,
        prompt: &[TokenId],
    ) -> Result<Option<(E::Cache, usize)>, GenerateError> {
        self.n_uses += 1;
        let (mut parent, mut found) = (ROOT, None);
        let readable = &prompt[..prompt.len().saturating_sub(1)];
        for (idx, piece) in readable.chunks_exact(PROMPT_PIECE).enumerate() {
            let key = (parent, Arc::from(piece));
            let Some(node) = self.nodes.get_mut(&key) else { break };
            node.last_used = self.n_uses;
            parent = node.id;
            found = Some((key, (idx + 1) * PROMPT_PIECE));
        }
        let Some((key, n_tokens)) = found else { return Ok(None) };
        Ok(Some((engine.fork_cache(&self.nodes[&key].cache)?, n_tokens)))
    }

    /// Keeps what has been read of a prompt: `cache` holds its first `n_read` tokens, which end a piece.
    pub(crate) fn keep(
        &mut self,
        engine: &mut E,
        prompt: &[TokenId],
        n_read: usize,
        cache: &E::Cache,
    ) -> Result<(), GenerateError> {
        if self.max_pieces == 0 || n_read == 0 || !n_read.is_multiple_of(PROMPT_PIECE) {
            return Ok(());
        }
        self.n_uses += 1;
        let mut parent = ROOT;
        let mut pieces = prompt[..n_read].chunks_exact(PROMPT_PIECE);
        let Some(last) = pieces.next_back() else { return Ok(()) };
        for piece in pieces {
            // An earlier piece may have been dropped meanwhile.
            let Some(node) = self.nodes.get_mut(&(parent, Arc::from(piece))) else { return Ok(()) };
            node.last_used = self.n_uses;
            parent = node.id;
        }
        let key = (parent, Arc::from(last));
        if let Some(node) = self.nodes.get_mut(&key) {
            node.last_used = self.n_uses;
            return Ok(());
        }
        while self.nodes.len() >= self.max_pieces {
            self.drop_oldest();
        }
        let node = Node { id: self.next_id, cache: engine.fork_cache(cache)?, last_used: self.n_uses };
        self.next_id += 1;
        self.nodes.insert(key, node);
        Ok(())
    }

    /// Drops the piece that was not used for longest. Of equals the newest, so that no piece goes before those that
    /// follow it.
    fn drop_oldest(&mut self) {
        let oldest = self.nodes.iter().min_by_key(|(_, node)| (node.last_used, std::cmp::Reverse(node.id)));
        if let Some(key) = oldest.map(|(key, _)| key.clone()) {
            self.nodes.remove(&key);
        }
    }

    /// Number of tokens kept.
    pub(crate) fn n_tokens(&self) -> usize {
        self.nodes.len() * PROMPT_PIECE
    }
}

/// Reads the next piece of a prompt: up to the next multiple of [`PROMPT_PIECE`]. Returns the logits after it and how
/// many tokens have been read then.
pub(crate) fn read_piece<E: Engine>(
    engine: &mut E,
    cache: &mut E::Cache,
    prompt: &[TokenId],
    n_read: usize,
) -> Result<(E::Logits, usize), GenerateError> {
    let end = ((n_read / PROMPT_PIECE + 1) * PROMPT_PIECE).min(prompt.len());
    let logits = engine.extend(cache, &prompt[n_read..end], DecodingWeights::F32)?;
    Ok((logits, end))
}
