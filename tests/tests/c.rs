//! C and C++ programs that link the static library say the same as Rust, bit for bit, and whatever they do wrong gives a
//! status.
//!
//! Skipped with a message where there is no C compiler. With `RIDE_C_RUNNER="valgrind --error-exitcode=3"` the programs run
//! under that.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs};

use ride_calibrate::groups::Group;
use ride_compiler::memory::AlignedBytes;
use ride_runtime::exec::{Output, Probe};
use ride_runtime::op::{Criterion, Step};
use ride_runtime::{Model, Outcome, PartId, Policy, Session, confidence, golden, kernels};
use ride_tests::built;
use ride_tests::exercise::picture;
use ride_tests::synthetic::Recipe;

/// Compilers, with flags and the language that they take the programs for.
const COMPILERS: [(&str, &[&str]); 2] =
    [("cc", &["-x", "c", "-std=c99"]), ("c++", &["-x", "c++", "-std=c++11", "-Wno-missing-field-initializers"])];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("c")
}

/// The static library, built as a user would.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let target = folder().join("library");
        let run = Command::new(env!("CARGO"))
            .args(["build", "--locked", "--quiet", "-p", "ride-capi", "--features", "std", "--target-dir"])
            .arg(&target)
            .current_dir(built::repository())
            .status();
        assert!(run.expect("cargo runs").success(), "the static library cannot be built");
        target.join("debug/libride_capi.a")
    })
}

/// Compiles `program` of `tests/c` with each compiler that there is.
fn compile(program: &str) -> Vec<PathBuf> {
    fs::create_dir_all(folder()).expect("a folder for programs");
    let mut built = Vec::new();
    for (compiler, language) in COMPILERS {
        if Command::new(compiler).arg("--version").output().is_err() {
            println!("{program}: skipped for {compiler}, which is not installed");
            continue;
        }
        let out = folder().join(format!("{program}-{compiler}"));
        let run = Command::new(compiler)
            .args(["-g", "-O1", "-Wall", "-Wextra", "-Werror", "-pedantic"])
            .args(language)
            .arg("-I")
            .arg(built::repository().join("runtime/capi/include"))
            .arg(built::repository().join("tests/c").join(program).with_extension("c"))
            // What follows is no longer source.
            .args(["-x", "none"])
            .arg(library())
            .args(["-lpthread", "-ldl", "-lm", "-o"])
            .arg(&out)
            .output()
            .expect("the compiler runs");
        assert!(run.status.success(), "{compiler}: {}", String::from_utf8_lossy(&run.stderr));
        built.push(out);
    }
    built
}

/// What a program writes to standard output.
fn output(program: &Path, arguments: &[&Path]) -> String {
    let runner = env::var("RIDE_C_RUNNER").unwrap_or_default();
    let mut words = runner.split_whitespace();
    let mut command = words.next().map_or_else(|| Command::new(program), Command::new);
    if !runner.is_empty() {
        command.args(words).arg(program);
    }
    let run = command.args(arguments).output().expect("the program runs");
    let text = String::from_utf8_lossy(&run.stdout).into_owned();
    assert!(
        run.status.success(),
        "{}: {}\n{text}\n{}",
        program.display(),
        run.status,
        String::from_utf8_lossy(&run.stderr)
    );
    text
}

fn store(name: &str, bytes: &[u8]) -> PathBuf {
    fs::create_dir_all(folder()).expect("a folder");
    let path = folder().join(name);
    fs::write(&path, bytes).expect("a file");
    path
}

fn say_outcome(out: &mut String, what: &str, outcome: Outcome<'_>) {
    let bits: Vec<[u8; 4]> = outcome.logits.iter().map(|l| l.to_le_bytes()).collect();
    let confidence = confidence::score(Criterion::MaxProbability, &bits).to_bits();
    // Writing to strings cannot fail, here and below.
    let _ =
        write!(out, "{what}: class {} experts {} confidence {confidence:08x} logits", outcome.class, outcome.experts);
    for logit in outcome.logits {
        let _ = write!(out, " {:08x}", logit.to_bits());
    }
    out.push('\n');
}

fn say_model(out: &mut String, model: Model<'_>) {
    let (h, w, c) = model.input();
    let _ = writeln!(
        out,
        "image {h}x{w}x{c} {} arena {} artifact {} classes {} experts {} routed {} bits {} golden {} checksum {:08x}",
        model.input_len(),
        model.arena_len(),
        model.bytes().len(),
        model.classes(),
        model.experts(),
        u8::from(model.routed()),
        model.residual_bits(),
        golden::vectors(&model).count(),
        model.checksum()
    );
    let _ = writeln!(out, "{} {} {} {}", model.fingerprint(), model.target(), model.arch(), model.layout().name());
    for class in 0..model.classes() {
        let count = model.train_count(class);
        let group = match Group::of_count(count) {
            _ if count == 0 => 0,
            Group::ManyShot => 1,
            Group::MediumShot => 2,
            Group::FewShot => 3,
        };
        let _ = writeln!(out, "class {class} {} {count} {group}", model.class_name(class));
    }
    for experts in 0..=model.experts() {
        let steps = model.parts().take(1 + experts).flat_map(|part| part.steps());
        let _ = writeln!(out, "macs {experts} {}", steps.map(|s| s.op.macs()).sum::<u64>());
    }
}

