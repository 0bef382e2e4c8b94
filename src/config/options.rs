//! The table of options: the one place where an option has its name, type, limits, default, help and reason.
//!
//! From the name come the flag (`--outbox-bytes-max`), the variable (`WARREN_OUTBOX_BYTES_MAX`) and the key in the file
//! (`outbox_bytes_max`). Help and reason are plain sentences: they stand in the help, in the sample file, in the
//! documentation and on the fields of [`Config`].

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use super::access::{self, AllowedOrigins};
use super::broker::BrokerChoice;
use super::error::Error;
use super::format::{Format, GIB, KIB, MIB, Shape, bytes, list, number, parsed, switch, text};
use super::identity::{self, Anonymous, CookieName};
use super::load::Sources;
use super::names::{LogFilter, Prefix};
use super::scraping::MetricsListen;
use super::table::{OptionRow, options};
use crate::broker::Delivery;
use crate::identity::Place;
use crate::instance::InstanceName;
use crate::session::{BURST_MAX, SlowReader};
use crate::users::Unread;

/// Longest time that RabbitMQ takes for a queue's life: 2^32 ms.
pub(super) const MAILBOX_IDLE_S_MAX: u64 = 49 * DAY_MS / 1000;

/// Longest interval or timeout: a day. More is a slip of the unit.
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

