//! The models of a server, as far as requests need to know them.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};
use truing_generate::{Grammar, GrammarSource, Grammars};
use truing_model::DecoderSpec;
use truing_text::ChatRenderer;
use truing_types::{ReasoningMarks, TokenId};

use crate::error::ApiError;

/// A model that requests can name.
pub(crate) struct ModelEntry {
    pub(crate) name: String,
    /// The worker's index.
    pub(crate) idx: usize,
    /// Locked for reading by each request until it is answered, and for writing while the weights are replaced.
    weights: Arc<RwLock<()>>,
    fingerprint: Mutex<Fingerprint>,
    pub(crate) kind: ModelKind,
}

/// Names the weights of a model: the digest of its files.
pub(crate) type Fingerprint = Arc<str>;

/// The weights of a model, which are not replaced while this is held. A request holds them once, until it is answered.
#[derive(Debug)]
pub(crate) struct HeldWeights {
    fingerprint: Fingerprint,
    _held: OwnedRwLockReadGuard<()>,
}

impl HeldWeights {
    pub(crate) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

/// What a model can do.
pub(crate) enum ModelKind {
    Generate(Box<TextModel>),
    Score,
    Embed,
}

/// A language model's tokenizer, template and limits.
pub(crate) struct TextModel {
    pub(crate) renderer: ChatRenderer,
    pub(crate) spec: DecoderSpec,
    /// Tokens that end a reply.
    pub(crate) end: Arc<[TokenId]>,
    pub(crate) marks: ReasoningMarks,
    /// Made when a grammar is first asked for: it takes a second for a large vocabulary.
    pub(crate) grammars: OnceLock<Result<Grammars, String>>,
}

impl ModelEntry {
    pub(crate) fn new(name: String, idx: usize, fingerprint: &str, kind: ModelKind) -> Self {
        Self { name, idx, weights: Arc::default(), fingerprint: Mutex::new(fingerprint.into()), kind }
    }

    /// What names the weights; while they are replaced, the former ones. Never waits.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        Arc::clone(&self.fingerprint.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The weights as they are. Waits while they are being replaced.
    pub(crate) async fn hold_weights(&self) -> HeldWeights {
        let held = Arc::clone(&self.weights).read_owned().await;
        HeldWeights { fingerprint: self.fingerprint(), _held: held }
    }

    /// The right to replace the weights: waits until no request holds them, and lets later ones wait.
    pub(crate) async fn own_weights(&self) -> OwnedRwLockWriteGuard<()> {
        Arc::clone(&self.weights).write_owned().await
    }

    /// Sets what names the weights, with the right to replace them.
    pub(crate) fn rename_weights(&self, _owned: &OwnedRwLockWriteGuard<()>, name: &str) {
        *self.fingerprint.lock().unwrap_or_else(PoisonError::into_inner) = name.into();
    }

    /// What it is called in the list of models.
    pub(crate) fn task(&self) -> &'static str {
        match self.kind {
            ModelKind::Generate(_) => "generate",
            ModelKind::Score => "score",
            ModelKind::Embed => "embed",
        }
    }

    /// The language model, or why it is none.
    pub(crate) fn text(&self) -> Result<&TextModel, ApiError> {
        match &self.kind {
            ModelKind::Generate(model) => Ok(model),
            _ => Err(self.cannot("generate text")),
        }
    }

    /// The error of a request that asks for something else.
    pub(crate) fn cannot(&self, what: &str) -> ApiError {
        let message = format!("the model `{}` cannot {what}: its task is `{}`", self.name, self.task());
        ApiError::field("model", message)
    }
}

impl TextModel {
    /// Compiles a grammar. `param` is the field that it comes from.
    pub(crate) fn grammar(&self, source: &GrammarSource, param: &str) -> Result<Arc<Grammar>, ApiError> {
        let grammars = self.grammars.get_or_init(|| {
            Grammars::new(self.renderer.tokenizer(), self.spec.vocab_size, &self.end)
                .map_err(|error| error.to_string())
        });
        let grammars = grammars.as_ref().map_err(|error| ApiError::field(param, error.clone()))?;
        let grammar = grammars.compile(source).map_err(|error| ApiError::field(param, error.to_string()))?;
        Ok(Arc::new(grammar))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_have_a_name_while_they_are_replaced() {
        let model = ModelEntry::new("m".into(), 0, "former", ModelKind::Embed);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let owned = model.own_weights().await;
            assert_eq!(&*model.fingerprint(), "former");
            model.rename_weights(&owned, "new");
            drop(owned);
            assert_eq!(&*model.fingerprint(), "new");
            assert_eq!(model.hold_weights().await.fingerprint(), "new");
        });
    }
}
