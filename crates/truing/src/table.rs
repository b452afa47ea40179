//! Plain text tables: aligned columns, two spaces between, no lines. A table that would be wider than a terminal wraps
//! the texts of its widest columns.

/// The width of a terminal that every table fits.
const MAX_WIDTH: usize = 80;
/// Columns are not made narrower than this for the sake of others.
const MIN_COLUMN: usize = 6;
/// Between two columns.
const GAP: usize = 2;

/// Which side a column leans to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// Words.
    Left,
    /// Figures.
    Right,
}

/// Rows of text under headings.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings; a table whose headings are all empty prints none.
    pub(crate) fn new(columns: &[(&str, Align)]) -> Self {
        Self {
            columns: columns.iter().map(|(name, align)| ((*name).to_owned(), *align)).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; missing cells are empty.
    pub(crate) fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) -> &mut Self {
        self.rows.push(cells.into_iter().map(Into::into).collect());
        self
    }

    /// The lines, without trailing spaces.
    pub(crate) fn lines(&self) -> Vec<String> {
        let headings: Vec<String> = self.columns.iter().map(|(name, _)| name.clone()).collect();
        let shows_headings = headings.iter().any(|name| !name.is_empty());
        let all: Vec<&Vec<String>> =
            shows_headings.then_some(&headings).into_iter().chain(&self.rows).collect();
        let widths = self.widths(&all);
        all.iter().flat_map(|row| self.row_lines(row, &widths)).collect()
    }

    /// As wide as the widest cell of each column; where that is too much, the widest columns give way.
    fn widths(&self, rows: &[&Vec<String>]) -> Vec<usize> {
        let width_of = |column: usize| {
            rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let mut widths: Vec<usize> = (0..self.columns.len()).map(width_of).collect();
        // A word is not broken while another column has room to give.
        let longest_word = |column: usize| {
            let words = rows.iter().filter_map(|row| row.get(column)).flat_map(|cell| cell.split(' '));
            words.map(|word| word.chars().count()).max().unwrap_or(0)
        };
        let words: Vec<usize> =
            (0..self.columns.len()).map(|column| longest_word(column).max(MIN_COLUMN)).collect();
        let room = MAX_WIDTH.saturating_sub(GAP * self.columns.len().saturating_sub(1));
        for floors in [words, vec![MIN_COLUMN; self.columns.len()]] {
            while widths.iter().sum::<usize>() > room {
                let can_shrink = (0..widths.len()).filter(|&column| widths[column] > floors[column]);
                let Some(widest) = can_shrink.max_by_key(|&column| widths[column]) else { break };
                widths[widest] -= 1;
            }
        }
        widths
    }

    /// A row, on as many lines as its longest cell needs.
    fn row_lines(&self, row: &[String], widths: &[usize]) -> Vec<String> {
        let cells: Vec<Vec<String>> = widths
            .iter()
            .enumerate()
            .map(|(column, &width)| wrapped(row.get(column).map_or("", String::as_str), width))
            .collect();
        let n_lines = cells.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let line = |idx: usize| {
            let mut text = String::new();
            for (column, (&width, (_, align))) in widths.iter().zip(&self.columns).enumerate() {
                let part = cells[column].get(idx).map_or("", String::as_str);
                let padding = " ".repeat(width - part.chars().count());
                if column > 0 {
                    text.push_str(&" ".repeat(GAP));
                }
                match align {
                    Align::Left => text.extend([part, &padding]),
                    Align::Right => text.extend([padding.as_str(), part]),
                }
            }
            text.trim_end().to_owned()
        };
        (0..n_lines).map(line).collect()
    }
}

/// The text on lines of at most `width` characters, broken between words where that is possible.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    if text.chars().count() <= width {
        return vec![text.to_owned()];
    }
    let (mut lines, mut line, mut length) = (Vec::new(), String::new(), 0);
    for word in text.split(' ') {
        let mut letters: Vec<char> = word.chars().collect();
        let space = usize::from(length > 0);
        if length > 0 && length + space + letters.len() > width {
            lines.push(std::mem::take(&mut line));
            length = 0;
        } else if space > 0 {
            line.push(' ');
            length += 1;
        }
        while letters.len() > width {
            let rest = letters.split_off(width);
            lines.push(letters.into_iter().collect());
            letters = rest;
        }
        length += letters.len();
        line.extend(letters);
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&[("what", Align::Left), ("GiB", Align::Right)]);
        table.row(["parameters", "0.5"]).row(["all", "12.25"]);
        assert_eq!(table.lines(), ["what          GiB", "parameters    0.5", "all         12.25"]);
    }

    #[test]
    fn a_wide_table_wraps_its_widest_columns_and_keeps_every_word() {
        let heading = "pairs in which the longer response is preferred";
        let mut table = Table::new(&[
            ("source", Align::Left),
            ("pairs", Align::Right),
            (heading, Align::Right),
            ("why", Align::Left),
        ]);
        let reason = "dropped as a near duplicate of another prompt of the same task";
        table.row(["hh_helpful", "220", "58.0 %", reason]).row(["mt_bench", "5", "61.2 %", ""]);
        let lines = table.lines();
        assert!(lines.iter().all(|line| line.chars().count() <= MAX_WIDTH), "{lines:#?}");
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let (mut found, mut expected) = (
            words(&lines.join(" ")),
            words(&format!("source pairs {heading} why hh_helpful 220 58.0 % {reason}")),
        );
        expected.extend(words("mt_bench 5 61.2 %"));
        found.sort();
        expected.sort();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_long_word_is_broken_rather_than_the_line_overrun() {
        let path = "runs/".repeat(30);
        let mut table = Table::new(&[("", Align::Left), ("", Align::Left)]);
        table.row(["model", &path]);
        let lines = table.lines();
        assert!(lines.len() == 3 && lines.iter().all(|line| line.chars().count() <= MAX_WIDTH), "{lines:#?}");
        assert_eq!(lines.concat().replace(' ', ""), format!("model{path}"));
        assert_eq!(wrapped("a bb ccc", 4), ["a bb", "ccc"]);
    }
}
