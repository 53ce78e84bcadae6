//! What the board says about itself.

use std::fs;
use std::process::Command;

use ride_cuda::{Device, Path};

/// The board's name from the device tree, or the architecture.
fn name() -> String {
    let model = fs::read("/proc/device-tree/model").ok();
    let text = model.map(|bytes| String::from_utf8_lossy(&bytes).trim_end_matches('\0').trim().to_owned());
    text.filter(|name| !name.is_empty()).unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// The release of Jetson Linux, which says what JetPack it is; `None` on other machines.
fn release() -> Option<String> {
    let text = fs::read_to_string("/etc/nv_tegra_release").ok()?;
    text.lines().next().map(|line| line.trim_start_matches('#').trim().to_owned())
}

/// The power mode, as `nvpmodel` names it; `None` where there is no such tool or it does not answer.
fn power_mode() -> Option<String> {
    let output = Command::new("nvpmodel").arg("-q").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().find_map(|line| Some(line.split_once("Power Mode:")?.1.trim().to_owned()))
}

/// The GPU's clock at this moment in Hz, where the kernel shows it.
fn gpu_clock() -> Option<u64> {
    let folders = fs::read_dir("/sys/class/devfreq").ok()?;
    let gpu = |name: &str| ["gpu", "gv11b", "gp10b", "gm20b", "ga10b"].iter().any(|part| name.contains(part));
    let folder = folders.flatten().find(|entry| gpu(&entry.file_name().to_string_lossy()))?;
    fs::read_to_string(folder.path().join("cur_freq")).ok()?.trim().parse().ok()
}

fn quoted(text: &str) -> String {
    let plain = text.chars().map(|c| if c.is_control() || c == '"' || c == '\\' { ' ' } else { c });
    format!("\"{}\"", plain.collect::<String>())
}

fn or_null<T: ToString>(value: Option<T>) -> String {
    value.map_or("null".to_owned(), |v| v.to_string())
}

/// Fields of a JSON object: the board and its GPU at this moment.
pub(crate) fn fields(device: &Device) -> String {
    let facts = device.facts();
    let (major, minor) = facts.capability;
    let path = Path::best(facts.capability).map(|p| quoted(p.name()));
    [
        ("board", quoted(&name())),
        ("release", or_null(release().map(|r| quoted(&r)))),
        ("gpu", quoted(&facts.name)),
        ("compute_capability", format!("\"{major}.{minor}\"")),
        ("multiprocessors", facts.multiprocessors.to_string()),
        ("integrated", facts.integrated.to_string()),
        ("cuda_driver", facts.driver.to_string()),
        ("power_mode", or_null(power_mode().map(|m| quoted(&m)))),
        ("gpu_clock_hz", or_null(gpu_clock())),
        ("gpu_clock_max_khz", facts.clock_khz.to_string()),
        ("path", or_null(path)),
    ]
    .map(|(key, value)| format!("  \"{key}\": {value}"))
    .join(",\n")
}

/// Writes them as JSON.
pub(crate) fn run(device: &Device) {
    println!("{{\n{}\n}}", fields(device));
}
