//! Descriptions and rules that do not fit a checkpoint.

use std::fs;

use ride_compiler::checkpoint::Embedded;
use ride_compiler::description::{
    AdjustmentTable, CombinerKind, CombinerTable, RouterKind, RouterTable, Rules, Values,
};
use ride_compiler::import::{ImportOptions, Imported};
use ride_compiler::network::Routing;
use ride_compiler::source::Source;

use crate::material::{error, relative, root};

/// The trained model of the repository, which has routers of its own, with these rules.
fn trained(rules: Rules) -> anyhow::Result<Imported> {
    let source = Source::open(&root().join("examples/models/ride-resnet32-cifar100lt"), Embedded::Ignore)?;
    let mut imported = source.import(&ImportOptions { rules, ..ImportOptions::default() })?;
    imported.apply_rules(&[100; 100])?;
    Ok(imported)
}

#[test]
fn trained_routers_see_what_they_were_trained_on() {
    let sum = CombinerTable { kind: CombinerKind::Sum, weights: None };
    let adjustment = AdjustmentTable { tau: Values::One(1.0), counts: None };
    let router = |criterion, threshold| Some(RouterTable { criterion, threshold });
    for rules in [
        Rules { combiner: Some(sum.clone()), ..Rules::default() },
        Rules { adjustment: Some(adjustment.clone()), ..Rules::default() },
        Rules {
            combiner: Some(sum.clone()),
            router: router(Some(RouterKind::Assignment), Some(Values::One(0.5))),
            ..Rules::default()
        },
    ] {
        let error = format!("{:#}", trained(rules).expect_err("trained routers"));
        assert!(error.contains("trained routers") && error.contains("[router] criterion"), "{error}");
    }
    // Others can take their place, and their thresholds can move.
    let replaced = Rules {
        combiner: Some(sum),
        adjustment: Some(adjustment),
        router: router(Some(RouterKind::Margin), Some(Values::One(2.0))),
        file: None,
    };
    assert!(matches!(trained(replaced).unwrap().network.routing, Routing::Confidence(rules) if rules.len() == 2));
    let moved = Rules { router: router(None, Some(Values::Each(vec![0.25, -1.0]))), ..Rules::default() };
    let Routing::Assignment(routers) = trained(moved).unwrap().network.routing else { panic!("no trained routers") };
    assert_eq!(routers.iter().map(|router| router.threshold).collect::<Vec<_>>(), [0.25, -1.0]);
    let none = Rules { router: router(Some(RouterKind::None), None), ..Rules::default() };
    assert_eq!(trained(none).unwrap().network.routing, Routing::None);
}

