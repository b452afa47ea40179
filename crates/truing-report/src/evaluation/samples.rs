//! The items that a page shows in full: what was asked, what came back, the scores and why. They are data of the page's
//! script, which only ever sets them as text.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use truing_eval::benchmarks::{
    Answer, Answers, Ask, Item, ItemScore, LogLikelihood, MetricInfo, Prompt, TaskOptions, find,
};
use truing_eval::results::ItemRecord;
use truing_types::FinishReason;

/// Characters of a text that are shown.
const N_CHARACTERS: usize = 4000;
/// Prefix of the names of judge requests.
const JUDGE: &str = "judge/";
/// Prefix of the names of repeated judge requests.
const REPEAT: &str = "repeat/";

/// Places of `n_shown` of `n` items, evenly spaced.
pub(crate) fn evenly_spaced(n: usize, n_shown: usize) -> Vec<usize> {
    if n <= n_shown { (0..n).collect() } else { (0..n_shown).map(|i| i * n / n_shown).collect() }
}

/// Which items are shown, in a sentence.
pub(crate) fn rule(n_shown: usize, n: usize, file: &str) -> String {
    let (shown, all) = (super::text::grouped(n_shown), super::text::grouped(n));
    if n_shown == n {
        format!("All {all} items.")
    } else {
        format!("{shown} of {all} items, evenly spaced; all are in {file}.")
    }
}

/// A task as the script knows it.
pub(crate) fn task_json(name: &str, metrics: &[&MetricInfo], rule: &str) -> Value {
    let metrics: Vec<Value> = metrics
        .iter()
        .map(|metric| {
            json!({
                "key": metric.key(), "name": super::text::metric_name(metric), "range": metric.range,
                "higher": metric.higher_is_better,
            })
        })
        .collect();
    json!({ "name": name, "metrics": metrics, "rule": rule })
}

/// The records of each item, one for each seed, in the order of the file.
pub(crate) fn by_item(records: &[ItemRecord]) -> Vec<Vec<&ItemRecord>> {
    let mut items: Vec<Vec<&ItemRecord>> = Vec::new();
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for record in records {
        let place = *places.entry(&record.item.id).or_insert(items.len());
        match items.get_mut(place) {
            Some(item) => item.push(record),
            None => items.push(vec![record]),
        }
    }
    items
}

/// An item with what each of the runs made of it, each with one record a seed.
pub(crate) fn sample(task: usize, metrics: &[&MetricInfo], runs: &[&Vec<&ItemRecord>], name: &str) -> Value {
    let item = &runs[0][0].item;
    let categories: Vec<String> =
        item.categories.iter().map(|(dimension, category)| format!("{dimension}: {category}")).collect();
    let (prompt, n_shots) = match &item.prompt {
        Prompt::Completion(prompt) => {
            (format!("{}{}", prompt.description, prompt.question), prompt.shots.len())
        }
        prompt @ Prompt::Chat(_) => (prompt.shown(), 0),
    };
    let runs: Vec<Value> = runs.iter().map(|records| run(metrics, records, name)).collect();
    json!({
        "task": task, "id": item.id, "at": format!("{}:{}", item.source, item.line), "categories": categories,
        "prompt": beginning(&prompt), "n_shots": n_shots, "target": beginning(&item.target), "runs": runs,
    })
}

/// Answers, scores (means over the seeds) and reasons of one run.
fn run(metrics: &[&MetricInfo], records: &[&ItemRecord], name: &str) -> Value {
    let (mut of_model, mut of_judge, mut why) = (Vec::new(), Vec::new(), Vec::new());
    for ItemRecord { item, seed, answers, score } in records {
        let of_seed = if records.len() > 1 { format!(", seed {}", seed + 1) } else { String::new() };
        for (id, answer) in &answers.0 {
            let text = beginning(&answer_text(id, answer, item, answers, name));
            let is_of_judge = id.starts_with(JUDGE) || id.starts_with(REPEAT);
            let shown = json!({ "name": format!("{}{of_seed}", id.trim_start_matches(JUDGE)), "text": text });
            if is_of_judge { of_judge.push(shown) } else { of_model.push(shown) }
        }
        let reasons = reasons(metrics, score);
        if !of_seed.is_empty() && !reasons.is_empty() {
            why.push(format!("seed {}:", seed + 1));
        }
        why.extend(reasons);
    }
    let value = |metric: &&MetricInfo| {
        let found =
            records.iter().filter_map(|record| record.score.measures.get(&metric.key())?.as_ref().ok());
        let (value, weight) =
            found.fold((0.0, 0.0), |(value, weight), one| (value + one.value, weight + one.weight));
        if weight == 0.0 { Value::Null } else { Value::from(value / weight) }
    };
    json!({
        "answers": of_model, "judge": of_judge, "values": metrics.iter().map(value).collect::<Vec<_>>(), "why": why,
    })
}

