//! Which images are drawn: deterministic by seed, the same on every machine.

/// Up to `n` different indices into `labels`, spread over the classes as evenly as they allow.
///
/// Round after round takes one image of every class that still has one, so a rare class gives all it has and the
/// others fill up. Classes and the images within a class come in an order that the seed decides; the result is in
/// drawing order, so that every prefix is balanced as well.
pub fn class_balanced(labels: &[u32], n: usize, seed: u64) -> Vec<usize> {
    let mut random = SplitMix64(seed);
    let mut order: Vec<usize> = (0..labels.len()).collect();
    order.sort_by_key(|&index| labels[index]);
    let mut classes: Vec<&mut [usize]> = order.chunk_by_mut(|&a, &b| labels[a] == labels[b]).collect();
    for class in &mut classes {
        random.shuffle(class);
    }
    // Without this, a last, incomplete round would always favour the first classes: the head of the distribution.
    random.shuffle(&mut classes);
    let longest = classes.iter().map(|class| class.len()).max().unwrap_or(0);
    let rounds = (0..longest).flat_map(|round| classes.iter().filter_map(move |class| class.get(round).copied()));
    rounds.take(n).collect()
}

/// Up to `n` different indices below `len`, each equally likely, in an order that the seed decides.
pub fn uniform(len: usize, n: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    SplitMix64(seed).shuffle(&mut order);
    order.truncate(n);
    order
}

/// Generator of Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014.
#[derive(Clone, Debug)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// A sequence of its own for each seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A sequence of its own for each list of numbers, such as seed, epoch and image.
    pub fn of(numbers: &[u64]) -> Self {
        // Each number is hashed with what the numbers before it came to, so that their order counts.
        Self(numbers.iter().fold(0, |state, &number| Self(state ^ number).draw()))
    }

    /// 64 random bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`; the bias of the multiplication is below `bound / 2^64`.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.draw()) * bound as u128) >> 64) as usize
    }

    /// A number in `0..1`, in steps of 2^-53.
    pub fn unit(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number in `low..high`.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// A number inside of `-1..1`, in steps of 2^-52, never 0 or one of the ends.
    pub fn symmetric(&mut self) -> f64 {
        2.0 * self.inside() - 1.0
    }

    /// A number of the standard normal distribution, by Box and Muller's transform.
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * self.inside().ln()).sqrt();
        radius * (std::f64::consts::TAU * self.inside()).cos()
    }

    /// A number inside of `0..1`, halfway between two of [`SplitMix64::unit`]'s.
    fn inside(&mut self) -> f64 {
        ((self.draw() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// Fisher-Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Class c has `counts[c]` images, interleaved.
    fn labels(counts: &[usize]) -> Vec<u32> {
        let most = counts.iter().copied().max().unwrap_or(0);
        (0..most).flat_map(|i| (0..counts.len() as u32).filter(move |&c| i < counts[c as usize])).collect()
    }

    fn drawn(labels: &[u32], picked: &[usize], classes: usize) -> Vec<usize> {
        (0..classes).map(|c| picked.iter().filter(|&&i| labels[i] as usize == c).count()).collect()
    }

    #[test]
    fn rare_classes_give_all_they_have() {
        let labels = labels(&[500, 3, 40, 1]);
        let picked = class_balanced(&labels, 84, 7);
        assert_eq!(picked.iter().collect::<HashSet<_>>().len(), 84);
        assert_eq!(drawn(&labels, &picked, 4), [40, 3, 40, 1]);
        assert_eq!(drawn(&labels, &picked[..4], 4), [1, 1, 1, 1]);
        assert_eq!(class_balanced(&labels, 10_000, 7).len(), 544);
        assert!(class_balanced(&[], 5, 7).is_empty());
    }

    #[test]
    fn the_seed_decides_and_the_last_round_favours_nobody() {
        let labels = labels(&[50; 10]);
        assert_eq!(class_balanced(&labels, 25, 1), class_balanced(&labels, 25, 1));
        assert_ne!(class_balanced(&labels, 25, 1), class_balanced(&labels, 25, 2));
        let mut extra = [0; 10];
        for seed in 0..400 {
            for (class, count) in drawn(&labels, &class_balanced(&labels, 15, seed), 10).into_iter().enumerate() {
                extra[class] += count - 1;
            }
        }
        // 200 expected for each class, standard deviation 10.
        assert!(extra.iter().all(|n| (150..=250).contains(n)), "{extra:?}");
    }

    #[test]
    fn uniform_draws_every_image_equally_often() {
        let mut hits = [0; 20];
        for seed in 0..2000 {
            let picked = uniform(20, 5, seed);
            assert_eq!(picked.iter().collect::<HashSet<_>>().len(), 5);
            picked.into_iter().for_each(|i| hits[i] += 1);
        }
        assert!(hits.iter().all(|n| (400..=600).contains(n)), "{hits:?}");
        assert_eq!(uniform(3, 9, 0).len(), 3);
        assert_eq!(uniform(1000, 4, 42), uniform(1000, 4, 42));
    }

    #[test]
    fn sequences_differ_by_every_number_and_its_place() {
        let first = |numbers: &[u64]| SplitMix64::of(numbers).draw();
        let all = [first(&[1, 2, 3]), first(&[1, 2, 4]), first(&[2, 1, 3]), first(&[1, 2]), first(&[1, 2, 3, 0])];
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
        let mut random = SplitMix64::new(5);
        let drawn: Vec<f64> = (0..10_000).map(|_| random.between(-15.0, 15.0)).collect();
        assert!(drawn.iter().all(|x| (-15.0..15.0).contains(x)));
        assert!(drawn.iter().sum::<f64>().abs() < 0.5 * 10_000.0);
    }

    #[test]
    fn the_generator_is_the_published_one() {
        // First outputs for seed 1234567, as given by the reference implementation.
        let mut random = SplitMix64(1_234_567);
        assert_eq!([random.draw(), random.draw()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }

    #[test]
    fn normal_numbers_are_normal() {
        let mut random = SplitMix64::new(1_234_567);
        assert!(
            (random.normal() - 0.6687418474759114).abs() < 1e-12
                && (random.symmetric() - 0.06441460812483868).abs() < 1e-15
        );
        let drawn: Vec<f64> = (0..20_000).map(|_| random.normal()).collect();
        let moment = |power: i32| drawn.iter().map(|x| x.powi(power)).sum::<f64>() / drawn.len() as f64;
        assert!(moment(1).abs() < 0.03 && (moment(2) - 1.0).abs() < 0.05 && (moment(4) - 3.0).abs() < 0.3);
        assert!((0..20_000).map(|_| random.symmetric()).all(|x| x > -1.0 && x < 1.0 && x != 0.0));
    }
}
