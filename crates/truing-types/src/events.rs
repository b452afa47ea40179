//! Events emitted by stages. Stages emit; the binary decides what to draw, write or ignore.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A named part of the work begins: loading, tokenizing, packing, training, evaluating, saving. Where a part of the
    /// same name has not finished, that part continues with the units that are left.
    PhaseStarted {
        /// What is being done, as a person would say it.
        phase: String,
        /// Units of work ahead where known.
        total: Option<u64>,
    },
    /// The current phase has come this far.
    Progress {
        /// Units done.
        done: u64,
        /// Text shown beside the progress, for instance `step 3 of 10`; may be empty.
        note: String,
    },
    /// The current phase is over.
    PhaseFinished,
    /// Numbers of one optimiser step or evaluation, under TRL's names.
    Metrics {
        /// Optimiser steps taken.
        step: u64,
        /// Name and value, in name order.
        values: BTreeMap<String, f64>,
    },
    /// How far all work is, of which the phases are parts. It replaces what was said before; empty when there is no
    /// more.
    Overall {
        /// For instance `part 3 of 7`.
        position: String,
        /// For instance `about 12 min left of all parts`; empty where it is not known.
        left: String,
    },
    /// Informational.
    Note(String),
    /// Needs the user's action.
    Warning(String),
    /// A file or folder is complete on disk.
    Saved {
        /// What it is.
        what: String,
        /// Where it is.
        path: PathBuf,
    },
}

/// Receives events. Must not block for long: it is called between steps.
pub trait EventSink {
    /// Takes one event.
    fn emit(&mut self, event: Event);
}

/// Ignores everything.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl EventSink for Silent {
    fn emit(&mut self, _event: Event) {}
}
