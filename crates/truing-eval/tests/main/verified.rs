//! Benchmarks that a program scores.

use serde_json::{Value, json};
use truing_eval::benchmarks::{
    Answer, Answers, Ask, Benchmark as _, CustomBenchmark, CustomConfig, LogLikelihood, Prompt, Scored,
    Scoring, TaskOptions, find, summarise_benchmark,
};
use truing_types::{ChatReply, FinishReason, Unscored, UnscoredReason};

use super::{loaded, reply, row, run, value};

#[test]
fn ifeval_has_four_rates_strict_and_loose() {
    let benchmark = find("ifeval").unwrap();
    let rows = [
        json!({
            "key": 1, "prompt": "No commas. Two words.",
            "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
            "kwargs": [{}, {"relation": "less than", "num_words": 3}]
        }),
        json!({
            "key": 2, "prompt": "End well.", "instruction_id_list": ["startend:end_checker"],
            "kwargs": [{"end_phrase": "the end"}]
        }),
    ];
    let options = TaskOptions::default();
    let items = loaded(benchmark, &rows, &options).unwrap().items;
    let (records, summary) = run(benchmark, &items, &options, |item, _| {
        reply(if item.id == "1" { "one two three" } else { "so it was. the end\nHope this helps!" })
    });
    assert_eq!(value(&summary, "prompt_level_strict_acc,none"), 0.0);
    assert_eq!(value(&summary, "prompt_level_loose_acc,none"), 0.5);
    assert!((value(&summary, "inst_level_strict_acc,none") - 1.0 / 3.0).abs() < 1e-12);
    assert!((value(&summary, "inst_level_loose_acc,none") - 2.0 / 3.0).abs() < 1e-12);
    assert_eq!(records[0].score.details["strict"][0]["followed"], true);
    assert_eq!(summary.by_category["instructions"]["startend"][0].n, 1);
    let unknown =
        json!({"key": 3, "prompt": "x", "instruction_id_list": ["punctuation:no_coma"], "kwargs": [{}]});
    let error = loaded(benchmark, &[unknown], &options).unwrap_err();
    assert!(error.contains("own.jsonl:1") && error.contains("punctuation:no_comma"), "{error}");
}

#[test]
fn ifeval_counts_chinese_in_characters() {
    let benchmark = find("ifeval_zh").unwrap();
    let rows = [
        json!({"key": "1", "prompt": "少于五个字。", "instruction_id_list": ["length_constraints:number_words"],
        "kwargs": [{"relation": "less than", "num_words": 5}]}),
    ];
    let options = TaskOptions::default();
    let items = loaded(benchmark, &rows, &options).unwrap().items;
    let (_, short) = run(benchmark, &items, &options, |_, _| reply("你好吗"));
    let (_, long) = run(benchmark, &items, &options, |_, _| reply("今天天气很好啊"));
    let rate = |summary| value(summary, "prompt_level_strict_acc,none");
    assert_eq!((rate(&short), rate(&long)), (1.0, 0.0));
}

#[test]
fn settings_of_instructions_that_cannot_be_checked_are_refused_with_their_column() {
    let options = TaskOptions::default();
    let wrong = json!([{"num_words": 5, "relation": "below"}]);
    let row = json!({
        "key": 7, "prompt": "x", "instruction_id_list": ["length_constraints:number_words"], "kwargs": wrong
    });
    let error = loaded(find("ifeval").unwrap(), &[row], &options).unwrap_err();
    assert!(
        error.contains("own.jsonl:1: `kwargs` is") && error.contains("`relation` is \"below\""),
        "{error}"
    );
    let turn = |language: &str| {
        json!({"key": "k", "language": language, "turn_1_prompt": "x",
        "turn_1_instruction_id_list": ["length_constraints:number_words"], "turn_1_kwargs": wrong})
    };
    let multi_if = find("multi_if").unwrap();
    let error = loaded(multi_if, &[turn("English")], &options).unwrap_err();
    assert!(error.contains("own.jsonl:1: `turn_1_kwargs` is"), "{error}");
    // Without rules for a language its rows are unscored.
    assert!(loaded(multi_if, &[turn("Klingon")], &options).is_ok());
}

