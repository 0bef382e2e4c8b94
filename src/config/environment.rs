//! Which environment variables are Warren's. One that begins with `WARREN_` and is not known is an error: a misspelt
//! variable would otherwise change nothing and say nothing.

use std::collections::HashMap;
use std::ffi::OsString;

use super::error::{Error, closest};
use super::table::VARIABLE_PREFIX;

/// Variables of the scripts around Warren and of its clients; the server takes no notice of them.
const OTHERS_VARIABLES: [&str; 5] = [
    "WARREN_BIN",
    "WARREN_PORTS",
    "WARREN_RABBITMQ_EXTRA_CONF",
    crate::cli::API_KEY_VARIABLE,
    crate::cli::TOKEN_VARIABLE,
];

/// The variables among `env` that set one of the `known`, by name.
pub fn select(
    env: impl IntoIterator<Item = (OsString, OsString)>,
    known: &[String],
) -> Result<HashMap<String, OsString>, Error> {
    let mut selected = HashMap::new();
    for (name, value) in env {
        let name = name.to_string_lossy().into_owned();
        if !name.starts_with(VARIABLE_PREFIX) || OTHERS_VARIABLES.contains(&name.as_str()) {
            continue;
        }
        if is_service_link(&name, &value.to_string_lossy()) {
            continue;
        }
        if !known.contains(&name) {
            let suggestion = closest(&name, known.iter().cloned());
            return Err(Error::UnknownVariable { name, suggestion });
        }
        selected.insert(name, value);
    }
    Ok(selected)
}

/// Whether Kubernetes set it. A pod finds the address of each service of its namespace in its environment; those of a
/// service called `warren` or `warren-…` look like Warren's own, `WARREN_PORT=tcp://10.0.0.7:8080` even like an option.
fn is_service_link(name: &str, value: &str) -> bool {
    const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
    let parts: Vec<&str> = name.split('_').collect();
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let names_a_service = parts.windows(2).any(|pair| pair[0] == "SERVICE" && matches!(pair[1], "HOST" | "PORT"));
    let names_a_port =
        parts.windows(3).any(|three| three[0] == "PORT" && is_number(three[1]) && PROTOCOLS.contains(&three[2]));
    let is_link = name.ends_with("_PORT")
        && value.split_once("://").is_some_and(|(scheme, _)| PROTOCOLS.contains(&scheme.to_ascii_uppercase().as_str()));
    names_a_service || names_a_port || is_link
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_selected(env: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let env = env.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let known = ["WARREN_PORT", "WARREN_HOST"].map(str::to_owned);
        let selected = select(env, &known).map_err(|error| error.to_string())?;
        let mut names: Vec<String> = selected.into_keys().collect();
        names.sort();
        Ok(names)
    }

    #[test]
    fn only_own_variables_are_taken() {
        let env = [("PATH", "/bin"), ("WARREN_PORT", "1"), ("WARREN_HOST", "::"), ("WARREN_BIN", "x"), ("WARRENS", "")];
        assert_eq!(names_selected(&env), Ok(vec!["WARREN_HOST".to_owned(), "WARREN_PORT".to_owned()]));
    }

    #[test]
    fn an_unknown_variable_is_an_error_with_a_suggestion_if_one_is_near() {
        let near = Err("unknown environment variable WARREN_PROT; did you mean WARREN_PORT?".to_owned());
        assert_eq!(names_selected(&[("WARREN_PROT", "1")]), near);
        let lower_case = Ok(Vec::new());
        assert_eq!(names_selected(&[("warren_port", "1")]), lower_case);
    }

    #[test]
    fn what_kubernetes_sets_for_a_service_called_warren_is_ignored() {
        let env = [
            ("WARREN_SERVICE_HOST", "10.0.0.7"),
            ("WARREN_SERVICE_PORT", "8080"),
            ("WARREN_SERVICE_PORT_HTTP", "8080"),
            ("WARREN_PORT", "tcp://10.0.0.7:8080"),
            ("WARREN_PORT_8080_TCP", "tcp://10.0.0.7:8080"),
            ("WARREN_PORT_8080_TCP_PROTO", "tcp"),
            ("WARREN_PORT_8080_TCP_PORT", "8080"),
            ("WARREN_PORT_8080_TCP_ADDR", "10.0.0.7"),
            ("WARREN_BLUE_SERVICE_HOST", "10.0.0.8"),
            ("WARREN_BLUE_PORT", "tcp://10.0.0.8:80"),
        ];
        assert_eq!(names_selected(&env), Ok(Vec::new()));
    }
}
