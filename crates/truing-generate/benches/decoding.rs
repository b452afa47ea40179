//! Tokens a second of reading prompts and of decoding, for some numbers of sequences at once.
//!
//! `cargo bench -p truing-generate --bench decoding -- MODEL PROMPTS [BATCHES] [NEW] [THREADS] [WEIGHTS]`
//! with a model folder or GGUF file, JSON lines with a `prompt` each, and by default batches `1,8,32`, 64 new tokens
//! 2 threads and weights `f32,int8`, both in turn. Prompts are read one by one. `engine` takes the highest logit and
//! nothing else; `sample` is the whole sampler at temperature 1, texts and log-probabilities included.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark reports and stops at the first fault"
)]

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use truing_cpu::CpuEngine;
use truing_generate::{DecodingOptions, PromptReading, SampleRequest, SampledIds, sample};
use truing_model::{
    ComputeDtype, DecodingWeights, Engine, EngineOptions, ModelFiles, ParameterStore, TrainableSpec,
};
use truing_parallel::Solo;
use truing_text::{ChatRenderer, RenderOptions};
use truing_types::{Conversation, ExcludedTokens, Message, Role, SamplingOptions, TokenId};

fn load(path: &Path, n_threads: usize) -> CpuEngine {
    let model = ModelFiles::open(path).unwrap();
    let options = EngineOptions { n_threads, ..EngineOptions::default() };
    let (spec, trainable) = (model.spec.clone().into(), TrainableSpec::default());
    CpuEngine::load(spec, trainable, &options, &Solo::groups(), &mut model.weight_source()).unwrap()
}

fn prompts(renderer: &ChatRenderer, path: &Path) -> Vec<Vec<TokenId>> {
    let text = std::fs::read_to_string(path).unwrap();
    let prompt = |line: &str| {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let messages = vec![Message::new(Role::User, row["prompt"].as_str().unwrap())];
        renderer.prompt(&Conversation { messages, tools: Vec::new() }).unwrap()
    };
    text.lines().map(prompt).collect()
}

fn highest(logits: &[f32]) -> TokenId {
    (1..logits.len()).fold(0, |best, token| if logits[token] > logits[best] { token } else { best })
        as TokenId
}

/// What the engine alone took.
struct Alone {
    /// Seconds of reading all prompts.
    reading: f64,
    /// Tokens a second of the prompt that was read fastest: what others on the machine disturbed least.
    fastest_reading: f64,
    /// Seconds of all steps.
    decoding: f64,
    /// Seconds of the fastest step.
    fastest_step: f64,
}

fn engine_alone(
    engine: &mut CpuEngine,
    prompts: &[Vec<TokenId>],
    n_new: usize,
    weights: DecodingWeights,
) -> Alone {
    let mut alone = Alone { reading: 0.0, fastest_reading: 0.0, decoding: 0.0, fastest_step: f64::INFINITY };
    let mut tokens = Vec::new();
    let mut caches = Vec::new();
    for prompt in prompts {
        let start = Instant::now();
        let mut cache = engine.new_cache(prompt.len() + n_new).unwrap();
        let logits = engine.extend(&mut cache, prompt, weights).unwrap();
        tokens.push(highest(&engine.read_logits(&logits).unwrap()));
        caches.push(cache);
        let seconds = start.elapsed().as_secs_f64();
        alone.reading += seconds;
        alone.fastest_reading = alone.fastest_reading.max(prompt.len() as f64 / seconds);
    }
    for _ in 1..n_new {
        let start = Instant::now();
        let mut borrowed: Vec<_> = caches.iter_mut().collect();
        let logits = engine.extend_each(&mut borrowed, &tokens, weights).unwrap();
        let logits = engine.read_logits(&logits).unwrap();
        tokens = logits.chunks(logits.len() / tokens.len()).map(highest).collect();
        let seconds = start.elapsed().as_secs_f64();
        alone.decoding += seconds;
        alone.fastest_step = alone.fastest_step.min(seconds);
    }
    alone
}

/// The whole sampler: seconds.
fn with_sampler(
    engine: &mut CpuEngine,
    renderer: &ChatRenderer,
    prompts: &[Vec<TokenId>],
    n_new: usize,
    weights: DecodingWeights,
) -> f64 {
    let request = |(row, prompt): (usize, &Vec<TokenId>)| SampleRequest {
        prompt: prompt.clone(),
        n_samples: 1,
        seed_indices: vec![row as u64],
    };
    let requests: Vec<_> = prompts.iter().enumerate().map(request).collect();
    let options = SamplingOptions { max_new_tokens: n_new, temperature: 1.0, ..Default::default() };
    let go_on = &mut |_, _, _: &_| ControlFlow::Continue(());
    let decoding = DecodingOptions {
        max_batch: prompts.len(),
        weights,
        prompts: PromptReading::Whole,
        prompt_lookup_num_tokens: 0,
    };
    let start = Instant::now();
    // No end tokens: every completion is as long as it may be.
    let ids = SampledIds { end: [].into(), excluded: ExcludedTokens::none() };
    sample(engine, renderer.tokenizer(), &requests, &options, &ids, decoding, go_on).unwrap().unwrap();
    start.elapsed().as_secs_f64()
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let [model, rows, rest @ ..] = &arguments[..] else {
        println!("skipped: asks for a model and a file of prompts");
        return;
    };
    let number = |idx: usize, default: usize| rest.get(idx).map_or(default, |n| n.parse().unwrap());
    let batches = rest.first().map_or("1,8,32", String::as_str);
    let (n_new, n_threads) = (number(1, 64), number(2, 2));
    let mut engine = load(Path::new(model), n_threads);
    let renderer = ChatRenderer::load(Path::new(model), RenderOptions::default()).unwrap();
    let all = prompts(&renderer, Path::new(rows));
    let memory = CpuEngine::memory(engine.spec(), engine.trainable(), ComputeDtype::F32);
    let kinds = rest.get(3).map_or("f32,int8", String::as_str);
    for (kind, batch) in batches.split(',').flat_map(|batch| kinds.split(',').map(move |kind| (kind, batch)))
    {
        let (weights, bytes) = match kind {
            "int8" => (DecodingWeights::Int8, memory.quantized_bytes as f64),
            _ => (DecodingWeights::F32, memory.parameter_bytes as f64),
        };
        let batch: usize = batch.parse().unwrap();
        let prompts = &all[..batch];
        engine_alone(&mut engine, &prompts[..1], 2, weights);
        let alone = engine_alone(&mut engine, prompts, n_new, weights);
        let sampling = with_sampler(&mut engine, &renderer, prompts, n_new, weights);
        let n_prompt: usize = prompts.iter().map(Vec::len).sum();
        let steps = (n_new - 1) as f64;
        println!(
            "{kind:4} batch {batch:3}: read {n_prompt} tokens at {:.0}/s, fastest {:.0}/s; engine {:.1} \
             tokens/s, fastest step {:.1}, weights at {:.1} GB/s; sample {:.1} tokens/s after reading",
            n_prompt as f64 / alone.reading,
            alone.fastest_reading,
            batch as f64 * steps / alone.decoding,
            batch as f64 / alone.fastest_step,
            bytes / alone.fastest_step / 1e9,
            batch as f64 * steps / (sampling - alone.reading),
        );
    }
}
