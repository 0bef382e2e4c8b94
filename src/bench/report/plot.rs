//! Plots as inline SVG: no script, no font, nothing to download. Colours are classes that the page's style sets, for
//! light and dark.

use std::fmt::Write;

use super::html::escape;
use super::table::shown;

const WIDTH: f64 = 640.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 14.0;

const CURVE_HEIGHT: f64 = 300.0;
const CURVE_BOTTOM: f64 = 34.0;

const BAR_HEIGHT: f64 = 22.0;
const BAR_STEP: f64 = 34.0;
const BAR_LEFT: f64 = 210.0;
const BAR_RIGHT: f64 = 110.0;

/// Series have so many colours; more than that share them.
const COLOURS: usize = 6;

/// One server's latencies: quantile and microseconds.
pub struct Curve<'a> {
    pub name: &'a str,
    pub points: &'a [(f64, f64)],
}

/// Latency by quantile, both logarithmic: each step to the right is a tenth of the deliveries before.
pub fn curves(title: &str, curves: &[Curve<'_>]) -> String {
    let points = || curves.iter().flat_map(|curve| curve.points).map(|(_, us)| us.max(1.0));
    let low = points().fold(f64::INFINITY, f64::min).log10().floor();
    let high = points().fold(1.0, f64::max).log10().ceil().max(low + 1.0);
    let tail = |quantile: f64| -(1.0 - quantile).max(1e-9).log10();
    let tail_max = curves.iter().flat_map(|curve| curve.points).map(|(at, _)| tail(*at)).fold(1.0, f64::max);
    let x = |quantile: f64| LEFT + (WIDTH - LEFT - RIGHT) * tail(quantile) / tail_max;
    let y = |us: f64| {
        CURVE_HEIGHT - CURVE_BOTTOM - (CURVE_HEIGHT - CURVE_BOTTOM - TOP) * (us.max(1.0).log10() - low) / (high - low)
    };
    let mut svg = open(title, CURVE_HEIGHT);
    for power in low as i32..=high as i32 {
        let us = 10_f64.powi(power);
        grid_line(&mut svg, (LEFT, y(us)), (WIDTH - RIGHT, y(us)));
        label(&mut svg, LEFT - 6.0, y(us) + 4.0, "end", &time(us));
    }
    for (quantile, name) in [(0.0, "0"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %"), (0.9999, "99.99 %")] {
        grid_line(&mut svg, (x(quantile), TOP), (x(quantile), CURVE_HEIGHT - CURVE_BOTTOM));
        label(&mut svg, x(quantile), CURVE_HEIGHT - 14.0, "middle", name);
    }
    for (index, curve) in curves.iter().enumerate() {
        let path: Vec<String> =
            curve.points.iter().map(|(quantile, us)| format!("{:.1},{:.1}", x(*quantile), y(*us))).collect();
        let colour = index % COLOURS;
        let _ = write!(
            svg,
            r#"<polyline class="line s{colour}" points="{}"><title>{}</title></polyline>"#,
            path.join(" "),
            escape(curve.name)
        );
    }
    svg + "</svg>" + &legend(curves.iter().map(|curve| curve.name))
}

/// One bar for each server that has the number, all from zero.
pub fn bars(title: &str, decimals: usize, values: &[(&str, Option<f64>)]) -> String {
    let known = || values.iter().filter_map(|(_, value)| *value);
    let max = known().fold(0.0, f64::max);
    if max <= 0.0 {
        return String::new();
    }
    let mut svg = open(title, BAR_STEP * values.len() as f64 + 8.0);
    for (index, (name, value)) in values.iter().enumerate() {
        let top = 4.0 + BAR_STEP * index as f64;
        let length = (WIDTH - BAR_LEFT - BAR_RIGHT) * value.unwrap_or(0.0).max(0.0) / max;
        let (colour, text_at) = (index % COLOURS, top + BAR_HEIGHT * 0.7);
        label(&mut svg, BAR_LEFT - 8.0, text_at, "end", name);
        let _ = write!(
            svg,
            r#"<rect class="bar s{colour}" x="{BAR_LEFT}" y="{top}" width="{length:.1}" height="{BAR_HEIGHT}" rx="4"/>"#
        );
        let _ = write!(
            svg,
            r#"<text class="value" x="{:.1}" y="{text_at:.1}">{}</text>"#,
            BAR_LEFT + length + 8.0,
            shown(*value, decimals)
        );
    }
    svg + "</svg>"
}

fn open(title: &str, height: f64) -> String {
    let title = escape(title);
    format!(r#"<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}"><title>{title}</title>"#)
}

fn grid_line(svg: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
    let _ = write!(svg, r#"<line class="grid" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#);
}

fn label(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let _ = write!(svg, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{}</text>"#, escape(text));
}

fn legend<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let items = names
        .enumerate()
        .map(|(index, name)| format!(r#"<li><span class="key s{}"></span>{}</li>"#, index % COLOURS, escape(name)));
    format!(r#"<ul class="legend">{}</ul>"#, items.collect::<String>())
}

fn time(us: f64) -> String {
    match us {
        us if us < 1e3 => format!("{us:.0} µs"),
        us if us < 1e6 => format!("{:.0} ms", us / 1e3),
        us => format!("{:.0} s", us / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_lies_within_the_picture() {
        let points = [(0.0, 0.4), (0.5, 100.0), (0.99999, 90_000.0), (1.0, 2e7)];
        let svg = curves("latency", &[Curve { name: "a", points: &points }]);
        let drawn = svg.split("points=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("points");
        for point in drawn.split(' ') {
            let (x, y) = point.split_once(',').expect("x,y");
            let (x, y): (f64, f64) = (x.parse().expect("x"), y.parse().expect("y"));
            assert!((0.0..=WIDTH).contains(&x) && (0.0..=CURVE_HEIGHT).contains(&y), "{point}");
        }
    }

    #[test]
    fn names_cannot_leave_the_text() {
        let hostile = "</title><script>\"&";
        let svg =
            bars("CPU", 1, &[(hostile, Some(1.0))]) + &curves("x", &[Curve { name: hostile, points: &[(0.5, 1.0)] }]);
        assert!(!svg.contains("<script"), "{svg}");
        assert!(svg.contains("&lt;/title&gt;&lt;script&gt;&quot;&amp;"), "{svg}");
    }

    #[test]
    fn what_nobody_has_is_not_drawn() {
        assert_eq!(bars("CPU", 1, &[("a", None)]), "");
        assert!(bars("CPU", 1, &[("a", None), ("b", Some(2.0))]).contains('–'));
    }
}
