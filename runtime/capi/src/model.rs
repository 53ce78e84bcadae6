//! Opening artifacts and asking what they hold.

use ride_runtime::{Model, golden};

use crate::memory::{Out, bytes, check, extent, overlap, read};
use crate::status::{done, explain};
use crate::{Detail, Status, Text};

/// Words of a `ride_model`; more than it uses, so that it may grow.
pub const MODEL_WORDS: usize = 8;

/// An artifact that has been checked: memory of the caller's, whose content is private. It borrows the artifact's bytes.
/// Any number of threads may use it; it may be copied; it needs no end.
#[repr(C)]
#[derive(Debug)]
pub struct RideModel {
    /// Private.
    pub words: [usize; MODEL_WORDS],
}

/// What lies in a [`RideModel`].
#[repr(C)]
struct Opened {
    seal: usize,
    model: Model<'static>,
    end: usize,
}

const _: () = assert!(size_of::<Opened>() <= size_of::<RideModel>());
const _: () = assert!(align_of::<Opened>() <= align_of::<RideModel>());

/// Tells an opened model from other memory.
const SEAL: usize = 0x4D44_4952;

/// What an artifact holds. Sizes are in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Info {
    /// Bytes of an image: `height * width * channels` unsigned pixels, row by row, channels of a pixel side by side.
    pub image_bytes: usize,
    /// Bytes of the arena that a session needs.
    pub arena_bytes: usize,
    /// Bytes of the artifact itself, without what followed it.
    pub artifact_bytes: usize,
    /// Rows of an image.
    pub height: u32,
    /// Columns of an image.
    pub width: u32,
    /// Channels of an image.
    pub channels: u32,
    /// Number of classes.
    pub classes: u32,
    /// Number of experts.
    pub experts: u32,
    /// 1 if there is a router behind each expert but the last, else 0.
    pub routed: u32,
    /// Bits of the residual stream: 8 or 16.
    pub residual_bits: u32,
    /// Number of images that `ride_self_test` runs.
    pub golden_vectors: u32,
    /// Checksum of header and section table: differs between any two artifacts.
    pub checksum: u32,
    /// Fingerprint of the float model that the artifact was built from.
    pub fingerprint: Text,
    /// Name of the target that it was built for.
    pub target: Text,
    /// Name of the architecture.
    pub arch: Text,
    /// Name of the weights' layout.
    pub layout: Text,
}

/// The model in `pointer`.
///
/// # Safety
/// As [`read`]: if `pointer` is not null and aligned, there is a `RideModel`'s memory.
pub(crate) unsafe fn opened<'a>(pointer: *const RideModel) -> Result<&'a Model<'static>, Status> {
    // SAFETY: the caller's promise; words have no invalid bits.
    let words = unsafe { read(pointer) }?;
    let last = core::mem::offset_of!(Opened, end) / size_of::<usize>();
    if words.words.first() != Some(&SEAL) || words.words.get(last) != Some(&!SEAL) {
        return Err(Status::NotInitialised);
    }
    // SAFETY: both seals are where `ride_model_open` puts them, around the model that it wrote; size and alignment are
    // asserted above.
    Ok(unsafe { &(*pointer.cast::<Opened>()).model })
}

/// Checks an artifact completely (it reads all of its bytes) and makes `*model` from it. Every byte is covered by a
/// checksum, and every operation, offset and size is checked, so that damaged or hostile bytes end here.
///
/// `artifact` stays the caller's; it must not change or move as long as the model or one of its sessions is used. It may
/// lie in flash and be followed by other bytes: `bytes` may be larger than the artifact. Some kernels want it at a multiple
/// of 4; `RIDE_ALIGN` suits all of them.
///
/// `detail` (or null) is told more about a failure.
///
/// # Safety
/// Null and misaligned pointers are refused; pointers that are neither must point to what their type says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ride_model_open(
    model: *mut RideModel,
    artifact: *const u8,
    bytes: usize,
    detail: *mut Detail,
) -> Status {
    // SAFETY: the caller's promise.
    unsafe { explain(open(model, artifact, bytes), detail) }
}

unsafe fn open(model: *mut RideModel, artifact: *const u8, length: usize) -> Result<(), Detail> {
    check(model)?;
    if overlap(&extent(model, size_of::<RideModel>())?, &extent(artifact, length)?) {
        return Err(Status::Overlap.into());
    }
    // SAFETY: the caller's promise; "as long as it is used" is what 'static stands for.
    let artifact: &'static [u8] = unsafe { bytes(artifact, length) }?;
    // A failure must not leave the model that was here before.
    // SAFETY: the caller's memory, checked above; a `RideModel` is words, all of whose bits are valid.
    unsafe { (*model).words = [0; MODEL_WORDS] };
    let opened = Opened { seal: SEAL, model: Model::parse(artifact)?, end: !SEAL };
    // SAFETY: as above; an `Opened` fits.
    unsafe { model.cast::<Opened>().write(opened) };
    Ok(())
}

/// Tells what the artifact holds.
///
/// # Safety
/// As [`ride_model_open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ride_model_info(model: *const RideModel, info: *mut Info) -> Status {
    // SAFETY: the caller's promise.
    done((|| unsafe {
        let out = Out::new(info)?;
        out.put(describe(opened(model)?));
        Ok(())
    })())
}

fn describe(model: &Model<'static>) -> Info {
    let (height, width, channels) = model.input();
    Info {
        image_bytes: model.input_len(),
        arena_bytes: model.arena_len(),
        artifact_bytes: model.bytes().len(),
        height: height as u32,
        width: width as u32,
        channels: channels as u32,
        classes: model.classes() as u32,
        experts: model.experts() as u32,
        routed: model.routed().into(),
        residual_bits: model.residual_bits().into(),
        golden_vectors: golden::vectors(model).count() as u32,
        checksum: model.checksum(),
        fingerprint: model.fingerprint().into(),
        target: model.target().into(),
        arch: model.arch().into(),
        layout: model.layout().name().into(),
    }
}

/// Multiply-accumulates of the stem and the first `experts` experts (without routers); 0 experts is the stem alone.
///
/// # Safety
/// As [`ride_model_open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ride_model_macs(model: *const RideModel, experts: u32, macs: *mut u64) -> Status {
    // SAFETY: the caller's promise.
    done((|| unsafe {
        let (out, model) = (Out::new(macs)?, opened(model)?);
        if experts as usize > model.experts() {
            return Err(Status::Experts);
        }
        let steps = model.parts().take(1 + experts as usize).flat_map(|part| part.steps());
        out.put(steps.fold(0u64, |sum, step| sum.saturating_add(step.op.macs())));
        Ok(())
    })())
}
