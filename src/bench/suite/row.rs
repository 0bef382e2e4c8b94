//! One line of the suite's table.

use serde_json::{Value, json};

/// What a number must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    AtMost(f64),
    AtLeast(f64),
    /// Shown for information.
    Open,
}

/// One number against its target; `None` could not be measured, for the reason in `note`.
#[derive(Clone, Debug)]
pub struct Row {
    /// Of the suite, by its title.
    pub part: &'static str,
    pub what: String,
    pub unit: &'static str,
    pub decimals: usize,
    pub measured: Option<f64>,
    pub target: Target,
    pub note: String,
}

impl Row {
    pub fn new(what: impl Into<String>, unit: &'static str, measured: Option<f64>, target: Target) -> Row {
        let decimals = if measured.is_some_and(|value| value >= 1000.0) { 0 } else { 2 };
        Row { part: "", what: what.into(), unit, decimals, measured, target, note: String::new() }
    }

    /// Says what the number stands on, or why there is none.
    pub fn note(self, note: impl Into<String>) -> Row {
        Row { note: note.into(), ..self }
    }

    pub fn is_reached(&self) -> Option<bool> {
        let measured = self.measured?;
        match self.target {
            Target::AtMost(most) => Some(measured <= most),
            Target::AtLeast(least) => Some(measured >= least),
            Target::Open => None,
        }
    }

    pub fn json(&self) -> Value {
        let (at_most, at_least) = match self.target {
            Target::AtMost(most) => (Some(most), None),
            Target::AtLeast(least) => (None, Some(least)),
            Target::Open => (None, None),
        };
        json!({
            "part": self.part,
            "what": self.what,
            "unit": self.unit,
            "measured": self.measured,
            "at_most": at_most,
            "at_least": at_least,
            "reached": self.is_reached(),
            "note": self.note,
        })
    }

    /// The number as it is shown.
    pub fn measured(&self) -> String {
        crate::bench::report::shown(self.measured, self.decimals)
    }

    /// The target as it is shown.
    pub fn target(&self) -> String {
        self.target.shown(if self.decimals == 0 { 0 } else { 2 })
    }

    pub fn markdown(&self) -> String {
        let verdict = match self.is_reached() {
            Some(true) => "reached",
            Some(false) => "**not reached**",
            None if self.measured.is_none() => "not measured",
            None => "",
        };
        let (what, measured, unit, target) = (&self.what, self.measured(), self.unit, self.target());
        // An error may have any text in it.
        let note = self.note.replace('|', "\\|").replace('\n', " ");
        format!("| {what} | {measured} {unit} | {target} | {verdict} | {note} |\n")
    }
}

impl Target {
    pub fn is_set(self) -> bool {
        self != Target::Open
    }

    fn shown(self, decimals: usize) -> String {
        let number = |value: f64| {
            if value >= 1000.0 || (decimals == 0 && value.fract() == 0.0) {
                crate::bench::progress::grouped(value as u64)
            } else {
                format!("{value}")
            }
        };
        match self {
            Target::AtMost(most) => format!("≤ {}", number(most)),
            Target::AtLeast(least) => format!("≥ {}", number(least)),
            Target::Open => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_reached_on_its_side() {
        let reached = |measured, target| Row::new("x", "", Some(measured), target).is_reached();
        assert_eq!(reached(1.1, Target::AtMost(1.1)), Some(true));
        assert_eq!(reached(1.11, Target::AtMost(1.1)), Some(false));
        assert_eq!(reached(0.9, Target::AtLeast(0.9)), Some(true));
        assert_eq!(reached(0.89, Target::AtLeast(0.9)), Some(false));
        assert_eq!(reached(1.2, Target::Open), None);
        assert_eq!(Row::new("x", "", None, Target::AtMost(1.0)).is_reached(), None);
    }
}
