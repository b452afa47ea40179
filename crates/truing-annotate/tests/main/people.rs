//! Tokens, roles, gold items, attention checks, adjudication.

use serde_json::{Value, json};
use truing_annotate::{AnnotateConfig, Project};

use crate::setup::{TestClock, Workshop, submission, with};

const QUESTION: &str = "[[question]]\nname = \"q\"\nannotation_type = \"ranking\"\n";

fn items(n: usize) -> Vec<Value> {
    (0..n).map(|id| json!({"id": id, "prompt": format!("Say {id}."), "responses": ["a", "b"]})).collect()
}

fn ranks(ranks: [u32; 2]) -> Value {
    json!({"q": {"ranks": ranks}})
}

#[test]
fn every_request_needs_the_token_of_someone_who_may() {
    let workshop = Workshop::new(QUESTION, &items(1));
    let server = workshop.start();
    for token in ["", "the-token-of-bob", "the-token-of-an", "the-token-of-anaa"] {
        assert_eq!(server.request("GET", "/api/session", token, "").status, 401, "{token}");
        assert_eq!(server.request("POST", "/api/next", token, "{}").status, 401, "{token}");
    }
    assert_eq!(server.get("/api/status", "ana").status, 403);
    assert_eq!(server.post("/api/next", "owner", &json!({})).status, 403);
    assert_eq!(server.get("/api/status", "owner").status, 200);
    // Items that a person was not shown.
    assert_eq!(server.post("/api/item", "ana", &json!({"item": "0"})).status, 404);
}

#[test]
fn pages_need_no_token_and_nothing_from_elsewhere() {
    let workshop = Workshop::new(QUESTION, &items(1));
    let server = workshop.start();
    for path in ["/", "/status", "/page.css", "/annotate.js", "/widgets.js", "/status.js"] {
        let reply = server.request("GET", path, "", "");
        assert_eq!(reply.status, 200, "{path}");
        let head = reply.head.to_lowercase();
        assert!(
            head.contains("content-security-policy: default-src 'none'; style-src 'self'; script-src 'self'")
        );
        assert!(head.contains("referrer-policy: no-referrer") && head.contains("nosniff"), "{head}");
        assert!(!reply.body.contains("http://") && !reply.body.contains("https://"), "{path}");
        // Texts of items are never markup.
        assert!(!reply.body.contains("innerHTML") && !reply.body.contains("<script>"), "{path}");
    }
    for path in ["/../Cargo.toml", "/..%2f..%2fetc/passwd", "/project/tokens.json", "/annotations.jsonl"] {
        assert_eq!(server.request("GET", path, "", "").status, 404, "{path}");
    }
    assert_eq!(server.request("GET", "/api/submit", "", "").status, 405);
}

