//! What of an outcome the guarantee forbids.

use std::time::Duration;

use super::balance::{Balance, Excuse, Sums};
use super::options::Options;
use super::strike::Struck;
use super::subject::Route;
use super::users::MailSums;
use crate::bench::progress::grouped;
use crate::broker::Delivery;

/// What a broker takes along waits in queues of instances for no longer than this before: a published message spends
/// milliseconds there, unless the instance is behind.
const QUEUED_AT_MOST: Duration = Duration::from_secs(10);

/// The times and places in which messages that were kept in queues may be missing.
pub fn excuses(faults: &[Struck]) -> Vec<Excuse> {
    let taking = faults.iter().filter(|struck| is_excuse(struck));
    let excuse = |struck: &Struck| Excuse {
        instance: struck.fault.instance,
        from: struck.at.saturating_sub(QUEUED_AT_MOST),
        to: struck.flowed.unwrap_or(Duration::MAX),
    };
    taking.map(excuse).collect()
}

fn is_excuse(struck: &Struck) -> bool {
    struck.fault.kind.takes_queues_along()
}

/// Enters with each fault what it took along of what may be lost at all, by the balances that were settled with its
/// [`excuses`].
pub fn charge(options: &Options, faults: &mut [Struck], balances: &[(Route, Balance)]) {
    let of_queues = || balances.iter().filter(|_| options.delivery() == Delivery::Queue);
    for (place, struck) in faults.iter_mut().filter(|struck| is_excuse(struck)).enumerate() {
        let lost_at = |instance| of_queues().map(|(_, balance)| balance.messages_lost[place][instance]).sum();
        struck.lost = (0..options.instances).map(lost_at).collect();
    }
}

/// Each thing that must not have been, in a sentence.
pub fn forbidden(options: &Options, balances: &[(Route, Balance)], faults: &[Struck], not_back: usize) -> Vec<String> {
    let of_route = |(route, balance): &(Route, Balance)| of_route(options, *route, &balance.all());
    let mut sentences: Vec<String> = balances.iter().flat_map(of_route).collect();
    sentences.extend(faults.iter().flat_map(untold));
    if not_back > 0 {
        sentences.push(format!("{} sessions were not connected at the end", grouped(not_back as u64)));
    }
    for struck in faults {
        let (at, name) = (struck.at.as_secs_f64(), struck.fault.kind.name());
        if struck.flowed.is_none() {
            sentences.push(format!("messages did not flow again after the {name} at {at:.1} s"));
        }
        if !struck.counts() {
            sentences.push(format!("the {name} at {at:.1} s hit no message on its way and proves nothing"));
        }
        sentences.extend(struck.trouble.iter().map(|trouble| format!("{trouble} ({name} at {at:.1} s)")));
    }
    sentences
}

fn of_route(options: &Options, route: Route, all: &Sums) -> Vec<String> {
    let forgiven = if options.allow_refusals { all.refused } else { 0 };
    let always = [(all.duplicated, "came twice"), (all.unwanted, "came to who had not asked for them, or had left")];
    let held_to = match options.delivery() {
        Delivery::Stream => of_stream(all),
        Delivery::Queue => of_queue(all),
    };
    let deliveries = held_to.into_iter().chain(always).filter(|(count, _)| *count > 0);
    let of_deliveries = |(count, what)| format!("{} deliveries of the {} {what}", grouped(count), route.name());
    let mut sentences: Vec<String> = deliveries.map(of_deliveries).collect();
    if all.disconnected > forgiven {
        let count = grouped(all.disconnected - forgiven);
        sentences.push(format!("{count} connections for the {} were ended without a cause", route.name()));
    }
    sentences
}

/// The same of what was written to users, which no way of delivery excuses: accepted means kept.
pub fn of_users(sums: &MailSums) -> Vec<String> {
    let counts = [
        (sums.lost, "accepted messages were never seen by the user they were for"),
        (sums.reordered, "messages to users came behind later ones of the same writer"),
        (sums.unwanted, "messages to users came to somebody else"),
        (sums.disconnected, "sessions of users and of who writes to them were ended without a cause"),
    ];
    let found = counts.into_iter().filter(|(count, _)| *count > 0);
    let mut sentences: Vec<String> = found.map(|(count, what)| format!("{} {what}", grouped(count))).collect();
    if sums.accepted == 0 {
        sentences.push("no message to a user was accepted, so nothing is proved of them".to_owned());
    }
    sentences
}

