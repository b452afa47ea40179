//! One vector for each row that is left: read, made by a model and kept on disk for a resume, or made by the encoder
//! after it was taught what a task is.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use truing_data::vectors::{NpyFile, UnfinishedVectors, VectorWriter};
use truing_model::Engine;
use truing_parallel::Solo;
use truing_predict::{EmbedOptions, Embedder};
use truing_run::{Ended, Probe, RunError, Start};
use truing_stages::embed::train::{EmbedStage, EmbedTrainConfig, EmbedTrainInputs, EmbedTrainPlan};
use truing_stages::training::ResourceSettings;
use truing_store::{Digest, RunDirectory, atomic};
use truing_types::{Event, EventSink};

use super::embedded::Embedded;
use super::mining::{self, Mined};
use super::plan::encoder_training;
use super::pool::Pool;
use super::{SelectPlan, TaskEmbeddingConfig};
use crate::{RunContext, Stage, StageError};

/// Vectors of the encoder as it is.
const BASE_VECTORS: &str = "vectors.npy";
/// Vectors of the encoder after training.
pub(super) const TASK_VECTORS: &str = "task_vectors.npy";
/// The encoder's training.
const ENCODER: &str = "encoder";
/// What it learns from.
const ENCODER_TRIPLETS: &str = "encoder_triplets.jsonl";
const TEXTS_AT_A_TIME: usize = 2048;

/// The vectors that the recipe names. `None` if it was interrupted.
pub(super) fn embed<E: Engine>(
    plan: &SelectPlan,
    pool: &Pool,
    folder: &RunDirectory,
    events: &mut dyn EventSink,
    stop: &AtomicBool,
) -> Result<Option<Embedded>, StageError> {
    let embedding = &plan.config.embedding;
    if let Some(path) = &embedding.vectors {
        return given(path, pool).map(Some);
    }
    let path = folder.path().join(BASE_VECTORS);
    let digest = Digest::of_bytes(format!("{}\n{}", plan.model_digest()?, texts_digest(pool)).as_bytes());
    if let Some(vectors) = kept(&path, digest)? {
        events.emit(Event::Note(format!("reusing the vectors of {}", path.display())));
        return Ok(Some(vectors));
    }
    let model = embedding.model_name_or_path.as_ref();
    embed_with::<E>(model, embedding.max_tokens, digest, &path, plan, pool, events, stop)
}

/// One vector for every row that could be read; those of rows that are left.
fn given(path: &Path, pool: &Pool) -> Result<Embedded, StageError> {
    let (data, width) = NpyFile::open(path)?.read_all()?;
    let (n_rows, n_vectors) = (pool.rows.len(), data.len().checked_div(width).unwrap_or(0));
    if n_rows != n_vectors {
        return Err(RunError::BadSetting {
            key: "embedding.vectors",
            found: format!("{n_vectors} vectors"),
            expected: format!("{n_rows}: one for each row of `data` that can be read"),
        }
        .into());
    }
    Ok(Embedded { data, width }.rows(&pool.alive()))
}

/// Trains the encoder on the mined triplets and embeds with it. `None` if it was interrupted.
pub(super) fn train_and_embed<E: Engine + 'static>(
    plan: &SelectPlan,
    config: &TaskEmbeddingConfig,
    mined: &Mined,
    pool: &Pool,
    folder: &RunDirectory,
    probe: &dyn Probe,
    events: &mut dyn EventSink,
    stop: &AtomicBool,
) -> Result<Option<Embedded>, StageError> {
    let triplets = mining::thinned(&mined.triplets.triplets, config.max_triplets_per_template);
    if triplets.is_empty() {
        let text = "no triplets were mined: the encoder is not fine-tuned, its vectors are used unchanged";
        events.emit(Event::Warning(text.into()));
        return embed::<E>(plan, pool, folder, events, stop);
    }
    let train_data = folder.path().join(ENCODER_TRIPLETS);
    mining::write(&train_data, &triplets, pool)?;
    let config = EmbedTrainConfig {
        output_dir: folder.path().join(ENCODER),
        train_data,
        resources: ResourceSettings { threads: Some(plan.n_threads()), ..ResourceSettings::default() },
        ..encoder_training(&plan.config, config)
    };
    let inputs = EmbedTrainInputs::load(&config, events)?;
    let start = Start::of(&config.output_dir);
    let train_plan = EmbedTrainPlan::resolve::<E>(config, &inputs, &plan.machine)?;
    let groups = Solo::groups();
    let context = RunContext::new(start, &groups, probe, events, stop);
    let Ended::Finished(trained) = EmbedStage::run::<E>(&train_plan, &inputs, context)? else {
        return Ok(None);
    };
    let model = trained.model;
    let weights = Digest::of_file(&model.join("model.safetensors"))?;
    let max_tokens = plan.config.embedding.max_tokens;
    let digest = Digest::of_bytes(format!("{weights}\n{max_tokens:?}\n{}", texts_digest(pool)).as_bytes());
    let path = folder.path().join(TASK_VECTORS);
    if let Some(vectors) = kept(&path, digest)? {
        return Ok(Some(vectors));
    }
    embed_with::<E>(&model, max_tokens, digest, &path, plan, pool, events, stop)
}

