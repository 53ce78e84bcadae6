//! Options of `ride-compile distill`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use ride_calibrate::data::Format;
use ride_compiler::train::augment::Recipe;
use ride_compiler::train::loss::{self, Distillation};
use ride_compiler::train::optimizer;
use ride_compiler::train::place::Place;
use ride_compiler::train::sampler::Sampling;
use ride_compiler::train::schedule::{Decay, Schedule};
use ride_compiler::train::settings::reweight_share;

/// Train a network: a student of a bigger one, or from scratch
///
/// The student is any member of the family (fewer experts, narrower or fewer layers), described in a few lines of TOML.
/// It starts with the teacher's weights where shapes allow, and learns from the labels by RIDE's loss and from the
/// teacher's answers. What comes out is read by `build` with nothing else.
///
/// OUT gets model.safetensors, config.json, class_counts.txt, log.jsonl and train.state, from which --resume goes on after
/// Ctrl-C, a crash or a full disk: at most the running epoch is lost, and the result is the same as without the
/// interruption.
#[derive(Args)]
#[command(after_help = "\
Example:
  cat > student.toml <<END
  [arch.args]
  num_experts = 2
  layer1_blocks = 3
  layer2_blocks = 3
  layer3_blocks = 4
  END
  ride-compile distill --teacher runs/my-ride --student student.toml --data train/ --val test/ -o runs/small
  ride-compile distill --from-scratch --student runs/old/config.json --data train/ --epochs 200 -o runs/new
  ride-compile distill --teacher runs/my-ride --init runs/small --student student.toml --qat --epochs 2 \\
    --data train/ -o runs/int8
  ride-compile distill --resume -o runs/small")]
pub(crate) struct DistillArgs {
    /// Folder to write to; it must not hold a model yet
    #[arg(long, short, value_name = "DIR")]
    pub(super) output: PathBuf,
    /// Model to learn from: checkpoint, its folder, or ONNX
    #[arg(long, value_name = "MODEL", required_unless_present_any = ["from_scratch", "resume"])]
    pub(super) teacher: Option<PathBuf>,
    /// The network to train: the tables arch and data_loader of config.json in TOML, or a config.json; what is left out
    /// is the teacher's [default: the teacher's network]
    #[arg(long, value_name = "FILE")]
    pub(super) student: Option<PathBuf>,
    /// Train without a teacher
    #[arg(long, requires = "student", conflicts_with = "teacher")]
    pub(super) from_scratch: bool,
    /// Go on with the training in the output folder, with its own settings
    #[arg(long, conflicts_with_all = ["student", "from_scratch"])]
    pub(super) resume: bool,
    /// Start from random weights although there is a teacher
    #[arg(long)]
    pub(super) random_init: bool,
    /// Start from the weights of this checkpoint instead of the teacher's
    #[arg(long, value_name = "MODEL", conflicts_with = "random_init")]
    pub(super) init: Option<PathBuf>,
    /// Train for int8: the network computes with the artifact's integers, by ranges that are calibrated first and written
    /// as calibration.json; the teacher stays in float. Needs weights to start from
    #[arg(long, conflicts_with_all = ["random_init", "resume"])]
    pub(super) qat: bool,
    #[command(flatten)]
    pub(super) data: TrainingData,
    #[command(flatten)]
    pub(super) training: TrainingArgs,
    #[command(flatten)]
    pub(super) loss: LossArgs,
}

/// Images and classes.
#[derive(Args)]
#[command(next_help_heading = "Data")]
pub(super) struct TrainingData {
    /// Training images: CIFAR .bin file or folder, cifar-100-python, folder of class folders, .npz with x and y, or a list
    /// of `path label` lines. Image files are read when they are needed, so a set of them may be larger than memory
    #[arg(long, value_name = "PATH", required_unless_present = "resume")]
    pub(super) data: Option<PathBuf>,
    /// Images to judge the finished network by
    #[arg(long, value_name = "PATH")]
    pub(super) val: Option<PathBuf>,
    /// Format of the data, instead of telling it by looking
    #[arg(long, value_name = "FORMAT")]
    pub(super) data_format: Option<Format>,
    /// Folder that the paths of a list are relative to, instead of the list's own
    #[arg(long, value_name = "DIR")]
    pub(super) data_root: Option<PathBuf>,
    /// Training images of each class, one integer a line, instead of counting them
    #[arg(long, value_name = "FILE")]
    pub(super) class_counts: Option<PathBuf>,
    /// How images are varied: none, cifar, imagenet or inaturalist [default: what the authors do with such data]
    #[arg(long, value_name = "RECIPE")]
    pub(super) augment: Option<Recipe>,
    /// How the images of an epoch are chosen
    #[arg(long, value_enum, default_value_t = SamplingArg::Shuffle)]
    sampling: SamplingArg,
}

