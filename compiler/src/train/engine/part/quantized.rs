//! A part of the integer network.

use anyhow::{Context, Result};
use rayon::prelude::*;

use super::{Input, PartTape};
use crate::lower::integer::{Quant, Source, rescale};
use crate::train::engine::integer::Folded;
use crate::train::engine::schedule::{ActId, Added, Join, Wired};
use crate::train::net::Mode;
use crate::train::ops::quant::{Base, IntegerJoin};
use crate::train::params::Params;
use crate::train::qat::Quantization;

/// The integer network's representation of a part.
#[derive(Debug)]
pub(super) struct Integer {
    pub(super) quantization: Quantization,
    /// Of each activation; `None` for images.
    pub(super) acts: Vec<Option<Quant>>,
    /// Of each layer that is a projection.
    projections: Vec<Option<Quant>>,
    /// For each activation that an option-A shortcut leads to, the shortcut's representation and factor.
    shortcuts: Vec<Option<(Quant, (i32, u8))>>,
    pub(super) folded: Vec<Folded>,
}

impl PartTape {
    /// Computes as the integer network from now on. `input` is the representation of the part's input; `None` is images.
    ///
    /// # Errors
    /// If a value has no representation.
    pub(in crate::train::engine) fn quantize(
        &mut self,
        quantization: &Quantization,
        input: Option<Quant>,
    ) -> Result<()> {
        let mut acts = vec![input];
        for name in self.schedule.names.iter().skip(1) {
            acts.push(Some(quantization.get(name)?));
        }
        let mut projections = vec![None; self.schedule.layers.len()];
        let mut shortcuts = vec![None; acts.len()];
        for join in self.schedule.stages.iter().filter_map(|stage| stage.join) {
            match join.added {
                Added::Layer(layer) => {
                    projections[layer] = Some(quantization.get(&self.schedule.layers[layer].value)?);
                }
                Added::OptionA { act, .. } => {
                    let (block, _) = self.schedule.names[join.act].rsplit_once('.').context("a block has a name")?;
                    let quant = quantization.get(&format!("{block}.shortcut"))?;
                    let from = acts[act].context("images have no shortcut")?;
                    shortcuts[join.act] = Some((quant, rescale(&from, &quant)?));
                }
                _ => {}
            }
        }
        let folded = Vec::new();
        self.integer = Some(Integer { quantization: quantization.clone(), acts, projections, shortcuts, folded });
        Ok(())
    }

    /// Rounds the weights.
    pub(super) fn fold(&mut self, params: &Params, mode: Mode) -> Result<()> {
        let Some(integer) = &mut self.integer else { return Ok(()) };
        let mut sources = vec![0; self.schedule.layers.len()];
        for stage in &self.schedule.stages {
            stage.layers.iter().for_each(|&layer| sources[layer] = stage.source());
        }
        let fold = |(layer, wired): (usize, &Wired)| {
            let source = match integer.acts[sources[layer]] {
                Some(quant) => Source::Activation(quant),
                None => Source::Image(integer.quantization.input()),
            };
            let output = integer.projections[layer].or(integer.acts[wired.consumer]);
            Folded::new(&wired.names, params, source, &output.context("the result of a layer is an activation")?)
        };
        integer.folded = self.schedule.layers.par_iter().enumerate().map(fold).collect::<Result<_>>()?;
        for ((wired, folded), norm) in self.schedule.layers.iter_mut().zip(&integer.folded).zip(&mut self.norms) {
            wired.conv.pack(&folded.codes);
            if mode == Mode::Train {
                wired.conv.pack_backward(&folded.weight);
            }
            let output = wired.conv.output();
            norm.set_identity(output.channels, output.width);
        }
        Ok(())
    }

    pub(super) fn make_integer(
        &self,
        integer: &Integer,
        join: Join,
        (image, input): (usize, Input<'_>),
        output: &mut [f32],
    ) {
        let Some(quant) = integer.acts[join.act] else { return };
        let value = |act: ActId| (self.act(act, image, input.values), self.schedule.acts[act]);
        let base = match join.added {
            Added::None => Base::None,
            Added::Same(act) => Base::Same(value(act).0, value(act).1),
            Added::OptionA { act, stride, pad } => {
                let Some((shortcut, factor)) = integer.shortcuts[join.act] else { return };
                let ((x, plane), limits) = (value(act), shortcut.limits(false));
                Base::OptionA { x, plane, stride, pad, factor, limits }
            }
            Added::Layer(layer) => Base::Raw(self.y(layer, image), &integer.folded[layer].requantize),
        };
        let requantize = &integer.folded[join.layer].requantize;
        let (y, plane) = (self.y(join.layer, image), self.schedule.acts[join.act]);
        IntegerJoin { y, requantize, base, limits: quant.limits(true), wide: quant.wide, plane, output }.run();
    }
}
