//! From a pool of prompts to the chosen ones: plain strings, token ids and vectors in, row numbers and reasons out.
//! No model, no file format.
//!
//! | step | module |
//! |---|---|
//! | made regular or turned away | [`clean`] |
//! | duplicates, near duplicates | [`duplicates`] |
//! | text of an evaluation | [`decontamination`] |
//! | numbered words | [`tokens`] |
//! | what two prompts have in common | [`lcs`] |
//! | what two texts have in common, as summaries and responses are compared | [`rouge`] |
//! | task templates and their slots | [`templates`] |
//! | hard positives and negatives for an encoder | [`triplets`] |
//! | coarse and fine clusters | [`clustering`] |
//! | the chosen prompts, each dropped one with its representative | [`selection`] |
//! | the prompts on a plane | [`map`] |
//! | names for what is asked, and votes on them | [`labels`] |
//!
//! Sections 3.1.1 to 3.1.3 of the Baichuan Alignment Technical Report (arXiv 2410.14940) name these steps and leave
//! their rules open; each module states the rules it takes. Equal input and seed give equal output for any number of
//! threads.

pub mod clean;
pub mod clustering;
pub mod decontamination;
pub mod duplicates;
mod error;
mod hashing;
pub mod labels;
pub mod lcs;
pub mod map;
pub mod rouge;
pub mod selection;
pub mod templates;
pub mod tokens;
pub mod triplets;

pub use error::PromptsError;
