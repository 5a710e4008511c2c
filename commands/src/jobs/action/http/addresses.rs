//! Which addresses may be asked: those of the public internet, and those that the kind allows besides.
//!
//! Names are judged by what they resolve to, in the resolver itself: what is judged is what is connected to, so a name that resolves
//! differently the next time gains nothing by it. An address in a URL never gets to a resolver and is judged before.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// `10.0.0.0/8`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Network {
    address: u128,
    /// Bits of it that count, of 128.
    bits: u32,
}

impl Network {
    fn holds(self, address: IpAddr) -> bool {
        let differing = self.address ^ wide(address);
        self.bits == 0 || differing >> (128 - self.bits) == 0
    }
}

impl FromStr for Network {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, bits) =
            text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| ())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits: u32 = bits.map_or(Ok(most), str::parse).map_err(|_| ())?;
        if bits > most {
            return Err(());
        }
        let network = Self { address: wide(address), bits: bits + (128 - most) };
        // An address with more bits than count is a slip: 10.1.0.0/8.
        let rest = if network.bits == 128 { 0 } else { network.address << network.bits };
        if rest == 0 { Ok(network) } else { Err(()) }
    }
}

/// All addresses in one space; IPv4's where IPv6 has them.
fn wide(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// Says which addresses may be asked.
#[derive(Debug, Clone, Default)]
pub(super) struct Guard(Arc<[Network]>);

/// An address that may not be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    host: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} is not a public address, and the kind does not allow it (allow_private)",
            self.host
        )
    }
}

impl std::error::Error for Refused {}

impl Guard {
    pub(super) fn new(allowed: Vec<Network>) -> Self {
        Self(allowed.into())
    }

    fn admits(&self, address: IpAddr) -> bool {
        is_public(address) || self.0.iter().any(|network| network.holds(address))
    }

    /// Judges a URL whose host is an address; names are judged when they are resolved.
    pub(super) fn check(&self, url: &Url) -> Result<(), Refused> {
        let address = match url.host() {
            Some(Host::Ipv4(address)) => IpAddr::V4(address),
            Some(Host::Ipv6(address)) => IpAddr::V6(address),
            Some(Host::Domain(_)) | None => return Ok(()),
        };
        if self.admits(address) { Ok(()) } else { Err(Refused { host: address.to_string() }) }
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let known = !found.is_empty();
            let admitted: Vec<SocketAddr> =
                found.into_iter().filter(|address| guard.admits(address.ip())).collect();
            if known && admitted.is_empty() {
                return Err(Refused { host: name.as_str().to_owned() }.into());
            }
            Ok(Box::new(admitted.into_iter()) as Addrs)
        })
    }
}

/// Where a request ends up on the public internet, and nowhere else.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let special = match address.octets() {
        // This network; loopback; what was once reserved, multicast, broadcast.
        [0 | 127 | 224..=255, ..] => true,
        // Private.
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => true,
        // Shared by a carrier's customers; link-local, where clouds keep their machines' credentials.
        [100, 64..=127, ..] | [169, 254, ..] => true,
        // Protocol assignments, documentation, relays of 6to4, benchmarks.
        [192, 0, 0 | 2, _] | [192, 88, 99, _] | [198, 18 | 19, ..] | [198, 51, 100, _] | [203, 0, 113, _] => {
            true
        }
        _ => false,
    };
    !special
}

/// Only what is given out to the world, without what leads to IPv4 by the back door (6to4, Teredo) and documentation.
fn is_public_v6(address: Ipv6Addr) -> bool {
    match address.segments() {
        // NAT64: IPv4 as networks without it have it.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            is_public_v4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
        }
        [0x2001, 0x0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x2002, ..] | [0x3fff, 0x0..=0xfff, ..] => false,
        [0x2000..=0x3fff, ..] => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn admits(guard: &Guard, address: &str) -> bool {
        guard.admits(address.parse().unwrap())
    }

    fn guard(allowed: &[&str]) -> Guard {
        Guard::new(allowed.iter().map(|text| text.parse().unwrap()).collect())
    }

    #[test]
    fn only_public_addresses_are_asked() {
        let guard = Guard::default();
        for public in
            ["1.1.1.1", "100.63.0.1", "172.32.0.1", "192.0.1.1", "2606:4700::1111", "64:ff9b::101:101"]
        {
            assert!(admits(&guard, public), "{public}");
        }
        for refused in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:1.1.1.1",
            "::1.1.1.1",
            "fe80::1",
            "fec0::1",
            "fc00::1",
            "fd00::1",
            "ff02::1",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "100::1",
        ] {
            assert!(!admits(&guard, refused), "{refused}");
        }
    }

    #[test]
    fn what_is_allowed_besides_is_asked_too() {
        let guard = guard(&["10.0.0.0/8", "127.0.0.1", "fd00::/8"]);
        for allowed in ["10.0.0.1", "10.255.0.1", "127.0.0.1", "::ffff:127.0.0.1", "fd12::1", "1.1.1.1"] {
            assert!(admits(&guard, allowed), "{allowed}");
        }
        for refused in ["127.0.0.2", "192.168.0.1", "::1", "fc00::1"] {
            assert!(!admits(&guard, refused), "{refused}");
        }
    }

    #[test]
    fn networks_are_read() {
        for wrong in [
            "",
            "10",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/-1",
            "10.1.0.0/8",
            "::/129",
            "host",
            "10.0.0.0/8 ",
        ] {
            assert_eq!(wrong.parse::<Network>(), Err(()), "{wrong}");
        }
        assert!(guard(&["0.0.0.0/0"]).admits("127.0.0.1".parse().unwrap()));
        assert!(!guard(&["0.0.0.0/0"]).admits("::1".parse().unwrap()));
        assert!(guard(&["::/0"]).admits("127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn an_address_is_recognised_however_a_url_writes_it() {
        let guard = Guard::default();
        for url in [
            "http://127.0.0.1/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://0177.0.0.1/",
            "http://[::1]/",
            "http://[::ffff:10.0.0.1]/",
            "http://169.254.169.254/latest/meta-data/",
            "http://0/",
        ] {
            guard.check(&Url::parse(url).unwrap()).unwrap_err();
        }
        guard.check(&Url::parse("http://1.1.1.1/").unwrap()).unwrap();
        guard.check(&Url::parse("http://localhost/").unwrap()).unwrap();
    }

    #[tokio::test]
    async fn a_name_is_judged_by_what_it_resolves_to() {
        let refused = Guard::default().resolve("localhost".parse().unwrap()).await.err().unwrap();
        assert!(refused.is::<Refused>(), "{refused}");
        let found = guard(&["127.0.0.0/8", "::1"]).resolve("localhost".parse().unwrap()).await.ok().unwrap();
        assert!(found.count() > 0);
    }
}
