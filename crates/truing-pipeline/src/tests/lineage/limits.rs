//! Traces that are too large to list whole.

use super::*;

fn n_rows(row: &TracedRow) -> usize {
    1 + row.from.iter().map(n_rows).sum::<usize>()
}

#[test]
fn rows_of_one_id_are_not_followed_without_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut recipe = String::new();
    // Each stage leaves what it reads: 60 rows of one id, each of which may be made of any of the stage before it.
    for (name, from) in [("a", "rows.jsonl"), ("b", "${stages.a.rows}"), ("c", "${stages.b.rows}")] {
        recipe += &format!(
            "[stages.{name}]\nuses = \"command\"\n[stages.{name}.with]\n\
             command = [\"cp\", \"{from}\", \"${{output}}/rows.jsonl\"]\ninputs = [\"{from}\"]\n\
             outputs = {{ rows = \"rows.jsonl\" }}\n"
        );
    }
    let path = folder.path().join("pipe.toml");
    fs::write(folder.path().join("rows.jsonl"), "{\"id\": \"same\"}\n".repeat(60)).unwrap();
    fs::write(&path, recipe).unwrap();
    Opened::apply(&path);
    let opened = Opened::of(&path);
    let trace = opened.lineage().trace(RowAddress { stage: "c", file: None, row: "60" }).unwrap();
    assert!((100..250).contains(&n_rows(&trace.row)), "{}", n_rows(&trace.row));
    assert_eq!(way(&trace.row), ["c/rows:60", "b/rows:1", "a/rows:1", "rows.jsonl:1"]);
    let note = trace.row.note.unwrap();
    assert!(note.ends_with("more rows have its `id`, and are left out here"), "{note}");
}

#[test]
fn records_beyond_the_limit_are_counted() {
    let (_folder, recipe) = applied();
    let opened = Opened::of(&recipe);
    let ask = opened.pipeline.stage_index("ask").unwrap();
    let path = opened.store.run_folder(opened.plan.stages[ask].key.unwrap()).join("candidates.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    let first = text.lines().next().unwrap();
    fs::write(&path, format!("{first}\n").repeat(230)).unwrap();
    let address = RowAddress { stage: "ask", file: Some("responses"), row: "1" };
    let row = opened.lineage().trace(address).unwrap().row;
    assert_eq!((row.records.len(), row.n_records_left_out), (200, 30));
    assert_eq!(row.from[0].n_records_left_out, 0);
}
