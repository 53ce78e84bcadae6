//! Loading the driver: none, one that lacks functions, an old one, a real shared library; and what a device can lack.

use std::ffi::c_void;
use std::path::PathBuf;
use std::sync::Arc;

use ride_cuda::{Api, Device, Error, Options, Path, Session};
use ride_ptx::driver;
use ride_runtime::Model;
use ride_tests::built;

fn api(find: impl Fn(&str) -> Option<*const c_void>) -> Arc<Api> {
    // SAFETY: the interpreter's functions have the driver's types; the tests replace them by such with the same ones.
    Arc::new(unsafe { Api::from_functions(find) }.expect("all functions"))
}

fn capability(device: usize) -> (u32, u32) {
    Device::with_api(api(driver::symbol), device).expect("a device").facts().capability
}

#[test]
fn a_missing_driver_is_said_to_be_missing() {
    let names = vec!["libno-such-driver.so.1".to_owned(), "/nowhere/libcuda.so".to_owned()];
    let error = Api::load_from(&names).expect_err("there is no such library");
    assert!(matches!(&error, Error::NoDriver { tried, .. } if *tried == names), "{error:?}");
    let message = error.to_string();
    assert!(message.contains("no NVIDIA driver") && message.contains("/nowhere/libcuda.so"), "{message}");
}

#[test]
fn a_library_that_is_no_driver_lacks_its_functions() {
    let error = Api::load_from(&["libc.so.6".to_owned()]).expect_err("libc is no driver");
    assert_eq!(error, Error::DriverTooOld { found: 0, needed: "cuInit".to_owned() });
}

#[test]
fn each_function_is_needed() {
    for missing in Api::FUNCTIONS {
        let find = |name: &str| if name == *missing { None } else { driver::symbol(name) };
        // SAFETY: as above.
        let error = unsafe { Api::from_functions(find) }.expect_err(missing);
        assert_eq!(error, Error::DriverTooOld { found: 0, needed: (*missing).to_owned() });
    }
}

/// The interpreter's shared library, which Cargo puts beside the tests.
fn shared_library() -> PathBuf {
    let tests = std::env::current_exe().expect("the test's own path");
    let folder = tests.parent().expect("a folder");
    let file = folder.join(format!("{}ride_ptx{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX));
    assert!(file.exists(), "{} is not there", file.display());
    file
}

#[test]
fn a_shared_library_is_loaded_and_runs() {
    let library = shared_library().to_string_lossy().into_owned();
    let api = Arc::new(Api::load_from(&["libno-such-driver.so.1".to_owned(), library]).expect("the library loads"));
    let device = Device::with_api(api, 3).expect("a device");
    assert_eq!((device.facts().capability, device.facts().integrated), ((8, 7), true));
    assert!(device.facts().name.contains("Orin"), "{:?}", device.facts());
    let artifact = built::tiny("portable");
    let model = Model::parse(&artifact).expect("a valid artifact");
    let mut session = Session::new(model, &device).expect("a session");
    assert_eq!(session.path(), Path::Mma);
    assert!(session.self_test().expect("the golden vectors") > 0);
}

#[test]
fn devices_are_what_they_say() {
    assert_eq!([0, 1, 2, 3].map(capability), [(5, 3), (6, 2), (7, 2), (8, 7)]);
    let error = Device::with_api(api(driver::symbol), 9).expect_err("five devices");
    assert_eq!(error, Error::NoDevice { ordinal: 9, found: 5 });
}

extern "C" fn no_device(_: u32) -> i32 {
    100
}

extern "C" fn version_9(version: *mut i32) -> i32 {
    // SAFETY: the caller's variable.
    unsafe { *version = 9020 };
    0
}

extern "C" fn old_gpu(value: *mut i32, attribute: i32, _: i32) -> i32 {
    // SAFETY: the caller's variable.
    unsafe { *value = if attribute == 75 { 5 } else { 0 } };
    0
}

extern "C" fn no_memory(_: *mut u64, _: usize) -> i32 {
    2
}

extern "C" fn failing(_: usize) -> i32 {
    700
}

/// The interpreter's driver with one function replaced.
fn with(name: &'static str, function: *const c_void) -> Arc<Api> {
    api(move |n| if n == name { Some(function) } else { driver::symbol(n) })
}

#[test]
fn what_devices_lack_is_said() {
    let artifact = built::tiny("portable");
    let model = Model::parse(&artifact).expect("a valid artifact");
    let make = |api: Arc<Api>, n| Device::with_api(api, n).and_then(|d| Session::new(model, &d));
    let error = |api, n| make(api, n).map(|_| ()).expect_err("something is missing");

    assert_eq!(error(with("cuInit", no_device as *const c_void), 0), Error::NoDevice { ordinal: 0, found: 0 });
    let old = with("cuDriverGetVersion", version_9 as *const c_void);
    assert!(make(old.clone(), 0).is_ok(), "CUDA 9.2 is enough for a Nano");
    let too_old = error(old, 3);
    assert_eq!(too_old, Error::DriverTooOld { found: 9020, needed: "CUDA 11.0".to_owned() });
    assert!(too_old.to_string().contains("supports CUDA 9.2, CUDA 11.0 is needed"), "{too_old}");
    let unsupported = error(with("cuDeviceGetAttribute", old_gpu as *const c_void), 0);
    assert!(matches!(unsupported, Error::Unsupported { capability: (5, 0), .. }), "{unsupported:?}");
    let memory = error(with("cuMemAlloc_v2", no_memory as *const c_void), 0);
    assert!(matches!(memory, Error::OutOfMemory { .. }), "{memory:?}");
    let kernel = error(with("cuStreamSynchronize", failing as *const c_void), 0);
    assert!(matches!(kernel, Error::Kernel { .. }), "{kernel:?}");

    let nano = Device::with_api(api(driver::symbol), 0).expect("a device");
    let options = Options { path: Some(Path::Mma), ..Options::default() };
    let unavailable = Session::with_options(model, &nano, options).map(|_| ()).expect_err("no tensor cores");
    assert_eq!(unavailable, Error::PathUnavailable { path: Path::Mma, capability: (5, 3) });
    assert!(unavailable.to_string().contains("needs compute capability 8.0, this GPU has 5.3"), "{unavailable}");
}

#[test]
fn calls_out_of_order_are_refused_as_on_a_cpu() {
    use ride_runtime::{Error as Cpu, Policy};
    let artifact = built::tiny("portable");
    let model = Model::parse(&artifact).expect("a valid artifact");
    let device = Device::with_api(api(driver::symbol), 0).expect("a device");
    let mut session = Session::new(model, &device).expect("a session");
    assert_eq!(session.outcome().map(|_| ()), Err(Error::Runtime(Cpu::OutOfOrder)));
    assert_eq!(session.step(), Err(Error::Runtime(Cpu::OutOfOrder)));
    let (needed, found) = (model.input_len(), 3);
    assert_eq!(session.start(&[0; 3]), Err(Error::Runtime(Cpu::InputLength { needed, found })));
    let image = vec![7; needed];
    for requested in [0, 3] {
        let error = session.classify(&image, Policy::Exactly(requested)).map(|_| ());
        assert_eq!(error, Err(Error::Runtime(Cpu::Experts { requested, available: 2 })));
    }
}
