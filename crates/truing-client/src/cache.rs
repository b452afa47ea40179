//! Replies on disk, by the digest of what was asked: one SQLite file, in write-ahead mode, that several processes of
//! one machine may share (not over a network file system).

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension, TransactionBehavior, params};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use truing_store::Digest;
use truing_types::{ChatReply, FinishReason, TokenId};

use crate::{CacheMode, ClientError};

const VERSION: i64 = 1;
/// What a recording does with the reply that is there.
const REPLACE: &str = "UPDATE SET model = excluded.model, request = excluded.request, reply = excluded.reply,
    n_prompt_tokens = excluded.n_prompt_tokens, n_completion_tokens = excluded.n_completion_tokens,
    unix_secs = excluded.unix_secs";
/// How long to wait for another process that is writing.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to wait before a lock is tried again.
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// The file of replies. It holds requests and replies in full, and no key.
#[derive(Debug)]
pub struct ReplyCache {
    path: PathBuf,
    connection: Mutex<Connection>,
}

/// A reply with everything that is kept beside it.
#[derive(Serialize, Deserialize)]
struct CachedReply {
    text: String,
    /// Caches of older versions have none; what they hold in the text is split off when it is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reasoning: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Value>,
    tokens: Vec<TokenId>,
    finish_reason: FinishReason,
}

/// Repeats an operation that does not wait for locks by itself, while another connection holds one, for
/// [`BUSY_TIMEOUT`].
fn while_busy<T>(mut operation: impl FnMut() -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    for _ in 0..BUSY_TIMEOUT.as_millis() / BUSY_PAUSE.as_millis() {
        match operation() {
            Err(error) if is_busy(&error) => std::thread::sleep(BUSY_PAUSE),
            result => return result,
        }
    }
    operation()
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

impl ReplyCache {
    /// Opens the file, making it where there is none.
    ///
    /// # Errors
    /// When it cannot be opened or is no cache of this version.
    pub fn open(path: &Path) -> Result<Self, ClientError> {
        let connect = || {
            let connection = Connection::open(path)?;
            // For one of the locks of this switch SQLite never waits, whatever the timeout says. So it waits for none,
            // and the switch is tried again: the two would multiply.
            connection.busy_timeout(Duration::ZERO)?;
            while_busy(|| connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(())))?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            // A reply that was paid for survives a power cut.
            connection.pragma_update(None, "synchronous", "full")?;
            Ok(connection)
        };
        let connection = connect().map_err(|error: rusqlite::Error| ClientError::Cache {
            path: path.to_path_buf(),
            source: error.into(),
        })?;
        let cache = Self { path: path.to_path_buf(), connection: Mutex::new(connection) };
        cache.make_table()?;
        Ok(cache)
    }

    fn make_table(&self) -> Result<(), ClientError> {
        let mut connection = self.lock();
        // Two processes may begin at the same moment; the second finds the table.
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(|source| self.failed(source))?;
        let read = |row: &rusqlite::Row<'_>| row.get(0);
        let found: i64 = transaction
            .pragma_query_value(None, "user_version", read)
            .map_err(|source| self.failed(source))?;
        match found {
            VERSION => return Ok(()),
            0 => {}
            _ => return Err(ClientError::CacheVersion { path: self.path.clone(), found, expected: VERSION }),
        }
        let table = "CREATE TABLE replies (
            key TEXT PRIMARY KEY, model TEXT NOT NULL, request TEXT NOT NULL, reply TEXT NOT NULL,
            n_prompt_tokens INTEGER NOT NULL, n_completion_tokens INTEGER NOT NULL, unix_secs INTEGER NOT NULL
        ) WITHOUT ROWID";
        transaction
            .execute_batch(table)
            .and_then(|()| transaction.pragma_update(None, "user_version", VERSION))
            .and_then(|()| transaction.commit())
            .map_err(|source| self.failed(source))
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The reply under a key.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn get(&self, key: &Digest) -> Result<Option<ChatReply>, ClientError> {
        let connection = self.lock();
        let query = "SELECT reply, n_prompt_tokens, n_completion_tokens FROM replies WHERE key = ?1";
        let row = connection
            .prepare(query)
            .and_then(|mut statement| {
                let read = |row: &rusqlite::Row<'_>| {
                    let reply: String = row.get(0)?;
                    let kept: CachedReply = serde_json::from_str(&reply).map_err(|error| {
                        rusqlite::Error::FromSqlConversionFailure(
                            0,
                            rusqlite::types::Type::Text,
                            error.into(),
                        )
                    })?;
                    Ok((kept, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
                };
                statement.query_row(params![key.to_string()], read).optional()
            })
            .map_err(|source| self.failed(source))?;
        Ok(row.map(|(kept, n_prompt_tokens, n_completion_tokens)| ChatReply {
            text: kept.text,
            reasoning: kept.reasoning,
            tool_calls: kept.tool_calls,
            tokens: kept.tokens,
            finish_reason: kept.finish_reason,
            n_prompt_tokens: usize::try_from(n_prompt_tokens).unwrap_or_default(),
            n_completion_tokens: usize::try_from(n_completion_tokens).unwrap_or_default(),
        }))
    }

    /// Keeps a reply. In [`CacheMode::Live`] the first one stays, so that all who share the file see the same;
    /// [`CacheMode::Record`] replaces it.
    pub(crate) fn put(
        &self,
        key: &Digest,
        model: &str,
        request: &str,
        reply: &ChatReply,
        unix_secs: f64,
        mode: CacheMode,
    ) -> Result<(), ClientError> {
        let conflict = if mode == CacheMode::Record { REPLACE } else { "NOTHING" };
        let statement = format!(
            "INSERT INTO replies VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (key) DO {conflict}"
        );
        let kept = CachedReply {
            text: reply.text.clone(),
            reasoning: reply.reasoning.clone(),
            tool_calls: reply.tool_calls.clone(),
            tokens: reply.tokens.clone(),
            finish_reason: reply.finish_reason,
        };
        let kept = serde_json::to_string(&kept).expect("texts and numbers are JSON");
        let values = params![
            key.to_string(),
            model,
            request,
            kept,
            reply.n_prompt_tokens as i64,
            reply.n_completion_tokens as i64,
            unix_secs as i64,
        ];
        let connection = self.lock();
        let done = connection.prepare(&statement).and_then(|mut statement| statement.execute(values));
        done.map(|_| ()).map_err(|source| self.failed(source))
    }

    /// Replies that are kept.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn len(&self) -> Result<u64, ClientError> {
        let count = self.lock().query_row("SELECT count(*) FROM replies", [], |row| row.get::<_, i64>(0));
        count.map(i64::unsigned_abs).map_err(|source| self.failed(source))
    }

    /// Whether no reply is kept.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn is_empty(&self) -> Result<bool, ClientError> {
        Ok(self.len()? == 0)
    }

    fn failed(&self, error: rusqlite::Error) -> ClientError {
        ClientError::Cache { path: self.path.clone(), source: error.into() }
    }

    /// SQLite stays consistent if another thread panics.
    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
