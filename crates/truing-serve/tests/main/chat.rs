//! `/v1/chat/completions`.

use serde_json::{Value, json};
use truing_serve::ServeOptions;

use crate::setup::{CONTEXT_LENGTH, generating, renderer, saying, start, start_with, with};

fn hello() -> Value {
    json!({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 12, "seed": 5})
}

/// The deltas of a stream joined: text, thought, the last reason.
fn joined(events: &[Value], idx: usize) -> (String, String, String) {
    let (mut content, mut reasoning, mut reason) = (String::new(), String::new(), String::new());
    for choice in events.iter().flat_map(|event| event["choices"].as_array().unwrap()) {
        if choice["index"] == idx {
            content += choice["delta"]["content"].as_str().unwrap_or_default();
            reasoning += choice["delta"]["reasoning_content"].as_str().unwrap_or_default();
            reason += choice["finish_reason"].as_str().unwrap_or_default();
        }
    }
    (content, reasoning, reason)
}

#[test]
fn a_reply_has_openais_shape() {
    let server = start(ServeOptions::default());
    let reply = server.chat(with(hello(), json!({"model": "tiny"})));
    assert_eq!(reply["object"], "chat.completion");
    assert_eq!(reply["model"], "tiny");
    assert_eq!(reply["created"], 1_800_000_000);
    assert_eq!(reply["system_fingerprint"], "truing-test-1");
    assert!(reply["id"].as_str().unwrap().starts_with("chatcmpl-"));
    let choice = &reply["choices"][0];
    assert_eq!((&choice["index"], &choice["finish_reason"]), (&json!(0), &json!("length")));
    assert_eq!(choice["message"]["role"], "assistant");
    assert!(!choice["message"]["content"].as_str().unwrap().is_empty());
    let usage = &reply["usage"];
    assert_eq!(usage["completion_tokens"], 12);
    assert_eq!(usage["total_tokens"], usage["prompt_tokens"].as_u64().unwrap() + 12);
    // The seed decides. Without one, each request gets another.
    let text = |body: Value| server.chat(body)["choices"][0]["message"]["content"].clone();
    assert_eq!(text(hello()), choice["message"]["content"]);
    assert_ne!(text(with(hello(), json!({"seed": 6}))), choice["message"]["content"]);
    let unseeded = || text(with(hello(), json!({"seed": null})));
    assert_ne!(unseeded(), unseeded());
    let log = server.log.lock().unwrap();
    assert_eq!((log[0].seed, log[0].completion_tokens, log[0].status), (Some(5), 12, 200));
    assert_ne!(log[3].seed, log[4].seed);
}

#[test]
fn a_stream_joins_to_the_reply() {
    let server = start(ServeOptions::default());
    let body = with(hello(), json!({"n": 3, "logprobs": true, "top_logprobs": 2, "max_tokens": 20}));
    let whole = server.chat(body.clone());
    let streamed = with(body, json!({"stream": true, "stream_options": {"include_usage": true}}));
    let events = server.stream("/v1/chat/completions", &streamed);
    for idx in 0..3 {
        let (content, reasoning, reason) = joined(&events, idx);
        let choice = &whole["choices"][idx];
        assert_eq!(choice["message"]["content"], content.as_str(), "{events:?}");
        assert_eq!((reasoning.as_str(), choice["finish_reason"].as_str().unwrap()), ("", reason.as_str()));
        let of_choice = events.iter().flat_map(|event| event["choices"].as_array().unwrap());
        let log_probs: Vec<&Value> = of_choice
            .filter(|choice| choice["index"] == idx)
            .flat_map(|choice| choice["logprobs"]["content"].as_array().into_iter().flatten())
            .collect();
        assert_eq!(choice["logprobs"]["content"].as_array().unwrap().iter().collect::<Vec<_>>(), log_probs);
        assert_eq!(log_probs.len(), 20);
    }
    let roles = events.iter().filter(|event| event["choices"][0]["delta"]["role"] == "assistant");
    assert_eq!(roles.count(), 3);
    let last = events.last().unwrap();
    assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &whole["usage"]));
    assert!(events.iter().rev().skip(1).all(|event| event["usage"].is_null()));
    // Without the option there is no usage.
    let events = server.stream("/v1/chat/completions", &with(hello(), json!({"stream": true})));
    assert!(events.iter().all(|event| event.get("usage").is_none()));
}

