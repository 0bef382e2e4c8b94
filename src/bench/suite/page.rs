//! The suite as a page: each number as a dot on a track, beside the mark that it had to reach.

use std::fmt::Write;

use super::row::{Row, Target};
use super::table::Table;
use crate::bench::report::html::{Document, escape};

/// Where a track has its mark, of its length: what is worse or better by half still lies on it.
const MARK: f64 = 2.0 / 3.0;

/// Ends of a track for the middle of a dot, in percent of its length.
const ENDS: (f64, f64) = (2.0, 98.0);

/// The whole page.
pub fn page(table: &Table) -> String {
    let scale = if table.scale == 1.0 { String::new() } else { format!(", at {} of its size", table.scale) };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let rounds = match table.rounds {
        1 => "one round".to_owned(),
        rounds => format!("medians of up to {rounds} rounds"),
    };
    let version = env!("CARGO_PKG_VERSION");
    Document {
        title: "warren bench --suite",
        subtitle: &format!("Warren {version} · {cores} cores, shared with the generator · {rounds}{scale}"),
        verdict: &verdict(table),
        notes: "",
        body: &body(&table.rows),
    }
    .html()
}

fn verdict(table: &Table) -> String {
    let [reached, missed, unknown] = table.counts();
    let mut out = String::new();
    let mut badge = |class: &str, text: String| {
        let _ = write!(out, r#"<p class="verdict {class}">{text}</p>"#);
    };
    if reached + missed > 0 {
        badge("good", format!("✓ {reached} of {} targets reached", reached + missed));
    } else {
        badge("", "no targets at this size".to_owned());
    }
    if missed > 0 {
        badge("bad", format!("✕ {missed} not reached"));
    }
    if unknown > 0 {
        badge("", format!("{unknown} not measured"));
    }
    match table.is_sound {
        true => badge("good", "✓ nothing lost, doubled or out of order".to_owned()),
        false => badge("bad", "✕ a measurement failed".to_owned()),
    }
    out
}

fn body(rows: &[Row]) -> String {
    let mut out = String::new();
    for part in rows.chunk_by(|one, next| one.part == next.part) {
        let _ = write!(out, "<h2>{}</h2>\n<div class=\"card\">\n", escape(part[0].part));
        part.iter().for_each(|row| out += &line(row));
        out += "</div>\n";
    }
    out
}

fn line(row: &Row) -> String {
    let (class, badge) = match row.is_reached() {
        Some(true) => ("good", r#"<span class="badge">✓ reached</span>"#),
        Some(false) => ("bad", r#"<span class="badge">✕ missed</span>"#),
        None if row.measured.is_none() => ("", r#"<span class="target">not measured</span>"#),
        None => ("", "<span></span>"),
    };
    format!(
        "<div class=\"row {class}\"><div>{}<span class=\"note\">{}</span></div>\
         <div><div class=\"measured\"><span><strong>{}</strong> <span class=\"unit\">{}</span></span>\
         <span class=\"target\">{}</span></div>{}</div>{badge}</div>\n",
        escape(&row.what),
        escape(&row.note),
        escape(&row.measured()),
        escape(row.unit),
        escape(&row.target()),
        track(row),
    )
}

/// Nothing for a number that has no target.
fn track(row: &Row) -> String {
    let (kind, target) = match row.target {
        Target::AtMost(most) => ("at-most", most),
        Target::AtLeast(least) => ("at-least", least),
        Target::Open => return String::new(),
    };
    let Some(measured) = row.measured else { return String::new() };
    let at = (100.0 * MARK * measured / target).clamp(ENDS.0, ENDS.1);
    let label = escape(&format!("{} {}, target {}", row.measured(), row.unit, row.target()));
    format!(
        "<div class=\"track {kind}\" role=\"img\" aria-label=\"{label}\"><span class=\"allowed\"></span>\
         <span class=\"limit\"></span><span class=\"dot\" style=\"--at:{at:.1}\"></span></div>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(measured: f64, target: Target) -> f64 {
        let track = track(&Row::new("x", "", Some(measured), target));
        let (_, rest) = track.split_once("--at:").expect("a dot");
        rest.split('"').next().and_then(|at| at.parse().ok()).expect("its place")
    }

    #[test]
    fn a_dot_lies_on_its_side_of_the_mark_and_on_the_track() {
        let mark = 100.0 * MARK;
        assert!(at(1.0, Target::AtMost(1.1)) < mark && at(1.2, Target::AtMost(1.1)) > mark);
        assert!(at(9.0, Target::AtLeast(8.0)) > mark && at(7.0, Target::AtLeast(8.0)) < mark);
        assert_eq!((at(1e9, Target::AtMost(1.0)), at(-1.0, Target::AtLeast(1.0))), (98.0, 2.0));
        assert_eq!(track(&Row::new("x", "", Some(1.0), Target::Open)), "");
        assert_eq!(track(&Row::new("x", "", None, Target::AtMost(1.0))), "");
    }

    #[test]
    fn parts_and_verdicts_are_shown() {
        let rows = vec![
            Row { part: "Memory", ..Row::new("a session", "KiB", Some(0.9), Target::AtMost(1.0)).note("<PSS>") },
            Row { part: "Memory", ..Row::new("more", "KiB", Some(1.9), Target::AtMost(1.0)) },
            Row { part: "Broker", ..Row::new("none", "×", None, Target::AtMost(1.0)) },
        ];
        let page = page(&Table { rows, is_sound: true, rounds: 5, scale: 0.5 });
        assert_eq!(page.matches("<h2>").count(), 2);
        for part in ["✓ 1 of 2 targets reached", "✕ 1 not reached", "1 not measured", "&lt;PSS&gt;", "0.5 of its size"]
        {
            assert!(page.contains(part), "{part}: {page}");
        }
        assert!(!page.contains("{{"));
    }
}
