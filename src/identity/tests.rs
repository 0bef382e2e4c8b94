//! Tokens that are true, and all that somebody may hand in instead.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

use super::claims::Claims;
use super::*;
use crate::fuzzing::fuzz;
use crate::message::now_unix_ms;

const SECRET: &[u8] = b"a secret of at least thirty-two bytes";
const RSA: &[u8] = include_bytes!("../../tests/keys/rsa.pem");
const RSA_PUBLIC: &[u8] = include_bytes!("../../tests/keys/rsa.pub.pem");
const P256: &[u8] = include_bytes!("../../tests/keys/p256.pem");
const P256_PUBLIC: &[u8] = include_bytes!("../../tests/keys/p256.pub.pem");
const ED25519: &[u8] = include_bytes!("../../tests/keys/ed25519.pem");
const ED25519_PUBLIC: &[u8] = include_bytes!("../../tests/keys/ed25519.pub.pem");
const P384_PUBLIC: &[u8] = include_bytes!("../../tests/keys/p384.pub.pem");
const RSA_1024_PUBLIC: &[u8] = include_bytes!("../../tests/keys/rsa1024.pub.pem");

fn now_s() -> u64 {
    now_unix_ms() / 1000
}

fn verifier(key: &[u8], rules: Rules) -> Verifier {
    Verifier::new(Key::parse(key).expect("a key"), rules)
}

/// What a token of these claims, signed with [`SECRET`], is.
fn verified(claims: &Value, rules: Rules) -> Result<Identity, Unverified> {
    verifier(SECRET, rules).verify_now(&signed(claims))
}

fn signed(claims: &Value) -> String {
    encode(&Header::default(), claims, &EncodingKey::from_secret(SECRET)).expect("a token")
}

fn good() -> Value {
    json!({"sub": "alice", "exp": now_s() + 1000})
}

/// Good claims with another one.
fn with(name: &str, value: Value) -> Value {
    let mut claims = good();
    claims[name] = value;
    claims
}

