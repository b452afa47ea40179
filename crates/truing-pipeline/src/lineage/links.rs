//! How a row says which row it was made of.

use serde_json::{Map, Value};

/// The fields that hold a link: `{"path": FILE, "line": LINE}`, or as decisions of a selection have it,
/// `{"source": FILE, "line": LINE}`. A text in one of them is no link.
pub(crate) const LINK_FIELDS: [&str; 2] = ["source", "origin"];

/// A row of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    /// The file, as it was named when the row was written.
    pub(crate) path: String,
    /// Its line, counted from 1; the number of the row where the file has no lines.
    pub(crate) line: u64,
}

impl Link {
    /// The link in the value of a field.
    pub(crate) fn read(value: &Value) -> Option<Self> {
        let fields = value.as_object()?;
        Self::of(fields.get("path").or_else(|| fields.get("source")), fields.get("line"))
    }

    /// The link of a path and a line.
    pub(crate) fn of(path: Option<&Value>, line: Option<&Value>) -> Option<Self> {
        Some(Self { path: path?.as_str()?.to_owned(), line: line?.as_u64()? })
    }
}

/// The links of a row, the one of the stage that wrote it first. Rows carry columns of the rows that they were made of,
/// so that the other one may be a link of an earlier stage: `label`, `quality` and the prompts of `respond` write
/// `origin`, others write `source`.
pub(crate) fn links_of(row: &Map<String, Value>, uses: &str, file_name: &str) -> Vec<Link> {
    let writes_origin = match uses {
        "label" | "quality" | "select" => true,
        "respond" => file_name == "prompts.jsonl",
        _ => false,
    };
    let [source, origin] = LINK_FIELDS;
    let fields = if writes_origin { [origin, source] } else { [source, origin] };
    let mut links: Vec<Link> =
        fields.iter().filter_map(|field| row.get(*field)).filter_map(Link::read).collect();
    // The list of rows that were left out names them itself.
    if file_name == "skipped.jsonl" {
        links.extend(Link::of(row.get("path"), row.get("line")));
    }
    links
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn the_link_of_the_stage_that_wrote_the_row_comes_first() {
        let both =
            row(r#"{"source": {"path": "a.jsonl", "line": 1}, "origin": {"source": "b.jsonl", "line": 2}}"#);
        let first = |uses, file| links_of(&both, uses, file)[0].path.clone();
        assert_eq!(
            (&*first("respond", "responses.jsonl"), &*first("label", "labels.jsonl")),
            ("a.jsonl", "b.jsonl")
        );
        assert_eq!(first("respond", "prompts.jsonl"), "b.jsonl");
        assert_eq!(links_of(&both, "prefer", "pairs.jsonl").len(), 2);
        let named = row(r#"{"path": "c.jsonl", "line": 3, "reason": "empty"}"#);
        assert_eq!(links_of(&named, "sft", "skipped.jsonl"), [Link { path: "c.jsonl".into(), line: 3 }]);
        assert!(links_of(&named, "build", "rows.jsonl").is_empty(), "the path may be that of code");
        for none in
            [r#"{"source": "web"}"#, r#"{"source": {"path": "a"}}"#, r#"{"origin": {"line": 1}}"#, "{}"]
        {
            assert!(links_of(&row(none), "build", "rows.jsonl").is_empty(), "{none}");
        }
    }
}
