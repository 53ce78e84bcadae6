//! Names, training counts and groups of classes.

use ride_runtime::Model;

use crate::memory::Out;
use crate::model::{RideModel, opened};
use crate::status::done;
use crate::{Status, Text};

/// Group of a class in the long tail, by its number of training images.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// The artifact does not know.
    Unknown = 0,
    /// More than 100 training images.
    ManyShot = 1,
    /// 20 to 100.
    MediumShot = 2,
    /// 1 to 19.
    FewShot = 3,
}

impl Group {
    fn of_count(count: u32) -> Self {
        match count {
            0 => Group::Unknown,
            1..20 => Group::FewShot,
            20..=100 => Group::MediumShot,
            101.. => Group::ManyShot,
        }
    }
}

/// Asks `model` something about class `class`.
///
/// # Safety
/// As [`opened`] and [`Out::new`].
unsafe fn ask<T>(
    model: *const RideModel,
    class: u32,
    answer: *mut T,
    question: impl FnOnce(&Model<'static>, usize) -> T,
) -> Status {
    // SAFETY: the caller's promise.
    done((|| unsafe {
        let (out, model) = (Out::new(answer)?, opened(model)?);
        if class as usize >= model.classes() {
            return Err(Status::OutOfRange);
        }
        out.put(question(model, class as usize));
        Ok(())
    })())
}

/// Name of class `class_index`; empty where the artifact has none. Searches names from the first: use the table that
/// `ride-compile build --emit c` writes where that matters.
///
/// # Safety
/// As [`crate::ride_model_open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ride_model_class_name(model: *const RideModel, class_index: u32, name: *mut Text) -> Status {
    // SAFETY: the caller's promise.
    unsafe { ask(model, class_index, name, |model, class| model.class_name(class).into()) }
}

/// Training images of class `class_index`; 0 where unknown.
///
/// # Safety
/// As [`crate::ride_model_open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ride_model_train_count(model: *const RideModel, class_index: u32, count: *mut u32) -> Status {
    // SAFETY: the caller's promise.
    unsafe { ask(model, class_index, count, |model, class| model.train_count(class)) }
}

/// Group of class `class_index`.
///
/// # Safety
/// As [`crate::ride_model_open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ride_model_class_group(
    model: *const RideModel,
    class_index: u32,
    group: *mut Group,
) -> Status {
    // SAFETY: the caller's promise.
    unsafe { ask(model, class_index, group, |model, class| Group::of_count(model.train_count(class))) }
}
