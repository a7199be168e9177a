//! Which addresses Quartet calls for a client: its callback URL is the client's word, and must not
//! make Quartet reach into the network that Quartet itself stands in.
//!
//! Public addresses are allowed; those with a special purpose (IANA's registries, RFC 6890) only
//! where the operator allows their network. An IPv4 address inside an IPv6 one is judged as what it
//! is. A name is judged by what it resolves to, by whoever connects, right before; an address in a URL
//! when the URL is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use url::{Host, Url};

/// Networks of IPv4 that are not for the public, and what they are.
const SPECIAL_V4: [(Ipv4Net, &str); 15] = [
    (v4([0, 0, 0, 0], 8), "an unspecified address"),
    (v4([10, 0, 0, 0], 8), "a private address"),
    (v4([100, 64, 0, 0], 10), "a carrier's shared address"),
    (v4([127, 0, 0, 0], 8), "a loopback address"),
    (v4([169, 254, 0, 0], 16), "a link-local address"),
    (v4([172, 16, 0, 0], 12), "a private address"),
    (v4([192, 0, 0, 0], 24), "a reserved address"),
    (v4([192, 0, 2, 0], 24), "a documentation address"),
    (v4([192, 88, 99, 0], 24), "a relay's address"),
    (v4([192, 168, 0, 0], 16), "a private address"),
    (v4([198, 18, 0, 0], 15), "a benchmarking address"),
    (v4([198, 51, 100, 0], 24), "a documentation address"),
    (v4([203, 0, 113, 0], 24), "a documentation address"),
    (v4([224, 0, 0, 0], 4), "a multicast address"),
    // The limited broadcast address is its last one.
    (v4([240, 0, 0, 0], 4), "a reserved address"),
];

/// What the public internet uses of IPv6; everything else has a special purpose, or none yet.
const PUBLIC_V6: Ipv6Net = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);

/// Networks of IPv6 that are not for the public, within [`PUBLIC_V6`] or with a name of their own.
const SPECIAL_V6: [(Ipv6Net, &str); 9] = [
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 128), "an unspecified address"),
    (v6([0, 0, 0, 0, 0, 0, 0, 1], 128), "a loopback address"),
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), "a protocol's own address"),
    (v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), "a documentation address"),
    (v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), "a relay's address"),
    (v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), "a documentation address"),
    (v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), "a unique-local address"),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), "a link-local address"),
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), "a multicast address"),
];

/// How an IPv4 address is written for a NAT64 gateway (RFC 6052).
const NAT64: Ipv6Net = v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96);

const fn v4(address: [u8; 4], prefix: u8) -> Ipv4Net {
    let [a, b, c, d] = address;
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(address: [u16; 8], prefix: u8) -> Ipv6Net {
    let [a, b, c, d, e, f, g, h] = address;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix)
}

/// What callbacks may reach.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EgressPolicy {
    /// Networks that are allowed although they are not public.
    pub allowed_networks: Vec<IpNet>,
    /// Whether plain `http://` is refused.
    pub https_only: bool,
}

/// Why a callback URL is not called; each text goes on after the URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EgressRefusal {
    #[error("leads to {address}, {what}, which QUARTET_NOTIFY__ALLOWED_NETWORKS does not allow")]
    Address { address: IpAddr, what: &'static str },
    #[error("must be an https:// URL, since QUARTET_NOTIFY__HTTPS_ONLY is true")]
    PlainHttp,
    #[error("must be an absolute http:// or https:// URL without user or password")]
    Url,
}

impl EgressPolicy {
    /// Judges what can be judged of a URL before its name is resolved: scheme, user, and an address
    /// where it holds one, in whatever notation (`http://2130706433/` is 127.0.0.1).
    pub fn check_url(&self, url: &Url) -> Result<(), EgressRefusal> {
        let has_user = !url.username().is_empty() || url.password().is_some();
        if !matches!(url.scheme(), "http" | "https") || has_user {
            return Err(EgressRefusal::Url);
        }
        if self.https_only && url.scheme() != "https" {
            return Err(EgressRefusal::PlainHttp);
        }
        match url.host() {
            Some(Host::Ipv4(address)) => self.check_address(address.into()),
            Some(Host::Ipv6(address)) => self.check_address(address.into()),
            // Always this machine (RFC 6761), whatever a resolver says.
            Some(Host::Domain(name)) if is_localhost(name) => {
                self.check_address(Ipv4Addr::LOCALHOST.into())
            }
            Some(Host::Domain(_)) => Ok(()),
            None => Err(EgressRefusal::Url),
        }
    }

