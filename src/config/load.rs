//! From the sources to a checked [`Config`]. What was said last wins: the default, the file, the environment, the flag.
//!
//! A value that another source overrides is checked all the same, so that it cannot lie in wait until the other goes.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;

use super::checks;
use super::environment;
use super::error::{Error, closest};
use super::format::Format;
use super::options::{Config, config_row, rows};
use super::table::OptionRow;

/// What the command line says: the values of each flag that was given, by the option's name.
pub type Flags = HashMap<&'static str, Vec<OsString>>;

/// What every source says about every option.
pub struct Sources {
    entries: Vec<Entry>,
}

/// What the sources say about one option, in ascending precedence.
struct Entry {
    row: OptionRow,
    default: Given,
    overrides: Vec<Given>,
}

/// A value that one source gives.
struct Given {
    /// The option as the user wrote it there: `--port`, `WARREN_PORT`, `warren.toml:port`.
    label: String,
    /// The value as an error repeats it, unless it is secret.
    shown: String,
    items: Vec<String>,
}

/// The file, read.
struct File {
    name: String,
    table: toml::Table,
}

/// Reads all sources and checks everything; starts nothing.
pub fn load(flags: &Flags, env: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Config, Error> {
    let sources = Sources::collect(flags, env)?;
    let config = Config::read(&sources)?;
    checks::check(&config, &sources)?;
    Ok(config)
}

impl Sources {
    /// Nothing but the defaults.
    pub fn defaults() -> Sources {
        let entry = |row: OptionRow| {
            let label = format!("the default of {}", row.flag());
            let default = Given::of_text(&row, label, row.default);
            Entry { row, default, overrides: Vec::new() }
        };
        Sources { entries: rows().into_iter().map(entry).collect() }
    }

    fn collect(flags: &Flags, env: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Sources, Error> {
        let mut sources = Sources::defaults();
        let config_row = config_row();
        let own_rows = sources.entries.iter().map(|entry| &entry.row);
        let known: Vec<String> = own_rows.chain([&config_row]).map(OptionRow::variable).collect();
        let env = environment::select(env, &known)?;
        let mut file = File::find(&config_row, flags, &env)?;
        for entry in &mut sources.entries {
            let given = [
                file.as_mut().and_then(|file| file.take(&entry.row)).transpose()?,
                Given::of_variable(&entry.row, &env)?,
                Given::of_flag(&entry.row, flags)?,
            ];
            entry.overrides.extend(given.into_iter().flatten());
        }
        if let Some(file) = file {
            file.refuse_the_rest()?;
        }
        Ok(sources)
    }

    /// The value that holds for the option `name`, once all that was given for it proved valid.
    pub fn read<T>(&self, name: &str, format: &Format<T>) -> Result<T, Error> {
        let entry = self.entry(name);
        let mut value = entry.default.read(format)?;
        for given in &entry.overrides {
            value = given.read(format)?;
        }
        Ok(value)
    }

    /// How the user wrote the option `name` where it got its value.
    pub fn label(&self, name: &str) -> &str {
        let entry = self.entry(name);
        &entry.overrides.last().unwrap_or(&entry.default).label
    }

    fn entry(&self, name: &str) -> &Entry {
        let entry = self.entries.iter().find(|entry| entry.row.name == name);
        entry.expect("there is an entry for each row, and only names of rows are asked for")
    }
}

impl Given {
    fn of_text(row: &OptionRow, label: String, text: &str) -> Given {
        Given { label, shown: format!("{text:?}"), items: row.shape.items_of_text(text) }
    }

    fn of_variable(row: &OptionRow, env: &HashMap<String, OsString>) -> Result<Option<Given>, Error> {
        let label = row.variable();
        let Some(value) = env.get(&label) else { return Ok(None) };
        let text = unicode(&label, value)?;
        Ok(Some(Given::of_text(row, label, text)))
    }

    fn of_flag(row: &OptionRow, flags: &Flags) -> Result<Option<Given>, Error> {
        let Some(values) = flags.get(row.name) else { return Ok(None) };
        let label = row.flag();
        let texts: Vec<&str> = values.iter().map(|value| unicode(&label, value)).collect::<Result<_, _>>()?;
        Ok(Some(Given::of_text(row, label, &texts.join(","))))
    }

    fn read<T>(&self, format: &Format<T>) -> Result<T, Error> {
        format.read(&self.items).map_err(|detail| Error::Value {
            label: self.label.clone(),
            shown: shown_if_harmless(self.shown.clone(), format.secret),
            // A secret format's details repeat nothing of the value; another's may.
            detail: detail.filter(|_| format.secret || !may_hold_password(&self.shown)),
            allowed: format.allowed.clone(),
        })
    }
}

impl File {
    /// The file that the flag or else the variable names; `None` if neither does.
    fn find(row: &OptionRow, flags: &Flags, env: &HashMap<String, OsString>) -> Result<Option<File>, Error> {
        let given = Given::of_flag(row, flags)?.or(Given::of_variable(row, env)?);
        match given {
            Some(Given { label, items, .. }) if !items.concat().is_empty() => {
                File::read(label, items.concat()).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn read(label: String, name: String) -> Result<File, Error> {
        let text = match fs::read_to_string(&name) {
            Ok(text) => text,
            Err(source) => return Err(Error::Unreadable { label, path: name, source }),
        };
        match text.parse() {
            Ok(table) => Ok(File { name, table }),
            Err(error) => Err(syntax_error(name, &text, &error)),
        }
    }

    /// What the file says about an option; a value of the wrong type is an error.
    fn take(&mut self, row: &OptionRow) -> Option<Result<Given, Error>> {
        let value = self.table.remove(row.name)?;
        let label = format!("{}:{}", self.name, row.name);
        let shown = shown(&value);
        Some(match row.shape.items_of_toml(&value) {
            Some(items) => Ok(Given { label, shown, items }),
            None => Err(Error::Value {
                label,
                shown: shown_if_harmless(shown, row.secret),
                detail: Some(format!("its type is {}, it must be {}", value.type_str(), row.shape.toml_type())),
                allowed: row.allowed.clone(),
            }),
        })
    }

    /// Whatever no option has taken is unknown.
    fn refuse_the_rest(self) -> Result<(), Error> {
        let Some(key) = self.table.keys().next() else { return Ok(()) };
        let suggestion = closest(key, rows().iter().map(|row| row.name.to_owned()));
        Err(Error::UnknownKey { file: self.name, key: key.clone(), suggestion })
    }
}

fn unicode<'a>(label: &str, value: &'a OsString) -> Result<&'a str, Error> {
    value.to_str().ok_or_else(|| Error::NotUnicode { label: label.to_owned() })
}

/// The place and the message only: the text around an error may hold a password.
fn syntax_error(file: String, text: &str, error: &toml::de::Error) -> Error {
    let start = error.span().map_or(0, |span| span.start);
    let before = text.get(..start).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Error::Syntax {
        file,
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
        message: error.message().lines().collect::<Vec<_>>().join(", "),
    }
}

/// A value of the file in one line.
fn shown(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => format!("{text:?}"),
        toml::Value::Array(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(", ")),
        toml::Value::Table(_) => "{…}".to_owned(),
        other => other.to_string(),
    }
}

/// A value as an error may repeat it. A URI with a password stays hidden even where it was given to the wrong option.
fn shown_if_harmless(shown: String, secret: bool) -> String {
    if secret || may_hold_password(&shown) { "the value (hidden)".to_owned() } else { shown }
}

fn may_hold_password(shown: &str) -> bool {
    shown.contains("://") && shown.contains('@')
}
