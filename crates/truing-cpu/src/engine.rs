//! [`CpuEngine`]: the [`Engine`] on this machine's processor.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use rand_chacha::rand_core::Rng;
use truing_kernels::{
    AttentionSpan, MatrixRef, RotaryTable, RowProduct, RowWeight, Write, gather_rows, matmul, multiply_rows,
    rms_norm_forward, scatter_add_rows, spans_of,
};
use truing_model::engine::{EngineMemory, OptimizerStep, ParameterStore, ParameterTensor};
use truing_model::{
    DecoderSpec, DecodingWeights, Engine, EngineError, HeadGradient, HeadKind, HeadOutput, HeadRequest, Keep,
    ParameterRole, ParameterSpec, Pooling, TopLogProbs, TrainableSpec,
};
use truing_types::{Communicator, ExcludedTokens, PackedBatch, Seed, TokenId};

use crate::buffers::BufferPool;
use crate::cache::KvCache;
use crate::layer::{KeptAttention, KeptLayer, Layer, LeftBehind};
use crate::memory::engine_memory;
use crate::parameters::Parameters;

/// Choices that change speed or a fresh adapter, never the result of given weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuOptions {
    /// Threads; 0 takes one per available core.
    pub n_threads: usize,
    /// Draws the down projections of new adapters.
    pub seed: Seed,
}

impl CpuOptions {
    pub(crate) fn start_threads(&self) -> Result<Arc<rayon::ThreadPool>, EngineError> {
        let threads = rayon::ThreadPoolBuilder::new().num_threads(self.n_threads).build();
        let threads = threads
            .map_err(|error| EngineError::Unsupported(format!("threads cannot be started: {error}")))?;
        Ok(Arc::new(threads))
    }
}

/// A batch on the device.
#[derive(Debug, Clone)]
pub struct DeviceBatch {
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) positions: Vec<u32>,
    /// Where each sequence's tokens lie.
    pub(crate) spans: Vec<AttentionSpan>,
    /// Where sequences go on from others and keys are copied; `None` where every token is one key in its place.
    pub(crate) key_runs: Option<Vec<KeyRun>>,
}

/// Neighbouring sequences whose attention is computed together: their keys are copied, every prefix before each of its
/// continuations, and the copies of a run live no longer than its attention. A run has no more keys than the batch has
/// tokens, or a single sequence: so the memory of the copies does not grow with the number of continuations of a prefix.
#[derive(Debug, Clone)]
pub(crate) struct KeyRun {
    /// Tokens of the batch.
    pub(crate) queries: Range<usize>,
    /// The sequences, counted from the run's first query and key.
    pub(crate) spans: Vec<AttentionSpan>,
    /// The token of the batch behind each key.
    pub(crate) key_tokens: Vec<u32>,
}

impl KeyRun {
    fn of(batch: &PackedBatch) -> Vec<Self> {
        let mut runs: Vec<Self> = Vec::new();
        for (sequence_idx, prefix) in batch.prefixes().iter().enumerate() {
            let queries = batch.sequence_range(sequence_idx);
            let prefix = prefix.map(|prefix| batch.sequence_range(prefix as usize)).unwrap_or_default();
            let n_keys = prefix.len() + queries.len();
            let has_room = |run: &&mut Self| run.key_tokens.len() + n_keys <= batch.n_tokens();
            let run = match runs.last_mut().filter(has_room) {
                Some(run) => run,
                None => {
                    let empty = queries.start..queries.start;
                    runs.push(Self { queries: empty, spans: Vec::new(), key_tokens: Vec::new() });
                    let last = runs.len() - 1;
                    &mut runs[last]
                }
            };
            let (first_query, first_key) = (queries.start - run.queries.start, run.key_tokens.len());
            run.spans.push(AttentionSpan {
                queries: first_query..first_query + queries.len(),
                keys: first_key..first_key + n_keys,
            });
            run.queries.end = queries.end;
            run.key_tokens.extend(prefix.chain(queries).map(|token| token as u32));
        }
        runs
    }
}

impl DeviceBatch {
    pub(crate) fn of(batch: &PackedBatch) -> Self {
        let has_prefixes = batch.prefixes().iter().any(Option::is_some);
        Self {
            tokens: batch.tokens().to_vec(),
            positions: batch.positions().to_vec(),
            spans: spans_of(batch.cumulative_lengths()),
            key_runs: has_prefixes.then(|| KeyRun::of(batch)),
        }
    }

