//! The driver, in what this crate needs of it: a device, memory, kernels, time.

#[expect(non_snake_case, reason = "functions and fields have the driver's names")]
mod api;

use std::ffi::{CStr, CString, c_int, c_void};
use std::ptr;
use std::sync::Arc;

use crate::Error;
pub use api::Api;
use api::Code;

const OUT_OF_MEMORY: Code = 2;
const NO_DEVICE: Code = 100;
const INVALID_PTX: Code = 218;
const UNSUPPORTED_PTX_VERSION: Code = 222;
/// Errors that a kernel causes: illegal addresses and instructions, traps, time limits, hardware.
const KERNEL: std::ops::RangeInclusive<Code> = 700..=719;

/// `CUdevice_attribute`.
#[derive(Clone, Copy, Debug)]
enum Attribute {
    ClockKhz = 13,
    Multiprocessors = 16,
    Integrated = 18,
    CanMapHostMemory = 19,
    MemoryClockKhz = 36,
    Major = 75,
    Minor = 76,
    CooperativeLaunch = 95,
}

/// What a GPU says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its name.
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Whether it shares the CPU's memory, as on all Jetson boards: then images and answers are not copied.
    pub integrated: bool,
    /// Bytes of memory.
    pub memory: usize,
    /// Highest clock of the multiprocessors in kHz; 0 where the driver does not tell.
    pub clock_khz: u32,
    /// Highest clock of the memory in kHz; 0 where the driver does not tell.
    pub memory_clock_khz: u32,
    /// CUDA version of the driver, 1000 * major + 10 * minor.
    pub driver: i32,
    /// Whether the driver checks that all blocks of a launch run at the same time.
    pub cooperative: bool,
}

/// A GPU with its context. Copies are cheap and share it.
#[derive(Clone, Debug)]
pub struct Device {
    api: Arc<Api>,
    context: usize,
    facts: Arc<Facts>,
}

impl Device {
    /// GPU number `ordinal` of the machine's driver.
    ///
    /// # Errors
    /// No driver, one that is too old, or no such GPU.
    pub fn open(ordinal: usize) -> Result<Self, Error> {
        Self::with_api(Arc::new(Api::load()?), ordinal)
    }

    /// GPU number `ordinal` of a driver.
    ///
    /// # Errors
    /// As [`Device::open`].
    pub fn with_api(api: Arc<Api>, ordinal: usize) -> Result<Self, Error> {
        let check = |function, code| check(&api, function, code);
        // SAFETY: the driver's contract: no requirements.
        let started = unsafe { (api.cuInit)(0) };
        if started == NO_DEVICE {
            return Err(Error::NoDevice { ordinal, found: 0 });
        }
        check("cuInit", started)?;
        let (mut count, mut driver, mut device, mut context, mut memory) = (0, 0, 0, 0, 0);
        // SAFETY: all pointers are to live variables of the types that the functions write.
        unsafe {
            check("cuDriverGetVersion", (api.cuDriverGetVersion)(&mut driver))?;
            check("cuDeviceGetCount", (api.cuDeviceGetCount)(&mut count))?;
            let found = usize::try_from(count).unwrap_or(0);
            if ordinal >= found {
                return Err(Error::NoDevice { ordinal, found });
            }
            check("cuDeviceGet", (api.cuDeviceGet)(&mut device, ordinal as c_int))?;
            check("cuDeviceTotalMem_v2", (api.cuDeviceTotalMem_v2)(&mut memory, device))?;
        }
        let attribute = |attribute: Attribute| {
            let mut value = 0;
            // SAFETY: a live variable and a device of the driver.
            let code = unsafe { (api.cuDeviceGetAttribute)(&mut value, attribute as c_int, device) };
            if code == 0 { u32::try_from(value).unwrap_or(0) } else { 0 }
        };
        let facts = Facts {
            name: name(&api, device),
            capability: (attribute(Attribute::Major), attribute(Attribute::Minor)),
            multiprocessors: attribute(Attribute::Multiprocessors).max(1),
            integrated: attribute(Attribute::Integrated) == 1 && attribute(Attribute::CanMapHostMemory) == 1,
            memory,
            clock_khz: attribute(Attribute::ClockKhz),
            memory_clock_khz: attribute(Attribute::MemoryClockKhz),
            driver,
            cooperative: attribute(Attribute::CooperativeLaunch) == 1,
        };
        // SAFETY: a live variable and a device of the driver.
        check("cuDevicePrimaryCtxRetain", unsafe { (api.cuDevicePrimaryCtxRetain)(&mut context, device) })?;
        Ok(Device { api, context, facts: Arc::new(facts) })
    }

