//! SmolLM2-135M-Instruct against llama.cpp and a float32 NumPy forward pass, where both are found.

use std::ops::ControlFlow;
use std::path::PathBuf;

use serde_json::Value;
use truing_cpu::{CpuEngine, CpuOptions, Loader};
use truing_generate::{LocalChat, Session};
use truing_model::{EngineError, ModelError, ModelFiles, TrainableSpec};
use truing_text::{ChatRenderer, RenderOptions};
use truing_types::{ChatModel, ChatRequest, Conversation, Message, Role, SamplingOptions, TokenId};

#[derive(Debug)]
#[expect(dead_code, reason = "shown when loading fails")]
enum Failure {
    Model(ModelError),
    Engine(EngineError),
}

impl From<ModelError> for Failure {
    fn from(error: ModelError) -> Self {
        Self::Model(error)
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

fn from_environment(variable: &str) -> Option<PathBuf> {
    let found = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.exists());
    if found.is_none() {
        println!("skipped: {variable} does not name an existing path");
    }
    found
}

fn load(path: &std::path::Path) -> CpuEngine {
    let model = ModelFiles::open(path).unwrap();
    let mut loader =
        Loader::new(model.spec.clone(), TrainableSpec::default(), CpuOptions::default()).unwrap();
    model
        .load_weights::<Failure>(|parameter, tensor| {
            Ok(loader.put(&parameter.name, &parameter.shape, tensor.values)?)
        })
        .unwrap();
    loader.finish().unwrap()
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
        let mut session = Session::new(&engine);
        let (logits, _) = session.read(&mut engine, &prompt).unwrap();
        for (token, expected) in numbers(&row["f32_last_top10_logits"]) {
            largest = largest.max((logits[token as usize] - expected).abs());
        }
        // One token at a time gives the same as all at once, and the log-probabilities of the prompt.
        let mut session = Session::new(&engine);
        let expected: Vec<f32> = serde_json::from_value(row["f32_prompt_logprobs"].clone()).unwrap();
        for (at, expected) in expected.iter().enumerate() {
            let (logits, n_reused) = session.read(&mut engine, &prompt[..=at]).unwrap();
            assert_eq!(n_reused, at);
            let total: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
            let log_prob = f64::from(logits[prompt[at + 1] as usize]) - total.ln();
            largest = largest.max((log_prob as f32 - expected).abs());
        }
    }
    println!("largest difference to the float32 reference: {largest:e}");
    assert!(largest < 1e-3, "{largest}");

    let mut chat = LocalChat::new(engine, renderer);
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
