use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use warp::http::header::HOST;
use warp::http::{HeaderName, HeaderValue};

use super::*;
use crate::fuzzing::fuzz;
use crate::identity::{Key, Rights, Rules, Signer};
use crate::user::UserName;

const SECRET: &[u8] = b"a secret of at least thirty-two bytes";

fn identities() -> Identities {
    let verifier = Verifier::new(Key::parse(SECRET).unwrap(), Rules::default());
    Identities {
        verifier: Some(verifier),
        tickets: Tickets::new(None, 30, 10).unwrap(),
        cookie: "warren_token".parse().unwrap(),
        in_query: false,
        anonymous: false,
        allowed_origins: AllowedOrigins::SameOrigin,
    }
}

fn alice() -> Identity {
    let user = UserName::parse("alice").unwrap();
    Identity { user, groups: Vec::new(), rights: Rights::default(), expires_s: None }
}

fn token() -> String {
    Signer::of_secret(SECRET).sign(&alice(), 1000, &Rules::default()).unwrap()
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(HOST, HeaderValue::from_static("warren.example"));
    for (name, value) in pairs {
        headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

/// Whose session it is, or why it is none.
async fn whose(identities: &Identities, pairs: &[(&'static str, &str)], query: &str) -> Result<String, Unauthorized> {
    let identity = identities.of_session(&headers(pairs), query, Redeeming::Spends).await?;
    Ok(identity.map_or_else(|| "anybody".to_owned(), |identity| identity.user.to_string()))
}

#[tokio::test]
async fn a_token_is_found_wherever_it_may_be() {
    let (identities, token) = (identities(), token());
    let alice = Ok("alice".to_owned());
    let bearer = |scheme: &str| format!("{scheme} {token}");
    for scheme in ["Bearer", "bearer", "BEARER ", "Bearer\t", " bearer \t"] {
        assert_eq!(whose(&identities, &[("authorization", &bearer(scheme))], "").await, alice);
    }
    for offered in ["warren.v1.json, bearer.{}", "bearer.{}", ",bearer.{} ,warren.v1.plain"] {
        let offered = offered.replace("{}", &token);
        assert_eq!(whose(&identities, &[("sec-websocket-protocol", &offered)], "").await, alice, "{offered}");
    }
    let two_lines =
        [("sec-websocket-protocol", "warren.v1.json"), ("sec-websocket-protocol", &*format!("bearer.{token}"))];
    assert_eq!(whose(&identities, &two_lines, "").await, alice);
    let ticket = identities.tickets.give(&self::alice()).unwrap();
    assert_eq!(whose(&identities, &[], &format!("a=b&ticket={ticket}")).await, alice);
    let spent = Err(Unauthorized::Ticket(NoTicket::Spent));
    assert_eq!(whose(&identities, &[], &format!("ticket={ticket}")).await, spent);
    let query = format!("token={token}");
    assert_eq!(whose(&identities, &[], &query).await, Err(Unauthorized::Missing), "not unless it is switched on");
    assert_eq!(whose(&Identities { in_query: true, ..identities }, &[], &query).await, alice);
}

#[tokio::test]
async fn two_at_once_are_none() {
    let (identities, token) = (Identities { in_query: true, ..identities() }, token());
    let (bearer, offered, query) = (format!("Bearer {token}"), format!("bearer.{token}"), format!("token={token}"));
    let [header, protocol] = [("authorization", &*bearer), ("sec-websocket-protocol", &*offered)];
    let twice = format!("{offered}, {offered}");
    for (headers, query) in [
        (&[header, header][..], ""),
        (&[header, ("authorization", "Bearer x")], ""),
        (&[header, protocol], ""),
        (&[protocol], &*query),
        (&[("sec-websocket-protocol", &twice)], ""),
        (&[header], "ticket=x"),
        (&[], "ticket=x&ticket=x"),
        (&[], &format!("{query}&{query}")),
    ] {
        assert_eq!(whose(&identities, headers, query).await, Err(Unauthorized::Several), "{headers:?} {query}");
    }
    let other_scheme = [("authorization", "Basic eA=="), header];
    assert_eq!(whose(&identities, &other_scheme, "").await, Ok("alice".to_owned()));
}

#[tokio::test]
async fn a_cookie_counts_from_pages_that_may_use_it() {
    let (identities, token) = (identities(), token());
    let cookie = format!("a=b; warren_token={token}; c");
    let with = |name: &'static str, value: &'static str| [("cookie", cookie.clone()), (name, value.to_owned())];
    let of = async |identities: &Identities, pairs: &[(&'static str, String)]| {
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| (*name, &**value)).collect();
        whose(identities, &pairs, "").await
    };
    let (alice, missing) = (Ok("alice".to_owned()), Err(Unauthorized::Missing));
    assert_eq!(of(&identities, &with("origin", "https://warren.example")).await, alice);
    assert_eq!(of(&identities, &with("sec-fetch-site", "same-origin")).await, alice);
    for (name, value) in [
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("sec-fetch-site", "none"),
        ("x-other", "x"),
    ] {
        assert_eq!(of(&identities, &with(name, value)).await, missing, "{name}: {value}");
    }
    let any = Identities { allowed_origins: AllowedOrigins::Any, ..self::identities() };
    assert_eq!(of(&any, &with("origin", "https://evil.example")).await, missing);
    assert_eq!(of(&any, &with("origin", "https://warren.example")).await, alice);
    let listed = AllowedOrigins::Listed(vec!["https://app.example".parse().unwrap()]);
    let listed = Identities { allowed_origins: listed, ..self::identities() };
    assert_eq!(of(&listed, &with("origin", "https://app.example")).await, alice);
    let both =
        [("cookie", cookie.clone()), ("origin", "https://warren.example".into()), ("authorization", "Bearer x".into())];
    assert_eq!(of(&identities, &both).await, Err(Unauthorized::Token(Unverified::Malformed)), "what was said counts");
    let twice = [("cookie", cookie.clone()), ("cookie", cookie.clone()), ("origin", "https://warren.example".into())];
    assert_eq!(of(&identities, &twice).await, Err(Unauthorized::Several));
    let beside = [("cookie", format!("a=é; warren_token={token}")), ("origin", "https://warren.example".into())];
    assert_eq!(of(&identities, &beside).await, alice);
    let quoted = [("cookie", format!("warren_token=\"{token}\"")), ("origin", "https://warren.example".into())];
    assert_eq!(of(&identities, &quoted).await, alice);
}

#[tokio::test]
async fn who_brings_nothing_is_anybody_where_that_is_allowed() {
    let open = Identities { anonymous: true, ..identities() };
    assert_eq!(whose(&open, &[], "").await, Ok("anybody".to_owned()));
    assert_eq!(whose(&identities(), &[], "").await, Err(Unauthorized::Missing));
    let malformed = Err(Unauthorized::Token(Unverified::Malformed));
    for wrong in
        ["Bearer x", "Bearer", "bearer ", "Bearer\tx", "bearer\t", "Bearer é", "Bearer \u{a0}x", "bEARER \u{ff42}.b.c"]
    {
        assert_eq!(whose(&open, &[("authorization", wrong)], "").await, malformed, "{wrong}");
    }
    for other in ["Basic x", "Bearerx", "é", "", "Bearer\u{a0}x"] {
        let headers = [("authorization", other)];
        assert_eq!(whose(&open, &headers, "").await, Ok("anybody".to_owned()), "another scheme: {other}");
    }
    for (name, value) in [("sec-websocket-protocol", "warren.v1.json, bearer.é")] {
        assert_eq!(whose(&open, &[(name, value)], "").await, malformed, "{value}");
    }
    let without = Identities { verifier: None, ..open };
    assert_eq!(whose(&without, &[("authorization", "Bearer x")], "ticket=x").await, Ok("anybody".to_owned()));
}

#[tokio::test]
async fn a_ticket_stays_where_nothing_is_opened_for_it() {
    let identities = identities();
    let query = format!("ticket={}", identities.tickets.give(&alice()).unwrap());
    let looked = identities.of_session(&headers(&[]), &query, Redeeming::Looks).await;
    assert_eq!(looked.unwrap().map(|identity| identity.user.to_string()), Some("alice".to_owned()));
    assert_eq!(whose(&identities, &[], &query).await, Ok("alice".to_owned()));
}

#[test]
fn credentials_are_left_out_of_queries() {
    let (closed, open) = (identities(), Identities { in_query: true, ..identities() });
    for (query, by_ticket, by_both) in [
        ("", "", ""),
        ("topic=a&ticket=x", "topic=a", "topic=a"),
        ("%74icket=x&topic=a&token=y", "topic=a&token=y", "topic=a"),
        ("ticket", "", ""),
        ("&&a", "&&a", "&&a"),
    ] {
        assert_eq!((&*closed.without_credentials(query), &*open.without_credentials(query)), (by_ticket, by_both));
    }
}

/// Whatever headers and queries are, reading them ends, and what is left of a query holds no ticket.
#[test]
fn fuzz_what_is_brought() {
    let pieces = select(vec![
        "warren_token",
        "=",
        ";",
        "\"",
        " ",
        ",",
        "bearer.",
        "Bearer",
        "ticket",
        "token",
        "&",
        "%74",
        "%FF",
        "+",
        "x",
        "é",
    ]);
    let text = vec(pieces, 0..14).prop_map(|pieces| pieces.concat());
    let identities = identities();
    fuzz("what is brought", (text.clone(), text), |(header, query)| {
        if let Ok(value) = HeaderValue::from_str(&header) {
            let names = [COOKIE, AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL];
            let headers: HeaderMap = names.into_iter().map(|name| (name, value.clone())).collect();
            for found in bearers(&headers).chain(offered(&headers)).chain(cookies(&headers, "warren_token")) {
                assert!(header.contains(&*found));
            }
        }
        assert_eq!(in_query(&identities.without_credentials(&query), false).count(), 0, "{query}");
    });
}
