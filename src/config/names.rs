//! Texts that are valid by construction: what a name in RabbitMQ begins with, and which log lines are wanted.

use std::fmt;
use std::str::FromStr;

/// What the names of this cluster's objects in RabbitMQ begin with.
/// 1 to 64 ASCII letters, digits and `_ . -`, so that every name made from it fits an AMQP short string.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Prefix(String);

/// Why a text is no prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPrefix {
    /// Empty, too long, or a character that is not allowed.
    #[error("it has a length or a character that is not allowed")]
    Text,
    /// RabbitMQ keeps `amq.` to itself and answers 403 to whoever declares such a name.
    #[error("RabbitMQ reserves names that begin with amq.")]
    Reserved,
}

/// Directives for `env_logger`, each a level or `target=level`.
///
/// `env_logger` would take a misspelt level for the name of a module and then log that module alone: hence a directive
/// without a level is refused, and so is a filter by pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter(String);

/// Why a text is no log filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a level nor target=level")]
pub struct InvalidLogFilter(String);

impl Prefix {
    /// The prefix alone, without a dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Prefix {
    type Err = InvalidPrefix;

    fn from_str(text: &str) -> Result<Prefix, InvalidPrefix> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if !(1..=64).contains(&text.len()) || !text.chars().all(allowed) {
            return Err(InvalidPrefix::Text);
        }
        if text == "amq" || text.starts_with("amq.") {
            return Err(InvalidPrefix::Reserved);
        }
        Ok(Prefix(text.to_owned()))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl LogFilter {
    /// The directives, for `env_logger::Builder::parse_filters`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LogFilter {
    type Err = InvalidLogFilter;

    fn from_str(text: &str) -> Result<LogFilter, InvalidLogFilter> {
        match text.split(',').find(|directive| !is_directive(directive)) {
            Some(directive) => Err(InvalidLogFilter(directive.to_owned())),
            None => Ok(LogFilter(text.to_owned())),
        }
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_directive(text: &str) -> bool {
    let is_level = |text: &str| matches!(text, "off" | "error" | "warn" | "info" | "debug" | "trace");
    let is_target = |text: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '-'))
    };
    match text.split_once('=') {
        Some((target, level)) => is_target(target) && is_level(level),
        None => is_level(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_what_every_name_can_begin_with() {
        let longest = "a".repeat(64);
        for good in ["warren", "a", "Shop-2.eu_west", "amqp", longest.as_str()] {
            assert_eq!(good.parse::<Prefix>().as_ref().map(Prefix::as_str), Ok(good));
        }
        for bad in ["", "a b", "ü", "a/b", "a:b", &"a".repeat(65)] {
            assert_eq!(bad.parse::<Prefix>(), Err(InvalidPrefix::Text));
        }
        for reserved in ["amq", "amq.direct"] {
            assert_eq!(reserved.parse::<Prefix>(), Err(InvalidPrefix::Reserved));
        }
    }

    #[test]
    fn a_filter_is_levels_with_or_without_a_target() {
        for good in ["off", "info", "info,lapin=warn", "warren::hub=trace,error"] {
            assert_eq!(good.parse::<LogFilter>().as_ref().map(LogFilter::as_str), Ok(good));
        }
        for (bad, directive) in
            [("", ""), ("infoo", "infoo"), ("info,", ""), ("lapin", "lapin"), ("a=b", "a=b"), ("info/x", "info/x")]
        {
            assert_eq!(bad.parse::<LogFilter>(), Err(InvalidLogFilter(directive.to_owned())));
        }
    }
}
