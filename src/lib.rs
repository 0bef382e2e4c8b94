//! Warren: a WebSocket broadcast server that scales out on RabbitMQ.
#![forbid(unsafe_code)]
