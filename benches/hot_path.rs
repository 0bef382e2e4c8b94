//! What a message costs before the kernel sees it: encoding, parsing, and the fan-out over sockets that only count.
//!
//! `cargo bench` compares with the run before. Of a delivery's cost this is the smaller part by far; `warren bench`
//! measures the whole.

use std::hint::black_box;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use lapin::message::Delivery;
use tokio::sync::mpsc;
use warren::broker::rabbitmq::{Names, envelope};
use warren::hub::{Batching, Format, Frames, HistoryLimits, Hub, Listener, Membership, Post, Seat};
use warren::instance::{Incarnation, InstanceName};
use warren::interest::Interest;
use warren::message::{Message, MessageIds, PayloadKind, Target};
use warren::metrics::HubMetrics;
use warren::outbox::{Outbox, Socket};
use warren::protocol::{Opcode, Parser, encode};

const SIZES: [usize; 3] = [128, 1024, 16 * 1024];

const LISTENERS: usize = 1000;

/// Bytes that may wait in an outbox here: no matter, as the stub takes everything.
const OUTBOX_BYTES_MAX: usize = 1 << 20;

fn encoding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    for size in SIZES {
        let payload = vec![b'x'; size];
        let mut out = BytesMut::with_capacity(2 * size);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_with_input(BenchmarkId::from_parameter(size), &payload, |bencher, payload| {
            bencher.iter(|| {
                out.clear();
                encode(Opcode::Text, black_box(payload), &mut out);
            });
        });
    }
}

fn parsing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse and unmask");
    for size in SIZES {
        let frame = client_frame(size);
        let mut parser = Parser::new(OUTBOX_BYTES_MAX);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_with_input(BenchmarkId::from_parameter(size), &frame, |bencher, frame| {
            bencher.iter(|| parser.next(&mut &black_box(frame)[..]));
        });
    }
}

fn outboxes(criterion: &mut Criterion) {
    let (outbox, socket, frames) = (Outbox::default(), Stub, Bytes::from(vec![b'x'; 130]));
    criterion.bench_function("outbox that is empty", |bencher| {
        bencher.iter(|| outbox.send(&socket, black_box(&frames), OUTBOX_BYTES_MAX));
    });
}

fn fan_out(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
    let _context = runtime.enter();
    let hub = Hub::start(1, Arc::new(Interest::in_everything()), HubMetrics::default());
    let heard = Arc::new(AtomicUsize::new(0));
    let join = |_| {
        let mut membership = hub.enter(Arc::new(Ear { heard: heard.clone(), ..Ear::default() }));
        membership.join();
        membership
    };
    let memberships: Vec<Membership> = (0..LISTENERS).map(join).collect();
    let (deliveries, delivered) = mpsc::channel(16);
    let own = Incarnation::begin(InstanceName::parse("a_1").expect("a name"));
    let history = HistoryLimits { bytes_max: 8 << 20, messages_max: 1000, age_max: Duration::from_secs(3600) };
    let batching = Batching {
        own,
        compression_bytes_min: 1024,
        coalesce: Duration::ZERO,
        history: Some(history),
        resume_bytes_max: 0,
        looks_back: Arc::new(|| false),
        session_named: Arc::new(|_| None),
        post: Post::default(),
    };
    runtime.spawn(hub.clone().run(batching, delivered));
    let payload = Bytes::from(vec![b'x'; 128]);
    let mut group = criterion.benchmark_group("hub");
    group.throughput(Throughput::Elements(LISTENERS as u64));
    group.bench_function("one message to 1,000 listeners", |bencher| {
        bencher.iter(|| {
            heard.store(0, Ordering::Release);
            let message = Message {
                id: None,
                target: Target::Broadcast,
                kind: PayloadKind::Text,
                published_ms: 0,
                terms: None,
                payload: payload.clone(),
            };
            deliveries.blocking_send(vec![message].into()).expect("the hub runs");
            while heard.load(Ordering::Acquire) < LISTENERS {
                std::hint::spin_loop();
            }
        });
    });
    group.finish();
    drop(memberships);
}

fn envelopes(criterion: &mut Criterion) {
    let incarnation = Incarnation::begin(InstanceName::parse("10.0.0.5_8080").expect("a name"));
    let names = Names::new("warren", &incarnation);
    let payload = Bytes::from(vec![b'x'; 128]);
    let id = MessageIds::new(incarnation.clone()).next();
    let message = Message {
        id: Some(id),
        target: Target::Broadcast,
        kind: PayloadKind::Text,
        published_ms: 0,
        terms: None,
        payload,
    };
    let mut group = criterion.benchmark_group("AMQP envelope");
    group.bench_function("properties of a message", |bencher| {
        bencher.iter(|| envelope::properties(black_box(&message), &incarnation, Some(17)));
    });
    let delivery = || {
        let mut delivery = Delivery::mock(1, "warren.broadcast".into(), "".into(), false, message.payload.to_vec());
        delivery.properties = envelope::properties(&message, &incarnation, Some(17));
        delivery
    };
    group.bench_function("message of a delivery", |bencher| {
        bencher.iter_batched(delivery, |delivery| envelope::open(delivery, &names), BatchSize::SmallInput);
    });
    group.finish();
}

/// Takes everything at once.
struct Stub;

impl Socket for Stub {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(black_box(bytes).len())
    }

    fn try_write_vectored(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(black_box(buffers).iter().map(|buffer| buffer.len()).sum())
    }

    fn poll_writable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[derive(Default)]
struct Ear {
    outbox: Outbox,
    seat: Seat,
    heard: Arc<AtomicUsize>,
}

impl Listener for Ear {
    fn replay(&self, _: &[Bytes]) {}

    fn deliver(&self, frames: &Frames) {
        black_box(self.outbox.send(&Stub, frames.of(Format::Plain), OUTBOX_BYTES_MAX));
        self.heard.fetch_add(1, Ordering::AcqRel);
    }

    fn seat(&self) -> &Seat {
        &self.seat
    }
}

/// A text as a browser sends it.
fn client_frame(size: usize) -> Vec<u8> {
    const KEY: [u8; 4] = [0x12, 0x9A, 0x5C, 0xE7];
    let mut plain = BytesMut::new();
    encode(Opcode::Text, &vec![b'x'; size], &mut plain);
    let (header, payload) = plain.split_at(plain.len() - size);
    let mut frame = header.to_vec();
    frame[1] |= 0x80;
    frame.extend_from_slice(&KEY);
    frame.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

criterion_group!(hot_path, encoding, parsing, outboxes, fan_out, envelopes);
criterion_main!(hot_path);
