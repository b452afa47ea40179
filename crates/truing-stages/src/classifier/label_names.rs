//! What a label of the data is called: its name in the label set, if there is one.

use truing_ask::labels::load_label_set;
use truing_prompts::labels::LabelSet;
use truing_run::RunError;
use truing_types::RowOrigin;

use super::ClassifierConfig;
use crate::StageError;

/// The labels of a set, or those of the data.
#[derive(Debug)]
pub(super) struct LabelNames {
    set: Option<LabelSet>,
}

impl LabelNames {
    /// Reads the label set that the settings name.
    pub(super) fn of(settings: &ClassifierConfig) -> Result<Self, StageError> {
        let Some(path) = &settings.label_set else { return Ok(Self { set: None }) };
        let set = load_label_set(Some(path))?;
        let mut names = settings.dimensions.iter().chain(settings.columns.keys());
        if let Some(unknown) = names.find(|name| set.dimension_idx(name).is_none()) {
            let known: Vec<&str> = set.dimensions().iter().map(|dimension| dimension.name.as_str()).collect();
            return Err(RunError::BadSetting {
                key: "classifier",
                found: format!("a table that names `{unknown}`, which {} does not have", path.display()),
                expected: format!("one of {}", known.join(", ")),
            }
            .into());
        }
        Ok(Self { set: Some(set) })
    }

    /// Whether the set says that a text may have several labels of a dimension; nothing without a set.
    pub(super) fn may_be_several(&self, dimension: &str) -> Option<bool> {
        let set = self.set.as_ref()?;
        set.dimension_idx(dimension).map(|idx| set.dimensions()[idx].multiple)
    }

    /// Labels of a dimension by name, each once. A dimension that the set does not have says nothing.
    pub(super) fn of_dimension(
        &self,
        origin: &RowOrigin,
        column: &str,
        dimension: &str,
        written: Option<Vec<String>>,
    ) -> Result<Option<Vec<String>>, StageError> {
        let Some(written) = written else { return Ok(None) };
        let mut labels = match &self.set {
            None => written,
            Some(set) => {
                let Some(idx) = set.dimension_idx(dimension) else { return Ok(None) };
                let name = |label: String| match set.resolve(idx, &label) {
                    Some(known) => Ok(set.name(idx, known).to_owned()),
                    None => Err(set.unknown(idx, origin, column, label)),
                };
                written.into_iter().map(name).collect::<Result<_, _>>()?
            }
        };
        labels.sort();
        labels.dedup();
        Ok(Some(labels))
    }
}
