//! Who is on one instance: the sessions of its users, by name and number. No I/O.
//!
//! Kept in the order of names, so that it can be shown, sent and mended piece by piece. Its digest is the same wherever the
//! same sessions stand, in whatever order they came.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::user::UserName;

/// One session of a user: its number within its instance's run, which is never given again.
pub type Key = (UserName, u64);

/// When it began, in milliseconds of Unix time.
pub type SinceMs = u64;

/// The sessions of one instance that belong to users.
#[derive(Clone, Debug, Default)]
pub struct Roll {
    sessions: BTreeMap<Key, SinceMs>,
    users: usize,
    digest: u64,
}

/// How many they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Count {
    pub users: usize,
    pub sessions: usize,
}

/// What a change did to a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Its first session came, or its last one went.
    Turned,
    /// It has others.
    Same,
    /// Nothing: it was so before.
    Nothing,
}

impl Roll {
    pub fn count(&self) -> Count {
        Count { users: self.users, sessions: self.sessions.len() }
    }

    /// Of all that stands here.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    pub fn add(&mut self, user: &UserName, number: u64, since_ms: SinceMs) -> Turn {
        let sibling = self.any_of(user);
        // Sessions of one user share its name.
        let name = sibling.clone().unwrap_or_else(|| user.clone());
        let before = self.sessions.insert((name, number), since_ms);
        if let Some(before) = before {
            self.digest = self.digest.wrapping_sub(digest(user, number, before));
        }
        self.digest = self.digest.wrapping_add(digest(user, number, since_ms));
        match (before, sibling) {
            (Some(_), _) => Turn::Nothing,
            (None, Some(_)) => Turn::Same,
            (None, None) => {
                self.users += 1;
                Turn::Turned
            }
        }
    }

    pub fn remove(&mut self, user: &UserName, number: u64) -> Turn {
        let Some(since_ms) = self.sessions.remove(&(user.clone(), number)) else { return Turn::Nothing };
        self.digest = self.digest.wrapping_sub(digest(user, number, since_ms));
        if self.has(user) {
            return Turn::Same;
        }
        self.users -= 1;
        Turn::Turned
    }

    pub fn has(&self, user: &UserName) -> bool {
        self.any_of(user).is_some()
    }

    fn any_of(&self, user: &UserName) -> Option<UserName> {
        self.of(user).next().map(|((name, _), _)| name.clone())
    }

    /// A user's sessions, by number.
    pub fn of(&self, user: &UserName) -> impl Iterator<Item = (&Key, SinceMs)> {
        self.sessions.range((user.clone(), 0)..=(user.clone(), u64::MAX)).map(|(key, since_ms)| (key, *since_ms))
    }

    /// What comes behind a session.
    pub fn behind(&self, after: Option<&Key>) -> impl Iterator<Item = (&Key, SinceMs)> {
        self.sessions.range((from(after), Bound::Unbounded)).map(|(key, since_ms)| (key, *since_ms))
    }

    /// Users behind a name, each once, with how many sessions they have.
    pub fn users_behind(&self, after: Option<&UserName>) -> impl Iterator<Item = (&UserName, usize)> {
        let after = after.map(|user| (user.clone(), u64::MAX));
        let mut rest = self.sessions.range((from(after.as_ref()), Bound::Unbounded)).peekable();
        std::iter::from_fn(move || {
            let ((user, _), _) = rest.next()?;
            let mut sessions = 1;
            while rest.next_if(|((next, _), _)| next == user).is_some() {
                sessions += 1;
            }
            Some((user, sessions))
        })
    }

    /// Those between two sessions, the latter included, which `keep` does not want.
    pub fn between(&self, after: Option<&Key>, upto: Option<&Key>, keep: impl Fn(&Key) -> bool) -> Vec<Key> {
        let to = upto.map_or(Bound::Unbounded, |key| Bound::Included(key.clone()));
        let found = self.sessions.range((from(after), to)).map(|(key, _)| key);
        found.filter(|key| !keep(key)).cloned().collect()
    }
}

fn from(after: Option<&Key>) -> Bound<Key> {
    after.map_or(Bound::Unbounded, |key| Bound::Excluded(key.clone()))
}

/// FNV-1a in 64 bits over name, number and time, mixed once more because digests are added up. The same in every build.
fn digest(user: &UserName, number: u64, since_ms: SinceMs) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let numbers = [number.to_le_bytes(), since_ms.to_le_bytes()];
    let bytes = user.as_str().bytes().chain([0]).chain(numbers.into_iter().flatten());
    let hash = bytes.fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
    // The finaliser of MurmurHash3.
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn user(name: &str) -> UserName {
        UserName::parse(name).unwrap()
    }

    #[test]
    fn a_user_turns_with_its_first_and_its_last_session() {
        let (mut roll, alice) = (Roll::default(), user("alice"));
        assert_eq!(roll.add(&alice, 1, 10), Turn::Turned);
        assert_eq!(roll.add(&alice, 2, 11), Turn::Same);
        assert_eq!(roll.add(&alice, 2, 11), Turn::Nothing);
        assert_eq!(roll.count(), Count { users: 1, sessions: 2 });
        assert_eq!(roll.remove(&alice, 3), Turn::Nothing);
        assert_eq!(roll.remove(&alice, 1), Turn::Same);
        assert_eq!(roll.remove(&alice, 2), Turn::Turned);
        assert_eq!((roll.count(), roll.digest()), (Count::default(), 0));
    }

    #[test]
    fn users_are_listed_by_name() {
        let mut roll = Roll::default();
        for (name, number) in [("carol", 1), ("alice", 2), ("bob", 3), ("alice", 4)] {
            roll.add(&user(name), number, 0);
        }
        let listed = |after: Option<&str>| -> Vec<(String, usize)> {
            let after = after.map(user);
            roll.users_behind(after.as_ref()).map(|(name, sessions)| (name.to_string(), sessions)).collect()
        };
        assert_eq!(listed(None), [("alice".into(), 2), ("bob".into(), 1), ("carol".into(), 1)]);
        assert_eq!(listed(Some("alice")), [("bob".into(), 1), ("carol".into(), 1)]);
        assert_eq!(listed(Some("b")), [("bob".into(), 1), ("carol".into(), 1)]);
        assert_eq!(listed(Some("carol")), []);
    }

    proptest! {
        #[test]
        fn the_digest_is_of_what_stands_here(
            steps in prop::collection::vec((any::<bool>(), "[a-c]", 1..4_u64, 0..3_u64), 0..60),
        ) {
            let mut roll = Roll::default();
            for (comes, name, number, since_ms) in steps {
                if comes {
                    roll.add(&user(&name), number, since_ms);
                } else {
                    roll.remove(&user(&name), number);
                }
            }
            let mut same = Roll::default();
            for ((name, number), since_ms) in roll.behind(None).collect::<Vec<_>>().into_iter().rev() {
                same.add(name, *number, since_ms);
            }
            prop_assert_eq!((roll.digest(), roll.count()), (same.digest(), same.count()));
        }
    }
}