/// `None` if it was interrupted: what was embedded until then is kept, and taken up again by the same work.
fn embed_with<E: Engine>(
    model: &Path,
    max_tokens: Option<usize>,
    digest: Digest,
    path: &Path,
    plan: &SelectPlan,
    pool: &Pool,
    events: &mut dyn EventSink,
    stop: &AtomicBool,
) -> Result<Option<Embedded>, StageError> {
    let options = EmbedOptions { max_tokens, n_threads: plan.n_threads(), ..EmbedOptions::default() };
    let mut embedder = Embedder::<E>::open(model, options, events)?;
    let (width, alive) = (embedder.width(), pool.alive());
    events.emit(Event::PhaseStarted { phase: "embedding".into(), total: Some(alive.len() as u64) });
    let unfinished = path.with_extension("unfinished");
    let (mut unfinished, mut data) = UnfinishedVectors::open(&unfinished, digest, width, TEXTS_AT_A_TIME)?;
    // What an earlier try has cut is not counted again.
    let at_least = if data.is_empty() { "" } else { "at least " };
    let mut n_cut = 0;
    for ids in alive[data.len() / width..].chunks(TEXTS_AT_A_TIME) {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let texts: Vec<&str> = ids.iter().map(|&id| pool.rows[id as usize].text.as_str()).collect();
        let (vectors, outcome) = embedder.embed(&texts, &mut |_| {})?;
        unfinished.append(&vectors)?;
        data.extend(vectors);
        n_cut += outcome.n_cut;
        events.emit(Event::Progress { done: (data.len() / width) as u64, note: String::new() });
    }
    events.emit(Event::PhaseFinished);
    if n_cut > 0 {
        let text =
            format!("{at_least}{n_cut} prompts exceed the maximum length of the model and are truncated");
        events.emit(Event::Note(text));
    }
    let mut writer = VectorWriter::create(path, alive.len(), width)?;
    for (&id, vector) in alive.iter().zip(data.chunks_exact(width)) {
        writer.write(u64::from(id), vector)?;
    }
    writer.finish()?;
    atomic::write(&digest_path(path), digest.to_string().as_bytes())?;
    unfinished.remove()?;
    Ok(Some(Embedded { data, width }))
}

fn digest_path(path: &Path) -> std::path::PathBuf {
    path.with_extension("digest")
}

/// Vectors that an earlier try has left, if they are of the same texts and weights.
fn kept(path: &Path, digest: Digest) -> Result<Option<Embedded>, StageError> {
    match std::fs::read_to_string(digest_path(path)) {
        Ok(text) if text == digest.to_string() && path.exists() => {
            let (data, width) = NpyFile::open(path)?.read_all()?;
            Ok(Some(Embedded { data, width }))
        }
        _ => Ok(None),
    }
}

fn texts_digest(pool: &Pool) -> Digest {
    let mut all = Vec::new();
    for id in pool.alive() {
        let text = &pool.rows[id as usize].text;
        all.extend((text.len() as u64).to_le_bytes());
        all.extend(text.as_bytes());
    }
    Digest::of_bytes(&all)
}
