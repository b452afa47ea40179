//! GRPO with rollouts from servers: truing's own on this machine, and a faulty one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use truing_ask::ChatContext;
use truing_client::{Access, Clock};
use truing_model::{EngineOptions, ModelFiles, TrainableSpec};
use truing_parallel::thread_world;
use truing_run::rollouts;
use truing_serve::{Model, ServeError, ServeOptions, ServedModel, fingerprint_of, serve};
use truing_stages::grpo::{GrpoConfig, GrpoInputs, GrpoPlan, GrpoStage};
use truing_stages::{Ended, Recipe, RunContext, Stage, StageError, Start, TrainedModel};
use truing_text::RenderOptions;
use truing_types::{Event, Groups, Rollout, Seed, Silent};

use crate::policies::{self, finished, metrics};
use crate::setup::{self, Cpu, Events, MACHINE, SOLO, Ticks, never};

/// The machine's time; waits are over at once.
struct TestClock {
    start: Instant,
    stop: Arc<AtomicBool>,
}

impl TestClock {
    fn new() -> (Arc<Self>, Arc<AtomicBool>) {
        let stop = Arc::new(AtomicBool::new(false));
        (Arc::new(Self { start: Instant::now(), stop: Arc::clone(&stop) }), stop)
    }
}

impl Clock for TestClock {
    fn unix_secs(&self) -> f64 {
        1.8e9
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, _: Duration) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

/// `truing serve` with the model of a folder; it stops when dropped.
struct OwnServer {
    address: String,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
}

impl OwnServer {
    fn start(folder: &Path) -> Self {
        let files = ModelFiles::open(&folder.join("model")).unwrap();
        let renderer = truing_stages::model::renderer(&files, RenderOptions::default()).unwrap();
        let options = EngineOptions::with_threads(2, Seed(0));
        let frozen = TrainableSpec::frozen();
        let engine =
            truing_stages::model::load_engine::<Cpu>(&files, &frozen, &options, &SOLO, &mut |_| {}).unwrap();
        let served = ServedModel {
            name: "tiny".into(),
            fingerprint: fingerprint_of(&files.deciding_files()).unwrap(),
            model: Model::Generate { engine: Box::new(engine), renderer: Box::new(renderer) },
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (clock, stop) = TestClock::new();
        let options = ServeOptions { updates_weights: true, ..ServeOptions::default() };
        let thread =
            std::thread::spawn(move || serve(listener, vec![served], options, clock, Box::new(|_| {})));
        Self { address, stop, thread: Some(thread) }
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
    }
}

/// What a run ends with, and what it said.
type Run = (Result<Ended<TrainedModel>, StageError>, Vec<Event>);

/// Runs the recipe of [`policies`] with rollouts from servers.
fn run_on(
    servers: &[&str],
    folder: &Path,
    overrides: &[&str],
    start: Start,
    stop_when: impl Fn(&Event) -> bool + 'static,
) -> Run {
    run_on_rank(&SOLO, servers, folder, overrides, start, Box::new(stop_when))
}

/// The same as one rank does it.
fn run_on_rank(
    groups: &Groups,
    servers: &[&str],
    folder: &Path,
    overrides: &[&str],
    start: Start,
    stop_when: Box<dyn Fn(&Event) -> bool>,
) -> Run {
    let table = ["rollouts.model=tiny".to_owned(), format!("rollouts.servers={servers:?}")];
    let overrides: Vec<String> = table.into_iter().chain(overrides.iter().map(ToString::to_string)).collect();
    let config = GrpoConfig::from_toml(policies::RECIPE, &folder.join("recipe.toml"), &overrides).unwrap();
    let stop = AtomicBool::new(false);
    let mut events = Events { seen: Vec::new(), stop: &stop, stop_when };
    let inputs = GrpoInputs::load(&config, RenderOptions::default(), &mut Silent).unwrap();
    let plan = GrpoPlan::resolve::<Cpu>(config, &inputs, &MACHINE).unwrap();
    let chat_context = ChatContext {
        access: Access { api_key: None, proxy: None, clock: TestClock::new().0 },
        render: RenderOptions::default(),
        n_threads: 1,
        stop: Arc::default(),
    };
    let open = |config: &truing_ask::ChatModelConfig| config.open::<Cpu>(&chat_context, &mut Silent).unwrap();
    let chat_models = GrpoStage::chat_models(&plan).iter().map(|config| open(config)).collect();
    let probe = Ticks::default();
    let context = RunContext { chat_models, ..RunContext::new(start, groups, &probe, &mut events, &stop) };
    let ended = GrpoStage::run::<Cpu>(&plan, &inputs, context);
    (ended, events.seen)
}

fn finished_on(servers: &[&str], folder: &Path, overrides: &[&str]) -> Vec<Event> {
    let (ended, events) = run_on(servers, folder, overrides, Start::Fresh, never);
    assert!(matches!(ended, Ok(Ended::Finished(_))), "{ended:?}");
    events
}

fn warnings(events: &[Event]) -> Vec<&String> {
    let warnings = events.iter().filter_map(|event| match event {
        Event::Warning(text) => Some(text),
        _ => None,
    });
    warnings.collect()
}

fn sampled(folder: &Path) -> Vec<Rollout> {
    let run = folder.join("run");
    let steps = rollouts::steps(&run).unwrap().into_iter();
    steps.flat_map(|step| rollouts::read(&run, step).unwrap()).collect()
}

fn weights(folder: &Path) -> Vec<u8> {
    fs::read(folder.join("run/model/model.safetensors")).unwrap()
}

/// Same tokens, texts, ends and rewards; log-probabilities to 1e-4.
fn check_same_rollouts(here: &[Rollout], there: &[Rollout]) {
    assert_eq!(here.len(), there.len());
    for (here, there) in here.iter().zip(there) {
        assert_eq!((here.step, here.sample_idx), (there.step, there.sample_idx));
        assert_eq!((&here.tokens, &here.text), (&there.tokens, &there.text));
        assert_eq!((here.finish_reason, here.reward), (there.finish_reason, there.reward));
        for (here, there) in
            [(&here.log_probs, &there.log_probs), (&here.sampling_log_probs, &there.sampling_log_probs)]
        {
            assert!(here.iter().zip(there).all(|(a, b)| (a - b).abs() < 1e-4), "{here:?} {there:?}");
        }
        assert!(
            there.log_probs.len() == there.tokens.len()
                || there.sampling_log_probs.len() == there.tokens.len()
        );
    }
}

#[test]
fn a_run_on_our_own_server_is_that_of_this_process() {
    let variants: [&[&str]; 4] = [
        &[],
        &["temperature=1.4", r#"stop=["e", "12"]"#, "num_iterations=2"],
        &["top_k=20", "dynamic_sampling=true", "minibatches=3"],
        &["lora.rank=4"],
    ];
    for variant in variants {
        let (here, there) = (policies::folder(), policies::folder());
        let server = OwnServer::start(there.path());
        finished(here.path(), variant);
        // Without importance weights, which differ from 1 by rounding, every bit is the same.
        let plain: Vec<&str> =
            variant.iter().copied().chain([r#"rollouts.importance_sampling_mode="none""#]).collect();
        let events = finished_on(&[&server.address], there.path(), &plain);
        assert!(warnings(&events).is_empty(), "{:?}", warnings(&events));
        check_same_rollouts(&sampled(here.path()), &sampled(there.path()));
        // The server multiplies with adapters that are merged, which rounds differently.
        let is_merged = variant.contains(&"lora.rank=4");
        assert!(
            is_merged || weights(here.path()) == weights(there.path()),
            "{variant:?}: the weights differ"
        );
        let versions: Vec<Option<u64>> =
            sampled(there.path()).iter().map(|rollout| rollout.weights_version).collect();
        assert!(versions.contains(&Some(0)) && versions.contains(&Some(3)), "{versions:?}");
        assert!(!there.path().join("run/rollout_weights/step-000003").exists(), "nothing is left behind");
    }
}

#[test]
fn importance_weights_are_1_where_server_and_trainer_agree() {
    for mode in ["token_truncate", "sequence_truncate"] {
        let folder = policies::folder();
        let server = OwnServer::start(folder.path());
        finished_on(
            &[&server.address],
            folder.path(),
            &[&format!("rollouts.importance_sampling_mode={mode}")],
        );
        for record in metrics(folder.path()) {
            let of = |name: &str| record[&format!("sampling/{name}")];
            assert!((of("importance_sampling_ratio/min") - 1.0).abs() < 1e-3, "{record:?}");
            assert!((of("importance_sampling_ratio/max") - 1.0).abs() < 1e-3, "{record:?}");
            assert_eq!(of("importance_sampling_ratio/truncated"), 0.0);
            assert!((0.0..1e-8).contains(&of("mismatch_kl")), "{record:?}");
            assert_eq!((record["rollouts/failed"], record["rollouts/staleness/max"]), (0.0, 0.0));
        }
    }
}

/// What other servers understand: seeds without indices, and token ids in the older endpoint.
#[test]
fn the_protocols_of_other_servers_give_what_the_trainer_computes_too() {
    let calls = r#"rollouts.sync_calls=[{path="/update_weights_from_disk", body={model_path="{path}"}}]"#;
    for overrides in [["rollouts.protocol=completions", "top_p=0.9"], ["rollouts.protocol=vllm", calls]] {
        let folder = policies::folder();
        let server = OwnServer::start(folder.path());
        let events = finished_on(&[&server.address], folder.path(), &overrides);
        assert!(warnings(&events).is_empty(), "{:?}", warnings(&events));
        for record in metrics(folder.path()) {
            assert!(record["sampling/mismatch_kl"] < 1e-8, "{overrides:?}: {record:?}");
            assert_eq!(record["rollouts/failed"], 0.0);
        }
        let texts: BTreeSet<String> =
            sampled(folder.path()).into_iter().map(|rollout| rollout.text).collect();
        assert!(texts.len() > 20, "every completion has a seed of its own: {texts:?}");
    }
}

#[test]
fn weights_may_lag_behind_and_a_resume_takes_those_that_an_unbroken_run_takes() {
    let overrides = ["rollouts.sync_steps=2", "save_steps=1"];
    let straight = policies::folder();
    let server = OwnServer::start(straight.path());
    finished_on(&[&server.address], straight.path(), &overrides);
    let versions: BTreeMap<u64, Option<u64>> =
        sampled(straight.path()).iter().map(|rollout| (rollout.step, rollout.weights_version)).collect();
    assert_eq!(versions, BTreeMap::from([(1, Some(0)), (2, Some(0)), (3, Some(2)), (4, Some(2))]));
    let records = metrics(straight.path());
    assert_eq!((records[1]["rollouts/staleness/max"], records[2]["rollouts/staleness/max"]), (1.0, 0.0));
    assert!(records[1]["sampling/mismatch_kl"] > records[0]["sampling/mismatch_kl"], "{records:?}");

    let folder = policies::folder();
    let stop = |event: &Event| matches!(event, Event::Metrics { step: 3, .. });
    let (ended, _) = run_on(&[&server.address], folder.path(), &overrides, Start::Fresh, stop);
    assert!(matches!(ended, Ok(Ended::Interrupted { step: Some(3) })), "{ended:?}");
    let (ended, _) = run_on(&[&server.address], folder.path(), &overrides, Start::Resume, never);
    assert!(matches!(ended, Ok(Ended::Finished(_))), "{ended:?}");
    check_same_rollouts(&sampled(straight.path()), &sampled(folder.path()));
    assert!(weights(straight.path()) == weights(folder.path()));
}

/// Another run loads its weights between two steps: this run loads its own again, and samples again.
#[test]
fn weights_of_others_are_noticed_and_replaced() {
    let (here, there) = (policies::folder(), policies::folder());
    let server = OwnServer::start(there.path());
    let (address, model) = (server.address.clone(), there.path().join("model"));
    let load_others = move |event: &Event| {
        if matches!(event, Event::PhaseStarted { phase, .. } if phase == "step 3 of 4: sampling rollouts on servers")
        {
            let body = json!({"model_path": model}).to_string();
            let mut stream = TcpStream::connect(address.trim_start_matches("http://")).unwrap();
            let head = "POST /update_weights_from_disk HTTP/1.1\r\nHost: localhost\r\nConnection: close";
            let head = format!("{head}\r\nContent-Type: application/json\r\nContent-Length: {}", body.len());
            write!(stream, "{head}\r\n\r\n{body}").unwrap();
            let mut reply = String::new();
            stream.read_to_string(&mut reply).unwrap();
            assert!(reply.contains(r#""success":true"#), "{reply}");
        }
        false
    };
    let overrides = [r#"rollouts.importance_sampling_mode="none""#];
    let (ended, _) = run_on(&[&server.address], there.path(), &overrides, Start::Fresh, load_others);
    assert!(matches!(ended, Ok(Ended::Finished(_))), "{ended:?}");
    finished(here.path(), &[]);
    check_same_rollouts(&sampled(here.path()), &sampled(there.path()));
    assert!(weights(here.path()) == weights(there.path()));
}

/// An address without a server.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[test]
fn other_servers_replace_a_dead_one_and_without_others_the_run_ends() {
    let (here, there) = (policies::folder(), policies::folder());
    let (server, dead) = (OwnServer::start(there.path()), nobody());
    let overrides = ["rollouts.max_retries=1", r#"rollouts.importance_sampling_mode="none""#];
    let events = finished_on(&[&dead, &server.address], there.path(), &overrides);
    finished(here.path(), &[]);
    check_same_rollouts(&sampled(here.path()), &sampled(there.path()));
    assert!(warnings(&events).iter().any(|text| text.contains(&dead)), "{:?}", warnings(&events));

    let alone = policies::folder();
    let (ended, _) = run_on(&[&dead], alone.path(), &overrides, Start::Fresh, never);
    let Err(error @ StageError::Unscored { .. }) = ended else { panic!("{ended:?}") };
    let text = error.to_string();
    assert!(text.contains("step 1: no rollout server gave a completion: ") && text.contains(&dead), "{text}");
    assert!(text.contains("--resume starts with step 1"), "{text}");
    let (ended, _) = run_on(&[&server.address], alone.path(), &overrides, Start::Resume, never);
    assert!(matches!(ended, Ok(Ended::Finished(_))), "{ended:?}");
    assert!(weights(here.path()) == weights(alone.path()), "it is as if the server had never been down");
}

/// How a server misbehaves on every third completion of a group.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Nothing,
    NoLogProbs,
    TooFewLogProbs,
    NotANumber,
    UnknownToken,
    EndedWithoutEnd,
    CutJson,
    Error500,
    Hang,
    OtherWeights,
    /// It never names its weights, and cannot load any after the first.
    LoadsOnce,
    /// It answers the first round alone, and gives completions that are all equal for every other prompt.
    OneRound,
}

/// A server that answers `a`, or as it misbehaves.
fn misbehaving(fault: Fault) -> (String, Arc<Mutex<Vec<Value>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let asked: Arc<Mutex<Vec<Value>>> = Arc::default();
    let kept = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, kept) = (stream.unwrap(), Arc::clone(&kept));
            // The client may have gone.
            std::thread::spawn(move || drop(answer(&stream, fault, &kept)));
        }
    });
    (address, asked)
}

fn answer(mut stream: &TcpStream, fault: Fault, kept: &Mutex<Vec<Value>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while reader.read_line(&mut head)? > 2 {}
    let length =
        head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body)?;
    let body: Value = serde_json::from_slice(&body).unwrap();
    let is_first = body["model_path"].as_str().is_some_and(|path| path.ends_with("step-000000"));
    let weights = match fault {
        Fault::LoadsOnce => json!({"success": is_first, "message": "no room"}),
        _ => json!({"success": true, "message": "", "system_fingerprint": "w"}),
    };
    let (status, reply) = match head.starts_with("POST /update_weights_from_disk ") {
        true => (200, weights.to_string()),
        false => reply(&body, fault),
    };
    kept.lock().unwrap().push(body);
    if status == 0 {
        std::thread::sleep(Duration::from_secs(60));
        return Ok(());
    }
    let head = "Content-Type: application/json\r\nConnection: close";
    write!(stream, "HTTP/1.1 {status} X\r\n{head}\r\nContent-Length: {}\r\n\r\n{reply}", reply.len())
}

/// Status 0 is silence.
fn reply(body: &Value, fault: Fault) -> (u16, String) {
    let index = |place: usize| body["sampling_params"]["seed_indices"][place].as_u64().unwrap();
    let (round, prompt_idx, sample_idx) = (index(2), index(3), index(4));
    if matches!(fault, Fault::OneRound) && round > 0 {
        return (500, "the engine died".into());
    }
    let entry =
        |token: u64| json!({"token": format!("token_id:{token}"), "logprob": -1.0 - sample_idx as f64});
    // Another letter for each completion of a group, so that there is something to learn.
    let is_equal = matches!(fault, Fault::OneRound) && prompt_idx.is_multiple_of(2);
    let tokens = [97 + if is_equal { 0 } else { sample_idx * 6 }, 257];
    let choice = json!({
        "index": 0, "token_ids": tokens, "finish_reason": "stop",
        "logprobs": {"content": [entry(tokens[0]), entry(tokens[1])]},
    });
    let mut reply = json!({"choices": [choice], "system_fingerprint": "w"});
    if matches!(fault, Fault::LoadsOnce) {
        reply["system_fingerprint"] = Value::Null;
    }
    if sample_idx % 3 != 2 {
        return (200, reply.to_string());
    }
    let choice = &mut reply["choices"][0];
    match fault {
        Fault::Nothing | Fault::LoadsOnce | Fault::OneRound => {}
        Fault::NoLogProbs => choice["logprobs"] = Value::Null,
        Fault::TooFewLogProbs => choice["logprobs"]["content"] = json!([entry(tokens[0])]),
        Fault::UnknownToken => {
            choice["token_ids"][0] = json!(70_000);
            choice["logprobs"]["content"][0] = entry(70_000);
        }
        Fault::EndedWithoutEnd => {
            choice["token_ids"] = json!([tokens[0]]);
            choice["logprobs"]["content"] = json!([entry(tokens[0])]);
        }
        Fault::OtherWeights => reply["system_fingerprint"] = json!("other"),
        Fault::NotANumber => return (200, reply.to_string().replace("-3.0", "NaN")),
        Fault::CutJson => return (200, reply.to_string()[..60].to_owned()),
        Fault::Error500 => return (500, "the engine died".into()),
        Fault::Hang => return (0, String::new()),
    }
    (200, reply.to_string())
}

#[test]
fn a_faulty_completion_of_a_server_has_no_reward_and_leaves_its_group() {
    for (fault, words) in [
        (Fault::NoLogProbs, "no log-probabilities"),
        (Fault::TooFewLogProbs, "2 tokens, but 1 log-probabilities"),
        (Fault::NotANumber, "not valid JSON"),
        (Fault::UnknownToken, "the policy cannot sample token 70000"),
        (Fault::EndedWithoutEnd, "ends after 1 tokens without an end token"),
        (Fault::CutJson, "cut off"),
        (Fault::Error500, "status 500"),
        (Fault::Hang, "timed out"),
        (Fault::OtherWeights, "its weights are `other`, which this run did not load; expected `w`"),
    ] {
        let folder = policies::folder();
        let (address, asked) = misbehaving(fault);
        // Only a silent server costs its timeout.
        let timeout = if matches!(fault, Fault::Hang) { "2" } else { "60" };
        let timeout = format!("rollouts.timeout_secs={timeout}.0");
        let overrides = ["max_steps=1", timeout.as_str(), "rollouts.max_retries=1"];
        let events = finished_on(&[&address], folder.path(), &overrides);
        let record = &metrics(folder.path())[0];
        assert_eq!((record["unscored/rollout_failed"], record["rollouts/failed"]), (3.0, 3.0), "{fault:?}");
        assert_eq!((record["groups_used"], record["completions/min_length"]), (3.0, 2.0), "{fault:?}");
        assert!(record["grad_norm"] > 0.0, "{fault:?}: {record:?}");
        let said = warnings(&events);
        assert!(said.iter().any(|text| text.contains(words)), "{fault:?}: {said:?}");
        for rollout in sampled(folder.path()) {
            assert_eq!(rollout.reward.is_none(), rollout.tokens.is_empty(), "{rollout:?}");
            assert_eq!(rollout.weights_version.is_none(), rollout.tokens.is_empty());
        }
        // The rewards of the others are what they are without it.
        let text: Vec<String> = sampled(folder.path()).into_iter().map(|rollout| rollout.text).collect();
        assert_eq!(&text[..4], ["a", "g", "", "s"]);
        assert_eq!(record["rewards/letters/mean"], 2.0 / 3.0);
        let asked = asked.lock().unwrap();
        let of_sync = asked.iter().find(|body| body["model_path"].is_string()).unwrap();
        assert!(of_sync["model_path"].as_str().unwrap().ends_with("run/rollout_weights/step-000000"));
    }
}

#[test]
fn a_completion_that_fails_on_one_server_is_sampled_on_another() {
    let folder = policies::folder();
    let ((broken, _), (other, asked)) = (misbehaving(Fault::Error500), misbehaving(Fault::Nothing));
    let overrides = ["max_steps=1", "rollouts.max_retries=1"];
    let events = finished_on(&[&broken, &other], folder.path(), &overrides);
    assert!(warnings(&events).is_empty(), "{:?}", warnings(&events));
    let record = &metrics(folder.path())[0];
    assert_eq!((record["rollouts/failed"], record["groups_used"]), (0.0, 3.0));
    assert!(sampled(folder.path()).iter().all(|rollout| rollout.reward.is_some()));
    // Its half of 12, the 3 that fail on the first server, and the weights.
    assert_eq!(asked.lock().unwrap().len(), 6 + 3 + 1);
}

/// After a load that failed the weights of such a server are unknown, however old they may be.
#[test]
fn a_server_that_does_not_name_its_weights_is_not_used_after_a_load_that_failed() {
    let folder = policies::folder();
    let (address, _) = misbehaving(Fault::LoadsOnce);
    let overrides = ["rollouts.max_staleness=3"];
    let (ended, _) = run_on(&[&address], folder.path(), &overrides, Start::Fresh, never);
    let Err(error @ StageError::Unscored { .. }) = ended else { panic!("{ended:?}") };
    let text = error.to_string();
    assert!(text.contains("step 2: no rollout server gave a completion: "), "{text}");
    assert!(text.contains("the weights of step 1 were not loaded: ") && text.contains("no room"), "{text}");
}

#[test]
fn a_round_that_fails_leaves_the_groups_of_the_round_before_it() {
    let folder = policies::folder();
    let (address, _) = misbehaving(Fault::OneRound);
    // All nine prompts: the groups of five are equal, and are sampled again.
    let overrides = ["max_steps=1", "prompts_per_step=9", "dynamic_sampling=true", "rollouts.max_retries=0"];
    finished_on(&[&address], folder.path(), &overrides);
    let record = &metrics(folder.path())[0];
    assert_eq!((record["groups_used"], record["rollouts/failed"]), (4.0, 20.0), "{record:?}");
    assert!(record["grad_norm"] > 0.0, "{record:?}");
}

/// Of four ranks one has no prompt in a step of three. The weights that the first one writes are sharded over all.
#[test]
fn ranks_ask_for_completions_of_their_own_prompts_and_the_first_one_writes_the_weights() {
    let alone = policies::folder();
    let server = OwnServer::start(alone.path());
    // Adam divides a gradient by its own size: where that is rounding, so would be the step.
    let overrides = ["adam_epsilon=1e-3", "max_steps=2"];
    finished_on(&[&server.address], alone.path(), &overrides);
    let sharing: [(usize, &[&str]); 2] = [(2, &[]), (4, &["sequence_parallel_size=2", "zero_stage=3"])];
    for (n_ranks, sharing) in sharing {
        let together = policies::folder();
        let overrides = [&overrides[..], sharing].concat();
        let ended: Vec<Result<Ended<TrainedModel>, String>> = std::thread::scope(|scope| {
            let work = |rank| {
                let groups = Groups::new(Arc::new(rank), 1).unwrap();
                let servers = [server.address.as_str()];
                let never = Box::new(never);
                let ended =
                    run_on_rank(&groups, &servers, together.path(), &overrides, Start::Fresh, never).0;
                ended.map_err(|error| error.to_string())
            };
            let ranks: Vec<_> =
                thread_world(n_ranks).into_iter().map(|rank| scope.spawn(move || work(rank))).collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        });
        assert!(ended.iter().all(|ended| matches!(ended, Ok(Ended::Finished(_)))), "{ended:?}");
        check_same_rollouts(&sampled(alone.path()), &sampled(together.path()));
        for (alone, together) in metrics(alone.path()).iter().zip(&metrics(together.path())) {
            assert_eq!(
                (alone["reward"], alone["rollouts/failed"]),
                (together["reward"], together["rollouts/failed"])
            );
            assert!(
                (alone["grad_norm"] - together["grad_norm"]).abs() < 1e-3 * alone["grad_norm"],
                "{together:?}"
            );
        }
    }
}

#[test]
fn settings_that_cannot_work_are_named() {
    let folder = policies::folder();
    let refused = |overrides: &[&str]| {
        let config: Vec<String> = overrides.iter().map(ToString::to_string).collect();
        let config =
            GrpoConfig::from_toml(policies::RECIPE, &folder.path().join("recipe.toml"), &config).unwrap();
        setup::load::<GrpoStage>(&config, &mut Silent).map(drop).unwrap_err().to_string()
    };
    let server = r#"rollouts.servers=["http://127.0.0.1:1"]"#;
    let named = "rollouts.model=tiny";
    for (overrides, words) in [
        (vec![named], "`rollouts.servers`"),
        (vec![server], "`rollouts.model` is empty"),
        (vec![named, r#"rollouts.servers=["here"]"#], "`rollouts.servers` is here"),
        (vec![named, server, "rollout_quantization=int8"], "`rollout_quantization`"),
        (vec![named, server, "rollouts.sync_steps=0"], "`rollouts.sync_steps` is 0"),
        (
            vec![named, server, "rollouts.sync_steps=3", "rollouts.max_staleness=1"],
            "`rollouts.max_staleness` is 1",
        ),
        (
            vec![named, server, r#"rollouts.sync_calls=[{path="reload"}]"#],
            "`rollouts.sync_calls` is a path without `/`",
        ),
        (
            vec![named, server, r#"rollouts.sync_calls=[{path="/reload", body={model="tiny"}}]"#],
            "`rollouts.sync_calls` is without the folder of the weights",
        ),
        (vec![named, server, "rollouts.max_concurrency=0"], "`rollouts.max_concurrency` is 0"),
        (vec![named, server, "rollouts.timeout_secs=-1.0"], "`rollouts.timeout_secs` is -1"),
        (vec![named, server, "rollouts.timeout_secs=1e-10"], "`rollouts.timeout_secs` is 0.0000000001"),
        (vec![named, server, "rollouts.sync_timeout_secs=0.0"], "`rollouts.sync_timeout_secs` is 0"),
        (
            vec![named, server, "rollouts.sync_timeout_secs=1e-10"],
            "`rollouts.sync_timeout_secs` is 0.0000000001",
        ),
        (vec![named, server, "temperature=1.2", "top_k=5"], "`rollouts.logprobs_mode`"),
        (vec![named, server, "temperature=1.2", "rollouts.protocol=vllm"], "`rollouts.logprobs_mode`"),
    ] {
        let error = refused(&overrides);
        assert!(error.contains(words), "{overrides:?}: {error}");
    }
}
