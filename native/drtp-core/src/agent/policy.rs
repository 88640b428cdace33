//! Addresses that an agent never dials, whatever a name resolves to: checked after resolving, so that DNS cannot help.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Metadata services of clouds.
const METADATA: [IpAddr; 5] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// The configured host says that the service is on this very machine.
pub(super) fn declares_loopback(host: &str) -> bool {
    let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || literal.is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// Whether an agent may dial `ip` for a target; the error says why not.
pub(super) fn permitted(ip: IpAddr, loopback_declared: bool) -> Result<(), &'static str> {
    let ip = embedded(ip).unwrap_or_else(|| ip.to_canonical());
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => (v6.segments()[0] & 0xffc0) == 0xfe80,
    };
    // AWS keeps fd00:ec2::/32 for what speaks about the instance: metadata (::254), pod identities (::23) and more.
    let of_instance = matches!(ip, IpAddr::V6(v6) if v6.segments()[..2] == [0xfd00, 0xec2]);
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast() || v4.octets()[0] == 0);
    if of_instance || METADATA.contains(&ip) {
        Err("it is a cloud metadata address")
    } else if link_local {
        Err("it is a link-local address")
    } else if ip.is_multicast() || broadcast {
        Err("it is a multicast or broadcast address")
    } else if ip.is_unspecified() {
        Err("it is the unspecified address")
    } else if ip.is_loopback() && !loopback_declared {
        Err("it is a loopback address, and the target is not declared as one")
    } else {
        Ok(())
    }
}

/// IPv4 inside the NAT64 prefix `64:ff9b::/96`.
fn embedded(ip: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(v6) = ip else { return None };
    let [a, b, c, d, e, f, high, low] = v6.segments();
    let [w, x] = high.to_be_bytes();
    let [y, z] = low.to_be_bytes();
    ([a, b, c, d, e, f] == [0x64, 0xff9b, 0, 0, 0, 0]).then(|| Ipv4Addr::new(w, x, y, z).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_lead_to_metadata_or_loopback() {
        for bad in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "fe80::1",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "100.100.100.200",
            "0.0.0.0",
            "0.1.2.3",
            "::",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
            "127.0.0.1",
            "::1",
            "::ffff:127.0.0.1",
        ] {
            assert!(permitted(bad.parse().unwrap(), false).is_err(), "{bad}");
        }
        for good in ["10.0.0.1", "192.168.1.1", "2001:db8::1", "8.8.8.8"] {
            assert!(permitted(good.parse().unwrap(), false).is_ok(), "{good}");
        }
        assert!(permitted("127.0.0.1".parse().unwrap(), true).is_ok());
        assert!(permitted("169.254.169.254".parse().unwrap(), true).is_err());
    }

    #[test]
    fn loopback_is_declared_by_a_literal_or_localhost_only() {
        for host in ["localhost", "LOCALHOST", "127.0.0.1", "127.8.8.8", "::1", "[::1]"] {
            assert!(declares_loopback(host), "{host}");
        }
        for host in ["localhost.example", "example", "10.0.0.1"] {
            assert!(!declares_loopback(host), "{host}");
        }
    }
}
