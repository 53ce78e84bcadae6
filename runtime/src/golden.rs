//! Golden vectors: what the artifact must answer on images that anybody can make from a seed.
//!
//! The section holds their number (u32), then for each the seed (u32), the experts used (u32), the CRC-32 of the routed
//! mean logits' bits and the CRC-32 of the mean logits of all experts. Images are synthetic on purpose: an artifact
//! carries nobody's pictures, and a vector costs 16 bytes of flash.

use crate::format::crc::crc32;
use crate::format::u32_at;
use crate::{Error, Model, Policy, Session};

/// Bytes of one vector.
pub const VECTOR_LEN: usize = 16;

/// One golden vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vector {
    /// Seed of [`image`].
    pub seed: u32,
    /// Experts that routing uses.
    pub experts: u32,
    /// CRC-32 of the routed mean logits, little-endian binary32.
    pub routed: u32,
    /// CRC-32 of the mean logits of all experts.
    pub all: u32,
}

impl Vector {
    /// Bytes of the vector.
    pub fn encode(&self) -> [u8; VECTOR_LEN] {
        let mut out = [0; VECTOR_LEN];
        for (to, v) in out.chunks_exact_mut(4).zip([self.seed, self.experts, self.routed, self.all]) {
            to.copy_from_slice(&v.to_le_bytes());
        }
        out
    }
}

/// Fills `image` (rows of `width` pixels of `channels` bytes) with the picture of `seed`: soft blobs and stripes over a
/// gradient with a little noise, in integer arithmetic.
pub fn image(seed: u32, (width, channels): (usize, usize), image: &mut [u8]) {
    let mut state = seed ^ 0x9E37_79B9;
    let mut next = || {
        // xorshift32 (Marsaglia 2003), never 0 after the first mixing.
        state = if state == 0 { 0x6D2B_79F5 } else { state };
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    // A picture has columns and channels; saying so keeps divisions by zero out of firmware.
    let (width, channels) = (width.max(1), channels.max(1));
    let waves: [[u32; 4]; 4] = core::array::from_fn(|_| core::array::from_fn(|_| next()));
    for (i, byte) in image.iter_mut().enumerate() {
        let (c, x, y) = (i % channels, i / channels % width, i / channels / width);
        let mut sum = 0u32;
        for w in &waves {
            // Triangle waves of different direction, wavelength and phase for each channel.
            let phase = (w[0] % 23) * x as u32 + (w[1] % 19) * y as u32 + (w[2] >> (5 * (c as u32 & 3))) % 256;
            let t = phase % 256;
            sum += if t < 128 { 2 * t } else { 510 - 2 * t };
        }
        *byte = (sum / 4).saturating_add(next() % 16).min(255) as u8;
    }
}

/// CRC-32 of logits as they travel: little-endian binary32.
fn crc_of(session: &Session<'_, '_>) -> Result<u32, Error> {
    let logits = session.outcome()?.logits;
    // SAFETY: every f32 is four valid bytes, and bytes need no alignment.
    let (_, bytes, _) = unsafe { logits.align_to::<u8>() };
    Ok(crc32(bytes))
}

/// Computes the vector of `seed`; `image` is memory for one image.
///
/// # Errors
/// As [`Session::classify`].
pub fn compute(session: &mut Session<'_, '_>, seed: u32, pixels: &mut [u8]) -> Result<Vector, Error> {
    let (_, width, channels) = session.model().input();
    image(seed, (width, channels), pixels);
    let experts = session.classify(pixels, Policy::Routed)?.experts as u32;
    let routed = crc_of(session)?;
    session.classify(pixels, Policy::All)?;
    let all = crc_of(session)?;
    Ok(Vector { seed, experts, routed, all })
}

/// The vectors of a model.
pub fn vectors<'m>(model: &Model<'m>) -> impl Iterator<Item = Vector> + 'm {
    let section = model.golden();
    section.get(4..).unwrap_or_default().chunks_exact(VECTOR_LEN).map(|v| Vector {
        seed: u32_at(v, 0),
        experts: u32_at(v, 4),
        routed: u32_at(v, 8),
        all: u32_at(v, 12),
    })
}

pub(crate) fn check(model: &Model<'_>) -> Result<(), Error> {
    let section = model.golden();
    let count = u32_at(section, 0) as usize;
    if section.len() < 4 || count.checked_mul(VECTOR_LEN) != Some(section.len() - 4) {
        return Err(Error::Invalid { section: "golden", reason: "wrong length", at: section.len() });
    }
    Ok(())
}

pub(crate) fn run(session: &mut Session<'_, '_>, pixels: &mut [u8]) -> Result<usize, Error> {
    let needed = session.model().input_len();
    if pixels.len() != needed {
        return Err(Error::InputLength { needed, found: pixels.len() });
    }
    let mut count = 0;
    for (n, want) in vectors(&session.model()).enumerate() {
        if compute(session, want.seed, pixels)? != want {
            return Err(Error::SelfTest { vector: n });
        }
        count += 1;
    }
    Ok(count)
}
