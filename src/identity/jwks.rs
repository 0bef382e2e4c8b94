//! Where keys come from, and when they are read again.
//!
//! What cannot be read leaves the keys as they are, up to a certain age: who was signed in stays so while the issuer is away.
//! What is a key set takes their place, though it were empty: so an issuer withdraws its keys. Before the first reading, and
//! past that age, there are no keys to go by, and nobody's token is right or wrong. A token whose key is not known has the
//! keys read again at once, but not more often than every [`PAUSE`], so that made-up tokens cost the issuer nothing.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinError;
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
    /// How long what was read counts while it cannot be read again.
    pub age_max: Duration,
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
    #[error("the reading broke off: {0}")]
    BrokenOff(#[from] JoinError),
}

impl JwksSource {
    async fn read(&self) -> Result<KeySet, NotRead> {
        match &self.place {
            Place::File(path) => {
                let path = path.clone();
                Ok(tokio::task::spawn_blocking(move || KeySet::read(&path)).await??)
            }
            Place::Url(url) => Ok(KeySet::parse(&fetch::get(url).await?, false)?),
        }
    }
}

/// The keys that count, and how they are kept so.
pub struct Jwks {
    current: RwLock<Option<Known>>,
    source: Option<JwksSource>,
    /// When they were last read, or that was tried.
    tried: Mutex<Option<Instant>>,
    wanted: Notify,
    /// How often they were read, or that was tried.
    readings: watch::Sender<u64>,
}

/// Keys, and when they were read.
struct Known {
    keys: Arc<KeySet>,
    read: Instant,
}

impl Known {
    fn now(keys: KeySet) -> Known {
        Known { keys: Arc::new(keys), read: Instant::now() }
    }
}

impl Jwks {
    /// Those that stay.
    pub fn fixed(keys: KeySet) -> Jwks {
        Jwks::with(Some(keys), None)
    }

    /// Those of a source: none until [`Jwks::keep_fresh`] has read them.
    pub fn of(source: JwksSource) -> Jwks {
        Jwks::with(None, Some(source))
    }

    fn with(keys: Option<KeySet>, source: Option<JwksSource>) -> Jwks {
        Jwks {
            current: RwLock::new(keys.map(Known::now)),
            source,
            tried: Mutex::default(),
            wanted: Notify::new(),
            readings: watch::Sender::default(),
        }
    }

