//! Texts to vectors, with an encoder or with any decoder. Order is kept, memory bounded: texts are read, tokenized and
//! encoded some thousand at a time, the longest together with the longest.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use truing_data::read_texts;
use truing_data::vectors::VectorWriter;
use truing_model::{Adapters, EncoderFiles, Engine, EngineOptions, ModelFiles, Pooling, TrainableSpec};
use truing_parallel::Solo;
use truing_run::{RunError, model};
use truing_text::{SentenceTokenizer, SentenceTokens, Tokenizer};
use truing_train::{SequenceHead, segments};
use truing_types::{BatchError, Event, EventSink, PackedBatch, RowOrigin, Seed, TokenId};

/// Texts that are read and sorted by length together.
const TEXTS_AT_A_TIME: usize = 2048;
/// Tokens of a pack: enough that products of matrices run at their full rate, few enough that what passes between them
/// stays in the caches.
const TOKENS_PER_PACK: usize = 2048;
/// Tokens of a text that a decoder reads, unless an option says otherwise.
const DECODER_MAX_TOKENS: usize = 2048;

/// How texts are embedded, where the model does not say or shall not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EmbedOptions {
    /// How a decoder's hidden states become a vector; the mean when left out. An encoder's files say it.
    pub pooling: Option<Pooling>,
    /// Most tokens of a text instead of the model's own.
    pub max_tokens: Option<usize>,
    /// Divide a decoder's vectors by their norms. An encoder's files say it.
    pub normalize: bool,
    /// Threads to compute with; 0 takes one per core.
    pub n_threads: usize,
}

/// Makes vectors of texts.
#[derive(Debug)]
pub struct Embedder<E> {
    tokenizer: SentenceTokenizer,
    engine: E,
    head: SequenceHead,
    width: usize,
}

/// What embedding a file came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct EmbedOutcome {
    /// Vectors written.
    pub n_texts: usize,
    /// Length of each.
    pub width: usize,
    /// Tokens that the model read, special ones included.
    pub n_tokens: u64,
    /// Texts that were longer than the model reads and lost their end.
    pub n_cut: usize,
}

/// What the head makes of every sequence of a batch `[n_sequences, width]`.
pub(crate) fn sequence_values<E: Engine>(
    engine: &mut E,
    batch: &PackedBatch,
    head: SequenceHead,
) -> Result<Vec<f32>, RunError> {
    let device = engine.upload(batch)?;
    let hidden = segments::forward_only(engine, &device, Adapters::Enabled)?;
    let output = engine.head(&hidden, &head.request(batch))?;
    Ok(head.values(&output).to_vec())
}

/// Texts' tokens joined into a pack in the order given; nothing in it carries loss.
///
/// # Errors
/// When a text has no token.
pub fn pack_texts<'a>(
    texts: impl IntoIterator<Item = (&'a [TokenId], RowOrigin)>,
) -> Result<PackedBatch, BatchError> {
    let texts: Vec<_> = texts.into_iter().collect();
    let longest = texts.iter().map(|(tokens, _)| tokens.len()).max().unwrap_or(0);
    let weights = vec![0.0; longest];
    let sequences = texts.iter().map(|(tokens, origin)| (*tokens, &weights[..tokens.len()], origin.clone()));
    PackedBatch::new(sequences)
}

