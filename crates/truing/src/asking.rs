//! What models that are asked need of the process: the key, the proxy, the clock, and the wish to stop.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use truing_ask::{ChatContext, ChatModelConfig};
use truing_client::{Access, ApiKey, Clock, ProxyAddress};

use crate::Context;
use crate::environment::Environment;
use crate::outcome::WithHint;
use crate::rendering::render_options;

/// A wait is looked at this often, so that Ctrl-C ends it.
const PATIENCE: Duration = Duration::from_millis(100);

/// The machine's clock, and the wish to stop.
pub(crate) struct SystemClock {
    start: Instant,
    stop: Arc<AtomicBool>,
}

impl SystemClock {
    /// A clock that begins now.
    pub(crate) fn new(stop: &Arc<AtomicBool>) -> Self {
        Self { start: Instant::now(), stop: Arc::clone(stop) }
    }
}

impl Clock for SystemClock {
    fn unix_secs(&self) -> f64 {
        // A clock before 1970 is set wrong, and nothing better is known.
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, duration: Duration) -> ControlFlow<()> {
        let end = Instant::now() + duration;
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return ControlFlow::Break(());
            }
            match end.checked_duration_since(Instant::now()) {
                Some(left) if !left.is_zero() => std::thread::sleep(left.min(PATIENCE)),
                _ => return ControlFlow::Continue(()),
            }
        }
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Gathers what a model needs to be asked. The key is read here, from the variable that the recipe names.
pub(crate) fn chat_context(
    config: &ChatModelConfig,
    stop: &Arc<AtomicBool>,
    context: &Context,
) -> anyhow::Result<ChatContext> {
    let clock = SystemClock::new(stop);
    let server = config.server.as_ref();
    let api_key = match server.and_then(|server| server.api_key_env.as_deref()) {
        Some(name) => {
            let key = Environment::api_key(name)
                .with_context(|| format!("the environment has no `{name}`, which `api_key_env` names"))
                .hint(|| format!("`export {name}=...` before the run; a key is never written in a recipe"))?;
            Some(ApiKey::new(&key).with_context(|| format!("the key in `{name}` cannot be used"))?)
        }
        None => None,
    };
    let environment = &context.environment;
    let is_plain = server.is_some_and(|server| server.base_url.starts_with("http://"));
    let proxy = if is_plain { &environment.http_proxy } else { &environment.https_proxy };
    let proxy = proxy.clone().map(|url| ProxyAddress { url, except: environment.no_proxy.clone() });
    Ok(ChatContext {
        access: Access { api_key, proxy, clock: Arc::new(clock) },
        render: render_options(),
        n_threads: context.n_threads,
        stop: Arc::clone(stop),
    })
}
