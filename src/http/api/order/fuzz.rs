//! Bodies of publishing requests at volume: see [`crate::fuzzing`].

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::fuzzing::fuzz;

const LIMITS: OrderLimits = OrderLimits { message_bytes_max: 64, batch_max: 4 };

/// Pieces of JSON that a request is made of, in any order.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        8 => proptest::sample::select(vec![
            "[", "]", "{", "}", ",", ":", "\"topic\":\"a\"", "\"text\":\"b\"", "\"base64\":\"AP8=\"", "\"broadcast\":true",
            "\"ttl_ms\":5", "\"idempotency_key\":\"k\"", "{\"topic\":\"a\",\"text\":\"b\"}", "null", "1e999", "\\ud800", " ",
        ]).prop_map(str::to_owned),
        1 => "\\PC{0,12}",
    ];
    vec(piece, 0..16).prop_map(|pieces| pieces.concat())
}

/// Whatever a body is, it is refused with a problem, or what is published keeps every limit.
#[test]
fn fuzz_publishing_requests() {
    let body = prop_oneof![4 => pieces().prop_map(String::into_bytes), 1 => vec(any::<u8>(), 0..80)];
    fuzz("publishing requests", (body, "\\PC{0,20}"), |(body, path)| {
        let orders = match items(&body, None, LIMITS) {
            Ok(Orders::One(order)) => vec![order],
            Ok(Orders::Batch(orders)) => {
                assert!((1..=LIMITS.batch_max).contains(&orders.len()));
                orders
            }
            Err(_) => Vec::new(),
        };
        let raw = raw(&path, PayloadKind::Text, body.clone().into(), None, LIMITS).ok();
        for order in orders.into_iter().chain(notification(&body, None, LIMITS).ok()).chain(raw) {
            assert!(order.payload.len() <= LIMITS.message_bytes_max);
            assert!(order.kind == PayloadKind::Binary || std::str::from_utf8(&order.payload).is_ok(), "no text");
            assert_ne!(order.ttl_ms, Some(0));
        }
    });
}
