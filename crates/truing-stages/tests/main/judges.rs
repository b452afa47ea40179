//! Language models as judges of a policy's completions, and the client against truing's own model behind a server.

use crate::policies;
use crate::scripted::{Scripted, Stopped};
use crate::setup::{self, Events, MACHINE, Ticks, never};
use crate::setup::{Cpu, SOLO};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use truing_ask::{ChatContext, ChatModelConfig, OpenChatModel};
use truing_client::{Access, CacheMode, ClientSettings, OpenAiClient};
use truing_generate::LocalChat;
use truing_model::{EngineOptions, ModelFiles, TrainableSpec};
use truing_stages::grpo::{GrpoConfig, GrpoInputs, GrpoPlan, GrpoStage};
use truing_stages::{Ended, Recipe, RunContext, Stage, StageError, StagePlan as _, Start, TrainedModel};
use truing_text::RenderOptions;
use truing_types::{
    ChatModel, ChatRequest, Conversation, Event, Message, Role, SamplingOptions, Seed, Silent,
};

const JUDGED: &str = r#"judge={model={server={base_url="http://127.0.0.1:9/v1",model="m"}}}"#;

/// Counts letters of the first half of the alphabet: a verdict that depends on the answer alone.
fn judge() -> Scripted {
    Scripted::new(|text| {
        let answer = text.split("<answer>\n").nth(1).and_then(|rest| rest.split("\n</answer>").next());
        let n = answer.unwrap_or("").chars().filter(|letter| ('a'..='m').contains(letter)).count();
        Ok(format!("Some thought.\n[[{}]]", 1 + n.min(9)))
    })
}

fn run(
    folder: &Path,
    overrides: &[&str],
    start: Start,
    judge: Option<OpenChatModel>,
    stop_when: impl Fn(&Event) -> bool + 'static,
) -> Result<Ended<TrainedModel>, StageError> {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    let config = GrpoConfig::from_toml(policies::RECIPE, &folder.join("recipe.toml"), &overrides)?;
    let inputs = GrpoInputs::load(&config, RenderOptions::default(), &mut Silent)?;
    let plan = GrpoPlan::resolve::<Cpu>(config, &inputs, &MACHINE)?;
    let stop = AtomicBool::new(false);
    let mut events = Events { seen: Vec::new(), stop: &stop, stop_when: Box::new(stop_when) };
    GrpoStage::run::<Cpu>(
        &plan,
        &inputs,
        RunContext {
            chat_models: judge.into_iter().collect(),
            ..RunContext::new(start, &SOLO, &Ticks::default(), &mut events, &stop)
        },
    )
}

#[test]
fn a_judged_run_that_is_broken_off_goes_on_bit_for_bit_and_asks_nothing_twice() {
    let overrides = [JUDGED, "max_steps=3", "save_steps=1"];
    let straight = policies::folder();
    run(straight.path(), &overrides, Start::Fresh, Some(judge().open()), never).unwrap();
    let expected = policies::everything(straight.path());
    assert!(expected.1.iter().all(|record| record.contains_key("rewards/judge/mean")), "{:?}", expected.1);

    let folder = policies::folder();
    let cache = folder.path().join("replies.sqlite");
    let judge = judge();
    let is_learning = |event: &Event| {
        matches!(event, Event::PhaseStarted { phase, .. }
            if phase.starts_with("step 2 of 3: updating the policy"))
    };
    let outcome =
        run(folder.path(), &overrides, Start::Fresh, Some(judge.cached(&cache)), is_learning).unwrap();
    assert!(matches!(outcome, Ended::Interrupted { .. }), "{outcome:?}");
    run(folder.path(), &overrides, Start::Resume, Some(judge.cached(&cache)), never).unwrap();
    let found = policies::everything(folder.path());
    assert!(expected.0 == found.0, "the weights differ");
    assert!(expected.2 == found.2, "the completions differ");
    let asked = judge.asked();
    assert_eq!(asked.iter().collect::<BTreeSet<_>>().len(), asked.len(), "something was asked twice");
}

