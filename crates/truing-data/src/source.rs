//! One source of rows as a recipe describes it: its settings, which are checked, its files, and its format, which is
//! detected where none is given.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use truing_types::{TrainingRow, nearest_name};

use crate::columns::{Columns, Fields, PromptTemplate};
use crate::error::{DataError, RowProblem};
use crate::formats::Format;
use crate::formats::preference::mt_bench;
use crate::loss_weight;
use crate::readers;
use crate::render::Render;
use crate::source_row::SourceRow;
use crate::turns::OnRoleOrder;

/// Where training rows come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// A file, a folder, or a data set of the Hugging Face hub (`org/name[/configuration][:split][@revision]`, split
    /// `train` if not given). Files: JSON Lines, a JSON list, or plain text with one row per line (`.txt`), each also
    /// as gzip or zstd; or Parquet. The files of a folder are read in name order. Files with other endings, hidden
    /// files, descriptions such as `dataset_info.json`, subfolders and, beside a train split, files of other splits
    /// (`test-*`, `validation-*`) are not read; a note names them.
    #[schemars(extend("x-decides" = "name_and_content"))]
    pub path: PathBuf,
    /// Name of the row format, for instance `messages` or `alpaca`. Default: the format that most of the first 100 rows
    /// fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// Mapping of the format's columns to fields of the file, for example
    /// `{ prompt = "question", completion = "answer" }`. Paths such as `instances.0.output` name nested fields.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, String>,
    /// Builds the prompt from several fields, for example `"{instruction}\n\n{instances.0.input}"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_template: Option<String>,
    /// How a prompt and a completion given as strings are rendered (`prompt_completion` only). Default: `"raw"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub render: Option<Render>,
    /// System prompt of rows that have none (preference, unpaired and prompt rows).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// What to do with rows whose turns are in an unexpected order (assistant first, two turns of one role in a row, a
    /// system turn after others, a tool result without a call, no assistant turn at the end) or that have a blank turn.
    /// Independent of this key, a blank assistant turn that would be trained on is an invalid row, and so is a blank
    /// response that is preferred or desirable. A response that is only ever the worse one may be blank.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_role_order: OnRoleOrder,
    /// How often an epoch visits each sample: 2 twice, 0.5 every other epoch.
    #[serde(default = "one")]
    pub weight: f64,
    /// Read only this many valid rows from the beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_samples: Option<usize>,
}

fn one() -> f64 {
    1.0
}

fn is_default(on_role_order: &OnRoleOrder) -> bool {
    *on_role_order == OnRoleOrder::default()
}

/// What to do with invalid rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnBadRow {
    /// Stop with an error that names up to 20 of them.
    #[default]
    Error,
    /// Drop them; they are counted, and listed in `skipped.jsonl`.
    Skip,
}

