//! Stochastic gradient descent.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::params::Named;
use crate::checkpoint;

/// What does not change from step to step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Share of the last step's direction that is kept.
    pub momentum: f64,
    /// Whether the gradient is taken where the momentum leads (Sutskever et al., ICML 2013).
    pub nesterov: bool,
    /// Share of every parameter that is added to its gradient; batch normalisation's are no exception.
    pub weight_decay: f64,
}

impl Default for Settings {
    /// Those of the authors' CIFAR configurations.
    fn default() -> Self {
        Self { momentum: 0.9, nesterov: true, weight_decay: 5e-4 }
    }
}

/// Gradient descent with momentum, in the order of operations of PyTorch's `torch.optim.SGD` (dampening 0):
/// `g += decay p; v = momentum v + g; g += momentum v (or g = v); p -= rate g`.
#[derive(Debug)]
pub struct Sgd {
    settings: Settings,
    /// Of each parameter, in their order.
    velocity: Vec<Tensor>,
}

impl Sgd {
    /// At rest.
    ///
    /// # Errors
    /// If the device has no memory for the velocities.
    pub fn new(settings: Settings, parameters: &[Named]) -> Result<Self> {
        let velocity = parameters.iter().map(|named| named.var.zeros_like()).collect::<candle_core::Result<_>>()?;
        Ok(Self { settings, velocity })
    }

    /// Moves the parameters against their gradients, which come in the same order.
    ///
    /// # Errors
    /// If parameters or gradients are not those that the optimizer was made for, or the device fails.
    pub fn step(&mut self, parameters: &[Named], gradients: &[Tensor], rate: f64) -> Result<()> {
        let all = self.velocity.len();
        ensure!(
            parameters.len() == all && gradients.len() == all,
            "{} parameters and {} gradients, expected {all} of each",
            parameters.len(),
            gradients.len()
        );
        let Settings { momentum, nesterov, weight_decay } = self.settings;
        for ((named, gradient), velocity) in parameters.iter().zip(gradients).zip(&mut self.velocity) {
            let value = named.var.as_detached_tensor();
            // A velocity that remembered what it was made of would keep every step before.
            let gradient = gradient.detach();
            let gradient = if weight_decay == 0.0 { gradient } else { (gradient + (&value * weight_decay)?)? };
            *velocity = ((&*velocity * momentum)? + &gradient)?;
            let direction = if nesterov { (gradient + (&*velocity * momentum)?)? } else { velocity.clone() };
            named.var.set(&(value - (direction * rate)?)?).with_context(|| format!("cannot change {}", named.name))?;
        }
        Ok(())
    }

    /// The velocities by the names of their parameters.
    ///
    /// # Errors
    /// If the device fails.
    pub fn state(&self, parameters: &[Named]) -> Result<BTreeMap<String, checkpoint::Tensor>> {
        let copy = |(named, velocity): (&Named, &Tensor)| {
            let data = velocity.flatten_all()?.to_vec1()?;
            Ok((named.name.clone(), checkpoint::Tensor { shape: velocity.dims().to_vec(), data }))
        };
        parameters.iter().zip(&self.velocity).map(copy).collect()
    }

    /// Takes up what [`Sgd::state`] gave.
    ///
    /// # Errors
    /// Names the first parameter whose velocity is missing or has another shape.
    pub fn restore(&mut self, parameters: &[Named], state: &BTreeMap<String, checkpoint::Tensor>) -> Result<()> {
        for (named, velocity) in parameters.iter().zip(&mut self.velocity) {
            let saved = state.get(&named.name).filter(|saved| saved.shape == velocity.dims());
            let saved = saved.with_context(|| format!("there is no velocity of the shape of {}", named.name))?;
            *velocity = Tensor::from_slice(&saved.data, velocity.dims(), velocity.device())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    fn parameter(values: &[f32]) -> Vec<Named> {
        let tensor = Tensor::new(values, &Device::Cpu).unwrap();
        vec![Named { name: "w".into(), var: Var::from_tensor(&tensor).unwrap() }]
    }

    fn gradient(step: usize) -> Vec<Tensor> {
        let values = [0.5 - 0.25 * step as f32, -2.0, 0.125 * (step * step) as f32];
        vec![Tensor::new(&values, &Device::Cpu).unwrap()]
    }

    fn values(parameters: &[Named]) -> Vec<f32> {
        parameters[0].var.to_vec1().unwrap()
    }

    /// Four steps with rates 0.1, 0.05, 0.05, 0.2.
    fn trained(settings: Settings) -> Vec<f32> {
        let parameters = parameter(&[1.0, -0.5, 0.25]);
        let mut sgd = Sgd::new(settings, &parameters).unwrap();
        for (step, rate) in [0.1, 0.05, 0.05, 0.2].into_iter().enumerate() {
            sgd.step(&parameters, &gradient(step), rate).unwrap();
        }
        values(&parameters)
    }

    #[test]
    fn steps_are_those_of_pytorch() {
        // `torch.optim.SGD` of PyTorch 2.15 on the same parameters, gradients and rates (tests/data/train/sgd.py).
        for (settings, expected) in [
            (Settings { momentum: 0.9, nesterov: true, weight_decay: 0.01 }, [0.813_717_1, 2.132_988_7, -0.344_170_18]),
            (
                Settings { momentum: 0.9, nesterov: false, weight_decay: 0.01 },
                [0.810_487_45, 1.538_952_6, -0.124_579_2],
            ),
            (Settings { momentum: 0.0, nesterov: false, weight_decay: 0.0 }, [0.987_5, 0.299_999_98, -0.006_250_003_4]),
        ] {
            for (ours, theirs) in trained(settings).into_iter().zip(expected) {
                assert!((ours - theirs).abs() <= 2e-7 * theirs.abs().max(1.0), "{settings:?}: {ours} {theirs}");
            }
        }
    }

    #[test]
    fn velocities_keep_nothing_of_the_steps_before() {
        for settings in [Settings::default(), Settings { weight_decay: 0.0, nesterov: false, momentum: 0.5 }] {
            let parameters = parameter(&[1.0, -0.5, 0.25]);
            let mut sgd = Sgd::new(settings, &parameters).unwrap();
            // As candle's own backward pass gives it.
            let tracked = parameters[0].var.sqr().unwrap();
            assert!(tracked.track_op());
            sgd.step(&parameters, &[tracked], 0.1).unwrap();
            assert!(sgd.velocity.iter().all(|velocity| !velocity.track_op()));
        }
    }

    #[test]
    fn a_restored_optimizer_goes_on_as_if_it_had_never_stopped() {
        let settings = Settings::default();
        let parameters = parameter(&[1.0, -0.5, 0.25]);
        let mut sgd = Sgd::new(settings, &parameters).unwrap();
        for step in 0..2 {
            sgd.step(&parameters, &gradient(step), 0.1).unwrap();
        }
        let others = parameter(&values(&parameters));
        let mut other = Sgd::new(settings, &others).unwrap();
        other.restore(&others, &sgd.state(&parameters).unwrap()).unwrap();
        for step in 2..4 {
            sgd.step(&parameters, &gradient(step), 0.1).unwrap();
            other.step(&others, &gradient(step), 0.1).unwrap();
        }
        assert_eq!(values(&parameters), values(&others));
        assert!(other.restore(&others, &BTreeMap::new()).unwrap_err().to_string().contains('w'));
        assert!(other.step(&others, &[], 0.1).is_err());
    }
}
