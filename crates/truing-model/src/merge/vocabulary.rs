//! Vocabularies of `tokenizer.json`, and which row of each model's embedding belongs to which row of the merged one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use truing_types::counted;

use super::MergeError;
use crate::ModelError;

const TOKENIZER: &str = "tokenizer.json";

/// The tokens of a model, with their ids.
#[derive(Debug, Clone)]
pub(super) struct Vocabulary {
    /// The folder that it was read from.
    pub(super) folder: PathBuf,
    ids: HashMap<String, u32>,
    json: Value,
}

/// Where a row of a model's embedding comes from.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum RowSource {
    /// A row of the model itself.
    Own(usize),
    /// The mean of rows of other models, since the model does not have the token.
    Others(Vec<(usize, usize)>),
}

/// For each model the sources of the merged embedding's rows; `None` where they are the model's own, in order.
#[derive(Debug, Clone, Default)]
pub(super) struct RowMaps {
    /// Rows of the merged embedding.
    pub(super) n_rows: usize,
    pub(super) of_model: Vec<Option<Vec<RowSource>>>,
}

impl Vocabulary {
    /// Reads the vocabulary of a folder.
    pub(super) fn read(folder: &Path) -> Result<Self, MergeError> {
        let path = folder.join(TOKENIZER);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(MergeError::NoTokenizer { path: folder.to_path_buf() });
            }
            Err(source) => return Err(ModelError::Io { path, source }.into()),
        };
        let malformed = |problem: String| ModelError::Malformed { path: path.clone(), problem };
        let json: Value = serde_json::from_slice(&bytes)
            .map_err(|error| malformed(format!("not a JSON object: {error}")))?;
        let mut ids = HashMap::new();
        let id_of = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let bad = || malformed("`model.vocab`: expected an object of ids or a list of tokens".to_owned());
        match json.pointer("/model/vocab") {
            Some(Value::Object(vocab)) => {
                for (token, id) in vocab {
                    ids.insert(token.clone(), id_of(id).ok_or_else(bad)?);
                }
            }
            Some(Value::Array(vocab)) => {
                for (id, entry) in vocab.iter().enumerate() {
                    let token = entry.get(0).and_then(Value::as_str).ok_or_else(bad)?;
                    ids.entry(token.to_owned()).or_insert(id as u32);
                }
            }
            _ => return Err(bad().into()),
        }
        for token in json.get("added_tokens").and_then(Value::as_array).into_iter().flatten() {
            let parts = token.get("content").and_then(Value::as_str).zip(token.get("id").and_then(id_of));
            let (content, id) =
                parts.ok_or_else(|| malformed("an added token without content or id".to_owned()))?;
            ids.insert(content.to_owned(), id);
        }
        Ok(Self { folder: folder.to_path_buf(), ids, json })
    }

    /// One more than the highest id.
    pub(super) fn n_ids(&self) -> usize {
        self.ids.values().max().map_or(0, |id| *id as usize + 1)
    }

    /// How another vocabulary differs, in words.
    pub(super) fn difference(&self, other: &Self) -> Option<String> {
        let mut differing: BTreeSet<(u32, &str)> = BTreeSet::new();
        for (token, id) in &self.ids {
            if other.ids.get(token) != Some(id) {
                differing.insert((*id, token));
            }
        }
        for (token, id) in &other.ids {
            if !self.ids.contains_key(token) {
                differing.insert((*id, token));
            }
        }
        let (_, first) = differing.first()?;
        let id = |vocabulary: &Self| {
            vocabulary.ids.get(*first).map_or_else(|| "missing".to_owned(), |id| format!("id {id}"))
        };
        Some(format!(
            "{} not the same, the first is `{first}` ({} and {})",
            counted(differing.len() as u64, "token is", "tokens are"),
            id(self),
            id(other)
        ))
    }

    /// This vocabulary with the tokens of others that it does not have, behind its own in the order of their ids.
    pub(super) fn union(&self, others: &[&Self]) -> Result<Self, MergeError> {
        let mut union = self.clone();
        for other in others {
            let mut missing: Vec<(u32, &String)> = other
                .ids
                .iter()
                .filter(|(token, _)| !union.ids.contains_key(*token))
                .map(|(t, id)| (*id, t))
                .collect();
            missing.sort_unstable();
            if !missing.is_empty() {
                union.append(&missing, other)?;
            }
        }
        Ok(union)
    }

    fn append(&mut self, missing: &[(u32, &String)], other: &Self) -> Result<(), MergeError> {
        let refuse = |problem: String| {
            super::check::invalid(format!(
                "the vocabularies of {} and {} have no union: {problem}. Set `tokenizer` to \"base\"",
                self.folder.display(),
                other.folder.display()
            ))
        };
        let added: HashMap<&str, &Value> = added_tokens(&other.json).collect();
        let (plain, special): (Vec<_>, Vec<_>) =
            missing.iter().partition(|(_, token)| !added.contains_key(token.as_str()));
        let kind =
            |json: &Value| json.pointer("/model/type").and_then(Value::as_str).unwrap_or("BPE").to_owned();
        let (ours, theirs) = (kind(&self.json), kind(&other.json));
        if let Some((_, first)) = plain.first() {
            let n = counted(plain.len() as u64, "token", "tokens");
            if ours != theirs || !["BPE", "WordPiece", "WordLevel"].contains(&ours.as_str()) {
                return Err(refuse(format!(
                    "{n} of the second ({first:?} is one) would have to be made by a {ours} of a {theirs}; only added tokens can be carried over"
                )));
            }
            for part in ["normalizer", "pre_tokenizer", "decoder"] {
                if self.json.get(part) != other.json.get(part) {
                    return Err(refuse(format!("{n} differ, and so does the `{part}` of tokenizer.json")));
                }
            }
        }
        if self.json.pointer("/model/vocab").is_some_and(Value::is_array) {
            return Err(refuse(format!(
                "the ids of a {ours} vocabulary are its order, to which nothing can be added"
            )));
        }
        // Ids that a tokenizer gives to added tokens follow from the size of its vocabulary, so all of them get an entry there.
        let mut entries: Vec<(String, u32)> =
            added_tokens(&self.json).map(|(token, _)| (token.to_owned(), self.ids[token])).collect();
        let first = self.n_ids() as u32;
        let mut new_added = Vec::new();
        for (next, (_, token)) in (first..).zip(plain.iter().chain(&special)) {
            entries.push(((*token).clone(), next));
            self.ids.insert((*token).clone(), next);
            if let Some(token) = added.get(token.as_str()) {
                let mut token = (*token).clone();
                token["id"] = json!(next);
                new_added.push(token);
            }
        }
        if let Some(vocab) = self.json.pointer_mut("/model/vocab").and_then(Value::as_object_mut) {
            vocab.extend(entries.into_iter().map(|(token, id)| (token, json!(id))));
        }
        if !new_added.is_empty() {
            let list =
                self.json.as_object_mut().map(|json| json.entry("added_tokens").or_insert_with(|| json!([])));
            list.and_then(Value::as_array_mut).into_iter().for_each(|list| list.append(&mut new_added));
        }
        if !plain.is_empty() {
            self.append_merges(other);
        }
        Ok(())
    }

    /// Pairs of the other's BPE merges that are new, after all of ours: they act where ours find nothing more.
    fn append_merges(&mut self, other: &Self) {
        let pairs = |json: &Value| -> Vec<(String, String)> {
            let merges = json.pointer("/model/merges").and_then(Value::as_array).into_iter().flatten();
            merges
                .filter_map(|merge| match merge {
                    Value::String(text) => text.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())),
                    pair => Some((pair.get(0)?.as_str()?.to_owned(), pair.get(1)?.as_str()?.to_owned())),
                })
                .collect()
        };
        let known: BTreeSet<(String, String)> = pairs(&self.json).into_iter().collect();
        let new: Vec<(String, String)> =
            pairs(&other.json).into_iter().filter(|pair| !known.contains(pair)).collect();
        if let Some(merges) = self.json.pointer_mut("/model/merges").and_then(Value::as_array_mut) {
            let as_text = merges.first().is_some_and(Value::is_string);
            merges.extend(
                new.into_iter().map(|(a, b)| if as_text { json!(format!("{a} {b}")) } else { json!([a, b]) }),
            );
        }
    }

    /// The files of the tokenizer: those of its folder, with the vocabulary as it is now.
    pub(super) fn files(&self, mut files: Vec<(String, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
        // In files that say the same in other words the added tokens would be missing.
        let replaced = ["added_tokens.json", "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model"];
        files.retain(|(name, _)| !replaced.contains(&name.as_str()));
        for (name, content) in &mut files {
            match name.as_str() {
                TOKENIZER => *content = text_of(&self.json),
                "tokenizer_config.json" => self.put_added_tokens(content),
                _ => {}
            }
        }
        files
    }

    /// tokenizer_config.json repeats the added tokens by id.
    fn put_added_tokens(&self, content: &mut Vec<u8>) {
        let Ok(mut config) = serde_json::from_slice::<Map<String, Value>>(content) else { return };
        let Some(Value::Object(decoder)) = config.get_mut("added_tokens_decoder") else { return };
        for (_, token) in added_tokens(&self.json) {
            let mut token = token.clone();
            let id = token.as_object_mut().and_then(|token| token.remove("id"));
            decoder.entry(id.unwrap_or_default().to_string()).or_insert(token);
        }
        *content = text_of(&Value::Object(config));
    }
}

