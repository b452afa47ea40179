//! From files to packs: formats, readers, mixing, packing and the data set in memory. No tensors and no tokenizer:
//! rows go out as [`TrainingRow`](truing_types::TrainingRow), come back as
//! [`TokenizedSample`](truing_types::TokenizedSample), and leave as [`PackedBatch`](truing_types::PackedBatch).
//!
//! ```text
//! SourceConfig ─read_rows─► rows ─(tokenizer)─► samples ─DatasetBuilder─► Dataset
//!                                                                           │ epoch_order, Packing::of_epoch
//!                                                         PackedBatch ◄─────┘
//! ```

mod columns;
mod dataset;
mod error;
mod formats;
mod json;
mod loss_weight;
mod mix;
mod numbers;
mod objects;
mod packing;
mod readers;
mod render;
mod responses;
mod rows;
mod source;
mod source_row;
mod statistics;
mod texts;
mod tools;
mod turns;

pub mod vectors;

/// Rows of each kind that a report lists; of the others it has only the number.
pub const MAX_LISTED_ROWS: usize = 1_000;

pub use dataset::{Dataset, DatasetBuilder, LongSamplePolicy, LongSampleReport, SampleRef};
pub use error::{DataError, RowError, RowErrorKind, RowProblem};
pub use formats::preference::PREFERENCE_FORMATS;
pub use formats::prompts::PROMPT_FORMATS;
pub use formats::unpaired::UNPAIRED_FORMATS;
pub use formats::{FORMATS, Format, FormatColumn};
pub use mix::{HeldOut, SourceRange, Split, epoch_order, split_held_out};
pub use numbers::number_of;
pub use objects::{ObjectRow, read_objects, readable_objects};
pub use packing::{Packing, PackingError, PackingReport, PackingStrategy, pack_best_fit_decreasing};
pub use render::Render;
pub use responses::{
    ResponseBatch, ResponseDataset, ResponseDatasetBuilder, ResponseGroup, TokenizedResponse,
};
pub use rows::{
    Remark, Remarked, Rows, SkippedRows, parse_row, parse_row_as, read_preferences, read_prompts, read_rows,
    read_rows_as, read_unpaired,
};
pub use source::{OnBadRow, SourceConfig};
pub use source_row::SourceRow;
pub use statistics::{LengthHistogram, LengthSummary, SourceStatistics};
pub use texts::{
    TEXT_FIELDS, TextRow, TextRows, Triplet, data_files, describe_unread, read_texts, read_triplets,
    unread_files,
};
pub use turns::{OnRoleOrder, TurnProblem, TurnRole};