#[test]
fn while_the_judge_is_asked_the_run_can_be_stopped_and_nothing_is_learnt() {
    let folder = policies::folder();
    let asks =
        |event: &Event| matches!(event, Event::PhaseStarted { phase, .. } if phase == "asking the judge");
    let outcome = run(folder.path(), &[JUDGED], Start::Fresh, Some(judge().open()), asks).unwrap();
    assert_eq!(outcome, Ended::Interrupted { step: Some(0) });
}

/// Runs to its end, whatever that is, and keeps what was said.
fn run_and_listen(
    folder: &Path,
    overrides: &[&str],
    start: Start,
    judge: &Scripted,
) -> (Result<Ended<TrainedModel>, StageError>, Vec<String>) {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    let config = GrpoConfig::from_toml(policies::RECIPE, &folder.join("recipe.toml"), &overrides).unwrap();
    let inputs = GrpoInputs::load(&config, RenderOptions::default(), &mut Silent).unwrap();
    let has_judge = config.judge.is_some();
    let plan = GrpoPlan::resolve::<Cpu>(config, &inputs, &MACHINE).unwrap();
    let stop = AtomicBool::new(false);
    let mut events = Events { seen: Vec::new(), stop: &stop, stop_when: Box::new(never) };
    let judge = has_judge.then(|| judge.open());
    let ended = GrpoStage::run::<Cpu>(
        &plan,
        &inputs,
        RunContext {
            chat_models: judge.into_iter().collect(),
            ..RunContext::new(start, &SOLO, &Ticks::default(), &mut events, &stop)
        },
    );
    let warnings = events.seen.into_iter().filter_map(|event| match event {
        Event::Warning(text) => Some(text),
        _ => None,
    });
    (ended, warnings.collect())
}

