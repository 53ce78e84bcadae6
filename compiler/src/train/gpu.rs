//! The first CUDA GPU, in programs that are built for it.

use anyhow::{Context, Result};
use candle_core::cuda_backend::cudarc::driver::{result, sys};
use candle_core::{CudaDevice, DType, Device, Tensor};

/// Whether this program can train on GPUs at all.
pub(super) const BUILT: bool = true;

pub(super) fn open() -> Result<Device> {
    // Asked first, because its errors say what is missing: a GPU, or a newer driver.
    let gpu = ride_cuda::Device::open(0)?;
    let device = Device::new_cuda(0).context("the GPU cannot be used")?;
    keep_memory(device.as_cuda_device()?).context("the GPU's memory cannot be managed")?;
    // Kernels are taken by the driver with the first operation that needs them.
    let first = || (Tensor::ones((), DType::F32, &device)? + 1.0)?.to_scalar::<f32>();
    first().with_context(|| {
        let facts = gpu.facts();
        format!(
            "{}, compute capability {}.{}, with a driver for CUDA {}.{}, does not take this program's kernels: they need a driver \
             as new as the toolkit that the program was built with, and at least the compute capability that it was built for \
             (CUDA_COMPUTE_CAP)",
            facts.name,
            facts.capability.0,
            facts.capability.1,
            facts.driver / 1000,
            facts.driver % 1000 / 10
        )
    })?;
    Ok(device)
}

/// Memory that is free stays the program's: by default, it goes back to the system whenever the CPU waits for the GPU, which it
/// does in every step, and getting all of it again takes time.
fn keep_memory(device: &CudaDevice) -> Result<()> {
    let stream = device.cuda_stream();
    let context = stream.context();
    if !context.has_async_alloc() {
        return Ok(());
    }
    let mut threshold = u64::MAX;
    // SAFETY: the device is that of a live context; its default pool lives as long as the driver; this attribute is a `u64`.
    unsafe {
        let pool = result::device::get_default_mem_pool(context.cu_device())?;
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        result::mem_pool::set_attribute(pool, attribute, (&raw mut threshold).cast())?;
    }
    Ok(())
}
