//! Keys for tokens that an issuer publishes, over HTTP and over TLS.

use std::net::SocketAddr;
use std::sync::Arc;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use warren::config::Config;
use warren::identity::Place;

use crate::support::eventually;
use crate::support::http::{Answer, request};
use crate::support::identity::now_s;
use crate::support::instance::{Instance, config};
use crate::support::post::{JSON, json as json_of, post, problem};
use crate::support::process::{Directory, Warren};
use crate::support::raw::{Raw, handshake_at};

const KEYS: &str = include_str!("../keys/jwks.json");

/// Answers whoever asks with the key set. Its drop ends it.
struct Issuer {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Issuer {
    async fn start(tls: Option<TlsAcceptor>) -> Issuer {
        Issuer::start_at(([127, 0, 0, 1], 0).into(), tls).await
    }

    async fn start_at(address: SocketAddr, tls: Option<TlsAcceptor>) -> Issuer {
        let listener = TcpListener::bind(address).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let serving = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                match &tls {
                    None => answer(stream).await,
                    // Who does not trust the certificate hangs up.
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            answer(stream).await;
                        }
                    }
                }
            }
        });
        Issuer { address, serving }
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut asked = [0; 4096];
    let read = stream.read(&mut asked).await.expect("a request");
    assert!(asked[..read].starts_with(b"GET /keys HTTP/1.1\r\n"));
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", KEYS.len());
    stream.write_all(format!("{head}{KEYS}").as_bytes()).await.expect("somebody who waits");
    let _ = stream.shutdown().await;
}

/// A token of the test's private key for ES256, which says that it is by the key `kid`.
fn token(kid: &str) -> String {
    let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::ES256) };
    let key = EncodingKey::from_ec_pem(include_bytes!("../keys/p256.pem")).expect("a key");
    encode(&header, &json!({"sub": "alice", "exp": now_s() + 600}), &key).expect("a token")
}

async fn whoami(address: SocketAddr, kid: &str) -> Answer {
    let authorization = format!("Bearer {}", token(kid));
    request(address, "GET /api/whoami", &[("Authorization", &authorization)]).await
}

async fn knows_the_keys(address: SocketAddr) {
    eventually("the keys are read", || async { whoami(address, "p256").await.status == 200 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_come_from_an_issuer() {
    let issuer = Issuer::start(None).await;
    let place = Place::Url(format!("http://{}/keys", issuer.address).parse().expect("a URL"));
    let instance = Instance::start(Config { jwt_jwks: Some(place), ..config() }).await;
    instance.ready().await;
    knows_the_keys(instance.address).await;
    for (kid, reason) in [("other", "unknown_key"), ("ed25519", "algorithm"), ("rsa", "algorithm")] {
        assert_eq!(json_of(&whoami(instance.address, kid).await)["reason"], reason, "{kid}");
    }
    drop(issuer);
    assert_eq!(whoami(instance.address, "p256").await.status, 200, "the issuer is gone, its keys are not");
}

#[tokio::test]
async fn over_tls_they_count_if_the_system_trusts_the_issuer() {
    let directory = Directory::new("issuer");
    let authority = authority();
    let issuer = Issuer::start(Some(acceptor(&authority))).await;
    let url = format!("https://127.0.0.1:{}/keys", issuer.address.port());
    let trusted = directory.write("ca.pem", &authority.pem());
    let trusting = Warren::serve(&["--jwt-jwks", &url], &[("SSL_CERT_FILE", &trusted)]).await;
    knows_the_keys(trusting.address).await;
    let other = directory.write("other.pem", &self::authority().pem());
    let mut doubting = Warren::serve(&["--jwt-jwks", &url], &[("SSL_CERT_FILE", &other)]).await;
    let line = doubting.process.reports("there are no keys to go by").await;
    assert!(line.contains("certificate"), "{line}");
    assert_eq!(whoami(doubting.address, "p256").await.status, 503);
}

/// Until the keys were read nobody can tell a good token from another: who brings one is to keep it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_the_keys_were_read_tokens_are_to_be_brought_again() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
    let place = Place::Url(format!("http://{nobody}/keys").parse().expect("a URL"));
    let instance = Instance::start(Config { jwt_jwks: Some(place), ..config() }).await;
    let address = instance.address;
    let is_why = |status, body: &Value| status == 503 && body["status"] == "keys_unavailable";
    instance.answers("the keys are missing", is_why).await;
    let answer = whoami(address, "p256").await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{}", answer.body);
    assert_eq!((problem(&answer).as_str(), &json_of(&answer)["reason"]), ("cannot-verify", &json!("no_keys")));
    let value = format!("Bearer {}", token("p256"));
    let mut client = Raw::tcp(address).await;
    client.send(handshake_at(address, "/message", &[("Authorization", &value)])).await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{}", answer.body);
    assert_eq!(answer.header("www-authenticate"), None);
    for path in ["/api/ticket", "/api/publish"] {
        let answer = post(address, path, &[JSON, ("Authorization", &value)], "{}").await;
        assert_eq!((answer.status, problem(&answer).as_str()), (503, "cannot-verify"), "{path}");
    }
    let answer = request(address, "GET /events", &[("Authorization", &value)]).await;
    assert_eq!((answer.status, problem(&answer).as_str()), (503, "cannot-verify"));
    assert_eq!(request(address, "GET /events", &[]).await.status, 401, "who brings nothing is told so");
    let _issuer = Issuer::start_at(nobody, None).await;
    instance.ready().await;
    knows_the_keys(address).await;
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate")
}

fn acceptor(authority: &CertifiedIssuer<'_, KeyPair>) -> TlsAcceptor {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("a valid name");
    let certificate = params.signed_by(&key, authority).expect("a certificate");
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().expect("versions").with_no_client_auth();
    let config = config.with_single_cert(vec![certificate.der().clone()], key).expect("a certificate and its key");
    TlsAcceptor::from(Arc::new(config))
}