fn ended_with(ended: Result<Ended<TrainedModel>, StageError>) -> String {
    match ended {
        Err(error @ StageError::Unscored { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_judge_that_is_down_is_told_at_once_and_ends_the_run_after_some_steps() {
    let folder = policies::folder();
    let down = Scripted::fails();
    let long = [JUDGED, "max_steps=9", "save_steps=1"];
    let (ended, warnings) = run_and_listen(folder.path(), &long, Start::Fresh, &down);
    let text = ended_with(ended);
    assert!(text.contains("step 3: none of 12 completions could be scored"), "{text}");
    assert!(text.contains("the server is down") && text.contains("step 3 in a row"), "{text}");
    assert!(text.contains("--resume starts with step 1"), "{text}");
    assert_eq!(warnings.len(), 1, "it is said once: {warnings:?}");
    assert!(
        warnings[0].starts_with("step 1: ") && warnings[0].contains("the server is down"),
        "{warnings:?}"
    );
    let records = policies::metrics(folder.path());
    assert_eq!(records.len(), 3);
    assert_eq!((records[0]["unscored/judge_failed"], records[0]["groups_used"]), (12.0, 0.0));
    assert!(!records[0].contains_key("reward") && !folder.path().join("run/model").exists());

    // Once it is up again, the run takes these steps as if nothing had happened.
    let (ended, _) = run_and_listen(folder.path(), &long, Start::Resume, &judge());
    assert!(matches!(ended, Ok(Ended::Finished(TrainedModel { nothing_learnt: None, .. }))), "{ended:?}");
    let straight = policies::folder();
    run(straight.path(), &long, Start::Fresh, Some(judge().open()), never).unwrap();
    assert!(policies::everything(straight.path()) == policies::everything(folder.path()));
}

#[test]
fn a_judge_that_goes_down_in_the_middle_leaves_the_steps_before_it_safe() {
    let folder = policies::folder();
    let overrides = [JUDGED, "max_steps=9", "save_steps=5", "max_unscored_steps=2"];
    let (n, good) = (std::cell::Cell::new(0), judge());
    // Two steps of 12 completions.
    let judge_of_two_steps = Scripted::new(move |text| {
        n.set(n.get() + 1);
        if n.get() <= 24 { good.answer(text) } else { Err(truing_types::ChatError::Failed("lost".into())) }
    });
    let (ended, _) = run_and_listen(folder.path(), &overrides, Start::Fresh, &judge_of_two_steps);
    let text = ended_with(ended);
    assert!(text.contains("step 4: ") && text.contains("saved as it was after step 2"), "{text}");
    let (ended, _) = run_and_listen(folder.path(), &overrides, Start::Resume, &judge());
    assert!(ended.is_ok(), "{ended:?}");
    let straight = policies::folder();
    run(straight.path(), &overrides, Start::Fresh, Some(judge().open()), never).unwrap();
    assert!(policies::everything(straight.path()) == policies::everything(folder.path()));
}

/// Fails on every second answer, by its letters, in the words of a server.
fn fails_on_some() -> Scripted {
    let good = judge();
    Scripted::new(move |text| {
        let n = text.chars().filter(char::is_ascii_lowercase).count();
        if n % 2 == 0 {
            good.answer(text)
        } else {
            Err(truing_types::ChatError::Failed("status 400: the seed is odd".into()))
        }
    })
}

#[test]
fn completions_without_a_reward_beside_others_are_warned_of_at_once_and_counted_at_the_end() {
    let overrides = [JUDGED, "max_steps=3", "save_steps=1", "judge.verdict.max_failures_in_a_row=99"];
    let straight = policies::folder();
    let (ended, warnings) = run_and_listen(straight.path(), &overrides, Start::Fresh, &fails_on_some());
    assert!(matches!(ended, Ok(Ended::Finished(TrainedModel { nothing_learnt: None, .. }))), "{ended:?}");
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    let first = &warnings[0];
    assert!(first.starts_with("step 1: ") && first.contains(" of 12 completions have no reward"), "{first}");
    assert!(first.contains("prompts.jsonl:") && first.contains("status 400: the seed is odd"), "{first}");
    let unscored = |record: &std::collections::BTreeMap<String, f64>| record["unscored/judge_failed"];
    let n: f64 = policies::metrics(straight.path()).iter().map(unscored).sum();
    let total = format!("not all rollouts were used for training: {n} of 36 completions have no reward: ");
    assert!(warnings[1].starts_with(&total) && warnings[1].contains("status 400"), "{}", warnings[1]);

    // A run that is resumed counts from its beginning.
    let folder = policies::folder();
    let second = |event: &Event| matches!(event, Event::Metrics { step: 2, .. });
    run(folder.path(), &overrides, Start::Fresh, Some(fails_on_some().open()), second).unwrap();
    let (ended, resumed) = run_and_listen(folder.path(), &overrides, Start::Resume, &fails_on_some());
    assert!(ended.is_ok(), "{ended:?}");
    let without_folder = |text: &str, folder: &Path| text.replace(&folder.display().to_string(), "");
    assert_eq!(
        without_folder(resumed.last().unwrap(), folder.path()),
        without_folder(&warnings[1], straight.path())
    );
}

#[test]
fn a_run_that_learnt_nothing_for_want_of_rewards_says_so_in_the_server_s_words() {
    let folder = policies::folder();
    let n = std::cell::Cell::new(0);
    // One answer of each group of 4.
    let mostly_refuses = Scripted::new(move |_| {
        n.set(n.get() + 1);
        let refused = || Err(truing_types::ChatError::Failed("status 400: no such parameter".into()));
        if n.get() % 4 == 1 { Ok("[[5]]".into()) } else { refused() }
    });
    let overrides = [JUDGED, "reward=[]", "max_steps=3"];
    let (ended, warnings) = run_and_listen(folder.path(), &overrides, Start::Fresh, &mostly_refuses);
    let Ok(Ended::Finished(TrainedModel { nothing_learnt: Some(text), .. })) = ended else {
        panic!("{ended:?}")
    };
    assert!(text.starts_with("the model was not trained: 27 of 36 completions have no reward"), "{text}");
    assert!(text.contains("status 400: no such parameter"), "{text}");
    assert_eq!(warnings.last(), Some(&text), "it is the last word");
    let flat = warnings.iter().find(|warning| warning.starts_with("steps 1 to 3")).unwrap();
    assert!(flat.contains("status 400: no such parameter"), "{flat}");
}

#[test]
fn a_run_that_continues_without_rewards_says_in_the_end_how_much_it_learnt_from() {
    let folder = policies::folder();
    let (n, good) = (std::cell::Cell::new(0), judge());
    let runs_dry = Scripted::new(move |text| {
        n.set(n.get() + 1);
        let refused = || Err(truing_types::ChatError::Refused("status 429: insufficient quota".into()));
        if n.get() <= 12 { good.answer(text) } else { refused() }
    });
    let overrides = [JUDGED, "max_steps=4", "on_unscored_step=warn"];
    let (ended, warnings) = run_and_listen(folder.path(), &overrides, Start::Fresh, &runs_dry);
    assert!(matches!(ended, Ok(Ended::Finished(TrainedModel { nothing_learnt: None, .. }))), "{ended:?}");
    let last = warnings.last().unwrap();
    assert!(last.contains("3 of 4 steps had no reward at all and changed nothing"), "{last}");
    assert!(last.contains("36 of 48 completions have no reward: judge_refused (36)"), "{last}");
    assert!(last.contains("status 429: insufficient quota"), "{last}");
}

#[test]
fn a_judge_that_refuses_everything_ends_the_run_in_its_first_step() {
    let words = "status 429: The balance of this account is used up.";
    for extra in [&[][..], &["eval_on_start=true", "eval_fraction=0.4"]] {
        let folder = policies::folder();
        let judge = Scripted::refuses(words);
        let overrides: Vec<&str> = [JUDGED].iter().chain(extra).copied().collect();
        let (ended, _) = run_and_listen(folder.path(), &overrides, Start::Fresh, &judge);
        let text = ended_with(ended);
        assert!(text.contains(words) && text.contains("judge_refused"), "{text}");
        assert_eq!(judge.asked().len(), 1, "{extra:?}");
        assert!(!folder.path().join("run/model").exists());
    }
    // By policy it goes on, says so, and does not pretend to have learnt.
    let folder = policies::folder();
    let warn = [JUDGED, "max_steps=4", "on_unscored_step=warn"];
    let (ended, warnings) = run_and_listen(folder.path(), &warn, Start::Fresh, &Scripted::refuses(words));
    let Ok(Ended::Finished(TrainedModel { nothing_learnt: Some(text), .. })) = ended else {
        panic!("{ended:?}")
    };
    assert!(text.contains("the model was not trained") && text.contains(words), "{text}");
    assert!(warnings[0].contains(words), "{warnings:?}");
}

#[test]
fn a_judge_that_is_cut_gives_no_verdict() {
    for (judge, reason, n_asked) in [
        (Scripted::cut("<think>\nA first guess would be [[2]], but"), "(512), inside its reasoning", 12),
        (Scripted::cut("Well [[7]]"), "cut at max_tokens (512)", 24),
        (Scripted::says("<think>[[2]]"), "reasoning but no answer", 12),
    ] {
        let folder = policies::folder();
        let (ended, _) = run_and_listen(folder.path(), &[JUDGED, "max_steps=1"], Start::Fresh, &judge);
        let text = ended_with(ended);
        assert!(text.contains(reason) && text.contains("the model was not trained"), "{text}");
        assert_eq!(judge.asked().len(), n_asked, "{reason}");
    }
}

#[test]
fn an_optional_judge_that_fails_is_left_out_and_told() {
    let folder = policies::folder();
    let optional = [JUDGED, "judge.optional=true", "max_steps=2"];
    let (ended, warnings) =
        run_and_listen(folder.path(), &optional, Start::Fresh, &Scripted::says("no idea"));
    assert!(ended.is_ok(), "{ended:?}");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].contains("`judge` could not be computed for any of its 12 completions")
            && warnings[0].contains("prompts.jsonl:"),
        "{warnings:?}"
    );
    let record = policies::metrics(folder.path()).remove(0);
    assert!(record.contains_key("reward") && !record.contains_key("unscored/judge_failed"), "{record:?}");
    // A server that is down or refuses is reported in the first step, with its message; training uses the other
    // rewards.
    for (judge, words) in [
        (Scripted::fails(), "the server is down"),
        (Scripted::refuses("status 401: wrong key"), "status 401: wrong key"),
    ] {
        let folder = policies::folder();
        let (ended, warnings) = run_and_listen(folder.path(), &optional, Start::Fresh, &judge);
        assert!(matches!(ended, Ok(Ended::Finished(TrainedModel { nothing_learnt: None, .. }))), "{ended:?}");
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].starts_with("step 1: `judge`") && warnings[0].contains(words), "{warnings:?}");
    }
}

