//! Rows that are left out.

use crate::setup::{append_bad_rows, check_list};
use crate::{labels, qualities};

#[test]
fn labels_and_qualities_list_every_row_that_they_leave_out() {
    let folder = labels::folder();
    append_bad_rows(&folder.path().join("prompts.jsonl"));
    labels::run(
        folder.path(),
        labels::RECIPE,
        &["on_bad_row=skip", "n_votes=1"],
        vec![labels::good().open()],
    )
    .unwrap();
    check_list(&folder.path().join("labels"), "prompts.jsonl", 6);

    let folder = qualities::folder();
    append_bad_rows(&folder.path().join("prompts.jsonl"));
    let recipe = format!("on_bad_row = \"skip\"\n{}", qualities::RECIPE);
    qualities::run(folder.path(), &recipe, vec![qualities::good().open()]).unwrap();
    check_list(&folder.path().join("scores"), "prompts.jsonl", 13);
}