    pub(crate) fn n_tokens(&self) -> usize {
        self.tokens.len()
    }
}

/// Hidden states `[n_tokens, hidden]`, or a gradient of that shape.
#[derive(Debug)]
pub struct Hidden(Vec<f32>);

/// What a segment left behind for its backward.
#[derive(Debug)]
pub struct KeptSegment {
    layers: Range<usize>,
    kept: Kept,
}

#[derive(Debug)]
enum Kept {
    Nothing,
    /// The segment's input, and its layers' attention results where they were to be kept.
    Input(Vec<f32>, Vec<KeptAttention>),
    Activations(Vec<KeptLayer>),
}

/// The decoder on the CPU.
#[derive(Debug)]
pub struct CpuEngine {
    threads: Arc<rayon::ThreadPool>,
    inner: Inner,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) spec: DecoderSpec,
    pub(crate) parameters: Parameters,
    layers: Vec<Layer>,
    embedding: usize,
    pub(crate) head: usize,
    pub(crate) final_norm: usize,
    inverse_frequencies: Vec<f32>,
    attention_factor: f32,
    rotary: RotaryTable,
    n_rotary_positions: usize,
    pub(crate) pool: BufferPool,
}

/// Takes the weights tensor by tensor, so that the model is never in memory twice.
#[derive(Debug)]
pub struct Loader {
    spec: DecoderSpec,
    options: CpuOptions,
    parameters: Parameters,
}

impl Loader {
    /// Starts loading a model.
    ///
    /// # Errors
    /// When a LoRA target is no projection of the model.
    pub fn new(
        spec: DecoderSpec,
        trainable: TrainableSpec,
        options: CpuOptions,
    ) -> Result<Self, EngineError> {
        let parameters = Parameters::of_decoder(&spec, trainable)?;
        Ok(Self { spec, options, parameters })
    }

    /// Takes the parameter called `name`, row-major.
    ///
    /// # Errors
    /// When the model has no such parameter or its shape differs.
    pub fn put(&mut self, name: &str, shape: &[usize], values: Vec<f32>) -> Result<(), EngineError> {
        self.parameters.put(name, shape, values)
    }

    /// The engine, once every parameter is there. Adapters that were not loaded start anew: the down
    /// projection uniform in `±1/sqrt(in)` (Kaiming with a = sqrt 5, as PEFT), the up projection zero.
    ///
    /// # Errors
    /// When a parameter is missing or the threads cannot be started.
    pub fn finish(mut self) -> Result<CpuEngine, EngineError> {
        for idx in 0..self.parameters.specs.len() {
            if !self.parameters.values[idx].is_empty() {
                continue;
            }
            let spec = &self.parameters.specs[idx];
            let values = match spec.role {
                ParameterRole::LoraA => {
                    let bound = 1.0 / (spec.shape[1] as f32).sqrt();
                    let mut generator = self.options.seed.generator("lora_A", &[idx as u64]);
                    (0..spec.n_elements())
                        .map(|_| {
                            let unit = (generator.next_u32() >> 8) as f32 / (1_u32 << 24) as f32;
                            (2.0 * unit - 1.0) * bound
                        })
                        .collect()
                }
                ParameterRole::LoraB => vec![0.0; spec.n_elements()],
                // A new reward model or classifier: as transformers draws it, normal with deviation 0.02.
                ParameterRole::Score => self.options.seed.normals("score", spec.n_elements(), 0.02),
                _ => return Err(EngineError::MissingParameter { name: spec.name.clone() }),
            };
            self.parameters.values[idx] = values;
        }
        CpuEngine::new(self.spec, self.options, self.parameters)
    }
}

impl CpuEngine {
    fn new(spec: DecoderSpec, options: CpuOptions, parameters: Parameters) -> Result<Self, EngineError> {
        let threads = options.start_threads()?;
        let layers = (0..spec.n_layers)
            .map(|layer| Layer::find(&spec, &parameters.trainable, &parameters, layer))
            .collect::<Result<_, _>>()?;
        let find = |name: &str| parameters.require(name);
        let embedding = find("model.embed_tokens.weight")?;
        let head = match spec.head {
            HeadKind::Score { .. } => find("score.weight")?,
            HeadKind::LanguageModel if spec.tie_word_embeddings => embedding,
            HeadKind::LanguageModel => find("lm_head.weight")?,
        };
        let final_norm = find("model.norm.weight")?;
        let (inverse_frequencies, attention_factor) = spec.rotary_inverse_frequencies();
        let rotary = RotaryTable::new(&inverse_frequencies, 0, attention_factor);
        Ok(Self {
            threads,
            inner: Inner {
                spec,
                parameters,
                layers,
                embedding,
                head,
                final_norm,
                inverse_frequencies,
                attention_factor,
                rotary,
                n_rotary_positions: 0,
                pool: BufferPool::default(),
            },
        })
    }

