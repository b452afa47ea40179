//! SmolLM2-135M-Instruct against llama.cpp and a float32 NumPy forward pass, where both are found.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::path::PathBuf;

use serde_json::Value;
use truing_cpu::CpuEngine;
use truing_generate::{
    DecodingOptions, LocalChat, PromptReading, SampleRequest, SampledIds, Session, end_tokens,
    excluded_tokens, sample,
};
use truing_model::{
    Adapters, DecodingWeights, Engine, EngineOptions, HeadRequest, ModelFiles, SaveActivations, TrainableSpec,
};
use truing_parallel::Solo;
use truing_text::{ChatRenderer, RenderOptions};
use truing_types::{
    ChatModel, ChatRequest, Conversation, ExcludedTokens, Message, PackedBatch, Role, RowOrigin,
    SamplingOptions, TokenId,
};

fn from_environment(variable: &str) -> Option<PathBuf> {
    let found = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.exists());
    if found.is_none() {
        println!("skipped: {variable} does not name an existing path");
    }
    found
}

fn at_most(max_batch: usize) -> DecodingOptions {
    DecodingOptions {
        max_batch,
        weights: DecodingWeights::F32,
        prompts: PromptReading::Whole,
        prompt_lookup_num_tokens: 0,
    }
}

fn load(path: &std::path::Path) -> CpuEngine {
    let model = ModelFiles::open(path).unwrap();
    let (spec, options) = (model.spec.clone().into(), EngineOptions::default());
    let trainable = TrainableSpec::default();
    CpuEngine::load(spec, trainable, &options, &Solo::groups(), &mut model.weight_source()).unwrap()
}

fn numbers(pairs: &Value) -> Vec<(TokenId, f32)> {
    serde_json::from_value(pairs.clone()).unwrap()
}

/// One test, because loading takes longer than everything else.
#[test]
fn smollm2_reads_and_writes_as_the_references_do() {
    let (Some(path), Some(shared)) =
        (from_environment("TRUING_TEST_GGUF"), from_environment("TRUING_TEST_SHARED"))
    else {
        return;
    };
    let mut engine = load(&path);
    let renderer = ChatRenderer::load(&path, RenderOptions::default()).unwrap();
    let text = std::fs::read_to_string(shared.join("data/reference/smollm2_logits.jsonl")).unwrap();
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut largest: f32 = 0.0;
    for row in &rows {
        let prompt: Vec<TokenId> = serde_json::from_value(row["prompt_ids"].clone()).unwrap();
        assert_eq!(renderer.tokenizer().encode_prompt(row["prompt"].as_str().unwrap()).unwrap(), prompt);
        let mut session = Session::new(&mut engine).unwrap();
        let (logits, _) = session.read(&mut engine, &prompt).unwrap();
        let logits = engine.read_logits(&logits).unwrap();
        for (token, expected) in numbers(&row["f32_last_top10_logits"]) {
            largest = largest.max((logits[token as usize] - expected).abs());
        }
        // One token at a time gives the same as all at once, and the log-probabilities of the prompt.
        let mut session = Session::new(&mut engine).unwrap();
        let expected: Vec<f32> = serde_json::from_value(row["f32_prompt_logprobs"].clone()).unwrap();
        for (at, expected) in expected.iter().enumerate() {
            let (logits, n_reused) = session.read(&mut engine, &prompt[..=at]).unwrap();
            let logits = engine.read_logits(&logits).unwrap();
            assert_eq!(n_reused, at);
            let total: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
            let log_prob = f64::from(logits[prompt[at + 1] as usize]) - total.ln();
            largest = largest.max((log_prob as f32 - expected).abs());
        }
    }
    println!("largest difference to the float32 reference: {largest:e}");
    assert!(largest < 1e-3, "{largest}");

    let chat = LocalChat::new(engine, renderer).unwrap();
    let mut silent = |_: &str| ControlFlow::Continue(());
    for row in &rows {
        let expected: Vec<TokenId> = serde_json::from_value(row["greedy_ids"].clone()).unwrap();
        let sampling = SamplingOptions { max_new_tokens: expected.len(), ..Default::default() };
        let reply = chat.complete(row["prompt"].as_str().unwrap(), &sampling, &mut silent).unwrap();
        let same = reply.reply.tokens.iter().zip(&expected).take_while(|(a, b)| a == b).count();
        println!("{}: {same} of {} tokens as llama.cpp", row["prompt"], expected.len());
        // llama.cpp quantises activations, so later tokens may part ways; the first may not.
        assert!(same >= 1, "{:?}", reply.reply.text);
        for (token, expected) in numbers(&row["f32_first_token_logprobs_of_top5"]) {
            if token == reply.reply.tokens[0] {
                assert!((reply.log_probs[0] - expected).abs() < 1e-3);
            }
        }
    }
    let messages = vec![Message::new(Role::User, "What is the capital of France?")];
    let mut request = ChatRequest {
        conversation: Conversation { messages, tools: Vec::new() },
        sampling: SamplingOptions { max_new_tokens: 40, ..Default::default() },
    };
    let first = chat.chat(&request, &mut silent).unwrap();
    assert!(first.text.contains("Paris"), "{}", first.text);
    request.conversation.messages.push(Message::new(Role::Assistant, first.text.clone()));
    request.conversation.messages.push(Message::new(Role::User, "Thank you."));
    let second = chat.reply(&request, &mut silent).unwrap();
    assert!(second.n_reused_tokens >= first.n_prompt_tokens + first.tokens.len() - 1);
    println!("{} / {}", first.text, second.reply.text);
}