fn say_policies(out: &mut String, session: &mut Session<'_, '_>, image: &[u8]) {
    let model = session.model();
    let mut policies = vec![("routed", Policy::Routed), ("all", Policy::All)];
    policies.extend((1..=model.experts()).map(|n| ("exactly", Policy::Exactly(n))));
    policies.extend(model.routed().then_some(("threshold", Policy::Threshold(0.25))));
    for (what, policy) in policies {
        say_outcome(out, what, session.classify(image, policy).expect("a sensible policy"));
    }
}

fn say_steps(out: &mut String, session: &mut Session<'_, '_>, image: &[u8]) {
    session.start(image).expect("an image");
    for _ in 0..session.model().experts() {
        let p = session.step().expect("another expert");
        let score = p.score.unwrap_or(0.0);
        let bits = if score.is_nan() { 0x7fc0_0000 } else { score.to_bits() };
        let _ = writeln!(
            out,
            "step {} proceed {} scored {} score {bits:08x}",
            p.experts,
            u8::from(p.proceed),
            u8::from(p.score.is_some())
        );
        say_outcome(out, "so far", session.outcome().expect("an expert has run"));
    }
}

/// Says what the C program's callback does, whose clock advances by one at each look.
struct Events<'m> {
    out: String,
    model: Model<'m>,
    looks: u64,
}

impl Probe for Events<'_> {
    fn after(&mut self, part: PartId, index: usize, step: &Step, _: Output<'_>) {
        let (kind, i) = match part {
            PartId::Stem => (0, 0),
            PartId::Expert(i) => (1, i),
            PartId::Router(i) => (2, i),
        };
        self.looks += 2;
        let (name, op, macs) = (self.model.name(step), step.op.kind(), step.op.macs());
        let _ = writeln!(self.out, "op {kind} {i} {index} {name} {op} macs {macs} counts 1 proceed 0");
    }

    fn routed(&mut self, router: usize, _: f32, proceed: bool) {
        self.looks += 2;
        let _ = writeln!(self.out, "op 2 {router} 0 router router macs 0 counts 1 proceed {}", u8::from(proceed));
    }
}

/// What the C program must print.
fn expected(model: Model<'_>, images: &[Vec<u8>]) -> String {
    let mut arena = AlignedBytes::zeroed(model.arena_len());
    let mut session = Session::new(model, &mut arena).expect("a session");
    let backend = kernels::best(model.layout()).expect("a kernel");
    let mut out = format!("abi 1 kernel {} isa {}\n", backend.conv.name, backend.isa.name());
    say_model(&mut out, model);
    for image in images {
        say_policies(&mut out, &mut session, image);
        say_steps(&mut out, &mut session, image);
        let mut events = Events { out: String::new(), model, looks: 0 };
        let outcome = session.classify_probed(image, Policy::Routed, &mut events).expect("an image");
        out += &events.out;
        say_outcome(&mut out, "profiled", outcome);
        let _ = writeln!(out, "clock {}", 41 + events.looks);
    }
    let _ = writeln!(out, "self-test {}", session.self_test(&mut picture(model, 0)).expect("golden vectors match"));
    out
}

fn same_in_c(programs: &[PathBuf], name: &str, artifact: &[u8]) {
    let model = Model::parse(artifact).expect("an artifact");
    let images: Vec<Vec<u8>> = (20..23).map(|seed| picture(model, seed)).collect();
    let want = expected(model, &images);
    let files = (store(&format!("{name}.ride"), artifact), store(&format!("{name}.images"), &images.concat()));
    for program in programs {
        let got = output(program, &[&files.0, &files.1]);
        for (number, (got, want)) in got.lines().zip(want.lines()).enumerate() {
            assert_eq!(got, want, "{name}: line {} of {}", number + 1, program.display());
        }
        assert_eq!(got.lines().count(), want.lines().count(), "{name}");
    }
}

#[test]
fn programs_say_what_rust_says() {
    let programs = compile("answers");
    for (n, (name, recipe)) in Recipe::all().into_iter().enumerate() {
        // Widths of the residual stream in turn.
        same_in_c(&programs, name, &built::synthetic(&recipe, "x86-64", [16, 8][n % 2]));
    }
    same_in_c(&programs, "portable", &built::tiny("portable"));
    same_in_c(&programs, "real", built::real_artifact("x86-64", 16));
}

#[test]
fn mistakes_give_a_status() {
    let artifact = store("hostile.ride", &built::tiny("portable"));
    for program in compile("hostile") {
        assert_eq!(output(&program, &[&artifact]).trim(), "0 failures");
    }
}
