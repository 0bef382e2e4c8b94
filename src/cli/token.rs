//! `warren token`: makes a user's token, to try things out and for scripts. It asks no server.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, value_parser};

use super::error::Error;
use super::options::Conflict;
use crate::identity::{Identity, Rights, Role, Rules, Signer, Topics};
use crate::topic::Pattern;
use crate::user::{GroupName, UserName};

/// Names the file with the key for `warren token` where no flag does, as it does for the server.
const KEY_FILE_VARIABLE: &str = "WARREN_JWT_KEY_FILE";

/// The longest life of a token that is made here: ten years.
const SECONDS_MAX: u64 = 10 * 365 * 24 * 3600;

/// What `warren token` is to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Making {
    key_file: PathBuf,
    identity: Identity,
    lasts_s: u64,
    audience: Option<String>,
    issuer: Option<String>,
}

/// Adds the arguments of `warren token`.
pub fn declare(command: clap::Command) -> clap::Command {
    let list =
        |name: &'static str| Arg::new(name).long(name).value_delimiter(',').num_args(1).action(ArgAction::Append);
    command
        .about("Print a token of a user, to try things out")
        .long_about(
            "Prints a JSON Web Token, signed with the secret of --jwt-key-file (HS256) or with the private key in PEM there \
             (RS256, ES256 or EdDSA, to which the server has the public key). Whoever has the token is the user. Exit code: \
             0, 1 if the key cannot be used, 2 for wrong arguments.",
        )
        .args([
            Arg::new("user").long("user").value_name("NAME").required(true).value_parser(UserName::parse),
            list("groups").value_name("NAMES").value_parser(GroupName::parse).help("Groups that the user belongs to"),
            list("roles").value_name("ROLES").value_parser(role).help("Of publish, send, presence, groups and admin"),
            list("subscribe")
                .value_name("TOPICS")
                .value_parser(topic)
                .help("Topics and patterns that may be heard; an empty one is the broadcast [default: everything]"),
            list("publish")
                .value_name("TOPICS")
                .value_parser(topic)
                .help("The same of what may be published to [default: everything]"),
            Arg::new("expires-in-s")
                .long("expires-in-s")
                .value_name("SECONDS")
                .default_value("3600")
                .value_parser(value_parser!(u64).range(1..=SECONDS_MAX))
                .help("How long the token counts"),
            Arg::new("audience").long("audience").value_name("NAME").help("Where the server asks for one (--jwt-audience)"),
            Arg::new("issuer").long("issuer").value_name("NAME").help("Where the server asks for one (--jwt-issuer)"),
            Arg::new("jwt-key-file")
                .long("jwt-key-file")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help(format!("The secret that the server has, or the private key [or: {KEY_FILE_VARIABLE}]")),
        ])
}

/// What the arguments ask for.
pub fn read(matches: &ArgMatches, env: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Making, Conflict> {
    let named = matches.get_one::<PathBuf>("jwt-key-file").cloned();
    let of_variable = || env.into_iter().find(|(name, _)| name == KEY_FILE_VARIABLE).map(|(_, value)| value.into());
    let key_file = named.or_else(of_variable).filter(|path: &PathBuf| !path.as_os_str().is_empty());
    let nameless = || Conflict::new(format!("name the key: --jwt-key-file FILE, or {KEY_FILE_VARIABLE}"));
    let all = |name| matches.get_many::<Role>(name).unwrap_or_default().copied().collect();
    let rights =
        Rights { subscribe: topics(matches, "subscribe"), publish: topics(matches, "publish"), roles: all("roles") };
    let identity = Identity {
        user: matches.get_one::<UserName>("user").cloned().expect("it is required"),
        groups: matches.get_many::<GroupName>("groups").unwrap_or_default().cloned().collect(),
        rights,
        expires_s: None,
    };
    Ok(Making {
        key_file: key_file.ok_or_else(nameless)?,
        identity,
        lasts_s: matches.get_one::<u64>("expires-in-s").copied().expect("it has a default"),
        audience: matches.get_one::<String>("audience").cloned(),
        issuer: matches.get_one::<String>("issuer").cloned(),
    })
}

/// Prints the token.
pub fn run(making: &Making) -> Result<(), Error> {
    let unusable = |reason| Error::Key { path: making.key_file.clone(), reason };
    let signer = Signer::read(&making.key_file).map_err(unusable)?;
    let audiences = making.audience.iter().cloned().collect();
    let rules = Rules { audiences, issuer: making.issuer.clone(), leeway_s: 0 };
    let token = signer.sign(&making.identity, making.lasts_s, &rules).map_err(unusable)?;
    writeln!(io::stdout(), "{token}").map_err(Error::Output)
}

fn role(name: &str) -> Result<Role, String> {
    Role::parse(name).ok_or_else(|| format!("expected one of {}", Role::ALL.map(Role::name).join(", ")))
}

/// A pattern; `None` for the broadcast.
fn topic(name: &str) -> Result<Option<Pattern>, String> {
    let pattern = (!name.is_empty()).then(|| Pattern::parse(name)).transpose();
    pattern.map_err(|reason| reason.to_string())
}

fn topics(matches: &ArgMatches, name: &str) -> Topics {
    let Some(named) = matches.get_many::<Option<Pattern>>(name) else { return Topics::All };
    let broadcast = named.clone().any(Option::is_none);
    Topics::Only { patterns: named.flatten().cloned().collect(), broadcast }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn making_by(words: &str, env: &[(&str, &str)]) -> Result<Making, String> {
        let words = ["token"].into_iter().chain(words.split(' '));
        let matches =
            declare(clap::Command::new("token")).try_get_matches_from(words).map_err(|error| error.to_string())?;
        let env = env.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        read(&matches, env).map_err(|conflict| conflict.to_string())
    }

    fn making(words: &str) -> Result<Making, String> {
        making_by(&format!("--jwt-key-file key {words}"), &[])
    }

    #[test]
    fn the_key_is_named_by_the_flag_or_else_by_the_variable() {
        let variable = [(KEY_FILE_VARIABLE, "other")];
        assert_eq!(making_by("--user alice", &variable).unwrap().key_file, PathBuf::from("other"));
        assert_eq!(making_by("--jwt-key-file key --user alice", &variable).unwrap().key_file, PathBuf::from("key"));
        for env in [&[][..], &[(KEY_FILE_VARIABLE, "")]] {
            let error = making_by("--user alice", env).expect_err("refused");
            assert!(error.contains("--jwt-key-file") && error.contains(KEY_FILE_VARIABLE), "{error}");
        }
    }

    #[test]
    fn each_argument_arrives() {
        let making =
            making("--user alice --groups a,b --roles send --roles admin --subscribe a.*,,b --expires-in-s 5").unwrap();
        let Identity { user, groups, rights, .. } = making.identity;
        assert_eq!((user.as_str(), groups.len(), making.lasts_s), ("alice", 2, 5));
        assert_eq!(rights.roles, [Role::Send, Role::Admin]);
        let patterns = ["a.*", "b"].map(|name| Pattern::parse(name).unwrap()).to_vec();
        assert_eq!(rights.subscribe, Topics::Only { patterns, broadcast: true });
        assert_eq!(rights.publish, Topics::All);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for words in
            ["--groups a", "--user \t", "--user a --roles king", "--user a --publish a..b", "--user a --expires-in-s 0"]
        {
            assert!(making(words).is_err(), "{words}");
        }
    }
}