/// Good claims with one less.
fn without(name: &str) -> Value {
    let mut claims = good();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

fn alice() -> Identity {
    let user = UserName::parse("alice").unwrap();
    Identity { user, groups: Vec::new(), rights: Rights::default(), expires_s: None }
}

#[test]
fn each_kind_of_key_verifies_what_its_other_half_signed() {
    let pairs = [(SECRET, SECRET), (RSA, RSA_PUBLIC), (P256, P256_PUBLIC), (ED25519, ED25519_PUBLIC)];
    for (index, (private, _)) in pairs.iter().enumerate() {
        let token = Signer::parse(private).unwrap().sign(&alice(), 1000, &Rules::default()).unwrap();
        for (other, (_, public)) in pairs.iter().enumerate() {
            let verified = verifier(public, Rules::default()).verify_now(&token);
            match index == other {
                true => assert_eq!(verified.map(|identity| identity.user.to_string()), Ok("alice".to_owned())),
                false => assert_eq!(verified, Err(Unverified::Algorithm), "{index} {other}"),
            }
        }
    }
}

#[test]
fn a_key_that_would_be_weak_or_a_mistake_is_refused() {
    for private in [RSA, P256, ED25519] {
        assert!(matches!(Key::parse(private), Err(InvalidKeys::Private)));
    }
    for unknown in [P384_PUBLIC, RSA_1024_PUBLIC, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        assert!(matches!(Key::parse(unknown), Err(InvalidKeys::Unknown)));
    }
    assert!(matches!(Key::parse(&[b'x'; 31]), Err(InvalidKeys::File(InvalidKeyFile::Short))));
    assert_eq!(Key::parse(&[SECRET, b"\n"].concat()).unwrap().secret(), Some(SECRET));
    assert!(matches!(Signer::parse(RSA_PUBLIC), Err(InvalidSigningKey::NotPrivate)));
}

/// The classic: a public key, which everybody knows, as the secret.
#[test]
fn swapping_the_algorithm_gains_nothing() {
    for public in [RSA_PUBLIC, P256_PUBLIC, ED25519_PUBLIC] {
        for secret in [public, public.trim_ascii_end()] {
            let token = encode(&Header::default(), &good(), &EncodingKey::from_secret(secret)).unwrap();
            assert_eq!(verifier(public, Rules::default()).verify_now(&token), Err(Unverified::Algorithm));
        }
    }
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    for algorithm in ["none", "None", "NONE", "", "HS1", "hs256"] {
        for signature in ["", "AAAA"] {
            let token = format!("{}.{}.{signature}", part(&json!({"alg": algorithm})), part(&good()));
            assert_eq!(verifier(SECRET, Rules::default()).verify_now(&token), Err(Unverified::Malformed), "{token}");
        }
    }
    for algorithm in [Algorithm::HS384, Algorithm::HS512] {
        let token = encode(&Header::new(algorithm), &good(), &EncodingKey::from_secret(SECRET)).unwrap();
        assert_eq!(verifier(SECRET, Rules::default()).verify_now(&token), Err(Unverified::Algorithm));
    }
}

#[test]
fn what_was_signed_by_nobody_here_is_refused() {
    let token = signed(&good());
    let other = verifier(b"another secret of thirty-two bytes and more", Rules::default());
    assert_eq!(other.verify_now(&token), Err(Unverified::Signature));
    let (said, signature) = token.rsplit_once('.').unwrap();
    let header = said.split('.').next().unwrap();
    let claims = URL_SAFE_NO_PAD.encode(with("sub", json!("mallory")).to_string());
    for damaged in [
        format!("{header}.{claims}.{signature}"),
        format!("{said}."),
        format!("{said}.AAAA"),
        format!("{said}.{}", &signature[..signature.len() - 2]),
    ] {
        let verified = verifier(SECRET, Rules::default()).verify_now(&damaged);
        assert!(matches!(verified, Err(Unverified::Signature | Unverified::Malformed)), "{damaged}: {verified:?}");
    }
    for nonsense in ["", ".", "..", "...", "a", said, "🦀.🦀.🦀", &format!("{token}.{signature}"), &format!(" {token}")]
    {
        assert_eq!(verifier(SECRET, Rules::default()).verify_now(nonsense), Err(Unverified::Malformed), "{nonsense}");
    }
    let header = Header { crit: Some(vec!["b64".to_owned()]), ..Header::default() };
    let critical = encode(&header, &good(), &EncodingKey::from_secret(SECRET)).unwrap();
    assert_eq!(verifier(SECRET, Rules::default()).verify_now(&critical), Err(Unverified::Malformed));
}

#[test]
fn size_and_depth_are_bounded() {
    assert_eq!(verified(&with("x", json!("x".repeat(8000))), Rules::default()), Err(Unverified::TooLong));
    let verified_with = |name: &str| {
        let nested = format!("{}{}", "[".repeat(2000), "]".repeat(2000));
        let claims = format!("{{\"sub\":\"alice\",\"exp\":{},\"{name}\":{nested}}}", now_s() + 1000);
        let head = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
        let message = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims));
        let key = EncodingKey::from_secret(SECRET);
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
        verifier(SECRET, Rules::default()).verify_now(&format!("{message}.{signature}"))
    };
    for name in ["aud", "groups", "subscribe"] {
        assert_eq!(verified_with(name), Err(Unverified::Malformed), "{name}");
    }
    assert!(verified_with("x").is_ok(), "what does not count is passed over, however deep");
}

#[test]
fn a_token_counts_in_its_time() {
    let leeway = |leeway_s| Rules { leeway_s, ..Rules::default() };
    let at = |name: &str, seconds: i64| with(name, json!(now_s() as i64 + seconds));
    assert_eq!(verified(&at("exp", -2), leeway(0)), Err(Unverified::Expired));
    assert_eq!(verified(&at("exp", 0), leeway(0)), Err(Unverified::Expired), "on that second it has");
    assert_eq!(verified(&at("exp", -7), leeway(7)), Err(Unverified::Expired));
    assert!(verified(&at("exp", -7), leeway(17)).is_ok());
    assert_eq!(verified(&at("exp", -2), leeway(1)), Err(Unverified::Expired));
    assert!(verified(&at("exp", -2), leeway(60)).is_ok());
    assert_eq!(verified(&at("nbf", 60), leeway(0)), Err(Unverified::NotYetValid));
    assert!(verified(&at("nbf", 5), leeway(60)).is_ok() && verified(&at("nbf", -5), leeway(0)).is_ok());
    assert_eq!(verified(&without("exp"), leeway(0)), Err(Unverified::Claim("exp")));
    for wrong in [Value::Null, json!("tomorrow"), json!([]), json!([1]), json!({"a": 1}), json!(true), json!(-1)] {
        assert_eq!(verified(&with("exp", wrong.clone()), leeway(0)), Err(Unverified::Claim("exp")), "{wrong}");
    }
    for wrong in [Value::Null, json!("x"), json!(true)] {
        assert_eq!(verified(&with("nbf", wrong.clone()), leeway(0)), Err(Unverified::Claim("nbf")), "{wrong}");
    }
    assert_eq!(verified(&with("exp", json!(u64::MAX)), leeway(60)).unwrap().expires_s, Some(u64::MAX));
    assert_eq!(verified(&with("exp", json!(1e300)), leeway(60)), Err(Unverified::Claim("exp")));
    let ends = now_s() + 500;
    assert_eq!(verified(&with("exp", json!(ends)), leeway(7)).unwrap().expires_s, Some(ends + 7));
}