/// The sampler against the trainer: the same log-probabilities to 1e-4, and the same tokens in any company.
#[test]
fn what_is_sampled_is_what_the_trainer_computes() {
    let Some(path) = from_environment("TRUING_TEST_GGUF") else { return };
    let mut engine = load(&path);
    let renderer = ChatRenderer::load(&path, RenderOptions::default()).unwrap();
    let requests: Vec<SampleRequest> =
        ["Name three colours.", "What is 12 plus 30?", "Write a poem about rain."]
            .iter()
            .enumerate()
            .map(|(i, text)| {
                let messages = vec![Message::new(Role::User, *text)];
                let prompt = renderer.prompt(&Conversation { messages, tools: Vec::new() }).unwrap();
                SampleRequest { prompt, n_samples: 3, seed_indices: vec![i as u64] }
            })
            .collect();
    let ends = end_tokens(&engine.spec().decoder().unwrap().eos_token_ids.clone(), &renderer);
    let options = SamplingOptions { max_new_tokens: 48, temperature: 1.0, seed: 1, ..Default::default() };
    let excluded = excluded_tokens(renderer.tokenizer(), engine.spec().vocab_size(), &ends);
    let draw = |engine: &mut CpuEngine, requests: &[SampleRequest], max_batch: usize| {
        let started = std::time::Instant::now();
        let go_on = &mut |_, _, _: &_| ControlFlow::Continue(());
        let ids = SampledIds { end: ends.clone().into(), excluded: excluded.clone() };
        let drawn = sample(engine, renderer.tokenizer(), requests, &options, &ids, at_most(max_batch), go_on)
            .unwrap()
            .unwrap();
        let n_tokens: usize = drawn.iter().flatten().map(|completion| completion.tokens.len()).sum();
        let secs = started.elapsed().as_secs_f64();
        println!("{max_batch} at once: {n_tokens} tokens, {:.0} tokens per second", n_tokens as f64 / secs);
        drawn
    };
    let together = draw(&mut engine, &requests, 9);
    assert_eq!(draw(&mut engine, &requests, 2), together);
    assert_eq!(draw(&mut engine, &requests[1..2], 1)[0], together[1]);
    let long = SampleRequest { prompt: requests[2].prompt.clone(), n_samples: 1, seed_indices: vec![9] };
    let endless = SamplingOptions { max_new_tokens: 400, ..options.clone() };
    let go_on = &mut |_, _, _: &_| ControlFlow::Continue(());
    let ids = SampledIds { end: [].into(), excluded: excluded.clone() };
    let long_one = sample(&mut engine, renderer.tokenizer(), &[long], &endless, &ids, at_most(1), go_on)
        .unwrap()
        .unwrap();
    let all = requests.iter().zip(&together).chain(requests[2..].iter().zip(&long_one));
    let mut largest: f32 = 0.0;
    for (request, completion) in all.flat_map(|(request, group)| group.iter().map(move |one| (request, one)))
    {
        let tokens = [&request.prompt[..], &completion.tokens].concat();
        let mut weights = vec![0.0; request.prompt.len()];
        weights.resize(tokens.len(), 1.0);
        let origin = RowOrigin { source: "test".into(), line: 1 };
        let pack = PackedBatch::new([(&tokens[..], &weights[..], origin)]).unwrap();
        let batch = engine.upload(&pack).unwrap();
        let hidden = engine.embed(&batch).unwrap();
        let layers = 0..engine.spec().n_layers();
        let (hidden, _) = {
            let (save, adapters) = (SaveActivations::Nothing, Adapters::Enabled);
            engine.segment_forward(&batch, layers, hidden, save, adapters).unwrap()
        };
        let request = HeadRequest::LogProbs {
            targets: Cow::Owned(pack.targets()),
            temperature: 1.0,
            excluded: excluded.clone(),
            reference: None,
        };
        let computed = engine.head(&hidden, &request).unwrap().tokens.log_probs;
        for (a, b) in computed.iter().zip(&completion.log_probs) {
            largest = largest.max((a - b).abs());
        }
        assert_eq!(computed.len(), completion.log_probs.len());
    }
    println!("largest difference of a log-probability, sampler and trainer: {largest:e}");
    assert!(largest < 1e-4, "{largest}");
}

