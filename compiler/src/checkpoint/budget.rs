//! A limit on what one file may make us load.

use anyhow::{Result, ensure};

/// Bytes that any file may take, so that small files with well-compressed or shared storages are no problem.
const FREE: u64 = 64 << 20;
/// Bytes for each byte of the file. Eight-bit types take four, and every storage is counted when it is read and again
/// when it becomes tensors.
const FACTOR: u64 = 16;

/// Counts bytes that are loaded, so that neither compression nor sharing nor zero strides multiply a small file.
pub(super) struct Budget {
    left: u64,
    limit: u64,
}

impl Budget {
    pub(super) fn of_file(length: u64) -> Self {
        let limit = FREE.saturating_add(length.saturating_mul(FACTOR));
        Self { left: limit, limit }
    }

    /// Takes `bytes` for something, or fails.
    pub(super) fn take(&mut self, bytes: u64) -> Result<()> {
        ensure!(
            bytes <= self.left,
            "it would take more than the {} MB that a file of this size may expand to",
            self.limit >> 20
        );
        self.left -= bytes;
        Ok(())
    }
}