#[test]
fn by_whom_and_for_whom_is_asked_where_it_is_configured() {
    let audience = || Rules { audiences: vec!["warren".into(), "w2".into()], ..Rules::default() };
    for aud in [json!("warren"), json!(["other", "w2"])] {
        assert!(verified(&with("aud", aud), audience()).is_ok());
    }
    for aud in [json!("other"), json!([]), json!(["other"]), json!(5), Value::Null] {
        assert_eq!(verified(&with("aud", aud.clone()), audience()), Err(Unverified::Audience), "{aud}");
    }
    assert_eq!(verified(&without("aud"), audience()), Err(Unverified::Audience));
    let issuer = || Rules { issuer: Some("https://idp.example".into()), ..Rules::default() };
    assert!(verified(&with("iss", json!("https://idp.example")), issuer()).is_ok());
    for iss in [json!("https://idp.example/"), json!(""), json!({}), Value::Null] {
        assert_eq!(verified(&with("iss", iss.clone()), issuer()), Err(Unverified::Issuer), "{iss}");
    }
    assert_eq!(verified(&without("iss"), issuer()), Err(Unverified::Issuer));
    for other in [json!("other"), json!(5)] {
        assert!(verified(&with("aud", other.clone()), Rules::default()).is_ok());
        assert!(verified(&with("iss", other), Rules::default()).is_ok());
    }
}

#[test]
fn claims_say_who_and_what() {
    let mut claims = good();
    claims["groups"] = json!(["class", "choir", "class"]);
    claims["roles"] = json!(["send", "king", "publish"]);
    claims["subscribe"] = json!(["orders.*", ""]);
    claims["publish"] = json!(["/chat/#"]);
    let identity = verified(&claims, Rules::default()).unwrap();
    assert_eq!(identity.groups, ["class", "choir"].map(|name| GroupName::parse(name).unwrap()));
    let Rights { roles, .. } = &identity.rights;
    assert_eq!(roles, &[Role::Send, Role::Publish]);
    let pattern = |name: &str| Pattern::parse(name).unwrap();
    let topic = |name: &str| Topic::parse(name).unwrap();
    let rights = &identity.rights;
    assert!(rights.may_subscribe(&pattern("orders.eu")) && rights.may_hear_broadcast());
    assert!(!rights.may_subscribe(&pattern("orders.#")) && !rights.may_subscribe(&pattern("chat")));
    assert!(rights.may_publish(&topic("chat.room")) && !rights.may_publish(&topic("orders.eu")));
    assert!(!rights.may_broadcast());
    assert!(rights.has(Role::Send) && !rights.has(Role::Presence) && !rights.has(Role::Admin));
    let all = verified(&with("roles", json!(["admin"])), Rules::default()).unwrap().rights;
    assert!(Role::ALL.iter().all(|role| all.has(*role)));
    assert!(all.may_broadcast() && all.may_hear_broadcast() && all.may_subscribe(&pattern("#")));
    let nothing = verified(&with("subscribe", json!([])), Rules::default()).unwrap().rights;
    assert!(!nothing.may_subscribe(&pattern("a")) && !nothing.may_hear_broadcast());
}

