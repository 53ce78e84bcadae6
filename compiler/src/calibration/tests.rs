//! Calibration of small networks on random images.

use std::sync::Mutex;

use super::*;
use crate::network::Op;
use crate::reference::tests::synthetic;

const SETTINGS: Settings = Settings { images: 512, seed: 3, balanced: true, observer: Observer::Mse };

fn image(network: &Network, index: usize) -> Result<Cow<'static, [u8]>> {
    Ok(Cow::Owned(synthetic::pixels(network, index as u64)))
}

fn table(network: &Network, images: &[usize], threads: usize) -> Result<CalibrationTable> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let statistics = pool.install(|| collect(network, images, |i| image(network, i), &|_| ()))?;
    tabulate(network, &statistics, images.len(), &SETTINGS)
}

#[test]
fn the_table_does_not_depend_on_the_number_of_threads() {
    let network = synthetic::network(3, true);
    let images: Vec<usize> = (0..23).collect();
    let one = table(&network, &images, 1).unwrap().to_json().unwrap();
    assert_eq!(table(&network, &images, 4).unwrap().to_json().unwrap(), one);
    let reversed: Vec<usize> = images.iter().rev().copied().collect();
    assert_eq!(table(&network, &reversed, 2).unwrap().to_json().unwrap(), one);
    assert_ne!(table(&network, &images[1..], 2).unwrap().values, table(&network, &images, 2).unwrap().values);
}

/// Smallest and largest value and the sum of each channel, kept apart from the observer's own arithmetic.
#[derive(Default)]
struct Extremes(BTreeMap<String, (f32, f32, Vec<f64>, usize)>);

impl Observe for Extremes {
    fn value(&mut self, name: &str, shape: Shape, data: &[f32]) {
        let start = || (f32::INFINITY, f32::NEG_INFINITY, vec![0.0; shape.channels], 0);
        let (min, max, sums, pixels) = self.0.entry(name.to_owned()).or_insert_with(start);
        *min = data.iter().fold(*min, |a, &b| a.min(b));
        *max = data.iter().fold(*max, |a, &b| a.max(b));
        *pixels += shape.height * shape.width;
        data.iter().enumerate().for_each(|(i, &x)| sums[i % shape.channels] += f64::from(x));
    }
}

#[test]
fn statistics_are_those_of_every_value_on_every_image() {
    let network = synthetic::network(2, false);
    let images = [4, 9, 2, 31, 7];
    let statistics = collect(&network, &images, |i| image(&network, i), &|_| ()).unwrap();
    let mut expected = Extremes::default();
    let executor = Executor::new(&network).unwrap();
    for index in images {
        let pixels = image(&network, index).unwrap();
        executor.forward(Image::Pixels(&pixels), Policy::All, &mut Scratch::default(), Some(&mut expected)).unwrap();
    }
    expected.0.remove(INPUT).unwrap();
    assert_eq!(statistics.len(), expected.0.len());
    for ((name, stats), (expected_name, (min, max, sums, pixels))) in statistics.iter().zip(&expected.0) {
        assert_eq!(name, expected_name);
        assert_eq!(stats.extremes(), Some((*min + 0.0, *max + 0.0)), "{name}");
        assert_eq!(stats.count(), (*pixels * sums.len()) as u64, "{name}");
        for (mean, sum) in stats.channel_mean().iter().zip(sums) {
            assert!((f64::from(*mean) - sum / *pixels as f64).abs() < 1e-6, "{name}");
        }
    }
}

#[test]
fn a_table_belongs_to_one_model() {
    let network = synthetic::network(2, true);
    let table = table(&network, &[1, 2], 1).unwrap();
    check(&network, &table).unwrap();
    let mut other = network.clone();
    let Op::Conv(conv) = &mut other.stem.nodes[0].op else { panic!("not a convolution") };
    conv.bias[0] += 1.0;
    let message = format!("{:#}", check(&other, &table).unwrap_err());
    assert!(message.contains("another model"), "{message}");
    assert_eq!((table.images, table.seed, table.observer), (2, SETTINGS.seed, SETTINGS.observer));
}

#[test]
fn progress_counts_every_image_once() {
    let network = synthetic::network(1, true);
    let seen = Mutex::new(Vec::new());
    let images: Vec<usize> = (0..9).collect();
    collect(&network, &images, |i| image(&network, i), &|progress| seen.lock().unwrap().push(progress)).unwrap();
    let mut seen = seen.into_inner().unwrap();
    seen.sort_by_key(|progress| progress.done);
    assert_eq!(seen, (1..=9).map(|done| Progress { done, total: 9 }).collect::<Vec<_>>());
}

fn failure(network: &Network, pixels: impl Fn(usize) -> Result<Cow<'static, [u8]>> + Sync, images: &[usize]) -> String {
    format!("{:#}", collect(network, images, pixels, &|_| ()).expect_err("accepted"))
}

#[test]
fn failures_name_the_image_and_the_value() {
    let network = synthetic::network(2, true);
    assert!(failure(&network, |i| image(&network, i), &[]).contains("no images"));
    let broken = |index: usize| {
        anyhow::ensure!(!matches!(index, 12 | 13 | 17), "cannot be read");
        image(&network, index)
    };
    let images: Vec<usize> = (0..30).collect();
    assert_eq!(failure(&network, broken, &images), "calibration fails on image 12: cannot be read");
    let short = |_: usize| Ok(Cow::Owned(vec![0; 5]));
    assert!(failure(&network, short, &[0]).contains("the image has 5 values, but the network takes 19 x 23 x 3"));
    let mut diverging = network.clone();
    let Op::Conv(conv) = &mut diverging.experts[1].trunk.nodes[0].op else { panic!("not a convolution") };
    conv.bias[0] = f32::INFINITY;
    let message = failure(&diverging, |i| image(&network, i), &[3]);
    assert!(message.contains("image 3: the value expert1.conv1") && message.contains("diverges"), "{message}");
    let mut twice = network.clone();
    twice.experts[1].trunk.nodes[0].name = twice.stem.nodes[0].name.clone();
    assert!(failure(&twice, |i| image(&network, i), &[3]).contains("the name stem.conv1"));
}

#[test]
fn balanced_choice_prefers_rare_classes() {
    let labels: Vec<u32> = (0..100).map(|i| u32::from(i >= 96)).collect();
    let rare = |balanced| {
        let chosen = choose(&labels, &Settings { images: 8, balanced, ..SETTINGS });
        assert_eq!(chosen.len(), 8);
        chosen.iter().filter(|&&i| labels[i] == 1).count()
    };
    assert_eq!(rare(true), 4);
    assert!(rare(false) < 4);
}
