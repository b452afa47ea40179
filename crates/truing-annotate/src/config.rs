//! The recipe of an annotation project: items, questions, people.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_data::SourceConfig;
use truing_run::checks::{
    require, require_counts, require_data, require_given, require_output_dir, require_positive, require_share,
};
use truing_run::recipe::{FileKind, read_kind};
use truing_run::{RunError, recipe};
use truing_statistics::Level;
use truing_types::PromptRow;

use crate::AnnotateError;

/// Most responses of an item that is ranked: the keys 1 to 9 give the ranks.
pub(crate) const MAX_RANKED: usize = 9;
/// Most points of a scale.
const MAX_POINTS: i64 = 11;
/// Fewest characters of a token that the recipe gives.
const MIN_TOKEN: usize = 12;

/// One flat table, then `[gold]`, `[attention]`, `[adjudication]`, `[[data]]`, `[[annotator]]`, `[[adjudicator]]` and
/// `[[question]]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AnnotateConfig {
    /// Folder of the project: journal, tokens and outputs.
    pub output_dir: PathBuf,
    /// Folder that the paths of the data are relative to. Default: the recipe's folder.
    pub data_dir: PathBuf,
    /// Seed of the order of responses and of the places of gold items and attention checks.
    pub seed: u64,
    /// Title of the page.
    pub title: String,
    /// Text or Markdown file with the guidelines, shown as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidelines: Option<PathBuf>,
    /// Annotators per item.
    pub overlap: usize,
    /// Seconds after which an item that was shown and not answered is given to others.
    pub lease_secs: u64,
    /// Show the responses of an item in a random order, another one for each annotator.
    pub shuffle_responses: bool,
    /// Width of the 95 % interval of an agreement that is aimed at: the status says how many items are missing to it.
    pub target_interval: f64,
    /// Resamples of the bootstrap behind the intervals of the status.
    pub n_resamples: usize,
    /// Seconds between two updates of the output files.
    pub export_secs: u64,
    /// Token of the owner's status page. Default: made at the first start.
    #[serde(skip_serializing)]
    pub owner_token: Option<String>,
    /// Items with known answers, mixed in without a mark.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gold: Option<KnownItems>,
    /// Items that only check whether people read: their answers are known and easy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention: Option<KnownItems>,
    /// When answers disagree.
    pub adjudication: Adjudication,
    /// The items.
    pub data: Vec<SourceConfig>,
    /// The people who annotate.
    pub annotator: Vec<PersonConfig>,
    /// The people who decide where annotators disagree.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub adjudicator: Vec<PersonConfig>,
    /// What is asked about each item.
    pub question: Vec<Question>,
}

/// Items whose answers are known: rows with `expected`, an object of answers by question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KnownItems {
    /// The file, as for `[[data]]`.
    pub path: PathBuf,
    /// Share of the items that an annotator gets.
    pub share: f64,
}

/// Differences that are no disagreement.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Adjudication {
    /// Largest difference of two ratings.
    pub max_scale_difference: i64,
    /// Smallest F1 of the marked characters of two annotators.
    pub min_span_f1: f64,
}

/// A person with a link of their own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PersonConfig {
    /// Name in the journal and the status.
    pub name: String,
    /// Token of the link. Default: made at the first start.
    #[serde(default, skip_serializing)]
    pub token: Option<String>,
}

/// A question about each item.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// Name, also the key of its answers. Of a label question: the dimension of the label set.
    pub name: String,
    /// Widget.
    pub annotation_type: AnnotationType,
    /// What is asked, shown above the widget.
    #[serde(default)]
    pub description: String,
    /// Aspects of a scale, kinds of spans, or the labels to choose from. Default of a scale: helpfulness, fluency,
    /// safety; of spans: factual, logical.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Lowest point of a scale.
    #[serde(default = "lowest")]
    pub min: i64,
    /// Highest point of a scale.
    #[serde(default = "highest")]
    pub max: i64,
    /// Whether the item cannot be submitted without an answer. An item can always be skipped as a whole.
    #[serde(default = "yes")]
    pub required: bool,
    /// Whether several labels may hold.
    #[serde(default)]
    pub multiple: bool,
    /// Level of measurement for Krippendorff's alpha. Default: nominal for labels, ordinal for ranks, interval for
    /// scales.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<MeasurementLevel>,
}

