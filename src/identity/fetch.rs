//! One GET of a short document over HTTP/1.1, with TLS where the URL asks for it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::header::{ACCEPT, CONNECTION, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};
use url::Url;

/// What is read at most.
const BYTES_MAX: usize = 1024 * 1024;

/// Time for all of it.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
pub enum NotFetched {
    #[error("it does not answer within {} s", TIMEOUT.as_secs())]
    Late,
    #[error("cannot connect: {0}")]
    Unreachable(#[from] io::Error),
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("no HTTP: {0}")]
    Http(#[from] hyper::Error),
    #[error("it answers {0}")]
    Status(StatusCode),
    #[error("it answers more than {BYTES_MAX} bytes")]
    TooLarge,
    #[error("the URL has no host")]
    NoHost,
}

/// The document, if it is answered with 200; nothing else is followed.
pub async fn get(url: &Url) -> Result<Vec<u8>, NotFetched> {
    tokio::time::timeout(TIMEOUT, get_slowly(url)).await.map_err(|_| NotFetched::Late)?
}

async fn get_slowly(url: &Url) -> Result<Vec<u8>, NotFetched> {
    let host = url.host_str().ok_or(NotFetched::NoHost)?;
    let name = host.trim_matches(['[', ']']);
    let stream = TcpStream::connect((name, url.port_or_known_default().unwrap_or(443))).await?;
    if url.scheme() == "http" {
        return get_on(stream, url).await;
    }
    let server = ServerName::try_from(name.to_owned()).map_err(|_| NotFetched::NoHost)?;
    get_on(TlsConnector::from(Arc::new(tls()?)).connect(server, stream).await?, url).await
}

async fn get_on(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    url: &Url,
) -> Result<Vec<u8>, NotFetched> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the answer, or when nobody wants that any more.
    tokio::spawn(connection);
    let request = Request::get(&url[url::Position::BeforePath..url::Position::AfterQuery])
        .header(HOST, &url[url::Position::BeforeHost..url::Position::AfterPort])
        .header(ACCEPT, "application/json")
        .header(CONNECTION, "close")
        .body(String::new())
        .expect("a URL's parts are what a request is made of");
    let response = sender.send_request(request).await?;
    if response.status() != StatusCode::OK {
        return Err(NotFetched::Status(response.status()));
    }
    all(response.into_body()).await
}

async fn all(mut body: Incoming) -> Result<Vec<u8>, NotFetched> {
    let mut read = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx)).await {
        if let Ok(part) = frame?.into_data() {
            read.extend_from_slice(&part);
        }
        if read.len() > BYTES_MAX {
            return Err(NotFetched::TooLarge);
        }
    }
    Ok(read)
}

/// Trusts whom the system trusts.
fn tls() -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
