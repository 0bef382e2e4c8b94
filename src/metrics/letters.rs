//! What is read for users here, in numbers.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// A cheap handle.
#[derive(Clone, Default)]
pub struct LetterMetrics {
    given: Counter,
    acknowledged: Counter,
    given_back: Counter,
    copies: Counter,
    copies_lost: Counter,
    set_aside: Counter,
}

impl LetterMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let given =
            "Messages out of mailboxes that were given to their users' sessions here, to all of them counting once";
        registry.register("given", given, self.given.clone());
        registry.register(
            "acknowledged",
            "Messages that their mailboxes keep no longer, since a client has them",
            self.acknowledged.clone(),
        );
        registry.register(
            "given_back",
            "Messages that nobody here acknowledged in time, and that their mailboxes keep",
            self.given_back.clone(),
        );
        registry.register("copies", "Messages sent on to another instance that holds the user", self.copies.clone());
        registry.register(
            "copies_lost",
            "Such messages of which it is not known that the other instance has them",
            self.copies_lost.clone(),
        );
        registry.register(
            "set_aside",
            "Messages that came before their user did, and wait to be asked for",
            self.set_aside.clone(),
        );
    }

    pub fn given(&self) {
        self.given.inc();
    }

    pub fn acknowledged(&self) {
        self.acknowledged.inc();
    }

    pub fn given_back(&self, messages: usize) {
        self.given_back.inc_by(messages as u64);
    }

    /// One was sent on.
    pub fn copied(&self, is_known_to_be_there: bool) {
        self.copies.inc();
        self.copies_lost.inc_by(u64::from(!is_known_to_be_there));
    }

    pub fn set_aside(&self) {
        self.set_aside.inc();
    }
}
