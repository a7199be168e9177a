use std::net::Ipv6Addr;

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
        // What clouds offer to their machines.
        ("168.63.129.16", "168.63.129.16, a cloud platform's"),
        ("100.100.100.200", "100.100.100.200, a carrier's shared"),
        ("169.254.170.2", "169.254.170.2, a link-local"),
        ("192.0.0.192", "192.0.0.192, a reserved"),
        ("199.36.153.8", "199.36.153.8, a cloud platform's"),
        ("[::ffff:168.63.129.16]", "168.63.129.16, a cloud platform's"),
        ("[64:ff9b::a83f:8110]", "168.63.129.16, a cloud platform's"),
        ("[fd00:ec2::254]", "fd00:ec2::254, a unique-local"),
        ("[fd20:ce::254]", "fd20:ce::254, a unique-local"),
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
        assert_eq!(refused(&EgressPolicy::default(), &format!("https://{host}/x")), None, "{host}");
    }
}

#[test]
fn what_the_operator_allows_is_allowed_and_nothing_else() {
    let allowed_networks = ["127.0.0.0/8", "10.1.2.0/24", "fd00::/8"];
    let allowed_networks = allowed_networks.map(|network| network.parse().unwrap()).to_vec();
    let policy = EgressPolicy { allowed_networks, ..EgressPolicy::default() };
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

/// However wide a network is allowed, credentials are not in it, however they are wrapped.
#[test]
fn a_clouds_metadata_is_allowed_by_its_own_address_alone() {
    let policy = |networks: &[&str]| EgressPolicy {
        allowed_networks: networks.iter().map(|network| network.parse().unwrap()).collect(),
        ..EgressPolicy::default()
    };
    let all = policy(&["0.0.0.0/0", "::/0"]);
    for host in [
        "169.254.169.254",
        "169.254.170.2",
        "168.63.129.16",
        "100.100.100.200",
        "192.0.0.192",
        "[fd00:ec2::254]",
        "[fd20:ce::254]",
        "[::ffff:169.254.169.254]",
        "[::a9fe:a9fe]",
        "[64:ff9b::a9fe:a9fe]",
        "[64:ff9b:1::a9fe:a9fe]",
        "[64:ff9b:1:a9fe:a9:fe00::]",
        "[2002:a9fe:a9fe::1]",
        // Teredo: its server, and its client.
        "[2001:0:a9fe:a9fe::]",
        "[2001:0:808:808:0:0:5601:5601]",
    ] {
        assert!(refused(&all, &format!("http://{host}/")).is_some(), "{host}");
    }
    for host in ["10.0.0.1", "[fd00:ec2::255]", "[2002:808:808::1]", "[64:ff9b:1::808:808]"] {
        assert_eq!(refused(&all, &format!("http://{host}/")), None, "{host}");
    }
    let one = policy(&["169.254.169.254/32", "fd00:ec2::254/128"]);
    for host in ["169.254.169.254", "[64:ff9b::a9fe:a9fe]", "[fd00:ec2::254]"] {
        assert_eq!(refused(&one, &format!("http://{host}/")), None, "{host}");
    }
}

#[test]
fn addresses_of_this_machine_are_refused_unless_allowed() {
    let own: [IpAddr; 2] = ["8.8.4.4", "2606:4700::1111"].map(|ip| ip.parse().unwrap());
    let policy = EgressPolicy::default();
    let denied = |policy: &EgressPolicy, ip: &str| {
        policy.check_own(ip.parse().unwrap(), &own).err().map(|denied| denied.to_string())
    };
    for ip in ["8.8.4.4", "2606:4700::1111", "::ffff:8.8.4.4", "64:ff9b::808:404"] {
        let said = denied(&policy, ip).unwrap_or_default();
        assert!(said.contains("an address of this machine, which QUARTET_"), "{ip}: {said}");
    }
    assert!(denied(&policy, "2002:808:404::1").is_some());
    assert_eq!(denied(&policy, "8.8.8.8"), None);
    let allowed_networks = vec!["8.8.4.0/24".parse().unwrap()];
    let policy = EgressPolicy { allowed_networks, ..policy };
    assert_eq!(denied(&policy, "8.8.4.4"), None);
    assert!(denied(&policy, "2606:4700::1111").is_some());
}

#[test]
fn privileged_ports_and_those_of_other_services_are_refused_unless_allowed() {
    let policy = EgressPolicy::default();
    let said = |policy: &EgressPolicy, host: &str, port: u16| {
        refused(policy, &format!("http://{host}:{port}/"))
    };
    for host in ["shop.example", "8.8.8.8", "[2606:4700::1111]"] {
        for port in [1, 22, 25, 53, 110, 389, 445, 587, 853, 1023, 2375, 5432, 6379, 11211] {
            let refusal = said(&policy, host, port).unwrap_or_default();
            let expected = format!("uses port {port}, ");
            assert!(refusal.starts_with(&expected), "{host} {port}: {refusal}");
            assert!(refusal.contains("QUARTET_NOTIFY__ALLOWED_PORTS"), "{refusal}");
        }
        for port in [80, 443, 1024, 3000, 8080, 8443, 9443, 32_768, 65_535] {
            assert_eq!(said(&policy, host, port), None, "{host} {port}");
        }
    }
    assert!(said(&policy, "8.8.8.8", 0).is_some());
    let allowed_networks = vec!["127.0.0.0/8".parse().unwrap()];
    let policy = EgressPolicy { allowed_networks, allowed_ports: vec![25, 6379], ..policy };
    assert_eq!(said(&policy, "127.0.0.1", 25), None);
    assert_eq!(said(&policy, "127.0.0.1", 6379), None);
    assert!(said(&policy, "127.0.0.1", 22).is_some(), "a network opens no port");
    assert!(said(&policy, "10.0.0.1", 25).is_some(), "a port opens no network");
}

#[test]
fn other_schemes_users_and_where_configured_plain_http_are_refused() {
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
