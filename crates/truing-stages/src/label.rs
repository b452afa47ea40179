//! What is asked, in six dimensions (report 3.1.1): labels for prompts out of a label set that is data.

mod set;

pub use set::{label_set_toml, load_label_set, parse_label_set};
