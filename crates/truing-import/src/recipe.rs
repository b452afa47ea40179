//! The recipe that is written: keys in the order of `docs/recipes.md`, each with where it came from.

use std::fmt::Write as _;

/// Keys of `stage = "sft"`, `"dpo"` and `"reward_model"`, in their order.
pub(crate) const TRAINING_KEYS: &[&str] = &[
    "stage",
    "model_name_or_path",
    "output_dir",
    "data_dir",
    "seed",
    "max_length",
    "packing",
    "long_samples",
    "on_bad_row",
    "packs_per_step",
    "tokens_per_step",
    "num_train_epochs",
    "max_steps",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_ratio",
    "warmup_steps",
    "min_lr_ratio",
    "decay_ratio",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "freeze",
    "eval_fraction",
    "eval_steps",
    "eval_on_start",
    "save_steps",
    "save_total_limit",
    "keep_best",
    "load_best_model_at_end",
    "save_dtype",
    "chat_template",
    "logging_steps",
    "merge_adapter",
    "lora.rank",
    "lora.alpha",
    "lora.targets",
];
/// Keys of the tables of single stages.
pub(crate) const PREFERENCE_KEYS: &[&str] = &[
    "preference.loss",
    "preference.beta",
    "preference.label_smoothing",
    "preference.simpo_gamma",
    "preference.rpo_alpha",
    "preference.desirable_weight",
    "preference.undesirable_weight",
];
pub(crate) const REWARD_MODEL_KEYS: &[&str] =
    &["reward_model.mse_coefficient", "reward_model.center_rewards_coefficient", "reward_model.use_margins"];
/// Keys of `stage = "grpo"`, in their order.
pub(crate) const GRPO_KEYS: &[&str] = &[
    "stage",
    "model_name_or_path",
    "output_dir",
    "data_dir",
    "seed",
    "algorithm",
    "num_generations",
    "prompts_per_step",
    "max_prompt_length",
    "max_completion_length",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "stop",
    "beta",
    "kl",
    "kl_placement",
    "advantage_estimator",
    "scale_rewards",
    "epsilon",
    "epsilon_high",
    "loss_type",
    "importance_sampling_level",
    "dynamic_sampling",
    "max_resample_rounds",
    "mask_truncated_completions",
    "num_train_epochs",
    "max_steps",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_ratio",
    "warmup_steps",
    "min_lr_ratio",
    "decay_ratio",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "freeze",
    "eval_fraction",
    "eval_steps",
    "eval_on_start",
    "save_steps",
    "save_total_limit",
    "keep_best",
    "load_best_model_at_end",
    "num_iterations",
    "minibatches",
    "max_tokens_per_pack",
    "eval_temperature",
    "eval_num_generations",
    "merge_adapter",
    "lora.rank",
    "lora.alpha",
    "lora.targets",
    "shaping.clip",
    "reward_model.model_name_or_path",
    "reward_model.weight",
];

/// A line of a table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Line {
    key: String,
    /// As TOML.
    value: String,
    comment: String,
}

impl Line {
    pub(crate) fn new(key: &str, value: String, comment: impl Into<String>) -> Self {
        Self { key: key.to_owned(), value, comment: comment.into() }
    }
}

/// A recipe in the making.
#[derive(Debug, Default)]
pub(crate) struct Recipe {
    /// Keys of the top and of single tables, with dotted names.
    lines: Vec<Line>,
    /// Tables of lists, in their order: `data`, `eval_data`, `reward`.
    lists: Vec<(&'static str, Vec<Line>)>,
}

impl Recipe {
    /// Sets a key, again if it has a value already.
    pub(crate) fn set(&mut self, line: Line) {
        match self.lines.iter_mut().find(|known| known.key == line.key) {
            Some(known) => *known = line,
            None => self.lines.push(line),
        }
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.lines.iter().any(|line| line.key == key)
    }

    /// Appends a table to a list.
    pub(crate) fn push(&mut self, list: &'static str, lines: Vec<Line>) {
        self.lists.push((list, lines));
    }

    pub(crate) fn has_list(&self, list: &str) -> bool {
        self.lists.iter().any(|(name, _)| *name == list)
    }

