//! Prompts, choices and files against lm-evaluation-harness 0.4.13: `harness_prompts.jsonl` holds rows of our
//! own with the contexts that its templates make of them.

use serde_json::{Value, json};
use truing_eval::benchmarks::{Answer, Ask, LogLikelihood, Prompt, TaskOptions, find, pending};
use truing_eval::results::{
    ItemRecord, RunFacts, TaskRecord, harness_results, harness_samples, read_items, write_harness_samples,
    write_items,
};

use super::{loaded, reply, row, run, value};

#[test]
fn contexts_and_continuations_are_lm_evaluation_harnesss() {
    let lines = include_str!("../fixtures/harness_prompts.jsonl").lines();
    let mut n = 0;
    for line in lines {
        let expected: Value = serde_json::from_str(line).unwrap();
        let task = expected["task"].as_str().unwrap();
        let benchmark = find(task).unwrap();
        let shots: Vec<Value> = expected["shots"].as_array().unwrap().clone();
        let options = TaskOptions {
            n_shots: Some(shots.len()),
            shots: shots.iter().map(|shot| row(9, shot)).collect(),
            ..TaskOptions::default()
        };
        let items = loaded(benchmark, &[expected["row"].clone()], &options).unwrap().items;
        let request =
            pending(benchmark, &items[0], &truing_eval::benchmarks::Answers::default(), &options).remove(0);
        let context = match &request.ask {
            Ask::Generate { prompt: Prompt::Completion(prompt), .. }
            | Ask::LogLikelihood { context: Prompt::Completion(prompt), .. } => prompt.text(),
            other => panic!("{task}: {other:?}"),
        };
        assert_eq!(context, expected["context"].as_str().unwrap(), "{task}");
        if let Some(continuations) = expected["continuations"].as_array() {
            let found: Vec<Value> = request.ask.continuations(false).into_iter().map(Value::from).collect();
            assert_eq!(&found, continuations, "{task}");
            assert_eq!(items[0].target, expected["target"].as_str().unwrap(), "{task}");
        }
        n += 1;
    }
    assert_eq!(n, 8);
}

#[test]
fn examples_are_of_the_questions_subject() {
    let benchmark = find("mmlu").unwrap();
    let question = |subject: &str, text: &str| {
        json!({
            "question": text, "choices": ["a", "b"], "answer": 0, "subject": subject
        })
    };
    let shots = [("anatomy", "bones"), ("law", "first"), ("anatomy", "blood"), ("law", "second")];
    let options = |n_shots| TaskOptions {
        n_shots: Some(n_shots),
        shots: shots
            .iter()
            .zip(1..)
            .map(|((subject, text), line)| row(line, &question(subject, text)))
            .collect(),
        ..TaskOptions::default()
    };
    let items = loaded(benchmark, &[question("law", "which")], &options(2)).unwrap().items;
    let shown = items[0].prompt.shown();
    assert!(shown.contains("first") && shown.contains("second"), "{shown}");
    assert!(!shown.contains("bones") && !shown.contains("blood"), "{shown}");
    let error = loaded(benchmark, &[question("law", "which")], &options(3)).unwrap_err().to_string();
    assert!(error.contains("a subject with 3 solved examples (`num_fewshot`); the file has 2"), "{error}");
}