#[test]
fn log_probabilities_are_those_of_the_prompt_endpoint() {
    let server = start(ServeOptions::default());
    let body = with(
        hello(),
        json!({"logprobs": true, "top_logprobs": 3, "return_token_ids": true, "max_tokens": 30, "temperature": 1.3,
               "presence_penalty": 0.5, "logit_bias": {"40": 3.0}}),
    );
    let reply = server.chat(body);
    let [prompt, tokens] = [&reply["prompt_token_ids"], &reply["choices"][0]["token_ids"]]
        .map(|ids| ids.as_array().unwrap().clone());
    let whole = [prompt.clone(), tokens.clone()].concat();
    let scored = server.post(
        "/inference/v1/generate",
        &json!({"token_ids": whole, "sampling_params": {"max_tokens": 1, "prompt_logprobs": 3}}),
    );
    let scored = scored.json();
    let scored = &scored["prompt_logprobs"].as_array().unwrap()[prompt.len()..];
    let content = reply["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!((scored.len(), content.len()), (tokens.len(), 30));
    let tokenizer = renderer().tokenizer().clone();
    for ((scored, sampled), token) in scored.iter().zip(content).zip(&tokens) {
        let found = &scored[token.to_string()];
        let [a, b] = [&found["logprob"], &sampled["logprob"]].map(|value| value.as_f64().unwrap());
        assert!((a - b).abs() < 1e-4, "{a} {b}");
        let bytes = tokenizer.token_bytes(token.as_u64().unwrap() as u32).unwrap();
        assert_eq!(sampled["bytes"], json!(bytes));
        let top = sampled["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        let best = scored.as_object().unwrap().values().find(|entry| entry["rank"] == 1).unwrap();
        let difference = best["logprob"].as_f64().unwrap() - top[0]["logprob"].as_f64().unwrap();
        assert!(difference.abs() < 1e-4);
        assert!(top.windows(2).all(|pair| pair[0]["logprob"].as_f64() >= pair[1]["logprob"].as_f64()));
    }
}

#[test]
fn thoughts_and_stop_texts_are_cut_off() {
    let server = start(ServeOptions::default());
    let text = "<think>Six times seven.</think>\n\nIt is 42. Indeed.";
    for is_streamed in [false, true] {
        let body = with(saying(text), json!({"stop": ["Indeed"]}));
        let (content, reasoning, reason) = match is_streamed {
            true => joined(&server.stream("/v1/chat/completions", &with(body, json!({"stream": true}))), 0),
            false => {
                let reply = server.chat(body);
                let message = &reply["choices"][0]["message"];
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                (
                    text(&message["content"]),
                    text(&message["reasoning_content"]),
                    text(&reply["choices"][0]["finish_reason"]),
                )
            }
        };
        assert_eq!(
            (content.as_str(), reasoning.as_str(), reason.as_str()),
            ("It is 42. ", "Six times seven.", "stop")
        );
    }
}

fn weather_tools() -> Value {
    json!([{"type": "function", "function": {
        "name": "weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 8}},
            "required": ["city"],
            "additionalProperties": false,
        },
    }}])
}

#[test]
fn tools_are_called() {
    let server = start(ServeOptions::default());
    let text =
        "One moment.\n<tool_call>{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}</tool_call>";
    let body = with(saying(text), json!({"tools": weather_tools()}));
    let choice = server.chat(body.clone())["choices"][0].clone();
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["content"], "One moment.\n");
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!((&call["type"], &call["function"]["name"]), (&json!("function"), &json!("weather")));
    assert_eq!(call["function"]["arguments"], "{\"city\":\"Rome\"}");
    // Streamed: nothing of the call is shown as text.
    let events = server.stream("/v1/chat/completions", &with(body.clone(), json!({"stream": true})));
    let (content, _, reason) = joined(&events, 0);
    assert_eq!((content.as_str(), reason.as_str()), ("One moment.\n", "tool_calls"));
    let calls =
        events.iter().flat_map(|event| event["choices"][0]["delta"]["tool_calls"].as_array()).flatten();
    let calls: Vec<&Value> = calls.collect();
    assert_eq!(calls.len(), 1);
    assert_eq!((&calls[0]["index"], &calls[0]["function"]), (&json!(0), &call["function"]));
    // Without tools, or with tool_choice none, it is a text.
    for body in [saying(text), with(body.clone(), json!({"tool_choice": "none"}))] {
        let choice = server.chat(body)["choices"][0].clone();
        assert_eq!((&choice["finish_reason"], &choice["message"]["content"]), (&json!("stop"), &json!(text)));
    }
    // The call and its result are read again.
    let messages = json!([
        {"role": "user", "content": [{"type": "text", "text": "Weather in "}, {"type": "text", "text": "Rome?"}]},
        choice["message"],
        {"role": "tool", "tool_call_id": call["id"], "content": "sunny"},
    ]);
    let body = json!({"messages": messages, "tools": weather_tools(), "max_tokens": 3});
    assert_eq!(server.chat(body)["choices"][0]["finish_reason"], "length");
}

