//! Addresses that no request may go to.
//!
//! A cloud's metadata service gives the credentials of a machine to any program on it. No embedding model lives there, nor at
//! a link-local address. Loopback and private networks are allowed: users' own servers are there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Metadata services outside the link-local range: Alibaba Cloud, Azure's host, Oracle Cloud.
const METADATA_V4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(192, 0, 0, 192)];

/// Amazon's metadata service.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// An address that no request may go to.
#[derive(Debug, thiserror::Error)]
#[error("{0} is a link-local address or that of a cloud's metadata service, which is never asked")]
pub(super) struct Forbidden(pub(super) IpAddr);

/// Refuses an address that no request may go to.
pub(super) fn check(address: IpAddr) -> Result<(), Forbidden> {
    let is_forbidden = match address {
        IpAddr::V4(v4) => is_forbidden_v4(v4),
        IpAddr::V6(v6) => {
            v6.is_unicast_link_local() || v6 == METADATA_V6 || embedded_v4(v6).is_some_and(is_forbidden_v4)
        }
    };
    if is_forbidden { Err(Forbidden(address)) } else { Ok(()) }
}

fn is_forbidden_v4(address: Ipv4Addr) -> bool {
    address.is_link_local() || METADATA_V4.contains(&address)
}

/// Returns the IPv4 address that an IPv6 address stands for: mapped (`::ffff:a.b.c.d`), compatible (`::a.b.c.d`), or behind
/// NAT64 (`64:ff9b::a.b.c.d`).
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, high, low] = address.segments();
    let is_embedded = matches!([a, b, c, d, e, f], [0, 0, 0, 0, 0, 0 | 0xffff] | [0x64, 0xff9b, 0, 0, 0, 0]);
    is_embedded.then(|| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
}

/// A resolver that looks names up as the system does, and refuses a name if any of its addresses is forbidden. It runs right
/// before each connection, because a name may change its addresses.
pub(super) struct Guarded;

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            found.iter().try_for_each(|address| check(address.ip()))?;
            let addresses: Addrs = Box::new(found.into_iter());
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_services_and_link_local_addresses_are_refused_in_every_notation() {
        for text in [
            "169.254.169.254",
            "169.254.0.1",
            "100.100.100.200",
            "168.63.129.16",
            "fe80::1",
            "febf::1",
            "fd00:ec2::254",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::169.254.169.254",
        ] {
            assert!(check(text.parse().unwrap()).is_err(), "{text}");
        }
        for text in
            ["127.0.0.1", "10.0.0.1", "192.168.1.1", "1.1.1.1", "::1", "fd00::1", "2606:4700::1", "::ffff:10.0.0.1"]
        {
            assert!(check(text.parse().unwrap()).is_ok(), "{text}");
        }
    }

    #[tokio::test]
    async fn a_name_is_judged_by_its_addresses() {
        let mut addresses = Guarded.resolve("localhost".parse().unwrap()).await.unwrap();
        assert!(addresses.any(|address| address.ip().is_loopback()));
        assert!(Guarded.resolve("169.254.169.254".parse().unwrap()).await.is_err());
    }
}
