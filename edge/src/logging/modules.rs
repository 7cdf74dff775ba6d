//! The parts of edged by words that operators know. A word stands for the events of some modules; where two words fit an
//! event, the narrower one does: `bgp` goes before `vip`, `acme` before `certificates`.

/// A word, the prefixes of the targets that it stands for, and what it is about.
#[derive(Debug)]
pub struct Module {
    pub word: &'static str,
    pub(super) targets: &'static [&'static str],
    pub about: &'static str,
}

/// Everything that is Edge's own.
pub const ALL: &str = "all";
/// Everything that is not.
pub const LIBRARIES: &str = "libraries";

macro_rules! modules {
    ($($word:literal [$($target:literal),*] $about:literal;)+) => {
        pub const MODULES: &[Module] = &[$(Module { word: $word, targets: &[$($target),*], about: $about }),+];
    };
}

modules! {
    "proxy" ["edge::proxy"] "connections and requests, and the eight words below as far as they are not named";
    "tls" ["edge::proxy::tls", "edge::proxy::secure"] "handshakes with clients";
    "http2" ["edge::proxy::h2"] "HTTP/2 connections";
    "http3" ["edge::proxy::h3"] "HTTP/3 connections; QUIC itself is a library";
    "l4" ["edge::proxy::l4", "edge::proxy::proxy_protocol"] "TCP, UDP, PROXY protocol";
    "auth" ["edge::proxy::security", "edge::proxy::authorities"] "who may pass: logins, keys, external authorization";
    "limits" ["edge::proxy::protection"] "how much: rates, sizes";
    "upstream" ["edge::proxy::upstream"] "choice of endpoints, and connections to them";
    "health" ["edge::proxy::probing", "edge::proxy::health"] "active checks of endpoints";
    "vip" ["edge::vip"] "addresses and whether they are told; bgp, l2, bfd and guard as far as they are not named";
    "bgp" ["edge::vip::announcer", "edge_bgp"] "sessions with routers, and what they are told";
    "l2" ["edge::vip::l2"] "ARP, NDP, elections of virtual routers";
    "bfd" ["edge::vip::bfd"] "BFD sessions";
    "guard" ["edge::vip::guard"] "who withdraws the VIPs of a dead edge";
    "certificates" ["edge::certs"] "what is issued and served; acme as far as it is not named";
    "acme" ["edge::certs::ordering", "edge_acme"] "orders, challenges, limits of CAs";
    "kubernetes" ["edge::kubernetes"] "the API server: objects, status, Secrets, Leases";
    "fleet" ["edge::fleet"] "other edges";
    "handover" ["edge::handover", "edge::supervisor::upgrade", "edge::supervisor::take_over"] "upgrades: one edged passes to the next";
    "reach" ["edge::reach"] "the way to Pods";
    "sources" ["edge::source"] "edge.toml and manifests";
    "store" ["edge::store"] "what is kept on disk";
    "supervisor" ["edge::supervisor", "edge::logging", "edged"] "generations, reloads, commands, starts and stops";
    "history" ["edge::history"] "configurations that were in force";
    "control" ["edge::control"] "the API of edgectl";
    "tracing" ["edge::telemetry"] "spans on their way to a collector";
    "dashboard" ["edge::dashboard"] "the page for browsers";
}

/// The word for an event.
pub fn word_of(target: &str) -> &'static str {
    let places = MODULES.iter().flat_map(|module| module.targets.iter().map(|prefix| (module.word, *prefix)));
    let of = places.filter(|(_, prefix)| is_under(target, prefix)).max_by_key(|(_, prefix)| prefix.len());
    of.map_or_else(|| if is_under(target, "edge") { "edge" } else { LIBRARIES }, |(word, _)| word)
}

fn is_under(target: &str, prefix: &str) -> bool {
    target.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

pub fn module(word: &str) -> Option<&'static Module> {
    MODULES.iter().find(|module| module.word == word)
}

/// The words that are understood, for a message.
pub fn words() -> String {
    let words: Vec<&str> =
        [ALL].into_iter().chain(MODULES.iter().map(|module| module.word)).chain([LIBRARIES]).collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_narrowest_word_counts() {
        for (target, word) in [
            ("edge::proxy::worker", "proxy"),
            ("edge::proxy::h2::front", "http2"),
            ("edge::supervisor::take_over", "handover"),
            ("edge::supervisor::apply", "supervisor"),
            ("edge::vip::announcer", "bgp"),
            ("edge::vip::address", "vip"),
            ("edge::certs::ordering::runner", "acme"),
            ("edge::netlink", "edge"),
            ("edged", "supervisor"),
            ("edged_of_somebody", LIBRARIES),
            ("hyper::proto", LIBRARIES),
        ] {
            assert_eq!(word_of(target), word, "{target}");
        }
    }

    /// A word for which nothing is ever logged would be a promise.
    #[test]
    fn every_word_has_events() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        for module in MODULES {
            let mut found = false;
            for target in module.targets.iter().filter_map(|target| target.strip_prefix("edge::")) {
                let path = source.join(target.replace("::", "/"));
                let file = path.with_extension("rs");
                assert!(path.is_dir() || file.is_file(), "{target} is no module of edge");
                found |= has_events(&path) || has_events(&file) || names(&source, &format!("edge::{target}"));
            }
            assert!(found, "nothing is logged for {}", module.word);
        }
    }

    fn has_events(path: &Path) -> bool {
        any(path, &|text| text.contains("tracing::"))
    }

    /// An event from elsewhere that says that it is of a module.
    fn names(source: &Path, target: &str) -> bool {
        any(source, &|text| text.contains(&format!("target: \"{target}\"")))
    }

    fn any(path: &Path, test: &dyn Fn(&str) -> bool) -> bool {
        if path.is_dir() {
            return std::fs::read_dir(path).unwrap().any(|entry| any(&entry.unwrap().path(), test));
        }
        std::fs::read_to_string(path).is_ok_and(|text| test(&text))
    }
}
