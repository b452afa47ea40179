//! Items that training data holds.

use serde_json::{Value, json};
use truing_data::ObjectRow;
use truing_eval::benchmarks::{ScoringMode, TaskOptions, find};
use truing_eval::contamination::{ContaminationOptions, contamination};
use truing_eval::results::TaskRecord;
use truing_prompts::PromptsError;

use super::{loaded, reply, row, run};

#[test]
fn held_items_are_named_with_their_rows_and_scores_are_made_without_them() {
    let benchmark = find("svamp").unwrap();
    let thing = |i: usize| ["apples", "pears", "plums", "figs", "dates", "limes"][i % 6];
    let body = |i: usize| {
        format!(
            "A farmer named Number{i} collected {} {} in the morning and gave away some of them later",
            i + 3,
            thing(i)
        )
    };
    let rows: Vec<Value> = (0..30)
        .map(|i| json!({
            "ID": i, "Body": format!("{}.", body(i)), "Question": "How many are left?", "Answer": 3, "Type": "t"
        }))
        .collect();
    let options = TaskOptions::default();
    let items = loaded(benchmark, &rows, &options).unwrap();
    // The model knows the first five alone.
    let (records, summary) = run(benchmark, &items.items, &options, |item, _| {
        reply(if item.id.parse::<usize>().unwrap() < 5 { "It is 3." } else { "It is 4." })
    });
    let record = TaskRecord {
        task: "svamp".into(),
        version: 1,
        file: items.file,
        n_items_in_file: 30,
        n_shots: 0,
        mean_shots: None,
        output_type: "generate_until".into(),
        mode: ScoringMode::Strict,
        differences: Vec::new(),
        settings: serde_json::Map::new(),
        summary,
    };
    let training = [
        json!({
            "messages": [
                {"role": "user", "content": format!("Solve: {}!", body(0).to_uppercase())},
                {"role": "assistant", "content": "3"}
            ]
        }),
        json!({"prompt": "Something else that nobody evaluates on, with quite a lot of words in it for good measure."}),
        json!({"text": format!("{} {}", body(0), body(1))}),
    ];
    let training =
        training.iter().zip(1..).map(|(object, line)| Ok::<ObjectRow, PromptsError>(row(line, object)));
    let tasks = [(record, records)];
    let found = contamination(&tasks, training, &ContaminationOptions::default()).unwrap();
    let [task] = &found[..] else { panic!("{found:?}") };
    let held: Vec<(&str, usize, &[String])> =
        task.held.iter().map(|item| (item.id.as_str(), item.n_rows, &item.rows[..])).collect();
    assert_eq!(
        held,
        [
            ("0", 2, &["own.jsonl:1".to_owned(), "own.jsonl:3".to_owned()][..]),
            ("1", 1, &["own.jsonl:3".to_owned()][..])
        ]
    );
    assert!(
        task.held[0].words.starts_with("a farmer named number0 collected 3 apples"),
        "{}",
        task.held[0].words
    );
    let effect = &task.metrics[0];
    let value =
        |summary: &Option<truing_eval::benchmarks::MetricSummary>| summary.as_ref().unwrap().value.unwrap();
    assert_eq!(effect.all.value, Some(5.0 / 30.0));
    assert!((value(&effect.without) - 3.0 / 28.0).abs() < 1e-12 && value(&effect.held) == 1.0);
    assert!(effect.without.as_ref().unwrap().interval.unwrap().low < 3.0 / 28.0);
    // A short question is found whole, whatever the benchmark writes around it.
    let benchmark = find("arc").unwrap();
    let question = json!({"id": "r", "question": "The longest river in South America is the", "answerKey": "B",
        "choices": {"text": ["Nile", "Amazon"], "label": ["A", "B"]}});
    let items = loaded(benchmark, &[question], &options).unwrap();
    let likely = |sum| truing_eval::benchmarks::LogLikelihood { sum, n_tokens: 1, is_greedy: false };
    let (records, summary) = run(benchmark, &items.items, &options, |_, _| {
        truing_eval::benchmarks::Answer::LogLikelihoods(vec![likely(-2.0), likely(-1.0)])
    });
    let record = TaskRecord {
        task: "arc".into(),
        file: items.file,
        n_items_in_file: 1,
        summary,
        ..tasks[0].0.clone()
    };
    let row = row(7, &json!({"context": "The longest river in South America is the", "options": ["Amazon"]}));
    let found =
        contamination(&[(record, records)], [Ok::<_, PromptsError>(row)], &ContaminationOptions::default());
    let held = &found.unwrap()[0].held;
    assert_eq!((held.len(), held[0].rows[0].as_str()), (1, "own.jsonl:7"));
    // Nothing is held of other data; wording that all items share is no item.
    let other =
        [Ok::<ObjectRow, PromptsError>(super::row(1, &json!({"text": "How many are left? Nothing else."})))];
    let found = contamination(&tasks, other, &ContaminationOptions::default()).unwrap();
    assert!(found[0].held.is_empty() && found[0].metrics[0].held.is_none());
    assert_eq!(found[0].metrics[0].without, Some(found[0].metrics[0].all.clone()));
}
