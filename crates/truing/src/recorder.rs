//! Keeps a run's figures: TensorBoard events beside the metrics that the stage itself keeps.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use truing_report::ReportError;
use truing_report::names::EVAL_LOSS;
use truing_report::tensorboard::{EventFile, tag};
use truing_types::{Event, EventSink};

/// The first thing that went wrong while recording; a sink cannot return it.
pub(crate) type FirstError = Rc<RefCell<Option<ReportError>>>;

/// Writes every metric as a TensorBoard scalar. The file is opened at the first metric: what an earlier process
/// wrote of that step or later is dropped then, so a resume leaves neither gap nor repeat. A resume that begins
/// with an evaluation has its step's training behind it; that is kept.
pub(crate) struct TensorBoard {
    folder: PathBuf,
    file: Option<EventFile>,
    first_error: FirstError,
}

impl TensorBoard {
    /// Writes into `folder`; after a first error nothing more is written and the error waits in the second value.
    pub(crate) fn new(folder: &Path) -> (Self, FirstError) {
        let first_error = FirstError::default();
        (Self { folder: folder.to_owned(), file: None, first_error: Rc::clone(&first_error) }, first_error)
    }

    fn record(
        &mut self,
        step: u64,
        values: &std::collections::BTreeMap<String, f64>,
    ) -> Result<(), ReportError> {
        let now = wall_time();
        let mut file = match self.file.take() {
            Some(file) => file,
            None if step == 0 => EventFile::create(&self.folder, now)?,
            None if values.contains_key(EVAL_LOSS) => {
                EventFile::resume(&self.folder, step, Some(&tag(EVAL_LOSS)), now)?
            }
            None => EventFile::resume(&self.folder, step - 1, None, now)?,
        };
        let scalars: Vec<(String, f64)> = values.iter().map(|(name, value)| (tag(name), *value)).collect();
        file.append(now, step, scalars.iter().map(|(tag, value)| (tag.as_str(), *value)))?;
        self.file = Some(file);
        Ok(())
    }
}

impl EventSink for TensorBoard {
    fn emit(&mut self, event: Event) {
        if let Event::Metrics { step, values } = &event
            && self.first_error.borrow().is_none()
            && let Err(error) = self.record(*step, values)
        {
            *self.first_error.borrow_mut() = Some(error);
        }
    }
}

/// Seconds since 1970.
pub(crate) fn wall_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn record(folder: &Path, metrics: &[(u64, &str)]) {
        let (mut sink, first_error) = TensorBoard::new(folder);
        for &(step, name) in metrics {
            sink.emit(Event::Metrics { step, values: [(name.to_owned(), 1.0)].into() });
        }
        assert!(first_error.borrow().is_none());
    }

    #[test]
    fn resumes_leave_the_file_of_an_uninterrupted_run() {
        let [whole, resumed] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        record(whole.path(), &[(0, "eval_loss"), (1, "loss"), (2, "loss"), (2, "eval_loss"), (3, "loss")]);
        record(resumed.path(), &[(0, "eval_loss"), (1, "loss"), (2, "loss"), (2, "eval_loss")]);
        record(resumed.path(), &[(2, "eval_loss"), (3, "loss")]);
        record(resumed.path(), &[(2, "loss"), (2, "eval_loss"), (3, "loss")]);
        let length =
            |folder: &Path| fs::read_dir(folder).unwrap().next().unwrap().unwrap().metadata().unwrap().len();
        assert_eq!(length(resumed.path()), length(whole.path()));
    }
}
