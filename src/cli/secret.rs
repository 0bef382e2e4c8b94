//! What a client says to be let in: from a file or the environment, never from the command line, which others can read.

use std::ffi::OsString;
use std::path::Path;

use super::options::Conflict;

/// The secret in `file`, which the flag names, or else in the variable.
pub fn read(
    flag: &str,
    file: Option<&Path>,
    variable: &str,
    env: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Option<String>, Conflict> {
    let text = match file {
        Some(path) => Some(
            std::fs::read_to_string(path)
                .map_err(|error| Conflict::new(format!("{flag}: cannot read {}: {error}", path.display())))?,
        ),
        None => {
            let found = env.into_iter().find(|(name, _)| name == variable);
            let text = found.map(|(_, value)| value.into_string()).transpose();
            text.map_err(|_| Conflict::new(format!("{variable}: the value is not valid UTF-8")))?
        }
    };
    let Some(secret) = text.map(|text| text.trim().to_owned()) else { return Ok(None) };
    // Whatever else could not stand in a header.
    if secret.is_empty() || !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
        let label = if file.is_some() { flag } else { variable };
        return Err(Conflict::new(format!("{label}: a key or a token is visible characters of ASCII, and no more")));
    }
    Ok(Some(secret))
}