/// The loop.
#[derive(Args)]
#[command(next_help_heading = "Training")]
pub(super) struct TrainingArgs {
    /// Epochs
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    epochs: u32,
    /// Stop after this time; the schedule of --epochs is walked through in it
    #[arg(long, value_name = "M")]
    pub(super) minutes: Option<f64>,
    /// Images in a batch
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(2..=65536))]
    batch: u32,
    /// Highest learning rate [default: 0.1; with --qat 0.001]
    #[arg(long, value_name = "RATE")]
    pub(super) lr: Option<f64>,
    /// How the rate falls: in two steps after 80 and 90 % of the epochs, or along a cosine
    #[arg(long, value_enum, default_value_t = ScheduleArg::Step)]
    schedule: ScheduleArg,
    /// Factor of each step
    #[arg(long, value_name = "X", default_value_t = 0.01)]
    gamma: f64,
    /// Share of the epochs in which the rate rises
    #[arg(long, value_name = "SHARE", default_value_t = 0.025)]
    warmup: f64,
    /// Momentum of Nesterov's kind
    #[arg(long, value_name = "X", default_value_t = 0.9)]
    momentum: f64,
    /// Weight decay
    #[arg(long, value_name = "X", default_value_t = 5e-4)]
    weight_decay: f64,
    /// Seed of first weights, order and variations: equal seeds give equal networks on equal machines
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) seed: u64,
    /// Where the network is trained; a training may go on elsewhere, but not to the same bits
    #[arg(long, value_enum, default_value_t = PlaceArg::Auto)]
    device: PlaceArg,
    /// Threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(super) threads: Option<u32>,
}

/// What is minimised.
#[derive(Args)]
#[command(next_help_heading = "Loss")]
pub(super) struct LossArgs {
    /// Factor of the experts' divergence from their mean: negative makes them diverse
    #[arg(long, value_name = "X", default_value_t = -0.2, allow_negative_numbers = true)]
    diversity: f64,
    /// Share of the epochs after which classes are weighted by their rarity; 1 for never [default: 0.8]
    #[arg(long, value_name = "SHARE")]
    reweight: Option<f64>,
    /// How much a class's weight follows its frequency, and its temperature with it (the authors: 0.02 for ImageNet-LT)
    #[arg(long, value_name = "X", default_value_t = 0.05)]
    reweight_factor: f64,
    /// Temperature at which student and teacher are compared
    #[arg(long, value_name = "T", default_value_t = 1.5)]
    temperature: f64,
    /// Factor of the divergence of the student's mean from the teacher's
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    kd: f64,
    /// Factor of the divergence of each expert from the teacher's expert of the same number
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    kd_experts: f64,
    /// As the authors' code: RIDE's loss and the divergence of the means are added once for each expert, which is a higher
    /// learning rate, and experts are not compared one by one
    #[arg(long, conflicts_with = "kd_experts")]
    official_kd: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SamplingArg {
    /// Every image once
    Shuffle,
    /// Every class equally often
    Balanced,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ScheduleArg {
    /// As the authors have it
    Step,
    /// Half a cosine down to zero
    Cosine,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PlaceArg {
    /// The GPU if this program was built for it and there is one, else the CPU; with --qat always the CPU
    Auto,
    /// The CPU
    Cpu,
    /// The first NVIDIA GPU
    Cuda,
    /// The CPU, with the operations that a GPU would run: slow, to see what those compute
    Composed,
}

impl TrainingData {
    pub(super) fn sampling(&self) -> Sampling {
        match self.sampling {
            SamplingArg::Shuffle => Sampling::Shuffle,
            SamplingArg::Balanced => Sampling::Balanced,
        }
    }
}

impl TrainingArgs {
    /// Training for int8 has loops for CPUs only.
    pub(super) fn place(&self, qat: bool) -> Place {
        match self.device {
            PlaceArg::Auto if qat => Place::Cpu,
            PlaceArg::Auto => Place::Auto,
            PlaceArg::Cpu => Place::Cpu,
            PlaceArg::Cuda => Place::Cuda,
            PlaceArg::Composed => Place::Composed,
        }
    }

    pub(super) fn schedule(&self, qat: bool) -> Schedule {
        let decay = match self.schedule {
            ScheduleArg::Step => Decay::Step { first: 0.8, second: 0.9, gamma: self.gamma },
            ScheduleArg::Cosine => Decay::Cosine { end: 0.0 },
        };
        let epochs = f64::from(self.epochs);
        Schedule { rate: self.lr.unwrap_or(if qat { 0.001 } else { 0.1 }), warmup: self.warmup * epochs, decay, epochs }
    }

    pub(super) fn optimizer(&self) -> optimizer::Settings {
        optimizer::Settings { momentum: self.momentum, nesterov: self.momentum > 0.0, weight_decay: self.weight_decay }
    }

    pub(super) fn batch(&self) -> usize {
        self.batch as usize
    }
}

impl LossArgs {
    /// RIDE's loss for networks whose classifiers have this scale.
    pub(super) fn ride(&self, schedule: &Schedule, scale: f64) -> loss::Settings {
        let share = self.reweight.unwrap_or_else(|| reweight_share(schedule.decay));
        loss::Settings {
            s: scale,
            reweight_epoch: (share < 1.0).then(|| schedule.milestone(share) as usize),
            reweight_factor: self.reweight_factor,
            additional_diversity_factor: self.diversity,
            ..loss::Settings::default()
        }
    }

    /// `None` where the teacher would not be listened to.
    pub(super) fn distillation(&self) -> Option<Distillation> {
        let expert_factor = if self.official_kd { 0.0 } else { self.kd_experts };
        let listens = self.kd != 0.0 || expert_factor != 0.0;
        let Self { temperature, kd: mean_factor, official_kd: official, .. } = *self;
        listens.then_some(Distillation { temperature, mean_factor, expert_factor, official })
    }
}
