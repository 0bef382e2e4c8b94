//! What is going on, on standard error: one line that renews itself on a terminal, a plain line for each phase
//! elsewhere. A few lines of its own rather than a library: there is one bar, and nothing may draw from a thread that
//! takes time from the measurement.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Between two renewals of the line.
const RENEWAL: Duration = Duration::from_millis(100);

const BAR_CHARS: usize = 24;

pub struct Progress {
    is_terminal: bool,
    phase: String,
    began: Instant,
    renewed: Option<Instant>,
}

impl Progress {
    pub fn new() -> Progress {
        let is_terminal = std::io::stderr().is_terminal();
        Progress { is_terminal, phase: String::new(), began: Instant::now(), renewed: None }
    }

    /// A new phase begins.
    pub fn begin(&mut self, phase: String) {
        if !self.is_terminal {
            eprintln!("{phase}");
        }
        *self = Progress { phase, began: Instant::now(), renewed: None, ..*self };
    }

    /// How much of the phase is done, and what came of it. Cheap enough to be called at every look.
    pub fn renew(&mut self, done: f64, count: u64) {
        if !self.is_terminal || self.renewed.is_some_and(|at| at.elapsed() < RENEWAL) {
            return;
        }
        self.renewed = Some(Instant::now());
        let line = format!("{} {:>12} {}", bar(done), grouped(count), self.phase);
        // Back to the start, the line, and clear what is left of a longer one.
        eprint!("\r{line}\x1b[K");
        let _ = std::io::stderr().flush();
    }

    /// By the clock, for phases that take a known time.
    pub fn renew_until(&mut self, duration: Duration, count: u64) {
        let done = self.began.elapsed().as_secs_f64() / duration.as_secs_f64().max(0.001);
        self.renew(done, count);
    }

    /// Removes the line, before anything else is printed.
    pub fn clear(&mut self) {
        if self.is_terminal && self.renewed.take().is_some() {
            eprint!("\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

fn bar(done: f64) -> String {
    let filled = (done.clamp(0.0, 1.0) * BAR_CHARS as f64) as usize;
    format!("[{:·<BAR_CHARS$}]", "█".repeat(filled))
}

/// A number with a comma after each thousand.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        let shown = [0, 999, 1_000, 1_234_567].map(grouped);
        assert_eq!(shown, ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn a_bar_keeps_its_length() {
        for done in [-1.0, 0.0, 0.5, 1.0, 7.0, f64::NAN] {
            assert_eq!(bar(done).chars().count(), BAR_CHARS + 2, "{done}");
        }
    }
}
