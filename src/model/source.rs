use std::net::{IpAddr, Ipv6Addr};

/// The source that an address counts as where sources are counted: an IPv4 address itself, also
/// when it is written as IPv6, or the /64 of an IPv6 address, all of which is one caller's.
pub fn counted_source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}
