//! Merges as mergekit's YAML describes them, under the names that truing's merge recipes have.
//!
//! The two have the same shape, so this is mostly renaming. Where mergekit's default is another, the recipe says it:
//! `rescale` of DARE and DELLA. What mergekit accepts and nothing reads (`int8_mask`) is a remark; what would change
//! the result and is not done (`tokenizer.tokens`, several modules) is refused.

use std::path::Path;

use serde_json::{Map, Value as Json, json};

use crate::error::{ImportError, Place};
use crate::yaml::{self, Node, Value, python_float};

/// A merge recipe made of a mergekit file.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportedMerge {
    /// The recipe, under the names of truing's.
    pub recipe: Json,
    /// What was left out, and why it does not matter.
    pub remarks: Vec<String>,
}

const ROOT: [&str; 12] = [
    "merge_method",
    "base_model",
    "models",
    "slices",
    "modules",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "tokenizer",
    "chat_template",
    "name",
];
/// Settings that are numbers in both.
const NUMBERS: [&str; 7] = ["weight", "density", "gamma", "epsilon", "scale", "t", "lambda"];
/// Switches, and what they are called here.
const SWITCHES: [(&str, &str); 4] = [
    ("normalize", "normalize"),
    ("normalize_weights", "normalize"),
    ("filter_wise", "row_wise"),
    ("rescale", "rescale"),
];
/// Settings that decide nothing here, with the reason.
const IGNORED: [(&str, &str); 2] =
    [("int8_mask", "masks are never stored"), ("eps", "the numerical guards are fixed")];

/// Reads a mergekit file.
///
/// # Errors
/// When it is not YAML, a key or value is not mergekit's, or it asks for something that is not done here.
pub fn merge_recipe(text: &str, path: &Path) -> Result<ImportedMerge, ImportError> {
    let root = yaml::read(text, path)?;
    let mut reader = Reader { path, remarks: Vec::new() };
    reader.check_keys(&root, "", &ROOT)?;
    let mut recipe = Map::new();
    let method = match root.get("merge_method") {
        Some(node) => reader.text(node, "merge_method")?,
        None => {
            return Err(reader.refuse(root.place, "missing `merge_method`: not a mergekit file".to_owned()));
        }
    };
    recipe.insert("method".to_owned(), json!(method));
    if let Some(node) = root.get("base_model") {
        recipe.insert("base_model".to_owned(), json!(reader.text(node, "base_model")?));
    }
    reader.body(&root, &mut recipe)?;
    reader.dtypes(&root, &mut recipe)?;
    reader.tokenizer(&root, &mut recipe)?;
    if let Some(node) = root.get("chat_template") {
        let text = reader.text(node, "chat_template")?;
        if text != "auto" && !text.contains("{%") && !text.contains("{{") {
            let reason = format!(
                "`chat_template: {text}` is a template that comes with mergekit; expected `auto`, the text \
                 of a template, or leave it out and name a file in a recipe"
            );
            return Err(reader.refuse(node.place, reason));
        }
        recipe.insert("chat_template".to_owned(), json!(text));
    }
    // mergekit scales what DARE and DELLA keep to the sum of magnitudes unless told otherwise.
    if method.starts_with("dare") || method.starts_with("della") {
        let parameters = recipe.entry("parameters").or_insert_with(|| json!({}));
        if let Some(parameters) = parameters.as_object_mut() {
            parameters.entry("rescale").or_insert_with(|| json!("l1"));
        }
    }
    Ok(ImportedMerge { recipe: Json::Object(recipe), remarks: reader.remarks })
}

struct Reader<'a> {
    path: &'a Path,
    remarks: Vec<String>,
}

