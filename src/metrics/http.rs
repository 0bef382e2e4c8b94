//! Requests on the public port.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::http::ROUTES;

const ROUTE: &str = "route";
const STATUS: &str = "status";

/// The route of a request for which there is none.
const NONE: &str = "none";

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Moved whenever a request is answered. A cheap handle.
#[derive(Clone)]
pub struct HttpMetrics {
    requests: Family<[(&'static str, &'static str); 2], Counter>,
}

impl Default for HttpMetrics {
    /// A series for each route and class of status, there from the start.
    fn default() -> HttpMetrics {
        let requests = Family::default();
        for route in ROUTES.iter().map(|route| route.path).chain([NONE]) {
            for class in CLASSES {
                drop(requests.get_or_create(&[(ROUTE, route), (STATUS, class)]));
            }
        }
        HttpMetrics { requests }
    }
}

impl HttpMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "requests",
            "Requests that were answered, by route and by the first digit of the status",
            self.requests.clone(),
        );
    }

    /// A request was answered with `status`; `route` is the path of one of [`ROUTES`].
    pub fn answered(&self, route: Option<&'static str>, status: u16) {
        let class = CLASSES.get(usize::from(status / 100).wrapping_sub(1)).copied().unwrap_or(CLASSES[4]);
        self.requests.get_or_create(&[(ROUTE, route.unwrap_or(NONE)), (STATUS, class)]).inc();
    }
}