    /// What the GPU says about itself.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Makes the GPU the calling thread's and calls the driver.
    fn call(&self, function: &'static str, f: impl FnOnce(&Api) -> Code) -> Result<(), Error> {
        // SAFETY: the context is the driver's; it is never given back, so it outlives everything that uses it.
        check(&self.api, "cuCtxSetCurrent", unsafe { (self.api.cuCtxSetCurrent)(self.context) })?;
        check(&self.api, function, f(&self.api))
    }
}

fn name(api: &Api, device: c_int) -> String {
    let mut bytes = [0u8; 256];
    // SAFETY: the buffer has the length that is passed on.
    let code = unsafe { (api.cuDeviceGetName)(bytes.as_mut_ptr().cast(), bytes.len() as c_int, device) };
    let text = CStr::from_bytes_until_nul(&bytes).map(|s| s.to_string_lossy().into_owned());
    if code == 0 { text.unwrap_or_default() } else { String::new() }
}

fn check(api: &Api, function: &'static str, code: Code) -> Result<(), Error> {
    if code == 0 {
        return Ok(());
    }
    let mut name = ptr::null();
    // SAFETY: a live variable; the text that it is set to is the driver's and static.
    let reason = unsafe {
        match (api.cuGetErrorName)(code, &mut name) {
            0 if !name.is_null() => CStr::from_ptr(name).to_string_lossy().into_owned(),
            _ => format!("CUDA error {code}"),
        }
    };
    Err(match code {
        c if KERNEL.contains(&c) => Error::Kernel { reason },
        _ => Error::Call { function, reason },
    })
}

/// Device memory.
#[derive(Debug)]
pub(crate) struct Buffer {
    device: Device,
    pub(crate) address: u64,
    pub(crate) len: usize,
}

impl Buffer {
    /// Memory of `len` bytes, at least one; what it holds is not defined.
    pub(crate) fn new(device: &Device, len: usize) -> Result<Self, Error> {
        let (mut address, len) = (0, len.max(1));
        let result = device.call("cuMemAlloc_v2", |api| {
            // SAFETY: a live variable.
            let code = unsafe { (api.cuMemAlloc_v2)(&mut address, len) };
            if code == OUT_OF_MEMORY { -1 } else { code }
        });
        match result {
            Err(Error::Call { .. }) => Err(Error::OutOfMemory { needed: len }),
            other => other.map(|()| Buffer { device: device.clone(), address, len }),
        }
    }

    /// Memory that holds these bytes.
    pub(crate) fn of(device: &Device, bytes: &[u8], stream: &Stream) -> Result<Self, Error> {
        let buffer = Self::new(device, bytes.len())?;
        buffer.write(bytes, stream)?;
        Ok(buffer)
    }

    /// Copies as many bytes to its start. Those that lie in [`Mapped`] memory are read when the stream comes to it, and must
    /// stay as they are until then.
    pub(crate) fn write(&self, bytes: &[u8], stream: &Stream) -> Result<(), Error> {
        assert!(bytes.len() <= self.len);
        self.device.call("cuMemcpyHtoDAsync_v2", |api| {
            // SAFETY: both sides have as many bytes. Memory of the caller's that is not page-locked has been read when the
            // call returns; other memory lives until the stream is done with it.
            unsafe { (api.cuMemcpyHtoDAsync_v2)(self.address, bytes.as_ptr().cast(), bytes.len(), stream.handle) }
        })
    }

