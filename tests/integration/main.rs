//! Warren as its users see it: real sockets, a real RabbitMQ, a real browser. `make test` brings what they need.

mod amqp;
mod support;
mod topics;

mod backends;
mod bench;
mod chaos;
mod contract;
mod interest;
mod issuer;
mod json;
mod model;
mod model_users;
mod nodes;
mod outage;
mod presence;
mod presence_users;
mod rabbitmq;
mod resume;
mod returns;
mod stream;

mod compression;
mod conformance;
mod drain;
mod events;
mod floods;
mod hostile;
mod http;
mod identity;
mod identity_options;
mod letter_bodies;
mod letters;
mod mailbox_bounds;
mod mailboxes;
mod metrics;
mod publishing;
mod replay;
mod rights;
mod routes;
mod session;
mod slow;
mod unreadable_letters;

mod browser;
mod browser_topics;
mod browser_users;
mod clients;
mod cluster;
mod process;