#[test]
fn the_examples_that_are_shown_are_counted_and_a_number_that_cannot_be_met_is_refused() {
    let problem =
        |i: usize| json!({"question": format!("What is 1 + {i}?"), "answer": format!("So.\n#### {}", i + 1)});
    let rows: Vec<Value> = (0..4).map(problem).collect();
    let options = |n_shots, n_rows: usize| TaskOptions {
        n_shots,
        shots: (10..10 + n_rows).map(|i| row(i as u64, &problem(i))).collect(),
        ..TaskOptions::default()
    };
    let gsm8k = find("gsm8k").unwrap();
    let shots = |options: &TaskOptions| loaded(gsm8k, &rows, options).map(|loaded| loaded.shots().fewest);
    // Five are customary: without a file there are none, of a file with three there are three.
    assert_eq!(
        [options(None, 0), options(None, 3), options(None, 7)].map(|options| shots(&options).unwrap()),
        [0, 3, 5]
    );
    assert_eq!(shots(&options(Some(2), 7)), Ok(2));
    let error = shots(&options(Some(5), 3)).unwrap_err();
    assert!(error.contains("`num_fewshot` is 5, expected at most the 3 rows"), "{error}");
    // A question is no example of itself.
    let own =
        TaskOptions { shots: (0..4).map(|i| row(i as u64 + 1, &problem(i))).collect(), ..options(None, 0) };
    let counted = loaded(gsm8k, &rows, &own).unwrap().shots();
    assert_eq!((counted.fewest, counted.mean), (3, 3.0));
    let error = shots(&TaskOptions { n_shots: Some(4), ..own }).unwrap_err();
    assert!(
        error.contains("`num_fewshot` is 4, expected at most 3: the file with examples has no more"),
        "{error}"
    );
    let ifeval = find("ifeval").unwrap();
    let row =
        json!({"key": 1, "prompt": "x", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]});
    let error = loaded(ifeval, &[row], &options(Some(1), 3)).unwrap_err();
    assert!(error.contains("expected 0: `ifeval` is shown without solved examples"), "{error}");
}

#[test]
fn an_empty_reference_is_refused_whatever_reads_the_answer() {
    let gsm8k = find("gsm8k").unwrap();
    let rows = [json!({"question": "Q", "answer": "#### 1"}), json!({"question": "Q", "answer": " "})];
    let error = loaded(gsm8k, &rows, &TaskOptions::default()).unwrap_err();
    assert!(error.contains("own.jsonl:2: `answer` is `\"\"`, expected a reference answer"), "{error}");
}

#[test]
fn the_mean_is_named_where_subjects_have_different_numbers_of_examples() {
    let mmlu = find("mmlu").unwrap();
    let question = |subject: &str, text: &str| {
        json!({
            "question": text, "choices": ["a", "b"], "answer": 0, "subject": subject
        })
    };
    let options = TaskOptions {
        shots: vec![row(1, &question("law", "one")), row(2, &question("law", "two"))],
        ..TaskOptions::default()
    };
    let items = loaded(mmlu, &[question("law", "x"), question("anatomy", "y")], &options).unwrap();
    assert_eq!((items.shots().fewest, items.shots().mean), (0, 1.0));
}

fn likelihoods(sums: &[f64]) -> Answer {
    let one = |&sum| LogLikelihood { sum, n_tokens: 2, is_greedy: false };
    Answer::LogLikelihoods(sums.iter().map(one).collect())
}

#[test]
fn choices_are_plain_per_character_and_per_byte() {
    let arc = find("arc").unwrap();
    // 2, 8 and 4 characters; 2, 8 and 12 bytes. Right is the third.
    let question = |id: &str| {
        json!({
            "id": id, "question": "Q?", "answerKey": "C",
            "choices": {"text": ["ab", "abcdefgh", "四个字符"], "label": ["A", "B", "C"]}
        })
    };
    let options = TaskOptions::default();
    let items =
        loaded(arc, &[question("1"), question("2"), question("3"), question("4")], &options).unwrap().items;
    let sums = |id: &str| match id {
        // Per character -1, -1.25, -2: only bytes (-1, -1.25, -0.67) choose the third.
        "1" => [-2.0, -10.0, -8.0],
        // -3, -1.25, -1: characters and bytes choose it.
        "2" => [-3.0, -10.0, -4.0],
        // All of them.
        "3" => [-30.0, -40.0, -4.0],
        // Equal: the first.
        _ => [-4.0, -16.0, -8.0],
    };
    let (records, summary) = run(arc, &items, &options, |item, _| likelihoods(&sums(&item.id)));
    let of = |place: usize, key: &str| records[place].score.measures[key].clone().unwrap().value;
    let found: Vec<[f64; 3]> = (0..4)
        .map(|place| ["acc,none", "acc_norm,none", "acc_bytes,none"].map(|key| of(place, key)))
        .collect();
    assert_eq!(found, [[0.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0, 1.0, 1.0], [0.0, 0.0, 1.0]]);
    assert_eq!((value(&summary, "acc,none"), value(&summary, "acc_bytes,none")), (0.25, 1.0));
    // Likelihoods that are missing are not wrong answers.
    let (_, summary) = run(arc, &items, &options, |_, _| likelihoods(&[-1.0]));
    assert_eq!((summary.metrics[0].n, summary.metrics[0].n_unscored()), (0, 4));
}

