//! The int8 artifact against the float model on real images. Needs the CIFAR-100-LT files beside the repository (see
//! `RIDE_SHARED`) and is skipped, with a line that says so, where they are missing.

use std::path::PathBuf;

use ride_calibrate::data::{DataOptions, DataSet};
use ride_calibrate::observer::Observer;
use ride_calibrate::table::CalibrationTable;
use ride_compiler::calibration::{self, Settings};
use ride_compiler::import::Imported;
use ride_compiler::lower::{self, ClassInfo, Request};
use ride_compiler::memory::AlignedBytes;
use ride_compiler::network::Network;
use ride_compiler::refine::{self, Images, Options};
use ride_compiler::verify::{self, Report};
use ride_runtime::kernels::{self, Isa};
use ride_runtime::op::Layout;
use ride_runtime::{Model, Session};
use ride_tests::built;
use ride_tests::exercise::Arena;

/// Images with vector kernels; scalar ones would take minutes.
const IMAGES: usize = 5000;
const SCALAR_IMAGES: usize = 500;
/// Training images to refine with.
const REFINE_IMAGES: usize = 1024;
/// What reading 16 bits may cost.
const FINE_MACS: f64 = 0.15;

/// Images to calibrate with and to judge by, and the training counts of the classes.
struct Data {
    train: DataSet,
    val: DataSet,
    classes: ClassInfo,
}

fn data(imported: &Imported) -> Option<Data> {
    let file = |name: &str| built::shared("accuracy", &format!("cifar100-lt/{name}"));
    let options = DataOptions::new(imported.preprocess.clone());
    let open = |path: PathBuf| DataSet::open(&path, &options).expect("a data set");
    let (train, val) = (open(file("train.bin")?), open(file("val.bin")?));
    let counts = std::fs::read_to_string(file("class_counts.txt")?).expect("training counts");
    let counts = counts.lines().map(|l| l.trim().parse().expect("a count")).collect();
    Some(Data { train, val, classes: ClassInfo { counts, names: Vec::new() } })
}

const CALIBRATION: Settings = Settings { images: 512, seed: 0, balanced: true, observer: Observer::Mse };

/// Calibrates, compiles and compares a network with its artifact.
fn compiled(network: &Network, data: &Data) -> (CalibrationTable, Report) {
    let table = calibration::calibrate(network, &data.train, &CALIBRATION, &|_| ()).expect("a table");
    let artifact = built::compile_for(network, &table, (ride_targets::host(), 16), &data.classes).expect("an artifact");
    let report = report(network, &artifact, &data.val);
    check(&report);
    (table, report)
}

/// What this repository's own training has made of the same network (`examples/distill`).
#[test]
fn the_model_that_was_trained_here_keeps_its_accuracy() {
    let imported = built::model("ride-resnet32-cifar100lt-rust");
    let Some(data) = data(&imported) else { return };
    let (_, report) = compiled(&imported.network, &data);
    if report.routed.images == IMAGES as u64 {
        assert!(report.routed.float.top1.is_some_and(|top1| (top1 - 47.3).abs() < 0.05), "{:?}", report.routed.float);
    }
}

#[test]
fn int8_keeps_the_float_models_accuracy_and_refinement_helps() {
    let imported = built::real();
    let Some(data) = data(imported) else { return };
    let network = &imported.network;
    let (table, plain) = compiled(network, &data);
    let Data { train, val, classes } = data;

    let target = ride_targets::find(ride_targets::host()).expect("this machine");
    let fingerprint = calibration::fingerprint(network);
    let request = Request {
        network,
        table: &table,
        target: &target,
        residual_bits: 16,
        classes: &classes,
        resize_short: None,
        fingerprint: &fingerprint,
        fine: lower::Fine::NONE,
    };
    let indices = calibration::choose(train.labels(), &Settings { images: REFINE_IMAGES, ..CALIBRATION });
    let images = Images { indices: &indices, pixels: &|index| train.pixels(index) };
    let refined = refine::refine(&request, &images, Options { macs: FINE_MACS }, &|_| ()).expect("a refined network");
    println!("{:?}", refined.report);
    let artifact = AlignedBytes::copy_of(&refined.compile(&request).expect("an artifact"));
    let better = report(network, &artifact, &val);
    check(&better);
    check_gain(&plain, &better);
}

/// Tests the artifact and compares it with its network on validation images, which nothing was fitted to.
fn report(network: &Network, artifact: &AlignedBytes, val: &DataSet) -> Report {
    let model = Model::parse(artifact).expect("a valid artifact");
    let mut image = vec![0; model.input_len()];
    let mut arena = Arena::new(model, 0);
    let mut session = Session::new(model, arena.lend()).expect("a session");
    let vectors = session.self_test(&mut image).expect("the golden vectors");
    assert!(vectors > 0);

    let fast = kernels::best(Layout::K8N16).is_some_and(|b| b.isa != Isa::Scalar);
    let limit = if fast { IMAGES } else { SCALAR_IMAGES };
    let settings = verify::Settings { limit: Some(limit), ..verify::Settings::default() };
    verify::verify(model, network, val, &settings, &|_| ()).expect("a report")
}

/// What refinement must bring on top.
fn check_gain(plain: &Report, better: &Report) {
    let sqnr = |report: &Report| report.routed.sqnr_db.expect("a ratio");
    assert!(sqnr(better) > sqnr(plain) + 2.0, "{} dB after {}", sqnr(better), sqnr(plain));
    let routers = |report: &Report| report.routed.agreement.routers.iter().map(|r| r.expect("decisions")).sum::<f64>();
    assert!(routers(better) >= routers(plain), "{} after {}", routers(better), routers(plain));
}

fn check(report: &Report) {
    let routed = &report.routed;
    let (float, int8, agreement) = (&routed.float, &routed.int8, &routed.agreement);
    let sqnr = routed.sqnr_db.expect("a ratio");
    println!("{} images with {}", routed.images, report.kernel);
    println!("float: {float:?}\nint8: {int8:?}\n{agreement:?}");
    println!("logits {sqnr:.2} dB, mean experts {:+.2} %", report.experts_change_percent.expect("experts"));
    // Where few images run, two of them weigh more than the limit.
    let spare = 200.0 / routed.images as f64;
    let apart = |a: Option<f64>, b: Option<f64>| (a.expect("a share") - b.expect("a share")).abs();
    assert!(apart(float.top1, int8.top1) <= spare.max(0.3), "top-1");
    assert!(apart(float.few, int8.few) <= (3.0 * spare).max(0.5), "few-shot");
    assert!(agreement.top1.expect("a share") >= 97.0, "top-1 agreement");
    assert!(sqnr >= 34.0, "{sqnr} dB");
    for (router, share) in agreement.routers.iter().enumerate() {
        assert!(share.expect("decisions") >= 98.5, "router {router}: {share:?}");
    }
    assert!(report.experts_change_percent.expect("experts").abs() <= 1.0, "mean experts");
    // Each layer is compared, and none is noise.
    assert!(routed.layers.len() > 60, "{} layers", routed.layers.len());
    // What low bytes add is a value that the float network does not have.
    for layer in routed.layers.iter().filter(|layer| !layer.name.ends_with(".low")) {
        assert!(layer.sqnr_db.is_some_and(|db| db > 15.0), "{}: {:?} dB", layer.name, layer.sqnr_db);
    }
}