#[test]
fn descriptions_that_do_not_fit_are_named() {
    let folder = relative("sade");
    let path = folder.path();
    for (text, parts) in [
        ("[combiner]\nkind = 'weighted'", &["[combiner] weights", "missing", "3"][..]),
        ("[combiner]\nkind = 'weighted'\nweights = [1, 2]", &["[combiner] weights", "2 numbers", "3 experts"]),
        ("[combiner]\nkind = 'weighted'\nweights = [1, 0, 2]", &["[combiner] weights", "positive"]),
        ("[combiner]\nkind = 'weighted'\nweights = [1, nan, 2]", &["[combiner] weights", "positive"]),
        ("[combiner]\nkind = 'weighted'\nweights = [1e38, 3e38, 3e38]", &["[combiner] weights", "range of f32"]),
        ("[combiner]\nkind = 'mean'\nweights = [1, 1, 2]", &["[combiner] weights", "weighted"]),
        ("[combiner]\nkind = 'median'", &["median", "mean"]),
        ("[combiner]\nweight = [1]", &["weight"]),
        ("[router]\ncriterion = 'margin'", &["[router] threshold", "missing", "margin"]),
        ("[router]\nthreshold = 0.5", &["[router] threshold", "no routers", "\"entropy\""]),
        ("[router]\ncriterion = 'assignment'", &["[router] criterion", "no trained routers"]),
        ("[router]\ncriterion = 'none'\nthreshold = 1", &["[router] threshold", "no use"]),
        ("[router]\ncriterion = 'max-probability'\nthreshold = 1.5", &["[router] threshold is 1.5", "from 0 to 1"]),
        ("[router]\ncriterion = 'max-probability'\nthreshold = nan", &["[router] threshold is NaN"]),
        ("[router]\ncriterion = 'margin'\nthreshold = -1", &["[router] threshold is -1"]),
        ("[router]\ncriterion = 'entropy'\nthreshold = 2.5", &["[router] threshold is 2.5", "2.3025851"]),
        ("[router]\ncriterion = 'entropy'\nthreshold = [1, 1, 1]", &["3 numbers", "2 routers"]),
        ("[router]\ncriterion = 'doubt'", &["doubt", "entropy"]),
        ("[logit_adjustment]\ntau = 1", &["[logit_adjustment]", "not known", "--class-counts"]),
        ("[logit_adjustment]\ntau = [1, 2]\ncounts = [1]", &["[logit_adjustment] tau", "2 numbers"]),
        ("[logit_adjustment]\ntau = inf\ncounts = [1]", &["[logit_adjustment] tau", "finite"]),
        ("[logit_adjustment]\ntau = 1\ncounts = [1, 2]", &["[logit_adjustment] counts", "2 numbers", "10 classes"]),
        (
            "[logit_adjustment]\ntau = 1\ncounts = [1, 2, 3, 4, 5, 6, 0, 8, 9, 10]",
            &["[logit_adjustment] counts", "class 6"],
        ),
        ("[logit_adjustment]\ntau = 1\ncounts = 'no.txt'", &["[logit_adjustment] counts", "no.txt"]),
        ("[model]\narch = 'ResNet33Model'", &["[model]", "ResNet33Model", "ResNet32Model"]),
        ("[model]\nargs = { num_experts = 4 }", &["[model]", "num_experts is 4", "3"]),
        ("[model]\nargs = { num_classes = 'ten' }", &["[model]", "num_classes", "ten"]),
        ("[model]\nseparate = true", &["conv1s.0.weight", "missing"]),
        ("[model]\nclassifier = { kind = 'cosine' }", &["[model.classifier] scale", "missing"]),
        ("[model]\nclassifier = { kind = 'cosine', scale = 0 }", &["[model.classifier] scale is 0"]),
        ("[model]\nclassifier = { kind = 'linear', scale = 3 }", &["[model.classifier] scale", "leave it out"]),
        ("[model]\nclassifier = { kind = 'reslt', gamma = 0.5 }", &["ResLTBlocks.0.0.weight", "missing"]),
        (
            "[model]\nrename = [{ from = 'backbone.{a', to = 'b' }]",
            &["ride.toml", "[model] rename, rule 1", "without }"],
        ),
        (
            "[model]\nrename = [{ from = 'backbone.linears.{e}', to = 'linears.0' }]",
            &["linears.0.weight", "rename", "linears.1.weight"],
        ),
    ] {
        fs::write(path.join("ride.toml"), text).unwrap();
        let error = error(path);
        for part in parts.iter().chain(&["ride.toml"]) {
            assert!(error.contains(part), "{text}: {part:?} is not in: {error}");
        }
    }
    // A rule that fits nothing is worth a note.
    fs::write(path.join("ride.toml"), "[model]\nrename = [{ from = 'nothing', to = 'x' }]").unwrap();
    let source = Source::open(path, Embedded::Ignore).unwrap();
    assert!(source.notes().iter().any(|note| note.contains("\"nothing\"")), "{:?}", source.notes());
    // Without config.json, the way out includes [model].
    fs::remove_file(path.join("config.json")).unwrap();
    let error = error(path);
    assert!(error.contains("config.json") && error.contains("[model]"), "{error}");
}
