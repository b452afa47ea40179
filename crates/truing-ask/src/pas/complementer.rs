use std::ops::ControlFlow;

use truing_reward::asking::answer_of;
use truing_types::{ChatError, ChatModel, ChatRequest, ChatResult, SamplingOptions};

use super::questions;

/// A trained complement model. It sees the prompt alone and decodes greedily, so that a prompt always gets the same
/// complement.
pub struct Complementer {
    model: Box<dyn ChatModel>,
    max_new_tokens: usize,
}

impl std::fmt::Debug for Complementer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Complementer").field("max_new_tokens", &self.max_new_tokens).finish_non_exhaustive()
    }
}

impl Complementer {
    /// Tokens of a complement, where nothing else is wanted. Complements have about 30 words.
    pub const MAX_NEW_TOKENS: usize = 200;

    /// A model that was trained on pairs of `truing pas build`, with the most tokens of a complement.
    #[must_use]
    pub fn new(model: Box<dyn ChatModel>, max_new_tokens: usize) -> Self {
        Self { model, max_new_tokens }
    }

    /// The complement of a prompt.
    ///
    /// # Errors
    /// When the model fails, or its reply is cut at the token limit or holds no complement.
    pub fn complement(&self, prompt: &str) -> Result<String, ChatError> {
        self.ask(self.request(prompt, &[]))
    }

    /// The complement of a prompt whose answer will be based on search results: it asks for nothing that they do not
    /// support.
    ///
    /// # Errors
    /// As [`complement`](Self::complement).
    pub fn complement_within(&self, prompt: &str, results: &[&str]) -> Result<String, ChatError> {
        self.ask(self.request(prompt, results))
    }

    /// The complements of many prompts, in their order. `on_done` is called after each request and may stop the rest.
    pub fn complement_all(
        &self,
        prompts: &[&str],
        on_done: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Vec<Result<String, ChatError>> {
        let requests: Vec<ChatRequest> = prompts.iter().map(|prompt| self.request(prompt, &[])).collect();
        let replies = self.model.chat_all(&requests, &mut |_, _| on_done());
        replies.into_iter().map(|reply| self.read(reply)).collect()
    }

    /// What the model is asked; `results` are search results that the complement must stay within.
    #[must_use]
    pub fn request(&self, prompt: &str, results: &[&str]) -> ChatRequest {
        let text = match results {
            [] => questions::complement(prompt),
            results => questions::complement_within(prompt, results),
        };
        let sampling = SamplingOptions { max_new_tokens: self.max_new_tokens, ..SamplingOptions::default() };
        questions::request(text, sampling)
    }

    fn ask(&self, request: ChatRequest) -> Result<String, ChatError> {
        self.read(self.model.chat(&request, &mut |_| ControlFlow::Continue(())))
    }

    fn read(&self, reply: ChatResult) -> Result<String, ChatError> {
        let reply = reply?;
        let failed = |reason: String| ChatError::Failed(reason.into());
        let text = answer_of(&reply, self.max_new_tokens).map_err(|error| failed(error.to_string()))?;
        questions::read_complement(text).ok_or_else(|| failed("the reply holds no complement".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use truing_types::{ChatReply, FinishReason};

    /// Answers with the last line of the prompt's tag, in the way that the tests need.
    struct Echo;

    impl ChatModel for Echo {
        fn chat(
            &self,
            request: &ChatRequest,
            _: &mut dyn FnMut(&str) -> ControlFlow<()>,
        ) -> Result<ChatReply, ChatError> {
            assert_eq!((request.sampling.temperature, request.sampling.max_new_tokens), (0.0, 50));
            let shown = request.conversation.messages[0].content.as_str();
            let prompt = shown.split("<prompt>\n").nth(1).and_then(|rest| rest.split("\n</prompt>").next());
            let (text, finish_reason) = match prompt.unwrap_or_default() {
                "cut" => ("Be", FinishReason::Length),
                "empty" => (" ", FinishReason::EndOfTurn),
                _ if shown.contains("[2] blue") => ("Use only these.", FinishReason::EndOfTurn),
                "为什么" => ("“简短。”", FinishReason::EndOfTurn),
                _ => ("Be brief.", FinishReason::EndOfTurn),
            };
            Ok(ChatReply { text: text.into(), finish_reason, ..ChatReply::default() })
        }
    }

    #[test]
    fn complements_are_whole_or_an_error() {
        let complementer = Complementer::new(Box::new(Echo), 50);
        assert_eq!(complementer.complement("Why?").unwrap(), "Be brief.");
        assert_eq!(complementer.complement("为什么").unwrap(), "简短。");
        assert_eq!(complementer.complement_within("Why?", &["sky", "blue"]).unwrap(), "Use only these.");
        let error = complementer.complement("cut").unwrap_err().to_string();
        assert!(error.contains("cut at max_tokens (50)"), "{error}");
        assert!(complementer.complement("empty").is_err());
        let mut n_done = 0;
        let all = complementer.complement_all(&["cut", "Why?"], &mut || {
            n_done += 1;
            ControlFlow::Continue(())
        });
        assert!(all[0].is_err() && all[1].is_ok() && n_done == 2);
    }
}