impl<E: Engine> Embedder<E> {
    /// Opens a model directory or a `.gguf` file.
    ///
    /// # Errors
    /// When the path holds no model, or the model does not support one of the options.
    pub fn open(path: &Path, options: EmbedOptions, events: &mut dyn EventSink) -> Result<Self, RunError> {
        let frozen = TrainableSpec::frozen();
        if EncoderFiles::is_encoder(path) {
            return Self::open_encoder(path, options, &frozen, events);
        }
        let files = ModelFiles::open(path)?;
        let tokenizer = model::tokenizer(&files)?;
        model::announce(&files, &frozen, events);
        let longest = files.spec.max_position_embeddings;
        let max_tokens = options.max_tokens.unwrap_or(DECODER_MAX_TOKENS).min(longest);
        let engine_options = EngineOptions::with_threads(options.n_threads, Seed::default());
        let engine = model::load_engine(&files, &frozen, &engine_options, &Solo::groups(), &mut |_| {})?;
        Ok(Self {
            tokenizer: SentenceTokenizer::new(&tokenizer, max_tokens, false)?,
            engine,
            head: SequenceHead::Vectors {
                pooling: options.pooling.unwrap_or_default(),
                is_normalized: options.normalize,
            },
            width: files.spec.hidden_size,
        })
    }

    fn open_encoder(
        path: &Path,
        options: EmbedOptions,
        frozen: &TrainableSpec,
        events: &mut dyn EventSink,
    ) -> Result<Self, RunError> {
        let files = EncoderFiles::open(path)?;
        if let Some(pooling) = options.pooling.filter(|pooling| *pooling != files.spec.pooling) {
            return Err(RunError::BadSetting {
                key: "pooling",
                found: format!("{pooling:?}").to_lowercase(),
                expected: format!("{:?}, which the model was made with", files.spec.pooling).to_lowercase(),
            });
        }
        let tokenizer = encoder_tokenizer(&files, options.max_tokens)?.1;
        let engine_options = EngineOptions::with_threads(options.n_threads, Seed::default());
        let engine = model::load_encoder(&files, frozen, &engine_options, &Solo::groups(), events)?;
        let (head, width) = (SequenceHead::of_encoder(&files.spec), files.spec.width());
        Ok(Self { tokenizer, engine, head, width })
    }

    /// Length of a vector.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// The vectors of texts in their order `[n_texts, width]`, and what it came to. `on_tokens` gets the number of
    /// tokens of each pack that is done.
    ///
    /// # Errors
    /// When a text cannot be tokenized or a token has no embedding.
    pub fn embed<T: AsRef<str> + Sync>(
        &mut self,
        texts: &[T],
        on_tokens: &mut dyn FnMut(usize),
    ) -> Result<(Vec<f32>, EmbedOutcome), RunError> {
        let width = self.width();
        let tokens = self.tokenizer.encode_many(texts)?;
        let mut vectors = vec![0.0; texts.len() * width];
        for pack in packs_by_length(&tokens) {
            let found = self.embed_pack(&tokens, &pack)?;
            for (&idx, vector) in pack.iter().zip(found.chunks_exact(width)) {
                vectors[idx * width..(idx + 1) * width].copy_from_slice(vector);
            }
            on_tokens(pack.iter().map(|&idx| tokens[idx].tokens.len()).sum());
        }
        let outcome = EmbedOutcome {
            n_texts: texts.len(),
            width,
            n_tokens: tokens.iter().map(|text| text.tokens.len() as u64).sum(),
            n_cut: tokens.iter().filter(|text| text.is_cut).count(),
        };
        Ok((vectors, outcome))
    }

    fn embed_pack(&mut self, tokens: &[SentenceTokens], pack: &[usize]) -> Result<Vec<f32>, RunError> {
        let source: Arc<str> = "text".into();
        let width = self.width();
        let texts = pack.iter().map(|&idx| {
            let origin = RowOrigin { source: Arc::clone(&source), line: idx as u64 + 1 };
            (&tokens[idx].tokens[..], origin)
        });
        // A text without a token, which a decoder's tokenizer may make, has no vector but 0.
        if pack.iter().all(|&idx| tokens[idx].tokens.is_empty()) {
            return Ok(vec![0.0; pack.len() * width]);
        }
        let batch = pack_texts(texts)?;
        sequence_values(&mut self.engine, &batch, self.head)
    }