#[test]
fn a_required_call_is_one() {
    let server = start(ServeOptions::default());
    let named = json!({"type": "function", "function": {"name": "weather"}});
    let mut n_calls = 0;
    for (choice, seed) in
        [json!("required"), named].iter().flat_map(|choice| (0..5).map(move |seed| (choice, seed)))
    {
        let body = with(
            hello(),
            json!({"tools": weather_tools(), "tool_choice": choice, "seed": seed, "max_tokens": 200}),
        );
        let reply = server.chat(body);
        let choice = &reply["choices"][0];
        // A random model can write white space until its tokens are used up.
        if choice["finish_reason"] == "length" {
            continue;
        }
        assert_eq!(choice["finish_reason"], "tool_calls", "{choice}");
        let arguments = choice["message"]["tool_calls"][0]["function"]["arguments"].as_str().unwrap();
        let arguments: Value = serde_json::from_str(arguments).unwrap();
        assert!(arguments["city"].as_str().unwrap().chars().count() <= 8);
        n_calls += 1;
    }
    assert!(n_calls >= 5, "{n_calls} of 10");
}

#[test]
fn json_schemas_are_followed() {
    let server = start(ServeOptions::default());
    let schema = json!({
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 1, "maximum": 9}, "kind": {"enum": ["a", "b"]}},
        "required": ["n", "kind"],
        "additionalProperties": false,
    });
    let format =
        json!({"type": "json_schema", "json_schema": {"name": "x", "strict": true, "schema": schema}});
    let mut n_complete = 0;
    for seed in 0..10 {
        let reply =
            server.chat(with(hello(), json!({"response_format": format, "seed": seed, "max_tokens": 200})));
        let choice = &reply["choices"][0];
        if choice["finish_reason"] == "stop" {
            let value: Value = serde_json::from_str(choice["message"]["content"].as_str().unwrap()).unwrap();
            assert!((1..=9).contains(&value["n"].as_i64().unwrap()), "{value}");
            assert!(["a", "b"].contains(&value["kind"].as_str().unwrap()));
            n_complete += 1;
        }
    }
    assert!(n_complete >= 5, "{n_complete} of 10");
    // What cannot be followed is refused, never ignored.
    for (format, param) in [
        (
            json!({"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}),
            "response_format.json_schema.schema",
        ),
        (json!({"type": "json_schema"}), "response_format.json_schema"),
        (json!({"type": "grammar"}), "response_format.type"),
        (json!({"type": "text", "schema": {}}), "response_format.schema"),
    ] {
        let reply = server.post("/v1/chat/completions", &with(hello(), json!({"response_format": format})));
        assert_eq!(reply.param(), param, "{}", reply.body);
    }
    let both = json!({"response_format": {"type": "json_object"}, "guided_regex": "a+"});
    let reply = server.post("/v1/chat/completions", &with(hello(), both));
    assert!(reply.body.contains("cannot both decide"), "{}", reply.body);
}

#[test]
fn a_last_message_can_be_continued() {
    let server = start(ServeOptions::default());
    let messages = json!([{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "I am"}]);
    let body = json!({"messages": messages, "continue_final_message": true, "add_generation_prompt": false});
    let tokens = server.post("/tokenize", &body).json();
    let text = server.post("/detokenize", &json!({"tokens": tokens["tokens"]})).json()["prompt"].clone();
    assert!(text.as_str().unwrap().ends_with("assistant\nI am"), "{text}");
    assert_eq!(tokens["max_model_len"], CONTEXT_LENGTH);
    let reply = server.chat(with(body, json!({"max_tokens": 2})));
    assert_eq!(reply["usage"]["prompt_tokens"], tokens["count"]);
    for (body, param) in [
        (
            json!({"messages": messages, "continue_final_message": true, "add_generation_prompt": true}),
            "add_generation_prompt",
        ),
        (json!({"messages": messages, "add_generation_prompt": false}), "add_generation_prompt"),
        (json!({"messages": [messages[0]], "continue_final_message": true}), "continue_final_message"),
    ] {
        assert_eq!(server.post("/v1/chat/completions", &body).param(), param);
    }
    for (variables, param) in [
        (json!({"enable_thinkin_": true}), "chat_template_kwargs.enable_thinkin_"),
        (json!({"messages": []}), "chat_template_kwargs.messages"),
    ] {
        let body = json!({"messages": [messages[0]], "chat_template_kwargs": variables});
        assert_eq!(server.post("/v1/chat/completions", &body).param(), param);
    }
    // A variable of the template.
    let off = json!({"messages": [messages[0]], "chat_template_kwargs": {"enable_thinking": false}});
    let tokens = server.post("/tokenize", &off).json();
    let text = server.post("/detokenize", &json!({"tokens": tokens["tokens"]})).json()["prompt"].clone();
    assert!(text.as_str().unwrap().ends_with("<think></think>\n"), "{text}");
}

#[test]
fn models_are_told_apart() {
    let server = start_with(vec![generating("one", 1), generating("two", 2)], ServeOptions::default());
    let listed = server.get("/v1/models").json();
    let names: Vec<&str> =
        listed["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(names, ["one", "two"]);
    assert_eq!(server.get("/v1/models/two").json(), listed["data"][1]);
    assert_eq!(server.get("/v1/models/none").json()["error"]["code"], "model_not_found");
    let text = |name: &str| server.chat(with(hello(), json!({"model": name})))["choices"][0].clone();
    assert_ne!(text("one"), text("two"));
    assert_eq!(text("one"), text("one"));
    let reply = server.post("/v1/chat/completions", &with(hello(), json!({"model": "on"})));
    assert_eq!((reply.status, reply.param().as_str()), (404, "model"));
    assert!(
        reply.body.contains("did you mean `one`?") && reply.body.contains("model_not_found"),
        "{}",
        reply.body
    );
    assert_eq!(server.post("/v1/chat/completions", &hello()).param(), "model");
}

#[test]
fn messages_that_cannot_be_read_are_named() {
    let server = start(ServeOptions::default());
    for (message, param) in [
        (json!({"role": "robot", "content": "x"}), "messages[0].role"),
        (json!({"content": "x"}), "messages[0].role"),
        (json!({"role": "user"}), "messages[0].content"),
        (json!({"role": "user", "content": 3}), "messages[0].content"),
        (
            json!({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}),
            "messages[0].content[0].type",
        ),
        (json!({"role": "user", "content": "x", "weight": 2}), "messages[0].weight"),
        (
            json!({"role": "user", "content": "x", "tool_calls": [{"function": {"name": "f"}}]}),
            "messages[0].tool_calls",
        ),
        (
            json!({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}),
            "messages[0].tool_calls[0].function.arguments",
        ),
        (json!("x"), "messages[0]"),
    ] {
        let reply = server.post("/v1/chat/completions", &json!({"messages": [message]}));
        assert_eq!(reply.param(), param, "{}", reply.body);
    }
    let long = "word ".repeat(CONTEXT_LENGTH);
    let reply =
        server.post("/v1/chat/completions", &json!({"messages": [{"role": "user", "content": long}]}));
    assert!(reply.body.contains("context_length_exceeded"), "{}", reply.body);
    let reply = server.post("/v1/chat/completions", &with(hello(), json!({"max_tokens": CONTEXT_LENGTH})));
    assert_eq!(reply.param(), "max_tokens");
    assert!(reply.body.contains("has room for"), "{}", reply.body);
}
