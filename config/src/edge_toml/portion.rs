//! The part of `edge.toml` that says what is served, without the part that says who serves it: it may be held at an
//! earlier state, and edges of one fleet are compared by it. Text flows in, text in one form flows out: without comments, in the
//! order of keys, and without any manifest, so that no Secret is in it.

use std::collections::BTreeMap;

use toml::{Table, Value};

/// The tables of it. The others are about this machine, this process, or where objects come from.
const TABLES: [&str; 12] = [
    "bgp",
    "certificate",
    "certificates",
    "gateway",
    "issuers",
    "l2",
    "pool",
    "proxy",
    "reach",
    "services",
    "vips",
    "webhooks",
];

/// Keys in them that differ between edges by their nature: neighbours, addresses and interfaces of one machine, and
/// what a machine has room for. Beside these, paths of files.
const OF_ONE_EDGE: [&str; 19] = [
    "address",
    "also",
    "asn",
    "engine",
    "engine_tls",
    "interface",
    "io",
    "listen_addresses",
    "listen_port",
    "local_asn",
    "max_connections",
    "max_udp_sessions",
    "neighbours",
    "next_hop_v4",
    "next_hop_v6",
    "peer",
    "priority",
    "router_id",
    "workers",
];

/// What is wrong with the text is told by who decodes it: here it is as if it were empty.
pub fn portion(text: &str) -> String {
    let mut table: Table = text.parse().unwrap_or_default();
    table.retain(|key, _| TABLES.contains(&key));
    toml::to_string(&table).unwrap_or_default()
}

/// What each key of a portion says, by its path, such as `proxy.max_head`; tables of a list by their place.
/// Those that differ between edges by their nature are left out.
pub fn shared_keys(portion: &str) -> BTreeMap<String, String> {
    let table: Table = portion.parse().unwrap_or_default();
    let mut keys = BTreeMap::new();
    gather(String::new(), &Value::Table(table), &mut keys);
    let is_of_one = |part: &str| {
        let name = part.split('[').next().unwrap_or(part);
        OF_ONE_EDGE.contains(&name) || name.ends_with("_file")
    };
    keys.retain(|path, _| !path.split('.').any(is_of_one));
    keys
}

fn gather(path: String, value: &Value, keys: &mut BTreeMap<String, String>) {
    match value {
        Value::Table(table) => {
            for (key, value) in table {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                gather(path, value, keys);
            }
        }
        Value::Array(list) if list.iter().any(Value::is_table) => {
            for (place, value) in list.iter().enumerate() {
                // A name tells more than a place.
                let name = value.get("name").or_else(|| value.get("secret")).and_then(Value::as_str);
                let place = name.map_or_else(|| place.to_string(), |name| name.replace('.', "_"));
                gather(format!("{path}[{place}]"), value, keys);
            }
        }
        value => drop(keys.insert(path, value.to_string())),
    }
}

/// The paths of all keys that two portions do not have in common, in order.
pub fn differences(one: &str, other: &str) -> Vec<String> {
    let read = |text: &str| {
        let mut keys = BTreeMap::new();
        gather(String::new(), &Value::Table(text.parse().unwrap_or_default()), &mut keys);
        keys
    };
    let (one, other) = (read(one), read(other));
    let mut paths: Vec<String> =
        one.keys().chain(other.keys()).filter(|key| one.get(*key) != other.get(*key)).cloned().collect();
    paths.sort();
    paths.dedup();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        # a comment
        [edge]
        name = "a"
        [[manifests]]
        inline = "kind: Secret"
        [proxy]
        max_head = "16KiB"
        workers = 2
        [[pool]]
        name = "public"
        addresses = ["192.0.2.0/24"]
        [bgp]
        router_id = "192.0.2.1"
        [[bgp.peer]]
        name = "tor"
        address = "192.0.2.254"
        asn = 64513
    "#;

    #[test]
    fn only_what_says_what_is_served() {
        let portion = portion(TEXT);
        assert!(!portion.contains("Secret") && !portion.contains("comment") && !portion.contains("edge"), "{portion}");
        let file = "edge.toml".into();
        let settings = crate::edge_toml::decode(&file, &portion).unwrap();
        assert_eq!((settings.proxy.max_head, settings.pools.len()), (16 << 10, 1));
        // It is in one form.
        assert_eq!(super::portion(&portion), portion);
        assert_eq!(super::portion("what = is this"), "");
    }

    #[test]
    fn what_is_of_one_edge_does_not_count() {
        let keys = shared_keys(&portion(TEXT));
        let names: Vec<&str> = keys.keys().map(String::as_str).collect();
        assert_eq!(names, ["pool[public].addresses", "pool[public].name", "proxy.max_head"]);
    }

    #[test]
    fn differences_are_named() {
        let other = TEXT.replace("16KiB", "32KiB").replace("public", "private");
        assert_eq!(
            differences(&portion(TEXT), &portion(&other)),
            [
                "pool[private].addresses",
                "pool[private].name",
                "pool[public].addresses",
                "pool[public].name",
                "proxy.max_head",
            ]
        );
        assert_eq!(differences(&portion(TEXT), &portion(TEXT)), [""; 0]);
    }
}
