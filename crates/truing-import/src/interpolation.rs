//! `${data.max_prompt_length}` in files of OmegaConf, which LLaMA-Factory and verl read.

use std::path::Path;

use crate::error::ImportError;
use crate::job::as_text;
use crate::yaml::{Node, Value};

/// References to references at most.
const MAX_DEPTH: usize = 16;

/// Replaces references by the values that they name.
pub(crate) fn resolve(mut root: Node, path: &Path) -> Result<Node, ImportError> {
    let source = root.clone();
    replace(&mut root, &source, path)?;
    Ok(root)
}

fn replace(node: &mut Node, root: &Node, path: &Path) -> Result<(), ImportError> {
    match &mut node.value {
        Value::List(items) => items.iter_mut().try_for_each(|item| replace(item, root, path)),
        Value::Table(pairs) => pairs.iter_mut().try_for_each(|pair| replace(&mut pair.node, root, path)),
        Value::Text(text) if text.contains("${") => {
            let value = value_of(text, root, MAX_DEPTH).map_err(|reason| ImportError::Yaml {
                path: path.to_path_buf(),
                place: node.place,
                reason,
            })?;
            node.value = value;
            Ok(())
        }
        _ => Ok(()),
    }
}

fn value_of(text: &str, root: &Node, depth: usize) -> Result<Value, String> {
    if depth == 0 {
        return Err(format!("`{text}` refers to itself"));
    }
    let mut rest = text;
    let mut joined = String::new();
    while let Some(start) = rest.find("${") {
        let Some(end) = rest[start..].find('}').map(|end| start + end) else {
            return Err(format!("`{text}` has a `${{` that is not closed"));
        };
        let value = named(&rest[start + 2..end], root, depth)?;
        if start == 0 && end + 1 == text.len() && joined.is_empty() {
            return Ok(value);
        }
        joined.push_str(&rest[..start]);
        let node = Node { place: root.place, value };
        joined.push_str(&as_text(&node).ok_or_else(|| format!("`{text}` refers to a list or a table"))?);
        rest = &rest[end + 1..];
    }
    joined.push_str(rest);
    Ok(Value::Text(joined))
}

/// The value of a dotted name, or of `oc.select:name,default`.
fn named(name: &str, root: &Node, depth: usize) -> Result<Value, String> {
    let (name, default) = match name.strip_prefix("oc.select:") {
        Some(rest) => match rest.split_once(',') {
            Some((name, default)) => (name, Some(default.trim())),
            None => (rest, None),
        },
        None => (name, None),
    };
    if name.contains([':', '$', '{']) {
        return Err(format!("`${{{name}}}` is not read; write its value"));
    }
    let mut node = root;
    for part in name.trim().split('.') {
        match node.get(part) {
            Some(next) => node = next,
            None => {
                return default.map(plain).ok_or_else(|| format!("`${{{name}}}`: the file has no `{name}`"));
            }
        }
    }
    match &node.value {
        Value::Text(text) if text.contains("${") => value_of(text, root, depth - 1),
        value => Ok(value.clone()),
    }
}

fn plain(text: &str) -> Value {
    match text {
        "null" => Value::Null,
        text => text.parse().map(Value::Int).unwrap_or_else(|_| match text.to_lowercase().as_str() {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            _ => Value::Text(text.to_owned()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml;

    fn resolved(text: &str) -> Result<Node, ImportError> {
        let path = Path::new("a.yaml");
        resolve(yaml::read(text, path)?, path)
    }

    #[test]
    fn references_are_replaced() {
        let root =
            resolved("a: {n: 5, m: '${a.n}'}\nb: out/${a.n}/${c}\nc: '${a.m}'\nd: '${oc.select:x.y,7}'\n")
                .unwrap();
        assert_eq!(root.get("c").unwrap().value, Value::Int(5));
        assert_eq!(root.get("b").unwrap().value, Value::Text("out/5/5".into()));
        assert_eq!(root.get("d").unwrap().value, Value::Int(7));
    }

    #[test]
    fn references_that_lead_nowhere_are_named() {
        let check =
            |text: &str, expected: &str| assert_eq!(resolved(text).unwrap_err().to_string(), expected);
        check("a: ${b.c}\n", "a.yaml:1:4: `${b.c}`: the file has no `b.c`");
        check("a: ${a}\n", "a.yaml:1:4: `${a}` refers to itself");
        check("a: ${oc.env:HOME}\n", "a.yaml:1:4: `${oc.env:HOME}` is not read; write its value");
        check("a: x${b\n", "a.yaml:1:4: `x${b` has a `${` that is not closed");
    }
}