#[test]
fn claims_that_are_not_what_they_must_be_are_refused() {
    for (name, wrong) in [
        ("sub", json!("")),
        ("sub", json!(" alice")),
        ("sub", json!("x".repeat(129))),
        ("sub", json!(42)),
        ("sub", json!({"a": 1})),
        ("sub", json!(["alice"])),
        ("groups", json!([""])),
        ("groups", json!("class")),
        ("groups", json!([1])),
        ("groups", json!([null])),
        ("roles", json!({})),
        ("roles", json!("admin")),
        ("subscribe", json!(["a..b"])),
        ("subscribe", json!("#")),
        ("subscribe", json!({"0": "a"})),
        ("subscribe", json!(false)),
        ("publish", json!(["a b"])),
        ("publish", json!(0)),
        ("publish", json!([["a"]])),
    ] {
        assert_eq!(verified(&with(name, wrong.clone()), Rules::default()), Err(Unverified::Claim(name)), "{wrong}");
    }
    assert_eq!(verified(&without("sub"), Rules::default()), Err(Unverified::Claim("sub")));
    for other in [json!(42), Value::Null, json!({})] {
        assert!(verified(&with("jti", other), Rules::default()).is_ok(), "it says nothing here");
    }
}

/// An issuer that means "nothing" must not grant everything.
#[test]
fn a_claim_that_is_null_grants_nothing() {
    for name in ["sub", "groups", "roles", "subscribe", "publish"] {
        let refused = verified(&with(name, Value::Null), Rules::default());
        assert_eq!(refused, Err(Unverified::Claim(name)), "{name}");
    }
}

#[test]
fn a_set_has_its_keys_by_their_ids() {
    let secret = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let one = json!({"kty": "oct", "kid": "one", "k": secret(SECRET)});
    let two = json!({"kty": "oct", "kid": "two", "alg": "HS256", "k": secret(&[b'2'; 32])});
    let useless = [
        json!({"kty": "oct", "kid": "short", "k": "AAAA"}),
        json!({"kty": "oct", "kid": "hs512", "alg": "HS512", "k": secret(&[b'3'; 64])}),
        json!({"kty": "oct", "kid": "enc", "use": "enc", "k": secret(&[b'3'; 64])}),
        json!({"kty": "EC", "kid": "p521", "crv": "P-521", "x": "AAAA", "y": "AAAA"}),
        json!({"kty": "RSA", "kid": "weak", "n": "AQAB", "e": "AQAB"}),
        json!({"kty": "new"}),
        json!(5),
    ];
    let parse = |keys: &[Value], private| KeySet::parse(json!({"keys": keys}).to_string().as_bytes(), private);
    let of_useless = parse(&useless, true).unwrap();
    assert_eq!((of_useless.len(), of_useless.unusable().len()), (0, 2), "{of_useless:?}");
    assert!(matches!(of_useless.not_empty(), Err(InvalidKeys::Empty)));
    assert!(parse(std::slice::from_ref(&one), false).unwrap().is_empty(), "a secret that everybody reads");
    for no_set in ["[]", "{}", r#"{"keys": {}}"#, r#"{"keys": null}"#] {
        assert!(matches!(KeySet::parse(no_set.as_bytes(), true), Err(InvalidKeys::NotASet(_))), "{no_set}");
    }
    let keys = parse(&[&[one.clone(), two][..], &useless].concat(), true).unwrap();
    assert_eq!(keys.len(), 2);
    let token = |kid: Option<&str>| {
        let header = Header { kid: kid.map(str::to_owned), ..Header::default() };
        encode(&header, &good(), &EncodingKey::from_secret(SECRET)).unwrap()
    };
    let several = Verifier::new(keys, Rules::default());
    assert!(several.verify_now(&token(Some("one"))).is_ok());
    assert_eq!(several.verify_now(&token(Some("two"))), Err(Unverified::Signature));
    assert_eq!(several.verify_now(&token(Some("three"))), Err(Unverified::UnknownKey));
    assert_eq!(several.verify_now(&token(None)), Err(Unverified::UnknownKey));
    let only = Verifier::new(parse(&[one], true).unwrap(), Rules::default());
    assert!(only.verify_now(&token(None)).is_ok());
    assert_eq!(only.verify_now(&token(Some("two"))), Err(Unverified::UnknownKey));
}

