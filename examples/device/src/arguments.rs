//! The command line.

/// What `--help` prints.
pub(crate) const USAGE: &str = "\
Usage: ride-example-device ARTIFACT [OPTIONS] > device.json

Tests the artifact on this device, classifies images and writes latency against the number of experts as JSON, which
`ride-compile bench ARTIFACT --import device.json` shows beside other devices.

Options:
  --core N         run on this core only; the fastest one of a big.LITTLE processor has usually the highest number
  --name TEXT      what the report calls the device [default: what the system calls its processor]
  --rounds N       how often each image is measured [default: 25]
  --count N        synthetic images [default: 4]
  --images FILE    raw images instead: height x width x channels unsigned bytes each, one after the other
  --help           this text";

/// What is asked for.
#[derive(Debug, PartialEq)]
pub(crate) struct Arguments {
    pub(crate) artifact: String,
    pub(crate) core: Option<usize>,
    pub(crate) name: Option<String>,
    pub(crate) rounds: usize,
    pub(crate) count: usize,
    pub(crate) images: Option<String>,
}

impl Arguments {
    /// Reads the command line; `None` asks for help.
    pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut arguments = arguments;
        let mut artifact = None;
        let (mut core, mut name, mut images) = (None, None, None);
        let (mut rounds, mut count) = (25, 4);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value; --help explains"));
            match argument.as_str() {
                "--help" | "-h" => return Ok(None),
                "--core" => core = Some(number(&argument, &value()?, 0..=1023)?),
                "--name" => name = Some(value()?),
                "--rounds" => rounds = number(&argument, &value()?, 1..=100_000)?,
                "--count" => count = number(&argument, &value()?, 1..=1000)?,
                "--images" => images = Some(value()?),
                option if option.starts_with('-') => return Err(format!("unknown option {option}; --help lists all")),
                _ if artifact.is_none() => artifact = Some(argument),
                _ => return Err(format!("there is an artifact already, what is {argument}? --help explains")),
            }
        }
        let artifact = artifact.ok_or("name an artifact; --help explains")?;
        Ok(Some(Arguments { artifact, core, name, rounds, count, images }))
    }
}

fn number(option: &str, text: &str, range: std::ops::RangeInclusive<usize>) -> Result<usize, String> {
    let wanted = || format!("{option} takes a number of {}..={}, not {text:?}", range.start(), range.end());
    text.parse().ok().filter(|n| range.contains(n)).ok_or_else(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<Arguments>, String> {
        Arguments::parse(text.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn options_are_read() {
        let all = parse("--core 3 a.ride --rounds 7 --count 2 --name pi --images x.bin").unwrap().unwrap();
        let (name, images) = (Some("pi".to_owned()), Some("x.bin".to_owned()));
        assert_eq!(all, Arguments { artifact: "a.ride".into(), core: Some(3), name, rounds: 7, count: 2, images });
        assert_eq!(parse("--help").unwrap(), None);
        for text in ["", "a b", "a --core", "a --core -1", "a --rounds 0", "a --rounds x", "a --count 1001", "a --x"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
