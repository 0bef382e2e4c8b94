//! The table of options as text: for the help, as the documented sample file, as Markdown for the documentation.

use super::options::{config_row, rows};
use super::table::OptionRow;

/// Widest line of prose in the sample file.
const SAMPLE_COLUMNS_MAX: usize = 100;

/// Head of the sample file.
const SAMPLE_INTRODUCTION: &str = "\
Every option of Warren with its default, as `warren config` prints it. To change one, remove the \"# \" before its line;
name the file by --config FILE or WARREN_CONFIG. A flag holds before the environment, the environment before this file,
this file before the defaults. A misspelt key is an error.
";

/// Head of the Markdown tables.
const MARKDOWN_INTRODUCTION: &str = "\
Each option is a flag, an environment variable and a key of the TOML file that `--config` names; the key is the flag
with underscores (`--outbox-bytes-max`, `outbox_bytes_max`). A flag holds before the environment, the environment before
the file, the file before the default. An unknown flag, an unknown variable beginning with `WARREN_`, an unknown key and
a value that is not allowed are errors: Warren says which in one line and exits with code 2 before it opens its port.
";

/// An option's text in the help.
pub fn help(row: &OptionRow) -> String {
    format!("{}\n[default: {}] [env: {}]", row.help, row.default_shown(), row.variable())
}

/// The sample file: valid TOML in which every option stands commented out at its default.
pub fn sample() -> String {
    let mut sample = commented(SAMPLE_INTRODUCTION);
    for group in groups(&rows()) {
        sample += &format!("\n\n## {}\n## {}\n", group[0].heading, "-".repeat(group[0].heading.len()));
        for row in group {
            let why = format!("Default {}: {}", row.default_shown(), row.reason);
            let takes = format!("Expected: {}. Also {} or {}.", row.allowed, row.flag(), row.variable());
            let prose = [row.help, why.as_str(), takes.as_str()].map(commented).concat();
            sample += &format!("\n{prose}# {} = {}\n", row.name, row.shape.default_in_toml(row.default));
        }
    }
    sample
}

/// Tables for the documentation, one for each heading.
pub fn markdown() -> String {
    let mut markdown = MARKDOWN_INTRODUCTION.to_owned();
    let mut rows = rows();
    rows.insert(0, config_row());
    for group in groups(&rows) {
        markdown += &format!("\n### {}\n\n", group[0].heading);
        markdown += "| option | default | expected | what it is, and why the default |\n| --- | --- | --- | --- |\n";
        for row in group {
            let names = format!("`{}`<br>`{}`", row.flag(), row.variable());
            let default = if row.default.is_empty() { "none".to_owned() } else { format!("`{}`", row.default) };
            let what = format!("{} *{}*", escaped(row.help), escaped(row.reason));
            markdown += &format!("| {names} | {default} | {} | {what} |\n", escaped(&row.allowed));
        }
    }
    markdown
}

/// The rows by heading; the rows of one stand together in the table.
fn groups(rows: &[OptionRow]) -> impl Iterator<Item = &[OptionRow]> {
    rows.chunk_by(|a, b| a.heading == b.heading)
}

/// Prose as lines of comment.
fn commented(prose: &str) -> String {
    let mut lines = vec![String::from("##")];
    for word in prose.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= SAMPLE_COLUMNS_MAX => *line += &format!(" {word}"),
            _ => lines.push(format!("## {word}")),
        }
    }
    lines.into_iter().map(|line| line + "\n").collect()
}

/// Keeps characters from being taken for Markdown.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '|' | '*' | '_' | '[' | ']' | '<' | '`' | '\\') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}
