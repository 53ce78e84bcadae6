//! The same artifact for this machine's kernels.
//!
//! An artifact can be executed everywhere, but portable code reads what a microcontroller's kernels are laid out for, a
//! hundred times slower than vector kernels read their own layout. Results do not depend on the layout: whoever only wants
//! the numbers of an artifact, and for thousands of images, takes a copy with the weights packed anew.

use anyhow::{Context, Result, bail, ensure};
use ride_runtime::format::header::{Kind, model as field};
use ride_runtime::format::record::encode_router;
use ride_runtime::format::{ARENA_ALIGN, MAX_WEIGHTS};
use ride_runtime::kernels::{self, BACKENDS, Isa};
use ride_runtime::model::{Part, router_scratch};
use ride_runtime::op::{ConvShape, Dense, Layout, Op, Rule};
use ride_runtime::{Model, PartId};

use super::packing::{Plain, repack_dense};
use super::sections::{OwnSection, PartWriter, assemble, take_apart};
use crate::artifact_file::{self, MAX_BYTES};
use crate::memory::AlignedBytes;

/// An artifact, and a copy of it for this machine's vector kernels if they cannot read it as it is.
#[derive(Debug)]
pub struct Native<'m> {
    own: Model<'m>,
    copy: Option<AlignedBytes>,
}

impl<'m> Native<'m> {
    /// Makes the copy where it pays: not if a vector kernel reads the artifact, or this machine has none, or the copy would
    /// be larger than an artifact may be (as weights with many groups become in some layouts).
    ///
    /// # Errors
    /// If the artifact keeps the rules of the format but not those of the arithmetic: a bias may not fit then.
    pub fn of(model: Model<'m>) -> Result<Self> {
        let layout = layout_for(model).filter(|&layout| fits(model, layout));
        let copy = layout.map(|layout| relayout(model, layout)).transpose()?;
        Ok(Native { own: model, copy: copy.map(|bytes| AlignedBytes::copy_of(&bytes)) })
    }

    /// Whether there is a copy.
    pub fn repacked(&self) -> bool {
        self.copy.is_some()
    }

    /// What to run.
    ///
    /// # Errors
    /// If the runtime refuses the copy.
    pub fn model(&self) -> Result<Model<'_>> {
        match &self.copy {
            None => Ok(self.own),
            Some(bytes) => Model::parse(bytes).context("the artifact cannot be packed for this machine"),
        }
    }

    /// What to run, after a copy has given the results that the artifact's own golden vectors hold.
    ///
    /// # Errors
    /// If it gives others.
    pub fn checked(&self) -> Result<Model<'_>> {
        if let Some(bytes) = &self.copy {
            artifact_file::self_test(bytes).context(
                "packed for this machine, the artifact does not give the results of its golden vectors; build it again",
            )?;
        }
        self.model()
    }
}

/// The layout that this machine's fastest vector kernels read, if none read the one of `model`.
fn layout_for(model: Model<'_>) -> Option<Layout> {
    let vector = |isa: Isa| isa != Isa::Scalar;
    if kernels::best(model.layout()).is_some_and(|backend| vector(backend.isa)) {
        return None;
    }
    BACKENDS.iter().rev().find(|backend| vector(backend.isa) && backend.isa.available()).map(|backend| backend.layout)
}

/// Whether all weights together, and those of each layer, are within bounds in another layout.
fn fits(model: Model<'_>, layout: Layout) -> bool {
    let mut lens = shapes(model).map(|shape| kernels::weights_len(&shape, layout));
    let total = lens.try_fold(0u64, |sum, len| (len <= MAX_WEIGHTS).then(|| sum.saturating_add(len as u64)));
    // Dense layers grow by a few padded rows and hardly count.
    total.is_some_and(|total| total <= MAX_BYTES)
}

/// Shapes of all convolutions.
fn shapes(model: Model<'_>) -> impl Iterator<Item = ConvShape> {
    model.parts().flat_map(|part| part.steps()).filter_map(|step| match step.op {
        Op::Conv(conv) => Some(conv.shape),
        _ => None,
    })
}