/// A run of GSM8K with three answers: right in form, right out of form, wrong.
fn gsm8k() -> (Vec<ItemRecord>, TaskRecord, TaskOptions) {
    let benchmark = find("gsm8k").unwrap();
    let rows: Vec<Value> = (0..3)
        .map(|i| json!({"question": format!("What is 1 + {i}?"), "answer": format!("So.\n#### {}", i + 1)}))
        .collect();
    let options = TaskOptions { n_shots: Some(0), ..TaskOptions::default() };
    let loaded = loaded(benchmark, &rows, &options).unwrap();
    let (records, summary) = run(benchmark, &loaded.items, &options, |item, _| {
        reply(match item.line {
            1 => "It is 1.\n#### 1",
            2 => "The answer is 2.",
            _ => "I think 7",
        })
    });
    let record = TaskRecord {
        task: "gsm8k".into(),
        version: 1,
        file: loaded.file,
        n_items_in_file: loaded.n_rows,
        n_shots: 0,
        mean_shots: None,
        output_type: "generate_until".into(),
        mode: options.mode,
        differences: Vec::new(),
        settings: serde_json::Map::new(),
        summary,
    };
    (records, record, options)
}

#[test]
fn three_readings_of_an_answer_stand_side_by_side() {
    let (_, record, _) = gsm8k();
    let summary = record.summary;
    let thirds = |key: &str| (3.0 * value(&summary, key)).round();
    assert_eq!(thirds("exact_match,verifier"), 2.0);
    assert_eq!(thirds("exact_match,strict-match"), 1.0);
    // The last number is "2." there, from which the full stop is taken.
    assert_eq!(thirds("exact_match,flexible-extract"), 2.0);
    assert_eq!(summary.n_unread["strict-match"], 2);
    assert!(!summary.n_unread.contains_key("verifier"));
}