/// Nobody's request may find out that a key is no key.
#[test]
fn a_key_of_another_size_or_beside_its_curve_is_passed_over() {
    let bytes = |count: usize| URL_SAFE_NO_PAD.encode(vec![0xab; count]);
    let p256 = |x: String, y: String| json!({"kty": "EC", "kid": "k", "crv": "P-256", "x": x, "y": y});
    let ed25519 = |x: String| json!({"kty": "OKP", "kid": "k", "crv": "Ed25519", "x": x});
    let rsa = |n: String, e: &str| json!({"kty": "RSA", "kid": "k", "n": n, "e": e});
    let no_point = URL_SAFE_NO_PAD.encode([&[2_u8][..], &[0; 31]].concat());
    let bad = [
        ed25519(bytes(0)),
        ed25519(bytes(31)),
        ed25519(bytes(33)),
        ed25519(bytes(64)),
        ed25519(no_point),
        ed25519("not base64".into()),
        p256(bytes(32), bytes(32)),
        p256(bytes(0), bytes(0)),
        p256(bytes(31), bytes(32)),
        p256(bytes(33), bytes(31)),
        rsa(bytes(255), "AQAB"),
        rsa(bytes(513), "AQAB"),
        rsa(URL_SAFE_NO_PAD.encode([&[0; 100][..], &[0xab; 200]].concat()), "AQAB"),
        rsa(bytes(256), "AQ"),
        rsa(bytes(256), "Ag"),
        rsa(bytes(256), ""),
        rsa(bytes(256), &bytes(9)),
    ];
    let good = json!({"kty": "oct", "kid": "good", "k": URL_SAFE_NO_PAD.encode(SECRET)});
    for key in bad {
        let set = json!({"keys": [key, good]}).to_string();
        let keys = KeySet::parse(set.as_bytes(), true).unwrap();
        assert_eq!((keys.len(), keys.unusable().len()), (1, 1), "{key}");
    }
    let good = [rsa(bytes(256), "AQAB"), rsa(bytes(512), "Aw"), rsa(format!("AAAA{}", bytes(255 + 3)), "AQAB")];
    for key in good {
        assert_eq!(KeySet::parse(json!({"keys": [key]}).to_string().as_bytes(), true).unwrap().len(), 1, "{key}");
    }
    let pem = |der: &[u8]| {
        let base64 = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN PUBLIC KEY-----\n{base64}\n-----END PUBLIC KEY-----\n")
    };
    let short = [&b"\x30\x0e\x30\x05\x06\x03\x2b\x65\x70\x03\x05\x00"[..], &[7; 4]].concat();
    let beside = [
        &b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00\x04"[..],
        &[0xab; 64],
    ]
    .concat();
    for der in [short, beside] {
        assert!(matches!(Key::parse(pem(&der).as_bytes()), Err(InvalidKeys::Unknown)), "{der:?}");
    }
}

/// Whatever stands before PEM explains it.
#[test]
fn a_public_key_counts_behind_a_preamble_and_nowhere_as_a_secret() {
    for (private, public) in [(RSA, RSA_PUBLIC), (P256, P256_PUBLIC), (ED25519, ED25519_PUBLIC)] {
        let token = Signer::parse(&[b"# private\n", private].concat()).unwrap();
        let token = token.sign(&alice(), 1000, &Rules::default()).unwrap();
        for preamble in ["# our key\n", "Bag Attributes\n    friendlyName: key\nKey Attributes: <No Attributes>\n"] {
            let text = [preamble.as_bytes(), public].concat();
            assert!(verifier(&text, Rules::default()).verify_now(&token).is_ok(), "{preamble}");
            assert!(Key::parse(&text).unwrap().secret().is_none());
        }
    }
    let cut = &RSA_PUBLIC[..RSA_PUBLIC.len() / 2];
    assert!(matches!(Key::parse(cut), Err(InvalidKeys::Unknown)));
    assert!(matches!(Key::parse(&RSA_PUBLIC[1..]), Err(InvalidKeys::Unknown | InvalidKeys::File(_))));
}

/// RFC 7517 §4.5: keys of different kinds may share an id.
#[test]
fn keys_of_one_id_are_told_by_the_algorithm() {
    let mut set: Value = serde_json::from_slice(include_bytes!("../../tests/keys/jwks.json")).unwrap();
    for key in set["keys"].as_array_mut().unwrap() {
        key["kid"] = json!("shared");
    }
    let verifier = Verifier::new(KeySet::parse(set.to_string().as_bytes(), false).unwrap(), Rules::default());
    let token = |algorithm, key: &EncodingKey| {
        let header = Header { kid: Some("shared".to_owned()), ..Header::new(algorithm) };
        encode(&header, &good(), key).unwrap()
    };
    for (algorithm, key) in [
        (Algorithm::RS256, EncodingKey::from_rsa_pem(RSA)),
        (Algorithm::ES256, EncodingKey::from_ec_pem(P256)),
        (Algorithm::EdDSA, EncodingKey::from_ed_pem(ED25519)),
    ] {
        assert!(verifier.verify_now(&token(algorithm, &key.unwrap())).is_ok(), "{algorithm:?}");
    }
    let swapped = token(Algorithm::HS256, &EncodingKey::from_secret(P256_PUBLIC));
    assert_eq!(verifier.verify_now(&swapped), Err(Unverified::Algorithm));
}

