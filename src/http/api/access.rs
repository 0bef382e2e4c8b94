//! Who may ask for what over HTTP: whoever has an API key, or a token with the role for it; where neither is configured,
//! programs on this host; and these also on a development server, where they get a token for any name anyway.
//!
//! Without either a browser on this host is the danger: any page of the web may let it send a form here, and by a name that
//! resolves to this host (DNS rebinding) even read the answer. So the name must be this host's own, no foreign page may
//! stand behind the request, and the body must be of a type that a form cannot have, but for plain text, where the origin
//! alone tells. A proxy on this host would pass strangers
//! off as local ones; what a proxy has written into a request shows it.

use std::sync::Arc;

use warp::http::HeaderMap;
use warp::http::header::{FORWARDED, HOST, VIA};
use warp::http::uri::Authority;

use super::problem::{Kind, Problem};
use crate::config::{AllowedOrigins, ApiKeys};
use crate::http::gate::Caller;
use crate::http::identities::{self, Identities, Unauthorized};
use crate::http::origin;
use crate::identity::{Identity, Role};

/// Names that this host gives itself.
const LOCAL_HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// How headers begin that only proxies write, beside the standard ones.
const MARKS: [&str; 8] = [
    "x-forwarded",
    "x-original-",
    "x-envoy-",
    "x-real-ip",
    "x-cluster-",
    "cf-connecting-ip",
    "true-client-ip",
    "proxy-connection",
];

/// Who may ask for what.
pub struct Access {
    keys: Option<ApiKeys>,
    identities: Arc<Identities>,
    is_development: bool,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requester {
    /// A program with an API key: the key's name.
    Key(String),
    /// Somebody with a token.
    User(Arc<Identity>),
    /// Where there are neither keys nor tokens, or who brings none on a development server: anybody whom [`Access::admit`]
    /// takes for a program on this host.
    Local,
}

impl Requester {
    /// Whose rights on topics count, if they are limited.
    pub fn identity(&self) -> Option<&Arc<Identity>> {
        match self {
            Requester::User(identity) => Some(identity),
            Requester::Key(_) | Requester::Local => None,
        }
    }
}

impl Access {
    pub fn new(keys: Option<ApiKeys>, identities: Arc<Identities>) -> Access {
        Access { keys, identities, is_development: false }
    }

    /// Whether programs on this host need no token, although there is a key for tokens: they could sign in as anybody.
    #[must_use]
    pub fn for_development(self, is_development: bool) -> Access {
        Access { is_development, ..self }
    }

    /// Lets somebody in who has the role, or says what is missing. An API key has all but [`Role::Admin`]; where there are
    /// neither keys nor tokens, a program on this host has all.
    pub async fn admit(&self, caller: &Caller<'_>, role: Role) -> Result<Requester, Problem> {
        let requester = self.requester(caller.headers).await?;
        let missing = || Problem::new(Kind::Forbidden, format!("This needs the role {:?}.", role.name()));
        match &requester {
            Requester::Key(_) if role == Role::Admin => return Err(missing()),
            Requester::User(identity) if !identity.rights.has(role) => return Err(missing()),
            Requester::Key(_) | Requester::User(_) => {}
            Requester::Local => is_local(caller)?,
        }
        Ok(requester)
    }

    /// Lets anybody in who has a token.
    pub async fn admit_user(&self, headers: &HeaderMap) -> Result<Arc<Identity>, Problem> {
        match self.identities.of(headers).await {
            Ok(Some(identity)) => Ok(identity),
            Ok(None) if self.identities.verifier.is_none() => {
                let detail = "This server has no key for tokens (--jwt-key-file, --jwt-jwks).";
                Err(Problem::new(Kind::Unauthorized, detail))
            }
            Ok(None) => Err(Unauthorized::Missing.into()),
            Err(reason) => Err(reason.into()),
        }
    }

