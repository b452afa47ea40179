//! TOML files of this program that are not recipes of stages. Their keys say which kind they are.

use std::path::Path;

use toml::Table;

/// What a TOML file is, where it is no recipe of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// Stages, and what each needs of others.
    Pipeline,
    /// Models, and how they are merged.
    Merge,
    /// Questions to people about items.
    Annotation,
    /// Devices that training is planned for.
    Cluster,
    /// Labels of prompts, by dimension.
    LabelSet,
}

impl FileKind {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::Pipeline, Self::Merge, Self::Annotation, Self::Cluster, Self::LabelSet];

    /// Keys outside all tables that neither another kind nor the recipe of a stage has.
    #[must_use]
    pub fn own_keys(self) -> &'static [&'static str] {
        match self {
            Self::Pipeline => &["pipeline", "stages"],
            Self::Merge => &["method", "slices"],
            Self::Annotation => &["annotator", "adjudicator", "question"],
            Self::Cluster => &["devices_per_host", "hosts", "links"],
            Self::LabelSet => &["dimension"],
        }
    }

    /// The kind that a file's keys are of; `None` for a recipe of a stage.
    pub(super) fn of(table: &Table) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.has_key(table))
    }

    /// Whether a file has a key of this kind alone.
    pub(super) fn has_key(self, table: &Table) -> bool {
        self.own_keys().iter().any(|key| table.contains_key(*key))
    }

    /// The end of the sentence "this is ...".
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Pipeline => "the recipe of a pipeline",
            Self::Merge => "the recipe of a merge",
            Self::Annotation => "the recipe of an annotation by people",
            Self::Cluster => "the description of a cluster",
            Self::LabelSet => "a label set",
        }
    }

    /// What is done with the file at `path`.
    pub(super) fn advice(self, path: &Path) -> String {
        let path = path.display();
        match self {
            Self::Pipeline => format!("run `truing pipeline plan {path}`"),
            Self::Merge => format!("run `truing merge {path}`"),
            Self::Annotation => format!("run `truing annotate serve {path}`"),
            Self::Cluster => format!("run `truing plan --cluster {path} --model MODEL`"),
            Self::LabelSet => "a recipe of stage \"label\" names it in `label_set`".to_owned(),
        }
    }
}
