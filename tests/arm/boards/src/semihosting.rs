//! Calls to the host through `bkpt 0xAB` (Arm, "Semihosting for AArch32 and AArch64").

use core::arch::asm;

const OPEN: usize = 0x01;
const WRITE0: usize = 0x04;
const READ: usize = 0x06;
const FLEN: usize = 0x0C;
const EXIT_EXTENDED: usize = 0x20;
/// Reason "the program ended" of [`EXIT_EXTENDED`].
const APPLICATION_EXIT: usize = 0x20026;
/// Mode "rb" of [`OPEN`].
const READ_BINARY: usize = 1;

/// # Safety
/// `argument` is what `operation` asks for.
unsafe fn call(operation: usize, argument: usize) -> usize {
    let result;
    // SAFETY: the host answers in r0; what it reads and writes is behind `argument`.
    unsafe { asm!("bkpt #0xAB", inout("r0") operation => result, in("r1") argument, options(nostack)) };
    result
}

/// Prints text that ends with a zero byte.
pub fn print(text: &str) {
    assert!(text.ends_with('\0'));
    // SAFETY: zero-terminated.
    unsafe { call(WRITE0, text.as_ptr().addr()) };
}

/// Prints a line.
#[macro_export]
macro_rules! say {
    ($($arg:tt)*) => {{
        use core::fmt::Write as _;
        let mut line = $crate::semihosting::Line::default();
        // A line that is too long is cut.
        let _ = writeln!(line, $($arg)*);
        line.flush();
    }};
}

/// A line of text under construction.
#[derive(Debug)]
pub struct Line {
    bytes: [u8; 512],
    len: usize,
}

impl Default for Line {
    fn default() -> Self {
        Line { bytes: [0; 512], len: 0 }
    }
}

impl Line {
    /// Prints what there is.
    pub fn flush(&mut self) {
        self.bytes[self.len] = 0;
        // SAFETY: zero-terminated.
        unsafe { call(WRITE0, self.bytes.as_ptr().addr()) };
        self.len = 0;
    }
}

impl core::fmt::Write for Line {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        let room = self.bytes.len() - 1 - self.len;
        let n = s.len().min(room);
        self.bytes[self.len..self.len + n].copy_from_slice(&s.as_bytes()[..n]);
        self.len += n;
        if n == s.len() { Ok(()) } else { Err(core::fmt::Error) }
    }
}

/// Reads a file of the host into `to`; `name` ends with a zero byte. `None` where it cannot be opened or is too long.
pub fn read<'a>(name: &str, to: &'a mut [u8]) -> Option<&'a [u8]> {
    assert!(name.ends_with('\0'));
    let open = [name.as_ptr().addr(), READ_BINARY, name.len() - 1];
    // SAFETY: name, mode, length.
    let file = unsafe { call(OPEN, open.as_ptr().addr()) };
    if file as isize == -1 {
        return None;
    }
    // SAFETY: the file is open.
    let len = unsafe { call(FLEN, [file].as_ptr().addr()) };
    if len > to.len() {
        return None;
    }
    let read = [file, to.as_mut_ptr().addr(), len];
    // SAFETY: `to` has room for `len` bytes.
    let missing = unsafe { call(READ, read.as_ptr().addr()) };
    to.get(..len).filter(|_| missing == 0)
}

/// Ends the emulator.
pub fn exit(status: usize) -> ! {
    let block = [APPLICATION_EXIT, status];
    // SAFETY: reason and status.
    unsafe { call(EXIT_EXTENDED, block.as_ptr().addr()) };
    loop {
        core::hint::spin_loop();
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    say!("{info}");
    exit(1)
}