#[test]
fn rewards_that_are_all_equal_or_lack_their_column_are_no_success() {
    let nobody = Scripted::fails();
    let folder = policies::folder();
    let equal = ["reward=[{kind={length={at_most=99}}}]", "max_steps=4"];
    let (ended, warnings) = run_and_listen(folder.path(), &equal, Start::Fresh, &nobody);
    let Ok(Ended::Finished(TrainedModel { nothing_learnt: Some(text), model, .. })) = ended else {
        panic!("{ended:?}")
    };
    assert!(text.contains("all rewards of each group were equal") && model.exists(), "{text}");
    assert!(
        warnings.iter().any(|warning| warning.starts_with("steps 1 to 3 had no training signal")),
        "{warnings:?}"
    );
    assert_eq!(policies::metrics(folder.path())[0]["groups_used"], 3.0);

    let folder = policies::folder();
    let (ended, warnings) =
        run_and_listen(folder.path(), &["reward=[{kind={exact_match={}}}]"], Start::Fresh, &nobody);
    let text = ended_with(ended);
    assert!(text.contains("the row has no `answer`") && text.contains("missing_reference"), "{text}");
    assert!(warnings[0].contains("the row has no `answer`"), "{warnings:?}");
}

#[test]
fn an_evaluation_without_a_reward_is_said_and_is_never_the_best() {
    let folder = policies::folder();
    let eval: String = (0..2).map(|i| format!("{{\"prompt\": \"Say {i}.\"}}\n")).collect();
    std::fs::write(folder.path().join("other.jsonl"), eval).unwrap();
    let overrides = [
        "eval_data=[{path=\"other.jsonl\"}]",
        "reward=[{kind={format={pattern=\"[a-m]\"}}, sources=[\"prompts.jsonl\"]}]",
        "max_steps=2",
        "save_steps=1",
        "eval_steps=1",
    ];
    let first =
        |event: &Event| matches!(event, Event::Metrics { step: 1, values } if values.contains_key("loss"));
    let ended = run(folder.path(), &overrides, Start::Fresh, None, first).unwrap();
    assert!(matches!(ended, Ended::Interrupted { .. }), "{ended:?}");
    let (ended, warnings) = run_and_listen(folder.path(), &overrides, Start::Resume, &Scripted::fails());
    assert!(ended.is_ok(), "{ended:?}");
    assert!(warnings.iter().any(|warning| warning.starts_with("the evaluation: none of 2")), "{warnings:?}");
}