#[test]
fn known_items_come_at_their_share_unmarked_and_are_counted() {
    let known = |name: &str, share: f64| format!("{name} = {{ path = \"{name}.jsonl\", share = {share} }}\n");
    let settings = format!("overlap = 1\n{}{}", known("gold", 0.3), known("attention", 0.2));
    let workshop = Workshop::new(&(settings + QUESTION), &items(60));
    let expected = |name: &str, n: usize| -> Vec<Value> {
        let row = |id| {
            let item = json!({"id": format!("{name}{id}"), "prompt": "x", "responses": ["a", "b"]});
            with(item, json!({"expected": ranks([1, 2])}))
        };
        (0..n).map(row).collect()
    };
    workshop.write_rows("gold.jsonl", &expected("g", 40));
    workshop.write_rows("attention.jsonl", &expected("c", 40));
    let server = workshop.start();
    let mut ids = Vec::new();
    loop {
        let item = server.next("ana");
        if item.is_null() {
            break;
        }
        let id = item["item"].as_str().unwrap().to_owned();
        assert_eq!(item["item"], server.next("ana")["item"], "until it is answered");
        // Nor by its name, or by a count that only some items change.
        let sent = server.post("/api/next", "ana", &json!({})).json();
        let shown = sent["item"]["item"].as_str().unwrap();
        assert!(shown.len() == 24 && shown.bytes().all(|byte| byte.is_ascii_hexdigit()), "{shown}");
        assert!(!sent.to_string().contains(&format!("\"{id}\"")) && sent["progress"].get("open").is_none());
        let marks = ["gold", "attention", "expected", "kind"];
        assert!(marks.iter().all(|mark| item.get(mark).is_none()), "{item}");
        // Every second known item is answered wrongly.
        let n_known = ids.iter().filter(|id: &&String| id.starts_with(['g', 'c'])).count();
        let answers = ranks(if n_known.is_multiple_of(2) { [1, 2] } else { [2, 1] });
        server.submit("ana", &submission(&item, &id, answers));
        ids.push(id);
    }
    let n_of = |mark: char| ids.iter().filter(|id| id.starts_with(mark)).count();
    let (n_gold, n_checks) = (n_of('g'), n_of('c'));
    assert_eq!(ids.len() - n_gold - n_checks, 60, "all items, each once");
    // 60 items are half of all: about 36 gold items and 24 checks, give or take three standard deviations.
    assert!((18..=40).contains(&n_gold) && (8..=40).contains(&n_checks), "{n_gold} {n_checks}");
    let status = server.get("/api/status", "owner").json();
    let ana = &status["annotators"][0];
    assert_eq!((&ana["n_gold"], &ana["n_attention"]), (&json!(n_gold), &json!(n_checks)));
    let n_wrong =
        n_gold as u64 - ana["n_gold_right"].as_u64().unwrap() + ana["n_attention_failed"].as_u64().unwrap();
    assert_eq!(n_wrong, ((n_gold + n_checks) / 2) as u64);
    assert_eq!((&ana["median_secs"], &status["progress"]["n_answers"]), (&json!(3.5), &json!(60)));
}

#[test]
fn a_new_link_of_the_owner_leaves_the_names_of_items() {
    let mut n_made = 0;
    let mut make = || {
        n_made += 1;
        Ok::<_, std::io::Error>(format!("made-{n_made}"))
    };
    let mut open = |workshop: &Workshop, renew: &[String]| {
        let config = AnnotateConfig { owner_token: None, ..workshop.config() };
        let opened = Project::open(config, renew, &mut make, TestClock::begin().0).unwrap();
        opened.project.keep_links().unwrap();
        let shown = |idx: usize| opened.project.shown_id(idx).to_owned();
        let tokens: Vec<String> = opened.links.iter().map(|link| link.token.clone()).collect();
        ([shown(0), shown(1)], tokens)
    };
    let (workshop, other) = (Workshop::new(QUESTION, &items(2)), Workshop::new(QUESTION, &items(2)));
    let (before, first) = open(&workshop, &[]);
    let (after, second) = open(&workshop, &["owner".to_owned()]);
    assert!(first.len() == 1 && second.len() == 1 && first != second, "{first:?} {second:?}");
    assert_eq!(after, before);
    assert_ne!(before[0], before[1]);
    assert_ne!(open(&other, &[]).0, before, "another project has another secret");
}

#[test]
fn a_gold_item_that_most_answer_otherwise_is_doubtful() {
    let settings = format!("gold = {{ path = \"gold.jsonl\", share = 0.9 }}\n{QUESTION}");
    let workshop = Workshop::new(&settings, &items(4));
    let gold = json!({"id": "gold", "prompt": "x", "responses": ["a", "b"], "expected": ranks([2, 1])});
    workshop.write_rows("gold.jsonl", &[gold]);
    let server = workshop.start();
    for name in ["ana", "ben"] {
        assert_eq!(server.get("/api/status", "owner").json()["doubtful_items"], json!([]), "{name}");
        // Of four samples at a share of 0.9 one is the gold item.
        for n in 0..5 {
            let item = server.next(name);
            server.submit(name, &submission(&item, &format!("{name}{n}"), ranks([1, 2])));
        }
    }
    assert_eq!(server.get("/api/status", "owner").json()["doubtful_items"], json!(["gold"]));
}

