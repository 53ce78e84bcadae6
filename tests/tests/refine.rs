//! Refinement of synthetic networks: never further from the float network, the same on any number of threads.

use std::borrow::Cow;

use anyhow::Result;
use ride_compiler::calibration;
use ride_compiler::lower::{self, ClassInfo, Request};
use ride_compiler::memory::AlignedBytes;
use ride_compiler::network::{Network, Op};
use ride_compiler::reference::{Image, Policy as FloatPolicy, Scratch};
use ride_compiler::refine::{self, Images, Options, Refined};
use ride_runtime::{Model, Policy, Session};
use ride_tests::built;
use ride_tests::exercise::Arena;
use ride_tests::synthetic::{Recipe, picture};

/// Pictures to refine with; calibration has others.
const PICTURES: std::ops::Range<usize> = 2000..2048;
/// Pictures that neither has seen.
const UNSEEN: std::ops::Range<u32> = 5000..5040;

/// Refines `network` for a target with this width of the residual stream on so many threads, with half as many
/// multiply-accumulates more to spend on 16-bit reads; also the artifact.
fn refined(network: &Network, build: (&str, u8), threads: usize) -> Result<(Refined, Vec<u8>)> {
    refined_within(network, build, threads, Options { macs: 0.5 })
}

fn refined_within(
    network: &Network,
    (target, bits): (&str, u8),
    threads: usize,
    options: Options,
) -> Result<(Refined, Vec<u8>)> {
    let table = built::table(network)?;
    let target = ride_targets::find(target)?;
    let fingerprint = calibration::fingerprint(network);
    let classes = ClassInfo::default();
    let request = Request {
        network,
        table: &table,
        target: &target,
        residual_bits: bits,
        classes: &classes,
        resize_short: None,
        fingerprint: &fingerprint,
        fine: lower::Fine::NONE,
    };
    let indices: Vec<usize> = PICTURES.collect();
    let pixels = |seed: usize| Ok(Cow::Owned(picture(network, seed as u32)));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let images = Images { indices: &indices, pixels: &pixels };
    let refined = pool.install(|| refine::refine(&request, &images, options, &|_| ()))?;
    let bytes = refined.compile(&request)?;
    if !refined.report.used {
        assert_eq!(bytes, lower::compile(&request)?);
    }
    Ok((refined, bytes))
}

#[test]
fn every_kind_of_network_can_be_refined() {
    let (mut used, mut all) = (0, 0);
    for (name, recipe) in Recipe::all() {
        let network = recipe.network();
        for (target, bits) in [("x86-64", 16), ("cortex-m4", 8)] {
            let (refined, bytes) = refined(&network, (target, bits), 2).unwrap_or_else(|e| panic!("{name}: {e:#}"));
            let report = &refined.report;
            assert!(report.rounding_left <= 1.0, "{name}: {report:?}");
            assert!(!report.used || report.refined_db > report.nearest_db, "{name}: {report:?}");
            used += usize::from(report.used);
            all += 1;
            let bytes = AlignedBytes::copy_of(&bytes);
            let model = Model::parse(&bytes).expect("a valid artifact");
            let mut arena = Arena::new(model, 0);
            let mut session = Session::new(model, arena.lend()).expect("a session");
            session.self_test(&mut vec![0; model.input_len()]).expect("the golden vectors");
        }
    }
    // Networks of a few channels may be lucky with plain rounding, and one has features of zero only.
    assert!(4 * used >= 3 * all, "{used} of {all}");
}

#[test]
fn the_number_of_threads_changes_nothing() {
    for recipe in [Recipe::cifar(), Recipe::next()] {
        let network = recipe.network();
        let (one, bytes) = refined(&network, ("portable", 16), 1).expect("a refined network");
        let (many, again) = refined(&network, ("portable", 16), 5).expect("a refined network");
        assert_eq!(one, many);
        assert_eq!(bytes, again);
    }
}

/// Squared error of the mean logits on pictures that nothing was fitted to.
fn error(network: &Network, artifact: &[u8]) -> f64 {
    let executor = built::float(network).expect("a float network");
    let bytes = AlignedBytes::copy_of(artifact);
    let model = Model::parse(&bytes).expect("a valid artifact");
    let mut arena = Arena::new(model, 0);
    let mut session = Session::new(model, arena.lend()).expect("a session");
    let mut scratch = Scratch::default();
    let mut sum = 0.0;
    for seed in UNSEEN {
        let pixels = picture(network, seed);
        let float = executor.forward(Image::Pixels(&pixels), FloatPolicy::All, &mut scratch, None).expect("logits");
        let int8 = session.classify(&pixels, Policy::All).expect("an answer");
        let both = float.mean_logits.iter().zip(int8.logits);
        sum += both.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
    }
    sum
}

#[test]
fn unseen_pictures_gain_as_well() {
    let (mut before, mut after) = (0.0, 0.0);
    for recipe in [Recipe::cifar(), Recipe::pooled(), Recipe::bottleneck()] {
        let network = recipe.network();
        let table = built::table(&network).expect("a table");
        let plain = built::compile(&network, &table, "x86-64", 16).expect("an artifact");
        let (refined, bytes) = refined(&network, ("x86-64", 16), 2).expect("a refined network");
        assert!(refined.report.used);
        let (plain, refined) = (error(&network, &plain), error(&network, &bytes));
        assert!(refined < 1.1 * plain, "{refined} after, {plain} before");
        before += plain.ln();
        after += refined.ln();
    }
    assert!(after < before - 0.3, "{after} after, {before} before");
}

