//! The architectures as data.
//!
//! Facts from the authors' `model/model.py`, `model/ldam_drw_resnets` and `model/fb_resnets`.

/// Side and preparation of the images a family was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FamilyInput {
    /// 32 x 32 pixels, taken as they are.
    Cifar,
    /// 224 x 224 pixels, cropped from images whose shorter side is 256.
    ImageNet,
}

/// What all depths of a network have in common.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) input: FamilyInput,
    /// The first convolution: kernel, stride and output channels; padding is half the kernel.
    pub(super) first: (usize, usize, usize),
    /// Whether a 3 x 3 max-pool of stride 2 follows it.
    pub(super) max_pool: bool,
    /// `layer1`, `layer2` and so on.
    pub(super) stages: &'static [Stage],
    /// How many stages every expert shares.
    pub(super) shared: usize,
    /// Whether `share_layer3` can add one more to them.
    pub(super) may_share_next: bool,
}

/// One stage of residual blocks.
#[derive(Debug)]
pub(super) struct Stage {
    /// Width, before the block's expansion.
    pub(super) planes: usize,
    /// Width with `reduce_dimension`.
    pub(super) reduced: usize,
    /// Stride of the first block.
    pub(super) stride: usize,
}

/// The kind of residual block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Block {
    /// Two 3 x 3 convolutions and the parameter-free option-A shortcut (He et al., arXiv:1512.03385, section 3.3).
    OptionA,
    /// Two 3 x 3 convolutions and a 1 x 1 convolution on the shortcut where the shape changes.
    Basic,
    /// 1 x 1, 3 x 3 and 1 x 1, four times wider at the end; the stride is in the middle.
    Bottleneck,
    /// A bottleneck whose 3 x 3 convolution has 32 groups of width 4 (Xie et al., arXiv:1611.05431).
    Next,
}

/// One architecture.
#[derive(Debug)]
pub(super) struct Architecture {
    /// The name in `arch.type`, without `Model` or `EAModel`.
    pub(super) name: &'static str,
    pub(super) family: &'static Family,
    pub(super) block: Block,
    /// Blocks in each stage.
    pub(super) depths: &'static [usize],
}

const fn stage(planes: usize, reduced: usize, stride: usize) -> Stage {
    Stage { planes, reduced, stride }
}

static CIFAR: Family = Family {
    input: FamilyInput::Cifar,
    first: (3, 1, 16),
    max_pool: false,
    stages: &[stage(16, 16, 1), stage(32, 24, 2), stage(64, 48, 2)],
    shared: 1,
    may_share_next: false,
};

static IMAGENET: Family = Family {
    input: FamilyInput::ImageNet,
    first: (7, 2, 64),
    max_pool: true,
    stages: &[stage(64, 64, 1), stage(128, 128, 2), stage(256, 192, 2), stage(512, 384, 2)],
    shared: 2,
    may_share_next: true,
};

const fn imagenet(name: &'static str, block: Block, depths: &'static [usize]) -> Architecture {
    Architecture { name, family: &IMAGENET, block, depths }
}

static ARCHITECTURES: [Architecture; 7] = [
    Architecture { name: "ResNet32", family: &CIFAR, block: Block::OptionA, depths: &[5, 5, 5] },
    imagenet("ResNet10", Block::Basic, &[1, 1, 1, 1]),
    imagenet("ResNet50", Block::Bottleneck, &[3, 4, 6, 3]),
    imagenet("ResNet101", Block::Bottleneck, &[3, 4, 23, 3]),
    imagenet("ResNet152", Block::Bottleneck, &[3, 8, 36, 3]),
    imagenet("ResNeXt50", Block::Next, &[3, 4, 6, 3]),
    imagenet("ResNeXt152", Block::Next, &[3, 8, 36, 3]),
];

impl Architecture {
    /// The architecture of an `arch.type`, and whether it has routers.
    pub(super) fn find(kind: &str) -> Option<(&'static Self, bool)> {
        let base = kind.strip_suffix("Model")?;
        let (base, routed) = base.strip_suffix("EA").map_or((base, false), |base| (base, true));
        ARCHITECTURES.iter().find(|arch| arch.name == base).map(|arch| (arch, routed))
    }

    /// All values of `arch.type`, for messages.
    pub(super) fn known() -> String {
        let names =
            ARCHITECTURES.iter().flat_map(|arch| [format!("{}Model", arch.name), format!("{}EAModel", arch.name)]);
        names.collect::<Vec<_>>().join(", ")
    }
}

impl Block {
    /// Output channels for each unit of width.
    pub(super) fn expansion(self) -> usize {
        match self {
            Block::OptionA | Block::Basic => 1,
            Block::Bottleneck | Block::Next => 4,
        }
    }

    /// Width of the inner convolutions.
    pub(super) fn inner(self, planes: usize) -> usize {
        match self {
            // 32 groups, each of 4 channels for every 64 of the stage's width, rounded down.
            Block::Next => planes * 4 / 64 * 32,
            _ => planes,
        }
    }

    /// Groups of the middle convolution.
    pub(super) fn groups(self) -> usize {
        if self == Block::Next { 32 } else { 1 }
    }
}
