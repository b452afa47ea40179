//! The fields that say how tokens are sampled, which several endpoints share.

use std::sync::Arc;

use serde_json::{Value, json};
use truing_generate::GrammarSource;
use truing_types::{SamplingOptions, TokenId};

use crate::error::ApiError;
use crate::fields::{FieldInfo, Fields, honoured, neutral, refused};
use crate::model::TextModel;

/// Completions of a prompt at most.
const MAX_N: i64 = 128;
/// Stop texts at most.
const MAX_STOPS: usize = 32;
/// Characters of a stop text at most.
const MAX_STOP_CHARS: usize = 256;
/// Most likely tokens at a position at most.
pub(crate) const MAX_TOP_LOG_PROBS: i64 = 20;

/// Fields of every endpoint that samples.
pub(crate) const SAMPLING_FIELDS: &[FieldInfo] = &[
    honoured("n", "completions of each prompt, 1 to 128"),
    honoured("temperature", "0 takes the most likely token; default 1"),
    honoured("top_p", "default 1"),
    honoured("top_k", "0 or -1 keeps all, the default"),
    honoured("min_p", "default 0"),
    honoured("presence_penalty", "-2 to 2, on tokens of the completion"),
    honoured("frequency_penalty", "-2 to 2, on tokens of the completion"),
    honoured("repetition_penalty", "0.01 to 100, on tokens of prompt and completion"),
    honoured("logit_bias", "token id to a number from -100 to 100"),
    honoured("seed", "the same seed and request give the same tokens; a random one if left out"),
    honoured("stop", "a text or up to 32; not part of the completion"),
    honoured("stop_token_ids", "end a completion, in addition to the model's own"),
    honoured("ignore_eos", "the model's own end tokens do not end a completion"),
    honoured("skip_special_tokens", "default true"),
    honoured("structured_outputs", "one of `json`, `json_object`, `regex`, `choice`, `grammar` (Lark)"),
    honoured("guided_json", "as `structured_outputs.json`"),
    honoured("guided_regex", "as `structured_outputs.regex`"),
    honoured("guided_choice", "as `structured_outputs.choice`"),
    honoured("guided_grammar", "as `structured_outputs.grammar`"),
    neutral("min_tokens", "`0`"),
    neutral("include_stop_str_in_output", "`false`"),
    neutral("spaces_between_special_tokens", "`true`"),
    neutral("use_beam_search", "`false`"),
    neutral("length_penalty", "`1`"),
    neutral("bad_words", "an empty list"),
    refused("allowed_token_ids", "use `logit_bias` or `structured_outputs`"),
    refused("truncate_prompt_tokens", "a prompt that is too long is refused, never cut"),
    refused("logits_processors", "no code of requests is run"),
];

/// How a request samples.
#[derive(Debug, Clone)]
pub(crate) struct Sampling {
    /// Without the number of tokens, which depends on the prompt.
    pub(crate) options: SamplingOptions,
    pub(crate) n: usize,
    /// Of `None` the model's own.
    pub(crate) end: Option<Arc<[TokenId]>>,
    pub(crate) keeps_special_tokens: bool,
    /// The grammar and the field that it comes from.
    pub(crate) grammar: Option<(GrammarSource, String)>,
}