    /// Who asks. A token is verified once for it.
    async fn requester(&self, headers: &HeaderMap) -> Result<Requester, Problem> {
        let mut bearers = identities::bearers(headers);
        let key = bearers.next().filter(|_| bearers.next().is_none());
        let owner = self.keys.as_ref().zip(key.as_ref()).and_then(|(keys, key)| keys.owner(key.as_bytes()));
        if let Some(owner) = owner {
            return Ok(Requester::Key(owner.to_owned()));
        }
        if self.identities.verifier.is_some() {
            let needs_none = self.is_development && self.keys.is_none();
            return match self.identities.of(headers).await {
                Ok(Some(identity)) => Ok(Requester::User(identity)),
                Ok(None) | Err(Unauthorized::Missing) if needs_none => Ok(Requester::Local),
                Ok(None) => Err(Unauthorized::Missing.into()),
                Err(reason) => Err(reason.into()),
            };
        }
        match (&self.keys, key) {
            (None, _) => Ok(Requester::Local),
            (Some(_), Some(_)) => Err(Problem::new(Kind::Unauthorized, "This API key is not known.")),
            (Some(_), None) => Err(Problem::new(Kind::Unauthorized, "Send one header \"Authorization: Bearer KEY\".")),
        }
    }
}

impl From<Unauthorized> for Problem {
    fn from(reason: Unauthorized) -> Problem {
        let (kind, detail) = match reason {
            Unauthorized::Missing => {
                (Kind::Unauthorized, "Send one header \"Authorization: Bearer TOKEN\".".to_owned())
            }
            reason if reason.may_pass() => (Kind::CannotVerify, format!("Send it again: {reason}.")),
            reason => (Kind::Unauthorized, format!("Nobody is known by this: {reason}.")),
        };
        Problem::new(kind, detail).because(reason.name())
    }
}

/// Lets a program on this host in.
pub fn is_local(caller: &Caller<'_>) -> Result<(), Problem> {
    let headers = caller.headers;
    let refused = if !caller.peer.0.to_canonical().is_loopback() {
        "Only programs on this host may do this; for others there are API keys (--api-keys-file) and tokens."
    } else if is_forwarded(headers) {
        "A proxy sent this, and only programs on this host may do it; for others there are API keys and tokens."
    } else if !is_addressed_to_this_host(headers) {
        "From this host the server must be called localhost, 127.0.0.1 or [::1]; else there are API keys and tokens."
    } else if !origin::may_connect(&AllowedOrigins::SameOrigin, headers) || origin::is_of_another_site(headers) {
        "Pages of another origin may not do this."
    } else {
        return Ok(());
    };
    Err(Problem::new(Kind::Forbidden, refused))
}

/// Whether any proxy has left its mark.
fn is_forwarded(headers: &HeaderMap) -> bool {
    let is_mark = |name: &str| MARKS.iter().any(|mark| name.starts_with(mark)) || name.ends_with("client-ip");
    headers.contains_key(FORWARDED) || headers.contains_key(VIA) || headers.keys().any(|name| is_mark(name.as_str()))
}

/// Whether the only `Host` names this host.
fn is_addressed_to_this_host(headers: &HeaderMap) -> bool {
    let is_local = |host: &str| LOCAL_HOSTS.iter().any(|local| local.eq_ignore_ascii_case(host));
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next().filter(|_| hosts.next().is_none()).and_then(|host| host.to_str().ok());
    let Some(host) = host.and_then(|host| host.parse::<Authority>().ok()) else { return false };
    let names_user = host.as_str().contains('@');
    !names_user && is_local(host.host())
}

#[cfg(test)]
mod tests {
    use warp::http::header::AUTHORIZATION;
    use warp::http::{HeaderName, Method};

    use super::*;
    use crate::http::peer::Peer;
    use crate::identity::{Key, Rights, Rules, Signer, Tickets, Verifier};
    use crate::user::UserName;

    const SECRET: &[u8] = b"a secret of at least thirty-two bytes";

    fn identities(with_tokens: bool) -> Arc<Identities> {
        let verifier = Verifier::new(Key::parse(SECRET).unwrap(), Rules::default());
        Arc::new(Identities {
            verifier: Some(verifier).filter(|_| with_tokens),
            tickets: Tickets::new(None, 30, 10).unwrap(),
            cookie: "warren_token".parse().unwrap(),
            in_query: false,
            anonymous: true,
            allowed_origins: AllowedOrigins::SameOrigin,
        })
    }

    fn token(roles: &[Role]) -> String {
        let rights = Rights { roles: roles.to_vec(), ..Rights::default() };
        let user = UserName::parse("alice").unwrap();
        let alice = Identity { user, groups: Vec::new(), rights, expires_s: None };
        Signer::of_secret(SECRET).sign(&alice, 1000, &Rules::default()).unwrap()
    }

    /// What the access says to a role.
    fn status_of(access: &Access, role: Role, bearer: Option<&str>) -> u16 {
        let bearer = bearer.map(|bearer| (AUTHORIZATION, format!("Bearer {bearer}").parse().unwrap()));
        let host = (HOST, "localhost".parse().unwrap());
        let headers: HeaderMap = bearer.into_iter().chain([host]).collect();
        let peer = Peer("127.0.0.1".parse().unwrap());
        let caller = Caller { method: &Method::POST, path: "/api/publish", headers: &headers, peer };
        let admitted = futures_util::FutureExt::now_or_never(access.admit(&caller, role)).expect("nothing to wait for");
        admitted.map_or_else(|problem| problem.to_response().status().as_u16(), |_| 200)
    }

