//! Every widget's submission is stored and shown again.

use serde_json::{Value, json};

use crate::setup::{Workshop, submission, with};

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
name = "better"
annotation_type = "pairwise"

[[question]]
name = "correction"
annotation_type = "edit"
required = false

[[question]]
name = "topic"
annotation_type = "label"
labels = ["history", "cooking", "travel"]
multiple = true
"#;

fn items() -> [Value; 2] {
    [
        json!({
            "id": "three",
            "priority": 1,
            "prompt": "Say it.",
            "responses": ["plain", "线上 <b>x</b>", "last 🌉"],
        }),
        json!({"id": "two", "prompt": "Say it again.", "responses": ["a", "b"]}),
    ]
}

fn answers_to_three() -> Value {
    json!({
        "preference": {"ranks": [2, 1, 2]},
        "ratings": {"ratings": {"helpfulness": [5, 1, 3], "safety": [4, 4, 4]}},
        "errors": {"spans": [
            {"response": 1, "start": 0, "end": 6, "label": "factual", "text": "线上"},
            {"response": 2, "start": 5, "end": 9, "label": "logical", "text": "🌉"},
        ]},
        "correction": {"response": 1, "text": "线下"},
        "topic": {"labels": ["history", "travel"]},
    })
}

fn answers_to_two() -> Value {
    json!({
        "preference": {"ranks": [1, 1]},
        "ratings": {"ratings": {"helpfulness": [5, 1], "safety": [4, 4]}},
        "errors": {"spans": []},
        "better": {"ranks": [2, 1]},
        "topic": {"labels": ["cooking"]},
    })
}

#[test]
fn every_widget_is_stored_and_shown_again() {
    let workshop = Workshop::new(QUESTIONS, &items());
    let server = workshop.start();
    let session = server.get("/api/session", "ana").json();
    assert_eq!((&session["name"], &session["role"]), (&json!("ana"), &json!("annotator")));
    // The page gets the defaults of a widget.
    assert_eq!(session["questions"][2]["labels"], json!(["factual", "logical"]));
    for (id, answers) in [("three", answers_to_three()), ("two", answers_to_two())] {
        let item = server.next("ana");
        assert_eq!(
            (&item["item"], &item["version"], &item["answers"]),
            (&json!(id), &json!(0), &Value::Null)
        );
        let stored = server.submit("ana", &submission(&item, id, answers.clone()));
        assert_eq!((&stored["answers"], &stored["version"]), (&answers, &json!(1)));
        let again = server.post("/api/item", "ana", &json!({ "item": id })).json();
        assert_eq!((&again["item"]["answers"], &again["item"]["version"]), (&answers, &json!(1)));
        let entry = workshop.entries().pop().unwrap();
        assert_eq!(serde_json::to_value(&entry).unwrap(), stored, "the tick is the line of the journal");
        assert_eq!((entry.started_ms, entry.finished_ms, entry.stored_unix_secs), (1_000, 4_500, 1.8e9));
    }
    assert_eq!(server.next("ana"), Value::Null);
}

#[test]
fn responses_are_shown_as_they_are_in_an_order_of_the_annotators_own() {
    let texts: Vec<String> = (0..9).map(|n| format!("response {n}")).collect();
    let workshop = Workshop::new(QUESTIONS, &[json!({"id": "nine", "prompt": "x", "responses": texts})]);
    let server = workshop.start();
    let order = |name: &str| {
        let item = server.next(name);
        let responses = item["responses"].as_array().unwrap().clone();
        let order: Vec<usize> =
            responses.iter().map(|response| response["index"].as_u64().unwrap() as usize).collect();
        assert!(responses.iter().zip(&order).all(|(response, &idx)| response["text"] == texts[idx]));
        order
    };
    let of_ana = order("ana");
    assert_eq!(order("ana"), of_ana, "the same when it is loaded again");
    // 9! orders: two of them are equal, or one of them sorted, once in 100,000 seeds.
    assert_ne!(order("ben"), of_ana);
    assert_ne!(of_ana, (0..9).collect::<Vec<_>>());
}

#[test]
fn what_does_not_fit_is_refused_by_field_and_not_stored() {
    let workshop = Workshop::new(QUESTIONS, &items());
    let server = workshop.start();
    let item = server.next("ana");
    let whole = submission(&item, "s", answers_to_three());
    let with_answer = |name: &str, answer: Value| {
        let mut answers = answers_to_three();
        answers[name] = answer;
        with(whole.clone(), json!({ "answers": answers }))
    };
    let mut without = answers_to_three();
    without.as_object_mut().unwrap().remove("topic");
    for (submission, field) in [
        (with(whole.clone(), json!({ "answers": without })), "topic"),
        (with_answer("preference", json!({"ranks": [1, 2]})), "preference.ranks"),
        (with_answer("better", json!({"ranks": [1, 2]})), "better"),
        (with_answer("ratings", json!({"ratings": {"helpfulness": [1, 2, 3]}})), "ratings.ratings"),
        (with_answer("correction", json!({"response": 3, "text": "x"})), "correction.response"),
        (with_answer("topic", json!({"labels": ["physics"]})), "topic.labels"),
        (with(whole.clone(), json!({"order": [0, 1]})), "order"),
        (with(whole.clone(), json!({"order": [0, 1, 1]})), "order"),
        (with(whole.clone(), json!({"submission": ""})), "submission"),
        (with(whole.clone(), json!({"skip": true})), "answers"),
    ] {
        let reply = server.post("/api/submit", "ana", &submission);
        assert_eq!((reply.status, &reply.json()["error"]["field"]), (400, &json!(field)), "{}", reply.body);
    }
    for (body, status) in [
        (with(whole.clone(), json!({"item": "four"})), 404),
        (with(whole.clone(), json!({"item_digest": "00".repeat(32)})), 409),
        (with(whole.clone(), json!({"unknown": 1})), 400),
        (json!([]), 400),
    ] {
        assert_eq!(server.post("/api/submit", "ana", &body).status, status, "{body}");
    }
    assert!(workshop.entries().is_empty());
    let long = with(whole, json!({"submission": "x".repeat(1 << 20)}));
    let reply = server.post("/api/submit", "ana", &long);
    assert_eq!(reply.status, 413);
    let message = reply.json()["error"]["message"].clone();
    assert_eq!(message, "the answer has more than 1048576 bytes: shorten its texts, or skip the item");
    // Who it is comes before how much it is.
    assert_eq!(server.request("POST", "/api/submit", "nobody", &long.to_string()).status, 401);
}

#[test]
fn a_skip_is_no_tie_and_leaves_the_item_to_others() {
    let workshop = Workshop::new(QUESTIONS, &items());
    let server = workshop.start();
    let item = server.next("ana");
    let skip = with(submission(&item, "skip", json!({})), json!({"skip": true}));
    let stored = server.submit("ana", &skip);
    assert_eq!((&stored["kind"], &stored["answers"]), (&json!("skip"), &json!({})));
    assert_eq!(server.next("ana")["item"], "two");
    assert_eq!(server.next("ben")["item"], "three");
    // Who skipped may come back to it.
    let item = server.post("/api/item", "ana", &json!({"item": "three"})).json()["item"].clone();
    let stored = server.submit("ana", &submission(&item, "answer", answers_to_three()));
    assert_eq!((&stored["kind"], &stored["version"]), (&json!("answer"), &json!(2)));
}