#[test]
fn adjudicators_decide_what_annotators_disagree_on() {
    let workshop = Workshop::new(QUESTION, &items(2));
    let server = workshop.start();
    assert_eq!(server.next("eve"), Value::Null);
    server.answer("ana", "0", ranks([1, 2]));
    server.answer("ben", "0", ranks([2, 1]));
    server.answer("ana", "1", ranks([1, 1]));
    assert_eq!(server.get("/api/status", "owner").json()["progress"]["n_disputed"], 1);
    // Equal orders are no disagreement, whatever the numbers.
    server.answer("ben", "1", ranks([2, 2]));
    let item = server.next("eve");
    assert_eq!((&item["item"], &item["version"]), (&json!("0"), &json!(0)));
    let mut others = item["others"].as_array().unwrap().clone();
    others.sort_by_key(ToString::to_string);
    assert_eq!(others, [ranks([1, 2]), ranks([2, 1])]);
    assert!(!item.to_string().contains("ana") && !item.to_string().contains("ben"), "{item}");
    let decision = submission(&item, "decision", ranks([2, 1]));
    assert_eq!(server.post("/api/submit", "eve", &with(decision.clone(), json!({"skip": true}))).status, 403);
    let stored = server.submit("eve", &decision);
    assert_eq!((&stored["kind"], &stored["annotator"]), (&json!("adjudication"), &json!("eve")));
    assert_eq!(server.next("eve"), Value::Null);
    let progress = server.get("/api/status", "owner").json()["progress"].clone();
    assert_eq!((&progress["n_disputed"], &progress["n_adjudicated"]), (&json!(0), &json!(1)));
    // A second decision of the same version is stale.
    let late = with(decision, json!({"submission": "late"}));
    assert_eq!(server.post("/api/submit", "eve", &late).status, 409);
}

#[test]
fn items_that_too_many_have_left_need_another_annotator() {
    let workshop = Workshop::new(QUESTION, &items(2));
    let server = workshop.start();
    let skip = with(submission(&server.next("ana"), "skip", json!({})), json!({"skip": true}));
    server.submit("ana", &skip);
    let progress = server.get("/api/status", "owner").json()["progress"].clone();
    // Two annotators and an overlap of two: nobody else can answer it.
    assert_eq!((&progress["n_need_annotator"], &progress["n_skips"]), (&json!(1), &json!(1)));
}

#[test]
fn an_annotator_who_left_counts_and_is_shown() {
    let workshop = Workshop::new(QUESTION, &items(2));
    let server = workshop.start();
    server.answer("ana", "0", ranks([1, 2]));
    drop(server);
    let recipe = std::fs::read_to_string(workshop.path("recipe.toml")).unwrap();
    let recipe = recipe.replace(
        "name = \"ana\", token = \"the-token-of-ana\"",
        "name = \"cid\", token = \"the-token-of-cid\"",
    );
    std::fs::write(workshop.path("recipe.toml"), recipe).unwrap();
    let server = workshop.start();
    server.answer("ben", "0", ranks([1, 2]));
    // Two answers are enough: the third annotator gets the other item.
    assert_eq!(server.next("cid")["item"], "1");
    let status = server.get("/api/status", "owner").json();
    let named = |idx: usize| {
        (status["annotators"][idx]["name"].clone(), status["annotators"][idx]["has_left"].clone())
    };
    assert_eq!([named(0), named(1)].map(|(name, _)| name), ["cid", "ben"]);
    assert_eq!(named(2), (json!("ana"), json!(true)));
    assert_eq!(status["progress"]["n_complete"], 1);
}

#[test]
fn a_known_answer_to_a_question_that_is_not_asked_is_an_error() {
    let settings = format!(
        "gold = {{ path = \"gold.jsonl\", share = 0.5 }}\n{QUESTION}\n[[question]]\nname = \"better\"\n\
         annotation_type = \"pairwise\"\n"
    );
    let workshop = Workshop::new(&settings, &items(1));
    let expected = json!({"better": {"ranks": [1, 2, 3]}});
    let gold = json!({"prompt": "x", "responses": ["a", "b", "c"], "expected": expected});
    workshop.write_rows("gold.jsonl", &[gold]);
    let error = workshop.open(TestClock::begin().0).err().unwrap().to_string();
    let said =
        "`expected.better` is an answer to a question that is not asked about 3 responses; expected one of q";
    assert!(error.contains("gold.jsonl:1") && error.contains(said), "{error}");
}