#[test]
fn multi_if_adds_turns_and_means_over_them() {
    let benchmark = find("multi_if").unwrap();
    let rows = [json!({"key": "k", "language": "English",
        "turn_1_prompt": "{\"role\": \"user\", \"content\": \"No commas.\"}",
        "turn_1_instruction_id_list": "[\"punctuation:no_comma\"]", "turn_1_kwargs": "[\"{}\"]",
        "turn_2_prompt": "{\"role\": \"user\", \"content\": \"And small letters.\"}",
        "turn_2_instruction_id_list": "[\"punctuation:no_comma\", \"change_case:english_lowercase\"]",
        "turn_2_kwargs": "[\"{}\", \"{}\"]",
        "turn_3_prompt": "None"})];
    let options = TaskOptions::default();
    let items = loaded(benchmark, &rows, &options).unwrap().items;
    let (_, summary) = run(benchmark, &items, &options, |_, request| {
        let Ask::Generate { prompt: Prompt::Chat(conversation), .. } = &request.ask else {
            panic!("no chat")
        };
        assert_eq!(conversation.messages.len(), if request.id == "turn1" { 1 } else { 3 });
        reply(if request.id == "turn1" {
            "Fine and good"
        } else {
            "No Small Letters In This Long Answer Here"
        })
    });
    assert_eq!((value(&summary, "turn_1,none"), value(&summary, "turn_2,none")), (1.0, 0.25));
    assert_eq!(
        (value(&summary, "average,none"), value(&summary, "prompt_level_strict_acc,none")),
        (0.625, 0.5)
    );
    assert!((value(&summary, "inst_level_strict_acc,none") - 2.0 / 3.0).abs() < 1e-12);
}

#[test]
fn an_answer_that_failed_is_unscored_and_a_thought_without_an_answer_is_wrong() {
    let benchmark = find("svamp").unwrap();
    let rows: Vec<Value> = (1..=3)
        .map(|i| {
            json!({
                "ID": i, "Body": "Ann has 3 pens", "Question": "How many?", "Answer": 3.0, "Type": "t"
            })
        })
        .collect();
    let options = TaskOptions::default();
    let items = loaded(benchmark, &rows, &options).unwrap().items;
    let (_, summary) = run(benchmark, &items, &options, |item, _| match item.id.as_str() {
        "1" => Answer::Failed(Unscored::new(UnscoredReason::Failed, "the server stopped")),
        "2" => Answer::Reply(ChatReply {
            text: String::new(),
            reasoning: Some("3?".into()),
            tool_calls: Vec::new(),
            tokens: Vec::new(),
            finish_reason: FinishReason::Length,
            n_prompt_tokens: 0,
            n_completion_tokens: 9,
        }),
        _ => reply("She has 3."),
    });
    let found = summary.metric("exact_match,verifier").unwrap();
    assert_eq!((found.value, found.n, found.unscored["failed"], summary.n_cut), (Some(0.5), 2, 1, 1));
    assert!(found.bounds.unwrap().low < 0.34 && found.bounds.unwrap().high > 0.66);
    let Ask::Generate { prompt, .. } = &benchmark.requests(&items[0], &Answers::default(), &options)[0].ask
    else {
        panic!("no generation")
    };
    assert_eq!(prompt.shown(), "Question: Ann has 3 pens. How many?\nAnswer:");
}

#[test]
fn programs_without_a_sandbox_are_unscored_and_with_one_have_pass_at_k() {
    let benchmark = find("humaneval").unwrap();
    let rows = [
        json!({"task_id": "Own/0", "prompt": "def double(x):\n    \"\"\"Twice x.\"\"\"\n", "entry_point": "double",
        "test": "def check(candidate):\n    assert candidate(2) == 4\n"}),
    ];
    let options = TaskOptions { n_samples: Some(5), ..TaskOptions::default() };
    let items = loaded(benchmark, &rows, &options).unwrap().items;
    let respond = |_: &truing_eval::benchmarks::Item, request: &truing_eval::benchmarks::Request| {
        let body = if request.id == "sample0" || request.id == "sample3" { "2 * x" } else { "x" };
        reply(format!("```python\ndef double(x):\n    return {body}\n```"))
    };
    let (records, summary) = run(benchmark, &items, &options, respond);
    assert_eq!(summary.metrics[0].unscored["no_sandbox"], 1);
    assert_eq!(
        summary.metrics.iter().map(|metric| metric.metric.key()).collect::<Vec<_>>(),
        ["pass@1,none", "pass@5,none"]
    );
    let Some(program) = std::env::var_os("TRUING_TEST_SANDBOX") else {
        println!("skipped: TRUING_TEST_SANDBOX names no program that starts the sandbox");
        return;
    };
    let scoring = Scoring { sandbox_program: Some(std::path::Path::new(&program)) };
    let scores = benchmark.score(&[(&items[0], &records[0].answers)], &options, &scoring);
    let scored = [Scored { item: &items[0], answers: &records[0].answers, score: &scores[0] }];
    let summary = summarise_benchmark(benchmark, &scored, &options);
    assert_eq!((value(&summary, "pass@1,none"), value(&summary, "pass@5,none")), (0.4, 1.0));
}