/// The widgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AnnotationType {
    /// Ranks of all responses, ties allowed.
    Ranking,
    /// The better one of two responses, or a tie.
    Pairwise,
    /// A rating of every response in every aspect.
    Scale,
    /// Marked stretches of the responses.
    Spans,
    /// A corrected response.
    Edit,
    /// Labels of the prompt.
    Label,
}

/// Which differences of answers count for the agreement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MeasurementLevel {
    /// Equal or not.
    Nominal,
    /// By rank.
    Ordinal,
    /// By distance.
    Interval,
}

fn lowest() -> i64 {
    1
}

fn highest() -> i64 {
    5
}

fn yes() -> bool {
    true
}

impl Default for Adjudication {
    fn default() -> Self {
        Self { max_scale_difference: 1, min_span_f1: 0.5 }
    }
}

impl Default for AnnotateConfig {
    fn default() -> Self {
        Self {
            output_dir: PathBuf::new(),
            data_dir: PathBuf::new(),
            seed: 0,
            title: "Annotation".into(),
            guidelines: None,
            overlap: 2,
            lease_secs: 1800,
            shuffle_responses: true,
            target_interval: 0.1,
            n_resamples: 500,
            export_secs: 10,
            owner_token: None,
            gold: None,
            attention: None,
            adjudication: Adjudication::default(),
            data: Vec::new(),
            annotator: Vec::new(),
            adjudicator: Vec::new(),
            question: Vec::new(),
        }
    }
}

impl Question {
    /// The aspects, kinds or labels, with the defaults of the widget.
    #[must_use]
    pub fn labels(&self) -> Vec<String> {
        let defaults: &[&str] = match self.annotation_type {
            AnnotationType::Scale if self.labels.is_empty() => &["helpfulness", "fluency", "safety"],
            AnnotationType::Spans if self.labels.is_empty() => &["factual", "logical"],
            _ => return self.labels.clone(),
        };
        defaults.iter().map(ToString::to_string).collect()
    }

    /// The level of measurement for Krippendorff's alpha.
    #[must_use]
    pub fn level(&self) -> Level {
        let default = match self.annotation_type {
            AnnotationType::Ranking | AnnotationType::Pairwise => MeasurementLevel::Ordinal,
            AnnotationType::Scale => MeasurementLevel::Interval,
            AnnotationType::Spans | AnnotationType::Edit | AnnotationType::Label => MeasurementLevel::Nominal,
        };
        match self.level.unwrap_or(default) {
            MeasurementLevel::Nominal => Level::Nominal,
            MeasurementLevel::Ordinal => Level::Ordinal,
            MeasurementLevel::Interval => Level::Interval,
        }
    }

    /// Whether the question can be asked about an item with this many responses.
    #[must_use]
    pub fn applies(&self, n_responses: usize) -> bool {
        match self.annotation_type {
            AnnotationType::Ranking => n_responses >= 2,
            AnnotationType::Pairwise => n_responses == 2,
            AnnotationType::Scale | AnnotationType::Spans | AnnotationType::Edit => n_responses >= 1,
            AnnotationType::Label => true,
        }
    }

    fn check(&self) -> Result<(), RunError> {
        require_given(!self.name.trim().is_empty(), "question", "a `name` in every [[question]] table")?;
        let labels = self.labels();
        let n_distinct = labels.iter().collect::<BTreeSet<_>>().len();
        let bad = |found: String, expected: &str| {
            let found = format!("{found} (question `{}`)", self.name);
            Err(RunError::BadSetting { key: "question.labels", found, expected: expected.to_owned() })
        };
        if n_distinct < labels.len() || labels.iter().any(|label| label.trim().is_empty()) {
            return bad(format!("{labels:?}"), "different labels, none of them empty");
        }
        let n_steps = self.max.saturating_sub(self.min);
        match self.annotation_type {
            AnnotationType::Label if labels.len() < 2 => {
                bad(format!("{labels:?}"), "at least two labels to choose from")
            }
            AnnotationType::Scale if !(1..MAX_POINTS).contains(&n_steps) => {
                let found = format!("from {} to {} (question `{}`)", self.min, self.max, self.name);
                let expected = format!("`min` below `max`, at most {MAX_POINTS} points");
                Err(RunError::BadSetting { key: "question.max", found, expected })
            }
            _ => Ok(()),
        }
    }
}

