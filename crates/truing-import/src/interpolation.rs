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
    replace(&mut root, &source, &mut Vec::new(), path)?;
    Ok(root)
}

/// `at` are the keys that lead to the node.
fn replace(node: &mut Node, root: &Node, at: &mut Vec<String>, path: &Path) -> Result<(), ImportError> {
    match &mut node.value {
        Value::List(items) => items.iter_mut().try_for_each(|item| replace(item, root, at, path)),
        Value::Table(pairs) => pairs.iter_mut().try_for_each(|pair| {
            at.push(pair.key.clone());
            let replaced = replace(&mut pair.node, root, at, path);
            at.pop();
            replaced
        }),
        Value::Text(text) if text.contains("${") => {
            let value = value_of(text, root, at, MAX_DEPTH).map_err(|reason| ImportError::Yaml {
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

fn value_of(text: &str, root: &Node, at: &[String], depth: usize) -> Result<Value, String> {
    if depth == 0 {
        return Err(format!("`{text}` refers to itself"));
    }
    let mut rest = text;
    let mut joined = String::new();
    while let Some(start) = rest.find("${") {
        let Some(end) = closing(&rest[start..]).map(|end| start + end) else {
            return Err(format!("`{text}` has a `${{` that is not closed"));
        };
        let value = named(&rest[start + 2..end], root, at, depth)?;
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

/// Where the bracket of a `${` at the beginning is closed; references may be in references.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth <= 1 => return Some(at),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// The value of a dotted name, or of `oc.select:name,default`. A name that begins with a dot is beside the key at `at`,
/// with two dots beside the table of the key, and so on.
fn named(name: &str, root: &Node, at: &[String], depth: usize) -> Result<Value, String> {
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
    let rest = name.trim().trim_start_matches('.');
    let n_dots = name.trim().len() - rest.len();
    let above = if n_dots == 0 { &[] } else { &at[..at.len().saturating_sub(n_dots)] };
    let parts: Vec<&str> = above.iter().map(String::as_str).chain(rest.split('.')).collect();
    let mut node = root;
    for part in &parts {
        match node.get(part) {
            Some(next) => node = next,
            None => {
                return match default {
                    None => Err(format!("`${{{name}}}`: the file has no `{name}`")),
                    Some(default) if default.contains("${") => value_of(default, root, at, depth - 1),
                    Some(default) => Ok(plain(default)),
                };
            }
        }
    }
    match &node.value {
        Value::Text(text) if text.contains("${") => {
            let at: Vec<String> = parts.iter().map(|part| (*part).to_owned()).collect();
            value_of(text, root, &at, depth - 1)
        }
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
        let root = resolved("a: '${oc.select:b.c,${oc.select:d,9}}'\n").unwrap();
        assert_eq!(root.get("a").unwrap().value, Value::Int(9));
        let root = resolved("a: {n: 5, m: '${.n}', t: {o: '${..m}'}}\nb: '${a.t.o}'\n").unwrap();
        assert_eq!(root.get("b").unwrap().value, Value::Int(5));
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
