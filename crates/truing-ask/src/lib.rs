//! Asking language models, in this process or on a server: the table of a recipe that names one, many judges in turn
//! with their failures counted, and the folder of a run that asks them.

pub mod chat;
pub mod judged_folder;
pub mod judging;
pub mod labels;
pub mod pas;
pub mod preference;
pub mod quality;

mod error;
mod template;

pub use chat::{ChatContext, ChatModelConfig, OpenChatModel};
pub use error::AskError;