    /// Judges an address.
    pub fn check_address(&self, address: IpAddr) -> Result<(), EgressRefusal> {
        let meant = meant_by(address);
        let Some(what) = special_purpose(meant) else { return Ok(()) };
        let allowed = |network: &IpNet| network.contains(&meant) || network.contains(&address);
        if self.allowed_networks.iter().any(allowed) {
            return Ok(());
        }
        Err(EgressRefusal::Address { address: meant, what })
    }
}

fn is_localhost(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost")
}

/// The IPv4 address that an IPv6 one stands for, mapped or behind NAT64; any other as it is.
fn meant_by(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if NAT64.contains(&v6) => {
            let [.., a, b, c, d] = v6.octets();
            Ipv4Addr::new(a, b, c, d).into()
        }
        canonical => canonical,
    }
}

/// What an address is for, if it is not for the public.
fn special_purpose(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => {
            SPECIAL_V4.iter().find(|(network, _)| network.contains(&address)).map(|(_, what)| *what)
        }
        IpAddr::V6(address) => {
            let named = SPECIAL_V6.iter().find(|(network, _)| network.contains(&address));
            let other = (!PUBLIC_V6.contains(&address)).then_some("a reserved address");
            named.map(|(_, what)| *what).or(other)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(policy: &EgressPolicy, url: &str) -> Option<String> {
        policy.check_url(&url.parse().unwrap()).err().map(|refusal| refusal.to_string())
    }

    #[test]
    fn every_notation_of_an_address_inside_is_refused() {
        for (host, address) in [
            ("127.0.0.1", "127.0.0.1, a loopback"),
            ("127.1", "127.0.0.1, a loopback"),
            ("2130706433", "127.0.0.1, a loopback"),
            ("0x7f000001", "127.0.0.1, a loopback"),
            ("0177.0.0.1", "127.0.0.1, a loopback"),
            ("0x7f.0.0x0.1", "127.0.0.1, a loopback"),
            // Fullwidth digits and an ideographic full stop: normalised by IDNA.
            ("１２７。0.0.1", "127.0.0.1, a loopback"),
            ("%31%32%37.0.0.1", "127.0.0.1, a loopback"),
            ("localhost", "127.0.0.1, a loopback"),
            ("LOCALHOST.", "127.0.0.1, a loopback"),
            ("db.localhost", "127.0.0.1, a loopback"),
            ("0", "0.0.0.0, an unspecified"),
            ("10.255.255.255", "10.255.255.255, a private"),
            ("172.16.0.1", "172.16.0.1, a private"),
            ("172.31.255.255", "172.31.255.255, a private"),
            ("192.168.1.1", "192.168.1.1, a private"),
            ("100.64.0.1", "100.64.0.1, a carrier's shared"),
            ("169.254.169.254", "169.254.169.254, a link-local"),
            ("2852039166", "169.254.169.254, a link-local"),
            ("192.0.0.8", "192.0.0.8, a reserved"),
            ("192.0.2.1", "192.0.2.1, a documentation"),
            ("192.88.99.1", "192.88.99.1, a relay's"),
            ("198.18.0.1", "198.18.0.1, a benchmarking"),
            ("198.51.100.7", "198.51.100.7, a documentation"),
            ("203.0.113.7", "203.0.113.7, a documentation"),
            ("224.0.0.1", "224.0.0.1, a multicast"),
            ("255.255.255.255", "255.255.255.255, a reserved"),
            ("[::1]", "::1, a loopback"),
            ("[::]", "::, an unspecified"),
            ("[::ffff:127.0.0.1]", "127.0.0.1, a loopback"),
            ("[::ffff:a9fe:a9fe]", "169.254.169.254, a link-local"),
            ("[64:ff9b::a00:1]", "10.0.0.1, a private"),
            ("[64:ff9b:1::a00:1]", "64:ff9b:1::a00:1, a reserved"),
            // IPv4-compatible, of old; site-local, of old.
            ("[::7f00:1]", "::7f00:1, a reserved"),
            ("[fec0::1]", "fec0::1, a reserved"),
            ("[100::1]", "100::1, a reserved"),
            ("[fc00::1]", "fc00::1, a unique-local"),
            ("[fd12:3456::1]", "fd12:3456::1, a unique-local"),
            ("[fe80::1]", "fe80::1, a link-local"),
            ("[ff02::1]", "ff02::1, a multicast"),
            ("[2001:db8::1]", "2001:db8::1, a documentation"),
            ("[3fff::1]", "3fff::1, a documentation"),
            ("[2002:7f00:1::]", "2002:7f00:1::, a relay's"),
            // Teredo.
            ("[2001:0:1::1]", "2001:0:1::1, a protocol's own"),
        ] {
            for scheme in ["http", "https"] {
                let said = refused(&EgressPolicy::default(), &format!("{scheme}://{host}:8080/x"));
                let expected = format!("leads to {address} address, which QUARTET_NOTIFY__");
                assert!(
                    said.as_ref().is_some_and(|said| said.starts_with(&expected)),
                    "{host}: {said:?}"
                );
            }
        }
    }

    #[test]
    fn public_addresses_and_names_are_allowed() {
        for host in [
            "shop.example",
            "notlocalhost",
            "localhost.example",
            "8.8.8.8",
            "172.15.255.255",
            "172.32.0.1",
            "100.63.255.255",
            "100.128.0.1",
            "198.20.0.1",
            "223.255.255.255",
            "[2606:4700::1111]",
            "[2001:4860:4860::8888]",
            "[::ffff:8.8.8.8]",
            "[64:ff9b::808:808]",
        ] {
            assert_eq!(
                refused(&EgressPolicy::default(), &format!("https://{host}/x")),
                None,
                "{host}"
            );
        }
    }

    #[test]
    fn what_the_operator_allows_is_allowed_and_nothing_else() {
        let allowed_networks = ["127.0.0.0/8", "10.1.2.0/24", "fd00::/8"];
        let allowed_networks = allowed_networks.map(|network| network.parse().unwrap()).to_vec();
        let policy = EgressPolicy { allowed_networks, https_only: false };
        for host in [
            "127.0.0.1",
            "localhost",
            "[::ffff:127.0.0.1]",
            "10.1.2.3",
            "[64:ff9b::a01:203]",
            "[fd12::1]",
        ] {
            assert_eq!(refused(&policy, &format!("http://{host}/")), None, "{host}");
        }
        for host in ["[::1]", "10.1.3.1", "192.168.0.1", "[fc00::1]", "169.254.169.254"] {
            assert!(refused(&policy, &format!("http://{host}/")).is_some(), "{host}");
        }
    }

    #[test]
    fn other_schemes_users_and_where_told_plain_http_are_refused() {
        let policy = EgressPolicy::default();
        for url in
            ["ftp://shop.example/", "file:///etc/passwd", "data:,x", "https://me:x@shop.example/"]
        {
            assert!(refused(&policy, url).unwrap().contains("without user or password"), "{url}");
        }
        let https_only = EgressPolicy { https_only: true, ..policy };
        assert!(refused(&https_only, "http://shop.example/").unwrap().contains("HTTPS_ONLY"));
        assert_eq!(refused(&https_only, "https://shop.example/"), None);
    }

    proptest! {
        /// However an IPv4 address is wrapped, the judgement is the same.
        #[test]
        fn a_wrapped_address_is_judged_as_itself(bits: u32) {
            let policy = EgressPolicy::default();
            let plain = Ipv4Addr::from(bits);
            let judged = policy.check_address(plain.into()).is_ok();
            let [a, b, c, d] = plain.octets().map(u16::from);
            let nat64 = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, (a << 8) | b, (c << 8) | d);
            for wrapped in [plain.to_ipv6_mapped(), nat64] {
                prop_assert_eq!(policy.check_address(wrapped.into()).is_ok(), judged);
            }
            // 6to4 and the IPv4-compatible form are never called.
            let six_to_four = Ipv6Addr::new(0x2002, (a << 8) | b, (c << 8) | d, 0, 0, 0, 0, 1);
            for never in [plain.to_ipv6_compatible(), six_to_four] {
                prop_assert!(policy.check_address(never.into()).is_err());
            }
        }
    }
}
