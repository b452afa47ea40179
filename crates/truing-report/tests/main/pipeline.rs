//! The page of a pipeline, of stages whose every figure is known.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use truing_report::{
    PipelineRecord, PipelineStageFate, PipelineStageRecord, PipelineStageState, render_pipeline,
    write_pipeline,
};
use truing_types::{FinishReason, Message, Role, Rollout, RowOrigin};

use crate::evaluation::write_run;

const ALERT: &str = "</script><script>alert('no')</script><b>bold</b>";

/// A run with a recipe, inputs and the given metrics.
fn write_training(folder: &Path, stage: &str, metrics: impl Iterator<Item = Value>) {
    fs::create_dir_all(folder).unwrap();
    let inputs = json!({"format_version": 1, "stage": stage, "versions": {}, "seeds": {}, "files": []});
    fs::write(folder.join("inputs.json"), inputs.to_string()).unwrap();
    fs::write(folder.join("recipe.resolved.toml"), format!("stage = \"{stage}\"\n")).unwrap();
    fs::write(folder.join("metrics.jsonl"), metrics.map(|row| format!("{row}\n")).collect::<String>())
        .unwrap();
    fs::write(folder.join("report.html"), "the run's own page").unwrap();
}

/// A policy that pleases its judge and not the verifier, and ends with one token said over and over.
fn write_policy(folder: &Path) {
    let metrics = (1..=30).map(|step: u64| {
        let t = step as f64 / 30.0;
        let noise = ((step * 7919) % 101) as f64 / 101.0 - 0.5;
        json!({
            "step": step, "reward": 0.2 + 0.6 * t + 0.02 * noise, "kl": 0.01 + 0.9 * t, "entropy": 2.0 - t,
            "rewards/judge/mean": 0.1 + 0.8 * t + 0.02 * noise, "rewards/ifeval/mean": 0.3 + 0.02 * noise,
            "completions/mean_length": 40.0 + 60.0 * t, "completions/clipped_ratio": 0.4 * t,
        })
    });
    write_training(folder, "grpo", metrics);
    fs::create_dir(folder.join("rollouts")).unwrap();
    for step in [1, 30] {
        let rollouts = (0..16).map(|n| serde_json::to_string(&rollout(step, n)).unwrap() + "\n");
        let packed = zstd::encode_all(rollouts.collect::<String>().as_bytes(), 0).unwrap();
        fs::write(folder.join(format!("rollouts/step-{step:06}.jsonl.zst")), packed).unwrap();
    }
}

/// One of two completions of a prompt; at the end of training all are one token.
fn rollout(step: u64, n: usize) -> Rollout {
    let is_late = step > 1;
    let verified = n as f64 / 16.0;
    let judged = if is_late { 1.0 - verified } else { verified };
    Rollout {
        step,
        prompt_idx: n / 2,
        sample_idx: n % 2,
        origin: RowOrigin { source: "p.jsonl".into(), line: 1 + n as u64 / 2 },
        prompt: vec![Message::new(Role::User, format!("question {ALERT}"))],
        prompt_tokens: vec![1],
        tokens: (0..20).map(|token| if is_late { 7 } else { 100 * n as u32 + token }).collect(),
        text: format!("answer of step {step} {ALERT}"),
        finish_reason: FinishReason::EndOfTurn,
        log_probs: Vec::new(),
        sampling_log_probs: Vec::new(),
        weights_version: None,
        rewards: [("ifeval".to_owned(), verified), ("judge".to_owned(), judged)].into(),
        unscored: BTreeMap::new(),
        reward: Some(judged),
        advantage: None,
        kl: None,
    }
}

fn stage(name: &str, uses: &str, needs: &[usize]) -> PipelineStageRecord {
    PipelineStageRecord {
        name: name.into(),
        uses: uses.into(),
        needs: needs.to_vec(),
        ..PipelineStageRecord::default()
    }
}

/// A stage whose result lies in the folder of its name.
fn done(root: &Path, name: &str, uses: &str, needs: &[usize]) -> PipelineStageRecord {
    let folder = root.join(name);
    fs::create_dir_all(&folder).unwrap();
    PipelineStageRecord {
        state: PipelineStageState::UpToDate,
        key: Some("0123456789abcdef".into()),
        folder: Some(folder),
        link: Some(name.into()),
        fate: Some(PipelineStageFate::Ran),
        seconds: Some(100.0),
        peak_bytes: Some(3 << 30),
        bytes: Some(5 << 20),
        ..stage(name, uses, needs)
    }
}

