//! Every kernel that this machine can run gives the oracle's bits, and touches nothing but its outputs.
//!
//! Needs the feature `std` to see what the processor can do; without it, only what the compiler was told to use runs.

extern crate alloc;

mod sweep;

#[cfg(target_arch = "x86_64")]
use ride_runtime::kernels;
use ride_runtime::kernels::{BACKENDS, Backend};
use sweep::{Random, Sweep};

/// All backends, the 256-bit VNNI kernels in the encoding that AVX-512 machines have, and Winograd's algorithm on all layers
/// for which it is possible.
fn backends() -> Vec<Backend> {
    #[allow(unused_mut)]
    let mut all = BACKENDS.to_vec();
    #[cfg(target_arch = "x86_64")]
    all.extend([kernels::x86::AVX512VL, kernels::x86::AVX512WINOGRAD]);
    let (here, missing): (Vec<_>, Vec<_>) = all.into_iter().partition(|b| b.isa.available());
    for b in missing {
        println!("not run on this machine: {} ({})", b.conv.name, b.isa.name());
    }
    here
}

fn sweep(seed: u64) -> Sweep {
    Sweep { backends: backends().leak(), r: Random(seed), every: 1, seen: 0 }
}

#[test]
fn layers_of_the_network() {
    sweep(1).layers_of_the_network();
}

#[test]
fn output_channels() {
    sweep(2).output_channels();
}

#[test]
fn widths() {
    sweep(3).widths();
}

#[test]
fn windows() {
    sweep(4).windows();
}

#[test]
fn input_channels() {
    sweep(5).input_channels();
}

#[test]
fn dense_layers() {
    sweep(6).dense_layers();
}

#[test]
fn pools() {
    sweep(7).pools();
}

#[test]
fn shortcuts() {
    sweep(8).shortcuts();
}

#[test]
fn groups() {
    sweep(9).groups();
}

#[test]
fn depthwise() {
    sweep(12).depthwise();
}

#[test]
fn imagenet_layers() {
    sweep(10).imagenet_layers();
}

#[test]
fn winograd_tiles() {
    sweep(13).winograd_tiles();
}

#[test]
fn winograd_cuts() {
    sweep(14).winograd_cuts();
}

#[test]
fn winograd_limits() {
    sweep(15).winograd_limits();
}

#[test]
fn max_pools() {
    sweep(11).max_pools();
}