impl Sampling {
    /// Reads the fields. `random_seed` is taken where the request has none.
    pub(crate) fn read(fields: &mut Fields, model: &TextModel, random_seed: u64) -> Result<Self, ApiError> {
        let mut options = SamplingOptions { temperature: 1.0, ..SamplingOptions::default() };
        let n = fields.integer("n", 1..=MAX_N)?.unwrap_or(1) as usize;
        if let Some(temperature) = fields.number("temperature", 0.0..=100.0)? {
            options.temperature = temperature as f32;
        }
        if let Some(top_p) = fields.number("top_p", 0.0..=1.0)? {
            if top_p == 0.0 {
                return Err(ApiError::value(
                    fields.path("top_p"),
                    &json!(0),
                    "a number above 0 and up to 1 (`temperature` 0 takes the most likely token)",
                ));
            }
            options.top_p = top_p as f32;
        }
        if let Some(top_k) = fields.integer("top_k", -1..=i64::MAX)? {
            options.top_k = top_k.max(0) as usize;
        }
        if let Some(min_p) = fields.number("min_p", 0.0..=1.0)? {
            options.min_p = min_p as f32;
        }
        if let Some(penalty) = fields.number("presence_penalty", -2.0..=2.0)? {
            options.presence_penalty = penalty as f32;
        }
        if let Some(penalty) = fields.number("frequency_penalty", -2.0..=2.0)? {
            options.frequency_penalty = penalty as f32;
        }
        if let Some(penalty) = fields.number("repetition_penalty", 0.01..=100.0)? {
            options.repetition_penalty = penalty as f32;
        }
        if let Some(bias) = fields.object("logit_bias")? {
            for (token, value) in bias {
                let path = fields.path(&format!("logit_bias.{token}"));
                let id = token.parse().ok().filter(|&id: &TokenId| (id as usize) < model.spec.vocab_size);
                let id = id.ok_or_else(|| {
                    let expected = format!("`{path}`: expected a token id below {}", model.spec.vocab_size);
                    ApiError::field(path.clone(), expected)
                })?;
                let number = value.as_f64().filter(|number| (-100.0..=100.0).contains(number));
                let number =
                    number.ok_or_else(|| ApiError::value(path, &value, "a number from -100 to 100"))?;
                options.logit_bias.insert(id, number as f32);
            }
        }
        options.seed = fields.integer("seed", i64::MIN..=i64::MAX)?.map_or(random_seed, |seed| seed as u64);
        options.stop = fields.texts("stop")?.unwrap_or_default();
        if options.stop.len() > MAX_STOPS
            || options.stop.iter().any(|stop| stop.is_empty() || stop.chars().count() > MAX_STOP_CHARS)
        {
            let expected = format!("up to {MAX_STOPS} texts of 1 to {MAX_STOP_CHARS} characters");
            return Err(ApiError::value(fields.path("stop"), &json!(options.stop), &expected));
        }
        let end = Self::read_ends(fields, model)?;
        let keeps_special_tokens = !fields.boolean("skip_special_tokens")?.unwrap_or(true);
        let grammar = read_grammar(fields)?;
        for (name, allowed) in [
            ("min_tokens", json!(0)),
            ("include_stop_str_in_output", json!(false)),
            ("spaces_between_special_tokens", json!(true)),
            ("use_beam_search", json!(false)),
        ] {
            fields.neutral(name, &[allowed])?;
        }
        fields.neutral("length_penalty", &[json!(1), json!(1.0)])?;
        fields.neutral("bad_words", &[])?;
        Ok(Self { options, n, end, keeps_special_tokens, grammar })
    }

    fn read_ends(fields: &mut Fields, model: &TextModel) -> Result<Option<Arc<[TokenId]>>, ApiError> {
        let further = fields.tokens("stop_token_ids")?.unwrap_or_default();
        let ignores_eos = fields.boolean("ignore_eos")?.unwrap_or(false);
        if further.is_empty() && !ignores_eos {
            return Ok(None);
        }
        let mut ends = if ignores_eos { Vec::new() } else { model.end.to_vec() };
        ends.extend(further);
        ends.sort_unstable();
        ends.dedup();
        Ok(Some(ends.into()))
    }

    /// Sets the number of tokens: what was asked for, or `default`, or what the context has room for.
    pub(crate) fn limit_tokens(
        &mut self,
        asked: Option<(i64, &str)>,
        default: Option<usize>,
        n_prompt_tokens: usize,
        model: &TextModel,
    ) -> Result<(), ApiError> {
        let room = model.spec.max_position_embeddings.saturating_sub(n_prompt_tokens);
        let too_long = |param: &str, message: String| {
            ApiError::field(param, message).with_code("context_length_exceeded")
        };
        let context = model.spec.max_position_embeddings;
        if room == 0 {
            return Err(too_long(
                "messages",
                format!("the prompt has {n_prompt_tokens} tokens, but the model's context holds {context}"),
            ));
        }
        self.options.max_new_tokens = match asked {
            Some((asked, param)) if asked as usize > room => {
                return Err(too_long(
                    param,
                    format!(
                        "`{param}` is {asked}, but after the prompt's {n_prompt_tokens} tokens the model's context of \
                         {context} has room for {room}"
                    ),
                ));
            }
            Some((asked, _)) => asked as usize,
            None => default.unwrap_or(room).min(room),
        };
        Ok(())
    }
}

