//! What a row of the table of options is, and the macro that turns the rows into the typed `Config`.

use super::format::Shape;

/// An option as the command line, the file, the help and the documentation see it: its type erased.
#[derive(Debug, Clone)]
pub struct OptionRow {
    /// The one name from which the three below are derived.
    pub name: &'static str,
    /// Title of the group it is listed under.
    pub heading: &'static str,
    /// What stands for the value in the help, mostly its unit.
    pub placeholder: &'static str,
    /// As a user would write it; empty: none.
    pub default: &'static str,
    /// What it does: one sentence or two.
    pub help: &'static str,
    /// Why the default is what it is.
    pub reason: &'static str,
    /// What values are taken, to follow "expected".
    pub allowed: String,
    /// The value may hold a password and is shown nowhere.
    pub secret: bool,
    /// How it is written in each source.
    pub shape: Shape,
}

impl OptionRow {
    /// The flag with its dashes: `--outbox-bytes-max`.
    pub fn flag(&self) -> String {
        flag(self.name)
    }

    /// The environment variable: `WARREN_OUTBOX_BYTES_MAX`.
    pub fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.name.to_ascii_uppercase())
    }

    /// The default as a reader wants to see it.
    pub fn default_shown(&self) -> &'static str {
        if self.default.is_empty() { "none" } else { self.default }
    }
}

/// What every environment variable of Warren begins with.
pub const VARIABLE_PREFIX: &str = "WARREN_";

/// The flag of the option `name`.
pub fn flag(name: &str) -> String {
    format!("--{}", name.replace('_', "-"))
}

/// Makes of one list of rows the struct `Config` (a documented field each), `Config::read` and the table `rows()`.
///
/// A row is `name: Type = format { default, help, reason }`: `format` is the [`Format<Type>`](super::format::Format)
/// that knows the placeholder, what is allowed and how a value is read.
macro_rules! options {
    ($(
        $heading:literal {$(
            $name:ident: $type:ty = $format:expr => {
                default: $default:expr,
                help: $help:expr,
                reason: $reason:expr,
            }
        )*}
    )*) => {
        /// Everything that can be configured, checked. `Debug` shows no password.
        #[derive(Debug, Clone, PartialEq)]
        pub struct Config {$($(
            #[doc = $help]
            #[doc = concat!("\n\nDefault `\"", $default, "\"`: ", $reason)]
            pub $name: $type,
        )*)*}

        impl Config {
            /// Reads every option from what `sources` holds. What concerns two options at once is not checked here.
            pub(super) fn read(sources: &Sources) -> Result<Config, Error> {
                Ok(Config {$($(
                    $name: {
                        let format: Format<$type> = $format;
                        sources.read(stringify!($name), &format)?
                    },
                )*)*})
            }
        }

        /// The table: every option in the order in which it is documented.
        pub(super) fn rows() -> Vec<OptionRow> {
            vec![$($({
                let format: Format<$type> = $format;
                OptionRow {
                    name: stringify!($name),
                    heading: $heading,
                    placeholder: format.placeholder,
                    default: $default,
                    help: $help,
                    reason: $reason,
                    allowed: format.allowed,
                    secret: format.secret,
                    shape: format.shape,
                }
            }),*),*]
        }
    };
}

pub(super) use options;
