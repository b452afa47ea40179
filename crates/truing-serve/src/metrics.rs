//! `/metrics` in Prometheus' text format, under the names and with the buckets of vLLM.

use std::fmt::Error;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::model::ModelEntry;
use crate::usage::Usage;
use crate::worker::Load;

const FIRST_TOKEN_S: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0,
];
const NEXT_TOKEN_S: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];
const REQUEST_S: &[f64] =
    &[0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0];
const TOKENS: &[f64] =
    &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfModel {
    model_name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfReason {
    model_name: String,
    finished_reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfResponse {
    handler: String,
    status: u16,
}

#[derive(Debug, Clone, Copy)]
struct Buckets(&'static [f64]);

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

type Histograms = Family<OfModel, Histogram, Buckets>;

/// Counts and times of all requests.
pub(crate) struct Metrics {
    registry: Registry,
    models: Vec<OfModel>,
    running: Family<OfModel, Gauge>,
    waiting: Family<OfModel, Gauge>,
    cached: Family<OfModel, Gauge>,
    prompt_tokens: Family<OfModel, Counter>,
    generation_tokens: Family<OfModel, Counter>,
    prefix_queries: Family<OfModel, Counter>,
    prefix_hits: Family<OfModel, Counter>,
    drafted_tokens: Family<OfModel, Counter>,
    accepted_tokens: Family<OfModel, Counter>,
    success: Family<OfReason, Counter>,
    responses: Family<OfResponse, Counter>,
    first_token: Histograms,
    next_token: Histograms,
    request: Histograms,
    request_prompt_tokens: Histograms,
    request_generation_tokens: Histograms,
}

impl Metrics {
    pub(crate) fn new(models: &[Arc<ModelEntry>]) -> Self {
        let mut registry = Registry::default();
        let gauge = |registry: &mut Registry, name: &str, help: &str| {
            let metric: Family<OfModel, Gauge> = Family::default();
            registry.register(name, help, metric.clone());
            metric
        };
        let counter = |registry: &mut Registry, name: &str, help: &str| {
            let metric: Family<OfModel, Counter> = Family::default();
            registry.register(name, help, metric.clone());
            metric
        };
        let histogram = |registry: &mut Registry, name: &str, help: &str, buckets| {
            let metric = Histograms::new_with_constructor(Buckets(buckets));
            registry.register(name, help, metric.clone());
            metric
        };
        let r = &mut registry;
        let success: Family<OfReason, Counter> = Family::default();
        let responses: Family<OfResponse, Counter> = Family::default();
        let metrics = Self {
            models: models.iter().map(|model| OfModel { model_name: model.name.clone() }).collect(),
            running: gauge(r, "vllm:num_requests_running", "Completions that are being decoded"),
            waiting: gauge(r, "vllm:num_requests_waiting", "Requests waiting in the queue"),
            cached: gauge(r, "truing:prefix_cache_tokens", "Tokens of prompts' beginnings that are kept"),
            prompt_tokens: counter(r, "vllm:prompt_tokens", "Tokens of prompts"),
            generation_tokens: counter(r, "vllm:generation_tokens", "Tokens generated"),
            prefix_queries: counter(r, "vllm:prefix_cache_queries", "Tokens of prompts that were looked for"),
            prefix_hits: counter(r, "vllm:prefix_cache_hits", "Tokens of prompts that were found"),
            drafted_tokens: counter(r, "vllm:spec_decode_num_draft_tokens", "Tokens drafted"),
            accepted_tokens: counter(
                r,
                "vllm:spec_decode_num_accepted_tokens",
                "Drafted tokens that were sampled",
            ),
            first_token: histogram(
                r,
                "vllm:time_to_first_token_seconds",
                "Time from the request to its first token",
                FIRST_TOKEN_S,
            ),
            next_token: histogram(
                r,
                "vllm:inter_token_latency_seconds",
                "Time between the tokens of a request",
                NEXT_TOKEN_S,
            ),
            request: histogram(r, "vllm:e2e_request_latency_seconds", "Time of a request", REQUEST_S),
            request_prompt_tokens: histogram(r, "vllm:request_prompt_tokens", "Tokens of a prompt", TOKENS),
            request_generation_tokens: histogram(
                r,
                "vllm:request_generation_tokens",
                "Tokens generated for a request",
                TOKENS,
            ),
            success: success.clone(),
            responses: responses.clone(),
            registry: Registry::default(),
        };
        registry.register("vllm:request_success", "Requests that were answered", success);
        registry.register("http_requests", "Responses by path and status", responses);
        Self { registry, ..metrics }
    }

    pub(crate) fn first_token(&self, model: usize, seconds: f64) {
        self.first_token.get_or_create(&self.models[model]).observe(seconds);
    }

    pub(crate) fn next_token(&self, model: usize, seconds: f64) {
        self.next_token.get_or_create(&self.models[model]).observe(seconds);
    }

    /// A request for completions has been answered.
    pub(crate) fn finished(&self, model: usize, usage: &Usage, time: Duration) {
        let of_model = &self.models[model];
        self.prompt_tokens.get_or_create(of_model).inc_by(usage.prompt_tokens as u64);
        self.generation_tokens.get_or_create(of_model).inc_by(usage.completion_tokens as u64);
        self.prefix_queries.get_or_create(of_model).inc_by(usage.prompt_tokens as u64);
        self.prefix_hits.get_or_create(of_model).inc_by(usage.cached_tokens as u64);
        self.drafted_tokens.get_or_create(of_model).inc_by(usage.drafts.n_drafted);
        self.accepted_tokens.get_or_create(of_model).inc_by(usage.drafts.n_accepted);
        self.request.get_or_create(of_model).observe(time.as_secs_f64());
        self.request_prompt_tokens.get_or_create(of_model).observe(usage.prompt_tokens as f64);
        self.request_generation_tokens.get_or_create(of_model).observe(usage.completion_tokens as f64);
        for reason in &usage.finish_reasons {
            let model_name = of_model.model_name.clone();
            let label = OfReason { model_name, finished_reason: (*reason).to_owned() };
            self.success.get_or_create(&label).inc();
        }
    }

    /// A response was sent.
    pub(crate) fn responded(&self, handler: &str, status: u16) {
        self.responses.get_or_create(&OfResponse { handler: handler.to_owned(), status }).inc();
    }

    /// The page.
    pub(crate) fn text(&self, loads: &[Arc<Load>]) -> Result<String, Error> {
        for (of_model, load) in self.models.iter().zip(loads) {
            for (gauge, value) in [
                (&self.running, &load.n_running),
                (&self.waiting, &load.n_waiting),
                (&self.cached, &load.n_cached_tokens),
            ] {
                gauge.get_or_create(of_model).set(value.load(Ordering::Relaxed) as i64);
            }
        }
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
