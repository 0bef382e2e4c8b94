//! Where the metrics are served.

use std::net::SocketAddr;

use super::format::Refusal;

/// Where `GET /metrics` is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsListen {
    /// On loopback, on the first free port of [`MetricsListen::AUTO_PORTS`]; nowhere if all are taken.
    Auto,
    /// Nowhere.
    Off,
    /// There, or the instance does not start; port 0 takes any free one.
    At(SocketAddr),
}

impl MetricsListen {
    /// From the port that OpenTelemetry's exporters for Prometheus have, as many as one host may have instances.
    pub const AUTO_PORTS: std::ops::RangeInclusive<u16> = 9464..=9479;

    pub(super) fn read(text: &str) -> Result<MetricsListen, Refusal> {
        match text {
            "auto" => Ok(MetricsListen::Auto),
            "off" => Ok(MetricsListen::Off),
            address => address.parse().map(MetricsListen::At).map_err(|_| None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_word_or_an_address_with_a_port() {
        assert_eq!(MetricsListen::read("auto"), Ok(MetricsListen::Auto));
        assert_eq!(MetricsListen::read("off"), Ok(MetricsListen::Off));
        let at = |text: &str| MetricsListen::At(text.parse().expect("an address"));
        for text in ["0.0.0.0:9100", "127.0.0.1:0", "[::1]:9464"] {
            assert_eq!(MetricsListen::read(text), Ok(at(text)));
        }
        for text in ["", "on", "9464", "127.0.0.1", "::1", "localhost:9464", "127.0.0.1:99999"] {
            assert_eq!(MetricsListen::read(text), Err(None), "{text}");
        }
    }
}
