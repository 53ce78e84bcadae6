//! Where the tests run: on this machine's GPUs, or in the interpreter where there are none.
//!
//! `RIDE_CUDA_TEST=gpu` makes a missing GPU an error, `RIDE_CUDA_TEST=interpreter` leaves a GPU alone.

use std::sync::{Arc, OnceLock};

use ride_cuda::{Api, Device, Error, Path};

/// A device and what to say about it.
pub(crate) struct Ground {
    pub(crate) device: Device,
    /// Paths that are to be tried on it.
    pub(crate) paths: Vec<Path>,
    pub(crate) interpreted: bool,
}

/// The interpreter's driver, in this process.
pub(crate) fn interpreter() -> Arc<Api> {
    // SAFETY: the interpreter declares the functions with the driver's types.
    let api = unsafe { Api::from_functions(ride_ptx::driver::symbol) };
    Arc::new(api.expect("the interpreter has all functions"))
}

fn find() -> Vec<Ground> {
    let wish = std::env::var("RIDE_CUDA_TEST").unwrap_or_default();
    let gpu = if wish == "interpreter" { Err(Error::NoDevice { ordinal: 0, found: 0 }) } else { Device::open(0) };
    match gpu {
        Ok(device) => {
            let facts = device.facts();
            let paths: Vec<Path> = Path::ALL.into_iter().filter(|p| p.capability() <= facts.capability).collect();
            println!("ride-cuda tests: ON A GPU: {} ({:?}), paths {paths:?}", facts.name, facts.capability);
            vec![Ground { device, paths, interpreted: false }]
        }
        Err(error) => {
            assert!(wish != "gpu", "RIDE_CUDA_TEST=gpu, but {error}");
            println!("ride-cuda tests: WITHOUT A GPU, in the interpreter ({error})");
            let open = |n| Device::with_api(interpreter(), n).expect("the interpreter has five devices");
            // Each board with its own path, and on the widest one all of them.
            let mut grounds: Vec<Ground> = (0..4)
                .map(|n| {
                    let device = open(n);
                    let paths = Path::best(device.facts().capability).into_iter().collect();
                    Ground { device, paths, interpreted: true }
                })
                .collect();
            grounds.push(Ground { device: open(4), paths: Path::ALL.to_vec(), interpreted: true });
            grounds
        }
    }
}

/// All grounds of this machine. Says which they are, in every test.
pub(crate) fn grounds() -> &'static [Ground] {
    static GROUNDS: OnceLock<Vec<Ground>> = OnceLock::new();
    let grounds = GROUNDS.get_or_init(find);
    let kind = if grounds[0].interpreted { "in the interpreter, without a GPU" } else { "on a GPU" };
    println!("this test runs {kind}");
    grounds
}