impl AnnotateConfig {
    /// Reads a recipe; its paths become relative to where the program runs.
    ///
    /// # Errors
    /// When it is not TOML, a key is unknown, or a value does not fit; the error names the line.
    pub fn from_toml(text: &str, path: &Path) -> Result<Self, AnnotateError> {
        let mut config: Self = read_kind(text, path, FileKind::Annotation).map_err(RunError::from)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        recipe::resolve_run_paths(&mut config.data_dir, &mut config.output_dir, folder);
        let known = config.gold.iter_mut().chain(&mut config.attention).map(|known| &mut known.path);
        for path in known.chain(&mut config.guidelines) {
            *path = folder.join(&*path);
        }
        Ok(config)
    }

    /// The whole recipe, every default filled in, without tokens.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("a recipe is made of tables, lists, texts and numbers")
    }

    /// Checks everything that can be checked without the items.
    ///
    /// # Errors
    /// When a setting is missing or invalid.
    pub fn check(&self) -> Result<(), AnnotateError> {
        require_output_dir(&self.output_dir, "a folder for the project")?;
        require_data(&self.data)?;
        require_given(
            !self.annotator.is_empty(),
            "annotator",
            "at least one [[annotator]] table with a `name`",
        )?;
        require_given(!self.question.is_empty(), "question", "at least one [[question]] table")?;
        let seconds =
            [self.lease_secs, self.export_secs].map(|secs| usize::try_from(secs).unwrap_or(usize::MAX));
        require_counts([
            ("overlap", self.overlap),
            ("lease_secs", seconds[0]),
            ("export_secs", seconds[1]),
            ("n_resamples", self.n_resamples),
        ])?;
        require(self.overlap <= self.annotator.len(), || {
            let expected = "at most the number of [[annotator]] tables, or no item is ever complete";
            ("overlap", self.overlap.to_string(), expected)
        })?;
        require_positive("target_interval", self.target_interval)?;
        let Adjudication { max_scale_difference, min_span_f1 } = self.adjudication;
        require(max_scale_difference >= 0, || {
            ("adjudication.max_scale_difference", max_scale_difference.to_string(), "0 or more")
        })?;
        require_share("adjudication.min_span_f1", min_span_f1)?;
        let shares =
            [&self.gold, &self.attention].map(|known| known.as_ref().map_or(0.0, |known| known.share));
        require_share("gold.share", shares[0])?;
        require_share("attention.share", shares[1])?;
        require(shares[0] + shares[1] < 1.0, || {
            let found = format!("{} beside {}", shares[1], shares[0]);
            ("attention.share", found, "shares of gold items and checks that leave room for other items")
        })?;
        self.question.iter().try_for_each(Question::check)?;
        self.check_names()?;
        self.data.iter().try_for_each(|source| source.in_folder(&self.data_dir).check_as::<PromptRow>())?;
        Ok(())
    }

    /// Checks that names and tokens of people, and names of questions, are unique.
    fn check_names(&self) -> Result<(), RunError> {
        require_distinct(self.question.iter().map(|question| ("question.name", question.name.as_str())))?;
        let annotators = self.annotator.iter().map(|person| ("annotator.name", "annotator.token", person));
        let adjudicators =
            self.adjudicator.iter().map(|person| ("adjudicator.name", "adjudicator.token", person));
        let people: Vec<_> = annotators.chain(adjudicators).collect();
        for &(key, _, person) in &people {
            require(!person.name.trim().is_empty() && person.name != OWNER, || {
                (key, format!("{:?}", person.name), "a name that is neither empty nor `owner`")
            })?;
        }
        require_distinct(people.iter().map(|&(key, _, person)| (key, person.name.as_str())))?;
        let tokens = people.iter().map(|&(_, key, person)| (key, person.token.as_deref()));
        for (key, token) in tokens.chain([("owner_token", self.owner_token.as_deref())]) {
            let Some(token) = token else { continue };
            let is_plain = token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
            require(is_plain && token.len() >= MIN_TOKEN, || {
                let found = format!("a token of {} characters", token.chars().count());
                (key, found, "at least 12 ASCII letters, digits, `-` and `_`")
            })?;
        }
        Ok(())
    }
}

/// Who sees the status page.
pub(crate) const OWNER: &str = "owner";

/// Names with the key of each.
fn require_distinct<'a>(names: impl Iterator<Item = (&'static str, &'a str)>) -> Result<(), RunError> {
    let mut seen = BTreeSet::new();
    for (key, name) in names {
        require(seen.insert(name), || (key, format!("`{name}` twice"), "different names"))?;
    }
    Ok(())
}