    fn status(keys: Option<&ApiKeys>, peer: &str, headers: &[(&'static str, &str)]) -> u16 {
        let headers: HeaderMap =
            headers.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect();
        let peer = Peer(peer.parse().unwrap());
        let caller = Caller { method: &Method::POST, path: "/api/publish", headers: &headers, peer };
        let access = Access::new(keys.cloned(), identities(false));
        let admitted = futures_util::FutureExt::now_or_never(access.admit(&caller, Role::Publish));
        let admitted = admitted.expect("nothing to wait for");
        admitted.map_or_else(|problem| problem.to_response().status().as_u16(), |_| 200)
    }

    #[test]
    fn without_keys_programs_of_this_host_may_publish() {
        for host in ["localhost", "localhost:8080", "LOCALHOST", "127.0.0.1:1", "127.0.0.1", "[::1]", "[::1]:8080"] {
            for peer in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
                assert_eq!(status(None, peer, &[("host", host)]), 200, "{host} {peer}");
            }
        }
        let own_page =
            [("host", "localhost:8080"), ("origin", "http://localhost:8080"), ("sec-fetch-site", "same-origin")];
        assert_eq!(status(None, "127.0.0.1", &own_page), 200);
    }

    #[test]
    fn without_keys_nobody_else_may() {
        let local = "127.0.0.1";
        for peer in ["10.0.0.1", "::ffff:10.0.0.1", "2001:db8::1", "0.0.0.0"] {
            assert_eq!(status(None, peer, &[("host", "localhost")]), 403, "{peer}");
        }
        assert_eq!(status(None, local, &[]), 403, "no Host");
        for host in
            ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "127.0.0.2", "x@localhost", "::1", ""]
        {
            assert_eq!(status(None, local, &[("host", host)]), 403, "{host:?}");
        }
        for (name, value) in [
            ("origin", "http://evil.example"),
            ("origin", "null"),
            ("origin", "http://localhost:3000"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
            ("forwarded", "for=10.0.0.1"),
            ("via", "1.1 proxy"),
            ("cf-connecting-ip", "10.0.0.1"),
            ("x-client-ip", "10.0.0.1"),
            ("fastly-client-ip", "10.0.0.1"),
            ("x-original-forwarded-for", "10.0.0.1"),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-host", "localhost"),
            ("x-forwarded-proto", "https"),
            ("x-real-ip", "127.0.0.1"),
        ] {
            assert_eq!(status(None, local, &[("host", "localhost:8080"), (name, value)]), 403, "{name}: {value}");
        }
    }

    #[test]
    fn with_keys_only_a_key_counts() {
        // The hash of "abc".
        let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let keys = ApiKeys::parse(&format!("shop {hash}")).unwrap();
        let of = |value: Option<&str>| {
            let headers: Vec<_> = value.map(|value| ("authorization", value)).into_iter().collect();
            [("10.0.0.1", &headers), ("127.0.0.1", &headers)].map(|(peer, headers)| status(Some(&keys), peer, headers))
        };
        for value in ["Bearer abc", "bearer abc", "BEARER  abc"] {
            assert_eq!(of(Some(value)), [200; 2], "{value}");
        }
        for value in [None, Some("abc"), Some("Basic abc"), Some("Bearer"), Some("Bearer abd"), Some("Bearer ab c")] {
            assert_eq!(of(value), [401; 2], "{value:?}");
        }
        assert_eq!(of(Some(&format!("Bearer {hash}"))), [401; 2], "the hash is no key");
    }

    #[test]
    fn a_token_has_its_roles_and_a_key_all_but_one() {
        // The hash of "abc".
        let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let keys = ApiKeys::parse(&format!("shop {hash}")).unwrap();
        let [tokens, both] = [None, Some(keys)].map(|keys| Access::new(keys, identities(true)));
        for access in [&tokens, &both] {
            for role in Role::ALL {
                assert_eq!(status_of(access, role, Some(&token(&[role]))), 200);
                assert_eq!(status_of(access, role, Some(&token(&[Role::Admin]))), 200);
                assert_eq!(status_of(access, role, Some(&token(&[]))), 403);
                assert_eq!([None, Some("x")].map(|bearer| status_of(access, role, bearer)), [401; 2], "{role:?}");
            }
            assert_eq!(status_of(access, Role::Publish, Some(&token(&[Role::Send]))), 403);
        }
        assert_eq!(Role::ALL.map(|role| status_of(&both, role, Some("abc"))), [200, 200, 200, 200, 403]);
        assert_eq!(status_of(&tokens, Role::Publish, Some("abc")), 401);
    }

    #[test]
    fn on_a_development_server_programs_of_this_host_need_no_token_but_a_token_counts() {
        let access = Access::new(None, identities(true)).for_development(true);
        for role in Role::ALL {
            assert_eq!(status_of(&access, role, None), 200);
            assert_eq!(status_of(&access, role, Some(&token(&[]))), 403);
            assert_eq!(status_of(&access, role, Some("x")), 401);
        }
        let keys = ApiKeys::parse(&format!("shop {}", "0".repeat(64))).unwrap();
        let with_keys = Access::new(Some(keys), identities(true)).for_development(true);
        assert_eq!(status_of(&with_keys, Role::Publish, None), 401);
    }
}
