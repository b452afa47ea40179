//! The whole run on a small model, with data that comes with the program: measure, fine-tune, train a reward model,
//! train the policy with verifiable rewards, and measure after each stage that changes the policy.
//!
//! Everything lies in one folder: the recipes and the data as files (so that `truing sft <folder>/sft.toml` does
//! the same by hand), a run directory a stage, an evaluation before the first and after each stage that makes a
//! policy, and `pipeline.json`, which says what is where. What is there already is not done again, so a resume is the
//! same program once more.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use truing_eval::checks::BadItem;
use truing_eval::pipeline::{Evaluation, Pipeline, PipelineStage};
use truing_model::Engine;
use truing_run::ranks::on_first_rank;
use truing_run::{Ended, Machine, Probe, Recipe, RunError, Start};
use truing_stages::grpo::GrpoStage;
use truing_stages::reward::RewardModelStage;
use truing_stages::sft::SftStage;
use truing_stages::training::TrainingConfig;
use truing_stages::{PlanContext, RunContext, Stage, StageError, StagePlan, TrainedModel};
use truing_store::{StoreError, atomic};
use truing_text::RenderOptions;
use truing_types::{ChatError, Event, EventSink, Groups, StageName};

mod agenda;
mod forecast;
mod measure;

use agenda::{Agenda, OfStage};
use forecast::{Effort, Forecast, Overall};
use measure::Tests;

/// A stage: takes the policy made so far, trains, and gives the model that came out, or nothing when it was stopped.
struct Step {
    kind: &'static str,
    /// What people call it.
    name: &'static str,
    /// What it does, in a few words.
    what: &'static str,
    /// What the report calls it.
    stage: StageName,
    /// Reads its recipe with the overrides, before anything is started.
    check: fn(&Quickstart<'_>, &Step) -> Result<(), QuickstartError>,
    /// Counts its work.
    effort: fn(&Quickstart<'_>, &Step) -> Result<Effort, QuickstartError>,
    /// Whether that model is the next policy; otherwise the policy stays.
    makes_policy: bool,
    run: fn(&mut Work<'_>, &Step, &Path) -> Result<Option<PathBuf>, QuickstartError>,
}

/// The stages in order. The evaluation after a stage carries its name.
fn steps<E: Engine + 'static>() -> [Step; 3] {
    [
        Step {
            kind: "sft",
            name: "SFT",
            what: "fine-tune it on conversations",
            stage: StageName::Sft,
            check: check::<SftStage>,
            effort: |quickstart, step| Ok(Effort::of_training(&config_of::<SftStage>(quickstart, step)?)),
            makes_policy: true,
            run: run_sft::<E>,
        },
        Step {
            kind: "reward",
            name: "reward model",
            what: "train one on preferences",
            stage: StageName::RewardModel,
            check: check::<RewardModelStage>,
            effort: |quickstart, step| {
                Ok(Effort::of_training(&config_of::<RewardModelStage>(quickstart, step)?))
            },
            makes_policy: false,
            run: run_reward::<E>,
        },
        Step {
            kind: "grpo",
            name: "GRPO",
            what: "train the fine-tuned model to follow instructions",
            stage: StageName::Grpo,
            check: check::<GrpoStage>,
            effort: |quickstart, step| Ok(Effort::of_policy(&config_of::<GrpoStage>(quickstart, step)?)),
            makes_policy: true,
            run: run_grpo::<E>,
        },
    ]
}

/// What the quickstart is made from.
#[derive(Debug, Clone)]
pub(crate) struct Quickstart<'a> {
    /// Where everything goes.
    pub(crate) folder: PathBuf,
    /// The model's directory or file.
    pub(crate) model: PathBuf,
    /// What the page calls it.
    pub(crate) model_name: String,
    /// `(stage, recipe)`; paths in it are relative to `folder`, where it is written as `<stage>.toml`.
    pub(crate) recipes: &'a [(&'a str, &'a str)],
    /// `(stage, change)`, as after `--set` for that stage's recipe.
    pub(crate) overrides: Vec<(String, String)>,
    /// `(path below folder, content)`: what the recipes name, and what is measured on (see [`Tests`]).
    pub(crate) data: &'a [(&'a str, &'a [u8])],
    /// How conversations are rendered.
    pub(crate) render: RenderOptions,
    /// Continue with what the folder holds.
    pub(crate) resume: bool,
    /// How long all of it takes, where that is known.
    pub(crate) duration: Option<&'a str>,
}

/// What a finished quickstart leaves behind.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct QuickstartOutcome {
    /// The last stage's model.
    pub(crate) model: PathBuf,
    /// Before the first stage and after each that makes a policy.
    pub(crate) evaluations: Vec<Evaluation>,
    /// Share of held-out pairs that the reward model ranks right.
    pub(crate) reward_accuracy: Option<f64>,
}

