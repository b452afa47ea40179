//! Training data and the status of what people said.

use serde_json::{Value, json};
use truing_annotate::{Entry, EntryKind, JOURNAL, Status, StoredProject, write_outputs};
use truing_data::{OnBadRow, SourceConfig, read_preferences, read_rows};

use crate::setup::{TestClock, Workshop, rows_of, submission};

const QUESTIONS: &str = r#"
[[question]]
name = "preference"
annotation_type = "ranking"

[[question]]
name = "ratings"
annotation_type = "scale"
labels = ["helpfulness", "safety"]

[[question]]
name = "errors"
annotation_type = "spans"

[[question]]
name = "correction"
annotation_type = "edit"
required = false

[[question]]
name = "ability"
annotation_type = "label"
labels = ["math", "writing"]
"#;

fn items() -> Vec<Value> {
    let scored = |text: &str, score: f64| json!({"content": text, "score": score, "model": "m"});
    let row = |id: &str, responses: Value| {
        json!({
            "id": id,
            "prompt": [{"role": "user", "content": format!("Say {id}.")}],
            "responses": responses,
            "labels": {"ability": "writing", "language": "en"},
            "review": {"ability": "confidence 0.40 is below 0.6"},
        })
    };
    vec![
        row("x", json!([scored("x", 3.0), scored("why?", 1.0), scored("z", 2.0)])),
        row("y", json!([scored("y", 0.5), scored("y", 0.5)])),
    ]
}

fn answers(ranks: &[u32], helpfulness: &[i64], more: Value) -> Value {
    let safety = vec![5; ranks.len()];
    let mut answers = json!({
        "preference": {"ranks": ranks},
        "ratings": {"ratings": {"helpfulness": helpfulness, "safety": safety}},
        "errors": {"spans": []},
        "ability": {"labels": ["math"]},
    });
    answers.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    answers
}

/// Two annotators who agree well enough on the first item; on the second they rank equal texts differently.
fn annotated() -> Workshop {
    let workshop = Workshop::new(QUESTIONS, &items());
    let server = workshop.start();
    let edit = json!({"correction": {"response": 0, "text": "x, or so"}});
    let span = json!({"response": 1, "start": 0, "end": 3, "label": "factual", "text": "why"});
    let marked = json!({"errors": {"spans": [span]}});
    let longer = json!({"response": 1, "start": 0, "end": 4, "label": "factual", "text": "why?"});
    let marked_longer = json!({"errors": {"spans": [longer]}});
    let both = json!({"correction": edit["correction"], "errors": marked["errors"]});
    // `y` comes first: its judges do not tell the responses apart.
    server.answer("ana", "y", answers(&[1, 2], &[4, 4], json!({})));
    server.answer("ben", "y", answers(&[1, 2], &[4, 4], json!({"ability": {"labels": ["writing"]}})));
    server.answer("ana", "x", answers(&[1, 3, 2], &[5, 1, 3], both));
    server.answer("ben", "x", answers(&[1, 3, 2], &[4, 2, 3], marked_longer));
    drop(server);
    workshop
}

#[test]
fn complete_items_become_rows_that_training_reads() {
    let workshop = annotated();
    let read = |name: &str| {
        let source = SourceConfig::new(workshop.path("project").join(name));
        read_preferences(&source, OnBadRow::Error).unwrap().map(|row| row.unwrap().0).collect::<Vec<_>>()
    };
    let ranked = read("ranked.jsonl");
    assert_eq!(ranked.len(), 1, "the item with a dispute about its label waits for the adjudicator");
    let said: Vec<(&str, Option<f64>)> = ranked[0]
        .responses
        .iter()
        .map(|response| (response.messages[0].content.as_str(), response.score))
        .collect();
    // Means over annotators and aspects: (4.5 + 5) / 2, (3 + 5) / 2, (1.5 + 5) / 2.
    assert_eq!(said, [("x", Some(4.75)), ("z", Some(4.0)), ("why?", Some(3.25))]);
    assert_eq!(ranked[0].ranks, [0, 1, 2]);
    assert_eq!(ranked[0].responses[0].aspects["helpfulness"], 4.5);
    assert_eq!(ranked[0].prompt.messages[0].content, "Say x.");

    let pairs: Vec<(String, String)> = read("preferences.jsonl")
        .iter()
        .map(|row| [0, 1].map(|idx: usize| row.responses[idx].messages[0].content.clone()).into())
        .collect();
    let pair = |chosen: &str, rejected: &str| (chosen.to_owned(), rejected.to_owned());
    assert_eq!(pairs, [pair("x", "why?"), pair("x", "z"), pair("z", "why?"), pair("x, or so", "x")]);
    let first = &workshop.rows("preferences.jsonl")[0];
    assert_eq!((&first["chosen_score"], &first["rejected_score"]), (&json!(4.75), &json!(3.25)));
    assert_eq!(
        (&first["chosen_model"], &first["source"], &first["id"]),
        (&json!("m"), &json!("ranking"), &json!("x"))
    );

    assert_eq!((&first["annotators"], &first["origin"]["line"]), (&json!(["ana", "ben"]), &json!(1)));
    let edit = &workshop.rows("sft.jsonl")[0];
    assert_eq!((&edit["annotators"], &edit["origin"]["line"]), (&json!(["ana"]), &json!(1)));

    let source = SourceConfig::new(workshop.path("project/sft.jsonl"));
    assert_eq!(read_rows(&source, OnBadRow::Error).unwrap().map(Result::unwrap).count(), 1);
    let expected =
        json!([{"role": "user", "content": "Say x."}, {"role": "assistant", "content": "x, or so"}]);
    assert_eq!(workshop.rows("sft.jsonl")[0]["messages"], expected);

    let labels = workshop.rows("labels.jsonl");
    assert_eq!(labels.len(), 1);
    assert_eq!(labels[0]["labels"], json!({"ability": "math"}), "only what people said is a correction");
    assert!(labels[0].get("review").is_none() && labels[0]["prompt"][0]["content"] == "Say x.");
}