/// Natural logarithms of the probabilities, in double precision.
fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let highest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let total: f64 = logits.iter().map(|&logit| (f64::from(logit) - highest).exp()).sum();
    logits.iter().map(|&logit| f64::from(logit) - highest - total.ln()).collect()
}

/// How far the sampler of 8 bits is from the model: the numbers that importance weights have to mend.
#[test]
fn decoding_with_8_bits_stays_near_the_model() {
    let Some(path) = from_environment("TRUING_TEST_GGUF") else { return };
    let mut engine = load(&path);
    let renderer = ChatRenderer::load(&path, RenderOptions::default()).unwrap();
    let mut texts = vec!["Name three colours.".to_owned(), "What is 12 plus 30?".to_owned()];
    if let Some(shared) = from_environment("TRUING_TEST_SHARED") {
        let rows = std::fs::read_to_string(shared.join("data/ifeval/input_data.jsonl")).unwrap();
        let prompt =
            |line: &str| serde_json::from_str::<Value>(line).unwrap()["prompt"].as_str().map(str::to_owned);
        texts.extend(rows.lines().take(6).filter_map(prompt));
    }
    let request = |(i, text): (usize, &String)| {
        let messages = vec![Message::new(Role::User, text.as_str())];
        let prompt = renderer.prompt(&Conversation { messages, tools: Vec::new() }).unwrap();
        SampleRequest { prompt, n_samples: 1, seed_indices: vec![i as u64] }
    };
    let requests: Vec<_> = texts.iter().enumerate().map(request).collect();
    let options = SamplingOptions { max_new_tokens: 64, temperature: 1.0, seed: 2, ..Default::default() };
    let go_on = &mut |_, _, _: &_| ControlFlow::Continue(());
    let int8 = DecodingOptions { weights: DecodingWeights::Int8, ..at_most(8) };
    let ids = SampledIds { end: [].into(), excluded: ExcludedTokens::none() };
    let drawn =
        sample(&mut engine, renderer.tokenizer(), &requests, &options, &ids, int8, go_on).unwrap().unwrap();

    // The same tokens again with both weights, for whole distributions.
    let (mut differences, mut divergences, mut likeliest) = (Vec::new(), Vec::new(), 0);
    for (request, group) in requests.iter().zip(&drawn) {
        let n_tokens = request.prompt.len() + options.max_new_tokens;
        let mut caches = [(); 2].map(|()| engine.new_cache(n_tokens).unwrap());
        for cache in &mut caches {
            engine.extend(cache, &request.prompt, DecodingWeights::F32).unwrap();
        }
        let [mut plain_cache, mut int8_cache] = caches;
        let completion = &group[0];
        for (at, &token) in completion.tokens[..completion.tokens.len() - 1].iter().enumerate() {
            let mut after = |cache: &mut _, weights| {
                let logits = engine.extend(cache, &[token], weights).unwrap();
                log_softmax(&engine.read_logits(&logits).unwrap())
            };
            let plain = after(&mut plain_cache, DecodingWeights::F32);
            let int8 = after(&mut int8_cache, DecodingWeights::Int8);
            let next = completion.tokens[at + 1] as usize;
            assert!(
                (int8[next] as f32 - completion.log_probs[at + 1]).abs() < 1e-4,
                "the sampler told its own"
            );
            differences.push((plain[next] - int8[next]).abs());
            divergences.push(int8.iter().zip(&plain).map(|(q, p)| q.exp() * (q - p)).sum::<f64>());
            let highest = |x: &[f64]| (0..x.len()).max_by(|&a, &b| x[a].total_cmp(&x[b]));
            likeliest += usize::from(highest(&plain) == highest(&int8));
        }
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let most = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    let share = likeliest as f64 / differences.len() as f64;
    println!(
        "{} tokens drawn with 8 bits: |log-probability difference| mean {:.5}, largest {:.4}; KL mean {:.6}, largest \
         {:.5}; the same likeliest token {:.1} % of the time",
        differences.len(),
        mean(&differences),
        most(&differences),
        mean(&divergences),
        most(&divergences),
        100.0 * share,
    );
    assert!(mean(&differences) < 0.05 && mean(&divergences) < 0.005 && share > 0.9);
}