#[test]
fn groups_of_a_prompt_that_is_drawn_again_are_all_kept() {
    let folder = policies::folder();
    std::fs::write(folder.path().join("prompts.jsonl"), "{\"prompt\": \"Say it.\"}\n").unwrap();
    let n = std::cell::Cell::new(0);
    // The first group is all equal and so left out, the two after it are trained on.
    let judge = Scripted::new(move |_| {
        n.set(n.get() + 1);
        Ok(format!("[[{}]]", if n.get() <= 4 { 5 } else { 1 + n.get() % 3 }))
    });
    let overrides = [JUDGED, "reward=[]", "dynamic_sampling=true", "prompts_per_step=2", "max_steps=1"];
    run(folder.path(), &overrides, Start::Fresh, Some(judge.open()), never).unwrap();
    assert_eq!(judge.asked().len(), 12);
    let kept = truing_run::rollouts::read(&folder.path().join("run"), 1).unwrap();
    assert_eq!(kept.len(), 12);
    let of_group = |idx: usize| kept.iter().filter(move |rollout| rollout.prompt_idx == idx);
    assert!((0..3).all(|idx| of_group(idx).count() == 4));
    assert!(of_group(0).chain(of_group(1)).all(|rollout| rollout.advantage.is_some()));
    assert!(of_group(2).all(|rollout| rollout.advantage.is_none() && rollout.reward == Some(4.0 / 9.0)));
    assert_eq!(policies::metrics(folder.path())[0]["groups_used"], 2.0);
}

