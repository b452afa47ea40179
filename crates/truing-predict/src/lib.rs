//! Trained models at work: texts to vectors, to labels and scores, responses to rewards, continuations to
//! log-likelihoods.

mod classifier;
mod embed;
mod likelihood;
mod reward;
mod texts;

pub use classifier::{Classifier, PredictionOptions, PredictionSummary};
pub use embed::{EmbedOptions, EmbedOutcome, Embedder, encoder_tokenizer, pack_texts};
pub use likelihood::{
    Continuations, Likelihood, LikelihoodOptions, PromptScoring, PromptToken, log_likelihoods,
    rolling_log_likelihoods,
};
pub use reward::{RewardScorer, Scored};
pub use texts::TextReader;
