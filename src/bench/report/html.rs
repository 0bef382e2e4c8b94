//! The report as a page: one file, from `templates/bench.html`, that needs nothing else to be looked at. The suite's
//! page comes from the same template.

use std::fmt::Write;

use super::metrics::{METRICS, Metric, by_key};
use super::plot::{Curve, bars, curves};
use super::statistics::{median_of, ratio_of};
use super::table::{notes, shown};
use super::{Report, work_line};

const TEMPLATE: &str = include_str!("../../../templates/bench.html");

/// The numbers that are drawn, beside the latencies.
const BARS: [&str; 5] =
    ["deliveries_per_second", "cpu_us_per_delivery", "kib_per_session", "connects_per_second", "connect_cpu_us"];

/// What the template has a place for. All but the title and the subtitle is markup.
pub struct Document<'a> {
    pub title: &'a str,
    pub subtitle: &'a str,
    pub verdict: &'a str,
    pub notes: &'a str,
    pub body: &'a str,
}

impl Document<'_> {
    pub fn html(&self) -> String {
        let values = [
            ("title", escape(self.title)),
            ("subtitle", escape(self.subtitle)),
            ("verdict", self.verdict.to_owned()),
            ("notes", self.notes.to_owned()),
            ("body", self.body.to_owned()),
        ];
        fill(TEMPLATE, &values)
    }
}

/// The whole page of a report.
pub fn page(report: &Report) -> String {
    let notes: String = notes(report).iter().map(|note| format!("<li>{}</li>", escape(note))).collect();
    let (plots, table) = (plots(report), table(report));
    Document {
        title: "warren bench",
        subtitle: &format!("{} · Warren {}", work_line(&report.work), env!("CARGO_PKG_VERSION")),
        verdict: &verdict(report),
        notes: &notes,
        body: &format!(
            "<div class=\"plots\">\n{plots}</div>\n<h2>All numbers</h2>\n\
             <div class=\"card scroll\"><table>{table}</table></div>"
        ),
    }
    .html()
}

/// Text as it may stand in an element or an attribute.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

/// Puts each value in the place of its `{{name}}`. One pass, so that a value cannot name a place.
fn fill(template: &str, values: &[(&str, String)]) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        out.push_str(before);
        let (name, behind) = after.split_once("}}").unwrap_or((after, ""));
        if let Some((_, value)) = values.iter().find(|(known, _)| *known == name) {
            out.push_str(value);
        }
        rest = behind;
    }
    out + rest
}

fn verdict(report: &Report) -> String {
    let (class, text) = match report.faults().is_none() {
        true => ("good", "✓ Every session heard everything once and in order"),
        false => ("bad", "✕ Messages or sessions were lost: see the notes"),
    };
    format!(r#"<p class="verdict {class}">{text}</p>"#)
}

fn plots(report: &Report) -> String {
    let latencies: Vec<Curve<'_>> = report
        .contenders
        .iter()
        .filter_map(|contender| {
            let run = contender.runs.get(contender.runs.len() / 2)?;
            Some(Curve { name: &contender.name, points: &run.traffic.as_ref()?.latency.curve })
        })
        .collect();
    let mut out = String::new();
    if !latencies.is_empty() {
        out += &figure("tall", "Latency by percentile", &curves("Latency by percentile", &latencies));
    }
    for metric in BARS.iter().filter_map(|key| by_key(key)) {
        let values: Vec<(&str, Option<f64>)> = report
            .contenders
            .iter()
            .map(|contender| (contender.name.as_str(), median_of(&contender.runs, metric.of)))
            .collect();
        let plot = bars(metric.title, metric.decimals, &values);
        if !plot.is_empty() {
            out += &figure("", metric.title, &plot);
        }
    }
    out
}

fn figure(class: &str, title: &str, plot: &str) -> String {
    format!("<figure class=\"{class}\"><figcaption>{}</figcaption>{plot}</figure>\n", escape(title))
}

fn table(report: &Report) -> String {
    let mut out = String::from("<thead><tr><th></th>");
    for contender in &report.contenders {
        let _ = write!(out, "<th>{}</th>", escape(&contender.name));
        if has_ratio_column(report, contender.is_floor) {
            out += "<th>/ floor</th>";
        }
    }
    out += "</tr></thead><tbody>";
    METRICS.iter().for_each(|metric| out += &row(report, metric));
    out + "</tbody>"
}

fn row(report: &Report, metric: &Metric) -> String {
    let mut out = format!("<tr><th>{}</th>", escape(metric.title));
    for contender in &report.contenders {
        let median = shown(median_of(&contender.runs, metric.of), metric.decimals);
        let _ = write!(out, "<td>{}</td>", escape(&median));
        if let Some(floor) = report.floor().filter(|_| has_ratio_column(report, contender.is_floor)) {
            let ratio = ratio_of(&contender.runs, &floor.runs, metric.of).filter(|_| metric.has_ratio);
            let _ = write!(out, "<td>{}</td>", ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default());
        }
    }
    out + "</tr>"
}

fn has_ratio_column(report: &Report, is_floor: bool) -> bool {
    report.floor().is_some() && !is_floor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_in_a_text_stays_text() {
        assert_eq!(escape(r#"<a href="x">'&'</a>"#), "&lt;a href=&quot;x&quot;&gt;&#39;&amp;&#39;&lt;/a&gt;");
        assert_eq!(escape("plain µs"), "plain µs");
    }

    #[test]
    fn places_are_filled_once_and_values_are_not_looked_into() {
        let values = [("a", "{{b}}".to_owned()), ("b", "B".to_owned())];
        assert_eq!(fill("<{{a}}|{{b}}|{{c}}>", &values), "<{{b}}|B|>");
        assert_eq!(fill("no place", &values), "no place");
    }

    #[test]
    fn the_template_has_a_place_for_everything_and_downloads_nothing() {
        for name in ["title", "subtitle", "verdict", "notes", "body"] {
            assert!(TEMPLATE.contains(&format!("{{{{{name}}}}}")), "{name}");
        }
        for outside in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!TEMPLATE.contains(outside), "{outside}");
        }
    }

    #[test]
    fn every_bar_is_a_metric() {
        assert!(BARS.iter().all(|key| by_key(key).is_some()));
    }
}
