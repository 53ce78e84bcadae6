//! What the board says about itself.

use std::fs;
use std::process::Command;

/// The board's name from the device tree, or the architecture.
pub(crate) fn name() -> String {
    let model = fs::read("/proc/device-tree/model").ok();
    let text = model.map(|bytes| String::from_utf8_lossy(&bytes).trim_end_matches('\0').trim().to_owned());
    text.filter(|name| !name.is_empty()).unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// The power mode, as `nvpmodel` names it; `None` where there is no such tool or it does not answer.
pub(crate) fn power_mode() -> Option<String> {
    let output = Command::new("nvpmodel").arg("-q").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().find_map(|line| Some(line.split_once("Power Mode:")?.1.trim().to_owned()))
}

/// The GPU's clock at this moment in Hz, where the kernel shows it.
pub(crate) fn gpu_clock() -> Option<u64> {
    let folders = fs::read_dir("/sys/class/devfreq").ok()?;
    let gpu = |name: &str| ["gpu", "gv11b", "gp10b", "gm20b", "ga10b"].iter().any(|part| name.contains(part));
    let folder = folders.flatten().find(|entry| gpu(&entry.file_name().to_string_lossy()))?;
    fs::read_to_string(folder.path().join("cur_freq")).ok()?.trim().parse().ok()
}