    /// The text, below `header`, which is written as comments.
    pub(crate) fn text(&self, header: &[String], order: &[&str]) -> String {
        let mut text = String::new();
        for line in header {
            let _ = writeln!(text, "# {}", comment(line));
        }
        let at = |key: &str| order.iter().position(|known| *known == key).unwrap_or(order.len());
        let mut lines: Vec<&Line> = self.lines.iter().collect();
        lines.sort_by_key(|line| at(&line.key));
        for line in lines.iter().filter(|line| !line.key.contains('.')) {
            write_line(&mut text, &line.key, line);
        }
        let mut table = "";
        for line in lines.iter() {
            let Some((name, key)) = line.key.split_once('.') else { continue };
            if name != table {
                let _ = write!(text, "\n[{name}]\n");
                table = name;
            }
            write_line(&mut text, key, line);
        }
        let mut lists: Vec<&(&str, Vec<Line>)> = self.lists.iter().collect();
        lists.sort_by_key(|(name, _)| ["reward", "data", "eval_data"].iter().position(|known| known == name));
        for (name, lines) in lists {
            let _ = write!(text, "\n[[{name}]]\n");
            for line in lines {
                write_line(&mut text, &line.key, line);
            }
        }
        text
    }
}

fn write_line(text: &mut String, key: &str, line: &Line) {
    let _ = write!(text, "{key} = {}", line.value);
    if !line.comment.is_empty() {
        let _ = write!(text, "  # {}", comment(&line.comment));
    }
    text.push('\n');
}

/// One line without control characters, which TOML refuses in comments.
fn comment(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A string as TOML.
pub(crate) fn string(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// A number as TOML, as people write it: `2e-5`.
pub(crate) fn number(value: f64) -> String {
    if value.is_nan() {
        "nan".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "inf".to_owned() } else { "-inf".to_owned() }
    } else if value != 0.0 && value.abs() < 1e-3 {
        format!("{value:e}")
    } else {
        format!("{value:?}")
    }
}

/// A list of strings as TOML.
pub(crate) fn strings<S: AsRef<str>>(items: &[S]) -> String {
    let items: Vec<String> = items.iter().map(|item| string(item.as_ref())).collect();
    format!("[{}]", items.join(", "))
}

/// An inline table of strings as TOML.
pub(crate) fn mapping(pairs: &[(String, String)]) -> String {
    let quoted = |key: &str| {
        let is_bare =
            !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
        if is_bare { key.to_owned() } else { string(key) }
    };
    let pairs: Vec<String> =
        pairs.iter().map(|(key, value)| format!("{} = {}", quoted(key), string(value))).collect();
    format!("{{ {} }}", pairs.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_toml() {
        for (value, expected) in
            [(2e-5, "2e-5"), (0.1, "0.1"), (1.0, "1.0"), (0.0, "0.0"), (1e300, "1e300"), (-5e-4, "-5e-4")]
        {
            assert_eq!(number(value), expected);
            let table: toml::Table = format!("a = {}", number(value)).parse().unwrap();
            assert_eq!(table["a"].as_float(), Some(value));
        }
        for text in ["", "a\"b", "a'b\\n", "line\nbreak", "\u{7f}\u{0}", "😀"] {
            let table: toml::Table = format!("a = {}", string(text)).parse().unwrap();
            assert_eq!(table["a"].as_str(), Some(text));
            let table: toml::Table =
                format!("a = {}", mapping(&[(text.to_owned(), text.to_owned())])).parse().unwrap();
            assert_eq!(table["a"].get(text).and_then(|v| v.as_str()), Some(text));
        }
    }

    #[test]
    fn keys_are_in_order_and_tables_follow() {
        let mut recipe = Recipe::default();
        recipe.set(Line::new("lora.rank", "8".into(), "lora_r"));
        recipe.set(Line::new("learning_rate", "1e-4".into(), ""));
        recipe.set(Line::new("stage", "\"sft\"".into(), ""));
        recipe.set(Line::new("learning_rate", "2e-4".into(), "a\nb"));
        recipe.push("data", vec![Line::new("path", "\"a\"".into(), "")]);
        assert_eq!(
            recipe.text(&["from a.yaml".into()], TRAINING_KEYS),
            "# from a.yaml\nstage = \"sft\"\nlearning_rate = 2e-4  # a b\n\n[lora]\nrank = 8  # lora_r\n\n\
             [[data]]\npath = \"a\"\n"
        );
    }
}
