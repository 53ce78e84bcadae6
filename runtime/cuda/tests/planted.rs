//! The checks check: bugs planted into the shipped device code are found, each in the way that it deserves.
//!
//! These tests run in the interpreter, whatever GPUs there are: hardware would not notice most of these bugs.

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::sync::Arc;

use ride_cuda::{Api, Device, Error, Executor, Options, Path, Session};
use ride_ptx::driver;
use ride_runtime::{Model, Policy};
use ride_tests::built;
use ride_tests::exercise::picture;
use ride_tests::synthetic::Recipe;

type Edit = fn(&str) -> String;

thread_local! {
    static EDIT: Cell<Option<Edit>> = const { Cell::new(None) };
}

/// The driver's function, but for the text that it gets.
unsafe extern "C" fn load_edited(
    module: *mut usize,
    image: *const c_void,
    count: c_uint,
    names: *mut c_int,
    values: *mut *mut c_void,
) -> c_int {
    // SAFETY: text that ends with a zero byte, by the driver's contract.
    let text = unsafe { CStr::from_ptr(image.cast::<c_char>()) }.to_str().expect("PTX is ASCII");
    let edited = EDIT.get().map_or_else(|| text.to_owned(), |edit| edit(text));
    assert!(EDIT.get().is_none() || edited != text, "the edit changes nothing");
    let edited = CString::new(edited).expect("no zero bytes");
    // SAFETY: the caller's pointers, and text that lives long enough.
    unsafe { driver::cuModuleLoadDataEx(module, edited.as_ptr().cast(), count, names, values) }
}

fn device() -> Device {
    let find = |name: &str| match name {
        "cuModuleLoadDataEx" => Some(load_edited as *const c_void),
        other => driver::symbol(other),
    };
    // SAFETY: functions with the driver's types.
    let api = unsafe { Api::from_functions(find) }.expect("all functions");
    Device::with_api(Arc::new(api), 4).expect("the fifth device")
}

/// The bits of the mean logits of all experts, by edited device code.
fn run(path: Path, executor: Executor, edit: Option<Edit>) -> Result<Vec<u32>, Error> {
    let artifact = built::synthetic(&Recipe::tiny(), "portable", 16);
    let model = Model::parse(&artifact).expect("a valid artifact");
    EDIT.set(edit);
    let options = Options { path: Some(path), executor, blocks: Some(3) };
    let session = Session::with_options(model, &device(), options);
    EDIT.set(None);
    let mut session = session?;
    let pixels = picture(model, 1);
    let outcome = session.classify(&pixels, Policy::Routed)?;
    Ok(outcome.logits.iter().map(|l| l.to_bits()).collect())
}

fn fails(what: &str, path: Path, edit: Edit) {
    let result = run(path, Executor::Persistent, Some(edit));
    assert!(matches!(result, Err(Error::Kernel { .. })), "{what} on {}: {result:?}", path.name());
}

/// Without line `n` (of those that hold `text`), counted from 0.
fn without(ptx: &str, text: &str, n: Option<usize>) -> String {
    let mut seen = 0;
    let keep = |line: &&str| {
        let hit = line.trim() == text;
        seen += usize::from(hit);
        !(hit && n.is_none_or(|n| n + 1 == seen))
    };
    ptx.lines().filter(keep).map(|l| format!("{l}\n")).collect()
}

#[test]
fn sound_code_passes() {
    let want = run(Path::F32, Executor::OpByOp, None).expect("sound code");
    for path in Path::ALL {
        assert_eq!(run(path, Executor::Persistent, None).as_ref(), Ok(&want), "{}", path.name());
    }
}

#[test]
fn missing_barriers_of_blocks_are_races() {
    for path in [Path::Dp4a, Path::Wmma] {
        let count = path.ptx().lines().filter(|l| l.trim() == "bar.sync 0;").count();
        assert!(count >= 8, "{count} barriers");
        fails("no barriers", path, |ptx| without(ptx, "bar.sync 0;", None));
    }
}

