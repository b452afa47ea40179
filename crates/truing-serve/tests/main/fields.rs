//! Every field is honoured or refused by name.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};
use truing_serve::{
    ENDPOINTS, Endpoint, FieldInfo, Handling, SAMPLING_FIELDS, SAMPLING_PARAMS_FIELDS, ServeOptions,
};

use crate::setup::{start, with};

/// Has tests of its own: it does not answer without a folder.
const WEIGHTS: &str = "/update_weights_from_disk";

/// A request of an endpoint that is answered.
fn good(path: &str) -> Value {
    match path {
        "/v1/chat/completions" => json!({"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}),
        "/v1/completions" => json!({"prompt": "x", "max_tokens": 1}),
        "/inference/v1/generate" => json!({"token_ids": [5], "sampling_params": {"max_tokens": 1}}),
        "/tokenize" => json!({"prompt": "x"}),
        "/detokenize" => json!({"tokens": [5]}),
        _ => json!({}),
    }
}

/// The endpoints of language models: the others need other models, and read their fields with the same functions.
fn text_endpoints() -> impl Iterator<Item = &'static Endpoint> {
    ENDPOINTS
        .iter()
        .filter(|endpoint| !["/v1/embeddings", "/v1/score", "/v1/rerank", WEIGHTS].contains(&endpoint.path))
}

fn samples(path: &str) -> bool {
    ["/v1/chat/completions", "/v1/completions"].contains(&path)
}

#[test]
fn every_field_of_the_tables_is_read() {
    let server = start(ServeOptions::default());
    let mut n_checked = 0;
    let mut check = |path: &str, body: Value, field: &FieldInfo, prefix: &str| {
        let reply = server.post(path, &body);
        let expected = format!("{prefix}{}", field.name);
        assert!(reply.param().starts_with(&expected), "{path}, {expected}: {}", reply.body);
        let says = match field.handling {
            Handling::Refused(reason) => reason,
            Handling::Honoured(_) | Handling::Neutral(_) => "",
        };
        assert!(reply.body.contains(says), "{path}, {expected}: {}", reply.body);
        assert!(!reply.body.contains("is not a field"), "{path}, {expected}: {}", reply.body);
        n_checked += 1;
    };
    // No field takes a list with an empty list in it.
    let wrong = json!([[]]);
    for endpoint in text_endpoints() {
        let further = if samples(endpoint.path) { SAMPLING_FIELDS } else { &[] };
        for field in endpoint.fields.iter().chain(further) {
            let mut body = good(endpoint.path);
            if field.name == "tools" {
                // Only read with messages.
                body = json!({"messages": [{"role": "user", "content": "x"}]});
            }
            let reads_template = ["continue_final_message", "add_generation_prompt", "chat_template_kwargs"];
            if endpoint.path == "/tokenize"
                && (reads_template.contains(&field.name) || field.name == "messages")
            {
                body = json!({"messages": [{"role": "user", "content": "x"}]});
            }
            let body = with(body, json!({field.name: wrong}));
            check(endpoint.path, body, field, "");
        }
    }
    for field in SAMPLING_FIELDS.iter().chain(SAMPLING_PARAMS_FIELDS) {
        let body = json!({"token_ids": [5], "sampling_params": {field.name: wrong}});
        check("/inference/v1/generate", body, field, "sampling_params.");
    }
    assert!(n_checked > 150, "{n_checked}");
}

#[test]
fn neutral_values_and_nulls_change_nothing() {
    let server = start(ServeOptions::default());
    for endpoint in text_endpoints() {
        let expected = server.post(endpoint.path, &good(endpoint.path));
        assert_eq!(expected.status, 200, "{}", expected.body);
        let further = if samples(endpoint.path) { SAMPLING_FIELDS } else { &[] };
        for field in endpoint
            .fields
            .iter()
            .chain(further)
            .filter(|field| good(endpoint.path).get(field.name).is_none())
        {
            let reply = server.post(endpoint.path, &with(good(endpoint.path), json!({field.name: null})));
            assert_eq!(reply.status, 200, "{}: {}", field.name, reply.body);
            let Handling::Neutral(values) = field.handling else { continue };
            // The values of the table, as far as they are JSON or words between back quotes.
            let quoted = values.split('`').skip(1).step_by(2);
            for value in quoted {
                let value = serde_json::from_str(value).unwrap_or_else(|_| json!(value));
                if value == json!("n") {
                    continue;
                }
                let reply =
                    server.post(endpoint.path, &with(good(endpoint.path), json!({field.name: value})));
                assert_eq!(reply.status, 200, "{}: {}", field.name, reply.body);
            }
        }
    }
}

#[test]
fn unknown_fields_are_refused_with_the_nearest_name() {
    let server = start(ServeOptions::default());
    for endpoint in text_endpoints() {
        let body = with(good(endpoint.path), json!({"no_such_field": 1}));
        let reply = server.post(endpoint.path, &body);
        assert_eq!(reply.param(), "no_such_field", "{}", reply.body);
        assert!(reply.body.contains("is not a field of this endpoint"), "{}", reply.body);
    }
    let reply = server.post("/v1/completions", &json!({"prompt": "x", "temprature": 1}));
    assert!(reply.body.contains("did you mean `temperature`?"), "{}", reply.body);
    let reply = server
        .post("/inference/v1/generate", &json!({"token_ids": [5], "sampling_params": {"max_token": 1}}));
    assert_eq!(reply.param(), "sampling_params.max_token");
    assert!(reply.body.contains("did you mean `max_tokens`?"), "{}", reply.body);
}

#[test]
fn numbers_outside_their_range_are_refused() {
    let server = start(ServeOptions::default());
    for (name, value) in [
        ("temperature", json!(-0.1)),
        ("temperature", json!("hot")),
        ("top_p", json!(0)),
        ("top_p", json!(1.01)),
        ("top_k", json!(-2)),
        ("min_p", json!(2)),
        ("presence_penalty", json!(2.5)),
        ("repetition_penalty", json!(0)),
        ("repetition_penalty", json!(1e-38)),
        ("n", json!(0)),
        ("n", json!(129)),
        ("n", json!(1.5)),
        ("max_tokens", json!(-1)),
        ("seed", json!(1e300)),
        ("stop", json!("")),
        ("stop", json!(vec!["x"; 33])),
        ("logprobs", json!(21)),
    ] {
        let reply = server.post("/v1/completions", &with(json!({"prompt": "x"}), json!({name: value})));
        assert_eq!(reply.param(), name, "{value}: {}", reply.body);
    }
    for bias in [json!({"x": 1}), json!({"5": 101}), json!({"99999999": 1}), json!({"5": "1"})] {
        let reply = server.post("/v1/completions", &json!({"prompt": "x", "logit_bias": bias}));
        assert!(reply.param().starts_with("logit_bias."), "{}", reply.body);
    }
    // Whole numbers may have a point, as clients in JavaScript write them.
    assert_eq!(
        server.post("/v1/completions", &json!({"prompt": "x", "n": 1.0, "max_tokens": 2.0})).status,
        200
    );
}

fn table(fields: &[FieldInfo]) -> String {
    let mut text = "| field | |\n|---|---|\n".to_owned();
    for FieldInfo { name, handling } in fields {
        let says = match handling {
            Handling::Honoured(remark) => (*remark).to_owned(),
            Handling::Neutral(values) => format!("only {values}: nothing else is supported"),
            Handling::Refused(reason) => format!("**refused**: {reason}"),
        };
        writeln!(text, "| `{name}` | {says} |").unwrap();
    }
    text
}

/// The tables of docs/serve.md. `TRUING_WRITE_REFERENCE=1` writes them anew.
#[test]
fn the_documentation_lists_every_field() {
    const START: &str = "<!-- fields: generated by a test of truing-serve -->\n";
    const END: &str = "<!-- end of fields -->";
    let mut tables = format!("\n### Sampling\n\n{}", table(SAMPLING_FIELDS));
    for endpoint in ENDPOINTS {
        write!(tables, "\n### `{}`\n\n{}", endpoint.path, table(endpoint.fields)).unwrap();
        if endpoint.path == "/inference/v1/generate" {
            write!(tables, "\nFurther fields of `sampling_params`:\n\n{}", table(SAMPLING_PARAMS_FIELDS))
                .unwrap();
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/serve.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(START).expect("docs/serve.md has the place of the tables");
    let (_, after) = rest.split_once(END).expect("docs/serve.md has the end of the tables");
    let expected = format!("{before}{START}{tables}\n{END}{after}");
    if std::env::var_os("TRUING_WRITE_REFERENCE").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    assert!(
        std::fs::read_to_string(&path).unwrap() == expected,
        "docs/serve.md is not up to date: run the tests with TRUING_WRITE_REFERENCE=1"
    );
}