    /// Copies bytes from `at` on and waits for them.
    pub(crate) fn read(&self, at: usize, bytes: &mut [u8], stream: &Stream) -> Result<(), Error> {
        assert!(at + bytes.len() <= self.len);
        self.device.call("cuMemcpyDtoHAsync_v2", |api| {
            // SAFETY: both sides have as many bytes, and the caller's are borrowed until the stream is done.
            unsafe {
                (api.cuMemcpyDtoHAsync_v2)(
                    bytes.as_mut_ptr().cast(),
                    self.address + at as u64,
                    bytes.len(),
                    stream.handle,
                )
            }
        })?;
        stream.wait()
    }

    /// Fills it with zeros.
    pub(crate) fn clear(&self, stream: &Stream) -> Result<(), Error> {
        self.device.call("cuMemsetD8Async", |api| {
            // SAFETY: the buffer's own memory.
            unsafe { (api.cuMemsetD8Async)(self.address, 0, self.len, stream.handle) }
        })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated by this driver and freed once. There is nobody to tell about a failure.
        let _ = self.device.call("cuMemFree_v2", |api| unsafe { (api.cuMemFree_v2)(self.address) });
    }
}

/// Page-locked memory of the host that the GPU sees at `address`.
#[derive(Debug)]
pub(crate) struct Mapped {
    device: Device,
    host: *mut u8,
    len: usize,
    pub(crate) address: u64,
}

// SAFETY: the memory is the value's own.
unsafe impl Send for Mapped {}

impl Mapped {
    /// Memory of `len` zeros, at least one.
    pub(crate) fn new(device: &Device, len: usize) -> Result<Self, Error> {
        const PORTABLE_AND_MAPPED: u32 = 1 | 2;
        let (mut host, mut address, len) = (ptr::null_mut::<c_void>(), 0, len.max(1));
        // SAFETY: a live variable.
        device.call("cuMemHostAlloc", |api| unsafe { (api.cuMemHostAlloc)(&mut host, len, PORTABLE_AND_MAPPED) })?;
        // SAFETY: the driver has just allocated as many bytes.
        unsafe { host.cast::<u8>().write_bytes(0, len) };
        let mut mapped = Mapped { device: device.clone(), host: host.cast(), len, address: 0 };
        device.call("cuMemHostGetDevicePointer_v2", |api| {
            // SAFETY: a live variable and memory of the driver's.
            unsafe { (api.cuMemHostGetDevicePointer_v2)(&mut address, host, 0) }
        })?;
        mapped.address = address;
        Ok(mapped)
    }

    /// The bytes. The stream must be idle: kernels may write them otherwise.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: initialised memory of this length; the callers wait for the stream first.
        unsafe { std::slice::from_raw_parts(self.host, self.len) }
    }

    /// The bytes, to be written before a launch.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`, and borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.host, self.len) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: allocated by this driver and freed once.
        let _ = self.device.call("cuMemFreeHost", |api| unsafe { (api.cuMemFreeHost)(self.host.cast()) });
    }
}

/// Launches in order.
#[derive(Debug)]
pub(crate) struct Stream {
    device: Device,
    handle: usize,
}

impl Stream {
    pub(crate) fn new(device: &Device) -> Result<Self, Error> {
        const NON_BLOCKING: u32 = 1;
        let mut handle = 0;
        // SAFETY: a live variable.
        device.call("cuStreamCreate", |api| unsafe { (api.cuStreamCreate)(&mut handle, NON_BLOCKING) })?;
        Ok(Stream { device: device.clone(), handle })
    }

    /// Waits for everything launched so far.
    pub(crate) fn wait(&self) -> Result<(), Error> {
        // SAFETY: the stream is the driver's and alive.
        self.device.call("cuStreamSynchronize", |api| unsafe { (api.cuStreamSynchronize)(self.handle) })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: created by this driver and destroyed once.
        let _ = self.device.call("cuStreamDestroy_v2", |api| unsafe { (api.cuStreamDestroy_v2)(self.handle) });
    }
}

/// A kernel and the module that it is in.
#[derive(Debug)]
pub(crate) struct Kernel {
    device: Device,
    module: usize,
    function: usize,
}

/// How many blocks and threads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    pub(crate) blocks: u32,
    pub(crate) threads: u32,
    /// Whether blocks wait for each other, so that all must run at the same time.
    pub(crate) together: bool,
}