/// What was read out of the answer, why a metric has no value, and what the scorer found.
fn reasons(metrics: &[&MetricInfo], score: &ItemScore) -> Vec<String> {
    let read = score.extracted.iter().map(|(filter, extracted)| {
        let way = if filter == "none" { String::new() } else { format!(" by {filter}") };
        match extracted {
            Some(text) => format!("read{way}: {}", beginning(text)),
            None => format!("no answer could be read{way}"),
        }
    });
    let mut missing: Vec<String> = Vec::new();
    for metric in metrics {
        if let Some(Err(unscored)) = score.measures.get(&metric.key()) {
            let text = format!("no score: {unscored}");
            if !missing.contains(&text) {
                missing.push(text);
            }
        }
    }
    let details = score.details.iter().map(|(name, value)| match value {
        Value::String(text) => format!("{name}: {}", beginning(text)),
        Value::Array(list) if !list.is_empty() => {
            let lines: Vec<String> = list.iter().map(|one| format!("  {}", detail(one))).collect();
            format!("{name}:\n{}", beginning(&lines.join("\n")))
        }
        value => format!("{name}: {}", beginning(&detail(value))),
    });
    read.chain(missing).chain(details).collect()
}

/// One finding on one line: the fields of an object with their names.
fn detail(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let fields: Vec<String> =
                fields.iter().map(|(name, value)| format!("{name} {}", detail(value))).collect();
            fields.join(", ")
        }
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        value => value.to_string(),
    }
}

fn answer_text(id: &str, answer: &Answer, item: &Item, answers: &Answers, name: &str) -> String {
    match answer {
        Answer::Reply(reply) => {
            let mut text = String::new();
            if let Some(reasoning) = &reply.reasoning {
                text = format!("[reasoning] {reasoning}\n[answer] ");
            }
            text.push_str(&reply.text);
            for call in &reply.tool_calls {
                text.push_str(&format!("\n[call] {}", serde_json::to_string(call).unwrap_or_default()));
            }
            if reply.finish_reason == FinishReason::Length {
                text.push_str("\n[cut at the token limit]");
            }
            text
        }
        Answer::LogLikelihoods(found) => likelihoods(found, &options_of(id, item, answers, name)),
        Answer::Rewards(found) => {
            let lines: Vec<String> = found
                .iter()
                .enumerate()
                .map(|(i, reward)| format!("response {}: {reward:.4}", i + 1))
                .collect();
            lines.join("\n")
        }
        Answer::Failed(unscored) => format!("[failed] {unscored}"),
    }
}

fn likelihoods(found: &[LogLikelihood], options: &[String]) -> String {
    let line = |(i, one): (usize, &LogLikelihood)| {
        let option =
            options.get(i).map_or_else(|| format!("option {}", i + 1), |text| text.trim().to_owned());
        let greedy = if one.is_greedy { ", most likely continuation" } else { "" };
        format!("{:9.3}  {option}  ({} tokens{greedy})", one.sum, one.n_tokens)
    };
    found.iter().enumerate().map(line).collect::<Vec<_>>().join("\n")
}

/// The continuations whose likelihoods an answer holds, where the benchmark is one of those with a name.
fn options_of(id: &str, item: &Item, answers: &Answers, name: &str) -> Vec<String> {
    let Ok(benchmark) = find(name) else { return Vec::new() };
    let requests = benchmark.requests(item, answers, &TaskOptions::default());
    let of_id = requests.into_iter().find(|request| request.id == id);
    match of_id.map(|request| request.ask) {
        Some(Ask::LogLikelihood { options, .. }) => options,
        _ => Vec::new(),
    }
}

/// The first characters of a text, and how many more there are.
fn beginning(text: &str) -> String {
    match text.char_indices().nth(N_CHARACTERS) {
        None => text.to_owned(),
        Some((end, _)) => {
            let n_more = text[end..].chars().count();
            format!("{}… [{} more characters]", &text[..end], super::text::grouped(n_more))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_say_what_is_missing_and_items_are_spaced_evenly() {
        let text = "ä".repeat(N_CHARACTERS + 1234);
        assert!(beginning(&text).ends_with("ä… [1,234 more characters]"));
        assert_eq!(beginning("short"), "short");
        assert_eq!(evenly_spaced(10, 4), [0, 2, 5, 7]);
        assert_eq!(evenly_spaced(3, 4), [0, 1, 2]);
        assert!(rule(4, 10, "items_x.jsonl").contains("4 of 10"));
    }

    #[test]
    fn findings_are_lines() {
        assert_eq!(detail(&json!({"followed": true, "instruction": "a:b"})), "followed yes, instruction a:b");
        let found = [LogLikelihood { sum: -1.5, n_tokens: 2, is_greedy: true }];
        assert_eq!(likelihoods(&found, &[]), "   -1.500  option 1  (2 tokens, most likely continuation)");
    }
}
