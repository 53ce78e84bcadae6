//! The driver's functions, found by name when the program runs.

use std::ffi::{c_char, c_int, c_uint, c_void};

use libloading::Library;

use crate::Error;

/// What a function of the driver returns: 0, or the number of an error.
pub(crate) type Code = c_int;

macro_rules! functions {
    ($($name:ident($($arg:ty),* $(,)?);)*) => {
        /// Table of the functions that this crate calls. Types and names as in CUDA's `cuda.h`; handles are pointers there and
        /// numbers here.
        #[allow(missing_docs)]
        pub struct Api {
            $(pub(crate) $name: unsafe extern "C" fn($($arg),*) -> Code,)*
            /// Keeps the functions where they are.
            _library: Option<Library>,
        }

        impl Api {
            fn of(find: &dyn Fn(&str) -> Option<*const c_void>, library: Option<Library>) -> Result<Self, Error> {
                $(
                    let address = find(stringify!($name)).filter(|p| !p.is_null());
                    let address = address.ok_or_else(|| Error::DriverTooOld { found: 0, needed: stringify!($name).to_owned() })?;
                    // SAFETY: the driver's function of this name has this type (CUDA driver API, unchanged since CUDA 7 for
                    // these names; incompatible successors have names with other suffixes).
                    let $name = unsafe { std::mem::transmute::<*const c_void, unsafe extern "C" fn($($arg),*) -> Code>(address) };
                )*
                Ok(Api { $($name,)* _library: library })
            }

            /// Names of all functions.
            pub const FUNCTIONS: &[&str] = &[$(stringify!($name)),*];
        }
    };
}

functions! {
    cuInit(c_uint);
    cuDriverGetVersion(*mut c_int);
    cuDeviceGetCount(*mut c_int);
    cuDeviceGet(*mut c_int, c_int);
    cuDeviceGetName(*mut c_char, c_int, c_int);
    cuDeviceGetAttribute(*mut c_int, c_int, c_int);
    cuDeviceTotalMem_v2(*mut usize, c_int);
    cuDevicePrimaryCtxRetain(*mut usize, c_int);
    cuCtxSetCurrent(usize);
    cuModuleLoadDataEx(*mut usize, *const c_void, c_uint, *mut c_int, *mut *mut c_void);
    cuModuleUnload(usize);
    cuModuleGetFunction(*mut usize, usize, *const c_char);
    cuMemAlloc_v2(*mut u64, usize);
    cuMemFree_v2(u64);
    cuMemHostAlloc(*mut *mut c_void, usize, c_uint);
    cuMemHostGetDevicePointer_v2(*mut u64, *mut c_void, c_uint);
    cuMemFreeHost(*mut c_void);
    cuMemcpyHtoDAsync_v2(u64, *const c_void, usize, usize);
    cuMemcpyDtoHAsync_v2(*mut c_void, u64, usize, usize);
    cuMemsetD8Async(u64, u8, usize, usize);
    cuStreamCreate(*mut usize, c_uint);
    cuStreamSynchronize(usize);
    cuStreamDestroy_v2(usize);
    cuEventCreate(*mut usize, c_uint);
    cuEventRecord(usize, usize);
    cuEventElapsedTime(*mut f32, usize, usize);
    cuEventDestroy_v2(usize);
    cuLaunchKernel(usize, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, usize, *mut *mut c_void, *mut *mut c_void);
    cuLaunchCooperativeKernel(usize, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, usize, *mut *mut c_void);
    cuGetErrorName(c_int, *mut *const c_char);
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Api")
    }
}

/// Where the driver is looked for unless `RIDE_CUDA_LIBRARY` names it: NVIDIA installs it into the loader's path, older
/// JetPacks beside their other libraries.
#[cfg(not(windows))]
const LIBRARIES: &[&str] = &["libcuda.so.1", "/usr/lib/aarch64-linux-gnu/tegra/libcuda.so.1", "libcuda.so"];
/// Where the driver is looked for unless `RIDE_CUDA_LIBRARY` names it: NVIDIA installs it into the system's folder.
#[cfg(windows)]
const LIBRARIES: &[&str] = &["nvcuda.dll"];

impl Api {
    /// Loads the machine's driver.
    ///
    /// # Errors
    /// There is none, or it lacks a function.
    pub fn load() -> Result<Self, Error> {
        match std::env::var("RIDE_CUDA_LIBRARY") {
            Ok(name) if !name.is_empty() => Self::load_from(&[name]),
            _ => Self::load_from(&LIBRARIES.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()),
        }
    }

    /// Loads the first of these libraries that is there.
    ///
    /// # Errors
    /// None is there, or the one that is lacks a function.
    pub fn load_from(names: &[String]) -> Result<Self, Error> {
        let mut reason = String::new();
        for name in names {
            // SAFETY: the driver's initialisers have no requirements; it stays loaded as long as the table lives.
            match unsafe { Library::new(name) } {
                Ok(library) => {
                    // SAFETY: only the address is taken; `Api::of` gives it the type of the function of that name.
                    let find = |name: &str| unsafe { library.get::<*const c_void>(name.as_bytes()).ok().map(|s| *s) };
                    let table = Self::of(&find, None)?;
                    return Ok(Api { _library: Some(library), ..table });
                }
                Err(error) => reason = error.to_string(),
            }
        }
        Err(Error::NoDriver { tried: names.to_vec(), reason })
    }

    /// A table of functions that are in this process already.
    ///
    /// # Safety
    /// Each address that `find` gives is a function with the type and contract of the driver's function of that name.
    ///
    /// # Errors
    /// A function is missing.
    pub unsafe fn from_functions(find: impl Fn(&str) -> Option<*const c_void>) -> Result<Self, Error> {
        Self::of(&find, None)
    }
}
