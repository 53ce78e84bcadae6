//! Every operation against its definition, and every kernel against the others.

use super::assert_close;
use super::naive::naive_part;
use super::synthetic::{Random, conv, node};
use crate::network::{Op, Part, Shape};
use crate::reference::kernel::{self, Block, LANES, Output, Windows};
use crate::reference::part::{Memory, PreparedPart};
use crate::reference::precision::Precision;

/// Runs one operation on random data through a stem of a single node.
#[track_caller]
fn check_op(op: Op, shape: [usize; 3]) {
    let [height, width, channels] = shape;
    let input = Shape { height, width, channels };
    let part = Part { name: "stem".into(), nodes: vec![node("stem.op", op, &[0])] };
    let x = Random(7).many(input.len(), 1.0);
    let wide: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
    let expected = naive_part(&part, input, &wide, &mut Vec::new());
    let prepared = PreparedPart::new(&part, input, Precision::Single).unwrap();
    let mut output = Vec::new();
    prepared.run(&x, &mut Memory::default(), None, &mut output);
    assert_close(&format!("{shape:?}"), &output, &expected);
}

#[test]
fn convolutions_of_every_kind_match_the_definition() {
    let mut random = Random(1);
    // Kernel, stride, padding, groups; sizes below, at and above the tiles.
    for attributes in [[3, 1, 1, 1], [3, 2, 1, 1], [1, 1, 0, 1], [1, 2, 0, 1], [5, 3, 2, 1], [2, 1, 0, 1]] {
        for channels in [[1, 1], [3, 16], [16, 24], [24, 48], [5, 64], [7, 65], [4, 130]] {
            for [height, width] in [[3, 3], [5, 7], [8, 8], [9, 4]] {
                if height.min(width) + 2 * attributes[2] >= attributes[0] {
                    check_op(conv(&mut random, channels, attributes), [height, width, channels[0]]);
                }
            }
        }
    }
    check_op(conv(&mut random, [3, 64], [7, 2, 3, 1]), [23, 31, 3]);
}

#[test]
fn grouped_convolutions_match_the_definition() {
    let mut random = Random(2);
    for (channels, groups) in [([64, 64], 32), ([128, 128], 32), ([6, 4], 2), ([8, 8], 8), ([10, 170], 2)] {
        for stride in [1, 2] {
            check_op(conv(&mut random, channels, [3, stride, 1, groups]), [7, 9, channels[0]]);
            check_op(conv(&mut random, channels, [1, stride, 0, groups]), [4, 3, channels[0]]);
        }
    }
}

#[test]
fn pooling_and_shortcuts_match_the_definition() {
    for [kernel, stride, padding] in [[3, 2, 1], [2, 2, 0], [3, 1, 1], [3, 3, 0]] {
        for shape in [[3, 3, 2], [8, 8, 5], [7, 10, 1]] {
            check_op(Op::MaxPool { kernel, stride, padding }, shape);
        }
    }
    for [stride, before, after] in [[2, 4, 4], [1, 0, 3], [2, 1, 2], [3, 0, 0]] {
        check_op(Op::Shortcut { stride, before, after }, [8, 7, 3]);
    }
    check_op(Op::Relu, [3, 5, 2]);
}

/// All kernels of this machine against each other, to the bit.
#[test]
fn every_vector_width_computes_the_same_bits() {
    let mut random = Random(3);
    let (run_len, runs) = (11, [0, 40, 77]);
    let input = random.many(400, 1.0);
    let starts: Vec<usize> = (0..21).map(|i| i * 13).collect();
    let windows = Windows { input: &input, starts: &starts, runs: &runs, run_len };
    for vectors in 1..=kernel::BLOCK {
        let panels = |values: &[f32]| values.as_chunks::<LANES>().0.to_vec();
        let weights = panels(&random.many(runs.len() * run_len * vectors * LANES, 1.0));
        let bias = panels(&random.many(vectors * LANES, 1.0));
        let channels = vectors * LANES - 3;
        let block = Block { offset: 2, weights: &weights, bias: &bias, first: 1, channels };
        let results: Vec<Vec<f32>> = kernel::available()
            .iter()
            .map(|kernel| {
                let mut data = vec![0.0; starts.len() * (channels + 1)];
                kernel(&windows, &block, &mut Output { data: &mut data, channels: channels + 1 });
                data
            })
            .collect();
        assert!(results[0].iter().filter(|x| **x != 0.0).count() > starts.len() * channels / 2);
        assert!(results.iter().all(|result| result == &results[0]), "{vectors} vectors");
    }
}

#[test]
fn the_router_sees_nan_instead_of_losing_it() {
    let part = Part {
        name: "stem".into(),
        nodes: vec![node("relu", Op::Relu, &[0]), node("pool", Op::MaxPool { kernel: 2, stride: 1, padding: 0 }, &[1])],
    };
    let prepared = PreparedPart::new(&part, Shape { height: 2, width: 2, channels: 1 }, Precision::Single).unwrap();
    let mut output = Vec::new();
    prepared.run(&[1.0, f32::NAN, -3.0, 2.0], &mut Memory::default(), None, &mut output);
    assert!(output[0].is_nan());
}