    /// Threads in use.
    #[must_use]
    pub fn n_threads(&self) -> usize {
        self.threads.current_num_threads()
    }
}

impl Inner {
    fn check_tokens(&self, tokens: &[TokenId]) -> Result<(), EngineError> {
        let vocab_size = self.spec.vocab_size;
        match tokens.iter().find(|&&token| token as usize >= vocab_size) {
            Some(&token) => Err(EngineError::TokenOutOfRange { token, vocab_size }),
            None => Ok(()),
        }
    }

    fn check_excluded(&self, excluded: &ExcludedTokens) -> Result<(), EngineError> {
        let vocab_size = self.spec.vocab_size;
        match excluded.ranges().last() {
            Some(last) if last.end as usize > vocab_size => {
                Err(EngineError::TokenOutOfRange { token: last.end - 1, vocab_size })
            }
            _ if excluded.len() == vocab_size => {
                Err(EngineError::Unsupported("every token of the vocabulary is excluded".into()))
            }
            _ => Ok(()),
        }
    }

    fn ensure_positions(&mut self, n_positions: usize) {
        if n_positions > self.n_rotary_positions {
            self.n_rotary_positions = n_positions.next_power_of_two();
            self.rotary =
                RotaryTable::new(&self.inverse_frequencies, self.n_rotary_positions, self.attention_factor);
        }
    }

    fn embed(&mut self, tokens: &[TokenId]) -> Vec<f32> {
        let width = self.spec.hidden_size;
        let mut hidden = self.pool.take(tokens.len(), width);
        gather_rows(&self.parameters.values[self.embedding], width, tokens, &mut hidden);
        hidden
    }

    fn segment_forward(
        &mut self,
        batch: &DeviceBatch,
        layers: Range<usize>,
        input: Vec<f32>,
        keep: Keep,
        given: Vec<KeptAttention>,
    ) -> (Vec<f32>, Kept) {
        let keeps_input = matches!(keep, Keep::Input | Keep::InputAndAttention);
        let saved_input = keeps_input.then(|| self.pool.copy(&input, self.spec.hidden_size));
        let mut given = given.into_iter();
        let (mut activations, mut attention) = (Vec::new(), Vec::new());
        let mut x = input;
        for layer in layers {
            let (y, left) = self.layers[layer].forward(
                &self.parameters,
                &mut self.pool,
                &self.rotary,
                batch,
                x,
                keep,
                given.next(),
            );
            match left {
                LeftBehind::Everything(kept) => activations.push(kept),
                LeftBehind::Attention(kept) => attention.push(kept),
                LeftBehind::Nothing => {}
            }
            x = y;
        }
        let kept = match (keep, saved_input) {
            (Keep::Activations, _) => Kept::Activations(activations),
            (_, Some(input)) => Kept::Input(input, attention),
            _ => Kept::Nothing,
        };
        (x, kept)
    }

    fn segment_backward(
        &mut self,
        batch: &DeviceBatch,
        kept: KeptSegment,
        mut d_x: Vec<f32>,
    ) -> Result<Vec<f32>, EngineError> {
        let kept_layers = match kept.kept {
            Kept::Activations(kept_layers) => kept_layers,
            Kept::Input(input, attention) => {
                let (output, again) =
                    self.segment_forward(batch, kept.layers.clone(), input, Keep::Activations, attention);
                self.pool.give(output);
                match again {
                    Kept::Activations(kept_layers) => kept_layers,
                    _ => Vec::new(),
                }
            }
            Kept::Nothing => {
                return Err(EngineError::Unsupported(
                    "a segment run with Keep::Nothing has no backward".into(),
                ));
            }
        };
        for (layer, kept) in kept.layers.zip(kept_layers).rev() {
            self.layers[layer].backward(
                &mut self.parameters,
                &mut self.pool,
                &self.rotary,
                batch,
                kept,
                &mut d_x,
            );
        }
        Ok(d_x)
    }

