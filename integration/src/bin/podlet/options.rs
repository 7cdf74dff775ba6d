//! The command line: words in, [`Options`] out. Reads no file and asks no system; every fault names its option.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::schedule::Share;

pub const USAGE: &str = "usage: podlet --kubeconfig FILE --node NAME --node-ip ADDR --pod-cidr CIDR[,CIDR] --bridge DEV
  --prefix TEXT --image NAME=PATH [--image NAME=PATH …] --state DIR
  [--schedule all|none|I/N]  which unscheduled Pods it binds, all
  [--node-label KEY=VALUE …] labels of its Node
  [--port N]                 where it serves logs on the node's address, any free one
  [--grace SECONDS]          from SIGTERM to SIGKILL at most, 2";

const USUAL_GRACE: Duration = Duration::from_secs(2);

/// What the program was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub kubeconfig: PathBuf,
    pub node: String,
    pub node_ip: IpAddr,
    /// One of each address family at most; the first is the Pod's main address.
    pub pod_cidrs: Vec<IpNet>,
    pub bridge: String,
    /// How the names of its network namespaces begin.
    pub prefix: String,
    /// Base name of an image, without registry and tag, to the program it stands for.
    pub images: BTreeMap<String, PathBuf>,
    pub state: PathBuf,
    pub share: Share,
    pub labels: BTreeMap<String, String>,
    /// 0: the kernel chooses.
    pub port: u16,
    pub grace: Duration,
}

impl Options {
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut single: BTreeMap<String, String> = BTreeMap::new();
        let mut images = BTreeMap::new();
        let mut labels = BTreeMap::new();
        while let Some(option) = words.next() {
            let value = words.next().ok_or_else(|| format!("{option}: needs a value"))?;
            match option.as_str() {
                "--image" | "--node-label" => {
                    let (name, meaning) = value
                        .split_once('=')
                        .filter(|(name, _)| !name.is_empty())
                        .ok_or_else(|| format!("{option} {value}: expected NAME=VALUE"))?;
                    let earlier = match option.as_str() {
                        "--image" => images.insert(name.to_owned(), PathBuf::from(meaning)).is_some(),
                        _ => labels.insert(name.to_owned(), meaning.to_owned()).is_some(),
                    };
                    if earlier {
                        return Err(format!("{option} {name}: given twice"));
                    }
                }
                "--kubeconfig" | "--node" | "--node-ip" | "--pod-cidr" | "--bridge" | "--prefix" | "--state"
                | "--schedule" | "--port" | "--grace" => {
                    if single.insert(option.clone(), value).is_some() {
                        return Err(format!("{option}: given twice"));
                    }
                }
                _ => return Err(format!("{option}: unknown option")),
            }
        }
        if images.is_empty() {
            return Err("--image is missing".to_owned());
        }
        let mut required = |option: &str| single.remove(option).ok_or_else(|| format!("{option} is missing"));
        Ok(Self {
            kubeconfig: required("--kubeconfig")?.into(),
            node: name(&required("--node")?)?,
            node_ip: parsed("--node-ip", &required("--node-ip")?, "an IP address")?,
            pod_cidrs: cidrs(&required("--pod-cidr")?)?,
            bridge: required("--bridge")?,
            prefix: prefix(required("--prefix")?)?,
            state: required("--state")?.into(),
            images,
            labels,
            share: match single.get("--schedule") {
                Some(text) => parsed("--schedule", text, "all, none or I/N with I below N")?,
                None => Share::All,
            },
            port: match single.get("--port") {
                Some(text) => parsed("--port", text, "a port")?,
                None => 0,
            },
            grace: match single.get("--grace") {
                Some(text) => Duration::from_secs(u64::from(parsed::<u8>("--grace", text, "seconds, 0 to 255")?)),
                None => USUAL_GRACE,
            },
        })
    }
}

