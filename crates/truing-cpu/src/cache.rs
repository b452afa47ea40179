//! Keys and values of one running sequence.

/// Per layer, the keys and values `[n_cached, kv_width]` of the tokens so far.
#[derive(Debug, Clone)]
pub struct KvCache {
    pub(crate) keys: Vec<Vec<f32>>,
    pub(crate) values: Vec<Vec<f32>>,
    pub(crate) n_cached: usize,
    pub(crate) capacity: usize,
}

impl KvCache {
    pub(crate) fn new(n_layers: usize, capacity: usize) -> Self {
        Self { keys: vec![Vec::new(); n_layers], values: vec![Vec::new(); n_layers], n_cached: 0, capacity }
    }

    /// Forgets all tokens after the first `n_tokens`, so that a prompt's shared beginning is not read twice.
    pub fn truncate(&mut self, n_tokens: usize) {
        if n_tokens < self.n_cached {
            for buffer in self.keys.iter_mut().chain(&mut self.values) {
                let width = buffer.len() / self.n_cached;
                buffer.truncate(n_tokens * width);
            }
            self.n_cached = n_tokens;
        }
    }
}
