//! Where keys come from, and when they are read again.
//!
//! What cannot be read leaves the keys as they are: who was signed in stays so while the issuer is away. A token whose key
//! is not known has the keys read again at once, but not more often than every [`PAUSE`], so that made-up tokens cost
//! the issuer nothing.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use url::Url;

use super::fetch::{self, NotFetched};
use super::keys::{InvalidKeys, KeySet};

/// Least time between two readings.
const PAUSE: Duration = Duration::from_secs(10);

/// How long a token waits for its key.
const WAIT: Duration = Duration::from_secs(5);

/// A JSON Web Key Set that may change.
#[derive(Clone, Debug, PartialEq)]
pub struct JwksSource {
    pub place: Place,
    /// How often it is read again.
    pub every: Duration,
}

/// Where a set is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    File(PathBuf),
    /// `http` or `https`.
    Url(Url),
}

/// Why a set was not read.
#[derive(Debug, thiserror::Error)]
pub enum NotRead {
    #[error(transparent)]
    Keys(#[from] InvalidKeys),
    #[error(transparent)]
    NotFetched(#[from] NotFetched),
}

impl JwksSource {
    async fn read(&self) -> Result<KeySet, NotRead> {
        match &self.place {
            Place::File(path) => {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || KeySet::read(&path)).await;
                Ok(read.map_err(|error| InvalidKeys::Unreadable(error.into()))??)
            }
            Place::Url(url) => Ok(KeySet::parse(&fetch::get(url).await?, false)?),
        }
    }
}

/// The keys that count, and how they are kept so.
pub struct Jwks {
    current: RwLock<Arc<KeySet>>,
    source: Option<JwksSource>,
    /// When they were last read, or that was tried.
    tried: Mutex<Option<Instant>>,
    wanted: Notify,
    /// How often they were read, or that was tried.
    readings: watch::Sender<u64>,
}

impl Jwks {
    /// Those that stay.
    pub fn fixed(keys: KeySet) -> Jwks {
        Jwks::with(keys, None)
    }

    /// Those of a source: none until [`Jwks::keep_fresh`] has read them.
    pub fn of(source: JwksSource) -> Jwks {
        Jwks::with(KeySet::default(), Some(source))
    }

    fn with(keys: KeySet, source: Option<JwksSource>) -> Jwks {
        Jwks {
            current: RwLock::new(Arc::new(keys)),
            source,
            tried: Mutex::default(),
            wanted: Notify::new(),
            readings: watch::Sender::default(),
        }
    }

    pub fn current(&self) -> Arc<KeySet> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks for the keys to be read again, unless that was tried just now, and waits for it. Whether it was tried.
    pub async fn are_read_again(&self) -> bool {
        let mut readings = self.readings.subscribe();
        let just_tried = self.last_tried().is_some_and(|tried| tried.elapsed() < PAUSE);
        if self.source.is_none() || just_tried {
            return false;
        }
        self.wanted.notify_one();
        tokio::time::timeout(WAIT, readings.changed()).await.is_ok_and(|changed| changed.is_ok())
    }

    /// Reads them whenever that is due, for ever.
    pub async fn keep_fresh(&self) {
        let Some(source) = &self.source else { return };
        let mut failing = false;
        loop {
            let read = source.read().await;
            *self.tried.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            let next = match read {
                Ok(keys) => {
                    let level = if std::mem::take(&mut failing) { log::Level::Info } else { log::Level::Debug };
                    log::log!(level, "{} keys for tokens were read", keys.len());
                    *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
                    source.every
                }
                Err(reason) => {
                    // Once, and not for each attempt.
                    let level =
                        if std::mem::replace(&mut failing, true) { log::Level::Debug } else { log::Level::Warn };
                    log::log!(level, "the keys for tokens stay what they are ({}): {reason}", self.current().len());
                    PAUSE
                }
            };
            self.readings.send_modify(|count| *count += 1);
            // Only what was asked for from now on is news.
            let asked = async {
                tokio::time::sleep(PAUSE).await;
                self.wanted.notified().await;
            };
            let _ = tokio::time::timeout(next.max(PAUSE), asked).await;
        }
    }

    fn last_tried(&self) -> Option<Instant> {
        *self.tried.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const OF_ONE: &str =
        r#"{"keys": [{"kty": "oct", "kid": "one", "k": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE"}]}"#;

    fn source(name: &str, content: &str) -> JwksSource {
        let path = std::env::temp_dir().join(format!("warren-jwks-{}-{name}", std::process::id()));
        fs::write(&path, content).unwrap();
        JwksSource { place: Place::File(path), every: Duration::from_secs(3600) }
    }

    async fn read(keys: &Jwks, count: u64) {
        let mut readings = keys.readings.subscribe();
        let waiting = readings.wait_for(|readings| *readings >= count);
        tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("a reading").expect("it is kept fresh");
    }

    #[tokio::test]
    async fn what_cannot_be_read_leaves_the_keys() {
        let source = source("left", OF_ONE);
        let Place::File(path) = source.place.clone() else { unreachable!() };
        let keys = Arc::new(Jwks::of(source));
        assert!(keys.current().is_empty());
        let fresh = tokio::spawn({
            let keys = keys.clone();
            async move { keys.keep_fresh().await }
        });
        read(&keys, 1).await;
        assert!(keys.current().find(Some("one")).is_some() && keys.current().find(Some("two")).is_none());
        assert!(!keys.are_read_again().await, "that was just now");
        fs::write(&path, "{").unwrap();
        tokio::time::pause();
        tokio::time::advance(PAUSE).await;
        assert!(keys.are_read_again().await);
        assert!(keys.current().find(Some("one")).is_some(), "nothing better was read");
        fs::write(&path, OF_ONE.replace("one", "two")).unwrap();
        tokio::time::advance(PAUSE).await;
        assert!(keys.are_read_again().await);
        assert!(keys.current().find(Some("two")).is_some() && keys.current().find(Some("one")).is_none());
        fresh.abort();
        fs::remove_file(path).unwrap();
    }

    #[tokio::test]
    async fn keys_without_a_source_stay() {
        let keys = Jwks::fixed(KeySet::parse(OF_ONE.as_bytes(), true).unwrap());
        keys.keep_fresh().await;
        assert!(!keys.are_read_again().await && keys.current().len() == 1);
    }
}
