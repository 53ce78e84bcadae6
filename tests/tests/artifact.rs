//! Truncated, damaged and crafted artifacts: refused with a reason, or harmless.
use ride_runtime::Model;
use ride_tests::{built, exercise, synthetic::Recipe};

#[test]
fn sizes() {
    for (name, recipe) in Recipe::all() {
        for (target, bits) in built::BUILDS {
            let bytes = built::synthetic(&recipe, target, bits);
            let m = Model::parse(&bytes).unwrap();
            println!("{name} {target} {bits}: {} bytes arena {} bound {} cost {} golden {:?}", bytes.len(), m.arena_len(), m.liveness_bound(), exercise::cost(m), ride_runtime::golden::vectors(&m).map(|v| v.experts).collect::<Vec<_>>());
            for b in exercise::backends(m) { exercise::exercise(m, b, 0xAA); }
        }
    }
}
