//! What the keys of other tools are in truing: [`counterpart`] for one key, the tables for all.

use std::fmt;

use crate::answer::{Answer, Group};
use crate::tables;

/// A tool whose files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tool {
    /// TRL: the YAML of `trl sft --config`.
    Trl,
    /// axolotl: the YAML of `axolotl train`.
    Axolotl,
    /// LLaMA-Factory: the YAML of `llamafactory-cli train`.
    LlamaFactory,
    /// verl: the configuration of `verl.trainer.main_ppo`.
    Verl,
}

impl Tool {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Trl, Self::Axolotl, Self::LlamaFactory, Self::Verl];

    /// Its name as people write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Trl => "TRL",
            Self::Axolotl => "axolotl",
            Self::LlamaFactory => "LLaMA-Factory",
            Self::Verl => "verl",
        }
    }

    /// Its name on a command line.
    #[must_use]
    pub fn option(self) -> &'static str {
        match self {
            Self::Trl => "trl",
            Self::Axolotl => "axolotl",
            Self::LlamaFactory => "llama-factory",
            Self::Verl => "verl",
        }
    }

    /// The tool with this name on a command line.
    #[must_use]
    pub fn from_option(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tool| tool.option() == name)
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The tables of a tool: keys of its file, then keys of its data sets.
fn tables_of(tool: Tool) -> [Vec<&'static [Group]>; 2] {
    match tool {
        Tool::Trl => [vec![tables::TRL, tables::TRANSFORMERS], vec![tables::TRL_DATA]],
        Tool::Axolotl => [vec![tables::AXOLOTL], vec![tables::AXOLOTL_DATA]],
        Tool::LlamaFactory => {
            [vec![tables::LLAMA_FACTORY, tables::TRANSFORMERS], vec![tables::LLAMA_FACTORY_DATA]]
        }
        Tool::Verl => [vec![tables::VERL], Vec::new()],
    }
}

fn find(tables: &[&'static [Group]], key: &str) -> Option<&'static Answer> {
    // A whole name before the beginning of one.
    let groups = || tables.iter().flat_map(|groups| groups.iter());
    let whole = groups().find(|group| group.names.contains(&key));
    let by_beginning = || groups().find(|group| group.has(key)).filter(|_| slip_of(tables, key).is_none());
    whole.or_else(by_beginning).map(|group| &group.answer)
}

/// The whole name that a key is a slip of: one or two letters differ. The beginnings of names would hide it.
fn slip_of(tables: &[&'static [Group]], key: &str) -> Option<&'static str> {
    let names = tables.iter().flat_map(|groups| groups.iter()).flat_map(|group| group.names.iter().copied());
    let names = names.filter(|name| !name.ends_with('*') && name.len().abs_diff(key.len()) <= 2);
    let scored = names.map(|name| (strsim::osa_distance(name, key), name));
    scored.filter(|(distance, _)| (1..=2).contains(distance)).min().map(|(_, name)| name)
}

/// The answer for a key of a tool's file.
pub(crate) fn answer(tool: Tool, key: &str) -> Option<&'static Answer> {
    find(&tables_of(tool)[0], key)
}

/// The answer for a key of a tool's data sets.
pub(crate) fn data_answer(tool: Tool, key: &str) -> Option<&'static Answer> {
    find(&tables_of(tool)[1], key)
}

/// Every whole name among the keys of a tool's file.
pub(crate) fn names(tool: Tool) -> impl Iterator<Item = &'static str> {
    let [tables, _] = tables_of(tool);
    let groups = tables.into_iter().flat_map(|groups| groups.iter());
    groups.flat_map(|group| group.names.iter().copied()).filter(|name| !name.ends_with('*'))
}

/// The known key that is written most like an unknown one.
pub(crate) fn nearest(tool: Tool, key: &str) -> Option<&'static str> {
    let scored = names(tool).map(|name| (strsim::jaro_winkler(name, key), name));
    scored.filter(|(score, _)| *score > 0.85).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
}

/// Whether a tool, or its data sets, have a key. Tables of keys are known as well.
#[must_use]
pub fn is_known(tool: Tool, key: &str) -> bool {
    answer(tool, key).or_else(|| data_answer(tool, key)).is_some()
}

/// The keys of a tool's file.
pub fn keys_of(tool: Tool) -> impl Iterator<Item = &'static str> {
    names(tool)
}

/// How a key of another tool relates to truing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// The same setting under another name.
    Renamed,
    /// Settings with another value or meaning.
    Converted,
    /// Something else than a key does it.
    Instead,
    /// Nothing has to be set.
    NotNeeded,
    /// There is no such thing.
    NotAvailable,
}

/// A key of other tools and what it is in truing. [`Display`](fmt::Display) is a sentence without a full stop, to be
/// written after "unknown key `...`: ".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counterpart {
    tools: Vec<Tool>,
    answers: Vec<Answer>,
}

impl Counterpart {
    /// The tools that have the key.
    #[must_use]
    pub fn tools(&self) -> &[Tool] {
        &self.tools
    }

    /// How it relates to truing; where the tools mean different things, for the first of them.
    #[must_use]
    pub fn meaning(&self) -> Meaning {
        match self.answers[0] {
            Answer::Key(..) => Meaning::Renamed,
            Answer::Becomes(_) => Meaning::Converted,
            Answer::Instead(_) => Meaning::Instead,
            Answer::NoEffect(_) => Meaning::NotNeeded,
            Answer::NotAvailable(_) => Meaning::NotAvailable,
        }
    }

