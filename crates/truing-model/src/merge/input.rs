//! One input of a merged tensor: a model's parameter, whose rows may be matched by token.

use super::vocabulary::RowSource;
use crate::loading::ParameterReader;
use crate::{ModelError, ModelFiles};

/// A parameter that is read row by row.
pub(super) struct Input<'a> {
    own: ParameterReader<'a>,
    matched: Option<Matched<'a>>,
}

/// Rows that are matched by token.
struct Matched<'a> {
    rows: &'a [RowSource],
    /// The same parameter of all models.
    all: Vec<ParameterReader<'a>>,
}

impl<'a> Input<'a> {
    /// A parameter of a model. `rows` says where each row comes from.
    pub(super) fn open(
        models: &'a [ModelFiles],
        model: usize,
        name: &str,
        rows: Option<&'a [RowSource]>,
    ) -> Result<Self, ModelError> {
        let own = models[model].parameter_reader(name)?;
        let matched = match rows {
            None => None,
            Some(rows) => {
                let all =
                    models.iter().map(|model| model.parameter_reader(name)).collect::<Result<_, _>>()?;
                Some(Matched { rows, all })
            }
        };
        Ok(Self { own, matched })
    }

    /// Whole rows from `first_row` on.
    pub(super) fn read_rows(&self, first_row: usize, values: &mut [f32]) -> Result<(), ModelError> {
        let Some(matched) = &self.matched else { return self.own.read_rows(first_row, values) };
        let width = self.own.width;
        let sources = &matched.rows[first_row..first_row + values.len() / width];
        let mut row = 0;
        while row < sources.len() {
            match &sources[row] {
                RowSource::Own(own) => {
                    // Neighbours that stay neighbours are read at once.
                    let n = (row..sources.len())
                        .take_while(|&next| sources[next] == RowSource::Own(own + next - row))
                        .count();
                    self.own.read_rows(*own, &mut values[row * width..(row + n) * width])?;
                    row += n;
                }
                RowSource::Others(donors) => {
                    matched.mean(donors, &mut values[row * width..(row + 1) * width])?;
                    row += 1;
                }
            }
        }
        Ok(())
    }
}

impl Matched<'_> {
    /// The mean of rows of models, 0 of none.
    fn mean(&self, donors: &[(usize, usize)], values: &mut [f32]) -> Result<(), ModelError> {
        if let [(model, row)] = *donors {
            return self.all[model].read_rows(row, values);
        }
        let mut sum = vec![0.0; values.len()];
        for &(model, row) in donors {
            self.all[model].read_rows(row, values)?;
            sum.iter_mut().zip(&*values).for_each(|(sum, value)| *sum += f64::from(*value));
        }
        let n = donors.len().max(1) as f64;
        values.iter_mut().zip(&sum).for_each(|(value, sum)| *value = (sum / n) as f32);
        Ok(())
    }
}