impl SourceConfig {
    /// A source with every setting at its default.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            format: None,
            columns: BTreeMap::new(),
            prompt_template: None,
            render: None,
            system: None,
            on_role_order: OnRoleOrder::default(),
            weight: 1.0,
            max_samples: None,
        }
    }

    /// The source with its path in a folder.
    #[must_use]
    pub fn in_folder(&self, folder: &Path) -> Self {
        Self { path: truing_store::paths::in_folder(folder, &self.path), ..self.clone() }
    }

    /// The files that the source names, in the order in which they are read: itself, or those of a folder, and what its
    /// format reads beside them.
    ///
    /// # Errors
    /// When a folder cannot be listed or holds no data file.
    pub fn files(&self) -> Result<Vec<PathBuf>, DataError> {
        let mut files = readers::files(&self.path)?;
        files.extend(self.files_beside(&self.path)?);
        Ok(files)
    }

    /// What the format reads beside the file at `path`.
    pub(crate) fn files_beside(&self, path: &Path) -> Result<Vec<PathBuf>, DataError> {
        match self.format.as_deref() {
            Some(mt_bench::NAME) => mt_bench::files_beside(path),
            _ => Ok(Vec::new()),
        }
    }

    /// Checks everything about a source of training rows that can be checked without the files.
    ///
    /// # Errors
    /// When a setting is unknown, impossible or contradicts another.
    pub fn check(&self) -> Result<(), DataError> {
        self.check_as::<TrainingRow>()
    }

    /// As [`SourceConfig::check`], for a source of any kind of row.
    ///
    /// # Errors
    /// When a setting is unknown, impossible or contradicts another.
    pub fn check_as<Row: SourceRow>(&self) -> Result<(), DataError> {
        self.resolve::<Row>().map(|_| ())
    }

    /// The settings checked: the format where one is given, and the columns.
    pub(crate) fn resolve<Row: SourceRow>(
        &self,
    ) -> Result<(Option<&'static Format<Row>>, Columns), DataError> {
        let bad =
            |setting, reason: String| DataError::BadSetting { path: self.path.clone(), setting, reason };
        if !(self.weight > 0.0 && self.weight.is_finite()) {
            return Err(bad("weight", format!("is {}; expected a number above 0", self.weight)));
        }
        if self.max_samples == Some(0) {
            return Err(bad("max_samples", "is 0; expected at least 1".to_owned()));
        }
        if self.system.is_some() && !Row::TAKES_SYSTEM {
            let reason = "does not go with training rows; expected the system turn in the rows".to_owned();
            return Err(bad("system", reason));
        }
        let formats = Row::formats();
        let format = self.format.as_deref().map(find_format).transpose()?;
        if let Some(format) = format {
            self.check_columns(format)?;
            if self.prompt_template.is_some() && !format.takes_prompt_template {
                return Err(bad("prompt_template", format!("does not go with format `{}`", format.name)));
            }
            if self.render.is_some() && !format.takes_render {
                return Err(bad("render", format!("does not go with format `{}`", format.name)));
            }
        } else if let Some(found) =
            self.columns.keys().find(|c| !formats.iter().flat_map(|f| f.columns).any(|k| k.name == *c))
        {
            let names: Vec<_> = formats.iter().flat_map(|f| f.columns).map(|c| c.name).collect();
            let nearest = nearest_name(found, names.iter().copied());
            let known = names.join(", ");
            return Err(DataError::UnknownColumn { format: "any", found: found.clone(), nearest, known });
        }
        let prompt_template = self.prompt_template.as_deref().map(PromptTemplate::parse).transpose();
        let prompt_template = prompt_template.map_err(|reason| bad("prompt_template", reason))?;
        Ok((format, Columns { mapping: self.columns.clone(), prompt_template }))
    }

    /// The first format that a row has the columns of.
    fn format_of<Row: SourceRow>(&self, fields: Fields<'_>) -> Option<&'static Format<Row>> {
        let fits_settings = |format: &&Format<Row>| {
            (self.prompt_template.is_none() || format.takes_prompt_template)
                && (self.render.is_none() || format.takes_render)
        };
        Row::formats().iter().filter(fits_settings).find(|format| (format.detect)(fields))
    }

    /// The format of some rows: the one that most of them can be read as, so that no single bad row decides it. Where
    /// none can be read, it is the first format that a row has the columns of.
    pub(crate) fn detect<'a, Row: SourceRow>(
        &self,
        columns: &Columns,
        path: &Path,
        rows: impl IntoIterator<Item = (&'a Map<String, Value>, bool)>,
    ) -> Result<&'static Format<Row>, DataError> {
        // In the order in which they are met: of two that fit equally many rows, the first counts.
        let mut fitting: Vec<(&'static Format<Row>, u64)> = Vec::new();
        let mut first = None;
        for (row, pads_nulls) in rows {
            first = first.or(Some(row));
            let fields = Fields { row, columns, pads_nulls };
            let Some(format) = self.format_of(fields) else { continue };
            let is_read = (format.parse)(fields, self.render.unwrap_or_default()).is_ok();
            match fitting.iter_mut().find(|(known, _)| known.name == format.name) {
                Some((_, n_read)) => *n_read += u64::from(is_read),
                None => fitting.push((format, u64::from(is_read))),
            }
        }
        // Where there is but one format, what a row lacks is said of the row, with its line and field.
        let has_settings = self.prompt_template.is_some() || self.render.is_some();
        if let ([], [only], false) = (&fitting[..], Row::formats(), has_settings) {
            self.check_columns(only)?;
            return Ok(only);
        }
        let most = fitting.iter().map(|(_, n_read)| *n_read).max();
        let Some((format, _)) = fitting.into_iter().find(|(_, n_read)| Some(*n_read) == most) else {
            return Err(DataError::UndetectedFormat {
                path: path.to_path_buf(),
                fields: first.into_iter().flat_map(Map::keys).cloned().collect(),
                known: Row::formats().iter().map(described).collect::<Vec<_>>().join(", "),
            });
        };
        self.check_columns(format)?;
        Ok(format)
    }

    /// Reads a row, and refuses a loss mask beside what is trained on.
    pub(crate) fn parse<Row: SourceRow>(
        &self,
        format: &Format<Row>,
        fields: Fields<'_>,
    ) -> Result<Row, RowProblem> {
        let row = (format.parse)(fields, self.render.unwrap_or_default())?;
        if Row::IS_LEARNT {
            loss_weight::check_row(fields)?;
        }
        Ok(row)
    }

    fn check_columns<Row>(&self, format: &'static Format<Row>) -> Result<(), DataError> {
        let names: Vec<_> = format.columns.iter().map(|c| c.name).collect();
        match self.columns.keys().find(|column| !names.contains(&column.as_str())) {
            None => Ok(()),
            Some(found) => Err(DataError::UnknownColumn {
                format: format.name,
                found: found.clone(),
                nearest: nearest_name(found, names.iter().copied()),
                known: names.join(", "),
            }),
        }
    }
}

fn find_format<Row: SourceRow>(name: &str) -> Result<&'static Format<Row>, DataError> {
    Row::formats().iter().find(|format| format.name == name).ok_or_else(|| {
        let names: Vec<_> = Row::formats().iter().map(|format| format.name).collect();
        DataError::UnknownFormat {
            found: name.to_owned(),
            nearest: nearest_name(name, names.iter().copied()),
            known: names.join(", "),
        }
    })
}

fn described<Row>(format: &Format<Row>) -> String {
    let required: Vec<_> = format.columns.iter().filter(|c| c.is_required).map(|c| c.name).collect();
    format!("{} ({})", format.name, required.join(", "))
}