/// An error that ends the quickstart.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QuickstartError {
    /// The folder is in use by an earlier one.
    #[error("{} holds a quickstart already", folder.display())]
    FolderInUse {
        /// The folder.
        folder: PathBuf,
    },
    /// A line that is not a test item.
    #[error(transparent)]
    Item(#[from] BadItem),
    /// A file of an earlier run that is no longer what it was.
    #[error("{} is damaged; delete it and resume", path.display())]
    DamagedEvaluation {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The model could not answer.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// A stage failed.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// Its folder or model.
    #[error(transparent)]
    Run(#[from] RunError),
}

impl From<StoreError> for QuickstartError {
    fn from(error: StoreError) -> Self {
        Self::Stage(error.into())
    }
}

/// What every step is given.
struct Work<'a> {
    quickstart: &'a Quickstart<'a>,
    look_at_machine: &'a dyn Fn() -> Machine,
    groups: &'a Groups,
    probe: &'a dyn Probe,
    events: Overall<'a>,
    stop: &'a AtomicBool,
    reward_accuracy: Option<f64>,
}

/// Runs the quickstart. The machine is looked at before each stage is planned, because what was done before leaves
/// memory behind; `stop` after every pack and every question.
///
/// # Errors
/// When the folder is in use, the model or a file of the folder is unusable, or a stage fails.
pub(crate) fn run<E: Engine + 'static>(
    quickstart: &Quickstart<'_>,
    look_at_machine: &dyn Fn() -> Machine,
    groups: &Groups,
    probe: &dyn Probe,
    events: &mut dyn EventSink,
    stop: &AtomicBool,
) -> Result<Ended<QuickstartOutcome>, QuickstartError> {
    let folder = &quickstart.folder;
    if !quickstart.resume && folder.join(Pipeline::FILE_NAME).exists() {
        return Err(QuickstartError::FolderInUse { folder: folder.clone() });
    }
    let steps = steps::<E>();
    steps.iter().try_for_each(|step| (step.check)(quickstart, step))?;
    on_first_rank(&*groups.data, || write_files(quickstart, &steps))?;
    let tests = Tests::read(folder)?;
    let agenda = Agenda::of(folder, &steps);
    agenda.lines(quickstart.duration).into_iter().for_each(|line| events.emit(Event::Note(line)));
    let forecast = Forecast::new(efforts(quickstart, &steps, &tests, &agenda.done())?);
    let events = Overall::new(events, probe, agenda, forecast);
    let mut work = Work { quickstart, look_at_machine, groups, probe, events, stop, reward_accuracy: None };
    let outcome = run_parts::<E>(&mut work, &steps, &tests);
    work.events.end();
    outcome
}

/// The work of all parts in order; none where a part is done.
fn efforts(
    quickstart: &Quickstart<'_>,
    steps: &[Step],
    tests: &Tests,
    done: &[bool],
) -> Result<Vec<Effort>, QuickstartError> {
    let of_tests = Effort::of_tests(&quickstart.folder, tests);
    let mut efforts = vec![of_tests];
    for step in steps {
        efforts.push((step.effort)(quickstart, step)?);
        if step.makes_policy {
            efforts.push(of_tests);
        }
    }
    let is_done = done.iter().copied().chain(std::iter::repeat(false));
    Ok(efforts
        .into_iter()
        .zip(is_done)
        .map(|(left, is_done)| if is_done { Effort::default() } else { left })
        .collect())
}

