//! Plain text tables: aligned columns, two spaces between, no lines.

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
        let width_of = |column: usize| {
            all.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width_of).collect();
        let line = |row: &&Vec<String>| {
            let mut text = String::new();
            for (column, (width, (_, align))) in widths.iter().zip(&self.columns).enumerate() {
                let cell = row.get(column).map_or("", String::as_str);
                let padding = " ".repeat(width - cell.chars().count());
                if column > 0 {
                    text.push_str("  ");
                }
                match align {
                    Align::Left => text.extend([cell, &padding]),
                    Align::Right => text.extend([padding.as_str(), cell]),
                }
            }
            text.trim_end().to_owned()
        };
        all.iter().map(line).collect()
    }
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
}
