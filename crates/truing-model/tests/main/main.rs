//! Tests of reading, writing and finding models, on small files of our own.

#![allow(clippy::unwrap_used)]

mod adapters;
mod encoders;
mod families;
mod gguf;
mod headers;
mod loading;
mod merge;
mod saving;
mod sources;
mod weights;

use std::path::PathBuf;

/// A file below `tests/fixtures`.
fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A tiny random model that transformers saved; shared with the conformance suite.
fn tiny_model(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("conformance").join(name)
}

/// A copy of a tiny model's config.json and weights that a test may spoil.
fn copied_model(name: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(tiny_model(name).join(file), directory.path().join(file)).unwrap();
    }
    directory
}

const TINY_MODELS: [&str; 10] = [
    "llama_tied_llama3_rope",
    "llama_untied_biases",
    "qwen2",
    "qwen3",
    "mistral",
    "llama_yarn",
    "phi3",
    "gemma2",
    "gemma3_text",
    "baichuan",
];

/// A small generator for deterministic damage: SplitMix64.
struct Damage(u64);

impl Damage {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A copy of `bytes` with a few bytes overwritten in its first `within`, and sometimes cut off.
    fn apply(&mut self, bytes: &[u8], within: usize) -> Vec<u8> {
        let mut damaged = bytes.to_vec();
        for _ in 0..=self.next() % 4 {
            let at = self.next() as usize % within;
            damaged[at] = match self.next() % 4 {
                0 => 0,
                1 => 0xff,
                2 => damaged[at] ^ (1 << (self.next() % 8)),
                _ => self.next() as u8,
            };
        }
        if self.next().is_multiple_of(8) {
            damaged.truncate(self.next() as usize % bytes.len());
        }
        damaged
    }
}