fn of_stream(all: &Sums) -> Vec<(u64, &'static str)> {
    vec![
        (all.lost, "were lost"),
        (all.reordered, "came out of order"),
        (all.unordered, "came in another order than elsewhere"),
    ]
}

/// A message may be lost where its queue was, and then has to be told there, before the next fault strikes; one that the
/// broker refused at first may come late.
fn of_queue(all: &Sums) -> Vec<(u64, &'static str)> {
    vec![
        (all.lost_without_excuse, "were lost though neither the broker nor the wire had failed"),
        (all.reordered_without_excuse, "came out of order though neither the broker nor the wire had failed"),
    ]
}

/// An instance that told of fewer messages than it lost by this fault.
fn untold(struck: &Struck) -> impl Iterator<Item = String> {
    let (at, name) = (struck.at.as_secs_f64(), struck.fault.kind.name());
    let counts = struck.lost.iter().zip(&struck.told).enumerate().filter(|(_, (lost, told))| told < lost);
    counts.map(move |(index, (lost, told))| {
        let (lost, told) = (grouped(*lost), grouped(*told));
        format!("instance {} lost {lost} messages by the {name} at {at:.1} s, but told of {told}", index + 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::script::{Fault, Kind};

    fn options(line: &str) -> Options {
        let command = crate::chaos::declare(clap::Command::new("chaos"));
        let words = ["chaos"].into_iter().chain(line.split_whitespace());
        crate::chaos::read(&command.try_get_matches_from(words).expect("arguments")).expect("options")
    }

    fn balance(sums: Sums) -> Balance {
        Balance { instances: vec![sums, Sums::default()], ..Balance::default() }
    }

    fn verdict(line: &str, sums: Sums) -> Vec<String> {
        verdict_of(Route::Broadcast, line, sums)
    }

    fn verdict_of(route: Route, line: &str, sums: Sums) -> Vec<String> {
        forbidden(&options(line), &[(route, balance(sums))], &[], 0)
    }

    fn struck(kind: Kind, instance: Option<usize>) -> Struck {
        let seconds = Duration::from_secs;
        let fault = Fault { at: seconds(20), kind, instance, hold: seconds(1), extent: None };
        Struck {
            fault,
            at: seconds(20),
            outstanding: 1,
            letters: 0,
            in_vain: 0,
            mended: seconds(21),
            flowed: Some(seconds(22)),
            lost: Vec::new(),
            told: Vec::new(),
            trouble: None,
        }
    }

    #[test]
    fn nothing_wrong_is_nothing_forbidden() {
        let sums = Sums { accepted: 9, delivered: 90, told: 3, ..Sums::default() };
        for line in ["", "--delivery queue", "--delivery stream"] {
            assert_eq!(verdict(line, sums), [""; 0]);
        }
    }

    #[test]
    fn a_stream_loses_nothing_whatever_the_excuse() {
        let sums = Sums { lost: 1_200, messages_lost: 12, ..Sums::default() };
        assert_eq!(verdict("--delivery stream", sums), ["1,200 deliveries of the broadcast were lost"]);
        assert_eq!(verdict("--delivery queue", sums), [""; 0], "told, and excused");
    }

    #[test]
    fn a_queue_tells_of_every_loss() {
        let sums = Sums { lost: 24, lost_without_excuse: 2, ..Sums::default() };
        assert!(verdict("", sums)[0].starts_with("2 deliveries of the broadcast were lost though"));
        let mut faults =
            [struck(Kind::BrokerKill, None), struck(Kind::MemoryAlarm, None), struck(Kind::WireCut, Some(1))];
        let lost = |messages_lost| Balance { messages_lost, ..balance(Sums::default()) };
        let balances = [
            (Route::Broadcast, lost(vec![vec![10, 3], vec![0, 7]])),
            (Route::Topics, lost(vec![vec![2, 0], vec![0, 0]])),
        ];
        charge(&options(""), &mut faults, &balances);
        assert_eq!(faults.each_ref().map(|struck| &struck.lost[..]), [&[12, 3][..], &[], &[0, 7]]);
        // Too much elsewhere makes up for nothing.
        for (struck, told) in faults.iter_mut().zip([[11, 40], [40, 40], [40, 7]]) {
            struck.told = told.to_vec();
        }
        let sentences = forbidden(&options(""), &balances, &faults, 0);
        assert_eq!(sentences, ["instance 1 lost 12 messages by the broker-kill at 20.0 s, but told of 11"]);
    }

    #[test]
    fn topics_are_held_to_the_same_and_nobody_hears_what_it_did_not_ask_for() {
        let lost = Sums { lost: 5, messages_lost: 5, ..Sums::default() };
        assert_eq!(verdict_of(Route::Topics, "--delivery queue", lost), [""; 0], "told, and excused");
        assert_eq!(verdict_of(Route::Topics, "--delivery stream", lost), ["5 deliveries of the topics were lost"]);
        let sums = Sums { unwanted: 3, ..Sums::default() };
        for line in ["--delivery queue", "--delivery stream"] {
            let sentences = verdict_of(Route::Topics, line, sums);
            assert_eq!(sentences, ["3 deliveries of the topics came to who had not asked for them, or had left"]);
        }
    }

    #[test]
    fn doubles_order_and_disconnects_are_never_forgiven() {
        for line in ["--delivery queue", "--delivery stream"] {
            assert_eq!(
                verdict(line, Sums { duplicated: 1, ..Sums::default() }),
                ["1 deliveries of the broadcast came twice"]
            );
            let sums = Sums { reordered: 1, reordered_without_excuse: 1, ..Sums::default() };
            assert!(verdict(line, sums)[0].starts_with("1 deliveries of the broadcast came out of order"));
            let sums = Sums { disconnected: 2, ..Sums::default() };
            assert_eq!(verdict(line, sums), ["2 connections for the broadcast were ended without a cause"]);
        }
    }

    #[test]
    fn nothing_excuses_what_users_did_not_see() {
        let sums = MailSums { accepted: 9, seen: 9, told: 3, repeated: 2, ..MailSums::default() };
        assert_eq!(of_users(&sums), [""; 0], "what was told may be missing, and what comes again has its id");
        let sums = MailSums { accepted: 9, lost: 1, reordered: 2, unwanted: 3, disconnected: 4, ..sums };
        let first_words = ["1 accepted", "2 messages", "3 messages", "4 sessions"];
        assert!(of_users(&sums).iter().zip(first_words).all(|(sentence, words)| sentence.starts_with(words)));
        assert_eq!(of_users(&sums).len(), 4);
        assert_eq!(of_users(&MailSums::default()).len(), 1, "a run in which nobody wrote proves nothing");
    }

    #[test]
    fn refusals_are_forgiven_where_they_were_allowed() {
        let sums = Sums { disconnected: 3, refused: 2, ..Sums::default() };
        assert_eq!(verdict("", sums), ["3 connections for the broadcast were ended without a cause"]);
        assert_eq!(verdict("--allow-refusals", sums), ["1 connections for the broadcast were ended without a cause"]);
    }

    #[test]
    fn a_fault_has_to_hit_and_to_pass() {
        let fault = struck(Kind::BrokerKill, None);
        let cases = [
            (Struck { outstanding: 0, ..fault.clone() }, "hit no message"),
            (Struck { flowed: None, ..fault.clone() }, "did not flow again"),
            (Struck { trouble: Some("it did not stop".to_owned()), ..fault }, "it did not stop"),
        ];
        for (fault, named) in cases {
            let sentences = forbidden(&options(""), &[], &[fault], 0);
            assert!(sentences.len() == 1 && sentences[0].contains(named), "{sentences:?}");
        }
        assert_eq!(forbidden(&options(""), &[], &[], 4).len(), 1);
    }

    #[test]
    fn only_what_takes_queues_along_is_an_excuse() {
        let faults = [
            struck(Kind::BrokerKill, None),
            struck(Kind::WireCut, Some(1)),
            struck(Kind::WireDelay, Some(0)),
            struck(Kind::InstanceKill, Some(0)),
            struck(Kind::MemoryAlarm, None),
        ];
        let excuses = excuses(&faults);
        assert_eq!(excuses.iter().map(|excuse| excuse.instance).collect::<Vec<_>>(), [None, Some(1)]);
        assert_eq!((excuses[0].from, excuses[0].to), (Duration::from_secs(10), Duration::from_secs(22)));
    }
}
