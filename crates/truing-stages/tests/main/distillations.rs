//! `truing distill` on a tiny model: the student moves to its teacher, and a run that is interrupted anywhere ends with
//! the same tokens and the same bits.

use crate::setup::{self, Cpu, Events, MACHINE, SOLO, Ticks, never};
use crate::tiny_model;
use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use tempfile::TempDir;
use truing_ask::OpenChatModel;
use truing_model::{Adapters, Engine as _, EngineOptions, ModelFiles, TrainableSpec};
use truing_parallel::thread_world;
use truing_run::rollouts;
use truing_stages::distill::{DistillInputs, DistillStage};
use truing_stages::training::TrainingConfig;
use truing_stages::{
    Ended, Recipe, RunContext, Stage as _, StageError, StagePlan as _, Start, TrainedModel, model,
};
use truing_train::segments;
use truing_types::{
    ChatError, ChatModel, ChatReply, ChatRequest, Event, Groups, PackedBatch, PromptLogProbs, RowOrigin,
    Seed, Silent, TokenId,
};

pub(crate) const RECIPE: &str = r#"
stage = "distill"
model_name_or_path = "model"
output_dir = "run"
seed = 11
max_length = 160
packs_per_step = 2
max_steps = 4
learning_rate = 2e-3
weight_decay = 0.0
save_steps = 2
save_dtype = "f32"
eval_on_start = true
[distillation]
max_completion_length = 12
kl_top_k = 20
[distillation.teacher]
privileged_column = "hint"
[[data]]
path = "prompts.jsonl"
[[eval_data]]
path = "prompts.jsonl"
"#;

type StopWhen = Box<dyn Fn(&Event) -> bool>;

pub(crate) fn folder() -> TempDir {
    let folder = setup::folder();
    let rows: String = (0..9)
        .map(|i| format!("{{\"prompt\": \"Say {i}.\", \"hint\": \"No more than {} words.\"}}\n", i % 3))
        .collect();
    fs::write(folder.path().join("prompts.jsonl"), rows).unwrap();
    folder
}

fn config(folder: &Path, overrides: &[&str]) -> Result<TrainingConfig, StageError> {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    Ok(TrainingConfig::from_toml(RECIPE, &folder.join("recipe.toml"), &overrides)?)
}

fn load(folder: &Path, overrides: &[&str]) -> Result<DistillInputs, StageError> {
    setup::load::<DistillStage>(&config(folder, overrides)?, &mut Silent)
}

fn run(
    folder: &Path,
    overrides: &[&str],
    start: Start,
    stop_when: impl Fn(&Event) -> bool + 'static,
) -> Ended<TrainedModel> {
    let stop = AtomicBool::new(false);
    let mut events = Events { seen: Vec::new(), stop: &stop, stop_when: Box::new(stop_when) };
    let probe = Ticks::default();
    let context = RunContext::new(start, &SOLO, &probe, &mut events, &stop);
    setup::run_stage::<DistillStage>(config(folder, overrides).unwrap(), context).unwrap()
}

/// The metrics of a run without what a clock decides.
fn metrics(folder: &Path) -> Vec<BTreeMap<String, f64>> {
    let text = fs::read_to_string(folder.join("run/metrics.jsonl")).unwrap();
    let mut records: Vec<BTreeMap<String, f64>> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let is_timed = |name: &str| ["tokens_per_second", "samples_per_second", "step_time"].contains(&name);
    records.iter_mut().for_each(|record| record.retain(|name, _| !is_timed(name)));
    records
}

/// The divergence of each evaluation.
fn eval_losses(folder: &Path) -> Vec<f64> {
    metrics(folder).iter().filter_map(|record| record.get("eval_loss").copied()).collect()
}

fn weights(folder: &Path) -> Vec<u8> {
    fs::read(folder.join("run/model/model.safetensors")).unwrap()
}