/// The grammar of vLLM's fields, old and new.
fn read_grammar(fields: &mut Fields) -> Result<Option<(GrammarSource, String)>, ApiError> {
    let mut found: Vec<(GrammarSource, String)> = Vec::new();
    for (name, kind) in [
        ("guided_json", "json"),
        ("guided_regex", "regex"),
        ("guided_choice", "choice"),
        ("guided_grammar", "grammar"),
    ] {
        if let Some(value) = fields.take(name) {
            found.push((grammar_of(kind, &fields.path(name), value)?, fields.path(name)));
        }
    }
    if let Some(value) = fields.take("structured_outputs") {
        let path = fields.path("structured_outputs");
        let mut inner = Fields::of_value(&path, value)?;
        for kind in ["json", "json_object", "regex", "choice", "grammar"] {
            if let Some(value) = inner.take(kind) {
                found.push((grammar_of(kind, &inner.path(kind), value)?, inner.path(kind)));
            }
        }
        inner.finish(&[])?;
    }
    if let [_, second, ..] = &found[..] {
        return Err(ApiError::field(second.1.clone(), "a completion can have only one grammar"));
    }
    Ok(found.pop())
}

fn grammar_of(kind: &str, path: &str, value: Value) -> Result<GrammarSource, ApiError> {
    match (kind, value) {
        ("json", Value::Object(schema)) => Ok(GrammarSource::JsonSchema(Value::Object(schema))),
        ("json", Value::String(text)) => match serde_json::from_str(&text) {
            Ok(Value::Object(schema)) => Ok(GrammarSource::JsonSchema(Value::Object(schema))),
            _ => Err(ApiError::value(path, &Value::String(text), "a JSON schema")),
        },
        ("json_object", Value::Bool(true)) => Ok(GrammarSource::JsonObject),
        ("regex", Value::String(pattern)) => Ok(GrammarSource::Regex(pattern)),
        ("grammar", Value::String(grammar)) => Ok(GrammarSource::Lark(grammar)),
        ("choice", Value::Array(choices)) => {
            let texts: Option<Vec<String>> =
                choices.iter().map(|choice| choice.as_str().map(str::to_owned)).collect();
            let texts = texts.filter(|texts| !texts.is_empty());
            texts
                .map(GrammarSource::Choice)
                .ok_or_else(|| ApiError::value(path, &Value::Array(choices), "a list of texts"))
        }
        (kind, value) => {
            let expected = match kind {
                "json" => "a JSON schema",
                "json_object" => "true",
                "choice" => "a list of texts",
                _ => "a text",
            };
            Err(ApiError::value(path, &value, expected))
        }
    }
}

/// OpenAI's `response_format`.
pub(crate) fn response_format(fields: &mut Fields) -> Result<Option<(GrammarSource, String)>, ApiError> {
    let Some(value) = fields.take("response_format") else { return Ok(None) };
    let mut format = Fields::of_value("response_format", value)?;
    let kind = format.text("type")?;
    let kind = format.required("type", kind, "`text`, `json_object` or `json_schema`")?;
    let source = match kind.as_str() {
        "text" => None,
        "json_object" => Some((GrammarSource::JsonObject, "response_format".to_owned())),
        "json_schema" => {
            let inner = format.take("json_schema");
            let inner = format.required("json_schema", inner, "an object with `name` and `schema`")?;
            let mut inner = Fields::of_value("response_format.json_schema", inner)?;
            // The name and the description are for the model's provider; the schema is followed to the letter.
            inner.text("name")?;
            inner.text("description")?;
            inner.boolean("strict")?;
            let schema = inner.object("schema")?;
            let schema = inner.required("schema", schema, "a JSON schema")?;
            inner.finish(&[])?;
            let path = "response_format.json_schema.schema".to_owned();
            Some((GrammarSource::JsonSchema(Value::Object(schema)), path))
        }
        _ => {
            return Err(ApiError::value(
                "response_format.type",
                &json!(kind),
                "`text`, `json_object` or `json_schema`",
            ));
        }
    };
    format.finish(&[])?;
    Ok(source)
}
