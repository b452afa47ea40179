//! What prompt-lookup decoding gains on real prompts: tokens a second with and without, and the share of drafted tokens
//! that are accepted. It fails where a single token or log-probability differs.
//!
//! `cargo bench -p truing-generate --bench prompt_lookup -- MODEL PROMPTS [DRAFTED] [BATCHES] [NEW] [WEIGHTS]
//! [THREADS]` with a model folder or GGUF file, JSON lines with a `prompt` each, and by default 3, 5 and 10 drafted
//! tokens, batches `1,8,32`, 128 new tokens, weights `f32,int8` and 2 threads. With and without are run in turn, three
//! times each; the lines show the median, the lowest and the highest gain. Replies are greedy and, on a second line,
//! sampled at temperature 1.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark reports and stops at the first fault"
)]

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use truing_cpu::CpuEngine;
use truing_generate::{
    DecodingOptions, DraftCounts, PromptReading, SampleRequest, SampledCompletion, SampledIds, end_tokens,
    excluded_tokens, sample,
};
use truing_model::{DecodingWeights, Engine, EngineOptions, ModelFiles, TrainableSpec};
use truing_parallel::Solo;
use truing_text::{ChatRenderer, RenderOptions};
use truing_types::{Conversation, Message, Role, SamplingOptions};

/// Times that each way is run.
const N_RUNS: usize = 3;

struct Bench {
    engine: CpuEngine,
    renderer: ChatRenderer,
    ids: SampledIds,
    requests: Vec<SampleRequest>,
}

/// The result of one run of all prompts.
struct Run {
    tokens_per_second: f64,
    completions: Vec<SampledCompletion>,
}

impl Bench {
    fn open(model: &Path, prompts: &Path, n_threads: usize) -> Self {
        let files = ModelFiles::open(model).unwrap();
        let options = EngineOptions { n_threads, ..EngineOptions::default() };
        let (spec, frozen) = (files.spec.clone(), TrainableSpec::frozen());
        let weights = &mut files.weight_source();
        let engine =
            CpuEngine::load(spec.clone().into(), frozen, &options, &Solo::groups(), weights).unwrap();
        let renderer = ChatRenderer::load(model, RenderOptions::default()).unwrap();
        let end = end_tokens(&spec.eos_token_ids, &renderer);
        let excluded = excluded_tokens(renderer.tokenizer(), spec.vocab_size, &end);
        let request = |(row, line): (usize, &str)| {
            let row_of_file: serde_json::Value = serde_json::from_str(line).unwrap();
            let messages = vec![Message::new(Role::User, row_of_file["prompt"].as_str().unwrap())];
            let prompt = renderer.prompt(&Conversation { messages, tools: Vec::new() }).unwrap();
            SampleRequest { prompt, n_samples: 1, seed_indices: vec![row as u64] }
        };
        let text = std::fs::read_to_string(prompts).unwrap();
        let requests = text.lines().enumerate().map(request).collect();
        Self { engine, renderer, ids: SampledIds { end: end.into(), excluded }, requests }
    }

    fn run(&mut self, options: &SamplingOptions, decoding: DecodingOptions) -> Run {
        let go_on = &mut |_, _, _: &_| ControlFlow::Continue(());
        let (engine, tokenizer) = (&mut self.engine, self.renderer.tokenizer());
        let start = Instant::now();
        let sampled =
            sample(engine, tokenizer, &self.requests, options, &self.ids, decoding, go_on).unwrap().unwrap();
        let seconds = start.elapsed().as_secs_f64();
        let completions: Vec<SampledCompletion> = sampled.into_iter().flatten().collect();
        let n_tokens: usize = completions.iter().map(|completion| completion.tokens.len()).sum();
        Run { tokens_per_second: n_tokens as f64 / seconds, completions }
    }
}

/// Stops where drafts changed a completion; returns what was drafted.
fn compare(found: &[SampledCompletion], expected: &[SampledCompletion]) -> DraftCounts {
    let mut drafts = DraftCounts::default();
    for (row, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found.tokens, expected.tokens, "prompt {row}");
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
        assert_eq!(bits(&found.log_probs), bits(&expected.log_probs), "prompt {row}");
        drafts.add(found.drafts);
    }
    drafts
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let [model, prompts, rest @ ..] = &arguments[..] else {
        println!("skipped: asks for a model and a file of prompts");
        return;
    };
    let list = |idx: usize, default: &str| -> Vec<String> {
        rest.get(idx).map_or(default, String::as_str).split(',').map(str::to_owned).collect()
    };
    let number = |idx: usize, default: usize| rest.get(idx).map_or(default, |n| n.parse().unwrap());
    let (max_new_tokens, n_threads) = (number(2, 128), number(4, 2));
    let mut bench = Bench::open(Path::new(model), Path::new(prompts), n_threads);
    println!("{} prompts; tokens/s include reading them", bench.requests.len());
    for kind in list(3, "f32,int8") {
        let weights = if kind == "int8" { DecodingWeights::Int8 } else { DecodingWeights::F32 };
        for batch in list(1, "1,8,32") {
            let plain = DecodingOptions {
                max_batch: batch.parse().unwrap(),
                weights,
                prompts: PromptReading::Whole,
                prompt_lookup_num_tokens: 0,
            };
            for drafted in list(0, "3,5,10") {
                let drafting =
                    DecodingOptions { prompt_lookup_num_tokens: drafted.parse().unwrap(), ..plain };
                for temperature in [0.0, 1.0] {
                    let options = SamplingOptions { max_new_tokens, temperature, ..Default::default() };
                    let mut gains = Vec::new();
                    let (mut rates, mut drafts) = ([0.0; 2], DraftCounts::default());
                    for _ in 0..N_RUNS {
                        let without = bench.run(&options, plain);
                        let with = bench.run(&options, drafting);
                        drafts = compare(&with.completions, &without.completions);
                        rates = [without.tokens_per_second, with.tokens_per_second];
                        gains.push(with.tokens_per_second / without.tokens_per_second);
                    }
                    gains.sort_by(f64::total_cmp);
                    println!(
                        "{kind:4} batch {batch:>3} temperature {temperature}: {drafted:>2} drafted, {:.0} % of {} \
                         accepted; {:.1} -> {:.1} tokens/s, gain {:.2} ({:.2} to {:.2})",
                        100.0 * drafts.n_accepted as f64 / (drafts.n_drafted as f64).max(1.0),
                        drafts.n_drafted,
                        rates[0],
                        rates[1],
                        gains[N_RUNS / 2],
                        gains[0],
                        gains[N_RUNS - 1],
                    );
                }
            }
        }
    }
}