#[test]
fn function_calls_take_their_answers_from_a_second_file() {
    let benchmark = find("function_calls").unwrap();
    let function = json!([
        {
            "name": "area",
            "parameters": {"type": "dict", "properties": {"base": {"type": "integer"}}, "required": ["base"]}
        }
    ]);
    let question = |id: &str| {
        json!({
            "id": id, "question": [[{"role": "user", "content": "What is the area?"}]], "function": function
        })
    };
    let rows = [question("simple_0"), question("simple_1"), question("irrelevance_0")];
    let error = loaded(benchmark, &rows, &TaskOptions::default()).unwrap_err();
    assert!(error.contains("own.jsonl:1: `ground_truth` is missing"), "{error}");
    let references = ["simple_0", "simple_1"]
        .map(|id| row(1, &json!({"id": id, "ground_truth": [{"area": {"base": [10]}}]})));
    let options = TaskOptions { references: references.into(), ..TaskOptions::default() };
    let items = loaded(benchmark, &rows, &options).unwrap().items;
    let (records, summary) = run(benchmark, &items, &options, |item, _| {
        reply(match item.id.as_str() {
            "simple_0" => "[area(base=10)]",
            "simple_1" => "It is 10.",
            _ => "No function fits.",
        })
    });
    assert!((value(&summary, "acc,none") - 2.0 / 3.0).abs() < 1e-12);
    assert_eq!(summary.n_unread["calls"], 1);
    assert_eq!(records[1].score.details["problem"], "no calls could be read");
    assert_eq!(summary.by_category["kind"]["irrelevance"][0].value, Some(1.0));
}

#[test]
fn reward_models_choose_and_perplexities_are_over_words_and_bytes() {
    let benchmark = find("reward_model").unwrap();
    let rows = [
        json!({"id": 1, "prompt": "p", "chosen": "good", "rejected": "bad", "subset": "own"}),
        json!({"id": 2, "prompt": "p", "chosen": ["good"], "rejected": ["bad", "worse", "worst"], "subset": "own"}),
    ];
    let options = TaskOptions::default();
    let items = loaded(benchmark, &rows, &options).unwrap().items;
    let (_, summary) = run(benchmark, &items, &options, |item, _| {
        Answer::Rewards(if item.id.ends_with('1') { vec![1.0, 0.5] } else { vec![1.0, 0.5, 1.0, 0.0] })
    });
    assert_eq!(value(&summary, "acc,none"), 0.5, "a tie with a rejected one is no win");

    let benchmark = find("perplexity").unwrap();
    let items = loaded(benchmark, &[json!({"text": "a bc"}), json!({"text": "水"})], &options).unwrap().items;
    let (_, summary) = run(benchmark, &items, &options, |item, _| {
        let sum = if item.line == 1 { -6.0 } else { -3.0 };
        Answer::LogLikelihoods(vec![LogLikelihood { sum, n_tokens: 2, is_greedy: false }])
    });
    assert!((value(&summary, "word_perplexity,none") - 3.0_f64.exp()).abs() < 1e-9);
    assert!((value(&summary, "byte_perplexity,none") - (9.0_f64 / 7.0).exp()).abs() < 1e-9);
    assert!((value(&summary, "bits_per_byte,none") - 9.0 / 7.0 / 2.0_f64.ln()).abs() < 1e-9);
    assert!((value(&summary, "token_perplexity,none") - (9.0_f64 / 4.0).exp()).abs() < 1e-9);
}

