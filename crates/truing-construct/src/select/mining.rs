//! Task templates, clusters at two grains, and the triplets that both allow (report 3.1.2).

use serde_json::json;
use std::collections::BTreeMap;
use std::io::Write;

use truing_prompts::clustering::{CoarseAndFine, KmeansOptions, coarse_and_fine};
use truing_prompts::templates::{TemplateSet, mine_templates};
use truing_prompts::tokens::TokenPool;
use truing_prompts::triplets::{Triplet, Triplets, mine_triplets};
use truing_run::RunError;
use truing_store::{RunDirectory, atomic};
use truing_types::{Event, EventSink};

use super::embedded::Embedded;
use super::pool::Pool;
use super::{SelectConfig, plan};
use crate::StageError;

/// All mined triplets, for people and for `truing embed train`.
pub(super) const TRIPLETS: &str = "triplets.jsonl";

/// Triplets of rows that are left, by their place among them.
#[derive(Debug)]
pub(super) struct Mined {
    pub(super) triplets: Triplets,
}

pub(super) fn find_templates(
    tokens: &TokenPool,
    config: &SelectConfig,
    events: &mut dyn EventSink,
) -> Result<TemplateSet, StageError> {
    events.emit(Event::PhaseStarted { phase: "looking for task templates".into(), total: None });
    let templates = mine_templates(tokens, &config.templates)?;
    events.emit(Event::PhaseFinished);
    let with = templates.template_of_row.iter().flatten().count();
    let (n, of) = (templates.templates.len(), tokens.len());
    events.emit(Event::Note(format!("{n} task templates hold {with} of {of} prompts")));
    Ok(templates)
}

/// Coarse and fine clusters of vectors.
pub(super) fn cluster(
    vectors: &Embedded,
    config: &SelectConfig,
    events: &mut dyn EventSink,
) -> Result<CoarseAndFine, StageError> {
    let given = &config.clusters;
    let vectors = vectors.vectors()?;
    let n_coarse =
        given.n_coarse.unwrap_or_else(|| ((vectors.len() as f64 / 4.0).sqrt().round() as usize).max(1));
    let options =
        KmeansOptions { n_clusters: n_coarse, seed: config.seed_of(given.seed), ..KmeansOptions::default() };
    events.emit(Event::PhaseStarted { phase: "clustering".into(), total: None });
    let clusters = coarse_and_fine(vectors, &options, given.rows_per_fine_cluster)?;
    events.emit(Event::PhaseFinished);
    Ok(clusters)
}

pub(super) fn mine(
    templates: &TemplateSet,
    vectors: &Embedded,
    config: &SelectConfig,
    events: &mut dyn EventSink,
) -> Result<Mined, StageError> {
    let clusters = cluster(vectors, config, events)?;
    events.emit(Event::PhaseStarted { phase: "mining triplets".into(), total: None });
    let triplets = mine_triplets(templates, &clusters, vectors.vectors()?, &plan::triplet_options(config))?;
    events.emit(Event::PhaseFinished);
    let Triplets { n_without_template, n_without_positive, n_without_negative, .. } = triplets;
    events.emit(Event::Note(format!(
        "{} triplets; without: {n_without_template} prompts of no template, {n_without_positive} without a positive, \
         {n_without_negative} without a negative",
        triplets.triplets.len()
    )));
    Ok(Mined { triplets })
}

/// Writes every triplet with the reasons for it.
pub(super) fn write_triplets(
    mined: &Mined,
    pool: &Pool,
    folder: &RunDirectory,
    events: &mut dyn EventSink,
) -> Result<(), StageError> {
    let path = folder.path().join(TRIPLETS);
    write(&path, &mined.triplets.triplets, pool)?;
    events.emit(Event::Saved { what: "triplets".into(), path });
    Ok(())
}

/// At most `most` triplets of each template, evenly over its anchors.
pub(super) fn thinned(triplets: &[Triplet], most: usize) -> Vec<Triplet> {
    let mut of_template: BTreeMap<u32, Vec<Triplet>> = BTreeMap::new();
    for triplet in triplets {
        of_template.entry(triplet.template).or_default().push(*triplet);
    }
    let mut thinned = Vec::new();
    for of_template in of_template.into_values() {
        let n = of_template.len();
        let n_kept = n.min(most);
        thinned.extend((0..n_kept).map(|i| of_template[i * n / n_kept]));
    }
    thinned.sort_by_key(|triplet| triplet.anchor);
    thinned
}

pub(super) fn write(path: &std::path::Path, triplets: &[Triplet], pool: &Pool) -> Result<(), StageError> {
    let alive = pool.alive();
    let failed = |source| RunError::Write { path: path.to_path_buf(), source };
    let mut writer = atomic::Writer::new(path)?;
    for triplet in triplets {
        let ids = [triplet.anchor, triplet.positive, triplet.negative].map(|row| alive[row as usize]);
        let [anchor, positive, negative] = ids.map(|id| &pool.rows[id as usize].text);
        let row = json!({
            "anchor": anchor,
            "positive": positive,
            "negative": negative,
            "group": triplet.template,
            "negative_group": triplet.negative_template,
            "ids": ids,
            "positive_share": triplet.positive_share,
            "negative_share": triplet.negative_share,
            "fine_clusters": triplet.fine_clusters,
            "coarse_cluster": triplet.coarse_cluster,
        });
        writeln!(writer, "{row}").map_err(failed)?;
    }
    writer.commit()?;
    Ok(())
}