options! {
    "Listening" {
        host: IpAddr = text("ADDRESS", "an IP address", |text| text.parse().map_err(|_| None)) => {
            default: "0.0.0.0",
            help: "IP address to listen on.",
            reason: "Every IPv4 address of the host, so that a container or a load balancer reaches it.",
        }
        port: u16 = number("PORT", 0..=65535) => {
            default: "8080",
            help: "TCP port to listen on; 0 takes any free one.",
            reason: "It needs no privileges and is where proxies and platforms look for a web application.",
        }
        metrics_listen: MetricsListen = text(
            "ADDRESS:PORT",
            "auto, off, or an IP address and a port such as 127.0.0.1:9464",
            MetricsListen::read,
        ) => {
            default: "auto",
            help: "Where GET /metrics is answered for Prometheus: auto is 127.0.0.1 and the first free port from 9464 \
                   to 9479, off is nowhere. It is logged at the start.",
            reason: "Metrics are there when they are wanted, for this host alone, and a second instance beside the first \
                     starts all the same. Name an address where something else on the network scrapes, and a port where \
                     instances come and go: then each keeps its own.",
        }
    }

    "Broker" {
        broker: BrokerChoice = list(
            "URI",
            "memory, or URIs amqp[s]://[user:password@]host[:port][/vhost], several separated by commas",
            BrokerChoice::from_items,
        ).secret() => {
            default: "memory",
            help: "What carries messages between instances, and keeps those for users: memory, for one process alone, with \
                   which all that is kept ends, or the URIs of a RabbitMQ cluster's nodes, tried in turn.",
            reason: "It runs with nothing else installed. Prefer the environment or the file for a URI with a \
                     password: other users of the host can read a command line.",
        }
        broker_ca_file: Option<PathBuf> = text("FILE", "a PEM file", |text| Ok(PathBuf::from(text))).optional() => {
            default: "",
            help: "PEM file with the certificate authority of an amqps:// broker.",
            reason: "A broker whose certificate comes from a public authority needs none.",
        }
        prefix: Prefix = parsed("NAME", "1 to 64 of A-Z a-z 0-9 _ . -") => {
            default: "warren",
            help: "What the names of this cluster's exchanges begin with.",
            reason: "One cluster for each broker is the rule; give each its own prefix where two share one.",
        }
        instance: Option<InstanceName> = text(
            "NAME",
            "1 to 128 of A-Z a-z 0-9 _ . : -",
            |text| InstanceName::parse(text).map_err(|_| None),
        ).optional() => {
            default: "",
            help: "This instance's name, and its exchange's: unique in the cluster.",
            reason: "Without one it is ip_port, such as 10.0.0.5_8080. Name it where instances share an address.",
        }
        delivery: Delivery = parsed("WAY", "queue or stream") => {
            default: "queue",
            help: "How the broadcast and topics come to this instance from RabbitMQ: queue, through a queue of its own; \
                   stream, from the cluster's streams, in which it goes on where it was after any interruption, and \
                   clients where they were.",
            reason: "A queue costs RabbitMQ less and keeps nothing on its disk; docs/delivery.md says what each promises \
                     and costs. Instances of both kinds may share a cluster while it is switched.",
        }
        broker_queue_bytes_max: u64 = bytes(MIB..=64 * GIB) => {
            default: "64 MiB",
            help: "Bytes that may wait in RabbitMQ for this instance; past them the oldest message is dropped.",
            reason: "A stalled instance loses messages before it fills the broker's memory, whose alarm would stop \
                     every publisher of the cluster.",
        }
        publish_window: u16 = number("MESSAGES", 1..=65535) => {
            default: "256",
            help: "Messages that may be on their way to RabbitMQ without its confirmation.",
            reason: "Enough to be far from the cost of confirming one by one, and few to be in doubt when a \
                     connection breaks.",
        }
        publish_timeout_ms: u64 = number("MS", 1..=DAY_MS) => {
            default: "5000",
            help: "When a message is not confirmed within this time the connection is taken for dead: a new one is made, \
                   and what was not confirmed is published again.",
            reason: "Many times what a healthy broker takes to answer, and shorter than a person waits.",
        }
        spool_messages_max: usize = number("MESSAGES", 1..=100_000_000) => {
            default: "100000",
            help: "Messages of clients that may wait for RabbitMQ's confirmation; past them nothing more is read of the \
                   clients that send.",
            reason: "Over a minute of 1,000 messages a second: longer than a restart of the broker takes.",
        }
        spool_bytes_max: usize = bytes(MIB..=64 * GIB) => {
            default: "64 MiB",
            help: "Bytes that may wait so, each message counting for its payload and 512 bytes. With --delivery queue as \
                   many again may be kept of what was confirmed lately.",
            reason: "What an instance can spare, and enough for 100,000 short messages.",
        }
        spool_age_max_ms: u64 = number("MS", 1000..=DAY_MS) => {
            default: "300000",
            help: "When a message has waited for longer than this, nothing more is read of the clients that send. An \
                   instance that starts reads the cluster's stream from so long ago.",
            reason: "Five minutes: who comes back to an older message takes it for a new one.",
        }
        spool_wait_ms: u64 = number("MS", 1..=DAY_MS) => {
            default: "10000",
            help: "How long a client that sends is held while the spool is full, before its session is closed with 1013.",
            reason: "Longer than most outages last once the spool is full, and short enough for the client to try another \
                     instance.",
        }
        resend_ms: u64 = number("MS", 0..=60_000) => {
            default: "5000",
            help: "With --delivery queue, what was confirmed within this time is published again when the broker was \
                   lost; receivers drop what they have.",
            reason: "What was confirmed may still have been in another instance's queue; a healthy instance empties its \
                     queue within milliseconds, a busy one within seconds.",
        }
        broker_heartbeat_s: u16 = number("SECONDS", 1..=600) => {
            default: "10",
            help: "Heartbeat agreed with RabbitMQ: sent at half of it; a broker that is silent for twice as long is \
                   taken for dead.",
            reason: "Notices within 20 s that a broker vanished, where RabbitMQ's own default of 60 s takes two minutes; \
                     a few seconds would give false alarms.",
        }
    }

    "Access" {
        allowed_origins: AllowedOrigins = list(
            "ORIGIN",
            "origins scheme://host[:port] separated by commas, or * for any",
            AllowedOrigins::from_items,
        ) => {
            default: "",
            help: "Origins of web pages that may connect, besides the server's own.",
            reason: "Without any, only pages of the same origin: no foreign page can use a visitor's cookies here. \
                     Programs other than browsers send no origin and are let in.",
        }
        trusted_proxies: Vec<IpNet> = list(
            "NETWORK",
            "IP addresses or networks such as 10.0.0.0/8, separated by commas",
            access::networks,
        ) => {
            default: "",
            help: "Proxies whose word on the client's address is taken.",
            reason: "Anybody can send a forwarding header; only a proxy that is known may be believed.",
        }
    }

    "Identity" {
        jwt_key_file: Option<PathBuf> = text("FILE", "a file with a key", |text| Ok(PathBuf::from(text))).optional() => {
            default: "",
            help: "File with the key by which users' tokens (JWT) are verified: a public key in PEM for RS256, ES256 or EdDSA, or \
                   the secret for HS256, of at least 32 bytes.",
            reason: "Without a key nobody has a token. The key alone says which algorithm counts. To try it: \
                     openssl rand -hex 32 > FILE; warren token --user alice --jwt-key-file FILE.",
        }
        jwt_jwks: Option<Place> = text("FILE|URL", "a file or a URL http[s]://…", identity::place).optional() => {
            default: "",
            help: "JSON Web Key Set instead, by whose keys (kid) tokens are verified: a file, or a URL of the issuer.",
            reason: "Issuers that change their keys publish them so. While they cannot be read, those that are known count, up to \
                     jwt_jwks_age_max_s.",
        }
        jwt_jwks_refresh_s: u64 = number("SECONDS", 10..=DAY_MS / 1000) => {
            default: "3600",
            help: "How often the key set is read again; also when a token names a key that is not in it, at most every 10 s.",
            reason: "A key that was withdrawn counts no longer than this, while the set can be read.",
        }
        jwt_jwks_age_max_s: u64 = number("SECONDS", 20..=30 * DAY_MS / 1000) => {
            default: "86400",
            help: "How long the keys of the set count while it cannot be read again; more than jwt_jwks_refresh_s. Past that, \
                   tokens are answered 503 until it can.",
            reason: "A day, so that an issuer may be away for a night; who cuts an instance off from its issuer keeps a key that \
                     was withdrawn alive no longer.",
        }
        jwt_audience: Vec<String> = list("NAME", "names separated by commas", identity::names) => {
            default: "",
            help: "One of these must be the audience (aud) of a token.",
            reason: "Name it where the issuer makes tokens for other services, too: theirs should not count here.",
        }
        jwt_issuer: Option<String> = text("NAME", "a text", |text| Ok(text.to_owned())).optional() => {
            default: "",
            help: "What a token's issuer (iss) must be.",
            reason: "The key tells enough where one issuer has it.",
        }
        jwt_leeway_s: u64 = number("SECONDS", 0..=600) => {
            default: "5",
            help: "By how much clocks may differ: a token counts so much longer, and earlier.",
            reason: "More than hosts differ that keep their time by NTP.",
        }
        jwt_cookie: CookieName = parsed("NAME", "a cookie's name") => {
            default: "warren_token",
            help: "Cookie that may bring a token; it counts only from pages of an allowed origin, for which * is not enough.",
            reason: "Browsers send cookies with every WebSocket, whosever page opens it.",
        }
        jwt_in_query: bool = switch() => {
            default: "false",
            help: "Take tokens from the URL, too (?token=).",
            reason: "URLs end up in the logs of proxies and in histories. A ticket (POST /api/ticket) is good for one connection, \
                     within seconds.",
        }
        anonymous: Anonymous = parsed("POLICY", "allow, refuse or auto") => {
            default: "auto",
            help: "Whether who brings no token may connect: allow, refuse (401), or auto, which refuses once a key for tokens is \
                   configured. A token that does not count is refused in any case.",
            reason: "Who configures a key wants to know who is there; who does not has no tokens.",
        }
        ticket_lifetime_s: u64 = number("SECONDS", 1..=3600) => {
            default: "30",
            help: "How long a ticket is good.",
            reason: "Longer than a page takes to connect, and hardly of use to who finds it in a log.",
        }
        ticket_key_file: Option<PathBuf> = text("FILE", "a file of 32 bytes or more", |text| Ok(PathBuf::from(text))).optional() => {
            default: "",
            help: "Secret that all instances share, so that a ticket is good on each of them.",
            reason: "With a secret for HS256 that serves; else, without this file, a ticket is good on the instance that gave it.",
        }
        tickets_max: usize = number("TICKETS", 1..=10_000_000) => {
            default: "100000",
            help: "Used tickets that an instance remembers until they end, so that each is good once, one user's at most a tenth of \
                   them; past it tickets are refused (503).",
            reason: "More than 3,000 connections a second for 30 s, and 300 of one user; some megabytes.",
        }
        dev_sign_in: bool = switch() => {
            default: "false",
            help: "For development: POST /api/sign-in gives whoever asks from this host a token for any name.",
            reason: "Never where others can reach this host's programs. It needs a secret (HS256) in --jwt-key-file.",
        }
    }

    "Publishing" {
        api_keys_file: Option<PathBuf> = text("FILE", "a file of API keys", |text| Ok(PathBuf::from(text))).optional() => {
            default: "",
            help: "File with a line for each who may publish, write to users and groups, and see who is here, over HTTP: \
                   a name, and the SHA-256 of the key that is sent as Authorization: Bearer KEY. For a new key: \
                   KEY=$(openssl rand -hex 32); echo \"NAME $(printf %s \"$KEY\" | sha256sum | cut -d' ' -f1)\".",
            reason: "Without one, and without keys for tokens, only programs on this host may, which no proxy passed on and no \
                     web page sent.",
        }
        publish_answer_ms: u64 = number("MS", 1..=DAY_MS) => {
            default: "10000",
            help: "How long a publishing request (POST /api/…) waits for RabbitMQ's confirmation of its message once that is \
                   in the spool; past it the answer is 504, and the message is still on its way.",
            reason: "Twice publish_timeout_ms: a broken connection is noticed and the message published again.",
        }
        publish_requests_max: usize = number("REQUESTS", 1..=1_000_000) => {
            default: "256",
            help: "Publishing requests, and calls that take what is unread, at a time; one more is answered 503.",
            reason: "Far more than it takes to keep RabbitMQ busy, and their bodies take no more than this times \
                     publish_body_bytes_max.",
        }
        publish_body_bytes_max: usize = bytes(KIB..=64 * MIB) => {
            default: "1 MiB",
            help: "Bytes of the JSON body of one publishing request; never less than the largest message takes in base64, and \
                   4 KiB. A raw body is a message: message_bytes_max.",
            reason: "A batch of a thousand short messages, or some of the largest, however they are escaped.",
        }
        publish_batch_max: usize = number("MESSAGES", 1..=100_000) => {
            default: "1000",
            help: "Messages in one publishing request.",
            reason: "Enough that the cost of a request is no longer felt.",
        }
        idempotency_window_ms: u64 = number("MS", 0..=DAY_MS) => {
            default: "600000",
            help: "How long an instance remembers the idempotency key of a message that came: another with the same key for \
                   the same topic is dropped. 0: not at all.",
            reason: "Twice spool_age_max_ms: what was repeated through another instance while the first waited out an \
                     outage is still known when that arrives.",
        }
        idempotency_keys_max: usize = number("KEYS", 0..=10_000_000) => {
            default: "100000",
            help: "Idempotency keys that are remembered at most; past it the oldest are forgotten. 0: none.",
            reason: "With more than 166 a second the window is shorter; each takes some 60 bytes.",
        }
    }

    "Sessions" {
        message_bytes_max: usize = bytes(1..=16 * MIB) => {
            default: "64 KiB",
            help: "Largest message taken from a client or from the broker.",
            reason: "Ample for events and chat; each message is held for every session that is behind.",
        }
        outbox_bytes_max: usize = bytes(15..=GIB) => {
            default: "1 MiB",
            help: "Bytes that may wait for one session's socket; slow_reader says what happens past them. \
                   At least message_bytes_max and 14 bytes for a frame's header.",
            reason: "Some seconds of a busy channel on a poor line; with as many slow readers as sessions the \
                     memory is this times the sessions.",
        }
        slow_reader: SlowReader = parsed("POLICY", "disconnect or drop-oldest") => {
            default: "disconnect",
            help: "What becomes of a session for which more waits than outbox_bytes_max: disconnect closes it with 4001; \
                   drop-oldest keeps it, leaves out the oldest messages that it was not sent yet, and counts them.",
            reason: "Who is closed knows that something is missing and can catch up; a plain session that misses some \
                     cannot tell. Choose drop-oldest where only the latest matters, such as prices or positions.",
        }
        messages_per_second_max: u32 = number("MESSAGES", 0..=1_000_000) => {
            default: "0",
            help: "Messages a second that a session may send for long, keep-alives, pings and pongs counted too; 0: as \
                   many as it can. Past it the session is closed with 1008.",
            reason: "Only you know what is a flood: one session may be a program that speaks for many. No sender \
                     overruns the server, which reads no faster than the broker confirms. Set it where strangers connect.",
        }
        messages_burst_max: u32 = number("MESSAGES", 1..=u64::from(BURST_MAX)) => {
            default: "100",
            help: "Messages that a session may send at once, if messages_per_second_max limits it: what it did not use \
                   is saved up to this.",
            reason: "A page that was cut off, or a phone that wakes, sends what has piled up. It costs about as much as \
                     one read.",
        }
        sessions_max: usize = number("SESSIONS", 0..=10_000_000) => {
            default: "0",
            help: "Sessions at a time; 0 means what the limit of open files allows.",
            reason: "The limit of open files is what ends first, and the operator has set it already.",
        }
        sessions_per_address_max: u32 = number("SESSIONS", 0..=10_000_000) => {
            default: "0",
            help: "Sessions at a time of one client address, which trusted_proxies may tell; of IPv6, of one network of \
                   64 bits. 0: no limit. Past it upgrades are answered 429.",
            reason: "Thousands of people can share one address, and behind a load balancer that trusted_proxies does not \
                     name all do: a limit would shut them out.",
        }
        sessions_per_user_max: u32 = number("SESSIONS", 0..=10_000_000) => {
            default: "0",
            help: "Sessions at a time of one user, on all instances together; 0: no limit. Past it upgrades are answered \
                   429. Where several are let in at once, the youngest are closed with 4005.",
            reason: "How many windows and devices somebody has is nobody's business until it is abused.",
        }
        handshakes_max: usize = number("CONNECTIONS", 1..=1_000_000) => {
            default: "8192",
            help: "Connections at a time that have not become sessions yet; one more ends the oldest.",
            reason: "A third of a second of handshakes at full speed, so that a crowd that returns at once gets in. Who \
                     connects and says nothing takes 12 KiB, all of them 100 MiB; they are the oldest, and so the \
                     ones to go.",
        }
        request_head_bytes_max: usize = bytes(8 * KIB..=MIB) => {
            default: "16 KiB",
            help: "Bytes of one request's line and headers; more are answered 431.",
            reason: "Twice what browsers and proxies commonly allow, cookies included.",
        }
        handshake_timeout_ms: u64 = number("MS", 1..=DAY_MS) => {
            default: "10000",
            help: "Time for a new connection to begin its request, and then to complete it.",
            reason: "Slow mobile lines need seconds; a connection that says nothing must not hold a socket for long.",
        }
        ping_interval_ms: u64 = number("MS", 1..=DAY_MS) => {
            default: "30000",
            help: "Interval of pings to each session, and of comments to each event stream; below idle_timeout_ms.",
            reason: "Half of the 60 s after which many proxies cut a connection that is silent.",
        }
        idle_timeout_ms: u64 = number("MS", 1..=DAY_MS) => {
            default: "75000",
            help: "A session of which nothing is heard for this long, not even a pong, is closed; an event stream, if its host \
                   acknowledges nothing for this long.",
            reason: "Two and a half pings: one lost answer is forgiven.",
        }
        close_timeout_ms: u64 = number("MS", 1..=DAY_MS) => {
            default: "3000",
            help: "Time for a client to answer the close frame, or to read on towards it, before its connection is cut.",
            reason: "Several round trips on a poor line; a client that is gone must not delay more than that.",
        }
        compression: bool = switch() => {
            default: "true",
            help: "Compress messages for clients that offer it (permessage-deflate, RFC 7692), and take compressed ones.",
            reason: "Each message is compressed once for all of them, so that it costs little more with many clients \
                     than with one, and JSON takes a third of the bytes. Without such a client nothing is compressed.",
        }
        compression_bytes_min: usize = bytes(1..=16 * MIB) => {
            default: "1 KiB",
            help: "Smallest message that is compressed.",
            reason: "Below it the gain is less than the work: the message fits one packet either way.",
        }
        coalesce_ms: u64 = number("MS", 0..=1000) => {
            default: "0",
            help: "How long a message waits for others, to go to every session in one write with them; 0: not at all.",
            reason: "What is ready at the same time goes together anyway. Where many small messages come all the time, \
                     a few milliseconds of delay save most of the writes, and those are most of the work.",
        }
        topic_linger_ms: u64 = number("MS", 0..=DAY_MS) => {
            default: "30000",
            help: "How long RabbitMQ still delivers a topic's messages to this instance after its last subscription here.",
            reason: "A client that reconnects, or a page that is reloaded, finds the topic still there.",
        }
        topics_per_session_max: usize = number("TOPICS", 1..=10_000) => {
            default: "1000",
            help: "Topics and patterns that one session may subscribe to (with the subprotocol warren.v1.json, or on /events).",
            reason: "More than a page shows at a time. A topic takes some hundred bytes, a pattern some kilobytes at worst; one pattern can \
                     stand for many topics.",
        }
        pending_requests_max: u32 = number("REQUESTS", 1..=1_000_000) => {
            default: "256",
            help: "Messages that a session may have published (with the subprotocol warren.v1.json) without the broker's \
                   answer; past them nothing more is read of it until some are answered.",
            reason: "As many as are on their way to RabbitMQ by default: more would wait in any case.",
        }
        history_messages_max: usize = number("MESSAGES", 0..=1_000_000) => {
            default: "1000",
            help: "Messages of the past that are kept, and that a session may ask for with /message?replay=20; 0: none.",
            reason: "More than anybody scrolls back, and what a busy channel says while a client reconnects.",
        }
        history_age_s: u64 = number("SECONDS", 0..=DAY_MS / 1000) => {
            default: "3600",
            help: "Age up to which messages are replayed, and that a session may ask for with /message?replay=30s; 0: \
                   none.",
            reason: "An hour, so that a quiet channel has a past, too; what is older is hardly news.",
        }
        history_bytes_max: usize = bytes(0..=GIB) => {
            default: "8 MiB",
            help: "Memory that the messages of the past may take, for all sessions together; 0: no replays.",
            reason: "A thousand messages of 8 KiB; a replay of all of it takes a client less than a second at 100 Mbit/s.",
        }
        resume_bytes_max: usize = bytes(0..=GIB) => {
            default: "16 MiB",
            help: "Memory for what sessions are given that were away for a short time and say where they were; what is older \
                   is read from the stream. 0: no session can go on where it was.",
            reason: "Some 40,000 short messages with what each takes beside, that is the time of a deployment on a busy \
                     instance.",
        }
        answer_keep_alive: bool = switch() => {
            default: "false",
            help: "Answer the texts ping and keep-alive with the text pong. They are never broadcast either way.",
            reason: "Most clients that send such texts expect no answer, and would take it for a message. Switch it \
                     on for client libraries that wait for one.",
        }
    }

    "Users" {
        unread_messages_max: usize = number("MESSAGES", 1..=10_000_000) => {
            default: "1000",
            help: "Messages that may wait for one user who has not acknowledged them; past them whoever writes to that user \
                   is told that there is no room. Mailboxes that stand keep the bounds with which they were made.",
            reason: "More than anybody reads on coming back.",
        }
        unread_bytes_max: usize = bytes(KIB..=GIB) => {
            default: "1 MiB",
            help: "Bytes that may wait so.",
            reason: "A thousand messages of 1 KiB. A mailbox has room for all of it, so multiply by the users who may be \
                     away.",
        }
        unread_age_s: u64 = number("SECONDS", 1..=MAILBOX_IDLE_S_MAX) => {
            default: "604800",
            help: "How long a message waits for its user; then it is kept no more.",
            reason: "A week, so that who was on holiday for some days misses nothing.",
        }
        mailbox_idle_s: u64 = number("SECONDS", 60..=MAILBOX_IDLE_S_MAX) => {
            default: "1209600",
            help: "How long a mailbox and the user's memberships in groups stand when the user was last here, was last written \
                   to by name, or was last assigned; what is in the mailbox then is kept for its time.",
            reason: "Two weeks: a mailbox costs RabbitMQ some memory for as long as it stands, though it be empty.",
        }
        unread: Unread = parsed("WAY", "push or pull") => {
            default: "push",
            help: "What is done with what a user missed: push, it comes first on the next connection; pull, it waits until it \
                   is asked for.",
            reason: "Clients need do nothing for it. pull is for front ends that ask by themselves.",
        }
        letter_ack_timeout_ms: u64 = number("MS", 1000..=20 * 60 * 1000) => {
            default: "60000",
            help: "When a user's sessions here have not acknowledged a message within this time, they get no more of them \
                   until one does or another session begins; what is not acknowledged stays kept.",
            reason: "Long enough for a phone in a tunnel, and well before the half hour after which RabbitMQ itself loses \
                     patience.",
        }
    }

    "Process" {
        drain_timeout_ms: u64 = number("MS", 0..=DAY_MS) => {
            default: "10000",
            help: "Time to close the sessions in good order when told to stop. They leave within the first half of it, a \
                   thousand a second if that suffices; who is still there at its end is cut.",
            reason: "Well within the 30 s that Kubernetes grants. docker stop grants 10 s: lower it there, or grant \
                     more.",
        }
        drain_delay_ms: u64 = number("MS", 0..=DAY_MS) => {
            default: "0",
            help: "How long an instance that was told to stop refuses new sessions before it closes those it has. Part \
                   of drain_timeout_ms, and less than it.",
            reason: "Without a load balancer it would only delay the stop. Behind one, grant what it takes to notice that \
                     GET /readyz answers 503: its interval times its failures.",
        }
        retry_after_max_ms: u64 = number("MS", 1..=DAY_MS) => {
            default: "3000",
            help: "Sessions that are closed because the instance stops are asked to come back after a time of their own, \
                   up to this (retry-after-ms=N in the reason). Event streams: between half of it and all, also when they are lost.",
            reason: "Spreads those who leave together; a person hardly notices.",
        }
        worker_threads: usize = number("THREADS", 0..=1024) => {
            default: "0",
            help: "Threads that do the work; 0 means one per core.",
            reason: "More than the cores gain nothing, as no thread waits; fewer leave room for others.",
        }
        log: LogFilter = parsed(
            "FILTER",
            "off, error, warn, info, debug or trace, or directives such as info,lapin=warn",
        ) => {
            default: "info",
            help: "Which log lines are written: a level, or levels of parts separated by commas.",
            reason: "Tells what changes in the cluster, and nothing for each message.",
        }
    }
}

/// The option that names the file: it has no key in the file itself.
pub(super) fn config_row() -> OptionRow {
    OptionRow {
        name: "config",
        heading: "Configuration file",
        placeholder: "FILE",
        default: "",
        help: "TOML file with options.",
        reason: "Flags and the environment may say everything; no file is looked for that was not named.",
        allowed: "a TOML file".to_owned(),
        secret: false,
        shape: Shape::Text,
    }
}

impl Default for Config {
    /// Every option at its default.
    fn default() -> Config {
        Config::read(&Sources::defaults()).expect("every default of the table is allowed: the tests read them all")
    }
}
