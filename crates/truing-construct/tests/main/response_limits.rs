//! Where `truing respond` ends before all is sampled, and what it does not sample at all.

use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use truing_construct::respond::PromptFate;
use truing_stages::StagePlan;
use truing_types::{ChatError, ChatModel, ChatReply, ChatRequest, ChatResult};

use crate::replies::{Scripted, cached, says};
use crate::responses::{RECIPE, ROWS, SCRIPT, folder, lines, plan, run};

#[test]
fn at_the_budget_nothing_more_is_sent_and_with_a_higher_one_the_run_continues() {
    let folder = folder();
    let cache = folder.path().join("replies");
    let model = Scripted::of(SCRIPT);
    let outcome = run(folder.path(), &["budget=4"], vec![model.cached(&cache)]).unwrap();
    assert_eq!(model.asked().len(), 4);
    let rows = lines(&outcome.candidates);
    let fates: Vec<&Value> =
        rows[1]["responses"].as_array().unwrap().iter().map(|one| &one["fate"]).collect();
    assert_eq!(fates, ["not_selected", "not_sampled", "not_sampled"]);
    assert_eq!((&rows[1]["is_partial"], &rows[2]["responses"]), (&true.into(), &serde_json::json!([])));
    let summary = outcome.summary;
    assert_eq!((summary.cost, summary.n_accepted, summary.n_sampled), (Some(4.0), 1, 2));
    assert_eq!(summary.prompts[&PromptFate::NotSampled], 1);
    assert_eq!(summary.n_partial, 1);
    let told =
        "the budget of 4 was reached (the samples cost 4.00): of 3 prompts 1 are not sampled, and 1 only in";
    assert!(summary.warnings[0].starts_with(told), "{:?}", summary.warnings);
    let outcome = run(folder.path(), &["budget=4"], vec![model.cached(&cache)]).unwrap();
    assert_eq!((model.asked().len(), outcome.summary.cost), (4, Some(4.0)), "what was spent stays spent");
    let outcome = run(folder.path(), &["budget=100"], vec![model.cached(&cache)]).unwrap();
    assert_eq!((model.asked().len(), outcome.summary.n_accepted, outcome.summary.cost), (9, 2, Some(9.0)));
}

/// Replies follow from the seeds alone. They arrive in the order of the requests or the other way round, and the
/// account runs dry after some of them.
#[derive(Clone)]
struct BySeed {
    is_reversed: bool,
    n_left: Arc<Mutex<usize>>,
    paid: Arc<Mutex<Vec<(String, u64)>>>,
}

impl BySeed {
    fn new(is_reversed: bool, n_left: usize) -> Self {
        Self { is_reversed, n_left: Arc::new(Mutex::new(n_left)), paid: Arc::default() }
    }

    fn paid(&self) -> Vec<(String, u64)> {
        self.paid.lock().unwrap().clone()
    }
}

