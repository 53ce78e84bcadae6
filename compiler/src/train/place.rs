//! Where networks are trained.

use anyhow::{Context, Result};
use candle_core::Device;

use super::gpu;
use super::net::Net;
use super::plan::Plan;
use super::probe;

/// A device, and whose operations it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// The first CUDA GPU if the program was built for them and there is one, else the CPU.
    #[default]
    Auto,
    /// The CPU, with loops made for training.
    Cpu,
    /// The first CUDA GPU.
    Cuda,
    /// The CPU, with the operations that a GPU would run: slow, to see what those compute.
    Composed,
}

impl Place {
    /// An untrained network there, and what there is to say about the choice.
    ///
    /// # Errors
    /// If there is no such device, it does not compute what it should, or it has no memory for the network.
    pub fn net(self, plan: Plan, seed: u64) -> Result<(Net, Option<String>)> {
        let (device, note) = match self {
            Place::Cpu => (Device::Cpu, None),
            Place::Composed => (checked(Device::Cpu).context("--device composed")?, None),
            Place::Cuda => (gpu::open().and_then(checked).context("--device cuda")?, None),
            Place::Auto if !gpu::BUILT => (Device::Cpu, None),
            Place::Auto => match gpu::open().and_then(checked) {
                Ok(device) => (device, Some("training on the GPU".to_owned())),
                Err(error) => (Device::Cpu, Some(format!("training on the CPU: {error:#}"))),
            },
        };
        let mut net = Net::new(plan, &device, seed)?;
        if self == Place::Composed {
            net.use_plain_ops();
        }
        Ok((net, note))
    }
}

/// The device, if its operations come to what they should.
fn checked(device: Device) -> Result<Device> {
    probe::check(&device).context("trying the device on a small network")?;
    Ok(device)
}
