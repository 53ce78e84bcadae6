//! The order in which an epoch visits the training images.

use std::fmt;

use ride_calibrate::sampling::SplitMix64;
use serde::{Deserialize, Serialize};

/// What the numbers that orders are drawn with are for; keeps them apart from those of [`super::batches`].
const PURPOSE: u64 = 1;

/// How an epoch's images are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sampling {
    /// Every image once, in random order.
    Shuffle,
    /// Every class equally often, as the authors do for routers: each draw takes a random class and the next of its
    /// images, which are shuffled anew when all have been taken. An epoch has as many draws as there are images.
    Balanced,
}

impl Sampling {
    /// The images of one epoch; equal arguments give equal orders.
    pub fn order(self, labels: &[u32], seed: u64, epoch: u64) -> Vec<usize> {
        let mut random = SplitMix64::of(&[PURPOSE, seed, epoch]);
        let mut all: Vec<usize> = (0..labels.len()).collect();
        match self {
            Sampling::Shuffle => {
                random.shuffle(&mut all);
                all
            }
            Sampling::Balanced => {
                all.sort_by_key(|&index| labels[index]);
                let mut classes: Vec<Class<'_>> = all
                    .chunk_by_mut(|&a, &b| labels[a] == labels[b])
                    .map(|images| Class { next: images.len(), images })
                    .collect();
                (0..labels.len())
                    .map(|_| {
                        let class = random.below(classes.len());
                        classes[class].draw(&mut random)
                    })
                    .collect()
            }
        }
    }
}

impl fmt::Display for Sampling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Sampling::Shuffle => "shuffle",
            Sampling::Balanced => "balanced",
        })
    }
}

/// The images of one class and how many of them have been taken since they were shuffled.
struct Class<'a> {
    images: &'a mut [usize],
    next: usize,
}

impl Class<'_> {
    fn draw(&mut self, random: &mut SplitMix64) -> usize {
        if self.next == self.images.len() {
            random.shuffle(self.images);
            self.next = 0;
        }
        self.next += 1;
        self.images[self.next - 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels() -> Vec<u32> {
        [vec![0; 400], vec![3; 80], vec![1; 20]].concat()
    }

    #[test]
    fn shuffled_epochs_visit_every_image_once() {
        let labels = labels();
        let first = Sampling::Shuffle.order(&labels, 7, 0);
        let mut sorted = first.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..500).collect::<Vec<_>>());
        assert_eq!(Sampling::Shuffle.order(&labels, 7, 0), first);
        assert_ne!(Sampling::Shuffle.order(&labels, 7, 1), first);
        assert_ne!(Sampling::Shuffle.order(&labels, 8, 0), first);
        assert!(Sampling::Shuffle.order(&[], 7, 0).is_empty());
        assert!(Sampling::Balanced.order(&[], 7, 0).is_empty());
    }

    #[test]
    fn balanced_epochs_visit_every_class_equally_often() {
        let labels = labels();
        let mut drawn = [0; 4];
        let mut images = vec![0; 500];
        for epoch in 0..20 {
            for index in Sampling::Balanced.order(&labels, 7, epoch) {
                drawn[labels[index] as usize] += 1;
                images[index] += 1;
            }
        }
        assert_eq!(drawn[2], 0);
        // A third of 10,000 each, standard deviation 47.
        for class in [0, 1, 3] {
            assert!((3_100..3_570).contains(&drawn[class]), "{drawn:?}");
        }
        // Within an epoch, the images of a class differ by one at most.
        let once = Sampling::Balanced.order(&labels, 7, 3);
        let count = |index: usize| once.iter().filter(|&&i| i == index).count();
        let rare: Vec<_> = (480..500).map(count).collect();
        assert!(rare.iter().max().unwrap() - rare.iter().min().unwrap() <= 1, "{rare:?}");
        assert!(images[480..].iter().all(|&n| n > 100), "{:?}", &images[480..]);
    }
}
