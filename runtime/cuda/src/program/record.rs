//! Entries of the operation table: field for field the `Op` of `device/op.h`.

/// Kinds of operations, as `Kind` in `device/op.h`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Load,
    Conv,
    Shortcut,
    MaxPool,
    Pool,
    Head,
    Join,
}

/// As `Flag` in `device/op.h`.
pub(crate) mod flag {
    pub(crate) const WIDE: u32 = 1;
    pub(crate) const ACCUMULATE: u32 = 2;
    pub(crate) const RAW: u32 = 4;
    pub(crate) const IMAGE: u32 = 8;
    pub(crate) const WORDS: u32 = 16;
    pub(crate) const NORMALIZE: u32 = 32;
    pub(crate) const FIRST: u32 = 64;
    pub(crate) const UNSIGNED: u32 = 128;
    pub(crate) const FINE: u32 = 256;
}

/// As `Rule` in `device/op.h`.
pub(crate) mod rule {
    pub(crate) const NONE: u32 = 0;
    pub(crate) const ASSIGNMENT: u32 = 1;
    /// The criteria follow in the order of their numbers in an artifact.
    pub(crate) const CONFIDENCE: u32 = 1;
}

/// Values that are a word of the table.
trait Word {
    fn word(self) -> u32;
}

impl Word for u32 {
    fn word(self) -> u32 {
        self
    }
}

impl Word for i32 {
    fn word(self) -> u32 {
        self as u32
    }
}

impl Word for f32 {
    fn word(self) -> u32 {
        self.to_bits()
    }
}

macro_rules! record {
    ($($field:ident: $ty:ty),* $(,)?) => {
        /// One operation; what a kind does not use stays 0.
        #[derive(Clone, Copy, Debug, Default)]
        pub(crate) struct Record {
            $(pub(crate) $field: $ty,)*
        }

        impl Record {
            /// Names of the fields, in order.
            #[cfg(test)]
            const FIELDS: &[&str] = &[$(stringify!($field)),*];

            /// Appends the entry to a table.
            pub(crate) fn write(&self, out: &mut Vec<u8>) {
                $(out.extend_from_slice(&self.$field.word().to_le_bytes());)*
            }
        }
    };
}

record! {
    kind: u32, flags: u32, tile: u32,
    in_h: u32, in_w: u32, in_c: u32,
    out_h: u32, out_w: u32, out_c: u32,
    kernel: u32, stride: u32, padding: u32,
    groups: u32, group_in: u32, group_out: u32,
    words: u32, columns: u32,
    source_hi: u32, source_lo: u32, out_hi: u32, out_lo: u32,
    zero: i32, min: i32, max: i32,
    border: u32,
    taps: u32, weights: u32, params: u32,
    in_zero: i32, multiplier: i32,
    right_shift: u32, before: u32,
    features: u32, outputs: u32,
    divisor: f32, threshold: f32,
    rule: u32, top_k: u32, fc: u32, feature: u32,
    logits: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The device's declaration has the same fields in the same order.
    #[test]
    fn fields_are_those_of_the_device_code() {
        let text = include_str!("../../device/op.h");
        let body = text.split("struct Op {").nth(1).and_then(|t| t.split("};").next()).expect("struct Op");
        let lines = body.lines().map(|l| l.split("//").next().unwrap_or("").trim());
        let names =
            lines.filter_map(|l| l.split_once(' ')).flat_map(|(_, names)| names.trim_end_matches(';').split(','));
        let names: Vec<&str> = names.map(str::trim).filter(|n| !n.is_empty()).collect();
        assert_eq!(names, Record::FIELDS);
    }
}