impl ChatModel for BySeed {
    fn chat(
        &self,
        request: &ChatRequest,
        _: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<ChatReply, ChatError> {
        let mut left = self.n_left.lock().unwrap();
        if *left == 0 {
            return Err(ChatError::Refused("status 402: nothing left".into()));
        }
        *left -= 1;
        let (text, seed) = (request.conversation.messages[0].content.clone(), request.sampling.seed);
        self.paid.lock().unwrap().push((text, seed));
        Ok(ChatReply { n_completion_tokens: 1 + (seed % 3) as usize, ..says(&format!("Reply {seed}."))? })
    }

    fn chat_all(
        &self,
        requests: &[ChatRequest],
        on_result: &mut dyn FnMut(usize, &ChatResult) -> ControlFlow<()>,
    ) -> Vec<ChatResult> {
        let mut results: Vec<ChatResult> = requests.iter().map(|_| Err(ChatError::BrokenOff)).collect();
        let n = requests.len();
        for i in 0..n {
            let place = if self.is_reversed { n - 1 - i } else { i };
            results[place] = self.chat(&requests[place], &mut |_| ControlFlow::Continue(()));
            if on_result(place, &results[place]).is_break() {
                break;
            }
        }
        results
    }
}

/// The budget ends a run at a place in the recipe's order, whichever reply arrives first, and wherever a run was killed
/// before.
#[test]
fn under_a_budget_a_run_that_continues_ends_where_an_undisturbed_one_ends() {
    let read = |folder: &Path| {
        ["candidates.jsonl", "responses.jsonl", "prompts.jsonl", "summary.json"].map(|name| {
            let text = fs::read_to_string(folder.join("out").join(name)).unwrap();
            text.replace(&*folder.to_string_lossy(), "")
        })
    };
    for budget in ["budget=2", "budget=6", "budget=11"] {
        let all = ["select=all", "min_score=", "max_rouge_l=1", "pass_rate=[0, 1]", "round_prompts=2"];
        let overrides = [&all[..], &["decoding.0.max_new_tokens=3", budget]].concat();
        let straight = folder();
        let model = BySeed::new(false, usize::MAX);
        let opened = cached(Box::new(model.clone()), &straight.path().join("replies"));
        let outcome = run(straight.path(), &overrides, vec![opened]).unwrap();
        let paid: BTreeSet<(String, u64)> = model.paid().into_iter().collect();
        assert!(paid.len() < 9 && outcome.summary.warnings[0].contains("was reached"), "{budget}");
        for n_left in 0..paid.len() {
            let folder = folder();
            let path = folder.path().join("replies");
            let killed = BySeed::new(true, n_left);
            let error = run(folder.path(), &overrides, vec![cached(Box::new(killed.clone()), &path)]);
            assert!(error.unwrap_err().to_string().contains("status 402"), "{budget} {n_left}");
            let rest = BySeed::new(true, usize::MAX);
            run(folder.path(), &overrides, vec![cached(Box::new(rest.clone()), &path)]).unwrap();
            assert_eq!(read(folder.path()), read(straight.path()), "{budget} {n_left}");
            let both = [killed.paid(), rest.paid()].concat();
            assert_eq!(both.len(), paid.len(), "{budget} {n_left}: something was paid for that is not used");
            assert_eq!(both.into_iter().collect::<BTreeSet<_>>(), paid, "{budget} {n_left}");
        }
    }
}

#[test]
fn a_prompt_that_was_sampled_in_part_has_no_pass_rate() {
    let folder = folder();
    let overrides = ["budget=5", "pass_rate=[0, 1]"];
    let outcome = run(folder.path(), &overrides, vec![Scripted::of(SCRIPT).open()]).unwrap();
    let rows = lines(&outcome.prompts.unwrap());
    assert_eq!((rows.len(), &rows[0]["answer"]), (1, &"4".into()), "{rows:?}");
    assert_eq!((outcome.summary.n_in_pass_rate, outcome.summary.n_partial), (Some(1), 1));
    let second = &lines(&outcome.candidates)[1];
    assert!(second.get("pass_rate").is_none() && second["is_partial"] == true, "{second}");
}

#[test]
fn a_repeated_prompt_is_sampled_and_written_once() {
    let folder = folder();
    let repeated = "{\"messages\": [{\"role\": \"user\", \"content\": \"2 + 2?\"}], \"answer\": \"5\"}\n";
    fs::write(folder.path().join("prompts.jsonl"), format!("{ROWS}{repeated}")).unwrap();
    let (planned, _) = plan(folder.path(), RECIPE, &[]).unwrap();
    assert_eq!((planned.n_prompts, planned.n_repeated, planned.n_all_prompts), (3, 1, 4));
    assert_eq!((planned.models[0].n_calls, planned.cost()), (9, Some(900.0)));
    assert!(planned.table().iter().any(|row| row.name == "prompts that repeat an earlier row"));
    let model = Scripted::of(SCRIPT);
    let outcome = run(folder.path(), &["pass_rate=[0, 1]"], vec![model.open()]).unwrap();
    assert_eq!((model.asked().len(), outcome.summary.cost), (9, Some(9.0)));
    let rows = lines(&outcome.candidates);
    assert_eq!(
        (rows.len(), &rows[3]["fate"], &rows[3]["repeats"]["line"]),
        (4, &"repeated".into(), &1.into())
    );
    assert_eq!((&rows[3]["answer"], &rows[3]["responses"]), (&"5".into(), &serde_json::json!([])));
    let lines_of: Vec<Value> =
        lines(&outcome.responses).iter().map(|row| row["source"]["line"].clone()).collect();
    assert_eq!(lines_of, [1, 3]);
    assert_eq!(lines(&outcome.prompts.unwrap()).len(), 3);
    let summary = outcome.summary;
    assert_eq!((summary.n_prompts, summary.n_sampled, summary.prompts[&PromptFate::Repeated]), (4, 3, 1));
    let limited = plan(folder.path(), RECIPE, &["max_candidates=6"]).unwrap().0;
    assert_eq!((limited.n_prompts, limited.models[0].n_calls), (2, 6));
}

#[test]
fn rows_that_a_reward_will_never_score_are_refused_before_any_call() {
    let folder = folder();
    let prompts = folder.path().join("prompts.jsonl");
    fs::write(&prompts, "{\"prompt\": \"2 + 2?\", \"answer\": \"4\"}\n{\"prompt\": \"3 + 3?\"}\n").unwrap();
    for (kind, line, expected) in [
        ("{exact_match = {}}", 2, "reward `exact_match`: the row has no `answer`"),
        ("{math_answer = {}}", 2, "reward `math_answer`: "),
        ("{ifeval = {}}", 1, "reward `ifeval`: the row has no list `instruction_id_list`"),
        ("{json_schema = {column = \"schema\"}}", 1, "reward `json_schema`: "),
    ] {
        let reward = format!("reward=[{{kind = {kind}}}]");
        let error = plan(folder.path(), RECIPE, &[&reward]).unwrap_err().to_string();
        assert!(error.contains(&format!("prompts.jsonl:{line}: {expected}")), "{error}");
        let optional = format!("reward=[{{kind = {kind}, optional = true}}]");
        assert!(plan(folder.path(), RECIPE, &[&optional]).is_ok(), "{kind}");
    }
    let model = Scripted::of(SCRIPT);
    let outcome = run(folder.path(), &["on_bad_row=skip"], vec![model.open()]).unwrap();
    assert_eq!((model.asked().len(), outcome.summary.n_prompts), (3, 1));
    let skipped = lines(&folder.path().join("out/skipped.jsonl"));
    assert_eq!((skipped.len(), &skipped[0]["line"]), (1, &2.into()));
    assert_eq!(skipped[0]["reason"], "reward `exact_match`: the row has no `answer`");
}

#[test]
fn an_empty_reply_is_a_reply_that_a_run_which_continues_finds() {
    let folder = folder();
    let cache = folder.path().join("replies");
    let model = Scripted::new(|_, n_before| says(["", "4", "x"][n_before % 3]));
    let first = run(folder.path(), &[], vec![model.cached(&cache)]).unwrap();
    let candidates = fs::read_to_string(&first.candidates).unwrap();
    assert!(candidates.contains("\"empty\""), "{candidates}");
    let again = run(folder.path(), &[], vec![model.cached(&cache)]).unwrap();
    assert_eq!(model.asked().len(), 9, "nothing was paid for twice");
    assert_eq!(fs::read_to_string(&again.candidates).unwrap(), candidates);
}
