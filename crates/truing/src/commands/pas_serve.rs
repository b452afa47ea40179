//! `truing pas serve`: a proxy before an OpenAI-compatible server that appends complements.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use truing_ask::ChatModelConfig;
use truing_ask::pas::Complementer;
use truing_client::ClientSettings;
use truing_serve::{Complement, ProxyOptions, ServeError, serve_proxy};

use super::model;
use super::serve::{access_log, read_keys};
use crate::asking::{SystemClock, chat_context};
use crate::environment::Environment;
use crate::local_engine::LocalEngine;
use crate::outcome::{Outcome, WithHint};
use crate::{Context, interrupt, progress};

/// Arguments of `truing pas serve`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The server that answers: any OpenAI-compatible one, for instance of `truing serve`. Without `/v1`.
    #[arg(long, value_name = "URL")]
    upstream: String,
    /// Environment variable with the key for the upstream server. Default: the requests' own keys are passed on.
    #[arg(long, value_name = "VARIABLE")]
    upstream_key_env: Option<String>,
    /// The complement model: a path or a name; with --complement-server its name there.
    #[arg(long, short, value_name = "PATH|NAME")]
    model: String,
    /// OpenAI-compatible server of the complement model, with `/v1`. Default: it runs in this process.
    #[arg(long, value_name = "URL")]
    complement_server: Option<String>,
    /// Models that get complements. Default: all. Requests can always ask for the model `pas/NAME`, or send the header
    /// `x-truing-complement: on` or `off`.
    #[arg(long, value_name = "NAME")]
    for_model: Vec<String>,
    /// Models that get no complements.
    #[arg(long, value_name = "NAME")]
    except_model: Vec<String>,
    /// Fraction of prompts whose complement is made and logged, but not used.
    #[arg(long, value_name = "FRACTION", default_value_t = 0.0)]
    shadow: f64,
    /// Longest time that a request waits for its complement, in milliseconds; it is then answered without.
    #[arg(long, value_name = "MS", default_value_t = 2000)]
    complement_timeout: u64,
    /// Maximum tokens of a complement.
    #[arg(long, value_name = "N", default_value_t = Complementer::MAX_NEW_TOKENS)]
    max_complement_tokens: usize,
    /// Complements that are made at the same time; a request that finds no free place is answered without.
    #[arg(long, value_name = "N", default_value_t = 4)]
    workers: usize,
    /// Complements that are kept for equal prompts.
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    cache: usize,
    /// Address to listen on. Other addresses than this machine's own need --api-key-file.
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 8001)]
    port: u16,
    /// File with the API keys that requests may show, one per line.
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// File to append one JSON object per request to.
    #[arg(long, value_name = "FILE")]
    access_log: Option<PathBuf>,
}

struct Model(Complementer);

impl Complement for Model {
    fn complement(&self, prompt: &str) -> Result<String, String> {
        self.0.complement(prompt).map_err(|error| error.to_string())
    }
}

/// Opens the complement model and runs the proxy until Ctrl-C.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> anyhow::Result<Outcome> {
    let keys = arguments.api_key_file.as_deref().map(read_keys).transpose()?;
    let address = SocketAddr::new(arguments.host, arguments.port);
    if keys.is_none() && !address.ip().is_loopback() {
        return Err(ServeError::OpenToAll(address))
            .hint(|| "write keys to a file, one per line, and name it with --api-key-file".into());
    }
    anyhow::ensure!(
        (0.0..=1.0).contains(&arguments.shadow),
        "--shadow is {}, expected a number from 0 to 1",
        arguments.shadow
    );
    anyhow::ensure!(arguments.workers > 0, "--workers is 0, expected at least 1");
    anyhow::ensure!(
        arguments.complement_timeout > 0,
        "--complement-timeout is 0, expected at least 1 millisecond: no prompt would get a complement"
    );
    let upstream = arguments
        .upstream
        .trim_end_matches('/')
        .parse()
        .with_context(|| format!("--upstream is `{}`, expected an address", arguments.upstream))?;
    let upstream_key = arguments.upstream_key_env.as_deref().map(upstream_key).transpose()?;
    let log = access_log(arguments.access_log.as_deref())?;
    let listener = TcpListener::bind(address)
        .with_context(|| format!("cannot listen on {address}"))
        .hint(|| "choose another --port, or 0 for a free one".into())?;
    let address = listener.local_addr()?;
    let stop = interrupt::stop_flag("Stopping: no new requests are taken, running ones are finished");
    let config = match &arguments.complement_server {
        None => ChatModelConfig {
            model_name_or_path: Some(model::find(&arguments.model, context)?),
            ..ChatModelConfig::default()
        },
        Some(url) => ChatModelConfig {
            server: Some(ClientSettings {
                base_url: url.clone(),
                model: arguments.model.clone(),
                ..ClientSettings::default()
            }),
            ..ChatModelConfig::default()
        },
    };
    let mut events = progress::for_this_terminal(&context.printer);
    let opened = config.open::<LocalEngine>(&chat_context(&config, &stop, context)?, events.as_mut())?;
    drop(events);
    let complementer = Complementer::new(opened.model, arguments.max_complement_tokens);
    let options = ProxyOptions {
        upstream,
        models: (!arguments.for_model.is_empty()).then(|| arguments.for_model.clone()),
        except: arguments.except_model.clone(),
        shadow: arguments.shadow,
        complement_timeout: Duration::from_millis(arguments.complement_timeout),
        n_workers: arguments.workers,
        max_cached: arguments.cache,
        keys,
        upstream_key,
        ..ProxyOptions::default()
    };
    context.printer.line(format!(
        "listening on http://{address}, before {}",
        arguments.upstream.trim_end_matches('/')
    ))?;
    let clock = Arc::new(SystemClock::new(&stop));
    serve_proxy(listener, Arc::new(Model(complementer)), options, clock, log)?;
    Ok(Outcome::Fine)
}

fn upstream_key(variable: &str) -> anyhow::Result<truing_serve::UpstreamKey> {
    let key = Environment::api_key(variable)
        .with_context(|| format!("the environment has no `{variable}`, which --upstream-key-env names"))?;
    truing_serve::UpstreamKey::new(&key).with_context(|| {
        format!("the key in `{variable}` cannot be used: it holds a character that no header takes")
    })
}
