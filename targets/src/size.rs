//! Sizes as people write them: bytes, or with a suffix.

use anyhow::{Context, Result, bail};

/// Reads a number of bytes: `786432`, `768K` (units of 1024) or `1M` (units of 1024²); underscores may set digits apart.
///
/// # Errors
/// The text is no such number, or it is larger than 2^48.
pub fn parse_size(text: &str) -> Result<u64> {
    let digits = text.trim().trim_end_matches("iB").trim_end_matches('B');
    let (digits, unit) = match digits.chars().last().map(|c| c.to_ascii_uppercase()) {
        Some('K') => (&digits[..digits.len() - 1], 1u64 << 10),
        Some('M') => (&digits[..digits.len() - 1], 1 << 20),
        Some('G') => (&digits[..digits.len() - 1], 1 << 30),
        _ => (digits, 1),
    };
    let number: u64 = plain(digits).with_context(|| format!("{text:?} is no size; write bytes, 256K or 1M"))?;
    match number.checked_mul(unit).filter(|&bytes| bytes <= 1 << 48) {
        Some(bytes) => Ok(bytes),
        None => bail!("{text:?} is too large for a memory"),
    }
}

/// Reads a frequency in Hz: `64000000`, `64M` or `1.2G` (units of 1000).
///
/// # Errors
/// The text is no positive number of at most 1000 GHz.
pub fn parse_frequency(text: &str) -> Result<u64> {
    let number = text.trim().trim_end_matches("Hz").trim_end();
    let (number, unit) = match number.chars().last().map(|c| c.to_ascii_uppercase()) {
        Some('K') => (&number[..number.len() - 1], 1e3),
        Some('M') => (&number[..number.len() - 1], 1e6),
        Some('G') => (&number[..number.len() - 1], 1e9),
        _ => (number, 1.0),
    };
    let hertz = number.replace('_', "").trim().parse::<f64>().map(|n| n * unit).unwrap_or(f64::NAN);
    if !(1.0..=1e12).contains(&hertz) {
        bail!("{text:?} is no frequency; write Hz, 64M or 1.2G");
    }
    Ok(hertz.round() as u64)
}

fn plain(digits: &str) -> Result<u64> {
    Ok(digits.trim().replace('_', "").parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("256K", 256 << 10),
            ("1M", 1 << 20),
            ("2 MiB", 2 << 20),
            ("64KB", 64 << 10),
            ("1_000", 1000),
            ("1g", 1 << 30),
        ] {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "K", "1.5M", "-1", "1T", "99999999999999999999", "9999999G", "M1"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn frequencies_have_decimal_units() {
        for (text, hertz) in
            [("64000000", 64_000_000), ("64M", 64_000_000), ("1.2 GHz", 1_200_000_000), ("32k", 32_000)]
        {
            assert_eq!(parse_frequency(text).unwrap(), hertz, "{text}");
        }
        for text in ["", "0", "-1M", "fast", "inf", "1e20", "NaN"] {
            assert!(parse_frequency(text).is_err(), "{text}");
        }
    }
}