#[test]
fn the_plan_tells_what_the_judge_will_be_asked() {
    let folder = policies::folder();
    let plan = |overrides: &[&str]| {
        let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
        let config = GrpoConfig::from_toml(policies::RECIPE, &folder.path().join("r.toml"), &overrides)?;
        let inputs = GrpoInputs::load(&config, RenderOptions::default(), &mut Silent)?;
        GrpoPlan::resolve::<Cpu>(config, &inputs, &MACHINE)
    };
    let rows = plan(&[JUDGED, "judge.verdict.protocol=pairwise"]).unwrap().table();
    let calls = rows.iter().find(|row| row.name == "judge calls per step").unwrap();
    assert_eq!(calls.amount, truing_train::Amount::Count(24));
    let refused = |overrides: &[&str]| plan(overrides).unwrap_err().to_string();
    assert!(refused(&["judge={model={}}"]).contains("judge.model"));
    let local = format!("judge.model.model_name_or_path={}", folder.path().join("model").display());
    assert!(refused(&[JUDGED, &local]).contains("cannot both be given"));
    assert!(refused(&[JUDGED, "judge.model.mode=replay"]).contains("`cache`"));
    let drafting = refused(&[JUDGED, "judge.model.prompt_lookup_num_tokens=3"]);
    assert!(drafting.contains("`prompt_lookup_num_tokens` and `server` cannot both be given"), "{drafting}");
    assert!(refused(&[JUDGED, "judge.model.server.base_url=here"]).contains("`base_url` is here"));
    assert!(refused(&[JUDGED, "judge.verdict.range=[2, 1]"]).contains("`range`"));
    assert!(refused(&["shaping.clip=[2, 1]"]).contains("`clip`"));
    let other = run(folder.path(), &[JUDGED], Start::Fresh, None, never).unwrap_err();
    assert!(other.to_string().contains("`judge`"), "{other}");
}

#[test]
fn how_fast_a_judge_is_asked_is_no_other_run() {
    let folder = policies::folder();
    let first = |event: &Event| matches!(event, Event::Metrics { step: 1, .. });
    run(folder.path(), &[JUDGED, "max_steps=2"], Start::Fresh, Some(judge().open()), first).unwrap();
    let faster = [JUDGED, "max_steps=2", "judge.model.server.max_concurrency=99"];
    run(folder.path(), &faster, Start::Resume, Some(judge().open()), never).unwrap();
    let other = [JUDGED, "max_steps=2", "judge.model.server.model=other"];
    let error = run(folder.path(), &other, Start::Resume, Some(judge().open()), never).unwrap_err();
    assert!(error.to_string().contains("judge"), "{error}");
}

#[test]
fn rewards_are_shaped_before_they_are_learnt_from_and_reported_as_they_were() {
    let [plain, shaped] =
        [&[][..], &["shaping.length_penalty=0.5", "shaping.standardise=batch"]].map(|overrides| {
            let folder = policies::folder();
            let overrides: Vec<&str> =
                overrides.iter().copied().chain(["max_steps=2", "algorithm=dr_grpo"]).collect();
            run(folder.path(), &overrides, Start::Fresh, None, never).unwrap();
            policies::everything(folder.path())
        });
    assert_eq!(plain.1[0]["reward"], shaped.1[0]["reward"]);
    assert!(shaped.1[0]["shaped_reward"].abs() < 1e-9 && !plain.1[0].contains_key("shaped_reward"));
    assert!(plain.0 != shaped.0, "something else was learnt");
}

fn local_chat(folder: &Path) -> LocalChat<Cpu> {
    let files = ModelFiles::open(&folder.join("model")).unwrap();
    let renderer = truing_stages::model::renderer(&files, RenderOptions::default()).unwrap();
    let frozen = TrainableSpec::frozen();
    let engine = truing_stages::model::load_engine::<Cpu>(
        &files,
        &frozen,
        &EngineOptions::with_threads(1, Seed(0)),
        &SOLO,
        &mut |_| {},
    )
    .unwrap();
    LocalChat::new(engine, renderer).unwrap()
}

