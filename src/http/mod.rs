//! The HTTP side: the listener, the routes, the upgrade to WebSocket. warp and hyper stay in this folder.

mod account;
mod api;
mod events;
mod gate;
mod handshakes;
mod health;
mod identities;
mod listener;
mod origin;
mod page;
mod peer;
mod presence;
mod replay;
mod routes;
mod scrape;
mod table;
mod topic;
mod upgrade;
mod ws_template;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ipnet::IpNet;
use tokio::sync::watch;

pub use account::SignIn;
pub use api::{Access, Api, ApiLimits, Requester};
pub use identities::{Identities, Unauthorized};
pub use listener::{BindError, HandshakeLimits, Listener, Serving};
pub use presence::Whereabouts;
pub use replay::NoReplay;
pub use routes::all as routes;
pub use scrape::{Scrape, routes as scrape_routes};
pub use table::{ROUTES, Requires, Route};

use crate::broker::Link;
use crate::config::AllowedOrigins;
use crate::hub::HistoryLimits;
use crate::instance::Incarnation;
use crate::interest::Interest;
use crate::metrics::HttpMetrics;
use crate::session::Sessions;

/// What the routes answer from.
pub struct Site {
    pub incarnation: Incarnation,
    pub sessions: Arc<Sessions>,
    pub link: watch::Receiver<Link>,
    /// Publishing over HTTP.
    pub api: Api,
    /// Who may ask for what.
    pub access: Access,
    /// Whose a request is.
    pub identities: Arc<Identities>,
    /// Gives tokens, on a development server.
    pub sign_in: Option<SignIn>,
    /// Who is here.
    pub whereabouts: Whereabouts,
    /// What counts the answers.
    pub metrics: HttpMetrics,
    /// For which topics the broker delivers.
    pub interest: Arc<Interest>,
    /// Whose pages may connect beside the server's own.
    pub allowed_origins: AllowedOrigins,
    /// Whose `X-Forwarded-For` counts.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether sessions may compress messages.
    pub compression: bool,
    /// How much of the past a session may ask for, or why none.
    pub replay: Result<HistoryLimits, NoReplay>,
}

/// Whether something is happening for the first time since it was last all right, so that it is logged once.
#[derive(Debug, Default)]
struct Once(AtomicBool);

impl Once {
    fn begins(&self) -> bool {
        !self.0.swap(true, Ordering::Relaxed)
    }

    fn ends(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}