    /// Embeds a file's texts into a file: `.npy` of f32 `[n_texts, width]`, or `.jsonl` with `line` and `vector`.
    ///
    /// # Errors
    /// When a row cannot be read, the output's kind is unknown, or the disk refuses. Nothing is half-written.
    pub fn embed_file(
        &mut self,
        data: &Path,
        field: Option<&str>,
        output: &Path,
        events: &mut dyn EventSink,
    ) -> Result<EmbedOutcome, RunError> {
        // The header of a .npy says how many there will be, and so does the progress.
        let mut n_texts = 0;
        for row in read_texts(data, field)? {
            row?;
            n_texts += 1;
        }
        let mut writer = VectorWriter::create(output, n_texts, self.width())?;
        events.emit(Event::PhaseStarted { phase: "embedding".into(), total: Some(n_texts as u64) });
        let mut total = EmbedOutcome { width: self.width(), ..EmbedOutcome::default() };
        let mut rows = read_texts(data, field)?;
        loop {
            let rows: Vec<_> = rows.by_ref().take(TEXTS_AT_A_TIME).collect::<Result<_, _>>()?;
            if rows.is_empty() {
                break;
            }
            let texts: Vec<&str> = rows.iter().map(|row| row.text.as_str()).collect();
            let (vectors, outcome) = self.embed(&texts, &mut |_| {})?;
            for (row, vector) in rows.iter().zip(vectors.chunks_exact(total.width)) {
                writer.write(row.origin.line, vector)?;
            }
            total.n_texts += outcome.n_texts;
            total.n_tokens += outcome.n_tokens;
            total.n_cut += outcome.n_cut;
            events.emit(Event::Progress { done: total.n_texts as u64, note: String::new() });
        }
        writer.finish()?;
        events.emit(Event::PhaseFinished);
        events.emit(Event::Saved { what: "vectors".into(), path: output.to_path_buf() });
        Ok(total)
    }
}

/// An encoder's tokenizer, and the same with its special tokens and longest length.
///
/// # Errors
/// When the tokenizer cannot be read.
pub fn encoder_tokenizer(
    files: &EncoderFiles,
    max_tokens: Option<usize>,
) -> Result<(Tokenizer, SentenceTokenizer), RunError> {
    let tokenizer = Tokenizer::from_dir(&files.transformer_path)?;
    let spec = &files.spec;
    let max_tokens = max_tokens.unwrap_or(spec.max_sequence_length).min(spec.max_position_embeddings);
    let sentences = SentenceTokenizer::new(&tokenizer, max_tokens, spec.is_lower_cased)?;
    Ok((tokenizer, sentences))
}

/// Places of texts cut into packs, the longest first: so a pack's texts are of a length, and the first pack is the one
/// that makes the buffers. Texts without a token are a pack of their own.
pub(crate) fn packs_by_length(texts: &[SentenceTokens]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..texts.len()).collect();
    order.sort_by_key(|&idx| std::cmp::Reverse(texts[idx].tokens.len()));
    let mut packs: Vec<Vec<usize>> = Vec::new();
    let mut room = 0;
    let mut was_empty = false;
    for idx in order {
        let n_tokens = texts[idx].tokens.len();
        let is_empty = n_tokens == 0;
        match packs.last_mut() {
            Some(pack) if n_tokens <= room && is_empty == was_empty => {
                pack.push(idx);
                room -= n_tokens;
            }
            _ => {
                packs.push(vec![idx]);
                room = TOKENS_PER_PACK.saturating_sub(n_tokens);
                was_empty = is_empty;
            }
        }
    }
    packs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_hold_every_text_once_the_longest_first() {
        let lengths = [5, 0, 2000, 300, 40, 0, 2048, 1];
        let texts: Vec<SentenceTokens> =
            lengths.iter().map(|&n| SentenceTokens { tokens: vec![1; n], is_cut: false }).collect();
        let packs = packs_by_length(&texts);
        assert_eq!(packs, [vec![6], vec![2], vec![3, 4, 0, 7], vec![1, 5]]);
    }
}