#[test]
fn a_set_has_public_keys_of_each_kind() {
    let keys = KeySet::parse(include_bytes!("../../tests/keys/jwks.json"), false).unwrap();
    assert_eq!(keys.len(), 3);
    let verifier = Verifier::new(keys, Rules::default());
    for (kid, algorithm, key) in [
        ("rsa", Algorithm::RS256, EncodingKey::from_rsa_pem(RSA)),
        ("p256", Algorithm::ES256, EncodingKey::from_ec_pem(P256)),
        ("ed25519", Algorithm::EdDSA, EncodingKey::from_ed_pem(ED25519)),
    ] {
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(algorithm) };
        let token = encode(&header, &good(), &key.unwrap()).unwrap();
        assert_eq!(verifier.verify_now(&token).map(|alice| alice.user.to_string()), Ok("alice".to_owned()), "{kid}");
    }
}

#[test]
fn what_is_signed_here_keeps_the_rules() {
    let rules = Rules { audiences: vec!["warren".into()], issuer: Some("me".into()), leeway_s: 0 };
    let rights = Rights {
        subscribe: Topics::Only { patterns: vec![Pattern::parse("a.*").unwrap()], broadcast: true },
        publish: Topics::Only { patterns: Vec::new(), broadcast: false },
        roles: vec![Role::Send, Role::Presence],
    };
    let identity = Identity { groups: vec![GroupName::parse("class").unwrap()], rights, ..alice() };
    let token = Signer::parse(SECRET).unwrap().sign(&identity, 100, &rules).unwrap();
    let verified = verifier(SECRET, rules).verify_now(&token).unwrap();
    assert!(verified.expires_s.is_some_and(|ends| (now_s() + 99..=now_s() + 100).contains(&ends)));
    assert_eq!(Identity { expires_s: None, ..verified }, identity);
}

/// Whatever claims are, they are refused or speak of somebody, and say the same when they are written again.
#[test]
fn fuzz_claims() {
    const GOOD: &str =
        r#"{"sub":"alice","exp":4102444800,"groups":["a"],"roles":["send"],"subscribe":["a.*",""],"publish":["b"]}"#;
    let pieces = [
        "{", "}", "[", "]", "\"", ":", ",", "null", "1e999", "-1", "\"sub\"", "\"exp\"", "\\u0000", "*", "#", ".", "🦀",
    ];
    let change = (any::<Index>(), 0..6_usize, select(pieces.to_vec()));
    let text = vec(change, 0..5).prop_map(|changes| {
        let mut bytes = GOOD.as_bytes().to_vec();
        for (at, cut, piece) in changes {
            let at = at.index(bytes.len() + 1);
            let end = (at + cut).min(bytes.len());
            bytes.splice(at..end, piece.bytes());
        }
        bytes
    });
    fuzz("claims", text, |text| {
        let Ok(claims) = serde_json::from_slice::<Claims>(&text) else { return };
        let Ok(identity) = claims.clone().into_identity(5) else { return };
        let again = Claims { exp: claims.exp, ..Claims::of(&identity) }.into_identity(5);
        assert_eq!(again, Ok(identity));
    });
}

/// Nothing that is handed in as a token stops the verifier, and nothing is true that was not signed.
#[test]
fn fuzz_tokens() {
    let verifier = verifier(SECRET, Rules::default());
    let token = signed(&good());
    let change = (any::<Index>(), 0..4_usize, select(vec![".", "A", "_", "=", "e30", "🦀", ""]));
    let text = vec(change, 1..4).prop_map(move |changes| {
        let mut text: Vec<char> = token.chars().collect();
        for (at, cut, piece) in changes {
            let at = at.index(text.len() + 1);
            let end = (at + cut).min(text.len());
            text.splice(at..end, piece.chars());
        }
        text.into_iter().collect::<String>()
    });
    let token = signed(&good());
    fuzz("tokens", text, |text| assert!(verifier.verify_now(&text).is_err() || text == token, "{text}"));
}
