//! `inspect`.

use crate::support::{json, lab, model, succeeds, text};

#[test]
fn inspect_shows_artifacts_and_checkpoints() {
    let lab = lab();
    let report = json(&["inspect", text(&lab.artifact), "--json"]);
    assert_eq!(report["kind"], "artifact");
    let parts = report["parts"].as_array().unwrap();
    assert_eq!(
        parts.iter().map(|p| p["name"].as_str().unwrap()).collect::<Vec<_>>(),
        ["stem", "expert0", "expert1", "expert2"]
    );
    let arena = report["arena_bytes"].as_u64().unwrap();
    let mut macs = 0;
    for op in parts.iter().flat_map(|p| p["ops"].as_array().unwrap()) {
        let places = ["reads", "writes"].map(|key| op[key].as_array().unwrap().clone()).concat();
        assert!(places.iter().all(|p| p[0].as_u64().unwrap() + p[1].as_u64().unwrap() <= arena), "{op}");
        assert!(op["scale"].as_f64().unwrap() > 0.0, "{op}");
        macs += op["macs"].as_u64().unwrap();
    }
    assert_eq!(report["macs"][2], macs);
    assert_eq!(report["kernels"].as_array().unwrap().iter().filter(|k| k["chosen"] == true).count(), 1);
    let end =
        report["sections"].as_array().unwrap().iter().map(|s| s["at"].as_u64().unwrap() + s["bytes"].as_u64().unwrap());
    assert_eq!(end.max(), report["bytes"].as_u64());
    let shown = succeeds(&["inspect", text(&lab.artifact)]);
    for part in ["liveness", "expert2.head", "router1", "sections", "chosen"] {
        assert!(shown.contains(part), "{shown}");
    }

    let model = model();
    let float = json(&["inspect", text(&model), "--json"]);
    assert_eq!((&float["kind"], &float["arch"]), (&"checkpoint".into(), &"ResNet32EAModel".into()));
    assert_eq!(float["macs"], report["macs"]);
    assert_eq!(float["fingerprint"], report["fingerprint"]);
    let file = model.join("checkpoint.pth");
    assert_eq!(succeeds(&["inspect", text(&file)]), succeeds(&["inspect", text(&model)]).replace("//", "/"));
}