fn parsed<T: std::str::FromStr>(option: &str, text: &str, expected: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{option} {text}: expected {expected}"))
}

/// A DNS subdomain, as the API server demands of a Node; it becomes part of namespace names.
fn name(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    if text.is_empty() || text.len() > 63 || !text.bytes().all(plain) || text.starts_with(['-', '.']) {
        return Err(format!("--node {text}: expected a DNS name of at most 63 lower-case characters"));
    }
    Ok(text.to_owned())
}

fn prefix(text: String) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if text.is_empty() || text.len() > 32 || !text.bytes().all(plain) {
        return Err(format!("--prefix {text}: expected at most 32 letters, digits, - and _"));
    }
    Ok(text)
}

fn cidrs(text: &str) -> Result<Vec<IpNet>, String> {
    let mut found: Vec<IpNet> = Vec::new();
    for part in text.split(',') {
        let cidr: IpNet = parsed("--pod-cidr", part, "a network, as 10.244.1.0/24")?;
        if cidr != cidr.trunc() {
            return Err(format!("--pod-cidr {part}: expected {} (bits beyond the prefix are set)", cidr.trunc()));
        }
        if u32::from(cidr.max_prefix_len() - cidr.prefix_len()) < 3 {
            return Err(format!("--pod-cidr {part}: expected room for 8 addresses at least"));
        }
        if found.iter().any(|other| other.addr().is_ipv4() == cidr.addr().is_ipv4()) {
            return Err(format!("--pod-cidr {part}: a second network of this family"));
        }
        found.push(cidr);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "--kubeconfig k --node n1 --node-ip 10.90.0.2 --pod-cidr 10.244.1.0/24 --bridge br0 --prefix edge-rig- --image echo-basic=/bin/echo --state /tmp/s";

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn usual_line() {
        let options = parse(WHOLE).unwrap();
        assert_eq!(options.share, Share::All);
        assert_eq!(options.images["echo-basic"], PathBuf::from("/bin/echo"));
        assert_eq!(options.grace, USUAL_GRACE);
        let more = format!("{WHOLE} --schedule 1/2 --node-label zone=a --port 10250 --grace 1");
        let options = parse(&more).unwrap();
        assert_eq!(options.share, Share::Part { index: 1, of: 2 });
        assert_eq!((options.labels["zone"].as_str(), options.port), ("a", 10250));
    }

    #[test]
    fn both_families() {
        let line = WHOLE.replace("10.244.1.0/24", "10.244.1.0/24,fd00:1::/112");
        assert_eq!(parse(&line).unwrap().pod_cidrs.len(), 2);
    }

    #[test]
    fn faults_name_their_option() {
        let cases = [
            ("--nod", "needs a value"),
            ("--nod x", "--nod: unknown option"),
            ("--state b", "--state: given twice"),
            ("--image noequals", "expected NAME=VALUE"),
            ("--image echo-basic=/x", "--image echo-basic: given twice"),
            ("--schedule 2/2", "--schedule 2/2: expected"),
            ("--port 70000", "--port 70000: expected a port"),
        ];
        for (more, expected) in cases {
            let error = parse(&format!("{WHOLE} {more}")).unwrap_err();
            assert!(error.contains(expected), "{more}: {error}");
        }
        let replaced = [
            ("10.244.1.0/24", "10.244.1.7/24", "expected 10.244.1.0/24"),
            ("10.244.1.0/24", "10.244.1.0/30", "room for 8"),
            ("10.244.1.0/24", "10.244.1.0/24,10.244.2.0/24", "second network"),
            ("--node n1", "--node N_1", "--node N_1"),
            ("--bridge br0", "", "--bridge is missing"),
            ("edge-rig-", "edge/rig", "--prefix edge/rig"),
        ];
        for (from, to, expected) in replaced {
            let error = parse(&WHOLE.replace(from, to)).unwrap_err();
            assert!(error.contains(expected), "{to}: {error}");
        }
    }
}