    /// Final norm of the chosen rows: the rows themselves and their norm, `[n_rows, hidden]` each.
    pub(crate) fn normed_rows(&mut self, hidden: &[f32], rows: &[u32]) -> (Vec<f32>, Vec<f32>) {
        let width = self.spec.hidden_size;
        let mut chosen = self.pool.take(rows.len(), width);
        gather_rows(hidden, width, rows, &mut chosen);
        let mut normed = self.pool.take(rows.len(), width);
        let norm = &self.parameters.values[self.final_norm];
        rms_norm_forward(&chosen, norm, self.spec.rms_norm_eps, &mut normed);
        (chosen, normed)
    }

    fn check_request(&self, request: &HeadRequest<'_>) -> Result<(), EngineError> {
        let is_answerable = match request {
            HeadRequest::LogProbs { targets, excluded, .. } => {
                self.check_tokens(&targets.tokens)?;
                self.check_excluded(excluded)?;
                self.spec.head == HeadKind::LanguageModel
            }
            HeadRequest::Scores { .. } => matches!(self.spec.head, HeadKind::Score { .. }),
        };
        if is_answerable { Ok(()) } else { Err(EngineError::WrongHead { head: self.spec.head }) }
    }

    fn logits(&mut self, hidden: &[f32], rows: &[u32]) -> Vec<f32> {
        let (width, vocab) = (self.spec.hidden_size, self.spec.vocab_size);
        let (chosen, normed) = self.normed_rows(hidden, rows);
        let mut logits = vec![0.0; rows.len() * vocab];
        let head = MatrixRef::new(&self.parameters.values[self.head], vocab, width);
        matmul(MatrixRef::new(&normed, rows.len(), width), head.transposed(), &mut logits, Write::Overwrite);
        self.pool.give(chosen);
        self.pool.give(normed);
        logits
    }

    fn extend(&mut self, cache: &mut KvCache, tokens: &[TokenId]) -> Vec<f32> {
        if let [_] = tokens {
            return self.extend_each(&mut [cache], tokens);
        }
        let n_after = cache.n_cached + tokens.len();
        self.pool.prepare(n_after);
        self.ensure_positions(n_after);
        let positions: Vec<u32> = (cache.n_cached as u32..n_after as u32).collect();
        let mut hidden = self.embed(tokens);
        for (idx, layer) in self.layers.iter().enumerate() {
            layer.extend(&self.parameters, &mut self.pool, &self.rotary, &positions, &mut hidden, cache, idx);
        }
        cache.n_cached = n_after;
        let last = hidden.len() - self.spec.hidden_size;
        let logits = self.logits_of_rows(&hidden[last..], DecodingWeights::F32);
        self.pool.give(hidden);
        logits
    }

    /// One new token for each cache.
    fn extend_each(&mut self, caches: &mut [&mut KvCache], tokens: &[TokenId]) -> Vec<f32> {
        self.parameters.refresh_decoding_weights();
        let longest = caches.iter().map(|cache| cache.n_cached + 1).max().unwrap_or(0);
        self.pool.prepare(tokens.len());
        self.ensure_positions(longest);
        let positions: Vec<u32> = caches.iter().map(|cache| cache.n_cached as u32).collect();
        let mut hidden = self.embed(tokens);
        for (idx, layer) in self.layers.iter().enumerate() {
            layer.extend_each(
                &self.parameters,
                &mut self.pool,
                &self.rotary,
                &positions,
                &mut hidden,
                caches,
                idx,
            );
        }
        caches.iter_mut().for_each(|cache| cache.n_cached += 1);
        let logits = self.logits_of_rows(&hidden, self.parameters.decoding_weights);
        self.pool.give(hidden);
        logits
    }

    /// The head for a few rows `[n_rows, hidden]`, none of which depends on the others in any bit.
    fn logits_of_rows(&mut self, hidden: &[f32], weights: DecodingWeights) -> Vec<f32> {
        let width = self.spec.hidden_size;
        let n_rows = hidden.len() / width;
        let mut normed = self.pool.take(n_rows, width);
        let norm = &self.parameters.values[self.final_norm];
        rms_norm_forward(hidden, norm, self.spec.rms_norm_eps, &mut normed);
        let mut logits = vec![0.0; n_rows * self.spec.vocab_size];
        let weight = match weights {
            DecodingWeights::F32 => RowWeight::F32(&self.parameters.values[self.head]),
            DecodingWeights::Int8 => self.parameters.row_weight(self.head),
        };
        multiply_rows(&normed, width, &mut [RowProduct { weight, y: &mut logits, write: Write::Overwrite }]);
        self.pool.give(normed);
        logits
    }
}

