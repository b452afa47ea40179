//! The types that all crates share: conversations, packed batches, chat requests, events, seeds, and
//! the two traits that have more than one implementer far apart ([`Communicator`], [`ChatModel`]).
//!
//! Plain data only. Nothing here opens a file, owns a tensor, prints, or reads the environment or the clock.

mod allowed;
mod batch;
mod chat;
mod communicator;
mod conversation;
mod events;
mod excluded;
mod fates;
mod groups;
mod preference;
mod prompt_map;
mod reasoning;
mod reward;
mod rollout;
mod seed;
mod stage;
mod wording;

pub use allowed::AllowedTokens;
pub use batch::{BatchError, PackedBatch, RowOrigin, TargetTokens, TokenId, TokenizedSample};
pub use chat::{
    ChatError, ChatModel, ChatReply, ChatRequest, ChatResult, EndpointRequest, EndpointResult, FinishReason,
    PromptLogProbs, SamplingOptions,
};
pub use communicator::{CommunicationError, Communicator, Rank, all_gather_dealt, dealt, in_dealt_order};
pub use conversation::{Conversation, Message, Role, TrainingRow};
pub use events::{Event, EventSink, Silent};
pub use excluded::ExcludedTokens;
pub use fates::UNUSABLE_FATES;
pub use groups::Groups;
pub use preference::{PreferenceRow, PromptRow, RankedResponse, UnpairedRow};
pub use prompt_map::{Projection, PromptMap};
pub use reasoning::{ReasoningMark, ReasoningMarks, SplitText, TextStart, split_reasoning};
pub use reward::{Unscored, UnscoredReason};
pub use rollout::Rollout;
pub use seed::Seed;
pub use stage::{STAGES, StageInfo, StageName};
pub use wording::{alternatives, counted, nearest_name, with_causes};
