//! The same bits from any number of threads, inside one inference and side by side.

use ride_runtime::batch::Batch;
use ride_runtime::kernels::Backend;
use ride_runtime::{Error, Model, Policy, Session, Team};
use ride_tests::built;
use ride_tests::exercise::{Answer, Arena, Recorder, backends, picture};
use ride_tests::synthetic::Recipe;

fn teams(threads: impl IntoIterator<Item = usize>) -> Vec<Team> {
    // Every layer is shared, however small.
    threads.into_iter().map(|n| Team::new(n).expect("threads").with_least_work(1)).collect()
}

fn parse(bytes: &[u8]) -> Model<'_> {
    Model::parse(bytes).expect("the compiler writes valid artifacts")
}

/// What a run of all experts and a routed one write.
fn observe(model: Model<'_>, backend: &'static Backend, team: Option<&Team>, pixels: &[u8]) -> Vec<(Answer, Recorder)> {
    let mut arena = Arena::new(model, 0x5A);
    let mut session = Session::with_backend(model, arena.lend(), backend).expect("the backend is available");
    if let Some(team) = team {
        session = session.with_team(team);
    }
    let run = |policy| {
        let mut trace = Recorder::default();
        let answer = session.classify_probed(pixels, policy, &mut trace).expect("a valid image");
        (Answer::from(answer), trace)
    };
    let seen = [Policy::All, Policy::Routed].map(run).to_vec();
    assert!(arena.intact(), "{}", backend.conv.name);
    seen
}

#[test]
fn synthetic_networks_give_the_same_bits_with_any_number_of_threads() {
    // The last team has more threads than any layer has rows.
    let teams = teams((1..=5).chain([40]));
    let mut shared = 0;
    for (name, recipe) in Recipe::all() {
        for target in built::TARGETS {
            for bits in [8, 16] {
                let artifact = built::synthetic(&recipe, target, bits);
                let model = parse(&artifact);
                let pixels = picture(model, 5);
                for backend in backends(model) {
                    shared += usize::from(backend.conv.splits);
                    let alone = observe(model, backend, None, &pixels);
                    for team in &teams {
                        let what = format!("{name}, {bits} bits, {}, {} threads", backend.conv.name, team.threads());
                        assert!(observe(model, backend, Some(team), &pixels) == alone, "{what}");
                    }
                }
            }
        }
    }
    assert!(shared > 0);
}

#[test]
fn the_real_model_gives_the_same_bits_with_any_number_of_threads() {
    let model = parse(built::real_artifact("x86-64", 16));
    let teams = teams(1..=5);
    for backend in backends(model).filter(|b| b.isa.name() != "scalar") {
        for seed in 0..8 {
            let pixels = picture(model, seed);
            let alone = observe(model, backend, None, &pixels);
            for team in &teams {
                let what = format!("{}, {} threads, picture {seed}", backend.conv.name, team.threads());
                assert!(observe(model, backend, Some(team), &pixels) == alone, "{what}");
            }
        }
    }
}

/// Two sessions that have the same team get in each other's way without harm.
#[test]
fn sessions_may_share_a_team() {
    let artifact = built::synthetic(&Recipe::cifar(), ride_targets::host(), 16);
    let model = parse(&artifact);
    let team = &teams([3])[0];
    let classify = |session: &mut Session<'_, '_>, seed| {
        Answer::from(session.classify(&picture(model, seed), Policy::Routed).expect("a valid image"))
    };
    let mut arena = Arena::new(model, 0);
    let mut session = Session::new(model, arena.lend()).expect("a session");
    let want: Vec<Answer> = (0..16).map(|seed| classify(&mut session, seed)).collect();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut arena = Arena::new(model, 1);
                let mut session = Session::new(model, arena.lend()).expect("a session").with_team(team);
                for (seed, want) in (0..).zip(&want) {
                    assert_eq!(classify(&mut session, seed), *want, "picture {seed}");
                }
            });
        }
    });
}

#[test]
fn a_batch_gives_the_answers_of_single_images_in_order() {
    let artifact = built::synthetic(&Recipe::cifar(), ride_targets::host(), 16);
    let model = parse(&artifact);
    let images: Vec<Vec<u8>> = (0..33).map(|seed| picture(model, seed)).collect();
    let mut arena = Arena::new(model, 0);
    let mut session = Session::new(model, arena.lend()).expect("a session");
    let mut routes = [0; 8];
    for policy in [Policy::Routed, Policy::All] {
        let want: Vec<Answer> =
            images.iter().map(|i| Answer::from(session.classify(i, policy).expect("a valid image"))).collect();
        want.iter().for_each(|a| routes[a.experts] += 1);
        for threads in [0, 1, 2, 5, 50] {
            let got = Batch::new(model, threads).classify(&images, policy).expect("valid images");
            assert_eq!(got.len(), want.len());
            for (got, want) in got.iter().zip(&want) {
                let bits: Vec<u32> = got.logits.iter().map(|l| l.to_bits()).collect();
                assert_eq!((got.class, got.experts, bits), (want.class, want.experts, want.logits.clone()));
            }
        }
    }
    assert!(routes.iter().filter(|&&n| n > 0).count() > 1, "all images take the same route: {routes:?}");
}

#[test]
fn a_batch_fails_with_its_first_bad_image() {
    let artifact = built::synthetic(&Recipe::cifar(), ride_targets::host(), 16);
    let model = parse(&artifact);
    let mut images: Vec<Vec<u8>> = (0..20).map(|seed| picture(model, seed)).collect();
    images[7].pop();
    images[13].clear();
    let needed = model.input_len();
    for threads in [1, 4] {
        let batch = Batch::new(model, threads);
        let want = Err(Error::InputLength { needed, found: needed - 1 });
        assert_eq!(batch.classify(&images, Policy::All), want);
        assert_eq!(batch.classify(&images[..0], Policy::All), Ok(Vec::new()));
        assert_eq!(
            batch.classify(&images[..7], Policy::Exactly(9)).map(|a| a.len()),
            Err(Error::Experts { requested: 9, available: model.experts() })
        );
        // The state belongs to a thread, and places come in order.
        let places = batch.run(
            50,
            || 0,
            |_, seen, place| {
                *seen += 1;
                Ok::<_, Error>((*seen, place))
            },
        );
        let places = places.expect("nothing fails");
        assert!(places.iter().enumerate().all(|(n, &(seen, place))| n == place && (1..=50).contains(&seen)));
        let firsts = places.iter().filter(|p| p.0 == 1).count();
        assert!((1..=threads).contains(&firsts), "{firsts} threads");
    }
    let other = ride_runtime::kernels::BACKENDS.iter().find(|b| b.layout != model.layout()).expect("another layout");
    let refused = Batch::new(model, 2).with_backend(other).classify(&images[..7], Policy::All);
    assert!(matches!(refused, Err(Error::NoKernel { .. })), "{refused:?}");
}
