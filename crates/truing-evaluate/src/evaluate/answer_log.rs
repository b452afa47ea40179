//! Every answer of a run, appended to a file as it arrives: a run that was killed asks only for what is not there.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use truing_eval::benchmarks::{Answer, Request};
use truing_run::RunError;
use truing_store::Digest;

/// All answers of models, in the run's folder.
pub const ANSWERS: &str = "answers.jsonl";

/// One line.
#[derive(Serialize, Deserialize)]
struct Line {
    task: String,
    item: String,
    request: String,
    /// Of the request as a whole: an answer counts only for the very same request.
    digest: String,
    answer: Answer,
}

type Key = (String, String, String);

/// The answers so far, and the file that further ones go to.
pub(crate) struct AnswerLog {
    file: File,
    path: PathBuf,
    known: HashMap<Key, (String, Answer)>,
}

impl AnswerLog {
    /// Opens the log of a run, or begins one. A last line that was cut when the process was killed is removed.
    pub(crate) fn open(folder: &Path) -> Result<Self, RunError> {
        let path = folder.join(ANSWERS);
        let failed = |source| RunError::Read { path: path.clone(), source };
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(&path).map_err(failed)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        if whole < bytes.len() {
            file.set_len(whole as u64).map_err(failed)?;
            file.seek(SeekFrom::End(0)).map_err(failed)?;
        }
        let mut known = HashMap::new();
        for (idx, line) in bytes[..whole].split(|&byte| byte == b'\n').enumerate() {
            if line.is_empty() {
                continue;
            }
            let Line { task, item, request, digest, answer } =
                serde_json::from_slice(line).map_err(|error| {
                    failed(std::io::Error::other(format!(
                        "invalid record in line {}: {error}; remove that line, and what it answered is asked again",
                        idx + 1
                    )))
                })?;
            known.insert((task, item, request), (digest, answer));
        }
        Ok(Self { file, path, known })
    }

    /// The answer to a request, if it was asked before.
    pub(super) fn find(&self, task: &str, item: &str, request: &Request) -> Option<Answer> {
        let key = (task.to_owned(), item.to_owned(), request.id.clone());
        let (digest, answer) = self.known.get(&key)?;
        (*digest == digest_of(request)).then(|| answer.clone())
    }

    /// Writes an answer down before anything else is done with it.
    pub(super) fn keep(
        &mut self,
        task: &str,
        item: &str,
        request: &Request,
        answer: &Answer,
    ) -> Result<(), RunError> {
        let line = Line {
            task: task.to_owned(),
            item: item.to_owned(),
            request: request.id.clone(),
            digest: digest_of(request),
            answer: answer.clone(),
        };
        let key = (line.task.clone(), line.item.clone(), line.request.clone());
        self.known.insert(key, (line.digest.clone(), line.answer.clone()));
        let mut text =
            serde_json::to_vec(&line).map_err(|source| RunError::Json { name: ANSWERS, source })?;
        text.push(b'\n');
        self.file.write_all(&text).map_err(|source| RunError::Write { path: self.path.clone(), source })
    }
}

fn digest_of(request: &Request) -> String {
    Digest::of_bytes(&serde_json::to_vec(request).unwrap_or_default()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use truing_eval::benchmarks::{Ask, Recipient};

    fn request(text: &str) -> Request {
        Request { id: "answer".into(), to: Recipient::Model, ask: Ask::Rolling { text: text.into() } }
    }

    #[test]
    fn answers_are_found_again_and_a_cut_line_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = AnswerLog::open(folder.path()).unwrap();
        let answer = Answer::Rewards(vec![0.5]);
        log.keep("t", "1", &request("a"), &answer).unwrap();
        log.keep("t", "2", &request("b"), &answer).unwrap();
        drop(log);
        let path = folder.path().join(ANSWERS);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 5]).unwrap();
        let mut log = AnswerLog::open(folder.path()).unwrap();
        assert_eq!(log.find("t", "1", &request("a")), Some(answer.clone()));
        assert_eq!(log.find("t", "1", &request("changed")), None, "another request has another answer");
        assert_eq!(log.find("t", "2", &request("b")), None);
        log.keep("t", "2", &request("b"), &answer).unwrap();
        drop(log);
        assert_eq!(AnswerLog::open(folder.path()).unwrap().find("t", "2", &request("b")), Some(answer));
        std::fs::write(&path, "{}\n").unwrap();
        let error = AnswerLog::open(folder.path()).err().unwrap();
        assert!(
            std::error::Error::source(&error).unwrap().to_string().starts_with("invalid record in line 1")
        );
        assert!(std::error::Error::source(&error).unwrap().to_string().contains("remove that line"));
    }
}
