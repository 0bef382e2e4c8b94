//! Which instance this is: its name `ip_port`, and which of the runs under that name (its incarnation).

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// An instance's name, `ip_port` (`10.0.0.5_8080`), and the name of its exchange in RabbitMQ.
/// 1 to 128 ASCII letters, digits and `_ . : -`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceName(Arc<str>);

#[derive(Debug, thiserror::Error)]
#[error("'{0}' is not an instance name: 1 to 128 of A-Z a-z 0-9 _ . : -")]
pub struct InvalidInstanceName(String);

impl InstanceName {
    pub fn from_address(ip: IpAddr, port: u16) -> InstanceName {
        InstanceName(format!("{ip}_{port}").into())
    }

    pub fn parse(name: &str) -> Result<InstanceName, InvalidInstanceName> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | ':' | '-');
        if (1..=128).contains(&name.len()) && name.chars().all(allowed) {
            Ok(InstanceName(name.into()))
        } else {
            Err(InvalidInstanceName(name.into()))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One run of one instance: its name and when it began. Sequence numbers and message ids count within it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Incarnation {
    name: InstanceName,
    /// `name@` and the start in microseconds since 1970, hexadecimal.
    text: Arc<str>,
    began: Instant,
}

impl Incarnation {
    /// The run that begins now.
    pub fn begin(name: InstanceName) -> Incarnation {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let text = format!("{name}@{:x}", since_1970.as_micros()).into();
        Incarnation { name, text, began: Instant::now() }
    }

    pub fn name(&self) -> &InstanceName {
        &self.name
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// When it began, by this process's own clock.
    pub fn began(&self) -> Instant {
        self.began
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ip_and_port() {
        let v4 = InstanceName::from_address("10.0.0.5".parse().unwrap(), 8080);
        assert_eq!(v4.as_str(), "10.0.0.5_8080");
        let v6 = InstanceName::from_address("fe80::1".parse().unwrap(), 80);
        assert_eq!(InstanceName::parse(v6.as_str()).unwrap(), v6);
    }

    #[test]
    fn names_that_could_not_be_an_exchange_are_refused() {
        for bad in ["", "a b", "amq/x", "käfig", &"a".repeat(129)] {
            assert!(InstanceName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn two_runs_differ() {
        let name = InstanceName::parse("a").unwrap();
        let first = Incarnation::begin(name.clone());
        std::thread::sleep(std::time::Duration::from_micros(10));
        assert_ne!(first, Incarnation::begin(name));
    }
}