impl Kernel {
    /// Compiles PTX; `needed` is the CUDA version that knows it.
    pub(crate) fn new(device: &Device, ptx: &str, name: &str, needed: i32) -> Result<Self, Error> {
        let found = device.facts.driver;
        let too_old =
            || Error::DriverTooOld { found, needed: format!("CUDA {}.{}", needed / 1000, needed % 1000 / 10) };
        if found < needed {
            return Err(too_old());
        }
        let bad = |_| Error::Call { function: "cuModuleLoadDataEx", reason: "a zero byte in the text".to_owned() };
        let (text, name) = (CString::new(ptx).map_err(bad)?, CString::new(name).map_err(bad)?);
        let mut kernel = Kernel { device: device.clone(), module: 0, function: 0 };
        let mut code = 0;
        let loaded = device.call("cuModuleLoadDataEx", |api| {
            // SAFETY: a live variable, text that ends with a zero byte, and no options.
            code = unsafe {
                (api.cuModuleLoadDataEx)(&mut kernel.module, text.as_ptr().cast(), 0, ptr::null_mut(), ptr::null_mut())
            };
            code
        });
        if matches!(code, INVALID_PTX | UNSUPPORTED_PTX_VERSION) {
            return Err(too_old());
        }
        loaded?;
        device.call("cuModuleGetFunction", |api| {
            // SAFETY: a live variable, a module of the driver's, a name that ends with a zero byte.
            unsafe { (api.cuModuleGetFunction)(&mut kernel.function, kernel.module, name.as_ptr()) }
        })?;
        Ok(kernel)
    }

    /// Launches the kernel. `params` are pointers to its parameters.
    ///
    /// # Safety
    /// As many pointers as the kernel has parameters, each to a live value of the parameter's type; what the kernel does with
    /// device addresses among them is right.
    pub(crate) unsafe fn launch(&self, grid: Grid, params: &mut [*mut c_void], stream: &Stream) -> Result<(), Error> {
        let Grid { blocks, threads, together } = grid;
        let (f, s, p) = (self.function, stream.handle, params.as_mut_ptr());
        if together && self.device.facts.cooperative {
            // SAFETY: the caller's contract.
            return self.device.call("cuLaunchCooperativeKernel", |api| unsafe {
                (api.cuLaunchCooperativeKernel)(f, blocks, 1, 1, threads, 1, 1, 0, s, p)
            });
        }
        // SAFETY: the caller's contract.
        self.device.call("cuLaunchKernel", |api| unsafe {
            (api.cuLaunchKernel)(f, blocks, 1, 1, threads, 1, 1, 0, s, p, ptr::null_mut())
        })
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        if self.module != 0 {
            // SAFETY: loaded by this driver and unloaded once.
            let _ = self.device.call("cuModuleUnload", |api| unsafe { (api.cuModuleUnload)(self.module) });
        }
    }
}

/// A moment in a stream.
#[derive(Debug)]
pub(crate) struct Event {
    device: Device,
    handle: usize,
}

impl Event {
    pub(crate) fn new(device: &Device) -> Result<Self, Error> {
        let mut handle = 0;
        // SAFETY: a live variable.
        device.call("cuEventCreate", |api| unsafe { (api.cuEventCreate)(&mut handle, 0) })?;
        Ok(Event { device: device.clone(), handle })
    }

    /// Happens when everything launched so far is done.
    pub(crate) fn record(&self, stream: &Stream) -> Result<(), Error> {
        // SAFETY: event and stream are the driver's and alive.
        self.device.call("cuEventRecord", |api| unsafe { (api.cuEventRecord)(self.handle, stream.handle) })
    }

    /// Microseconds since `earlier`; both have happened.
    pub(crate) fn since(&self, earlier: &Event) -> Result<f64, Error> {
        let mut ms = 0.0f32;
        self.device.call("cuEventElapsedTime", |api| {
            // SAFETY: a live variable and events of the driver.
            unsafe { (api.cuEventElapsedTime)(&mut ms, earlier.handle, self.handle) }
        })?;
        Ok(f64::from(ms) * 1e3)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: created by this driver and destroyed once.
        let _ = self.device.call("cuEventDestroy_v2", |api| unsafe { (api.cuEventDestroy_v2)(self.handle) });
    }
}
