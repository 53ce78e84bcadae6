//! `run`, and artifacts that are none.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::support::{fails, json, lab, model, picture, png, run, succeeds, text};

#[test]
fn run_classifies_as_the_policies_say() {
    let (lab, folder) = (lab(), TempDir::new().unwrap());
    let files: Vec<PathBuf> = (0..3).map(|i| folder.path().join(format!("{i}.png"))).collect();
    for (i, file) in files.iter().enumerate() {
        fs::write(file, png(32, 32, &picture(i as u32))).unwrap();
    }
    let answers = |more: &[&str]| {
        let mut args = vec!["run", text(&lab.artifact), "--json"];
        args.extend(files.iter().map(|f| text(f)));
        args.extend(more);
        json(&args).as_array().unwrap().clone()
    };
    let routed = answers(&[]);
    assert_eq!(routed.len(), 3);
    for answer in &routed {
        let top = answer["top"].as_array().unwrap();
        assert_eq!((top.len(), &top[0]["class"]), (5, &answer["class"]), "{answer}");
        assert!(top.windows(2).all(|w| w[0]["logit"].as_f64() >= w[1]["logit"].as_f64()), "{answer}");
        let class = usize::try_from(answer["class"].as_u64().unwrap()).unwrap();
        let group = ["many_shot", "medium_shot", "few_shot"][class % 3];
        assert_eq!(answer["group"], group);
    }
    for (n, policy) in [(1, "1"), (2, "2"), (3, "all")] {
        assert!(answers(&["--policy", policy, "--top", "2"]).iter().all(|a| a["experts"] == n));
    }
    assert!(answers(&["--threshold", "-1e30"]).iter().all(|a| a["experts"] == 3));
    assert!(answers(&["--threshold", "1e30"]).iter().all(|a| a["experts"] == 1));
    // A resized image is another one, but it is classified.
    let large = folder.path().join("large.png");
    fs::write(&large, png(50, 40, &vec![99; 50 * 40 * 3])).unwrap();
    assert!(succeeds(&["run", text(&lab.artifact), text(&large), "--resize", "32"]).contains("expert"));

    for (policy, part) in [("4", "4 experts"), ("0", "0 experts"), ("some", "`routed`")] {
        let error = fails(&["run", text(&lab.artifact), text(&files[0]), "--policy", policy], 1);
        assert!(error.contains(part), "{error}");
    }
    fails(&["run", text(&lab.artifact), text(&files[0]), "--policy", "all", "--threshold", "1"], 1);
    let alone = json(&["run", text(&lab.artifact), text(&files[0]), "--json"]);
    assert_eq!(json(&["run", text(&lab.artifact), text(&files[0]), "--json", "--threads", "3"]), alone);
    for verb in ["run", "bench"] {
        let images: &[&str] = if verb == "run" { &[text(&files[0])] } else { &[] };
        for threads in ["0", "257"] {
            let error = fails(&[&[verb, text(&lab.artifact), "--threads", threads], images].concat(), 1);
            assert!(error.contains("1 to 256 threads"), "{error}");
        }
    }
}

#[test]
fn bad_images_and_artifacts_are_named() {
    let (lab, folder) = (lab(), TempDir::new().unwrap());
    let at = |name: &str| folder.path().join(name);
    let good = png(32, 32, &picture(1));
    fs::write(at("good.png"), &good).unwrap();
    fs::write(at("cut.png"), &good[..good.len() / 2]).unwrap();
    fs::write(at("text.jpg"), "no picture").unwrap();
    fs::write(at("large.png"), png(64, 48, &vec![7; 64 * 48 * 3])).unwrap();
    for (name, parts) in [
        ("cut.png", &["cut.png"][..]),
        ("text.jpg", &["text.jpg", "PNG"]),
        ("absent.png", &["absent.png"]),
        ("large.png", &["large.png", "48 x 64", "32 x 32", "--resize"]),
    ] {
        let args = ["run", text(&lab.artifact), text(&at("good.png")), text(&at(name))].map(str::to_owned);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let error = fails(&args, 1);
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        let answered = String::from_utf8(run(&args).stdout).unwrap();
        assert!(answered.contains("good.png: "), "{answered}");
    }

    let whole = fs::read(&lab.artifact).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    let damaged: [(&str, Vec<u8>, &str); 5] = [
        ("cut.ride", whole[..whole.len() - 1].to_vec(), "truncated"),
        ("flipped.ride", flipped, "checksum"),
        ("longer.ride", [&whole[..], &[0; 64]].concat(), "64 bytes follow"),
        ("empty.ride", Vec::new(), "empty"),
        ("zip.ride", b"PK\x03\x04 nothing".to_vec(), "not an artifact"),
    ];
    let model = model();
    for (name, bytes, part) in damaged {
        let path = at(name);
        fs::write(&path, bytes).unwrap();
        for args in [
            vec!["run", text(&path), text(&lab.npz)],
            vec!["bench", text(&path)],
            vec!["verify", text(&path), "--model", text(&model), "--data", text(&lab.npz)],
        ] {
            let error = fails(&args, 1);
            assert!(error.contains(name) && error.contains(part), "{error}");
        }
        // `inspect` takes what is no artifact at all for a checkpoint.
        fails(&["inspect", text(&path)], 1);
    }
    fails(&["run", text(&at("absent.ride")), text(&at("good.png"))], 1);
    fails(&["run", text(folder.path()), text(&at("good.png"))], 1);
}