#[test]
fn the_student_moves_to_the_teacher_by_every_divergence() {
    for overrides in [
        &["distillation.divergence=reverse_kl"][..],
        &["distillation.divergence=forward_kl", "distillation.kl_tokens=student"],
        &["distillation.divergence=jensen_shannon", "distillation.beta=0.3"],
        &["distillation.kl_tokens=student", "distillation.rollout_quantization=int8"],
        &["distillation.num_generations=3", "max_length=200", "distillation.temperature=0.7"],
        &["lora.rank=8", "merge_adapter=true"],
    ] {
        let folder = folder();
        let teacher = fine_tuned(folder.path());
        let overrides =
            [overrides, &["max_steps=30", "eval_steps=30", "learning_rate=5e-3", &teacher]].concat();
        assert!(matches!(run(folder.path(), &overrides, Start::Fresh, never), Ended::Finished(_)));
        let losses = eval_losses(folder.path());
        let [before, after] = losses[..] else { panic!("{overrides:?}: {losses:?}") };
        assert!(before > 1e-3 && after < 0.8 * before, "{overrides:?}: {losses:?}");
        let first = &metrics(folder.path())[1];
        assert!(first["entropy"] > 0.0 && first["completions/mean_length"] > 1.0, "{first:?}");
    }
}

/// Fine-tunes the student, and gives the override that makes it the teacher.
fn fine_tuned(folder: &Path) -> String {
    let output = format!("output_dir={}", folder.join("teacher").display());
    setup::run(folder, &[&output, "learning_rate=5e-3", "num_train_epochs=6"], Start::Fresh, never).unwrap();
    teacher(&folder.join("teacher/model"))
}

fn teacher(model: &Path) -> String {
    format!("distillation.teacher={{model_name_or_path=\"{}\"}}", model.display())
}

/// A model on a server, as the client shows it: its most likely tokens at each place of a text.
struct Served(Mutex<Cpu>);

