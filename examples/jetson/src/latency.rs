//! Time against the number of experts.

use std::time::Instant;

use ride_cuda::{Device, Executor, Options, Session};
use ride_runtime::{Model, Policy, golden};

use crate::board;

/// Median and 99th percentile of a policy in microseconds, copy of the image and waiting for the answer included.
fn measure(session: &mut Session<'_>, pixels: &[u8], policy: Policy, count: usize) -> Result<(f64, f64), String> {
    // The first runs warm clocks and caches up.
    let warm_up = count.min(10);
    let mut times = Vec::with_capacity(count);
    for n in 0..count + warm_up {
        let start = Instant::now();
        session.classify(pixels, policy).map_err(|e| e.to_string())?;
        if n >= warm_up {
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
    }
    times.sort_by(f64::total_cmp);
    Ok((times[count / 2], times[(count * 99 / 100).min(count - 1)]))
}

/// What an expert that does not run costs, in percent of one that does: stopping behind the first expert, router included,
/// against the first expert alone, shared among those that are skipped. `None` where nothing can be skipped.
fn skipped_percent(
    session: &mut Session<'_>,
    pixels: &[u8],
    count: usize,
    by_experts: &[f64],
) -> Result<Option<f64>, String> {
    let &[one, two, ..] = by_experts else { return Ok(None) };
    if !session.model().routed() {
        return Ok(None);
    }
    for threshold in [f32::INFINITY, f32::NEG_INFINITY] {
        let policy = Policy::Threshold(threshold);
        if session.classify(pixels, policy).map_err(|e| e.to_string())?.experts == 1 {
            let (stopped, _) = measure(session, pixels, policy, count)?;
            let skipped = (session.model().experts() - 1) as f64;
            return Ok(Some(100.0 * (stopped - one) / skipped / (two - one)));
        }
    }
    Ok(None)
}

/// Writes one JSON object: the board, then a row for each executor and number of experts.
pub(crate) fn run(model: Model<'_>, device: &Device, count: usize) -> Result<(), String> {
    let (_, width, channels) = model.input();
    let mut pixels = vec![0; model.input_len()];
    golden::image(1, (width, channels), &mut pixels);
    let mut rows = Vec::new();
    let mut skipped = None;
    for (name, executor) in [("persistent", Executor::Persistent), ("op-by-op", Executor::OpByOp)] {
        let options = Options { executor, ..Options::default() };
        let mut session = Session::with_options(model, device, options).map_err(|e| e.to_string())?;
        let mut by_experts = Vec::new();
        let exactly = (1..=model.experts()).map(|n| (n.to_string(), Policy::Exactly(n)));
        for (experts, policy) in exactly.chain([("routed".to_owned(), Policy::Routed)]) {
            let (median, p99) = measure(&mut session, &pixels, policy, count)?;
            if executor == Executor::Persistent {
                by_experts.push(median);
            }
            rows.push(format!(
                "    {{\"executor\": \"{name}\", \"experts\": \"{experts}\", \"median_us\": {median:.1}, \"p99_us\": {p99:.1}}}"
            ));
        }
        if executor == Executor::Persistent {
            skipped = skipped_percent(&mut session, &pixels, count, &by_experts)?;
        }
    }
    // JSON has no infinity, and few runs on a busy machine may show no difference to divide by.
    let skipped = skipped.filter(|p: &f64| p.is_finite()).map_or("null".to_owned(), |p| format!("{p:.2}"));
    println!("{{\n{},", board::fields(device));
    println!("  \"skipped_expert_percent\": {skipped},\n  \"runs\": {count},");
    println!("  \"rows\": [\n{}\n  ]\n}}", rows.join(",\n"));
    Ok(())
}
