//! How images become the network's input, from the configuration's data loader.

use anyhow::{Context, Result, bail};
use ride_calibrate::preprocess::{InputSize, Preprocess};
use serde_json::Value;

use super::ImportOptions;
use super::arch::FamilyInput;
use super::args::Args;
use super::config::Config;

/// What one data loader of the official code does in evaluation.
struct Loader {
    mean: [f32; 3],
    std: [f32; 3],
    side: usize,
    /// Length of the shorter side before the crop.
    resize: Option<usize>,
}

/// `ImbalanceCIFAR10DataLoader` and `ImbalanceCIFAR100DataLoader`.
const CIFAR: Loader = Loader { mean: [0.4914, 0.4822, 0.4465], std: [0.2023, 0.1994, 0.2010], side: 32, resize: None };
/// `CIFAR100DataLoader`, for the balanced set.
const CIFAR_BALANCED: Loader =
    Loader { mean: [0.507_075_16, 0.486_548_87, 0.440_917_84], std: [0.267_334_3, 0.256_438_46, 0.276_150_5], ..CIFAR };
/// `ImageNetLTDataLoader`; Places-LT is prepared in the same way.
const IMAGENET: Loader =
    Loader { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225], side: 224, resize: Some(256) };
/// `iNaturalistDataLoader`.
const INATURALIST: Loader = Loader { mean: [0.466, 0.471, 0.380], std: [0.195, 0.194, 0.192], ..IMAGENET };

impl Loader {
    /// By the type's name.
    fn find(kind: &str) -> Option<Self> {
        let lower = kind.to_ascii_lowercase();
        Some(match lower.as_str() {
            "cifar100dataloader" => CIFAR_BALANCED,
            name if name.contains("cifar") => CIFAR,
            name if name.contains("inat") => INATURALIST,
            name if name.contains("imagenet") || name.contains("places") => IMAGENET,
            _ => return None,
        })
    }

    fn of_family(family: FamilyInput) -> Self {
        match family {
            FamilyInput::Cifar => CIFAR,
            FamilyInput::ImageNet => IMAGENET,
        }
    }
}

/// The preprocessing, and warnings about what is assumed. The options win over the keys `mean`, `std`, `input_size` and
/// `resize` of `data_loader.args`, and these over what the loader is known to do.
pub(super) fn of_config(
    config: &Config,
    family: FamilyInput,
    options: &ImportOptions,
) -> Result<(Preprocess, Vec<String>)> {
    let kind = config.value.get("data_loader").and_then(|loader| loader.get("type")).and_then(Value::as_str);
    let known = kind.and_then(Loader::find);
    let args = Args::new(config, "data_loader")?;
    let mean = options.mean.clone().or(args.numbers("mean")?);
    let std = options.std.clone().or(args.numbers("std")?);
    let size = match options.input_size {
        Some(size) => Some(size),
        None => args.counts("input_size")?.map(|size| rows_and_columns(&size)).transpose()?,
    };
    let resize = options.resize.or(args.count("resize", 1..=usize::MAX)?);
    let mut warnings = Vec::new();
    if known.is_none() && (mean.is_none() || std.is_none() || size.is_none()) {
        let what = match kind {
            Some(kind) => format!("config.json names the unknown data loader {kind:?}"),
            None if config.trained => "config.json names no data loader".to_owned(),
            None => "there is no config.json".to_owned(),
        };
        let default = Loader::of_family(family);
        warnings.push(format!(
            "{what}: assuming mean {:?}, std {:?} and an input of {side} x {side}; pass --mean, --std and \
             --input-size, or [preprocess] of a ride.toml, to say otherwise",
            default.mean,
            default.std,
            side = default.side
        ));
    }
    let loader = known.unwrap_or_else(|| Loader::of_family(family));
    let [height, width] = size.unwrap_or([loader.side; 2]);
    let mean = mean.unwrap_or_else(|| loader.mean.to_vec());
    let preprocess = Preprocess {
        // The networks of this family take RGB.
        input: InputSize { height, width, channels: 3 },
        mean,
        std: std.unwrap_or_else(|| loader.std.to_vec()),
        resize_short: resize.or_else(|| loader.resize.map(|resize| scaled(resize, height.max(width), &loader))),
    };
    preprocess.validate().context("the input's preparation is not possible")?;
    Ok((preprocess, warnings))
}

/// The usual resize for an input of another size, in the usual proportion of 256 to 224.
fn scaled(resize: usize, side: usize, loader: &Loader) -> usize {
    side.saturating_mul(resize).div_ceil(loader.side)
}

/// `[side]`, `[height, width]` or `[channels, height, width]`.
fn rows_and_columns(size: &[usize]) -> Result<[usize; 2]> {
    match *size {
        [side] => Ok([side, side]),
        [height, width] | [3, height, width] => Ok([height, width]),
        _ => bail!("config.json: data_loader.args.input_size must be a side, or height and width, not {size:?}"),
    }
}
