//! The teacher in candle's operations.

use candle_core::Device;
use serde_json::json;

use super::difference;
use super::net::{flat, plan, shake};
use crate::import::{self, ImportOptions};
use crate::train::evaluate;
use crate::train::net::Net;
use crate::train::teacher::Teacher;

#[test]
fn only_the_same_network_is_asked_instead() {
    let args = json!({"num_classes": 7, "num_experts": 2, "use_norm": true, "layer1_blocks": 1, "layer2_blocks": 1,
        "layer3_blocks": 1});
    let loader = json!({"type": "ImbalanceCIFAR100DataLoader", "args": {"input_size": [12, 12]}});
    let config = json!({"arch": {"type": "ResNet32Model", "args": args.clone()}, "data_loader": loader});
    let new = |seed: u64| {
        let mut net = Net::new(plan("ResNet32Model", args.clone()), &Device::Cpu, seed).unwrap();
        shake(&mut net);
        net.use_plain_ops();
        net
    };
    let (preprocess, _) = import::preprocess(&config, &ImportOptions::default()).unwrap();
    let mut teacher = Teacher::new(&evaluate::imported(&config, &new(1)).unwrap()).unwrap();
    let pixels: Vec<u8> = (0..3 * 12 * 12 * 3).map(|at| (at * 37 % 251) as u8).collect();
    let ask = |teacher: &Teacher| -> Vec<Vec<f32>> {
        teacher.ask(&pixels, &Device::Cpu).unwrap().experts.iter().map(flat).collect()
    };
    let expected = ask(&teacher);
    let error = teacher.run_on_device(new(2), &preprocess).unwrap_err().to_string();
    assert!(error.contains("expert 0"), "{error}");
    assert_eq!(ask(&teacher), expected);
    teacher.run_on_device(new(1), &preprocess).unwrap();
    let got = ask(&teacher);
    assert_ne!(got, expected, "sums in another order");
    for (got, expected) in got.iter().zip(&expected) {
        assert!(difference(got, expected) < 1e-4);
    }
}
