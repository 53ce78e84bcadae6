//! The clock, the processor's name, and standard output.

use std::fs;
use std::io::{self, Write};
use std::time::Instant;

use ride_report::{Machine, Timer};

/// The monotonic clock.
pub(crate) const TIMER: Timer = Timer { name: "monotonic", counts: "nanoseconds", per_second: 1_000_000_000 };

/// This machine.
pub(crate) struct Linux {
    start: Instant,
    report: String,
}

impl Linux {
    pub(crate) fn new() -> Self {
        Linux { start: Instant::now(), report: String::new() }
    }

    /// Writes the report, whole: nothing is written for one that was not finished.
    pub(crate) fn finish(self) -> io::Result<()> {
        io::stdout().write_all(self.report.as_bytes())
    }
}

impl Machine for Linux {
    fn now(&mut self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn write(&mut self, text: &str) {
        self.report += text;
    }
}

/// What the system calls the processor: a model name on x86, part numbers on Arm; else the architecture.
pub(crate) fn cpu() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        info.lines()
            .find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'))
            .map(|v| v.trim().to_owned())
    };
    let arch = std::env::consts::ARCH;
    match (field("model name"), field("CPU implementer"), field("CPU part")) {
        (_, Some(implementer), Some(part)) => format!("{arch} implementer {implementer} part {part}"),
        (Some(name), ..) => name,
        _ => arch.to_owned(),
    }
}
