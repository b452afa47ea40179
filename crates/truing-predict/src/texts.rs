//! Texts as a classifier reads them: an encoder with its special tokens, a decoder as a user's turn that asks for the
//! assistant's, or as they are where the model has no chat template. The head reads a decoder's last token.

use rayon::prelude::*;
use truing_model::ModelFiles;
use truing_run::RunError;
use truing_text::{ChatRenderer, SentenceTokenizer, SentenceTokens, TextError};
use truing_types::{Conversation, Message, Role};

/// Makes tokens of texts.
#[derive(Debug)]
pub enum TextReader {
    /// Special tokens around it; a long text loses its end.
    Sentences(Box<SentenceTokenizer>),
    /// Through the chat template; a long text loses its middle, so that instructions at either end stay.
    Chat {
        /// Tokenizer and template.
        renderer: Box<ChatRenderer>,
        /// Most tokens of a text.
        max_tokens: usize,
    },
}

impl TextReader {
    /// Of a decoder. Texts have at most `max_tokens` tokens.
    ///
    /// # Errors
    /// When the chat template cannot be rendered.
    pub fn of_decoder(
        files: &ModelFiles,
        renderer: &ChatRenderer,
        max_tokens: usize,
    ) -> Result<Self, RunError> {
        let max_tokens = max_tokens.min(files.spec.max_position_embeddings);
        let probe = renderer.prompt(&asked("probe"));
        match probe {
            Ok(_) => Ok(Self::Chat { renderer: Box::new(renderer.clone()), max_tokens }),
            Err(TextError::NoChatTemplate) => Ok(Self::Sentences(Box::new(SentenceTokenizer::new(
                renderer.tokenizer(),
                max_tokens,
                false,
            )?))),
            Err(error) => Err(error.into()),
        }
    }

    /// Tokens of texts, in their order.
    ///
    /// # Errors
    /// When a text cannot be tokenized.
    pub fn read<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Result<Vec<SentenceTokens>, RunError> {
        match self {
            Self::Sentences(tokenizer) => Ok(tokenizer.encode_many(texts)?),
            Self::Chat { renderer, max_tokens } => {
                let read =
                    |text: &T| Ok(without_middle(renderer.prompt(&asked(text.as_ref()))?, *max_tokens));
                texts.par_iter().map(read).collect()
            }
        }
    }
}

fn asked(text: &str) -> Conversation {
    Conversation { messages: vec![Message::new(Role::User, text.to_owned())], tools: Vec::new() }
}

/// The first and the last tokens.
fn without_middle(mut tokens: Vec<u32>, max_tokens: usize) -> SentenceTokens {
    let is_cut = tokens.len() > max_tokens;
    if is_cut {
        let n_first = max_tokens / 2;
        tokens.drain(n_first..tokens.len() - (max_tokens - n_first));
    }
    SentenceTokens { tokens, is_cut }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_keeps_its_ends() {
        let cut = |n: u32, most: usize| without_middle((0..n).collect(), most);
        assert_eq!(cut(5, 5), SentenceTokens { tokens: vec![0, 1, 2, 3, 4], is_cut: false });
        assert_eq!(cut(9, 5), SentenceTokens { tokens: vec![0, 1, 6, 7, 8], is_cut: true });
        assert_eq!(cut(9, 1), SentenceTokens { tokens: vec![8], is_cut: true });
    }
}