/// The artifact with its constants in another layout. Activations stay where they are; scratch memory that needs more room
/// than before goes behind them. The golden vectors, which hold for any layout, are kept, and so is the target's name.
///
/// # Errors
/// If a bias does not fit in the other layout, or the artifact would be larger than the format allows.
pub fn relayout(model: Model<'_>, layout: Layout) -> Result<Vec<u8>> {
    let mut sections = take_apart(model);
    for section in &mut sections {
        let OwnSection { kind, index, content } = section;
        let part = |id| model.part(id).context("a part is missing");
        match kind {
            Kind::Model => head(model, layout, content)?,
            Kind::Stem => *content = part(PartId::Stem).and_then(|part| repack(&part, layout))?,
            Kind::Expert => *content = part(PartId::Expert(*index)).and_then(|part| repack(&part, layout))?,
            Kind::Router => *content = router(model, *index, layout)?,
            Kind::Classes | Kind::Names | Kind::Golden => {}
        }
    }
    assemble(&sections)
}

/// Changes the global facts: the layout and the scratch memory that its kernels need.
fn head(model: Model<'_>, layout: Layout, content: &mut [u8]) -> Result<()> {
    ensure!(content.len() == field::LEN, "the model section has another length");
    let shapes: Vec<_> = shapes(model).collect();
    let routers = (0..model.experts()).filter_map(|n| model.router(n));
    let routers = routers.filter_map(|r| r.assignment().map(router_scratch)).max().unwrap_or(0);
    let heads = model.parts().flat_map(|part| part.steps()).filter_map(|step| match step.op {
        Op::Head(head) => Some(head.scratch_len()),
        _ => None,
    });
    let dense = heads.fold(routers, usize::max);
    let needed = super::scratch_len(&shapes, layout).max(dense).next_multiple_of(4);
    let mut put = |at: usize, value: usize| -> Result<()> {
        let value = u32::try_from(value).context("the arena would be larger than 4 GiB")?;
        content[at..at + 4].copy_from_slice(&value.to_le_bytes());
        Ok(())
    };
    if needed > model.scratch().len() {
        let at = model.arena_len().next_multiple_of(ARENA_ALIGN);
        put(field::SCRATCH, at)?;
        put(field::ARENA, (at + needed).next_multiple_of(ARENA_ALIGN))?;
    }
    put(field::SCRATCH_LEN, needed)?;
    content[field::LAYOUT] = layout as u8;
    Ok(())
}

/// The section of stem or expert.
fn repack(part: &Part<'_>, layout: Layout) -> Result<Vec<u8>> {
    let mut writer = PartWriter::new(part.len());
    for (n, mut step) in part.steps().enumerate() {
        match &mut step.op {
            Op::Conv(conv) => {
                let (weights, params) = (part.constants(conv.weights), part.constants(conv.params));
                let plain = Plain::unpack(&conv.shape, conv.layout, weights, params);
                let packed =
                    plain.pack(&conv.shape, layout).with_context(|| format!("operation {n} of {:?}", part.id))?;
                conv.weights = writer.weights(&packed.weights)?;
                conv.params = writer.params(&packed.params)?;
                conv.layout = layout;
            }
            Op::Head(head) => repack_into(part, &mut head.dense, layout, &mut writer)?,
            Op::Load(_) | Op::Shortcut(_) | Op::MaxPool(_) | Op::Pool(_) => {}
        }
        writer.records.push(step);
    }
    Ok(writer.finish())
}

fn repack_into(part: &Part<'_>, dense: &mut Dense, layout: Layout, writer: &mut PartWriter) -> Result<()> {
    let weights = repack_dense(dense, part.constants(dense.weights), layout);
    let params = part.constants(dense.params);
    dense.layout = layout;
    writer.dense(dense, &weights, params)
}

/// A router's section.
fn router(model: Model<'_>, index: u16, layout: Layout) -> Result<Vec<u8>> {
    let part = model.part(PartId::Router(index));
    let (Some(part), Some(mut router)) = (part, model.router(usize::from(index))) else {
        bail!("router {index} is missing")
    };
    let mut writer = PartWriter::router();
    if let Rule::Assignment(assignment) = &mut router.rule {
        repack_into(&part, &mut assignment.hidden, layout, &mut writer)?;
        assignment.fc = writer.params(part.constants(assignment.fc))?;
    }
    Ok(writer.finish_router(&encode_router(&router)))
}