fn run_parts<E: Engine + 'static>(
    work: &mut Work<'_>,
    steps: &[Step],
    tests: &Tests,
) -> Result<Ended<QuickstartOutcome>, QuickstartError> {
    let mut model = work.quickstart.model.clone();
    work.events.begin_next();
    let Some(before) = work.evaluate::<E>("before", "of the base model", 0, &model, tests)? else {
        return Ok(Ended::STOPPED);
    };
    let mut evaluations = vec![before];
    for step in steps {
        work.events.begin_next();
        let Some(next) = (step.run)(work, step, &model)? else {
            return Ok(Ended::STOPPED);
        };
        if step.makes_policy {
            model = next;
            work.events.begin_next();
            let (of, idx) = (format!("after {}", step.name), evaluations.len());
            let Some(after) = work.evaluate::<E>(step.kind, &of, idx, &model, tests)? else {
                return Ok(Ended::STOPPED);
            };
            evaluations.push(after);
        }
    }
    let reward_accuracy = work.reward_accuracy;
    Ok(Ended::Finished(QuickstartOutcome { model, evaluations, reward_accuracy }))
}

/// Recipe, data and the list of what will be where.
fn write_files(quickstart: &Quickstart<'_>, steps: &[Step]) -> Result<(), StageError> {
    let folder = &quickstart.folder;
    for path in [folder.join("data"), folder.join("evaluations")] {
        fs::create_dir_all(&path).map_err(|source| StoreError::Io { action: "create", path, source })?;
    }
    let policies = steps.iter().filter(|step| step.makes_policy).map(|step| step.kind);
    let kinds = std::iter::once("before").chain(policies);
    let pipeline = Pipeline {
        title: "Quickstart".into(),
        model: quickstart.model_name.clone(),
        stages: steps
            .iter()
            .map(|step| PipelineStage { kind: step.stage.to_string(), folder: step.kind.into() })
            .collect(),
        evaluations: kinds.enumerate().map(|(idx, kind)| evaluation_file(idx, kind)).collect(),
        resume_command: Some("truing quickstart --resume --output".into()),
    };
    for (stage, recipe) in quickstart.recipes {
        let text = format!("{}{recipe}", by_hand(quickstart, stage));
        atomic::write(&folder.join(format!("{stage}.toml")), text.as_bytes())?;
    }
    for (path, bytes) in quickstart.data {
        atomic::write(&folder.join(path), bytes)?;
    }
    Ok(atomic::write_json(&folder.join(Pipeline::FILE_NAME), &pipeline)?)
}

/// A comment for the top of a recipe whose settings the quickstart overrides: the command with the same overrides.
fn by_hand(quickstart: &Quickstart<'_>, stage: &str) -> String {
    let of_stage = quickstart.overrides.iter().filter(|(of, _)| of == stage);
    let changes: Vec<String> = of_stage.map(|(_, change)| format!(" --set '{change}'")).collect();
    if changes.is_empty() {
        return String::new();
    }
    format!(
        "# The quickstart changed settings of this recipe. To run it by hand with the same settings:\n\
         #     truing run {stage}.toml{}\n",
        changes.concat()
    )
}

fn evaluation_file(idx: usize, kind: &str) -> PathBuf {
    Path::new("evaluations").join(format!("{idx}-{kind}.json"))
}

/// Supervised fine-tuning of the model in `<folder>/sft`.
fn run_sft<E: Engine + 'static>(
    work: &mut Work<'_>,
    step: &Step,
    model: &Path,
) -> Result<Option<PathBuf>, QuickstartError> {
    Ok(run_stage::<E, SftStage>(work, step, model, begin_training)?.map(|trained| trained.model))
}

/// A reward model out of the policy in `<folder>/reward`.
fn run_reward<E: Engine + 'static>(
    work: &mut Work<'_>,
    step: &Step,
    model: &Path,
) -> Result<Option<PathBuf>, QuickstartError> {
    let trained = run_stage::<E, RewardModelStage>(work, step, model, begin_training)?;
    work.reward_accuracy = trained.as_ref().and_then(|trained| trained.metrics.get("eval_accuracy").copied());
    Ok(trained.map(|trained| trained.model))
}

/// The policy with verifiable rewards in `<folder>/grpo`.
fn run_grpo<E: Engine + 'static>(
    work: &mut Work<'_>,
    step: &Step,
    model: &Path,
) -> Result<Option<PathBuf>, QuickstartError> {
    let trained = run_stage::<E, GrpoStage>(work, step, model, |config, model, output_dir| {
        config.model_name_or_path = model.to_string_lossy().into_owned();
        config.output_dir = output_dir;
        config.merge_adapter |= config.lora.is_some();
    })?;
    Ok(trained.map(|trained| trained.model))
}

