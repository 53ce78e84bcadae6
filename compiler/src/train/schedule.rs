//! Learning rates.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// How the learning rate changes over a training of [`Schedule::epochs`] epochs.
///
/// Training that is limited by time walks through the same epochs in that time, however many it really runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// The highest rate.
    pub rate: f64,
    /// Epochs in which the rate rises to it.
    pub warmup: f64,
    /// What follows.
    pub decay: Decay,
    /// All epochs, those of the warm-up included.
    pub epochs: f64,
}

/// How the learning rate falls.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// As the authors have it, constant within an epoch: `(n + 1) / warmup` of the rate in epoch `n` of the warm-up;
    /// times `gamma` after the share `first` of all epochs and once more after `second`.
    Step {
        /// 0.8 in the authors' CIFAR configurations.
        first: f64,
        /// 0.9 there.
        second: f64,
        /// 0.01 there.
        gamma: f64,
    },
    /// A straight rise, then half a cosine (Loshchilov and Hutter, arXiv:1608.03983) down to the share `end` of the rate,
    /// both from batch to batch.
    Cosine {
        /// Share of the rate at the end.
        end: f64,
    },
}

impl Schedule {
    /// Checks the numbers against each other.
    ///
    /// # Errors
    /// Names the one that is out of range.
    pub fn validate(&self) -> Result<()> {
        let Self { rate, warmup, epochs, decay } = *self;
        ensure!(rate.is_finite() && rate > 0.0, "the learning rate is {rate}; expected a positive number");
        ensure!(epochs.is_finite() && epochs > 0.0, "a training of {epochs} epochs is not possible");
        ensure!(
            (0.0..epochs).contains(&warmup),
            "the warm-up takes {warmup} of {epochs} epochs; it must end before the training does"
        );
        let shares = match decay {
            Decay::Step { first, second, gamma } => vec![first, second, gamma],
            Decay::Cosine { end } => vec![end],
        };
        for share in shares {
            ensure!((0.0..=1.0).contains(&share), "{share} in the schedule must lie between 0 and 1");
        }
        Ok(())
    }

    /// The rate when `at` epochs are done, a fraction of the present one included.
    pub fn rate(&self, at: f64) -> f64 {
        let Self { rate, warmup, epochs, decay } = *self;
        match decay {
            Decay::Step { first, second, gamma } => {
                let epoch = at.floor();
                let fallen = [first, second].iter().filter(|&&share| epoch >= self.milestone(share)).count();
                let risen = if epoch < warmup { (epoch + 1.0) / warmup } else { 1.0 };
                rate * gamma.powi(fallen as i32) * risen.min(1.0)
            }
            Decay::Cosine { .. } if at < warmup => rate * at / warmup,
            Decay::Cosine { end } => {
                let done = ((at - warmup) / (epochs - warmup)).clamp(0.0, 1.0);
                rate * (end + (1.0 - end) * 0.5 * (1.0 + (std::f64::consts::PI * done).cos()))
            }
        }
    }

    /// The epoch that the share `share` of all epochs ends at.
    pub fn milestone(&self, share: f64) -> f64 {
        (share * self.epochs).round()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(ours: f64, theirs: f64) {
        assert!((ours - theirs).abs() <= 1e-12 * theirs.abs().max(1e-6), "{ours} {theirs}");
    }

    #[test]
    fn steps_are_those_of_the_authors_configuration() {
        // `LambdaLR` with the authors' `lr_lambda`: rate 0.1, step1 160, step2 180, gamma 0.01, warmup_epoch 5.
        let decay = Decay::Step { first: 0.8, second: 0.9, gamma: 0.01 };
        let schedule = Schedule { rate: 0.1, warmup: 5.0, decay, epochs: 200.0 };
        schedule.validate().unwrap();
        for (epoch, expected) in [
            (0.0, 0.02),
            (0.99, 0.02),
            (1.0, 0.04),
            (3.5, 0.08),
            (4.0, 0.1),
            (5.0, 0.1),
            (159.9, 0.1),
            (160.0, 0.001),
            (179.0, 0.001),
            (180.0, 1e-5),
            (199.0, 1e-5),
        ] {
            close(schedule.rate(epoch), expected);
        }
    }

    #[test]
    fn cosines_are_those_of_pytorch() {
        // `CosineAnnealingLR(SGD(lr=0.05), T_max=8, eta_min=0.0005)`, PyTorch 2.15, epochs 0 to 7.
        let expected = [
            0.05,
            0.048_116_018_429_654_35,
            0.042_750_892_834_367_06,
            0.034_721_414_951_035_96,
            0.025_25,
            0.015_778_585_048_964_03,
            0.007_749_107_165_632_95,
            0.002_383_981_570_345_653,
        ];
        let schedule = Schedule { rate: 0.05, warmup: 0.0, decay: Decay::Cosine { end: 0.01 }, epochs: 8.0 };
        for (epoch, expected) in expected.into_iter().enumerate() {
            close(schedule.rate(epoch as f64), expected);
        }
        let late = Schedule { warmup: 2.0, epochs: 10.0, ..schedule };
        close(late.rate(0.5), 0.0125);
        close(late.rate(2.0), 0.05);
        close(late.rate(10.0), 0.0005);
        close(late.rate(11.0), 0.0005);
    }

    #[test]
    fn numbers_out_of_range_are_named() {
        let good = Schedule { rate: 0.1, warmup: 1.0, decay: Decay::Cosine { end: 0.0 }, epochs: 4.0 };
        good.validate().unwrap();
        for (bad, part) in [
            (Schedule { rate: 0.0, ..good }, "rate"),
            (Schedule { rate: f64::NAN, ..good }, "rate"),
            (Schedule { warmup: 4.0, ..good }, "warm-up"),
            (Schedule { epochs: 0.0, ..good }, "epochs"),
            (Schedule { decay: Decay::Cosine { end: 1.5 }, ..good }, "1.5"),
        ] {
            let error = bad.validate().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