    /// The keys to go by; `None` before the first reading, and when the last one is too long ago.
    pub fn current(&self) -> Option<Arc<KeySet>> {
        let known = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let age_max = self.source.as_ref().map(|source| source.age_max);
        let known = known.as_ref().filter(|known| age_max.is_none_or(|age_max| known.read.elapsed() <= age_max));
        known.map(|known| known.keys.clone())
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
        // Whether there were keys when the log was told that they cannot be read.
        let mut told = None;
        loop {
            let read = source.read().await;
            *self.tried.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            let next = match read {
                Ok(keys) => {
                    let level = if told.take().is_some() { log::Level::Info } else { log::Level::Debug };
                    log::log!(level, "{} keys for tokens were read", keys.len());
                    self.replace(keys);
                    source.every
                }
                Err(reason) => {
                    let left = self.current().map(|keys| keys.len());
                    // Once, and not for each attempt.
                    let is_known = told.replace(left.is_some()) == Some(left.is_some());
                    let level = if is_known { log::Level::Debug } else { log::Level::Warn };
                    match left {
                        Some(count) => log::log!(level, "the keys for tokens stay what they are ({count}): {reason}"),
                        None => log::log!(level, "no token can be verified, for there are no keys to go by: {reason}"),
                    }
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

    /// Goes by these from now on. What is wrong with them is told once, and not with each reading.
    fn replace(&self, keys: KeySet) {
        let before = self.current();
        if keys.is_empty() && before.as_ref().is_none_or(|before| !before.is_empty()) {
            log::error!("the key set for tokens has no key that could be used: no token counts any more");
        }
        for key in keys.unusable() {
            let is_known = before.as_ref().is_some_and(|before| before.unusable().contains(key));
            log::log!(
                if is_known { log::Level::Debug } else { log::Level::Warn },
                "a key for tokens is passed over: {key}"
            );
        }
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Known::now(keys));
    }

    fn last_tried(&self) -> Option<Instant> {
        *self.tried.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use jsonwebtoken::Algorithm;
    use tokio::task::JoinHandle;

    use super::*;

    const OF_ONE: &str =
        r#"{"keys": [{"kty": "oct", "kid": "one", "k": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE"}]}"#;

    /// Keys of a file, which is gone when this is dropped.
    struct Kept {
        keys: Arc<Jwks>,
        path: PathBuf,
        fresh: JoinHandle<()>,
    }

    impl Kept {
        fn of(name: &str, content: &str) -> Kept {
            let path = std::env::temp_dir().join(format!("warren-jwks-{}-{name}", std::process::id()));
            fs::write(&path, content).unwrap();
            let place = Place::File(path.clone());
            let (every, age_max) = (Duration::from_secs(3600), Duration::from_secs(1800));
            let keys = Arc::new(Jwks::of(JwksSource { place, every, age_max }));
            let fresh = tokio::spawn({
                let keys = keys.clone();
                async move { keys.keep_fresh().await }
            });
            Kept { keys, path, fresh }
        }

        /// Has them read again with this in the file.
        async fn read_again(&self, content: &str) {
            fs::write(&self.path, content).unwrap();
            tokio::time::advance(PAUSE).await;
            assert!(self.keys.are_read_again().await);
        }

        /// Whether the keys of these ids are among those to go by.
        fn has(&self, ids: [&str; 2]) -> [bool; 2] {
            let keys = self.keys.current().expect("keys to go by");
            ids.map(|id| keys.find(Some(id), Algorithm::HS256).is_some())
        }
    }

    impl Drop for Kept {
        fn drop(&mut self) {
            self.fresh.abort();
            let _ = fs::remove_file(&self.path);
        }
    }

    async fn read(keys: &Jwks, count: u64) {
        let mut readings = keys.readings.subscribe();
        let waiting = readings.wait_for(|readings| *readings >= count);
        tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("a reading").expect("it is kept fresh");
    }

    #[tokio::test]
    async fn what_cannot_be_read_leaves_the_keys() {
        let kept = Kept::of("left", OF_ONE);
        assert!(kept.keys.current().is_none(), "nothing was read");
        read(&kept.keys, 1).await;
        assert_eq!(kept.has(["one", "two"]), [true, false]);
        assert!(!kept.keys.are_read_again().await, "that was just now");
        tokio::time::pause();
        kept.read_again("{").await;
        assert_eq!(kept.has(["one", "two"]), [true, false], "nothing better was read");
        kept.read_again(&OF_ONE.replace("one", "two")).await;
        assert_eq!(kept.has(["one", "two"]), [false, true]);
    }

    #[tokio::test]
    async fn a_set_without_keys_withdraws_them() {
        for (number, nothing) in [r#"{"keys": []}"#, r#"{"keys": [{"kty": "new"}]}"#].into_iter().enumerate() {
            let kept = Kept::of(&format!("withdrawn-{number}"), OF_ONE);
            read(&kept.keys, 1).await;
            tokio::time::pause();
            kept.read_again(nothing).await;
            assert_eq!(kept.has(["one", "two"]), [false, false], "{nothing}");
            tokio::time::resume();
        }
    }

    #[tokio::test]
    async fn what_was_read_too_long_ago_is_nothing_to_go_by() {
        let kept = Kept::of("old", OF_ONE);
        read(&kept.keys, 1).await;
        fs::write(&kept.path, "{").unwrap();
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(1790)).await;
        assert_eq!(kept.has(["one", "two"]), [true, false]);
        tokio::time::advance(Duration::from_secs(20)).await;
        assert!(kept.keys.current().is_none());
        fs::write(&kept.path, OF_ONE).unwrap();
        let mut readings = kept.keys.readings.subscribe();
        while kept.keys.current().is_none() {
            kept.keys.are_read_again().await;
            readings.changed().await.unwrap();
        }
        assert_eq!(kept.has(["one", "two"]), [true, false], "the issuer is back");
    }

    #[tokio::test]
    async fn keys_without_a_source_stay() {
        let keys = Jwks::fixed(KeySet::parse(OF_ONE.as_bytes(), true).unwrap());
        keys.keep_fresh().await;
        assert!(!keys.are_read_again().await && keys.current().is_some_and(|keys| keys.len() == 1));
    }
}
