//! Tables and numbers for people.

/// A table whose first columns (one, unless [`Table::left`] says otherwise) are aligned to the left and all others to
/// the right.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    left: usize,
}

impl Default for Table {
    fn default() -> Self {
        Table { rows: Vec::new(), left: 1 }
    }
}

impl Table {
    /// A table with these column titles.
    pub(crate) fn new(titles: &[&str]) -> Self {
        Table { rows: vec![titles.iter().map(|&t| t.to_owned()).collect()], ..Table::default() }
    }

    /// Aligns the first `columns` columns to the left.
    pub(crate) fn left(self, columns: usize) -> Self {
        Table { left: columns, ..self }
    }

    /// Adds a row.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// Adds a row of any length.
    pub(crate) fn row_of(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The table as lines, indented by two spaces.
    pub(crate) fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |c: usize| self.rows.iter().filter_map(|r| r.get(c)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|c| width(c).unwrap_or(0)).collect();
        let mut out = String::new();
        for row in &self.rows {
            let mut line = String::from(" ");
            for (c, cell) in row.iter().enumerate() {
                let fill = " ".repeat(widths[c] - cell.chars().count());
                let gap = if c == 0 { " " } else { "  " };
                line += gap;
                line += &if c < self.left { format!("{cell}{fill}") } else { format!("{fill}{cell}") };
            }
            out += line.trim_end();
            out.push('\n');
        }
        out
    }
}

/// A count with its thousands set apart: `1,234,567`.
pub(crate) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Millions with one decimal: `24.0`.
pub(crate) fn millions(n: u64) -> String {
    format!("{:.1}", n as f64 / 1e6)
}

/// A number with `decimals`, or a dash for none.
pub(crate) fn number(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |v| format!("{v:.decimals$}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["name", "n"]);
        table.row(["a".into(), "1,000".into()]);
        table.row(["stem".into(), "7".into()]);
        assert_eq!(table.text(), "  name      n\n  a     1,000\n  stem      7\n");
        assert_eq!(table.left(2).text(), "  name  n\n  a     1,000\n  stem  7\n");
    }

    #[test]
    fn thousands_are_set_apart() {
        for (n, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (123_456, "123,456"), (7_654_321, "7,654,321")] {
            assert_eq!(grouped(n), text);
        }
    }
}