/// Sets the model to begin with and the folder. What follows loads a whole model, not adapters.
fn begin_training(config: &mut TrainingConfig, model: &Path, output_dir: PathBuf) {
    config.model_name_or_path = model.to_string_lossy().into_owned();
    config.output_dir = output_dir;
    config.merge_adapter |= config.lora.is_some();
}

/// The settings of a step: its recipe with the overrides.
fn config_of<S: Stage>(quickstart: &Quickstart<'_>, step: &Step) -> Result<S::Config, QuickstartError> {
    let recipe =
        quickstart.recipes.iter().find(|(stage, _)| *stage == step.kind).map_or("", |(_, text)| text);
    let path = quickstart.folder.join(format!("{}.toml", step.kind));
    let of_stage = quickstart.overrides.iter().filter(|(stage, _)| stage == step.kind);
    let overrides: Vec<String> = of_stage.map(|(_, change)| change.clone()).collect();
    Ok(S::Config::from_toml(recipe, &path, &overrides).map_err(RunError::from)?)
}

fn check<S: Stage>(quickstart: &Quickstart<'_>, step: &Step) -> Result<(), QuickstartError> {
    config_of::<S>(quickstart, step).map(drop)
}

/// Runs the stage of a step in its folder; `None` when it was stopped. `begin` sets model and folder.
fn run_stage<E: Engine + 'static, S: Stage<Outcome = TrainedModel>>(
    work: &mut Work<'_>,
    step: &Step,
    model: &Path,
    begin: impl FnOnce(&mut S::Config, &Path, PathBuf),
) -> Result<Option<TrainedModel>, QuickstartError> {
    let quickstart = work.quickstart;
    let mut config = config_of::<S>(quickstart, step)?;
    begin(&mut config, model, quickstart.folder.join(step.kind));
    let start = Start::of(config.output_dir());
    let machine = work.look_at_machine;
    let mut events = OfStage { name: step.name, events: &mut work.events };
    let mut planning = PlanContext { render: quickstart.render.clone(), machine, events: &mut events };
    let (plan, inputs) = S::prepare::<E>(config, &mut planning)?;
    events.emit(Event::Note(plan.summary()));
    let context = RunContext::new(start, work.groups, work.probe, &mut events, work.stop);
    Ok(S::run::<E>(&plan, &inputs, context)?.finished())
}

impl Work<'_> {
    /// Measures a model, or reads what was measured before; `None` when it was stopped. `of`: the model in words, after
    /// what is measured.
    fn evaluate<E: Engine>(
        &mut self,
        kind: &str,
        of: &str,
        idx: usize,
        model: &Path,
        tests: &Tests,
    ) -> Result<Option<Evaluation>, QuickstartError> {
        let path = self.quickstart.folder.join(evaluation_file(idx, kind));
        let kept = on_first_rank::<_, RunError>(&*self.groups.data, || match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(RunError::Read { path: path.clone(), source }),
        })?;
        if let Some(bytes) = kept {
            let evaluation = serde_json::from_slice(&bytes);
            return evaluation
                .map(Some)
                .map_err(|source| QuickstartError::DamagedEvaluation { path, source });
        }
        let label = if idx == 0 { kind.to_owned() } else { format!("after {kind}") };
        let Some(evaluation) = self.measure::<E>(&label, of, model, tests)? else { return Ok(None) };
        on_first_rank::<_, RunError>(&*self.groups.data, || Ok(atomic::write_json(&path, &evaluation)?))?;
        let of_sets = evaluation.sets();
        let accuracies: Vec<String> = of_sets
            .iter()
            .map(|score| format!("{} {:.2} ({} of {})", score.set, score.share(), score.n_right, score.n))
            .collect();
        self.events.emit(Event::Note(format!(
            "{of}: held-out loss {:.3}; accuracy: {}",
            evaluation.heldout_loss.unwrap_or(f64::NAN),
            accuracies.join(", ")
        )));
        Ok(Some(evaluation))
    }
}