/// Longest piece of a prompt that is read at once; bounds the memory of a long prompt.
const PREFILL_TOKENS: usize = 512;

impl ParameterStore for CpuEngine {
    fn trainable(&self) -> &TrainableSpec {
        &self.inner.parameters.trainable
    }

    fn parameters(&self) -> &[ParameterSpec] {
        &self.inner.parameters.specs
    }

    fn zero_gradients(&mut self) {
        let inner = &mut self.inner;
        self.threads.install(|| inner.parameters.zero_gradients());
    }

    fn reduce_gradients(&mut self, communicator: &dyn Communicator) -> Result<(), EngineError> {
        self.inner.parameters.reduce_gradients(communicator)
    }

    fn gradient_norm(&mut self) -> f64 {
        let inner = &self.inner;
        self.threads.install(|| inner.parameters.gradient_norm())
    }

    fn optimizer_step(&mut self, step: &OptimizerStep) {
        let inner = &mut self.inner;
        self.threads.install(|| inner.parameters.optimizer_step(step));
    }

    fn read(&self, parameter_idx: usize, tensor: ParameterTensor) -> Result<Cow<'_, [f32]>, EngineError> {
        self.inner.parameters.read(parameter_idx, tensor)
    }

    fn write(
        &mut self,
        parameter_idx: usize,
        tensor: ParameterTensor,
        values: &[f32],
    ) -> Result<(), EngineError> {
        self.inner.parameters.set(parameter_idx, tensor, values.to_vec())
    }
}

impl Engine for CpuEngine {
    type Batch = DeviceBatch;
    type Hidden = Hidden;
    type Kept = KeptSegment;
    type Cache = KvCache;

    fn memory(spec: &DecoderSpec, trainable: &TrainableSpec) -> EngineMemory {
        engine_memory(spec, trainable)
    }

    fn spec(&self) -> &DecoderSpec {
        &self.inner.spec
    }

    fn upload(&mut self, batch: &PackedBatch) -> Result<DeviceBatch, EngineError> {
        self.inner.check_tokens(batch.tokens())?;
        self.inner.pool.prepare(batch.n_tokens());
        self.inner.ensure_positions(batch.longest_sequence());
        Ok(DeviceBatch::of(batch))
    }

    fn embed(&mut self, batch: &DeviceBatch) -> Result<Hidden, EngineError> {
        let inner = &mut self.inner;
        Ok(Hidden(self.threads.install(|| inner.embed(&batch.tokens))))
    }

    fn segment_forward(
        &mut self,
        batch: &DeviceBatch,
        layers: Range<usize>,
        input: Hidden,
        keep: Keep,
    ) -> Result<(Hidden, KeptSegment), EngineError> {
        let inner = &mut self.inner;
        let (output, kept) =
            self.threads.install(|| inner.segment_forward(batch, layers.clone(), input.0, keep, Vec::new()));
        Ok((Hidden(output), KeptSegment { layers, kept }))
    }

    fn segment_backward(
        &mut self,
        batch: &DeviceBatch,
        kept: KeptSegment,
        d_output: Hidden,
    ) -> Result<Hidden, EngineError> {
        let inner = &mut self.inner;
        self.threads.install(|| inner.segment_backward(batch, kept, d_output.0)).map(Hidden)
    }

    fn embed_backward(&mut self, batch: &DeviceBatch, d_hidden: Hidden) -> Result<(), EngineError> {
        let inner = &mut self.inner;
        self.threads.install(|| {
            if let Some(d_embedding) = inner.parameters.gradient(inner.embedding) {
                scatter_add_rows(&d_hidden.0, inner.spec.hidden_size, &batch.tokens, d_embedding);
            }
            inner.pool.give(d_hidden.0);
        });
        Ok(())
    }

    fn head(&mut self, hidden: &Hidden, request: &HeadRequest<'_>) -> Result<HeadOutput, EngineError> {
        self.inner.check_request(request)?;
        let inner = &mut self.inner;
        Ok(self.threads.install(|| inner.head(&hidden.0, request)))
    }

