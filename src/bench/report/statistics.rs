//! Medians, and ratios of runs that were made side by side.

use crate::bench::measure::Run;

/// The middle of some numbers; of the two in the middle, their mean.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// The median of one number over runs; `None` if no run has it.
pub fn median_of(runs: &[Run], of: impl Fn(&Run) -> Option<f64>) -> Option<f64> {
    median(&runs.iter().filter_map(of).collect::<Vec<_>>())
}

/// The median of the ratios of runs that were made one after the other. A shared machine drifts, but both of a pair
/// alike; the ratio of two medians would keep that.
pub fn ratio_of(runs: &[Run], base: &[Run], of: impl Fn(&Run) -> Option<f64>) -> Option<f64> {
    let pair = |(run, base): (&Run, &Run)| Some((of(run)?, of(base)?));
    ratio_of_pairs(&runs.iter().zip(base).filter_map(pair).collect::<Vec<_>>())
}

/// Of what was measured on both sides: nothing takes no time at all.
fn ratio_of_pairs(pairs: &[(f64, f64)]) -> Option<f64> {
    median(
        &pairs
            .iter()
            .filter(|(value, base)| *value > 0.0 && *base > 0.0)
            .map(|(value, base)| value / base)
            .collect::<Vec<_>>(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_the_median() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
    }

    #[test]
    fn pairs_are_compared_before_they_are_ranked() {
        let drifting = [(2.0, 1.0), (20.0, 10.0), (220.0, 100.0)];
        assert_eq!(ratio_of_pairs(&drifting), Some(2.0));
        assert_eq!(ratio_of_pairs(&[(1.0, 0.0), (0.0, 1.0)]), None);
    }
}
