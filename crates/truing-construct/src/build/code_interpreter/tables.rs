//! CSV files that tasks are about, made from a seed.

use jiff::SignedDuration;
use jiff::civil::date;
use rand_chacha::rand_core::Rng;
use truing_ask::pas::Language;
use truing_types::Seed;

use super::config::InterpreterKind;

/// A file beside a notebook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DataFile {
    pub(super) name: String,
    pub(super) text: String,
}

impl DataFile {
    /// The first lines.
    fn head(&self) -> String {
        const N_LINES: usize = 6;
        self.text.lines().take(N_LINES).collect::<Vec<_>>().join("\n")
    }

    /// Its description in prompts and in the first turn of the user.
    pub(super) fn note(&self, language: Language) -> String {
        let (name, head, n_rows) = (&self.name, self.head(), self.text.lines().count().saturating_sub(1));
        match language {
            Language::En => {
                format!(
                    "The file `{name}` is in the working folder. It has {n_rows} rows and begins:\n{head}"
                )
            }
            Language::Zh => format!("文件`{name}`在工作目录中，共{n_rows}行，开头如下：\n{head}"),
        }
    }
}

/// What a column holds.
enum Column {
    /// 1, 2, 3, ...
    Number,
    /// One day after the other from 1 January of a year on.
    Day(i16),
    /// One of some names.
    Name(&'static [&'static str]),
    /// A whole number from the first to the last, both included.
    Whole(i64, i64),
    /// A number of hundredths from the first to the last.
    Cents(i64, i64),
}

/// A table: name of the file, what it is about in English and Chinese, its columns.
struct Table {
    name: &'static str,
    about: [&'static str; 2],
    columns: &'static [(&'static str, Column)],
    is_in_time: bool,
}

const TABLES: [Table; 6] = [
    Table {
        name: "sales.csv",
        about: ["orders of a shop", "一家商店的订单"],
        columns: &[
            ("order_id", Column::Number),
            ("region", Column::Name(&["North", "South", "East", "West"])),
            ("product", Column::Name(&["lamp", "chair", "table", "shelf", "carpet"])),
            ("units", Column::Whole(1, 12)),
            ("unit_price", Column::Cents(900, 24_000)),
        ],
        is_in_time: false,
    },
    Table {
        name: "temperatures.csv",
        about: ["daily temperatures and rain of a weather station", "一个气象站的每日气温和降雨"],
        columns: &[
            ("date", Column::Day(2023)),
            ("low_celsius", Column::Cents(-800, 1400)),
            ("high_celsius", Column::Cents(1500, 3300)),
            ("rain_mm", Column::Cents(0, 2400)),
        ],
        is_in_time: true,
    },
    Table {
        name: "marks.csv",
        about: ["marks of pupils", "学生成绩"],
        columns: &[
            ("pupil_id", Column::Number),
            ("class", Column::Name(&["5a", "5b", "6a", "6b"])),
            ("mathematics", Column::Whole(20, 100)),
            ("history", Column::Whole(20, 100)),
            ("days_absent", Column::Whole(0, 14)),
        ],
        is_in_time: false,
    },
    Table {
        name: "visitors.csv",
        about: ["daily visitors and takings of a museum", "一家博物馆的每日参观人数和收入"],
        columns: &[
            ("date", Column::Day(2024)),
            ("adults", Column::Whole(80, 900)),
            ("children", Column::Whole(10, 400)),
            ("takings", Column::Cents(90_000, 1_300_000)),
        ],
        is_in_time: true,
    },
    Table {
        name: "deliveries.csv",
        about: ["deliveries by bicycle", "自行车配送记录"],
        columns: &[
            ("delivery_id", Column::Number),
            ("courier", Column::Name(&["Ada", "Bruno", "Chen", "Dilek", "Emeka"])),
            ("district", Column::Name(&["Harbour", "Market", "Hill", "Park"])),
            ("distance_km", Column::Cents(40, 1500)),
            ("minutes", Column::Whole(5, 75)),
        ],
        is_in_time: false,
    },
    Table {
        name: "consumption.csv",
        about: ["daily consumption of electricity and water of a house", "一所房子的每日用电量和用水量"],
        columns: &[
            ("date", Column::Day(2022)),
            ("electricity_kwh", Column::Cents(300, 2600)),
            ("water_litres", Column::Whole(80, 620)),
            ("is_holiday", Column::Name(&["no", "no", "no", "yes"])),
        ],
        is_in_time: true,
    },
];