/// Serves a model in the shape of chat completions, one request after the other.
fn serve(folder: &Path) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let folder = folder.to_owned();
    std::thread::spawn(move || {
        let model = local_chat(&folder);
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let asked = read_body(&stream);
            let messages = serde_json::from_value(asked["messages"].clone()).unwrap();
            let request = ChatRequest {
                conversation: Conversation { messages, tools: Vec::new() },
                sampling: SamplingOptions {
                    max_new_tokens: asked["max_tokens"].as_u64().unwrap() as usize,
                    temperature: asked["temperature"].as_f64().unwrap() as f32,
                    seed: asked["seed"].as_u64().unwrap(),
                    ..SamplingOptions::default()
                },
            };
            let reply = model.chat(&request, &mut |_| ControlFlow::Continue(())).unwrap();
            let body = json!({
                "choices": [{
                    "index": 0,
                    "message": {"role": "assistant", "content": reply.text},
                    "finish_reason": "length"
                }],
                "usage": {"prompt_tokens": reply.n_prompt_tokens, "completion_tokens": reply.n_completion_tokens},
            })
            .to_string();
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all((head + &body).as_bytes()).unwrap();
        }
    });
    address
}

fn read_body(stream: &std::net::TcpStream) -> Value {
    let mut reader = BufReader::new(stream);
    let (mut line, mut length) = (String::new(), 0);
    loop {
        line.clear();
        reader.read_line(&mut line).unwrap();
        match line.trim().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.parse().unwrap()
            }
            Some(_) => {}
            None if line.trim().is_empty() => break,
            None => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    serde_json::from_slice(&body).unwrap()
}

fn chat_context() -> ChatContext {
    ChatContext {
        access: Access { api_key: None, proxy: None, clock: Arc::new(Stopped) },
        render: RenderOptions::default(),
        n_threads: 1,
        stop: Arc::default(),
    }
}

fn requests() -> Vec<ChatRequest> {
    let request = |seed| ChatRequest {
        conversation: Conversation { messages: vec![Message::new(Role::User, "Say it.")], tools: Vec::new() },
        sampling: SamplingOptions { max_new_tokens: 8, temperature: 0.7, seed, ..SamplingOptions::default() },
    };
    (0..4).map(request).collect()
}

#[test]
fn truing_s_own_model_behind_a_server_answers_as_in_this_process() {
    let folder = setup::folder();
    let settings = ClientSettings {
        base_url: format!("http://{}/v1", serve(folder.path())),
        model: "tiny".into(),
        ..ClientSettings::default()
    };
    let client = OpenAiClient::new(settings, chat_context().access).unwrap();
    let local = local_chat(folder.path());
    let go_on = &mut |_: usize, _: &truing_types::ChatResult| ControlFlow::Continue(());
    let remote: Vec<_> = client.chat_all(&requests(), go_on).into_iter().map(Result::unwrap).collect();
    let here: Vec<_> = local.chat_all(&requests(), go_on).into_iter().map(Result::unwrap).collect();
    for (remote, here) in remote.iter().zip(&here) {
        assert_eq!(remote.text, here.text);
        assert_eq!(remote.n_prompt_tokens, here.n_prompt_tokens);
        assert_eq!(remote.n_completion_tokens, here.tokens.len());
    }
    assert!(here.iter().any(|reply| reply.text != here[0].text), "seeds draw differently");
}

#[test]
fn a_local_model_is_asked_through_the_same_door_and_its_replies_are_kept() {
    let folder = setup::folder();
    let config = ChatModelConfig {
        model_name_or_path: Some(folder.path().join("model")),
        cache: Some(folder.path().join("new/replies.sqlite")),
        ..ChatModelConfig::default()
    };
    let ask = |config: &ChatModelConfig, chat_context: &ChatContext| {
        let open = config.open::<Cpu>(chat_context, &mut Silent).unwrap();
        let results = open.model.chat_all(&requests(), &mut |_, _| ControlFlow::Continue(()));
        (results, open.counts.snapshot().cache_hits)
    };
    let texts = |results: Vec<truing_types::ChatResult>| -> Vec<String> {
        results.into_iter().map(|result| result.unwrap().text).collect()
    };
    let (first, hits) = ask(&config, &chat_context());
    assert_eq!(hits, 0);
    let replay = ChatModelConfig { mode: CacheMode::Replay, ..config.clone() };
    let (again, hits) = ask(&replay, &chat_context());
    assert_eq!((texts(first), hits), (texts(again), 4));
    let stopped = chat_context();
    stopped.stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let (results, _) = ask(&ChatModelConfig { cache: None, ..config }, &stopped);
    assert!(results.iter().all(|result| matches!(result, Err(truing_types::ChatError::BrokenOff))));
}