fn text_of(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

fn added_tokens(json: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let tokens = json.get("added_tokens").and_then(Value::as_array).into_iter().flatten();
    tokens.filter_map(|token| Some((token.get("content")?.as_str()?, token)))
}

impl RowMaps {
    /// Matches rows by token. `models` are the vocabularies and numbers of rows of all models; a token that a model lacks
    /// gets the row of the only model that has it, else that of `base`, else the mean of those that have it, as in mergekit.
    /// A row without a token (padding) is the one of `base` in every model, or of the first model that has the row.
    pub(super) fn new(
        merged: &Vocabulary,
        n_rows: usize,
        models: &[(&Vocabulary, usize)],
        base: usize,
    ) -> Self {
        let mut token_of: BTreeMap<usize, &str> = BTreeMap::new();
        for (token, id) in &merged.ids {
            let entry = token_of.entry(*id as usize).or_insert(token);
            // Of two texts of one id the smaller, so that the choice is always the same.
            if token.as_str() < *entry {
                *entry = token;
            }
        }
        let row_in = |model: usize, row: usize| -> Option<usize> {
            let (vocabulary, n_rows) = models[model];
            let row = *vocabulary.ids.get(*token_of.get(&row)?)? as usize;
            (row < n_rows).then_some(row)
        };
        let donors_of = |row: usize| -> Vec<(usize, usize)> {
            if !token_of.contains_key(&row) {
                let order = std::iter::once(base).chain(0..models.len());
                return order
                    .filter(|&model| row < models[model].1)
                    .map(|model| (model, row))
                    .take(1)
                    .collect();
            }
            let all: Vec<(usize, usize)> =
                (0..models.len()).filter_map(|model| Some((model, row_in(model, row)?))).collect();
            match row_in(base, row) {
                Some(row) if all.len() > 1 => vec![(base, row)],
                _ => all,
            }
        };
        let of_model = (0..models.len()).map(|model| {
            let sources: Vec<RowSource> = (0..n_rows)
                .map(|row| match row_in(model, row) {
                    Some(own) => RowSource::Own(own),
                    None => match donors_of(row)[..] {
                        [(donor, row)] if donor == model => RowSource::Own(row),
                        ref donors => RowSource::Others(donors.to_vec()),
                    },
                })
                .collect();
            let is_own = sources.iter().enumerate().all(|(row, source)| *source == RowSource::Own(row));
            (!is_own || models[model].1 != n_rows).then_some(sources)
        });
        let of_model = of_model.collect();
        Self { n_rows, of_model }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocabulary(tokens: &[(&str, u32)], added: &[(&str, u32)], merges: &[[&str; 2]]) -> Vocabulary {
        let vocab: Map<String, Value> =
            tokens.iter().map(|(token, id)| ((*token).to_owned(), json!(id))).collect();
        let added: Vec<Value> = added
            .iter()
            .map(|(content, id)| json!({"id": id, "content": content, "special": true}))
            .collect();
        let json = json!({
            "added_tokens": added, "normalizer": null, "pre_tokenizer": null, "decoder": null,
            "model": {"type": "BPE", "vocab": vocab, "merges": merges},
        });
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(TOKENIZER), json.to_string()).unwrap();
        Vocabulary::read(folder.path()).unwrap()
    }

    #[test]
    fn differences_are_counted_and_the_first_is_named() {
        let a = vocabulary(&[("a", 0), ("b", 1)], &[("<s>", 2)], &[]);
        assert_eq!(a.difference(&a), None);
        let b = vocabulary(&[("a", 0), ("b", 1)], &[("<t>", 2), ("<s>", 3)], &[]);
        assert_eq!(
            a.difference(&b).unwrap(),
            "2 tokens are not the same, the first is `<s>` (id 2 and id 3)"
        );
        let c = vocabulary(&[("a", 0), ("b", 1)], &[], &[]);
        assert_eq!(
            a.difference(&c).unwrap(),
            "1 token is not the same, the first is `<s>` (id 2 and missing)"
        );
    }

    #[test]
    fn a_union_keeps_ids_and_appends_tokens_and_merges() {
        let a = vocabulary(&[("a", 0), ("b", 1), ("ab", 2)], &[("<s>", 5)], &[["a", "b"]]);
        let b = vocabulary(&[("a", 0), ("b", 1), ("ba", 2)], &[("<t>", 3), ("<s>", 4)], &[["b", "a"]]);
        let union = a.union(&[&b, &a]).unwrap();
        assert_eq!(union.n_ids(), 8);
        let ids = |token: &str| union.ids[token];
        assert_eq!(["a", "b", "ab", "<s>", "ba", "<t>"].map(ids), [0, 1, 2, 5, 6, 7]);
        assert_eq!(union.json.pointer("/model/merges").unwrap(), &json!([["a", "b"], ["b", "a"]]));
        assert_eq!(
            union.json.pointer("/model/vocab/<t>").unwrap(),
            &json!(7),
            "ids of added tokens are fixed"
        );
        assert_eq!(union.json.pointer("/model/vocab/<s>").unwrap(), &json!(5));
        assert_eq!(union.json.pointer("/added_tokens/1/id").unwrap(), &json!(7));
    }

    #[test]
    fn rows_follow_their_tokens() {
        let a = vocabulary(&[("a", 0), ("b", 1)], &[("<s>", 2)], &[]);
        let b = vocabulary(&[("b", 0), ("a", 1)], &[("<t>", 2)], &[]);
        let union = a.union(&[&b]).unwrap();
        // Row 3 of the first model is padding, which `<t>` takes.
        let maps = RowMaps::new(&union, 5, &[(&a, 5), (&b, 3)], 0);
        use RowSource::{Others, Own};
        let first = maps.of_model[0].as_ref().unwrap();
        assert_eq!(first[..], [Own(0), Own(1), Own(2), Others(vec![(1, 2)]), Own(4)]);
        let second = maps.of_model[1].as_ref().unwrap();
        assert_eq!(second[..], [Own(1), Own(0), Others(vec![(0, 2)]), Own(2), Others(vec![(0, 4)])]);
        let same = RowMaps::new(&a, 3, &[(&a, 3), (&a, 3)], 0);
        assert!(same.of_model.iter().all(Option::is_none));
    }

    #[test]
    fn a_token_that_several_models_have_and_the_base_has_not_is_their_mean() {
        let base = vocabulary(&[("a", 0)], &[], &[]);
        let [b, c] = [1, 2].map(|_| vocabulary(&[("a", 0), ("b", 1)], &[], &[]));
        let union = base.union(&[&b, &c]).unwrap();
        let maps = RowMaps::new(&union, 2, &[(&base, 1), (&b, 2), (&c, 2)], 0);
        let base = maps.of_model[0].as_ref().unwrap();
        assert_eq!(base[1], RowSource::Others(vec![(1, 1), (2, 1)]));
    }
}
