//! `bench`.

use crate::support::{fails, json, lab, succeeds, text};

#[test]
fn bench_measures_every_number_of_experts() {
    let lab = lab();
    let report =
        json(&["bench", text(&lab.artifact), "--seconds", "0.2", "--data", text(&lab.npz), "--profile", "--json"]);
    assert_eq!(report["threads"], 1);
    assert!(report["open_ms"].as_f64().unwrap() > 0.0);
    let shared = json(&["bench", text(&lab.artifact), "--seconds", "0.05", "--threads", "2", "--json"]);
    assert_eq!(shared["threads"], 2);
    assert!(!report["kernel"].as_str().unwrap().is_empty());
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 3);
    for (n, row) in rows.iter().enumerate() {
        assert_eq!(row["experts"], n + 1);
        let us = |key: &str| row[key].as_f64().unwrap();
        assert!(0.0 < us("min_us") && us("min_us") <= us("median_us") && us("median_us") <= us("p99_us"), "{row}");
        assert!(row["macs"].as_u64().unwrap() > 40_000_000);
    }
    let routed = &report["routed"];
    assert!((1.0..=3.0).contains(&routed["expected_experts"].as_f64().unwrap()), "{routed}");
    assert!(routed["mean_us"].as_f64().unwrap() > 0.0 && routed["overhead_percent"].is_number(), "{routed}");
    let profile = report["profile"].as_array().unwrap();
    let share: f64 = profile.iter().map(|op| op["share_percent"].as_f64().unwrap()).sum();
    assert!((share - 100.0).abs() < 1e-6);
    assert_eq!(profile.iter().filter(|op| op["kind"] == "router").count(), 2);

    let one =
        json(&["bench", text(&lab.artifact), "--seconds", "0.1", "--experts", "1", "--kernel", "scalar", "--json"]);
    assert!(one["rows"].as_array().unwrap().len() == 1 && one["routed"].is_null(), "{one}");
    assert_eq!((&one["isa"], &one["images"]), (&"scalar".into(), &"synthetic".into()));
    assert!(succeeds(&["bench", text(&lab.artifact), "--seconds", "0.1"]).contains("routed: "));
    for (option, value, part) in
        [("--experts", "9", "9 experts"), ("--kernel", "abacus", "scalar"), ("--seconds", "-1", "--seconds")]
    {
        let error = fails(&["bench", text(&lab.artifact), &format!("{option}={value}")], 1);
        assert!(error.contains(part), "{error}");
    }
}
