//! The float forward pass against golden outputs that an independent implementation computed in `f64`.
//!
//! The data lie beside the repository, in `../shared` or in the folder that the environment variable `RIDE_SHARED`
//! names; without them the test only says so.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use ride_calibrate::data::{DataOptions, DataSet};
use ride_calibrate::observer::Observer;
use ride_compiler::calibration::{self, Settings};
use ride_compiler::checkpoint;
use ride_compiler::import::{self, ImportOptions, Imported};
use ride_compiler::reference::{Executor, Forward, Image, Policy, Scratch};

/// The model's folder within the shared one.
const MODEL: &str = "models/ride-resnet32-cifar100lt";

/// Largest difference of a logit or a score.
const TOLERANCE: f64 = 1e-3;

/// The shared folder, if it is there.
fn shared() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let folder = std::env::var_os("RIDE_SHARED").map_or_else(beside, PathBuf::from);
    folder.join("models").is_dir().then_some(folder)
}

/// A NumPy array, widened to `f64`.
struct Array {
    shape: Vec<usize>,
    values: Vec<f64>,
}

impl Array {
    /// Rows along the first dimension.
    fn rows(&self) -> std::slice::ChunksExact<'_, f64> {
        self.values.chunks_exact(self.shape[1..].iter().product())
    }
}

/// The arrays of an `.npz` archive that are looked at, each by name.
fn arrays<const N: usize>(path: &Path, names: [&str; N]) -> Result<[Array; N]> {
    let mut archive = zip::ZipArchive::new(File::open(path)?)?;
    let mut arrays = Vec::new();
    for name in names {
        let mut bytes = Vec::new();
        archive.by_name(&format!("{name}.npy"))?.read_to_end(&mut bytes)?;
        arrays.push(array(&bytes).with_context(|| format!("{name} in {}", path.display()))?);
    }
    Ok(arrays.try_into().unwrap_or_else(|_| unreachable!("one for each name")))
}

/// Parses an `.npy` file of version 1: magic, two bytes of version, the header's length, a Python dictionary, the data.
fn array(bytes: &[u8]) -> Result<Array> {
    ensure!(bytes.starts_with(b"\x93NUMPY\x01"), "not an npy file of version 1");
    let header_len = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..10 + header_len])?;
    ensure!(header.contains("'fortran_order': False"), "unexpected order: {header}");
    let (_, shape) = header.split_once("'shape': (").context("no shape")?;
    let (shape, _) = shape.split_once(')').context("no shape")?;
    let dimensions = shape.split(',').map(str::trim).filter(|dimension| !dimension.is_empty());
    let shape = dimensions.map(str::parse).collect::<Result<Vec<usize>, _>>()?;
    let (data, _) = bytes[10 + header_len..].as_chunks::<4>();
    let values: Vec<f64> = if header.contains("'<f4'") {
        data.iter().map(|&bytes| f64::from(f32::from_le_bytes(bytes))).collect()
    } else {
        ensure!(header.contains("'<i8'"), "unexpected type: {header}");
        let (data, _) = bytes[10 + header_len..].as_chunks::<8>();
        data.iter().map(|&bytes| i64::from_le_bytes(bytes) as f64).collect()
    };
    ensure!(values.len() == shape.iter().product::<usize>(), "{} values for {shape:?}", values.len());
    Ok(Array { shape, values })
}

#[track_caller]
fn assert_close(what: &str, got: &[f32], expected: &[f64]) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(got) - expected).abs();
        assert!(error <= TOLERANCE, "{what}, number {i}: {got}, expected {expected}");
    }
}

fn import(shared: &Path) -> Result<Imported> {
    let checkpoint = checkpoint::load(&shared.join(MODEL))?;
    import::network(&checkpoint, &ImportOptions::default())
}

fn open(path: &Path, model: &Imported) -> Result<DataSet> {
    DataSet::open(path, &DataOptions::new(model.preprocess.clone()))
}

#[test]
fn the_cifar_checkpoint_matches_its_golden_outputs() -> Result<()> {
    let Some(shared) = shared() else {
        println!("skipped: there is no shared folder beside the repository");
        return Ok(());
    };
    let model = import(&shared)?;
    let golden = shared.join(MODEL).join("golden.npz");
    let [logits, scores, used, routed] = arrays(&golden, ["logits", "scores", "used", "routed"])?;
    let images = open(&shared.join("cifar100-lt/val.bin"), &model)?;
    let executor = Executor::new(&model.network)?;
    let mut scratch = Scratch::default();
    let (experts, classes) = (logits.shape[1], logits.shape[2]);
    assert_eq!((experts, classes), (executor.experts(), model.network.classes));
    assert_eq!((logits.shape[0], used.values.len()), (64, 64));
    let golden = logits.rows().zip(scores.rows()).zip(routed.rows()).zip(&used.values);
    for (index, (((logits, scores), routed), &used)) in golden.enumerate() {
        let pixels = images.pixels(index)?;
        let mut run = |policy| executor.forward(Image::Pixels(&pixels), policy, &mut scratch, None);
        let all: Forward = run(Policy::All)?;
        for (expert, logits) in all.experts.iter().zip(logits.chunks_exact(classes)) {
            assert_close(&format!("image {index}, logits"), &expert.logits, logits);
        }
        assert_close(&format!("image {index}, scores"), &all.scores, scores);
        assert_eq!((all.used(), all.routed()), (experts, used as usize), "image {index}");
        let chosen = run(Policy::Routed { threshold: None })?;
        assert_eq!(chosen.used(), used as usize, "image {index}");
        assert_close(&format!("image {index}, routed"), &chosen.mean_logits, routed);
    }
    Ok(())
}

#[test]
fn the_cifar_checkpoint_calibrates_to_the_same_bytes_on_any_number_of_threads() -> Result<()> {
    let Some(shared) = shared() else {
        println!("skipped: there is no shared folder beside the repository");
        return Ok(());
    };
    let model = import(&shared)?;
    let images = open(&shared.join("cifar100-lt/train.bin"), &model)?;
    let settings = Settings { images: 40, seed: 1, balanced: true, observer: Observer::MinMax };
    let table = |threads: usize| -> Result<_> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        pool.install(|| calibration::calibrate(&model.network, &images, &settings, &|_| ()))
    };
    let one = table(1)?;
    assert_eq!(table(3)?.to_json()?, one.to_json()?);
    calibration::check(&model.network, &one)?;
    let values = calibration::values(&model.network)?;
    assert_eq!((one.images, one.values.len()), (40, values.len()));
    for (name, shape) in values {
        let stats = one.get(name)?;
        assert!(stats.mean.len() == shape.channels && stats.max > 0.0 && stats.max < 1e3, "{name}: {stats:?}");
    }
    Ok(())
}
