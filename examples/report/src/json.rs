//! JSON without formatting machinery: names, numbers, and text that needs few escapes.

/// Writes JSON piece by piece.
pub struct Json<W: FnMut(&str)> {
    write: W,
    first: bool,
    /// What separates members.
    separator: &'static str,
    /// What follows an opening bracket.
    lead: &'static str,
    /// Brackets that are open.
    depth: usize,
}

impl<W: FnMut(&str)> Json<W> {
    /// One member of the outermost object a line.
    pub fn new(write: W) -> Self {
        Json { write, first: true, separator: ",\n  ", lead: "\n  ", depth: 0 }
    }

    /// All members on one line.
    pub fn flat(write: W) -> Self {
        Json { write, first: true, separator: ", ", lead: "", depth: 0 }
    }

    fn name(&mut self, name: &str) {
        if !self.first {
            (self.write)(if self.depth > 1 { ", " } else { self.separator });
        }
        self.first = false;
        if !name.is_empty() {
            (self.write)("\"");
            (self.write)(name);
            (self.write)("\": ");
        }
    }

    /// Opens an object or array.
    pub fn open(&mut self, name: &str, bracket: char) {
        let outermost = self.depth == 0;
        self.name(name);
        (self.write)(if bracket == '{' { "{" } else { "[" });
        if outermost {
            (self.write)(self.lead);
        }
        self.first = true;
        self.depth += 1;
    }

    /// Closes it.
    pub fn close(&mut self, bracket: char) {
        (self.write)(if bracket == '}' { "}" } else { "]" });
        self.first = false;
        self.depth = self.depth.saturating_sub(1);
    }

    /// A string; what is not printable ASCII becomes a question mark.
    pub fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        (self.write)("\"");
        for c in value.chars() {
            let plain = matches!(c, ' '..='~') && c != '"' && c != '\\';
            let mut bytes = [0; 4];
            (self.write)(if plain { c.encode_utf8(&mut bytes) } else { "?" });
        }
        (self.write)("\"");
    }

    /// A whole number.
    pub fn number(&mut self, name: &str, value: u64) {
        self.decimal(name, value, 0);
    }

    /// `value / 10^places`.
    pub fn decimal(&mut self, name: &str, mut value: u64, places: usize) {
        self.name(name);
        // From the last digit to the first; 20 digits and a point.
        let mut text = [b'0'; 21];
        let mut left = 0;
        for (n, digit) in text.iter_mut().rev().enumerate() {
            if places > 0 && n == places {
                *digit = b'.';
            } else {
                *digit = b'0' + (value % 10) as u8;
                value /= 10;
            }
            // A digit before the point is always shown.
            let wanted = if places > 0 { places + 2 } else { 1 };
            if *digit != b'0' || n < wanted {
                left = 20 - n;
            }
        }
        (self.write)(text.get(left..).and_then(|digits| core::str::from_utf8(digits).ok()).unwrap_or("0"));
    }

    /// Eight hexadecimal digits as a string.
    pub fn hexadecimal(&mut self, name: &str, value: u32) {
        let mut text = [b'0'; 8];
        for (n, digit) in text.iter_mut().rev().enumerate() {
            let nibble = (value >> (4 * n) & 15) as u8;
            *digit = if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
        }
        self.text(name, core::str::from_utf8(&text).unwrap_or(""));
    }

    /// Nothing.
    pub fn null(&mut self, name: &str) {
        self.name(name);
        (self.write)("null");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(say: impl FnOnce(&mut Json<&mut dyn FnMut(&str)>)) -> String {
        let mut out = String::new();
        let mut write = |text: &str| out += text;
        say(&mut Json::flat(&mut write));
        out
    }

    #[test]
    fn numbers_have_their_point_in_its_place() {
        for (value, places, text) in [
            (0, 0, "0"),
            (7, 0, "7"),
            (1234, 0, "1234"),
            (u64::MAX, 0, "18446744073709551615"),
            (0, 1, "0.0"),
            (5, 1, "0.5"),
            (12345, 1, "1234.5"),
            (12345, 4, "1.2345"),
            (1, 4, "0.0001"),
        ] {
            assert_eq!(said(|json| json.decimal("", value, places)), text);
        }
        assert_eq!(said(|json| json.hexadecimal("", 0xdead_0123)), "\"dead0123\"");
    }

    #[test]
    fn members_are_separated() {
        let text = said(|json| {
            json.open("", '{');
            json.text("a", "x\"\u{e9}\\");
            json.open("b", '[');
            json.number("", 1);
            json.number("", 2);
            json.close(']');
            json.null("c");
            json.close('}');
        });
        assert_eq!(text, r#"{"a": "x???", "b": [1, 2], "c": null}"#);
    }
}