impl ChatModel for Served {
    fn chat(
        &self,
        _: &ChatRequest,
        _: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<ChatReply, ChatError> {
        unreachable!("a teacher only gives log-probabilities")
    }

    fn prompt_log_probs_all(
        &self,
        texts: &[Vec<TokenId>],
        k: usize,
    ) -> Vec<Result<PromptLogProbs, ChatError>> {
        let mut engine = self.0.lock().unwrap();
        let of_text = |text: &Vec<TokenId>| {
            let origin = RowOrigin { source: "t".into(), line: 1 };
            let batch = PackedBatch::new([(&text[..], &vec![1.0; text.len()][..], origin)]).unwrap();
            let device = engine.upload(&batch).unwrap();
            let hidden = segments::forward_only(&mut *engine, &device, Adapters::Enabled).unwrap();
            let rows: Vec<u32> = (0..text.len() as u32 - 1).collect();
            let logits = engine.logits(&hidden, &rows).unwrap();
            let top = |logits: &[f32]| {
                let log_sum = logits.iter().map(|&z| f64::from(z).exp()).sum::<f64>().ln();
                let mut all: Vec<(TokenId, f32)> =
                    (0..).zip(logits).map(|(id, &z)| (id, (f64::from(z) - log_sum) as f32)).collect();
                all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
                all.truncate(k);
                all
            };
            Ok(logits.chunks(logits.len() / rows.len()).map(top).collect())
        };
        texts.iter().map(of_text).collect()
    }
}

/// A teacher on a server teaches what the same teacher in this process teaches.
#[test]
fn a_teacher_on_a_server_is_the_one_in_this_process() {
    let losses: Vec<Vec<f64>> = [false, true]
        .into_iter()
        .map(|is_served| {
            let folder = folder();
            let local = fine_tuned(folder.path());
            let teacher = match is_served {
                true => "distillation.teacher={server={base_url=\"http://127.0.0.1:1/v1\", model=\"m\"}}",
                false => &local,
            };
            let overrides = [teacher, "max_steps=3", "distillation.temperature=0.8", "learning_rate=5e-3"];
            let files = ModelFiles::open(&folder.path().join("teacher/model")).unwrap();
            let options = EngineOptions::with_threads(1, Seed(0));
            let engine: Cpu =
                model::load_engine(&files, &TrainableSpec::frozen(), &options, &SOLO, &mut |_| {}).unwrap();
            let served =
                OpenChatModel { model: Box::new(Served(Mutex::new(engine))), counts: Arc::default() };
            let stop = AtomicBool::new(false);
            let (probe, mut events) = (Ticks::default(), Silent);
            let context = RunContext {
                chat_models: if is_served { vec![served] } else { Vec::new() },
                ..RunContext::new(Start::Fresh, &SOLO, &probe, &mut events, &stop)
            };
            let config = config(folder.path(), &overrides).unwrap();
            assert!(matches!(setup::run_stage::<DistillStage>(config, context), Ok(Ended::Finished(_))));
            eval_losses(folder.path())
        })
        .collect();
    for (local, served) in losses[0].iter().zip(&losses[1]) {
        assert!(*local > 1e-3 && (local - served).abs() < 1e-3 * local, "{losses:?}");
    }
}

/// A server that answers a number of times, every token with the same probability, and then no more.
struct FailsAfter(AtomicUsize);

impl ChatModel for FailsAfter {
    fn chat(
        &self,
        _: &ChatRequest,
        _: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<ChatReply, ChatError> {
        unreachable!("a teacher only gives log-probabilities")
    }

    fn prompt_log_probs_all(
        &self,
        texts: &[Vec<TokenId>],
        k: usize,
    ) -> Vec<Result<PromptLogProbs, ChatError>> {
        let less = |left: usize| left.checked_sub(1);
        let is_up = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok();
        let top: Vec<(TokenId, f32)> = (0..k as TokenId).map(|id| (id, -(k as f32).ln())).collect();
        let of_text = |text: &Vec<TokenId>| match is_up {
            true => Ok(vec![top.clone(); text.len() - 1]),
            false => Err(ChatError::Failed("it is down".into())),
        };
        texts.iter().map(of_text).collect()
    }
}

/// Where the teacher's server fails one rank, all save the steps so far, say why, and can be resumed.
#[test]
fn a_server_that_fails_one_rank_ends_all_with_a_checkpoint() {
    let folder = folder();
    let served = "distillation.teacher={server={base_url=\"http://127.0.0.1:1/v1\", model=\"m\"}}";
    let overrides = [served, "packing=none", "eval_on_start=false", "save_steps=3"];
    let run_on_two = |n_answers: [usize; 2], start: Start| -> Vec<String> {
        thread::scope(|scope| {
            let ranks: Vec<_> = thread_world(2)
                .into_iter()
                .zip(n_answers)
                .map(|(rank, n_answers)| {
                    let config = config(folder.path(), &overrides).unwrap();
                    scope.spawn(move || {
                        let groups = Groups::new(Arc::new(rank), 1).unwrap();
                        let model = Box::new(FailsAfter(AtomicUsize::new(n_answers)));
                        let stop = AtomicBool::new(false);
                        let (probe, mut events) = (Ticks::default(), Silent);
                        let context = RunContext {
                            chat_models: vec![OpenChatModel { model, counts: Arc::default() }],
                            ..RunContext::new(start, &groups, &probe, &mut events, &stop)
                        };
                        match setup::run_stage::<DistillStage>(config, context) {
                            Ok(Ended::Finished(_)) => "finished".to_owned(),
                            Ok(Ended::Interrupted { step }) => format!("interrupted after {step:?}"),
                            Err(StageError::Teacher(error)) => error.reason(),
                            Err(error) => panic!("{error}"),
                        }
                    })
                })
                .collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    };
    assert_eq!(run_on_two([100, 1], Start::Fresh), ["rank 1: it is down", "it is down"]);
    assert!(folder.path().join("run/checkpoints/checkpoint-1").is_dir());
    assert_eq!(run_on_two([100, 100], Start::Resume), ["finished"; 2]);
    assert_eq!(metrics(folder.path()).last().unwrap()["step"], 4.0);
}

/// A teacher that is the student has nothing to teach: the divergence and all gradients are 0.
#[test]
fn an_equal_teacher_changes_nothing() {
    let folder = folder();
    let prompts = fs::read_to_string(folder.path().join("prompts.jsonl")).unwrap();
    fs::write(folder.path().join("prompts.jsonl"), prompts.replace("hint", "other")).unwrap();
    let teacher = teacher(&folder.path().join("model"));
    let overrides = [&*teacher, "distillation.kl_tokens=student", "max_steps=2"];
    run(folder.path(), &overrides, Start::Fresh, never);
    assert_eq!(eval_losses(folder.path()), [0.0, 0.0]);
    assert!(
        metrics(folder.path()).iter().filter_map(|record| record.get("grad_norm")).all(|&norm| norm == 0.0)
    );
}

/// Where the present weights teach, the teacher moves with the student.
#[test]
fn present_weights_teach_without_a_second_model() {
    let losses = ["initial", "current"].map(|weights| {
        let folder = folder();
        let which = format!("distillation.teacher.weights={weights}");
        run(folder.path(), &[&which, "max_steps=3"], Start::Fresh, never);
        eval_losses(folder.path())
    });
    assert_eq!(losses[0][0], losses[1][0], "before the first step both are the same");
    assert_ne!(losses[0][1], losses[1][1]);
}

#[test]
fn interrupted_anywhere_and_resumed_samples_the_same_tokens_and_ends_with_the_same_bits() {
    let sampled = |folder: &Path| -> Vec<String> {
        let run = folder.join("run");
        let steps = rollouts::steps(&run).unwrap().into_iter();
        let all = steps.flat_map(|step| rollouts::read(&run, step).unwrap());
        all.map(|rollout| format!("{} {} {:?}", rollout.step, rollout.prompt_idx, rollout.tokens)).collect()
    };
    let straight = folder();
    run(straight.path(), &[], Start::Fresh, never);
    let expected = (weights(straight.path()), metrics(straight.path()), sampled(straight.path()));
    assert!(!expected.2.is_empty());
    let phase = |wanted: &'static str| {
        move |event: &Event| {
            matches!(event, Event::PhaseStarted { phase, .. }
            if phase.starts_with(wanted))
        }
    };
    let stops: [StopWhen; 4] = [
        Box::new(phase("step 1 of 4: sampling completions")),
        Box::new(phase("step 3 of 4: asking the teacher")),
        Box::new(setup::is_metrics_of(3)),
        Box::new(phase("evaluating: asking the teacher")),
    ];
    for (i, stop_when) in stops.into_iter().enumerate() {
        let folder = folder();
        let ended = run(folder.path(), &[], Start::Fresh, stop_when);
        assert!(matches!(ended, Ended::Interrupted { .. }), "stop {i}: {ended:?}");
        let resumed = ["threads=1", "distillation.generation_batch_size=3"];
        assert!(matches!(run(folder.path(), &resumed, Start::Resume, never), Ended::Finished(_)));
        assert!(expected.0 == weights(folder.path()), "stop {i}: the weights differ");
        assert_eq!(
            (&expected.1, &expected.2),
            (&metrics(folder.path()), &sampled(folder.path())),
            "stop {i}"
        );
    }
}

/// A step may visit a prompt twice: its completions are two, and each is trained on.
#[test]
fn a_prompt_that_is_visited_twice_has_two_completions() {
    let folder = folder();
    let overrides = ["data.0.weight=2", "packing=none", "packs_per_step=18", "max_steps=1"];
    run(folder.path(), &overrides, Start::Fresh, never);
    let mut by_prompt: BTreeMap<u64, Vec<Vec<TokenId>>> = BTreeMap::new();
    for rollout in rollouts::read(&folder.path().join("run"), 1).unwrap() {
        by_prompt.entry(rollout.origin.line).or_default().push(rollout.tokens);
    }
    assert_eq!(by_prompt.len(), 9);
    assert!(by_prompt.values().all(|both| both.len() == 2 && both[0] != both[1]), "{by_prompt:?}");
    // Where packs have several prompts, every completion has its own teacher.
    let other = self::folder();
    let overrides = ["data.0.weight=2", "packs_per_step=9", "max_steps=1", "max_length=120"];
    run(other.path(), &overrides, Start::Fresh, never);
    assert_eq!(rollouts::read(&other.path().join("run"), 1).unwrap().len(), 18);
}

#[test]
fn only_the_teacher_reads_what_is_privileged() {
    let folder = folder();
    let overrides = ["distillation.teacher.system_prompt=Be brief.", "eval_data=[]", "eval_fraction=0.3"];
    let inputs = load(folder.path(), &overrides).unwrap();
    let n_eval = inputs.eval.as_ref().unwrap().prompts.len();
    assert!(n_eval > 0 && inputs.train.prompts.len() + n_eval == 9);
    for prompt in &inputs.train.prompts {
        let text = |tokens| inputs.renderer.tokenizer().decode(tokens, false).unwrap();
        let (student, teacher) = (text(&prompt.prompt.tokens), text(&prompt.teacher));
        let asked = &prompt.prompt.row.prompt.messages[0].content;
        let hint = prompt.prompt.row.columns["hint"].as_str().unwrap();
        assert!(student.contains(asked) && !student.contains("No more") && !student.contains("brief"));
        assert!(teacher.contains(&format!("{asked}\n{hint}")) && teacher.contains("Be brief."), "{teacher}");
    }
    let config = config(folder.path(), &[]).unwrap();
    let inputs = load(folder.path(), &[]).unwrap();
    let plan = DistillStage::plan::<Cpu>(config, &inputs, &MACHINE).unwrap();
    let teacher = plan.table().into_iter().find(|row| row.name == "teacher").unwrap();
    assert!(matches!(teacher.amount, truing_train::Amount::Bytes(1..)), "{teacher:?}");
}

#[test]
fn what_cannot_be_distilled_is_refused() {
    let folder = folder();
    let refused = |overrides: &[&str]| load(folder.path(), overrides).unwrap_err().to_string();
    for (overrides, expected) in [
        (
            &["distillation.teacher={}"][..],
            "missing setting `distillation.teacher`: expected a `model_name_or_path` or a `server`, or a \
             `privileged_column`",
        ),
        (
            &["distillation.teacher.privileged_template={prompt}"],
            "`distillation.teacher.privileged_template` is `{prompt}`: expected `{prompt}` and \
             `{privileged}` once each",
        ),
        (
            &["distillation.teacher.privileged_column=none"],
            "prompts.jsonl:1: `none` is missing; expected the text that only the teacher reads",
        ),
        (
            &["distillation.max_completion_length=160"],
            "`distillation.max_completion_length` is 160: expected less than `max_length`",
        ),
        (&["distillation.num_generations=20"], "`max_length` is 160: expected at least "),
        (
            &["distillation.divergence=jensen_shannon", "distillation.beta=1.0"],
            "`distillation.beta` is 1: expected between 0 and 1",
        ),
        (
            &["distillation.teacher={model_name_or_path=\"model\", weights=\"current\"}"],
            "cannot both be given",
        ),
        (
            &[
                "distillation.kl_tokens=student",
                "distillation.teacher={server={base_url=\"http://a/v1\", model=\"m\"}}",
            ],
            "`distillation.kl_tokens` and `distillation.teacher.server` cannot both be given",
        ),
        (
            &["distillation.beta=0.3"],
            "`distillation.beta` and `distillation.divergence` cannot both be given: `beta` belongs to \
             `jensen_shannon`",
        ),
        (&["long_samples=truncate"], "`long_samples` is truncate: expected `error` or `drop`"),
        (
            &["distillation.teacher={system_prompt=\"a\", privileged_template=\"{prompt}{privileged}\"}"],
            "missing setting `distillation.teacher.privileged_column`",
        ),
        (&["distillation.kl_top_k=0"], "`distillation.kl_top_k` is 0: expected at least 1"),
        (
            &["preference.beta=0.1"],
            "`preference` is a table: expected none in a recipe with stage = \"distill\"",
        ),
    ] {
        let error = refused(overrides);
        assert!(error.contains(expected), "{overrides:?}: {error}");
    }
    // Rows that are too long can be dropped; a teacher of another tokenizer cannot be used.
    let inputs = load(folder.path(), &["max_length=48", "long_samples=drop"]).unwrap();
    assert!(inputs.train.prompts.len() < 9);
    let other = folder.path().join("other");
    tiny_model::write(&other);
    let path = other.join("tokenizer.json");
    let tokenizer = fs::read_to_string(&path).unwrap();
    let mut tokenizer: serde_json::Value = serde_json::from_str(&tokenizer).unwrap();
    let vocab = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    let token =
        vocab.iter().find(|(token, _)| token.as_str() == "z").map(|(token, id)| (token.clone(), id.clone()));
    let (token, id) = token.unwrap();
    vocab.remove(&token);
    vocab.insert("§".into(), id);
    fs::write(&path, tokenizer.to_string()).unwrap();
    let error = refused(&[&teacher(&other)]);
    assert!(error.contains("a model with another tokenizer: id "), "{error}");
}
