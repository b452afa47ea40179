//! A judge's reply: the verdict of each protocol lies between 0 and 1, or there is none.
#![no_main]

use std::ops::ControlFlow;

use libfuzzer_sys::fuzz_target;
use truing_reward::asking::last_bracketed;
use truing_reward::judge::{Judge, JudgeConfig, JudgeProtocol};
use truing_reward::{Completion, RewardFunction};
use truing_types::{
    ChatError, ChatModel, ChatReply, ChatRequest, Conversation, FinishReason, Message, Role, RowOrigin,
};

/// The first bytes stand for what the reader looks for, the others for characters of one or two bytes.
const WORDS: &str = "[[ ]] [ ] A b C tie 7 /10 - .5 1e400 nan inf { } {\"score\": \" <think> </think> \\u ，";

struct Replies(String);

impl ChatModel for Replies {
    fn chat(
        &self,
        _request: &ChatRequest,
        _on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<ChatReply, ChatError> {
        Ok(ChatReply {
            text: self.0.clone(),
            reasoning: None,
            tool_calls: Vec::new(),
            tokens: Vec::new(),
            finish_reason: FinishReason::EndOfTurn,
            n_prompt_tokens: 0,
            n_completion_tokens: 0,
        })
    }
}

fuzz_target!(|bytes: &[u8]| {
    let pieces: Vec<&str> = WORDS.split(' ').chain([" ", "\n"]).collect();
    let piece = |&byte: &u8| match pieces.get(usize::from(byte)) {
        Some(piece) => (*piece).to_owned(),
        None => char::from(byte).to_string(),
    };
    let reply: String = bytes.iter().map(piece).collect();
    if let Some(verdict) = last_bracketed(&reply) {
        assert!(reply.contains(verdict) && !verdict.contains("[["));
    }
    let prompt = Conversation { messages: vec![Message::new(Role::User, "Why?")], tools: Vec::new() };
    let columns = serde_json::Map::from_iter([("reference".to_owned(), "So.".into())]);
    let completion = Completion {
        prompt: &prompt,
        text: "Thus.",
        n_tokens: 1,
        finish_reason: FinishReason::EndOfTurn,
        columns: &columns,
        origin: &RowOrigin { source: "fuzz.jsonl".into(), line: 1 },
    };
    for protocol in [JudgeProtocol::Score, JudgeProtocol::Pairwise] {
        let config = JudgeConfig { protocol, ..JudgeConfig::default() };
        let mut judge =
            Judge::new(config, Box::new(Replies(reply.clone()))).expect("these settings are valid");
        for score in judge.score(&[completion]).into_iter().flatten() {
            assert!((0.0..=1.0).contains(&score), "{score}");
        }
    }
});