/// The file of the nth task of a kind, and what it is about in English and Chinese; `None` for kinds without a file.
pub(super) fn data_file(
    kind: InterpreterKind,
    nth: usize,
    n_rows: usize,
    seed: Seed,
) -> Option<(DataFile, [&'static str; 2])> {
    if !kind.has_file() {
        return None;
    }
    let is_in_time = kind == InterpreterKind::TimeSeries;
    let tables: Vec<&Table> = TABLES.iter().filter(|table| table.is_in_time == is_in_time).collect();
    let table = tables[nth % tables.len()];
    let mut generator = seed.generator("code interpreter tables", &[kind as u64, nth as u64]);
    let mut below = |n: u64| generator.next_u64() % n.max(1);
    let mut rows: Vec<Vec<String>> = (0..n_rows).map(|row| row_of(table, row, &mut below)).collect();
    if kind == InterpreterKind::DataCleaning {
        spoil(table, &mut rows, &mut below);
    }
    let header = table.columns.iter().map(|(name, _)| (*name).to_owned()).collect();
    let lines = std::iter::once(header).chain(rows).map(|cells: Vec<String>| cells.join(",") + "\n");
    Some((DataFile { name: table.name.to_owned(), text: lines.collect() }, table.about))
}

fn row_of(table: &Table, row: usize, below: &mut impl FnMut(u64) -> u64) -> Vec<String> {
    let mut whole = |low: i64, high: i64| low + below((high - low + 1) as u64) as i64;
    let columns = table.columns.iter();
    columns
        .map(|(_, column)| match column {
            Column::Number => (row + 1).to_string(),
            Column::Day(year) => day(*year, row),
            Column::Name(names) => names[whole(0, names.len() as i64 - 1) as usize].to_owned(),
            Column::Whole(low, high) => whole(*low, *high).to_string(),
            Column::Cents(low, high) => {
                let cents = whole(*low, *high);
                let sign = if cents < 0 { "-" } else { "" };
                format!("{sign}{}.{:02}", cents.abs() / 100, cents.abs() % 100)
            }
        })
        .collect()
}

/// The day `n_after` days after 1 January of a year.
fn day(year: i16, n_after: usize) -> String {
    date(year, 1, 1).saturating_add(SignedDuration::from_hours(24 * n_after as i64)).to_string()
}

/// Empties about one number in 12, writes about one name in 8 in capitals or with a trailing space, and repeats about
/// one row in 15.
fn spoil(table: &Table, rows: &mut Vec<Vec<String>>, below: &mut impl FnMut(u64) -> u64) {
    for cells in rows.iter_mut() {
        for ((_, column), cell) in table.columns.iter().zip(cells) {
            match column {
                Column::Name(_) if below(8) == 0 => {
                    *cell = if below(2) == 0 { cell.to_uppercase() } else { format!("{cell} ") };
                }
                Column::Whole(..) | Column::Cents(..) if below(12) == 0 => cell.clear(),
                _ => {}
            }
        }
    }
    let mut place = 0;
    while place < rows.len() {
        if below(15) == 0 {
            rows.insert(place, rows[place].clone());
            place += 1;
        }
        place += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_follow_the_calendar() {
        for (year, n_after, expected) in [
            (2023, 0, "2023-01-01"),
            (2023, 58, "2023-02-28"),
            (2023, 59, "2023-03-01"),
            (2024, 59, "2024-02-29"),
            (2024, 365, "2024-12-31"),
            (2024, 366, "2025-01-01"),
        ] {
            assert_eq!(day(year, n_after), expected);
        }
    }

    #[test]
    fn files_follow_from_the_seed_and_have_the_faults_of_their_kind() {
        let file = |kind, nth, seed| data_file(kind, nth, 60, Seed(seed)).unwrap().0;
        let clean = file(InterpreterKind::DataAnalysis, 0, 1);
        assert_eq!(clean, file(InterpreterKind::DataAnalysis, 0, 1));
        assert_ne!(clean.text, file(InterpreterKind::DataAnalysis, 0, 2).text);
        assert_ne!(clean.text, file(InterpreterKind::DataAnalysis, 3, 1).text, "the same table again");
        assert_eq!(
            (clean.name.as_str(), clean.text.lines().count(), clean.head().lines().count()),
            ("sales.csv", 61, 6)
        );
        let cells = |file: &DataFile| -> Vec<Vec<String>> {
            file.text.lines().skip(1).map(|line| line.split(',').map(str::to_owned).collect()).collect()
        };
        assert!(cells(&clean).iter().all(|row| row.len() == 5 && row.iter().all(|cell| !cell.is_empty())));
        let faulty = cells(&file(InterpreterKind::DataCleaning, 0, 1));
        assert!(faulty.len() > 60 && faulty.iter().flatten().any(String::is_empty));
        assert!(faulty.iter().any(|row| row[1].ends_with(' ') || row[1].chars().all(char::is_uppercase)));
        let series = cells(&file(InterpreterKind::TimeSeries, 1, 1));
        assert_eq!((series[0][0].as_str(), series[59][0].as_str()), ("2024-01-01", "2024-02-29"));
        assert!(data_file(InterpreterKind::Calculation, 0, 60, Seed(1)).is_none());
    }
}