#[test]
fn what_is_done_before_rounding_changes_no_float_result() {
    // With many channels the first convolution is little of the work.
    let network = Recipe { channels: 96, ..Recipe::cifar() }.network();
    let (refined, bytes) = refined_within(&network, ("x86-64", 16), 2, Options::NO_COST).expect("a refined network");
    let run = |network: &Network| {
        let executor = built::float(network).expect("a float network");
        let pixels = picture(network, 9);
        executor.forward(Image::Pixels(&pixels), FloatPolicy::All, &mut Scratch::default(), None).expect("logits")
    };
    assert_eq!(run(&network), run(&refined.network));
    let nodes = |n: &Network| n.stem.nodes.len() + n.experts.iter().map(|e| e.trunk.nodes.len()).sum::<usize>();
    let report = &refined.report;
    assert_eq!(report.doubled, 1);
    assert!(report.fine_heads && refined.fine.heads);
    assert_eq!(nodes(&refined.network), nodes(&network) + report.copies + 2 * report.doubled);

    let plain = built::compile(&network, &built::table(&network).expect("a table"), "x86-64", 16).expect("an artifact");
    let arena = |bytes: &[u8]| Model::parse(&AlignedBytes::copy_of(bytes)).expect("a valid artifact").arena_len();
    assert_eq!(arena(&bytes), arena(&plain));
    assert!(error(&network, &bytes) < error(&network, &plain));
}

/// Rounds all weights to steps of their rows, so that int8 has them exactly and only activations are rounded.
fn with_int8_weights(mut network: Network) -> Network {
    let round = |row: &mut [f32], step: &dyn Fn(usize) -> f32| {
        let largest = row.iter().enumerate().fold(0.0f32, |max, (k, w)| max.max((w * step(k)).abs()));
        let unit = largest.max(f32::MIN_POSITIVE) / 127.0;
        row.iter_mut().enumerate().for_each(|(k, w)| *w = (*w * step(k) / unit).round() * unit / step(k));
    };
    let std = network.input.std.clone();
    for (stem, part) in
        std::iter::once((true, &mut network.stem)).chain(network.experts.iter_mut().map(|e| (false, &mut e.trunk)))
    {
        for node in &mut part.nodes {
            let pixels = stem && node.inputs == [0];
            let Op::Conv(conv) = &mut node.op else { continue };
            let (taps, inputs) = (conv.weight.len() / conv.out_channels, conv.in_channels);
            // Steps of a pixel depend on the colour.
            let step = |k: usize| if pixels { 1.0 / std[k % inputs] } else { 1.0 };
            conv.weight.chunks_exact_mut(taps).for_each(|row| round(row, &step));
        }
    }
    for expert in &mut network.experts {
        let features = expert.head.features;
        expert.head.weight.chunks_exact_mut(features).for_each(|row| round(row, &|_| 1.0));
    }
    network
}

#[test]
fn reading_16_bits_takes_away_the_noise_of_reading() {
    let network = with_int8_weights(Recipe::cifar().network());
    let mut table = built::table(&network).expect("a table");
    // Nothing is cut off.
    table.values.values_mut().for_each(|range| (range.min, range.max) = (2.0 * range.min, 2.0 * range.max));
    let plain = built::compile(&network, &table, "x86-64", 16).expect("an artifact");
    let (fine, reads) = built::compile_fine(&network, &table, "x86-64", false).expect("an artifact");
    assert!(reads > 4, "{reads}");
    let (fine_error, plain_error) = (error(&network, &fine), error(&network, &plain));
    assert!(fine_error < 0.25 * plain_error, "{fine_error} of {plain_error}");
    // The low bytes are multiplied by the weights that are there already.
    let weights = |bytes: &[u8]| Model::parse(&AlignedBytes::copy_of(bytes)).expect("a valid artifact").bytes().len();
    assert!(weights(&fine) < weights(&plain) + 1024 * reads, "{} and {}", weights(&fine), weights(&plain));
}

#[test]
fn classifiers_of_16_bits_take_away_the_noise_of_their_weights() {
    // What else there is of noise is little: convolutions have their weights exactly and read 16 bits.
    let float = Recipe::cifar().network();
    let mut network = with_int8_weights(float.clone());
    network.experts.iter_mut().zip(float.experts).for_each(|(expert, float)| expert.head = float.head);
    let mut table = built::table(&network).expect("a table");
    table.values.values_mut().for_each(|range| (range.min, range.max) = (2.0 * range.min, 2.0 * range.max));
    let error_with = |heads| {
        let (artifact, _) = built::compile_fine(&network, &table, "x86-64", heads).expect("an artifact");
        error(&network, &artifact)
    };
    let (fine, coarse) = (error_with(true), error_with(false));
    assert!(fine < 0.5 * coarse, "{fine} of {coarse}");
}

#[test]
fn the_share_of_multiply_accumulates_is_kept() {
    let network = Recipe { channels: 32, ..Recipe::cifar() }.network();
    let mut before = 0;
    for macs in [0.0, 0.1, 0.4] {
        let options = Options { macs };
        let (refined, _) = refined_within(&network, ("portable", 16), 2, options).expect("a refined network");
        let report = &refined.report;
        assert!(report.fine_macs as f64 <= macs * network.macs() as f64, "{report:?}");
        assert!(report.fine_macs >= before && (report.fine_macs == 0) == report.fine_reads.is_empty(), "{report:?}");
        before = report.fine_macs;
    }
    assert!(before > 0);
    let (narrow, _) = refined(&network, ("cortex-m4", 8), 2).expect("a refined network");
    assert_eq!(&narrow.fine, lower::Fine::NONE);
}