impl Reader<'_> {
    fn refuse(&self, place: Place, reason: String) -> ImportError {
        ImportError::Refused { path: self.path.to_path_buf(), place, reason }
    }

    fn misfit(&self, node: &Node, key: &str, expected: &str) -> ImportError {
        let found = match &node.value {
            Value::Null => "empty".to_owned(),
            Value::Bool(value) => value.to_string(),
            Value::Int(value) => value.to_string(),
            Value::Float(value) => value.to_string(),
            Value::Text(text) => format!("\"{text}\""),
            Value::List(_) => "a list".to_owned(),
            Value::Table(_) => "a table".to_owned(),
        };
        let (path, key, expected) = (self.path.to_path_buf(), key.to_owned(), expected.to_owned());
        ImportError::Value { path, place: node.place, key, found, expected }
    }

    /// A table with no other keys than these. `within` is what messages call it.
    fn check_keys(&self, node: &Node, within: &str, known: &[&str]) -> Result<(), ImportError> {
        let Value::Table(pairs) = &node.value else {
            return Err(self.misfit(
                node,
                if within.is_empty() { "the file" } else { within },
                "keys with values",
            ));
        };
        for pair in pairs {
            if known.contains(&pair.key.as_str()) {
                continue;
            }
            let near = known.iter().map(|name| (strsim::jaro_winkler(name, &pair.key), *name));
            let near = near.filter(|(score, _)| *score > 0.8).max_by(|a, b| a.0.total_cmp(&b.0));
            let hint = near.map_or_else(String::new, |(_, name)| format!("; did you mean `{name}`?"));
            let place = if within.is_empty() { String::new() } else { format!(" in {within}") };
            return Err(self.refuse(pair.place, format!("unknown mergekit key `{}`{place}{hint}", pair.key)));
        }
        Ok(())
    }

    fn text(&self, node: &Node, key: &str) -> Result<String, ImportError> {
        node.as_text().map(str::to_owned).ok_or_else(|| self.misfit(node, key, "a text"))
    }

    fn list<'n>(&self, node: &'n Node, key: &str) -> Result<&'n [Node], ImportError> {
        match &node.value {
            Value::List(items) if !items.is_empty() => Ok(items),
            _ => Err(self.misfit(node, key, "a list with at least one entry")),
        }
    }

    /// `models` or `slices`, and `parameters`; also of the only module.
    fn body(&mut self, node: &Node, recipe: &mut Map<String, Json>) -> Result<(), ImportError> {
        if let Some(parameters) = node.get("parameters") {
            let parameters = self.parameters(parameters, "parameters")?;
            recipe.insert("parameters".to_owned(), parameters);
        }
        if let Some(models) = node.get("models") {
            let mut list = Vec::new();
            for (i, model) in self.list(models, "models")?.iter().enumerate() {
                let within = format!("models.{i}");
                self.check_keys(model, &within, &["model", "parameters"])?;
                list.push(Json::Object(self.source(model, &within)?));
            }
            recipe.insert("models".to_owned(), Json::Array(list));
        }
        if let Some(slices) = node.get("slices") {
            let mut list = Vec::new();
            for (i, slice) in self.list(slices, "slices")?.iter().enumerate() {
                list.push(self.slice(slice, &format!("slices.{i}"))?);
            }
            recipe.insert("slices".to_owned(), Json::Array(list));
        }
        if let Some(modules) = node.get("modules") {
            let Value::Table(pairs) = &modules.value else {
                return Err(self.misfit(modules, "modules", "a table"));
            };
            let [module] = &pairs[..] else {
                let reason =
                    "several `modules`; only models that are one module, a text decoder, are merged here"
                        .to_owned();
                return Err(self.refuse(modules.place, reason));
            };
            self.check_keys(&module.node, "modules", &["models", "slices", "parameters"])?;
            let outer = recipe.remove("parameters");
            self.body(&module.node, recipe)?;
            if let (Some(Json::Object(outer)), parameters) =
                (outer, recipe.entry("parameters").or_insert_with(|| json!({})))
                && let Some(inner) = parameters.as_object_mut()
            {
                for (key, value) in outer {
                    inner.entry(key).or_insert(value);
                }
            }
        }
        Ok(())
    }

    fn slice(&mut self, slice: &Node, within: &str) -> Result<Json, ImportError> {
        self.check_keys(slice, within, &["sources", "base_model", "parameters"])?;
        let Some(sources) = slice.get("sources") else {
            return Err(self.refuse(slice.place, format!("{within} has no `sources`")));
        };
        let mut list = Vec::new();
        for (j, source) in self.list(sources, "sources")?.iter().enumerate() {
            let within = format!("{within}.sources.{j}");
            self.check_keys(source, &within, &["model", "layer_range", "parameters"])?;
            let mut entry = self.source(source, &within)?;
            let Some(range) = source.get("layer_range") else {
                return Err(self.refuse(source.place, format!("{within} has no `layer_range`")));
            };
            let layers = match &range.value {
                Value::List(items) => items.iter().map(|item| match item.value {
                    Value::Int(layer) => u64::try_from(layer).ok(),
                    _ => None,
                }),
                _ => return Err(self.misfit(range, "layer_range", "two layers, as in [0, 16]")),
            };
            match layers.collect::<Option<Vec<u64>>>().as_deref() {
                Some([first, end]) => entry.insert("layer_range".to_owned(), json!([first, end])),
                _ => return Err(self.misfit(range, "layer_range", "two layers, as in [0, 16]")),
            };
            list.push(Json::Object(entry));
        }
        let mut entry = Map::from_iter([("sources".to_owned(), Json::Array(list))]);
        if let Some(base) = slice.get("base_model") {
            entry.insert("base_model".to_owned(), json!(self.text(base, "base_model")?));
        }
        if let Some(parameters) = slice.get("parameters") {
            entry.insert(
                "parameters".to_owned(),
                self.parameters(parameters, &format!("{within}.parameters"))?,
            );
        }
        Ok(Json::Object(entry))
    }

    /// `model` and `parameters` of an entry. `model+adapter` names both.
    fn source(&mut self, node: &Node, within: &str) -> Result<Map<String, Json>, ImportError> {
        let Some(model) = node.get("model") else {
            return Err(self.refuse(node.place, format!("{within} has no `model`")));
        };
        let name = self.text(model, "model")?;
        let mut entry = Map::new();
        match name.split_once('+') {
            Some((model, adapter)) => {
                entry.insert("model".to_owned(), json!(model));
                entry.insert("adapter".to_owned(), json!(adapter));
            }
            None => drop(entry.insert("model".to_owned(), json!(name))),
        }
        if let Some(parameters) = node.get("parameters") {
            entry.insert(
                "parameters".to_owned(),
                self.parameters(parameters, &format!("{within}.parameters"))?,
            );
        }
        Ok(entry)
    }

    fn parameters(&mut self, node: &Node, within: &str) -> Result<Json, ImportError> {
        let names = || {
            let switches = SWITCHES.iter().map(|(name, _)| *name);
            NUMBERS.into_iter().chain(switches).chain(IGNORED.iter().map(|(name, _)| *name))
        };
        self.check_keys(node, within, &names().collect::<Vec<_>>())?;
        let Value::Table(pairs) = &node.value else { return Ok(json!({})) };
        let mut parameters = Map::new();
        for pair in pairs.iter().filter(|pair| !pair.node.is_null()) {
            let key = pair.key.as_str();
            if let Some((_, reason)) = IGNORED.iter().find(|(name, _)| *name == key) {
                self.remarks.push(format!("{within}: `{key}` is left out: {reason}"));
            } else if let Some((_, ours)) = SWITCHES.iter().find(|(name, _)| *name == key) {
                let Value::Bool(value) = pair.node.value else {
                    return Err(self.misfit(&pair.node, key, "true or false"));
                };
                let value = match (key, value) {
                    ("rescale", true) => json!("l1"),
                    ("rescale", false) => json!("none"),
                    (_, value) => json!(value),
                };
                parameters.insert((*ours).to_owned(), value);
            } else {
                parameters.insert(key.to_owned(), self.setting(&pair.node, key)?);
            }
        }
        Ok(Json::Object(parameters))
    }

    /// A number, a list of numbers, or entries with a filter.
    fn setting(&self, node: &Node, key: &str) -> Result<Json, ImportError> {
        let expected = "a number, a list of numbers, or entries of `filter` and `value`";
        let entry = |node: &Node| -> Result<Json, ImportError> {
            self.check_keys(node, key, &["filter", "value"])?;
            let value = node.get("value").ok_or_else(|| self.misfit(node, key, "an entry with a `value`"))?;
            let value = match &value.value {
                Value::List(items) => {
                    Json::Array(items.iter().map(|item| self.number(item, key)).collect::<Result<_, _>>()?)
                }
                _ => self.number(value, key)?,
            };
            let mut entry = Map::new();
            if let Some(filter) = node.get("filter") {
                entry.insert("filter".to_owned(), json!(self.text(filter, "filter")?));
            }
            entry.insert("value".to_owned(), value);
            Ok(Json::Object(entry))
        };
        match &node.value {
            Value::List(items) if items.is_empty() => Err(self.misfit(node, key, expected)),
            Value::List(items) if items.iter().all(|item| matches!(item.value, Value::Table(_))) => {
                Ok(Json::Array(items.iter().map(entry).collect::<Result<_, _>>()?))
            }
            Value::List(items) => {
                Ok(Json::Array(items.iter().map(|item| self.number(item, key)).collect::<Result<_, _>>()?))
            }
            Value::Table(_) => entry(node),
            _ => self.number(node, key),
        }
    }

    /// A number, also as a text: `1e-5` of YAML 1.1 is one.
    fn number(&self, node: &Node, key: &str) -> Result<Json, ImportError> {
        let value = match &node.value {
            Value::Int(value) => Some(*value as f64),
            Value::Float(value) => Some(*value),
            Value::Text(text) => python_float(text),
            _ => None,
        };
        let value = value.filter(|value| value.is_finite());
        value.map(|value| json!(value)).ok_or_else(|| self.misfit(node, key, "a finite number"))
    }

    fn dtypes(&mut self, root: &Node, recipe: &mut Map<String, Json>) -> Result<(), ImportError> {
        let read = |key: &str| -> Result<Option<&'static str>, ImportError> {
            let Some(node) = root.get(key) else { return Ok(None) };
            match self.text(node, key)?.trim_start_matches("torch.") {
                "float32" | "fp32" => Ok(Some("f32")),
                "bfloat16" | "bf16" => Ok(Some("bf16")),
                "float16" | "fp16" | "half" => Ok(Some("f16")),
                _ => Err(self.misfit(node, key, "float32, bfloat16 or float16")),
            }
        };
        let (computed, stored) = (read("dtype")?, read("out_dtype")?);
        if let Some(dtype) = stored.or(computed) {
            recipe.insert("save_dtype".to_owned(), json!(dtype));
        }
        if computed.is_some_and(|dtype| dtype != "f32") {
            self.remarks.push(
                "`dtype` is how the result is stored; sums are computed in float32 and float64".to_owned(),
            );
        }
        Ok(())
    }

    fn tokenizer(&mut self, root: &Node, recipe: &mut Map<String, Json>) -> Result<(), ImportError> {
        if let Some(node) = root.get("tokenizer_source") {
            recipe.insert("tokenizer".to_owned(), json!(self.text(node, "tokenizer_source")?));
        }
        let Some(node) = root.get("tokenizer") else { return Ok(()) };
        if root.get("tokenizer_source").is_some() {
            return Err(self.refuse(
                node.place,
                "both `tokenizer` and `tokenizer_source`, expected one of them".to_owned(),
            ));
        }
        self.check_keys(node, "tokenizer", &["source", "tokens", "pad_to_multiple_of"])?;
        for key in ["tokens", "pad_to_multiple_of"] {
            if let Some(node) = node.get(key) {
                return Err(self.refuse(node.place, format!("`tokenizer.{key}` is not done here")));
            }
        }
        let source = node.get("source").map_or(Ok("union".to_owned()), |node| self.text(node, "source"))?;
        recipe.insert("tokenizer".to_owned(), json!(source));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> ImportedMerge {
        merge_recipe(text, Path::new("m.yaml")).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn models_have_their_parameters() {
        let text = "merge_method: ties\nbase_model: org/base\nmodels:\n  - model: org/base\n  - model: org/math\n    \
                    parameters:\n      density: [1, 0.7, 0.1]\n      weight: 1e-1\n  - model: org/code+lora\n    \
                    parameters:\n      weight:\n        - filter: mlp\n          value: 0.5\n        - value: [0, 1]\n\
                    parameters:\n  normalize: yes\n  int8_mask: true\n  lambda: 0.5\ndtype: bfloat16\n";
        let imported = read(text);
        assert_eq!(
            imported.recipe,
            json!({
                "method": "ties", "base_model": "org/base",
                "parameters": {"normalize": true, "lambda": 0.5},
                "models": [
                    {"model": "org/base"},
                    {"model": "org/math", "parameters": {"density": [1.0, 0.7, 0.1], "weight": 0.1}},
                    {"model": "org/code", "adapter": "lora", "parameters": {"weight": [
                        {"filter": "mlp", "value": 0.5}, {"value": [0.0, 1.0]}]}},
                ],
                "save_dtype": "bf16",
            })
        );
        assert_eq!(imported.remarks[0], "parameters: `int8_mask` is left out: masks are never stored");
        assert_eq!(imported.remarks.len(), 2);
    }

    #[test]
    fn slices_modules_and_tokenizers_are_carried_over() {
        let text = "slices:\n  - sources:\n      - {model: a, layer_range: [0, 16]}\
                    \n      - {model: b, layer_range: [0, 16]}\n    parameters: {t: 0.3}\n\
                    merge_method: slerp\nbase_model: a\nout_dtype: float16\ndtype: float32\n\
                    tokenizer: {source: base}\nchat_template: auto\n";
        let recipe = read(text).recipe;
        assert_eq!(recipe["slices"][0]["sources"][1], json!({"model": "b", "layer_range": [0, 16]}));
        assert_eq!(recipe["slices"][0]["parameters"], json!({"t": 0.3}));
        assert_eq!(
            [&recipe["save_dtype"], &recipe["tokenizer"], &recipe["chat_template"]],
            ["f16", "base", "auto"]
        );
        let text = "modules:\n  default:\n    models: [{model: a}]\n    parameters: {weight: 2}\n\
                    parameters: {weight: 1, normalize: no}\n\
                    merge_method: linear\n";
        let recipe = read(text).recipe;
        assert_eq!(recipe["parameters"], json!({"weight": 2.0, "normalize": false}));
        assert_eq!(recipe["models"], json!([{"model": "a"}]));
    }

    #[test]
    fn dare_is_scaled_as_mergekit_scales() {
        let with = |method: &str, parameters: &str| {
            read(&format!(
                "merge_method: {method}\nbase_model: b\nmodels: [{{model: a}}]\n\
                 parameters: {{{parameters}}}\n"
            ))
            .recipe["parameters"]["rescale"]
                .clone()
        };
        assert_eq!(with("dare_ties", ""), "l1");
        assert_eq!(with("della", "rescale: true"), "l1");
        assert_eq!(with("dare_linear", "rescale: false"), "none");
        assert_eq!(with("ties", ""), Json::Null);
    }

    #[test]
    fn what_cannot_be_read_has_its_place() {
        let check = |text: &str, expected: &str| {
            let error = merge_recipe(text, Path::new("m.yaml")).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        let models = "models: [{model: a}]\n";
        check(models, "m.yaml:1:1: missing `merge_method`");
        check(
            &format!("{models}merge_metod: ties\n"),
            "m.yaml:2:1: unknown mergekit key `merge_metod`; did you mean `merge_method`?",
        );
        check(
            &format!("merge_method: ties\n{models}parameters: {{densty: 1}}\n"),
            "m.yaml:3:14: unknown mergekit key `densty` in parameters; did you mean `density`?",
        );
        check(
            &format!("merge_method: ties\n{models}parameters: {{weight: half}}\n"),
            "m.yaml:3:22: `weight` is \"half\", expected a finite number",
        );
        check(
            &format!("merge_method: ties\n{models}dtype: int8\n"),
            "m.yaml:3:8: `dtype` is \"int8\", expected float32, bfloat16 or float16",
        );
        check(
            "merge_method: passthrough\nslices: [{sources: [{model: a, layer_range: [1]}]}]\n",
            "`layer_range` is a list, expected two layers",
        );
        check(
            "merge_method: passthrough\nslices: [{sources: [{model: a}]}]\n",
            "slices.0.sources.0 has no `layer_range`",
        );
        check(
            &format!("merge_method: linear\n{models}tokenizer: {{tokens: {{x: 1}}}}\n"),
            "`tokenizer.tokens` is not done here",
        );
        check(
            &format!("merge_method: linear\n{models}chat_template: chatml\n"),
            "a template that comes with mergekit",
        );
        check(
            "merge_method: linear\nmodels: []\n",
            "`models` is a list, expected a list with at least one entry",
        );
    }
}
