//! The machine as a CUDA driver: the functions of NVIDIA's driver library that `ride-cuda` calls, with their names and types.
//!
//! Loaded as a shared library, or handed over as a table of functions in the same process. There are five devices, one for
//! each Jetson that the back end knows and one that is not integrated; each multiprocessor count is small, so that tests see
//! several blocks without taking long. Everything runs at once when it is launched; what goes wrong is printed to standard
//! error, as a debugging tool would, and reported by the next synchronisation.
//!
//! Environment, read by `cuInit`, to rehearse what can be wrong with a machine: `RIDE_PTX_VERSION` (what
//! `cuDriverGetVersion` says), `RIDE_PTX_DEVICES` (how many of the devices are there), `RIDE_PTX_MEMORY` (bytes that each has).
//! `RIDE_PTX_VISIBLE` picks and orders them by number, as `CUDA_VISIBLE_DEVICES` does with NVIDIA's driver: `3` is a machine
//! with an Orin alone.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::{Kernel, Launch, Machine, Module};

/// Name, compute capability, multiprocessors, whether CPU and GPU share their memory.
type Facts = (&'static CStr, u32, u32, bool);
const DEVICES: [Facts; 5] = [
    (c"interpreter (as Jetson Nano)", 53, 1, true),
    (c"interpreter (as Jetson TX2)", 62, 2, true),
    (c"interpreter (as Jetson Xavier)", 72, 3, true),
    (c"interpreter (as Jetson Orin)", 87, 4, true),
    (c"interpreter (not integrated)", 90, 5, false),
];

const SUCCESS: c_int = 0;
const INVALID_VALUE: c_int = 1;
const OUT_OF_MEMORY: c_int = 2;
const NOT_INITIALIZED: c_int = 3;
const INVALID_DEVICE: c_int = 101;
const INVALID_IMAGE: c_int = 200;
const INVALID_CONTEXT: c_int = 201;
const INVALID_PTX: c_int = 218;
const INVALID_HANDLE: c_int = 400;
const NOT_FOUND: c_int = 500;
const LAUNCH_FAILED: c_int = 719;

struct Context {
    facts: Facts,
    machine: Machine,
    modules: HashMap<usize, Module>,
    functions: HashMap<usize, Arc<Kernel>>,
    /// Host memory by its address: the bytes and their device address.
    host: HashMap<usize, (Box<[u64]>, u64)>,
    events: HashMap<usize, Option<Instant>>,
    used: HashMap<u64, usize>,
    memory: usize,
    next: usize,
    /// Streams in which a launch has failed since they were last waited for.
    failed: HashSet<usize>,
}

struct Driver {
    version: c_int,
    contexts: Vec<Context>,
}

static DRIVER: Mutex<Option<Driver>> = Mutex::new(None);

thread_local! {
    static CURRENT: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

fn driver() -> MutexGuard<'static, Option<Driver>> {
    DRIVER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Calls `f` with the current context.
fn with(f: impl FnOnce(&mut Context) -> c_int) -> c_int {
    let number = CURRENT.with(std::cell::Cell::get);
    let mut driver = driver();
    let Some(driver) = driver.as_mut() else { return NOT_INITIALIZED };
    number.checked_sub(1).and_then(|n| driver.contexts.get_mut(n)).map_or(INVALID_CONTEXT, f)
}

/// Writes a result where the caller wants it.
///
/// # Safety
/// `to` is null or valid for writes: CUDA's contract.
unsafe fn put<T>(to: *mut T, value: T) -> c_int {
    if to.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: not null, and valid by the caller's contract.
    unsafe { to.write(value) };
    SUCCESS
}

fn setting(name: &str, otherwise: usize) -> usize {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(otherwise)
}

/// Facts of a device that is there.
fn facts(device: c_int) -> Option<Facts> {
    let number = usize::try_from(device).ok()?;
    driver().as_ref()?.contexts.get(number).map(|c| c.facts)
}

/// The devices that programs see, in their order: numbers behind one that is none count for nothing, as with NVIDIA's driver.
fn visible(count: usize, wish: Option<&str>) -> Vec<Facts> {
    let all = &DEVICES[..count.min(DEVICES.len())];
    let Some(wish) = wish else { return all.to_vec() };
    let device = |number: &str| all.get(number.trim().parse::<usize>().ok()?).copied();
    wish.split(',').map_while(device).collect()
}

impl Context {
    fn handle(&mut self) -> usize {
        self.next += 1;
        self.next
    }

    fn fits(&self, len: usize) -> bool {
        self.used.values().sum::<usize>().saturating_add(len) <= self.memory
    }
}

/// Reaches the machine of a device that has a context, for tests that look behind the driver.
pub fn with_machine<T>(device: usize, f: impl FnOnce(&mut Machine) -> T) -> Option<T> {
    driver().as_mut().and_then(|d| d.contexts.get_mut(device)).map(|c| f(&mut c.machine))
}

macro_rules! exported {
    ($($(#[$meta:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $body:block)*) => {
        $(
            $(#[$meta])*
            ///
            /// # Safety
            /// CUDA's contract: pointers are null or valid for what the function does with them, handles are the driver's.
            #[unsafe(no_mangle)]
            #[allow(non_snake_case)]
            pub unsafe extern "C" fn $name($($arg: $ty),*) -> c_int $body
        )*
        /// All functions by name: what a loader would find in the shared library.
        pub fn symbol(name: &str) -> Option<*const c_void> {
            match name {
                $(stringify!($name) => Some($name as *const c_void),)*
                _ => None,
            }
        }
    };
}

exported! {
    /// Starts the driver.
    fn cuInit(_flags: c_uint) {
        let mut driver = driver();
        if driver.is_none() {
            let wish = std::env::var("RIDE_PTX_VISIBLE").ok();
            let devices = visible(setting("RIDE_PTX_DEVICES", DEVICES.len()), wish.as_deref());
            let memory = setting("RIDE_PTX_MEMORY", 1 << 30);
            let context = |facts| Context {
                facts,
                machine: Machine::default(),
                modules: HashMap::new(),
                functions: HashMap::new(),
                host: HashMap::new(),
                events: HashMap::new(),
                used: HashMap::new(),
                memory,
                next: 0,
                failed: HashSet::new(),
            };
            let version = setting("RIDE_PTX_VERSION", 12060) as c_int;
            *driver = Some(Driver { version, contexts: devices.into_iter().map(context).collect() });
        }
        SUCCESS
    }

    /// 1000 * major + 10 * minor.
    fn cuDriverGetVersion(version: *mut c_int) {
        let known = driver().as_ref().map_or_else(|| setting("RIDE_PTX_VERSION", 12060) as c_int, |d| d.version);
        // SAFETY: the caller's contract.
        unsafe { put(version, known) }
    }

    /// Number of devices.
    fn cuDeviceGetCount(count: *mut c_int) {
        let Some(n) = driver().as_ref().map(|d| d.contexts.len()) else { return NOT_INITIALIZED };
        // SAFETY: the caller's contract.
        unsafe { put(count, n as c_int) }
    }

    /// Handle of a device.
    fn cuDeviceGet(device: *mut c_int, ordinal: c_int) {
        let Some(n) = driver().as_ref().map(|d| d.contexts.len()) else { return NOT_INITIALIZED };
        if usize::try_from(ordinal).is_ok_and(|o| o < n) {
            // SAFETY: the caller's contract.
            unsafe { put(device, ordinal) }
        } else {
            INVALID_DEVICE
        }
    }

    /// Name of a device.
    fn cuDeviceGetName(name: *mut c_char, len: c_int, device: c_int) {
        let Some(entry) = facts(device) else { return INVALID_DEVICE };
        let bytes = entry.0.to_bytes_with_nul();
        if name.is_null() || usize::try_from(len).map_or(true, |len| len < bytes.len()) {
            return INVALID_VALUE;
        }
        // SAFETY: there is room for `len` bytes by the caller's contract.
        unsafe { name.cast::<u8>().copy_from(bytes.as_ptr(), bytes.len()) };
        SUCCESS
    }

    /// Facts about a device.
    fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, device: c_int) {
        let Some((_, capability, multiprocessors, integrated)) = facts(device) else { return INVALID_DEVICE };
        let answer = match attribute {
            13 => 1_000_000,
            16 => multiprocessors,
            18 => u32::from(integrated),
            19 => 1,
            36 => 2_000_000,
            75 => capability / 10,
            76 => capability % 10,
            95 => u32::from(capability >= 60),
            _ => return INVALID_VALUE,
        };
        // SAFETY: the caller's contract.
        unsafe { put(value, answer as c_int) }
    }

    /// Bytes of memory of a device.
    fn cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int) {
        let number = usize::try_from(device).unwrap_or(usize::MAX);
        let Some(memory) = driver().as_ref().and_then(|d| d.contexts.get(number)).map(|c| c.memory) else { return INVALID_DEVICE };
        // SAFETY: the caller's contract.
        unsafe { put(bytes, memory) }
    }

    /// The context of a device.
    fn cuDevicePrimaryCtxRetain(context: *mut usize, device: c_int) {
        let known = driver().as_ref().is_some_and(|d| usize::try_from(device).is_ok_and(|n| n < d.contexts.len()));
        if !known {
            return INVALID_DEVICE;
        }
        // SAFETY: the caller's contract.
        unsafe { put(context, device as usize + 1) }
    }

    /// Gives a device's context back.
    fn cuDevicePrimaryCtxRelease_v2(_device: c_int) { SUCCESS }

    /// Makes a context the calling thread's.
    fn cuCtxSetCurrent(context: usize) {
        CURRENT.with(|c| c.set(context));
        SUCCESS
    }

    /// Compiles PTX.
    fn cuModuleLoadDataEx(module: *mut usize, image: *const c_void, _count: c_uint, _names: *mut c_int, _values: *mut *mut c_void) {
        if image.is_null() {
            return INVALID_VALUE;
        }
        // SAFETY: the image is text that ends with a zero byte, by the caller's contract.
        let Ok(text) = unsafe { CStr::from_ptr(image.cast()) }.to_str() else { return INVALID_IMAGE };
        let current = CURRENT.with(std::cell::Cell::get) as c_int;
        let capability = facts(current - 1).map_or(0, |d| d.1);
        match Module::parse(text) {
            Ok(parsed) if parsed.target() > capability => INVALID_IMAGE,
            Ok(parsed) => with(|c| {
                let handle = c.handle();
                c.modules.insert(handle, parsed);
                // SAFETY: the caller's contract.
                unsafe { put(module, handle) }
            }),
            Err(error) => {
                eprintln!("interpreter: {error}");
                INVALID_PTX
            }
        }
    }

    /// Forgets a module.
    fn cuModuleUnload(module: usize) {
        with(|c| if c.modules.remove(&module).is_some() { SUCCESS } else { INVALID_HANDLE })
    }

    /// A kernel of a module.
    fn cuModuleGetFunction(function: *mut usize, module: usize, name: *const c_char) {
        // SAFETY: a name that ends with a zero byte, by the caller's contract.
        let Ok(name) = unsafe { CStr::from_ptr(name) }.to_str() else { return NOT_FOUND };
        with(|c| {
            let Some(kernel) = c.modules.get(&module).and_then(|m| m.kernel(name)) else { return NOT_FOUND };
            let handle = c.handle();
            c.functions.insert(handle, kernel);
            // SAFETY: the caller's contract.
            unsafe { put(function, handle) }
        })
    }

    /// Device memory.
    fn cuMemAlloc_v2(address: *mut u64, len: usize) {
        with(|c| {
            if len == 0 {
                return INVALID_VALUE;
            }
            if !c.fits(len) {
                return OUT_OF_MEMORY;
            }
            let at = c.machine.memory.allocate(len);
            c.used.insert(at, len);
            // SAFETY: the caller's contract.
            unsafe { put(address, at) }
        })
    }

    /// Frees device memory.
    fn cuMemFree_v2(address: u64) {
        with(|c| {
            c.used.remove(&address);
            if c.machine.free(address) { SUCCESS } else { INVALID_VALUE }
        })
    }

    /// Memory of the host that the device sees.
    fn cuMemHostAlloc(to: *mut *mut c_void, len: usize, _flags: c_uint) {
        with(|c| {
            let mut own = vec![0u64; len.div_ceil(8).max(1)].into_boxed_slice();
            let at: *mut u8 = own.as_mut_ptr().cast();
            // SAFETY: the box stays in the table until the memory is freed.
            let device = unsafe { c.machine.memory.lend(at, len) };
            c.host.insert(at.addr(), (own, device));
            // SAFETY: the caller's contract.
            unsafe { put(to, at.cast()) }
        })
    }

    /// Where the device sees memory of the host.
    fn cuMemHostGetDevicePointer_v2(address: *mut u64, host: *mut c_void, _flags: c_uint) {
        with(|c| {
            let Some(at) = c.host.get(&host.addr()).map(|h| h.1) else { return INVALID_VALUE };
            // SAFETY: the caller's contract.
            unsafe { put(address, at) }
        })
    }

    /// Frees memory of the host.
    fn cuMemFreeHost(host: *mut c_void) {
        with(|c| {
            let Some((_, device)) = c.host.remove(&host.addr()) else { return INVALID_VALUE };
            c.machine.free(device);
            SUCCESS
        })
    }

    /// Copies to the device.
    fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, len: usize, _stream: usize) {
        // SAFETY: `from` is valid for `len` bytes, by the caller's contract.
        let bytes = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), len) };
        with(|c| c.machine.memory.write(to, bytes).map_or(INVALID_VALUE, |()| SUCCESS))
    }

    /// Copies from the device.
    fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, len: usize, _stream: usize) {
        // SAFETY: `to` is valid for `len` bytes, by the caller's contract.
        let bytes = unsafe { std::slice::from_raw_parts_mut(to.cast::<u8>(), len) };
        with(|c| c.machine.memory.read(from, bytes).map_or(INVALID_VALUE, |()| SUCCESS))
    }

    /// Fills device memory.
    fn cuMemsetD8Async(to: u64, value: u8, len: usize, _stream: usize) {
        with(|c| c.machine.memory.write(to, &vec![value; len]).map_or(INVALID_VALUE, |()| SUCCESS))
    }

    /// A stream; everything in it is done at once.
    fn cuStreamCreate(stream: *mut usize, _flags: c_uint) {
        with(|c| {
            let handle = c.handle();
            // SAFETY: the caller's contract.
            unsafe { put(stream, handle) }
        })
    }

    /// Waits; says whether a launch has failed.
    fn cuStreamSynchronize(stream: usize) {
        with(|c| if c.failed.remove(&stream) { LAUNCH_FAILED } else { SUCCESS })
    }

    /// Forgets a stream.
    fn cuStreamDestroy_v2(_stream: usize) { SUCCESS }

    /// An event.
    fn cuEventCreate(event: *mut usize, _flags: c_uint) {
        with(|c| {
            let handle = c.handle();
            c.events.insert(handle, None);
            // SAFETY: the caller's contract.
            unsafe { put(event, handle) }
        })
    }

    /// Notes the time.
    fn cuEventRecord(event: usize, _stream: usize) {
        with(|c| match c.events.get_mut(&event) {
            Some(time) => {
                *time = Some(Instant::now());
                SUCCESS
            }
            None => INVALID_HANDLE,
        })
    }

    /// Milliseconds between two events.
    fn cuEventElapsedTime(ms: *mut f32, start: usize, end: usize) {
        with(|c| match (c.events.get(&start), c.events.get(&end)) {
            (Some(Some(start)), Some(Some(end))) => {
                let between = end.saturating_duration_since(*start).as_secs_f32() * 1e3;
                // SAFETY: the caller's contract.
                unsafe { put(ms, between) }
            }
            _ => INVALID_HANDLE,
        })
    }

    /// Forgets an event.
    fn cuEventDestroy_v2(event: usize) {
        with(|c| if c.events.remove(&event).is_some() { SUCCESS } else { INVALID_HANDLE })
    }

    /// Runs a kernel, to its end.
    fn cuLaunchKernel(
        function: usize,
        grid_x: c_uint, grid_y: c_uint, grid_z: c_uint,
        block_x: c_uint, block_y: c_uint, block_z: c_uint,
        _shared: c_uint, stream: usize, params: *mut *mut c_void, _extra: *mut *mut c_void,
    ) {
        if [grid_y, grid_z, block_y, block_z] != [1; 4] || params.is_null() {
            return INVALID_VALUE;
        }
        with(|c| {
            let Some(kernel) = c.functions.get(&function).cloned() else { return INVALID_HANDLE };
            let mut bytes = Vec::new();
            for (i, &size) in kernel.params.iter().enumerate() {
                bytes.resize(bytes.len().next_multiple_of(size), 0);
                // SAFETY: as many pointers as the kernel has parameters, each to a value of its size: the caller's contract.
                bytes.extend_from_slice(unsafe { std::slice::from_raw_parts((*params.add(i)).cast::<u8>(), size) });
            }
            let launch = Launch { kernel, blocks: grid_x, threads: block_x, params: bytes };
            if let Err(error) = c.machine.launch(&launch) {
                eprintln!("interpreter: {error}");
                c.failed.insert(stream);
            }
            SUCCESS
        })
    }

    /// The same: here all blocks run at once in any case.
    fn cuLaunchCooperativeKernel(
        function: usize,
        grid_x: c_uint, grid_y: c_uint, grid_z: c_uint,
        block_x: c_uint, block_y: c_uint, block_z: c_uint,
        shared: c_uint, stream: usize, params: *mut *mut c_void,
    ) {
        // SAFETY: the caller's contract.
        unsafe {
            cuLaunchKernel(function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared, stream, params, std::ptr::null_mut())
        }
    }

    /// Name of a result.
    fn cuGetErrorName(error: c_int, name: *mut *const c_char) {
        let text = match error {
            SUCCESS => c"CUDA_SUCCESS",
            INVALID_VALUE => c"CUDA_ERROR_INVALID_VALUE",
            OUT_OF_MEMORY => c"CUDA_ERROR_OUT_OF_MEMORY",
            NOT_INITIALIZED => c"CUDA_ERROR_NOT_INITIALIZED",
            INVALID_DEVICE => c"CUDA_ERROR_INVALID_DEVICE",
            INVALID_IMAGE => c"CUDA_ERROR_INVALID_IMAGE",
            INVALID_CONTEXT => c"CUDA_ERROR_INVALID_CONTEXT",
            INVALID_PTX => c"CUDA_ERROR_INVALID_PTX",
            INVALID_HANDLE => c"CUDA_ERROR_INVALID_HANDLE",
            NOT_FOUND => c"CUDA_ERROR_NOT_FOUND",
            LAUNCH_FAILED => c"CUDA_ERROR_LAUNCH_FAILED",
            _ => return INVALID_VALUE,
        };
        // SAFETY: the caller's contract.
        unsafe { put(name, text.as_ptr()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_picked_as_by_the_driver() {
        let capabilities = |wish| visible(5, wish).iter().map(|d| d.1).collect::<Vec<_>>();
        assert_eq!(capabilities(None), [53, 62, 72, 87, 90]);
        assert_eq!(capabilities(Some("3")), [87]);
        assert_eq!(capabilities(Some("4, 0,7,1")), [90, 53]);
        assert_eq!((capabilities(Some("")), visible(2, Some("3")).len()), (vec![], 0));
    }
}
