//! Writes synthetic images as raw pixels to standard output: the same that artifacts test themselves with.
//!
//! ```sh
//! cargo run -p ride-runtime --example pictures -- 32 32 3 4 > images.bin    # height, width, channels, number
//! ```

use std::io::Write as _;
use std::process::ExitCode;

/// Pixels of the images with seeds 1, 2, ... and so on, one image after the other.
fn pictures(arguments: &[usize]) -> Option<Vec<u8>> {
    let &[height, width, channels, number] = arguments else { return None };
    let bytes = height.checked_mul(width)?.checked_mul(channels).filter(|&bytes| bytes > 0)?;
    let mut pixels = vec![0; bytes.checked_mul(number).filter(|&all| all < 1 << 30)?];
    for (seed, image) in (1..).zip(pixels.chunks_exact_mut(bytes)) {
        ride_runtime::golden::image(seed, (width, channels), image);
    }
    Some(pixels)
}

fn main() -> ExitCode {
    let arguments: Option<Vec<usize>> = std::env::args().skip(1).map(|a| a.parse().ok()).collect();
    let Some(pixels) = arguments.as_deref().and_then(pictures) else {
        eprintln!("usage: pictures HEIGHT WIDTH CHANNELS NUMBER > FILE    (less than 1 GiB)");
        return ExitCode::FAILURE;
    };
    match std::io::stdout().write_all(&pixels) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("images cannot be written: {error}");
            ExitCode::FAILURE
        }
    }
}
