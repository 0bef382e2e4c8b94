//! The HTTP side: the page, health, what is refused, and the opening handshake.

use warren::config::{AllowedOrigins, Config};

use crate::support::client::{exchange, get_json};
use crate::support::http::{Answer, head, request};
use crate::support::instance::{Instance, config};
use crate::support::raw::{ACCEPT, KEY, Raw, handshake, wire};
use crate::support::sessions_become;

/// Headers of an opening handshake as a browser's library sends them.
const UPGRADE: [(&str, &str); 4] =
    [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", KEY)];

/// The headers of a handshake, with `changed` ones in the place of those of the same name or, if there are none, added.
/// A value of nothing takes a header away.
async fn upgrade(instance: &Instance, changed: &[(&str, &str)]) -> Answer {
    let is_changed = |name: &str| changed.iter().any(|(other, _)| *other == name);
    let kept = UPGRADE.iter().filter(|(name, _)| !is_changed(name));
    let headers: Vec<_> = kept.chain(changed.iter().filter(|(_, value)| !value.is_empty())).copied().collect();
    request(instance.address, "GET /message", &headers).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_is_whole_and_guarded() {
    let instance = Instance::start(config()).await;
    let mut nonces = Vec::new();
    for path in ["/", "/index.html", "/?utm=x"] {
        let answer = request(instance.address, &format!("GET {path}"), &[]).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_guarded(&answer);
        assert!(!answer.body.contains("{{"), "a placeholder is left");
        assert!(answer.body.contains(&format!("<code id=\"instance\">{}</code>", instance.name)));
        nonces.push(assert_only_the_pages_own_runs(&answer));
    }
    nonces.sort();
    nonces.dedup();
    assert_eq!(nonces.len(), 3, "a nonce is used once");
}

fn assert_guarded(answer: &Answer) {
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(answer.header("x-frame-options"), Some("DENY"));
    assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
}

/// The nonce of the policy, which all scripts and styles of the page bear.
fn assert_only_the_pages_own_runs(answer: &Answer) -> String {
    let policy = answer.header("content-security-policy").expect("a policy");
    assert!(policy.starts_with("default-src 'none'; "), "{policy}");
    let (_, after) = policy.split_once("script-src 'nonce-").expect(policy);
    let (nonce, _) = after.split_once('\'').expect(policy);
    assert!(nonce.len() >= 22, "128 bits");
    assert!(policy.contains(&format!("style-src 'nonce-{nonce}'")), "{policy}");
    let page = &answer.body;
    for tag in ["script", "style"] {
        let with_nonce = page.matches(&format!("<{tag} nonce=\"{nonce}\">")).count();
        assert!(with_nonce > 0);
        assert_eq!(page.matches(&format!("<{tag}")).count(), with_nonce, "every {tag} has the nonce");
    }
    assert!(!page.contains(" style=\"") && !page.contains(" onclick="), "the policy forbids inline attributes");
    nonce.to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_host_gets_into_the_pages_policy_but_a_plain_one() {
    let instance = Instance::start(config()).await;
    let policy = async |host: &str| {
        let answer = request(instance.address, "GET /", &[("Host", host)]).await;
        answer.header("content-security-policy").map(|policy| {
            let (_, connect) = policy.split_once("; connect-src ").expect("the last directive");
            connect.to_owned()
        })
    };
    for plain in ["chat.example", "chat.example:8080", "[::1]:8080", "127.0.0.1"] {
        assert_eq!(policy(plain).await, Some(format!("'self' ws://{plain} wss://{plain}")));
    }
    let hostile =
        ["x;script-src", "x; script-src *", "x,y", "x'", "*", "x\" y", "x&y=<script>", "u:p@x", "x *", "%3B", ""];
    for host in hostile {
        let connect = policy(host).await;
        assert!(matches!(connect.as_deref(), None | Some("'self'")), "{host:?}: {connect:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn head_is_answered_like_get_without_the_body() {
    let instance = Instance::start(config()).await;
    for path in ["/", "/index.html", "/healthz", "/readyz"] {
        let close = [("Connection", "close")];
        let asked =
            exchange(instance.address, head(instance.address, &format!("HEAD {path}"), &close).as_bytes()).await;
        let asked = asked.expect("an answer");
        assert!(asked.starts_with("HTTP/1.1 200 OK\r\n") && asked.ends_with("\r\n\r\n"), "{asked}");
        assert_eq!(asked.matches("\r\n\r\n").count(), 1, "no body: {asked}");
        let got = request(instance.address, &format!("GET {path}"), &[]).await;
        let length = format!("content-length: {}\r\n", got.body.len());
        assert!(asked.to_lowercase().contains(&length), "{length} in {asked}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_and_readiness_tell_what_a_machine_needs() {
    let instance = Instance::start(config()).await;
    let _sessions = (Raw::connect(instance.address).await, Raw::connect(instance.address).await);
    let (status, health) = get_json(instance.address, "/healthz").await;
    assert_eq!(status, 200);
    let name = instance.name.as_str();
    assert_eq!(
        (&health["status"], &health["instance"], &health["sessions"]),
        (&"alive".into(), &name.into(), &2.into())
    );
    assert_eq!(health["version"], env!("CARGO_PKG_VERSION"));

    let (status, readiness) = get_json(instance.address, "/readyz").await;
    assert_eq!(status, 200);
    assert_eq!((&readiness["status"], &readiness["instance"]), (&"ready".into(), &name.into()));
    assert_eq!(readiness["broker"]["kind"], "memory");
    assert_eq!(readiness["broker"]["publishing"]["state"], "up");
    assert_eq!(readiness["broker"]["consuming"]["state"], "up");

    for path in ["/healthz", "/readyz"] {
        let answer = request(instance.address, &format!("GET {path}"), &[]).await;
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_guarded(&answer);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_paths_and_methods_are_told_what_is_wrong() {
    let instance = Instance::start(config()).await;
    for line in ["GET /nothing", "GET /messages", "POST /nothing", "GET /index.htm", "GET /../etc"] {
        let answer = request(instance.address, line, &[]).await;
        assert_eq!(answer.status, 404, "{line}");
        assert_guarded(&answer);
    }
    for path in ["/", "/index.html", "/healthz", "/readyz"] {
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"] {
            let answer = request(instance.address, &format!("{method} {path}"), &[]).await;
            assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")), "{method} {path}");
            assert_guarded(&answer);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_get_opens_a_session_and_the_answer_names_what_is_allowed() {
    let instance = Instance::start(config()).await;
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let answer = request(instance.address, &format!("{method} /message"), &UPGRADE).await;
        assert_eq!(answer.status, 405, "{method}");
        let allowed: Vec<_> = answer.header("allow").expect("what is allowed").split(", ").collect();
        assert!(allowed.contains(&"GET") && !allowed.contains(&method), "{method} is refused, {allowed:?} allowed");
    }
}

/// HEAD is GET without the body (RFC 9110 §9.3.2), but nothing of it may open a session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn head_on_message_is_told_to_upgrade() {
    let instance = Instance::start(config()).await;
    let asked = head(instance.address, "HEAD /message", &[("Connection", "close")]);
    let with_a_handshake = head(instance.address, "HEAD /message", &UPGRADE);
    let mut connection = Raw::tcp(instance.address).await;
    connection.send([with_a_handshake, asked].concat()).await;
    let answers = String::from_utf8(connection.rest().await).expect("UTF-8");
    let statuses: Vec<_> = answers.lines().filter(|line| line.starts_with("HTTP/1.1 ")).collect();
    assert_eq!(statuses, ["HTTP/1.1 426 Upgrade Required"; 2], "{answers}");
    assert!(!answers.contains("RFC"), "no body: {answers}");
    sessions_become(instance.address, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_is_answered_as_the_rfc_shows() {
    let instance = Instance::start(config()).await;
    let answer = upgrade(&instance, &[]).await;
    assert_eq!(answer.status, 101);
    assert_eq!(answer.header("upgrade"), Some("websocket"));
    assert_eq!(answer.header("connection").map(str::to_lowercase).as_deref(), Some("upgrade"));
    assert_eq!(answer.header("sec-websocket-accept"), Some(ACCEPT));
    assert_eq!(answer.header("sec-websocket-protocol"), None);
    assert_eq!(answer.header("sec-websocket-extensions"), None);

    let as_others_say_it: [&[(&str, &str)]; 5] = [
        &[("Connection", "keep-alive, Upgrade")],
        &[("Connection", "upgrade,keep-alive"), ("Upgrade", "WebSocket")],
        &[("Upgrade", "h2c, websocket")],
        &[("Connection", "keep-alive"), ("Connection", "Upgrade")],
        &[("Sec-WebSocket-Protocol", "chat"), ("Sec-WebSocket-Extensions", "x-webkit-deflate-frame")],
    ];
    for changed in as_others_say_it {
        let answer = upgrade(&instance, changed).await;
        assert_eq!(answer.status, 101, "{changed:?}");
        assert_eq!(answer.header("sec-websocket-protocol"), None, "nothing that is not spoken is agreed to");
        assert_eq!(answer.header("sec-websocket-extensions"), None, "nothing that is not spoken is agreed to");
    }
    sessions_become(instance.address, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_upgrade_a_client_learns_to_upgrade() {
    let instance = Instance::start(config()).await;
    let asked_wrongly: [&[(&str, &str)]; 6] = [
        &[("Upgrade", ""), ("Connection", ""), ("Sec-WebSocket-Version", ""), ("Sec-WebSocket-Key", "")],
        &[("Upgrade", "")],
        &[("Connection", "")],
        &[("Connection", "keep-alive")],
        &[("Upgrade", "h2c")],
        &[("Upgrade", "websockets")],
    ];
    for changed in asked_wrongly {
        let answer = upgrade(&instance, changed).await;
        assert_eq!((answer.status, answer.header("upgrade")), (426, Some("websocket")), "{changed:?}");
        assert_eq!(answer.header("connection").map(str::to_lowercase).as_deref(), Some("upgrade"), "{changed:?}");
        assert!(answer.body.contains("WebSocket"), "{}", answer.body);
        assert_guarded(&answer);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_is_not_spoken_is_told_which_one_is() {
    let instance = Instance::start(config()).await;
    for version in ["8", "", "14", "013", "13, 8", "thirteen"] {
        let answer = upgrade(&instance, &[("Sec-WebSocket-Version", version)]).await;
        assert_eq!((answer.status, answer.header("sec-websocket-version")), (426, Some("13")), "{version:?}");
        assert_eq!(answer.header("upgrade"), Some("websocket"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_one_base64_value_of_16_bytes() {
    let instance = Instance::start(config()).await;
    let other = "AAAAAAAAAAAAAAAAAAAAAA==";
    assert_eq!(upgrade(&instance, &[("Sec-WebSocket-Key", other)]).await.status, 101);
    let bad = ["", "AAAA", "not base64 at all, no??!", "AAAAAAAAAAAAAAAAAAAAAAA=", "AAAAAAAAAAAAAAAAAAAAAAAAAAA="];
    for key in bad {
        assert_eq!(upgrade(&instance, &[("Sec-WebSocket-Key", key)]).await.status, 400, "{key:?}");
    }
    let doubled = [("Sec-WebSocket-Key", KEY), ("Sec-WebSocket-Key", other)];
    assert_eq!(upgrade(&instance, &doubled).await.status, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_1_0_opens_no_session() {
    let instance = Instance::start(config()).await;
    let request = String::from_utf8(handshake(instance.address)).expect("ASCII").replace("HTTP/1.1", "HTTP/1.0");
    let answer = exchange(instance.address, request.as_bytes()).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.0 4") || answer.starts_with("HTTP/1.1 4"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_other_origins_may_not_connect() {
    let instance = Instance::start(config()).await;
    let own = format!("http://{}", instance.address);
    let other_port = format!("http://127.0.0.1:{}", instance.address.port() ^ 1);
    assert_eq!(upgrade(&instance, &[("Origin", &own)]).await.status, 101);
    let behind_a_proxy = [("Origin", "https://chat.example"), ("Host", "chat.example")];
    assert_eq!(upgrade(&instance, &behind_a_proxy).await.status, 101);
    for foreign in
        ["https://evil.example", &other_port, "http://127.0.0.1", "null", "x", &format!("{own}.evil.example")]
    {
        let answer = upgrade(&instance, &[("Origin", foreign)]).await;
        assert_eq!(answer.status, 403, "{foreign}");
        assert!(answer.body.contains("--allowed-origins"), "{}", answer.body);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_listed_origins_may_connect() {
    let listed = vec!["https://app.example".parse().expect("an origin")];
    let instance = Instance::start(Config { allowed_origins: AllowedOrigins::Listed(listed), ..config() }).await;
    let own = format!("http://{}", instance.address);
    for (origin, status) in [
        ("https://app.example", 101),
        ("https://app.example:443", 101),
        (own.as_str(), 101),
        ("http://app.example", 403),
        ("https://app.example:8443", 403),
        ("https://evil.example", 403),
    ] {
        assert_eq!(upgrade(&instance, &[("Origin", origin)]).await.status, status, "{origin}");
    }
    let open = Instance::start(Config { allowed_origins: AllowedOrigins::Any, ..config() }).await;
    for origin in ["https://evil.example", "null"] {
        assert_eq!(upgrade(&open, &[("Origin", origin)]).await.status, 101, "{origin}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_in_the_handshakes_packet_are_not_lost() {
    let instance = Instance::start(config()).await;
    let mut other = Raw::connect(instance.address).await;

    let mut eager = Raw::tcp(instance.address).await;
    let first = [handshake(instance.address), wire::ping(b"first"), wire::text("second")];
    eager.send(first.concat()).await;
    assert_eq!(eager.answer().await.status, 101);
    eager.receives_frame(wire::PONG, b"first").await;
    eager.receives(&["second"]).await;
    other.receives(&["second"]).await;

    let texts: Vec<String> = (0..2000).map(|index| format!("number {index}")).collect();
    let frames: Vec<u8> = texts.iter().flat_map(|text| wire::text(text)).collect();
    let mut more_eager = Raw::tcp(instance.address).await;
    more_eager.send([handshake(instance.address), frames].concat()).await;
    for text in &texts {
        other.receives(&[text]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_may_begin_in_the_handshakes_packet_and_end_later() {
    let instance = Instance::start(config()).await;
    let text = "half and half";
    let frame = wire::text(text);
    for cut in 1..frame.len() {
        let mut client = Raw::tcp(instance.address).await;
        client.send([&handshake(instance.address), &frame[..cut]].concat()).await;
        assert_eq!(client.answer().await.status, 101);
        client.send(&frame[cut..]).await;
        client.receives(&[text]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_may_come_byte_by_byte() {
    let instance = Instance::start(config()).await;
    let mut client = Raw::tcp(instance.address).await;
    for byte in [handshake(instance.address), wire::text("byte by byte")].concat() {
        client.send([byte]).await;
    }
    assert_eq!(client.answer().await.status, 101);
    client.receives(&["byte by byte"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_may_follow_other_requests() {
    let instance = Instance::start(config()).await;
    let mut client = Raw::tcp(instance.address).await;
    client.send(head(instance.address, "GET /healthz", &[])).await;
    assert_eq!(client.answer().await.status, 200);
    client.send(handshake(instance.address)).await;
    assert_eq!(client.answer().await.status, 101);

    let mut pipelining = Raw::tcp(instance.address).await;
    let requests = [head(instance.address, "GET /nothing", &[]).into_bytes(), handshake(instance.address)];
    pipelining.send([requests.concat(), wire::text("at once")].concat()).await;
    assert_eq!(pipelining.answer().await.status, 404);
    assert_eq!(pipelining.answer().await.status, 101);
    pipelining.receives(&["at once"]).await;
}
