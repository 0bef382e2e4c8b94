//! How many sessions each client address has.

use std::net::IpAddr;
use std::num::NonZeroU64;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

/// Where a client comes from, as far as sessions are counted: an IPv4 address, or the network of 64 bits that a host of
/// IPv6 chooses its addresses in. In eight bytes, since every session keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddress(NonZeroU64);

impl ClientAddress {
    fn of(client: IpAddr) -> ClientAddress {
        let number = match client.to_canonical() {
            // Beside the networks of IPv6 in use: those that begin with eight zero bits are reserved (RFC 4291 §2.4).
            IpAddr::V4(address) => (1 << 32) | u64::from(address.to_bits()),
            IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
        };
        ClientAddress(NonZeroU64::new(number).unwrap_or(NonZeroU64::MIN))
    }
}

/// The sessions of each address that has any.
#[derive(Debug, Default)]
pub struct Addresses {
    sessions: DashMap<ClientAddress, u32>,
}

impl Addresses {
    /// Counts one more session of `client`; `None` if it has `max` already.
    pub fn enter(&self, client: IpAddr, max: u32) -> Option<ClientAddress> {
        let address = ClientAddress::of(client);
        let mut count = self.sessions.entry(address).or_insert(0);
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(address)
    }

    /// Counts one less.
    pub fn leave(&self, address: ClientAddress) {
        if let Entry::Occupied(mut entry) = self.sessions.entry(address) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_address_has_its_own_count_and_leaves_nothing_behind() {
        let addresses = Addresses::default();
        let one = addresses.enter(address("10.0.0.1"), 2).unwrap();
        assert_eq!(addresses.enter(address("10.0.0.1"), 2), Some(one));
        assert_eq!(addresses.enter(address("10.0.0.1"), 2), None);
        let other = addresses.enter(address("10.0.0.2"), 2).unwrap();
        addresses.leave(one);
        assert_eq!(addresses.enter(address("10.0.0.1"), 2), Some(one));
        for address in [one, one, other] {
            addresses.leave(address);
        }
        assert!(addresses.sessions.is_empty());
    }

    #[test]
    fn a_network_of_64_bits_is_one_client_and_a_mapped_address_is_its_own() {
        let of = |text| ClientAddress::of(address(text));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("::1"), of("0.0.0.1"));
    }
}