#[test]
fn a_decision_completes_an_item_and_an_order_of_equal_texts_is_not_learnt() {
    let workshop = annotated();
    let server = workshop.start();
    server.answer("eve", "y", answers(&[2, 1], &[4, 5], json!({})));
    drop(server);
    let stored = StoredProject::read(&workshop.path("project")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let counts =
        write_outputs(folder.path(), &stored.items, &stored.records.by_item, &stored.config).unwrap();
    assert_eq!((counts.n_items, counts.n_ranked, counts.n_unusable, counts.n_labels), (2, 1, 1, 2));
    assert_eq!((counts.n_pairs, counts.n_sft, counts.n_tied_labels), (4, 1, 0));
    // The same files as the server wrote when it stopped.
    for name in truing_annotate::OUTPUTS {
        assert_eq!(rows_of(&folder.path().join(name)), workshop.rows(name), "{name}");
    }
}

const TWO_OF_A_KIND: &str = r#"
overlap = 1

[[question]]
name = "helpful"
annotation_type = "ranking"

[[question]]
name = "safe"
annotation_type = "pairwise"

[[question]]
name = "content"
annotation_type = "scale"
labels = ["quality", "depth"]

[[question]]
name = "style"
annotation_type = "scale"
labels = ["quality"]
max = 3
"#;

#[test]
fn every_question_has_rows_and_scores_do_not_contradict_ranks() {
    let item = json!({"id": "x", "prompt": "Say x.", "responses": ["x", "y"]});
    let workshop = Workshop::new(TWO_OF_A_KIND, &[item]);
    let server = workshop.start();
    let answers = json!({
        "helpful": {"ranks": [1, 2]},
        "safe": {"ranks": [2, 1]},
        "content": {"ratings": {"quality": [5, 2], "depth": [3, 2]}},
        "style": {"ratings": {"quality": [1, 3]}},
    });
    server.answer("ana", "x", answers);
    drop(server);
    let pairs = workshop.rows("preferences.jsonl");
    let said: Vec<(&Value, &Value)> =
        pairs.iter().map(|row| (&row["question"], &row["chosen"][0]["content"])).collect();
    assert_eq!(said, [(&json!("helpful"), &json!("x")), (&json!("safe"), &json!("y"))]);
    assert_eq!((&pairs[0]["chosen_score"], &pairs[0]["rejected_score"]), (&json!(4.0), &json!(2.0)));
    assert!(pairs[1].get("chosen_score").is_none(), "the ratings say otherwise: {}", pairs[1]);
    let groups = workshop.rows("ranked.jsonl");
    assert_eq!(groups.len(), 2);
    let scores = json!({"content.quality": 5.0, "depth": 3.0, "style.quality": 1.0});
    assert_eq!(groups[0]["responses"][0]["scores"], scores);
    let stored = StoredProject::read(&workshop.path("project")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let counts =
        write_outputs(folder.path(), &stored.items, &stored.records.by_item, &stored.config).unwrap();
    assert_eq!((counts.n_items, counts.n_pairs, counts.n_contradicting), (1, 2, 1));
}

#[test]
fn a_decision_without_an_edit_keeps_those_of_the_annotators() {
    let item = json!({"id": "x", "prompt": "Say x.", "responses": ["x", "y"]});
    let questions = "[[question]]\nname = \"q\"\nannotation_type = \"ranking\"\n\n\
                     [[question]]\nname = \"fix\"\nannotation_type = \"edit\"\nrequired = false\n";
    let workshop = Workshop::new(questions, &[item]);
    let server = workshop.start();
    let edited =
        |ranks: [u32; 2], text: &str| json!({"q": {"ranks": ranks}, "fix": {"response": 0, "text": text}});
    server.answer("ana", "x", edited([1, 2], "x!"));
    server.answer("ben", "x", edited([2, 1], "x?"));
    server.answer("eve", "x", json!({"q": {"ranks": [1, 2]}}));
    drop(server);
    let texts = |workshop: &Workshop| -> Vec<Value> {
        let rows = workshop.rows("sft.jsonl");
        rows.iter().map(|row| row["messages"][1]["content"].clone()).collect()
    };
    assert_eq!(texts(&workshop), ["x!", "x?"]);
    let server = workshop.start();
    let item = server.post("/api/item", "eve", &json!({"item": "x"})).json()["item"].clone();
    server.submit("eve", &submission(&item, "chosen", edited([1, 2], "x.")));
    drop(server);
    assert_eq!(texts(&workshop), ["x."]);
}

#[test]
fn equal_orders_agree_whatever_their_numbers_and_what_is_undefined_says_why() {
    let item = |id: &str, texts: Value| json!({"id": id, "prompt": "x", "responses": texts});
    let rows = [item("1", json!(["a", "b", "c"])), item("2", json!(["d", "e", "f"]))];
    let workshop = Workshop::new("[[question]]\nname = \"q\"\nannotation_type = \"ranking\"\n", &rows);
    let server = workshop.start();
    let alpha = |status: &Value| status["agreement"][0].clone();
    let before = alpha(&server.get("/api/status", "owner").json());
    assert_eq!(before["undefined"], "no item has two answers to compare");
    for (name, last) in [("ana", 2), ("ben", 3)] {
        server.answer(name, "1", json!({"q": {"ranks": [1, 1, last]}}));
        server.answer(name, "2", json!({"q": {"ranks": [last, 1, 1]}}));
    }
    let after = alpha(&server.get("/api/status", "owner").json());
    assert_eq!((&after["estimate"]["value"], &after["undefined"]), (&json!(1.0), &Value::Null));
}

#[test]
fn rankings_that_tie_everything_have_no_concordance_and_say_so() {
    let item = json!({"id": "1", "prompt": "x", "responses": ["a", "b"]});
    let workshop = Workshop::new("[[question]]\nname = \"q\"\nannotation_type = \"ranking\"\n", &[item]);
    let server = workshop.start();
    let concordance = || server.get("/api/status", "owner").json()["agreement"][1].clone();
    assert_eq!(concordance()["undefined"], "no item has two answers to compare");
    for name in ["ana", "ben"] {
        server.answer(name, "1", json!({"q": {"ranks": [1, 1]}}));
    }
    let found = concordance();
    assert!(found["statistic"].as_str().unwrap().starts_with("Kendall's W"), "{found}");
    assert_eq!(
        (&found["estimate"], &found["undefined"]),
        (&Value::Null, &json!("every ranking ties all responses"))
    );
}

/// Equal sums of ratings are a tie, and ranks made of ratings count from 1.
#[test]
fn ratings_are_ranked_from_1_and_equal_sums_make_no_pair() {
    let item = json!({"id": "1", "prompt": "x", "responses": ["a", "b", "c"]});
    let question =
        "[[question]]\nname = \"q\"\nannotation_type = \"scale\"\nlabels = [\"x\", \"y\", \"z\"]\n";
    let adjudication = "overlap = 3\nadjudication = { max_scale_difference = 5 }\n";
    let workshop = Workshop::new(&format!("{adjudication}{question}"), &[item]);
    let recipe = std::fs::read_to_string(workshop.path("recipe.toml")).unwrap();
    let recipe =
        recipe.replace("annotator = [", "annotator = [{ name = \"cid\", token = \"the-token-of-cid\" }, ");
    std::fs::write(workshop.path("recipe.toml"), recipe).unwrap();
    let server = workshop.start();
    let rate = |y: [i64; 3], z: [i64; 3]| json!({"q": {"ratings": {"x": [1, 1, 1], "y": y, "z": z}}});
    // Sums by aspect: (3, 4, 7) of `a`, (3, 7, 4) of `b`, (3, 3, 3) of `c`.
    for (name, y, z) in
        [("ana", [1, 2, 1], [2, 1, 1]), ("ben", [1, 2, 1], [2, 1, 1]), ("cid", [2, 3, 1], [3, 2, 1])]
    {
        server.answer(name, "1", rate(y, z));
    }
    drop(server);
    let group = &workshop.rows("ranked.jsonl")[0];
    assert_eq!(
        [0, 1, 2].map(|idx: usize| group["responses"][idx]["rank"].clone()),
        [1.5, 1.5, 3.0].map(Value::from)
    );
    let pairs = workshop.rows("preferences.jsonl");
    let said: Vec<(&Value, &Value)> =
        pairs.iter().map(|row| (&row["chosen"][0]["content"], &row["rejected"][0]["content"])).collect();
    assert_eq!(said, [(&json!("a"), &json!("c")), (&json!("b"), &json!("c"))]);
}

/// 1,500 items with two answers each, of which every fifth pair differs.
#[test]
fn the_interval_of_many_items_is_made_from_a_sample_of_them() {
    let row = |id: usize| json!({"id": id, "prompt": format!("Say {id}."), "labels": {"q": "x"}});
    let rows: Vec<Value> = (0..1_500).map(row).collect();
    let question = "[[question]]\nname = \"q\"\nannotation_type = \"label\"\nlabels = [\"x\", \"y\"]\n";
    let workshop = Workshop::new(question, &rows);
    let (project, _) = workshop.open(TestClock::begin().0).unwrap();
    let mut lines = String::new();
    for (idx, item) in project.items().all.iter().enumerate() {
        for (person, name) in ["ana", "ben"].into_iter().enumerate() {
            let flips = usize::from(person == 1 && idx.is_multiple_of(5));
            let label = if (idx + flips).is_multiple_of(2) { "x" } else { "y" };
            let entry = Entry {
                submission: format!("{name}-{idx}"),
                annotator: name.into(),
                item: item.id.clone(),
                item_digest: item.digest,
                version: 1,
                kind: EntryKind::Answer,
                answers: [("q".to_owned(), json!({"labels": [label]}))].into(),
                order: Vec::new(),
                started_ms: 0,
                finished_ms: 1_000,
                stored_unix_secs: 0.0,
            };
            lines += &(serde_json::to_string(&entry).unwrap() + "\n");
        }
    }
    drop(project);
    std::fs::write(workshop.path("project").join(JOURNAL), lines).unwrap();
    let stored = StoredProject::read(&workshop.path("project")).unwrap();
    let status = Status::of(&stored.items, &stored.records.by_item, &stored.config);
    let alpha = &status.agreement[0];
    let estimate = alpha.estimate.unwrap();
    assert_eq!((estimate.n_units, alpha.n_resampled), (1_500, 1_000));
    // 300 of 1,500 pairs differ, and both labels are as frequent: 1 - 0.2 / 0.5, but for the size of the sample.
    assert!((estimate.value - 0.6).abs() < 1e-3, "{}", estimate.value);
    // The deviation of alpha is that of a share of 0.2 of 1,500, times two: 0.0207.
    let width = estimate.interval.high - estimate.interval.low;
    assert!((width - 2.0 * 1.96 * 0.0207).abs() < 0.02, "{width}");
}

#[test]
fn the_status_measures_agreement_competence_and_judges() {
    let workshop = annotated();
    let stored = StoredProject::read(&workshop.path("project")).unwrap();
    let status = Status::of(&stored.items, &stored.records.by_item, &stored.config);
    assert_eq!(
        (status.progress.n_complete, status.progress.n_disputed, status.progress.n_answers),
        (1, 1, 4),
        "complete is what has rows: the item in dispute has none"
    );
    let value = |question: &str, statistic: &str| {
        let mut found = status.agreement.iter().filter(|one| one.question == question);
        let found = found.find(|one| one.statistic.starts_with(statistic)).unwrap();
        found.estimate.map(|estimate| estimate.value)
    };
    let check = |question: &str, statistic: &str, expected: f64| {
        let found = value(question, statistic).unwrap();
        assert!((found - expected).abs() < 1e-12, "{question}: {found}");
    };
    check("preference", "Krippendorff's alpha, ordinal", 1.0);
    check("preference", "Kendall's W", 1.0);
    // `x`: 3 of the 3 and 4 marked characters are the same, an F1 of 6/7; `y`: nothing is marked, which is 1.
    check("errors", "F1", (6.0 / 7.0 + 1.0) / 2.0);
    // Of four labels three are math: the observed disagreement (2 of 4) is the expected one (2 * 3 * 1 of 4 * 3).
    check("ability", "Krippendorff's alpha, nominal", 0.0);
    let judge = |question: &str| status.judges.iter().find(|one| one.question == question).unwrap();
    // The judges order the three responses of `x` as people do; those of `y` they tie, and people do not.
    let of_ranking = judge("preference").agreement.unwrap();
    assert_eq!((of_ranking.n, of_ranking.share), (4, 0.75));
    let of_labels = judge("ability").agreement.unwrap();
    assert_eq!((of_labels.n, of_labels.share), (1, 0.0));
    assert!(judge("ratings").rank_correlation.is_some());
    let names: Vec<&str> = status.annotators.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["ana", "ben"]);
    assert!(status.annotators.iter().all(|one| one.competence.is_some_and(|share| share > 0.6)));
}
