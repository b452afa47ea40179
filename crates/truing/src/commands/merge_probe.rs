//! Whether a merge of models with different vocabularies still reads: bits per byte of a few texts, of every model and
//! of the merged one. A row that was given to the wrong token shows here at once.

use std::ops::ControlFlow;
use std::path::Path;

use serde::Serialize;
use truing_model::merge::MergePlan;
use truing_model::{EngineOptions, ModelFiles, TrainableSpec};
use truing_parallel::Solo;
use truing_predict::rolling_log_likelihoods;
use truing_types::Seed;

use crate::Context;
use crate::local_engine::LocalEngine;
use crate::progress;
use crate::table::{Align, Table};

/// Prose, speech, figures, code and two further languages.
const TEXTS: [&str; 8] = [
    "The ferry leaves the harbour at seven in the morning and returns before dark, unless the wind turns to the north.",
    "\"Have you seen my glasses?\" she asked. \"They are on your nose,\" he said, and went on reading the newspaper.",
    "To make bread, mix flour, water, salt and yeast, let the dough rise for an hour, and bake it until the \
     crust is brown.",
    "If 12 boxes hold 144 pencils in all, then each box holds 144 / 12 = 12 pencils, and 5 boxes hold 60 pencils.",
    "def mean(values):\n    if not values:\n        raise ValueError(\"no values\")\
     \n    return sum(values) / len(values)\n",
    "Water boils at 100 degrees Celsius at sea level; on a high mountain, where the pressure is lower, it \
     boils earlier.",
    "Der Zug nach Hamburg hat heute leider zwanzig Minuten Verspätung, weil auf der Strecke gebaut wird.",
    "春天来了，公园里的花都开了，孩子们在草地上跑来跑去，老人坐在长椅上晒太阳。",
];
/// More bits per byte than the worst of the models, by this factor, are worth a warning.
const TOLERANCE: f64 = 1.1;

/// A model on the texts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Probed {
    /// The model's folder.
    model: String,
    /// Bits per byte over all texts.
    bits_per_byte: f64,
}

/// Reads the texts with every model of a merge, and with the merged one, which comes last.
pub(crate) fn compare(plan: &MergePlan, merged: &Path, context: &Context) -> anyhow::Result<Vec<Probed>> {
    let merged = ModelFiles::open(merged)?;
    plan.models().iter().chain([&merged]).map(|files| probe(files, context)).collect()
}

fn probe(files: &ModelFiles, context: &Context) -> anyhow::Result<Probed> {
    let mut events = progress::for_this_terminal(&context.printer);
    let options = EngineOptions::with_threads(context.n_threads, Seed(0));
    let tokenizer = truing_stages::model::tokenizer(files)?;
    let mut engine: LocalEngine = truing_stages::model::announce_and_load(
        files,
        &TrainableSpec::frozen(),
        &options,
        &Solo::groups(),
        "reading a few texts",
        events.as_mut(),
    )?;
    let go_on = &mut |_| ControlFlow::Continue(());
    let found = rolling_log_likelihoods(&mut engine, &tokenizer, &TEXTS, go_on)?.unwrap_or_default();
    let n_bytes: usize = TEXTS.iter().map(|text| text.len()).sum();
    let nats: f64 = found.iter().map(|one| -one.log_prob).sum();
    let bits_per_byte = nats / std::f64::consts::LN_2 / n_bytes as f64;
    Ok(Probed { model: files.path.display().to_string(), bits_per_byte })
}

/// Prints the table, and a warning where the merged model reads worse than all others.
pub(crate) fn show(probed: &[Probed], context: &Context) -> anyhow::Result<()> {
    let Some((merged, models)) = probed.split_last() else { return Ok(()) };
    let mut table = Table::new(&[("model", Align::Left), ("bits per byte", Align::Right)]);
    for one in probed {
        table.row([one.model.clone(), format!("{:.3}", one.bits_per_byte)]);
    }
    for line in table.lines() {
        context.printer.line(line)?;
    }
    let worst = models.iter().map(|one| one.bits_per_byte).fold(0.0, f64::max);
    if merged.bits_per_byte > TOLERANCE * worst {
        context.printer.warning(format_args!(
            "the merged model needs {:.3} bits per byte for plain texts, the worst of the others {worst:.3}: \
             rows of its embedding may not fit their tokens; measure it before you use it",
            merged.bits_per_byte
        ));
    }
    Ok(())
}
