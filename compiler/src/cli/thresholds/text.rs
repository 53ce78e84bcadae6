//! Reports for people, and tables for programs.

use std::fmt::Write as _;

use ride_compiler::thresholds::{Ordered, Point};

use super::Summary;
use crate::cli::table::{Table, number};

/// Rows of the front that are shown; --json and --csv have all.
const ROWS: usize = 16;
/// Orders that are shown.
const ORDERS: usize = 8;

/// A threshold for people: the ends of the scale of numbers have names.
fn shown(threshold: f32) -> String {
    match threshold {
        f32::MAX => "max".to_owned(),
        t if t == -f32::MAX => "-max".to_owned(),
        t => format!("{t}"),
    }
}

pub(super) fn list(thresholds: &[f32]) -> String {
    thresholds.iter().map(|&t| shown(t)).collect::<Vec<_>>().join(",")
}

/// The report.
pub(super) fn text(s: &Summary<'_>) -> String {
    let mut out = format!("{} images of {}; routers: {}\n", s.images, s.data, s.criteria.join(", "));
    let timed = s.front.iter().any(|point| point.latency_ms.is_some());
    let mut titles = vec!["", "experts", "top-1 %", "many", "medium", "few", "class mean"];
    titles.extend(timed.then_some("ms"));
    titles.push("thresholds");
    let mut table = Table::new(&titles);
    for (n, point) in s.fixed.iter().enumerate() {
        let plural = if n == 0 { "expert" } else { "experts" };
        table.row_of(cells(&format!("always {} {plural}", n + 1), point, timed, "-"));
    }
    if let Some(current) = &s.current {
        table.row_of(cells("as it is", current, timed, &list(&current.thresholds)));
    }
    let shown = s.front.len().min(ROWS);
    for n in 0..shown {
        let point = &s.front[if shown > 1 { n * (s.front.len() - 1) / (shown - 1) } else { 0 }];
        table.row_of(cells(if n == 0 { "front" } else { "" }, point, timed, &list(&point.thresholds)));
    }
    if let Some(chosen) = &s.chosen {
        table.row_of(cells("chosen", chosen, timed, &list(&chosen.thresholds)));
    }
    out += &table.text();
    let kind = if s.exact { "every point that thresholds can reach" } else { "found by ascent, which may miss some" };
    // Writing to a string cannot fail.
    let _ = writeln!(out, "the front has {} points ({kind})", s.front.len());
    if let Some(held) = &s.held_out {
        let _ = writeln!(
            out,
            "chosen on one half of the images and judged on the other: {:.2} % top-1, {} % few-shot, {:.3} experts",
            held.top1,
            number(held.few, 2),
            held.mean_experts
        );
    }
    if let Some(chosen) = s.chosen.as_ref().filter(|_| s.written.is_empty()) {
        let _ =
            writeln!(out, "to use it: --set {} on an artifact, or build --router-threshold", plain(&chosen.thresholds));
    }
    if !s.written.is_empty() {
        let _ = writeln!(out, "wrote {}; its golden vectors pass", s.written.join(" "));
    }
    if let Some(latency) = &s.latency {
        let _ = writeln!(out, "{latency}");
    }
    if let Some(orders) = &s.orders {
        out += &orders_text(orders);
    }
    out
}

/// Thresholds as options take them.
fn plain(thresholds: &[f32]) -> String {
    thresholds.iter().map(|t| format!("{t:e}")).collect::<Vec<_>>().join(",")
}

fn cells(name: &str, point: &Point, timed: bool, thresholds: &str) -> Vec<String> {
    let score = &point.score;
    let mut cells = vec![name.to_owned(), format!("{:.3}", point.experts())];
    cells.extend([score.top1, score.many, score.medium, score.few].map(|value| number(value, 2)));
    cells.push(format!("{:.2}", point.class_mean));
    cells.extend(timed.then(|| number(point.latency_ms, 3)));
    cells.push(thresholds.to_owned());
    cells
}

pub(super) fn orders_text(orders: &[Ordered]) -> String {
    let mut out = String::from("orders of the experts, compared by routing on confidence\n");
    let mut table = Table::new(&["order", "value %", "top-1 % of the first 1, 2, ..."]);
    for ordered in orders.iter().take(ORDERS) {
        let order: Vec<String> = ordered.order.iter().map(usize::to_string).collect();
        let fixed: Vec<String> = ordered.fixed.iter().map(|percent| format!("{percent:.2}")).collect();
        table.row([order.join(","), format!("{:.2}", ordered.value), fixed.join(" ")]);
    }
    out += &table.text();
    out + "trained routers belong to one order: `train-router --order` trains them for another\n"
}

pub(super) fn csv(points: &[Point]) -> String {
    let routers = points.first().map_or(0, |point| point.thresholds.len());
    let mut out = String::from("mean_experts,top1,many,medium,few,class_mean,latency_ms");
    (0..routers).for_each(|n| out += &format!(",threshold{n}"));
    out.push('\n');
    let cell = |value: Option<f64>| value.map_or_else(String::new, |v| v.to_string());
    for point in points {
        let s = &point.score;
        let row = [s.mean_experts, s.top1, s.many, s.medium, s.few, Some(point.class_mean), point.latency_ms].map(cell);
        let thresholds = point.thresholds.iter().map(|t| format!("{t:e}"));
        out += &row.into_iter().chain(thresholds).collect::<Vec<_>>().join(",");
        out.push('\n');
    }
    out
}
