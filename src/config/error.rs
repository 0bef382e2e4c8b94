//! What can be wrong with a configuration, each said in one line, and how the process ends after it.

use std::io::{self, Write};
use std::process::ExitCode;

/// Usage errors end the process with this code, as is the custom of Unix tools.
const USAGE: u8 = 2;

/// A configuration that is refused. Names the option as the user wrote it; shows no secret.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A variable that begins like Warren's own but is none.
    #[error("unknown environment variable {name}{}", did_you_mean(.suggestion.as_deref()))]
    UnknownVariable { name: String, suggestion: Option<String> },
    /// A key of the file that is no option.
    #[error("{file}: unknown key {key:?}{}", did_you_mean(.suggestion.as_deref()))]
    UnknownKey { file: String, key: String, suggestion: Option<String> },
    /// Bytes that are no text.
    #[error("{label}: the value is not valid UTF-8")]
    NotUnicode { label: String },
    /// A file that an option names and that cannot be read.
    #[error("{label}: cannot read {path:?}: {source}")]
    Unreadable { label: String, path: String, source: io::Error },
    /// A file that is not TOML.
    #[error("{file}, line {line}, column {column}: not valid TOML: {message}")]
    Syntax { file: String, line: usize, column: usize, message: String },
    /// A value that the option does not take, by itself or beside another option's.
    #[error("{label}: {shown} is not allowed{}; expected {allowed}", in_parentheses(.detail.as_deref()))]
    Value { label: String, shown: String, detail: Option<String>, allowed: String },
    /// An option that has no effect without another.
    #[error("{label}: {shown} is of no use, as {because}")]
    Useless { label: String, shown: String, because: String },
    /// Arguments of `warren bench` that contradict each other.
    #[error(transparent)]
    Bench(#[from] crate::bench::Conflict),
    /// Arguments of `warren chaos` that contradict each other.
    #[error(transparent)]
    Chaos(#[from] crate::chaos::Conflict),
    /// Arguments of `warren publish` or `warren subscribe` that contradict each other.
    #[error(transparent)]
    Cli(#[from] crate::cli::Conflict),
}

/// The process ends before anything was started: with help, with the version, or with an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// What to print, complete with its last newline.
    pub text: String,
    /// To standard output (it was asked for), or else to standard error.
    pub to_stdout: bool,
    /// The exit code: 0 for what was asked for, 2 for an error.
    pub code: u8,
}

impl Exit {
    /// Ends with what the user asked to see.
    pub fn answer(text: String) -> Exit {
        Exit { text, to_stdout: true, code: 0 }
    }

    /// Ends because of how the program was called or configured.
    pub fn usage(message: &str) -> Exit {
        Exit { text: format!("error: {message}\n"), to_stdout: false, code: USAGE }
    }

    /// Prints the text where it belongs. A reader that went away does not matter any more.
    pub fn report(&self) -> ExitCode {
        let _ = match self.to_stdout {
            true => io::stdout().write_all(self.text.as_bytes()),
            false => io::stderr().write_all(self.text.as_bytes()),
        };
        ExitCode::from(self.code)
    }
}

impl From<Error> for Exit {
    fn from(error: Error) -> Exit {
        Exit::usage(&error.to_string())
    }
}

/// Ends a message with a name that is near to the one not known.
pub fn did_you_mean(suggestion: Option<&str>) -> String {
    suggestion.map(|suggestion| format!("; did you mean {suggestion}?")).unwrap_or_default()
}

/// The one of `known` that `given` most likely was meant to be.
pub fn closest(given: &str, known: impl Iterator<Item = String>) -> Option<String> {
    // Below this likeness a suggestion is more often wrong than right; it is what clap takes for flags.
    const LIKENESS_MIN: f64 = 0.7;
    known
        .map(|name| (strsim::jaro(given, &name), name))
        .filter(|(likeness, _)| *likeness > LIKENESS_MIN)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name)
}

fn in_parentheses(detail: Option<&str>) -> String {
    detail.map(|detail| format!(" ({detail})")).unwrap_or_default()
}