#[test]
fn multiple_choice_is_read_out_of_a_written_answer() {
    let benchmark = find("arc_generate").unwrap();
    let row = |id: &str| {
        json!({
            "id": id, "question": "Sky?", "answerKey": "B",
            "choices": {"text": ["red", "blue"], "label": ["A", "B"]}
        })
    };
    let options = TaskOptions::default();
    let items = loaded(benchmark, &[row("1"), row("2"), row("3")], &options).unwrap().items;
    let Ask::Generate { prompt, .. } = &benchmark.requests(&items[0], &Answers::default(), &options)[0].ask
    else {
        panic!("no generation")
    };
    assert!(prompt.shown().starts_with("Sky?\nA. red\nB. blue\n\n"), "{}", prompt.shown());
    let (_, summary) = run(benchmark, &items, &options, |item, _| {
        reply(match item.id.as_str() {
            "1" => "It is blue. The answer is (B)",
            "2" => "The answer is (A)",
            _ => "The answer is B.",
        })
    });
    assert!((value(&summary, "exact_match,verifier") - 2.0 / 3.0).abs() < 1e-12);
}

#[test]
fn a_users_own_benchmark_needs_no_code() {
    let config = |scorer: Value| -> CustomConfig {
        serde_json::from_value(json!({
            "name": "capitals", "prompt": "Capital of {{ country }}?", "system": "One word.", "id_column": "n",
            "category_columns": ["continent"], "cluster_column": "continent", "scorer": scorer
        }))
        .unwrap()
    };
    let exact = json!({"kind": {"exact_match": {"column": "capital", "ignore_case": true}}});
    let short =
        json!({"name": "short", "weight": 0.5, "kind": {"length": {"unit": "characters", "at_most": 6}}});
    let ranges = |scorers: Value| -> Vec<Option<[f64; 2]>> {
        let benchmark = CustomBenchmark::new(config(scorers)).unwrap();
        benchmark.metrics(&TaskOptions::default()).iter().map(|metric| metric.range).collect()
    };
    assert_eq!(ranges(json!([exact, short])), [None, Some([0.0, 1.0]), None], "lengths have no range");
    let penalty = json!({"name": "list", "weight": -0.5, "kind": {"format": {"pattern": "- "}}});
    assert_eq!(ranges(json!([exact])), [Some([0.0, 1.0])]);
    assert_eq!(ranges(json!([exact, penalty])), [Some([-0.5, 1.0]), Some([0.0, 1.0]), Some([0.0, 1.0])]);
    let benchmark = CustomBenchmark::new(config(json!([exact, short]))).unwrap();
    let rows = [
        json!({"n": "fr", "country": "France", "capital": "Paris", "continent": "Europe"}),
        json!({"n": "jp", "country": "Japan", "capital": "Tokyo", "continent": "Asia"}),
    ];
    let options = TaskOptions::default();
    let items = loaded(&benchmark, &rows, &options).unwrap().items;
    assert_eq!(items[0].prompt.shown(), "[system]\nOne word.\n\n[user]\nCapital of France?");
    let (_, summary) = run(&benchmark, &items, &options, |item, _| {
        reply(if item.id == "fr" { "paris" } else { "It is Kyoto" })
    });
    assert_eq!((value(&summary, "exact_match,none"), value(&summary, "short,none")), (0.5, 0.5));
    assert_eq!(value(&summary, "score,none"), 0.75);
    assert_eq!(summary.by_category["continent"]["Asia"][0].value, Some(0.0));

    let error =
        loaded(&benchmark, &[json!({"n": "x", "capital": "y", "continent": "z"})], &options).unwrap_err();
    assert!(error.contains("own.jsonl:1") && error.contains("columns that it names"), "{error}");
    let wrong = config(json!([{"kind": {"length": {"at_least": 5, "at_most": 2}}}]));
    assert!(CustomBenchmark::new(wrong).unwrap_err().to_string().contains("`scorer` is"));
    let broken = CustomConfig { prompt: "{{ x".into(), ..config(json!([exact])) };
    assert!(CustomBenchmark::new(broken).unwrap_err().to_string().contains("a Jinja template"));
}
