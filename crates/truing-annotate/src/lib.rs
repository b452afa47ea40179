//! Pages on which people rank, rate, mark, edit and label responses, and what becomes of their answers (report 3.2).
//!
//! [`AnnotateConfig`] is the recipe, [`Items`] what is shown, [`Project`] the state: a journal that every acknowledged
//! answer is in before the browser gets its acknowledgement, and an order in which items are given out. [`Status`]
//! measures agreement, competence and the judges; [`write_outputs`] makes training data. [`serve`] serves the pages.

mod answer;
mod answer_problem;
mod assignment;
mod config;
mod consensus;
mod error;
mod exports;
mod item;
mod journal;
mod judges;
mod people;
mod project;
mod records;
mod response;
mod server;
mod shown_ids;
mod state;
mod status;
mod stored;

use std::net::TcpListener;
use std::time::Duration;

pub use answer::{Answer, EditedResponse, MarkedSpan};
pub use answer_problem::AnswerProblem;
pub use config::{
    Adjudication, AnnotateConfig, AnnotationType, KnownItems, MeasurementLevel, PersonConfig, Question,
};
pub use error::AnnotateError;
pub use exports::{OUTPUTS, OutputCounts, write_outputs};
pub use item::{Item, ItemKind, Items};
pub use journal::{Entry, EntryKind, Journal, OpenedJournal};
pub use judges::JudgeCalibration;
pub use people::{MakeToken, NewLink, People, Person, Role};
pub use project::{JOURNAL, OpenedProject, Project, Refusal, Submission};
pub use records::{ItemRecord, Records, Stored};
pub use response::Response;
pub use status::{AnnotatorStatus, Measured, Progress, Status};
pub use stored::StoredProject;

/// How a project is served.
#[derive(Debug, Clone, Copy)]
pub struct ServeOptions {
    /// Connections at a time; further ones wait.
    pub max_connections: usize,
    /// Bytes of a request's body.
    pub max_body_bytes: usize,
    /// Time for requests that are being answered when the server stops.
    pub drain_timeout: Duration,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self { max_connections: 256, max_body_bytes: 1 << 20, drain_timeout: Duration::from_secs(10) }
    }
}

/// Serves a project until its clock says stop, and writes its outputs while people work and at the end. Every request
/// for items, answers or the status needs a token; the pages themselves hold no data. What is sent is not encrypted.
///
/// # Errors
/// When the system refuses, or the outputs cannot be written at the end.
pub fn serve(listener: TcpListener, project: Project, options: &ServeOptions) -> Result<(), AnnotateError> {
    server::serve(listener, project, options)
}