    /// The key of truing with the same meaning and value, if there is one.
    #[must_use]
    pub fn key(&self) -> Option<&'static str> {
        match self.answers[0] {
            Answer::Key(key, _) => Some(key),
            _ => None,
        }
    }
}

impl fmt::Display for Counterpart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tools: Vec<&str> = self.tools.iter().map(|tool| tool.name()).collect();
        write!(f, "a key of {}; ", listed(&tools))?;
        for (i, answer) in self.answers.iter().enumerate() {
            if i > 0 {
                f.write_str("; or ")?;
            }
            write!(f, "{answer}")?;
        }
        Ok(())
    }
}

/// `a`, `a and b`, `a, b and c`.
pub(crate) fn listed(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// What a key of TRL, axolotl, LLaMA-Factory or verl is in truing. `None` if none of them has it, or if truing has it
/// under the same name.
///
/// `key` is a name, or the dotted path of a key in a recipe: of `preference.pref_beta` the last part is looked up too.
///
/// ```
/// let found = truing_import::counterpart("per_device_train_batch_size").unwrap();
/// assert_eq!(
///     found.to_string(),
///     "a key of TRL and LLaMA-Factory; in truing a step is counted in packs: `packs_per_step` or `tokens_per_step`"
/// );
/// assert!(truing_import::counterpart("no_such_key").is_none());
/// ```
#[must_use]
pub fn counterpart(key: &str) -> Option<Counterpart> {
    let last = key.rsplit('.').next().filter(|last| *last != key);
    [Some(key), last].into_iter().flatten().find_map(named)
}

fn named(key: &str) -> Option<Counterpart> {
    let mut found = Counterpart { tools: Vec::new(), answers: Vec::new() };
    for tool in Tool::ALL {
        let own = answer(tool, key).or_else(|| data_answer(tool, key));
        // A table of verl, such as `actor_rollout_ref`.
        let is_table = tool == Tool::Verl
            && names(tool).any(|name| name.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')));
        let table = Answer::Instead("`truing import` translates verl's tables");
        let Some(answer) = own.copied().or_else(|| is_table.then_some(table)) else { continue };
        let is_same = match answer {
            Answer::Key(same, _) => same == key,
            Answer::Becomes(what) => what == format!("it is `{key}`"),
            _ => false,
        };
        // Data sets of LLaMA-Factory and verl's `data` are tables that truing has as well.
        if is_same || ["data", "reward", "reward_model", "columns"].contains(&key) {
            continue;
        }
        found.tools.push(tool);
        if !found.answers.contains(&answer) {
            found.answers.push(answer);
        }
    }
    (!found.tools.is_empty()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_is_in_a_table_twice() {
        for tool in Tool::ALL {
            for tables in tables_of(tool) {
                let all = tables.iter().flat_map(|groups| groups.iter());
                let mut names: Vec<&str> = all.flat_map(|group| group.names.iter().copied()).collect();
                names.sort_unstable();
                let twice: Vec<_> =
                    names.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
                assert!(twice.is_empty(), "{tool}: {twice:?}");
            }
        }
    }

    #[test]
    fn a_key_is_translated_in_a_sentence() {
        let check = |key: &str, expected: &str| {
            assert_eq!(counterpart(key).map(|found| found.to_string()).as_deref(), Some(expected), "{key}");
        };
        check("sequence_len", "a key of axolotl; in truing it is `max_length`");
        check("lora_rank", "a key of LLaMA-Factory; in truing it is `[lora] rank`");
        check("preference.pref_beta", "a key of LLaMA-Factory; in truing it is `[preference] beta`");
        check("actor_rollout_ref.rollout.n", "a key of verl; in truing it is `num_generations`");
        check("actor_rollout_ref", "a key of verl; in truing `truing import` translates verl's tables");
        check(
            "load_in_4bit",
            "a key of TRL and axolotl; not available in truing: base weights are not quantised",
        );
        check(
            "report_to",
            "a key of TRL and LLaMA-Factory; in truing the option `--metrics-command` sends the metrics to an \
             experiment tracker; docs/fine-tune.md has the script for Weights & Biases",
        );
        check(
            "push_to_hub",
            "a key of TRL, axolotl and LLaMA-Factory; not available in truing: nothing is uploaded; the folder \
             `model` in `output_dir` has the layout of the hub, to be uploaded as it is",
        );
        check(
            "bf16",
            "a key of TRL, axolotl and LLaMA-Factory; not needed in truing: computation and the saved model are \
             in float32; `compute_dtype = \"bf16\"` multiplies in bf16, and `save_dtype = \"bf16\"` saves the \
             model in half the size, rounded",
        );
        for same in ["learning_rate", "model_name_or_path", "max_grad_norm", "data", "no_such_key", "", "."] {
            assert_eq!(counterpart(same), None, "{same}");
        }
        assert_eq!(counterpart("cutoff_len").unwrap().key(), Some("max_length"));
        assert_eq!(counterpart("cutoff_len").unwrap().meaning(), Meaning::Renamed);
        assert_eq!(counterpart("neftune_noise_alpha").unwrap().meaning(), Meaning::NotAvailable);
    }

    #[test]
    fn an_unknown_key_has_a_nearest_one() {
        assert_eq!(nearest(Tool::LlamaFactory, "cutof_len"), Some("cutoff_len"));
        assert_eq!(nearest(Tool::Trl, "zzz"), None);
        // The beginnings of names do not hide slips.
        assert!(is_known(Tool::Verl, "trainer.n_gpus_per_node"));
        assert!(!is_known(Tool::Verl, "trainer.total_epoch"));
        assert_eq!(nearest(Tool::Verl, "trainer.total_epoch"), Some("trainer.total_epochs"));
    }
}
