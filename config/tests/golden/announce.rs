//! The plan of what is announced, one line per peer, prefix and virtual router.

use std::fmt::Write;

use edge_config::announce::{Announce, Attributes, Bgp, L2Group, Password, Peer, PeerAsn, PeerOrigin};
use edge_config::community::Community;

pub fn text(out: &mut String, announce: &Announce) {
    if announce.is_idle() {
        return;
    }
    writeln!(out, "\nannounce: hold down {:?}, endpoints needed by {:?}", announce.hold_down, announce.need_endpoint)
        .unwrap();
    if let Some(bgp) = &announce.bgp {
        self::bgp(out, bgp);
    }
    announce.l2.iter().for_each(|group| l2(out, group));
    for (address, why) in &announce.silent {
        writeln!(out, "  silent {address}: {why}").unwrap();
    }
}

fn bgp(out: &mut String, bgp: &Bgp) {
    write!(out, "  bgp AS {} as {} by {:?}", bgp.asn, bgp.router_id, bgp.engine).unwrap();
    if let Some(listen) = &bgp.listen {
        write!(out, ", listens on {} of {:?}", listen.port, listen.addresses).unwrap();
    }
    writeln!(out, ", leaves in {:?}", bgp.graceful_shutdown).unwrap();
    bgp.peers.iter().for_each(|one| peer(out, one));
    for prefix in &bgp.prefixes {
        let vips: Vec<String> = prefix.vips.iter().map(ToString::to_string).collect();
        write!(out, "  prefix {} while [{}]", prefix.prefix, vips.join(", ")).unwrap();
        if prefix.next_hop != Default::default() {
            write!(out, " by {:?}", prefix.next_hop).unwrap();
        }
        out.push('\n');
        for offer in &prefix.offers {
            writeln!(out, "    to {}{}", offer.peers.join(", "), attributes(&offer.attributes)).unwrap();
        }
    }
}

fn peer(out: &mut String, peer: &Peer) {
    let asn = match peer.asn {
        PeerAsn::Number(asn) => format!("AS {asn}"),
        other => format!("{other:?} AS"),
    };
    write!(
        out,
        "  peer {} {}:{} {asn} hold {:?}/{:?}",
        peer.name, peer.address, peer.port, peer.hold_time, peer.keepalive
    )
    .unwrap();
    let password = peer.password.as_ref().map(|password| match password {
        Password::File(path) => format!("in {}", path.display()),
        Password::Secret(key) => format!("in Secret {key}"),
        Password::Inline(key) => format!("of BGPPeer {key}"),
    });
    let families = match (peer.families.v4, peer.families.v6) {
        (true, true) => "IPv4 and IPv6",
        (true, false) => "IPv4",
        _ => "IPv6",
    };
    for (name, value) in [
        ("families", Some(families.to_owned())),
        ("shown", peer.local_asn.map(|asn| format!("AS {asn}"))),
        ("from", peer.source.map(|source| source.to_string())),
        ("password", password),
        ("multihop", peer.multihop.map(|hops| hops.to_string())),
        ("ttl", peer.ttl_security.map(|ttl| ttl.to_string())),
        ("restart", peer.graceful_restart.map(|time| format!("{time:?}"))),
        ("bfd", peer.bfd.map(|bfd| format!("{:?}/{:?} × {}", bfd.transmit, bfd.receive, bfd.multiplier))),
        ("passive", peer.is_passive.then(String::new)),
        (
            "of",
            match &peer.origin {
                PeerOrigin::Settings => None,
                PeerOrigin::Object(object) => Some(object.to_string()),
            },
        ),
    ] {
        if let Some(value) = value {
            write!(out, ", {name} {value}").unwrap();
        }
    }
    out.push('\n');
}

fn attributes(attributes: &Attributes) -> String {
    let standard = attributes.communities.iter().map(|number| Community::Standard(*number));
    let large = attributes.large_communities.iter().map(|(a, b, c)| Community::Large(*a, *b, *c));
    let communities: Vec<String> = standard.chain(large).map(|community| community.to_string()).collect();
    let mut text = String::new();
    if !communities.is_empty() {
        write!(text, " communities [{}]", communities.join(", ")).unwrap();
    }
    if let Some(value) = attributes.local_pref {
        write!(text, " local preference {value}").unwrap();
    }
    if let Some(value) = attributes.med {
        write!(text, " MED {value}").unwrap();
    }
    if attributes.prepend > 0 {
        write!(text, " prepended {}", attributes.prepend).unwrap();
    }
    text
}

fn l2(out: &mut String, group: &L2Group) {
    let vips: Vec<String> = group.vips.iter().map(ToString::to_string).collect();
    write!(
        out,
        "  router {} {} on {} priority {} every {:?} has [{}]",
        group.router,
        group.name,
        group.interface,
        group.priority,
        group.interval,
        vips.join(", ")
    )
    .unwrap();
    match group.preempt {
        true => write!(out, ", takes over after {:?}", group.preempt_delay).unwrap(),
        false => out.push_str(", never takes over"),
    }
    for (name, is_there, value) in [
        ("unicast to", !group.unicast.is_empty(), format!("{:?}", group.unicast)),
        ("key", group.key.is_some(), format!("{:?}", group.key)),
        ("also on", !group.also.is_empty(), group.also.join(", ")),
        ("watches", group.watch.is_some(), format!("{:?}", group.watch)),
        ("with its own MAC", group.virtual_mac, String::new()),
    ] {
        if is_there {
            write!(out, ", {name} {value}").unwrap();
        }
    }
    out.push('\n');
}