#[test]
fn results_and_samples_have_the_harnesss_keys() {
    let (records, record, options) = gsm8k();
    let benchmark = find("gsm8k").unwrap();
    let (lines, hash) = harness_samples(benchmark, &records, &options, false);
    assert_eq!(lines.len(), 9, "one for each item and filter");
    let strict = lines.iter().find(|line| line["doc_id"] == 1 && line["filter"] == "strict-match").unwrap();
    assert_eq!(strict["filtered_resps"], json!(["[invalid]"]));
    assert_eq!(strict["resps"], json!([["The answer is 2."]]));
    assert_eq!((&strict["exact_match"], &strict["metrics"]), (&json!(0.0), &json!(["exact_match"])));
    assert_eq!(strict["arguments"]["gen_args_0"]["arg_0"], "Question: What is 1 + 1?\nAnswer:");
    assert_eq!(strict["arguments"]["gen_args_0"]["arg_1"]["until"][0], "Question:");
    // The row is the file's; what the benchmark adds is not in it.
    assert_eq!(strict["doc"], json!({"question": "What is 1 + 1?", "answer": "So.\n#### 2"}));
    // hash_string(json.dumps(doc, indent=2, default=handle_non_serializable, ensure_ascii=False)) of lm_eval.utils
    assert_eq!(strict["doc_hash"], "6e12afdc585b0429ef9ed9e72eb3ecdbd1801d2dde876f1026d6cb94514d1a74");
    // sha256 of the prompt, as Python's hashlib has it.
    assert_eq!(strict["prompt_hash"], "0c4106e8aca708afd9f54dac2dab06463d341daab2761f2da119d8fb764b029f");
    let run = RunFacts { model: "org/a b".into(), date: Some(1.5), ..RunFacts::default() };
    let results = harness_results(&[record], &run, &[("gsm8k".to_owned(), hash.clone())].into());
    let of_task = &results["results"]["gsm8k"];
    assert!((of_task["exact_match,strict-match"].as_f64().unwrap() - 1.0 / 3.0).abs() < 1e-12);
    assert!((of_task["exact_match_stderr,strict-match"].as_f64().unwrap() - 1.0 / 3.0).abs() < 1e-12);
    assert_eq!(results["n-samples"]["gsm8k"], json!({"original": 3, "effective": 3}));
    assert_eq!(results["higher_is_better"]["gsm8k"]["exact_match"], true);
    assert_eq!((&results["n-shot"]["gsm8k"], &results["task_hashes"]["gsm8k"]), (&json!(0), &json!(hash)));
    // The names that lm-evaluation-harness 0.4.13 gives: `sanitize_model_name`, a string of arguments, a number as
    // date.
    assert_eq!(results["model_name_sanitized"], "org__a b");
    assert_eq!(results["config"]["model_args"], "pretrained=org/a b");
    assert_eq!((&results["config"]["model"], &results["date"]), (&json!("truing"), &json!(1.5)));
    let config = &results["configs"]["gsm8k"];
    assert_eq!((&config["task"], &config["num_fewshot"]), (&json!("gsm8k"), &json!(0)));
    assert_eq!(config["output_type"], "generate_until");
    let metric = json!({"metric": "exact_match", "aggregation": "mean", "higher_is_better": true});
    assert_eq!(config["metric_list"], json!([metric]));
    for key in [
        "group_subtasks",
        "configs",
        "versions",
        "config",
        "git_hash",
        "date",
        "chat_template_sha",
        "system_instruction_sha",
    ] {
        assert!(results.get(key).is_some(), "{key}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("samples_gsm8k.jsonl");
    write_harness_samples(&path, lines).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 9);
}

#[test]
fn items_are_read_as_they_were_written_and_can_be_scored_anew() {
    let (records, record, options) = gsm8k();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("items_gsm8k.jsonl");
    write_items(&path, &records).unwrap();
    let read = read_items(&path).unwrap();
    assert_eq!(read, records);
    let benchmark = find("gsm8k").unwrap();
    let pairs: Vec<_> = read.iter().map(|record| (&record.item, &record.answers)).collect();
    let scores = benchmark.score(&pairs, &options, &truing_eval::benchmarks::Scoring::default());
    assert!(scores.iter().zip(&records).all(|(score, record)| *score == record.score));
    let text = serde_json::to_string(&record).unwrap();
    assert_eq!(serde_json::from_str::<TaskRecord>(&text).unwrap(), record);
    std::fs::write(&path, "{\"item\": 1}\n").unwrap();
    let error = read_items(&path).unwrap_err().to_string();
    assert!(error.contains("items_gsm8k.jsonl`:1: "), "{error}");
}

#[test]
fn likelihoods_are_written_as_the_harness_writes_them() {
    let arc = find("arc").unwrap();
    let question = json!({
        "id": "1", "question": "Q?", "answerKey": "A", "choices": {"text": ["x", "yy"], "label": ["A", "B"]}
    });
    let options = TaskOptions::default();
    let items = loaded(arc, &[question], &options).unwrap().items;
    let (records, _) = run(arc, &items, &options, |_, _| likelihoods(&[-1.0, -2.5]));
    let (lines, _) = harness_samples(arc, &records, &options, false);
    assert_eq!(lines[0]["resps"], json!([[["-1.0", "False"]], [["-2.5", "False"]]]));
    assert_eq!(lines[0]["filtered_resps"], json!([["-1.0", "False"], ["-2.5", "False"]]));
    assert_eq!(lines[0]["arguments"]["gen_args_1"]["arg_1"], " yy");
}
