//! What addresses are for, and which are written in others.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// Networks of IPv4 that are not for the public, and what they are.
const SPECIAL_V4: [(Ipv4Net, &str); 21] = [
    (v4([0, 0, 0, 0], 8), "an unspecified address"),
    (v4([10, 0, 0, 0], 8), "a private address"),
    (v4([100, 64, 0, 0], 10), "a carrier's shared address"),
    (v4([127, 0, 0, 0], 8), "a loopback address"),
    (v4([169, 254, 0, 0], 16), "a link-local address"),
    (v4([172, 16, 0, 0], 12), "a private address"),
    // Of public ranges, but reached from inside of a cloud alone: IBM Cloud's services, and
    // Google's APIs and name servers for private networks.
    (v4([161, 26, 0, 0], 16), "a cloud platform's address"),
    (v4([166, 8, 0, 0], 14), "a cloud platform's address"),
    (v4([35, 199, 192, 0], 19), "a cloud platform's address"),
    (v4([199, 36, 153, 4], 30), "a cloud platform's address"),
    (v4([199, 36, 153, 8], 30), "a cloud platform's address"),
    // Azure's name server, agent and health probes.
    (v4([168, 63, 129, 16], 32), "a cloud platform's address"),
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

/// Where clouds offer a machine its credentials and keys: no network opens these, only the address.
const METADATA: [IpAddr; 12] = [
    // AWS, Azure, Google, OpenStack and most others.
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    // AWS: credentials of containers, of ECS and of EKS.
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    // Tencent Cloud.
    IpAddr::V4(Ipv4Addr::new(169, 254, 0, 23)),
    // Azure.
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    // Alibaba Cloud.
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    // Oracle Cloud, of old.
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    // AWS: metadata, and credentials of EKS.
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
    // Google.
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    // Scaleway.
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42)),
    // OpenStack.
    IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe)),
];

/// How IPv4 addresses are written for a NAT64 gateway: everywhere, and in one's own network (RFC
/// 6052, RFC 8215).
const NAT64: Ipv6Net = v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96);
const LOCAL_NAT64: Ipv6Net = v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48);
/// Addresses that hold an IPv4 one: IPv4-compatible of old (RFC 4291), 6to4 (RFC 3056), Teredo (RFC
/// 4380).
const V4_COMPATIBLE: Ipv6Net = v6([0, 0, 0, 0, 0, 0, 0, 0], 96);
const SIX_TO_FOUR: Ipv6Net = v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16);
const TEREDO: Ipv6Net = v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32);

const fn v4(address: [u8; 4], prefix: u8) -> Ipv4Net {
    let [a, b, c, d] = address;
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(address: [u16; 8], prefix: u8) -> Ipv6Net {
    let [a, b, c, d, e, f, g, h] = address;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix)
}

/// Whether a cloud offers a machine its credentials there.
pub(super) fn is_metadata(address: IpAddr) -> bool {
    METADATA.contains(&address)
}

/// The IPv4 address that an IPv6 one stands for, mapped or behind NAT64; any other as it is.
pub(super) fn meant_by(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if NAT64.contains(&v6) => {
            let [.., a, b, c, d] = v6.octets();
            Ipv4Addr::new(a, b, c, d).into()
        }
        canonical => canonical,
    }
}

/// The IPv4 addresses that an IPv6 one holds, beyond [`meant_by`].
pub(super) fn wrapped_in(address: IpAddr) -> Vec<Ipv4Addr> {
    let IpAddr::V6(address) = address else { return Vec::new() };
    let octets = address.octets();
    let at = |places: [usize; 4]| Ipv4Addr::from(places.map(|place| octets[place]));
    if LOCAL_NAT64.contains(&address) {
        // Where it stands depends on the length of the network's own prefix.
        let places = [[6, 7, 9, 10], [7, 9, 10, 11], [9, 10, 11, 12], [12, 13, 14, 15]];
        places.map(at).into_iter().filter(|inner| !inner.is_unspecified()).collect()
    } else if SIX_TO_FOUR.contains(&address) {
        vec![at([2, 3, 4, 5])]
    } else if TEREDO.contains(&address) {
        // The server, and the client behind it, in complement.
        let client = Ipv4Addr::from_bits(!at([12, 13, 14, 15]).to_bits());
        vec![at([4, 5, 6, 7]), client]
    } else if V4_COMPATIBLE.contains(&address) && !address.is_loopback() {
        vec![at([12, 13, 14, 15])]
    } else {
        Vec::new()
    }
}

/// What an address is for, if it is not for the public.
pub(super) fn special_purpose(address: IpAddr) -> Option<&'static str> {
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
