//! How are figures summed up and shown? Medians of rounds, and of ratios taken
//! within a round, so that what drifts between rounds cancels out.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A table of figures with the conditions they were taken under.
#[derive(Serialize, Deserialize)]
pub struct Report {
    pub title: String,
    pub conditions: String,
    pub columns: Vec<String>,
    pub rows: Vec<Row>,
    /// Files of plots.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plots: Vec<String>,
}

#[derive(Serialize, Deserialize)]
pub struct Row {
    pub name: String,
    pub cells: Vec<String>,
}

impl Row {
    /// The first number of a cell.
    pub fn number(&self, column: usize) -> Option<f64> {
        self.cells.get(column)?.split_whitespace().next()?.parse().ok()
    }
}

impl Report {
    pub fn new(title: &str, conditions: String, columns: &[&str]) -> Self {
        let columns = columns.iter().map(ToString::to_string).collect();
        Self { title: title.into(), conditions, columns, rows: Vec::new(), plots: Vec::new() }
    }

    pub fn row(&mut self, name: &str, cells: Vec<String>) {
        self.rows.push(Row { name: name.into(), cells });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "## {}\n\n{}\n", self.title, self.conditions)?;
        writeln!(f, "| | {} |", self.columns.join(" | "))?;
        writeln!(f, "|---|{}", "---|".repeat(self.columns.len()))?;
        for row in &self.rows {
            writeln!(f, "| {} | {} |", row.name, row.cells.join(" | "))?;
        }
        Ok(())
    }
}

/// The middle value; 0 of nothing.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        length if length % 2 == 1 => values[length / 2],
        length => (values[length / 2 - 1] + values[length / 2]) / 2.0,
    }
}

/// Median of the ratios of the same round.
pub fn paired_ratio(ours: &[f64], theirs: &[f64]) -> f64 {
    median(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_even_and_nothing() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median([]), 0.0);
    }

    #[test]
    fn a_ratio_is_taken_within_the_round() {
        // The machine slows down fourfold between rounds; the ratio stays.
        assert_eq!(paired_ratio(&[8.0, 4.0, 2.0], &[4.0, 2.0, 1.0]), 2.0);
    }
}