    fn head_backward(
        &mut self,
        hidden: Hidden,
        request: &HeadRequest<'_>,
        gradient: &HeadGradient,
    ) -> Result<(HeadOutput, Hidden), EngineError> {
        self.inner.check_request(request)?;
        let inner = &mut self.inner;
        let (output, d_hidden) = self.threads.install(|| inner.head_backward(hidden.0, request, gradient));
        Ok((output, Hidden(d_hidden)))
    }

    fn top_log_probs(
        &mut self,
        hidden: &Hidden,
        rows: &[u32],
        temperature: f32,
        excluded: &ExcludedTokens,
        k: usize,
    ) -> Result<TopLogProbs, EngineError> {
        if self.inner.spec.head != HeadKind::LanguageModel {
            return Err(EngineError::WrongHead { head: self.inner.spec.head });
        }
        self.inner.check_excluded(excluded)?;
        let inner = &mut self.inner;
        Ok(self.threads.install(|| inner.top_log_probs(&hidden.0, rows, temperature, excluded, k)))
    }

    fn pool(
        &mut self,
        batch: &DeviceBatch,
        hidden: Hidden,
        pooling: Pooling,
    ) -> Result<Vec<f32>, EngineError> {
        let inner = &mut self.inner;
        Ok(self.threads.install(|| {
            let rows: Vec<u32> = (0..batch.n_tokens() as u32).collect();
            let (chosen, normed) = inner.normed_rows(&hidden.0, &rows);
            let vectors = crate::encoder::pool(&normed, &batch.spans, inner.spec.hidden_size, pooling);
            [hidden.0, chosen, normed].into_iter().for_each(|buffer| inner.pool.give(buffer));
            vectors
        }))
    }

    fn release_working_memory(&mut self) {
        self.inner.pool = BufferPool::default();
    }

    fn enable_adapters(&mut self, are_enabled: bool) {
        self.inner.parameters.are_adapters_enabled = are_enabled;
    }

    fn logits(&mut self, hidden: &Hidden, rows: &[u32]) -> Result<Vec<f32>, EngineError> {
        if self.inner.spec.head != HeadKind::LanguageModel {
            return Err(EngineError::WrongHead { head: self.inner.spec.head });
        }
        let inner = &mut self.inner;
        Ok(self.threads.install(|| inner.logits(&hidden.0, rows)))
    }

    fn set_decoding_weights(&mut self, weights: DecodingWeights) {
        let inner = &mut self.inner;
        self.threads.install(|| inner.parameters.set_decoding_weights(&inner.spec, weights));
    }

    fn new_cache(&self, capacity: usize) -> KvCache {
        let spec = &self.inner.spec;
        KvCache::new(spec.n_layers, spec.kv_width(), spec.head_dim, capacity)
    }

    fn cache_len(&self, cache: &KvCache) -> usize {
        cache.n_cached
    }

    fn truncate_cache(&self, cache: &mut KvCache, n_tokens: usize) {
        cache.truncate(n_tokens);
    }

    fn fork_cache(&self, cache: &KvCache) -> KvCache {
        cache.clone()
    }

    fn extend_each(
        &mut self,
        caches: &mut [&mut KvCache],
        tokens: &[TokenId],
    ) -> Result<Vec<f32>, EngineError> {
        if caches.len() != tokens.len() {
            let reason = format!("{} tokens for {} sequences", tokens.len(), caches.len());
            return Err(EngineError::Unsupported(reason));
        }
        if let Some(full) = caches.iter().find(|cache| cache.n_cached + 1 > cache.capacity) {
            return Err(EngineError::CacheFull { capacity: full.capacity, needed: full.n_cached + 1 });
        }
        self.inner.check_tokens(tokens)?;
        let inner = &mut self.inner;
        Ok(self.threads.install(|| inner.extend_each(caches, tokens)))
    }

    fn extend(&mut self, cache: &mut KvCache, tokens: &[TokenId]) -> Result<Vec<f32>, EngineError> {
        let needed = cache.n_cached + tokens.len();
        if needed > cache.capacity {
            return Err(EngineError::CacheFull { capacity: cache.capacity, needed });
        }
        self.inner.check_tokens(tokens)?;
        let inner = &mut self.inner;
        Ok(self.threads.install(|| {
            let mut logits = Vec::new();
            for piece in tokens.chunks(PREFILL_TOKENS) {
                logits = inner.extend(cache, piece);
            }
            logits
        }))
    }
}
