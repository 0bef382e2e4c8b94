//! `docs/openapi.yaml` describes the routes of the table, with what they answer.

use std::collections::BTreeSet;

use yaml_rust2::{Yaml, YamlLoader};

use super::problem::Kind;
use crate::http::table::{ROUTES, Requires};

fn description() -> Yaml {
    let text = include_str!("../../../docs/openapi.yaml");
    YamlLoader::load_from_str(text).expect("it is YAML").swap_remove(0)
}

fn keys(yaml: &Yaml) -> BTreeSet<String> {
    let hash = yaml.as_hash().unwrap_or_else(|| panic!("no mapping: {yaml:?}"));
    hash.keys().map(|key| key.as_str().expect("a text").to_owned()).collect()
}

/// Every reference beneath `yaml`.
fn references(yaml: &Yaml, found: &mut BTreeSet<String>) {
    match yaml {
        Yaml::Hash(hash) => {
            found.extend(yaml["$ref"].as_str().map(str::to_owned));
            hash.values().for_each(|value| references(value, found));
        }
        Yaml::Array(array) => array.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn every_route_for_programs_is_described_and_nothing_else() {
    let description = description();
    assert_eq!(description["openapi"].as_str(), Some("3.1.0"));
    assert_eq!(description["info"]["version"].as_str(), Some(env!("CARGO_PKG_VERSION")));
    let of_table = ROUTES.iter().filter(|route| !matches!(route.requires, Requires::Nothing | Requires::Handshake));
    let of_table: BTreeSet<_> = of_table.map(|route| (route.path.to_owned(), route.allow().to_lowercase())).collect();
    let paths = &description["paths"];
    let is_method = |key: &String| key != "parameters";
    let methods = |path: &str| keys(&paths[path]).into_iter().filter(is_method).collect::<Vec<_>>().join(", ");
    let described: BTreeSet<_> = keys(paths).into_iter().map(|path| (path.clone(), methods(&path))).collect();
    assert_eq!(described, of_table);
}

/// Where a token is asked for.
const OF_TOKENS: [Kind; 2] = [Kind::Unauthorized, Kind::CannotVerify];

/// What a route may answer beside 200. What is not found has no route, but for one that is there for development alone.
fn kinds(path: &str) -> Vec<Kind> {
    match path {
        "/events" => Kind::OF_LISTENING.to_vec(),
        "/api/users/{user}/messages" | "/api/groups/{group}/messages" | "/wsTemplate/sendToUser" => {
            let of_names = [Kind::MailboxFull, Kind::NotKept, Kind::NoMembers, Kind::BadName];
            Kind::of_publishing().filter(|kind| *kind != Kind::NotFound).chain(of_names).collect()
        }
        "/api/groups/{group}/members/{user}" => {
            let own = [Kind::BadName, Kind::Forbidden, Kind::NotKept];
            [&own[..], &OF_TOKENS, &[Kind::WrongMethod]].concat()
        }
        "/api/unread" => [&OF_TOKENS[..], &[Kind::WrongMethod, Kind::NotKept, Kind::Overloaded]].concat(),
        "/wsTemplate/pullUnreadMessage" => vec![Kind::WrongMethod],
        path if path.starts_with("/api/presence") => Kind::OF_PRESENCE.to_vec(),
        "/api/whoami" => [&OF_TOKENS[..], &[Kind::ForeignOrigin, Kind::WrongMethod]].concat(),
        "/api/ticket" => [&OF_TOKENS[..], &[Kind::WrongMethod, Kind::Overloaded]].concat(),
        "/api/sign-in" => vec![
            Kind::MalformedJson,
            Kind::Forbidden,
            Kind::NotFound,
            Kind::WrongMethod,
            Kind::BodyTimeout,
            Kind::TooLarge,
            Kind::UnsupportedMediaType,
        ],
        _ => Kind::of_publishing().filter(|kind| *kind != Kind::NotFound).collect(),
    }
}

#[test]
fn every_route_has_every_status_that_there_is() {
    let description = description();
    for path in keys(&description["paths"]) {
        let of_path = &description["paths"][path.as_str()];
        for method in keys(of_path).into_iter().filter(|key| key != "parameters") {
            let statuses = kinds(&path).into_iter().map(|kind| kind.status().as_u16().to_string());
            let described = keys(&of_path[method.as_str()]["responses"]);
            assert_eq!(described, statuses.chain(["200".to_owned()]).collect(), "{method} {path}");
        }
    }
}

#[test]
fn every_reference_leads_somewhere_and_every_component_is_used() {
    let description = description();
    let mut found = BTreeSet::new();
    references(&description, &mut found);
    let mut defined = BTreeSet::new();
    for part in ["parameters", "responses", "schemas"] {
        defined.extend(keys(&description["components"][part]).iter().map(|name| format!("#/components/{part}/{name}")));
    }
    assert_eq!(found, defined);
}
