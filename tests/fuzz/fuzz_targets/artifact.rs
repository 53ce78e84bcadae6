//! Artifacts: parsing, and whatever a session does with those that are accepted.
//!
//! Checksums would keep out nearly everything, so they are made to fit first. Inputs that are no artifact at all become
//! synthetic ones, made here when the fuzzer starts: there are no seeds to keep.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use ride_compiler::memory::AlignedBytes;
use ride_runtime::Model;
use ride_runtime::format::MAGIC;
use ride_tests::built;
use ride_tests::exercise::{Limits, judge};
use ride_tests::forge::{fix_checksums, mutate};
use ride_tests::synthetic::{Random, Recipe};

/// A run must take milliseconds.
const LIMITS: Limits = Limits { arena: 1 << 20, cost: 300_000 };

/// Small artifacts of every kind.
fn synthetic() -> &'static [AlignedBytes] {
    static SYNTHETIC: OnceLock<Vec<AlignedBytes>> = OnceLock::new();
    SYNTHETIC.get_or_init(|| {
        let recipes = [Recipe::tiny(), Recipe::dead(), Recipe::single()];
        let builds = recipes.iter().flat_map(|recipe| built::BUILDS.map(|build| (recipe, build)));
        builds.map(|(recipe, (target, bits))| built::synthetic(recipe, target, bits)).collect()
    })
}

fuzz_target!(
    init: {
        synthetic();
    },
    |data: &[u8]| {
        // As it is: only damage to the checksums themselves gets beyond them.
        let _ = Model::parse(data);
        // Exactly as long as the artifact, so that a memory checker sees reads beyond it.
        let mut bytes = data.to_vec();
        fix_checksums(&mut bytes);
        judge(&bytes, LIMITS);
    }
);

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let mut random = Random::new(u64::from(seed));
    if !data[..size].starts_with(&MAGIC) {
        let fresh = &synthetic()[random.below(synthetic().len())];
        let Some(room) = data.get_mut(..fresh.len()).filter(|_| fresh.len() <= max_size) else {
            return fuzzer_mutate(data, size, max_size);
        };
        room.copy_from_slice(fresh);
        return fresh.len();
    }
    let size = if random.below(4) == 0 { fuzzer_mutate(data, size, max_size) } else { size };
    mutate(&mut data[..size], &mut random);
    size
});