/// A pipeline with a stage in every state.
fn pipeline(root: &Path) -> PipelineRecord {
    let losses = (1..=20).map(|step| json!({"step": step, "loss": 2.0 - 0.05 * f64::from(step)}));
    write_training(&root.join("sft"), "sft", losses);
    write_policy(&root.join("grpo"));
    for name in ["before", "after"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    write_run(&root.join("before"), 40, |i| Some(i < 10));
    write_run(&root.join("after"), 40, |i| Some((1..30).contains(&i)));
    let respond = PipelineStageRecord {
        state: PipelineStageState::InStore,
        fate: Some(PipelineStageFate::Reused),
        figures: [("n_prompts".to_owned(), 1200.0)].into(),
        cost: Some(1.25),
        n_calls: Some(4800),
        ..done(root, "respond", "respond", &[])
    };
    let with = |stage: PipelineStageRecord, state, reason: &str| PipelineStageRecord {
        state,
        reason: reason.to_owned(),
        ..stage
    };
    PipelineRecord {
        name: format!("songs {ALERT}"),
        recipe: "songs.toml".into(),
        stages: vec![
            respond,
            done(root, "sft", "sft", &[0]),
            done(root, "before", "evaluate", &[]),
            done(root, "grpo", "grpo", &[1]),
            done(root, "after", "evaluate", &[3]),
            with(stage("review", "gate", &[0]), PipelineStageState::Waiting, "for a<b.jsonl"),
            with(stage("publish", "command", &[4, 5]), PipelineStageState::Blocked, "by review"),
            with(stage("broken", "dpo", &[1]), PipelineStageState::Failed, &format!("it said {ALERT}")),
            stage("later", "merge", &[1, 3]),
        ],
        applied: "1 December 2026".into(),
    }
}

#[test]
fn the_page_has_states_figures_and_intervals() {
    let root = tempfile::tempdir().unwrap();
    let record = pipeline(root.path());
    let page = root.path().join("report.html");
    write_pipeline(&record, &page).unwrap();
    let html = fs::read_to_string(&page).unwrap();
    for expected in [
        "5 of 9 stages have results; 1 to run, 1 failed, 1 waiting, 1 blocked.",
        "1 December 2026: 4 ran, 1 from the store, 0 up to date",
        // The graph: names, states, and the main figures.
        "<text class=\"name\" x=\"13\" y=\"24\">✓ sft</text>",
        "evaluate · up to date",
        "gate · waiting",
        "prompts 1,200",
        "<a href=\"#stage-grpo\" class=\"good\">",
        // The table.
        "<a href=\"grpo/report.html\"><b>grpo</b></a>",
        "<a href=\"respond/\"><b>respond</b></a>",
        "taken from the store",
        "for a&#60;b.jsonl",
        "1 min 40 s",
        "4,800",
        "1.25",
        // 10 and 29 of 40 right: Wilson's interval of the first, and the paired change with its interval.
        "<h3>before → after</h3>",
        "0.250<br><small>0.142 to 0.402</small>",
        "+0.475<br><small>+0.",
        "Sub&#60;traction&#62;",
        "+0.450<br><small>+0.",
        "+0.500<br><small>+0.",
        "<td class=\"finding good\">better</td>",
        // The policy.
        "Reward hacking: grpo",
        "<code>judge</code> rises and <code>ifeval</code> is not shown to",
        "Completions get longer while the reward rises",
        "repeated pieces of 4 tokens",
        "judge against ifeval (rank correlation)",
        "id=\"policy-3-reward_parts\"",
        // Samples.
        "<h2>Samples side by side</h2>",
        "<h3>svamp</h3>",
    ] {
        assert!(html.contains(expected), "{expected}");
    }
    assert_eq!(
        html.matches("class=\"box\"").count(),
        2 * record.stages.len(),
        "one drawing wide, one narrow"
    );
    assert_eq!(html.matches("class=\"line\"").count(), 2 * 9);
    assert!(html.len() < 300_000, "{} bytes", html.len());
    if let Some(keep) = std::env::var_os("TRUING_TEST_KEEP_PAGE") {
        fs::copy(&page, keep).unwrap();
    }
}

#[test]
fn nothing_of_a_stage_becomes_markup() {
    let root = tempfile::tempdir().unwrap();
    let html = render_pipeline(&pipeline(root.path())).unwrap();
    assert!(!html.contains("<script>alert") && !html.contains("<b>bold"), "markup must be escaped");
    assert_eq!(html.matches("</script>").count(), 2, "one of data, one of code");
    let own = &html[..html.find("<script type=\"application/json\"").unwrap()];
    assert!(!own.contains("http://") && !own.contains("https://"), "the page loads nothing");
}

#[test]
fn what_cannot_be_read_or_compared_is_named() {
    let root = tempfile::tempdir().unwrap();
    let record = pipeline(root.path());
    fs::write(root.path().join("sft/metrics.jsonl"), "{\"step\":1}\n{\"stop\":2}\n").unwrap();
    let items = root.path().join("after/items_svamp.jsonl");
    fs::write(&items, fs::read_to_string(&items).unwrap().replacen('{', "[", 1)).unwrap();
    let html = render_pipeline(&record).unwrap();
    assert!(html.contains("sft: its record cannot be read: "), "the stage is named");
    assert!(html.contains("metrics.jsonl:2: no whole number `step`"), "and the line");
    assert!(html.contains("before and after are not compared: "), "and the pair");
    assert!(html.contains("Reward hacking: grpo"), "the rest is there");
}

#[test]
fn pipelines_without_results_or_stages_have_pages() {
    let only = PipelineRecord {
        name: "new".into(),
        stages: vec![stage("a", "sft", &[]), stage("b", "evaluate", &[0])],
        ..PipelineRecord::default()
    };
    let html = render_pipeline(&only).unwrap();
    assert!(html.contains("0 of 2 stages have results; 2 to run."));
    assert!(!html.contains("Before and after") && !html.contains("Samples side by side"));
    assert!(render_pipeline(&PipelineRecord::default()).unwrap().contains("0 of 0 stages have results."));
}

#[test]
fn many_items_and_models_make_a_page_below_one_megabyte() {
    let root = tempfile::tempdir().unwrap();
    let mut stages = vec![done(root.path(), "sft", "sft", &[])];
    for (number, name) in ["start", "one", "two", "three", "four"].into_iter().enumerate() {
        stages.push(done(root.path(), name, "evaluate", if number == 0 { &[] } else { &[0] }));
        write_run(&root.path().join(name), 600, |i| Some((i + number) % 5 > 2));
    }
    let record = PipelineRecord { name: "many".into(), stages, ..PipelineRecord::default() };
    let html = render_pipeline(&record).unwrap();
    assert!(html.len() < 500_000, "{} bytes", html.len());
    assert_eq!(html.matches("<h3>start → ").count(), 4);
    assert!(
        html.contains("<th scope=\"col\">two</th><th scope=\"col\">three</th><th scope=\"col\">four</th>")
    );
}
