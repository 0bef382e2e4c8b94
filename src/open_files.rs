//! The limit of open files of this process: each session takes one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The limit, after raising the soft one as far as this process may.
pub fn raise() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum.unwrap_or(u64::MAX),
        Err(error) => {
            log::warn!("the limit of open files cannot be raised to {:?}: {error}", limit.maximum);
            limit.current.unwrap_or(u64::MAX)
        }
    }
}