#[test]
fn missing_fences_are_races() {
    fails("no fences", Path::F32, |ptx| without(ptx, "membar.gl;", None));
    fails("no fences", Path::Mma, |ptx| without(ptx, "fence.acq_rel.gpu;", None));
    // Each by itself: before and behind the arrival of the grid's barrier, the last two of the code.
    for n in [2, 3] {
        let edit: [Edit; 2] =
            [|ptx| without(ptx, "fence.acq_rel.gpu;", Some(2)), |ptx| without(ptx, "fence.acq_rel.gpu;", Some(3))];
        assert_eq!(Path::Mma.ptx().lines().filter(|l| l.trim() == "fence.acq_rel.gpu;").count(), 4);
        fails("a fence less", Path::Mma, edit[n - 2]);
    }
}

#[test]
fn missing_barriers_of_warps_are_races() {
    fails("no warp barriers", Path::Wmma, |ptx| without(ptx, "bar.warp.sync 0xffffffff;", None));
    // Those between staging a window and loading it, in each variant of the loop.
    fails("no warp barrier behind the staging", Path::Wmma, |ptx| {
        let lines: Vec<&str> = ptx.lines().collect();
        let next = |n: usize| lines[n + 1..].iter().find(|l| l.trim().ends_with(';'));
        let keep = |n: usize| {
            lines[n].trim() != "bar.warp.sync 0xffffffff;" || !next(n).is_some_and(|l| l.contains("wmma.load.a"))
        };
        (0..lines.len()).filter(|&n| keep(n)).map(|n| format!("{}\n", lines[n])).collect()
    });
}

#[test]
fn a_grid_that_does_not_wait_is_a_race() {
    // Blocks see the barrier's highest bit turned over from the start, and go on at once.
    fails("no waiting", Path::Dp4a, |ptx| {
        let edit = |line: &str| match line.trim().strip_prefix("ld.volatile.u32") {
            Some(rest) => {
                let register = rest.split(',').next().unwrap_or("").trim();
                format!("mov.u32 {register}, 0x80000000;")
            }
            None => line.to_owned(),
        };
        ptx.lines().map(edit).map(|l| l + "\n").collect()
    });
}

/// A load through the read-only cache might not see what other blocks wrote; the interpreter does not pretend to know.
#[test]
fn loads_that_are_not_coherent_are_refused() {
    let result = run(Path::Mma, Executor::Persistent, Some(|ptx| ptx.replacen("ld.global.u32", "ld.global.nc.u32", 1)));
    assert!(matches!(result, Err(Error::DriverTooOld { .. })), "{result:?}");
}

#[test]
fn accesses_out_of_bounds_are_found() {
    fails("a store beyond the arena", Path::Mma, |ptx| {
        let at = ptx.find("st.global.u8").expect("a store");
        let close = at + ptx[at..].find(']').expect("an address");
        let plus = ptx[at..close].contains('+');
        assert!(!plus, "an address without an offset");
        format!("{}+1000000{}", &ptx[..close], &ptx[close..])
    });
}

#[test]
fn swapped_fragments_give_other_bits() {
    let want = run(Path::Mma, Executor::Persistent, None).expect("sound code");
    let swapped: Edit = |ptx| {
        let swap = |line: &str| {
            let (head, rest) = line.split_once("}, {")?;
            let (a, tail) = rest.split_once("}, {")?;
            let r: Vec<&str> = a.split(',').collect();
            Some(format!("{head}}}, {{{},{},{},{}}}, {{{tail}", r[0], r[2], r[1], r[3]))
        };
        let line = |l: &str| if l.contains("mma.sync") { swap(l).expect("a fragment") } else { l.to_owned() };
        ptx.lines().map(|l| line(l) + "\n").collect()
    };
    let got = run(Path::Mma, Executor::Persistent, Some(swapped)).expect("code that runs");
    assert_ne!(got, want);
}

#[test]
fn unknown_instructions_are_refused() {
    let result = run(Path::Dp4a, Executor::Persistent, Some(|ptx| ptx.replace("dp4a.s32.s32", "dp4a.u32.s32")));
    assert!(matches!(result, Err(Error::DriverTooOld { .. })), "{result:?}");
}
