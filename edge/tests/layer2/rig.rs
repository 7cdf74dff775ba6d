//! A link with three hosts (a, b, c) around a bridge, edges and keepalived on them, and ears.

use std::io::Read as _;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use edge::vip::l2::{ElectionSeen, GroupSeen, GroupWanted, L2, L2Observed, L2Options, VipHeld};
use edge_bgp::Permit;
use edge_bgp::l2::{Mac, claim};
use edge_bgp::vrrp::Role;
use edge_config::announce::L2Group;
use tokio::sync::watch;

use super::netns::{self, Namespace};

pub(crate) const V4: &str = "198.51.100.100";
pub(crate) const V6: &str = "fd51::100";
/// A change that takes longer is lost.
const LIMIT: Duration = Duration::from_secs(30);

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < end, "not within {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn group(priority: u8) -> L2Group {
    L2Group {
        name: "web".into(),
        interface: "eth0".into(),
        router: 51,
        priority,
        interval: Duration::from_millis(300),
        preempt: true,
        preempt_delay: Duration::ZERO,
        unicast: Vec::new(),
        key: None,
        virtual_mac: false,
        vips: vec![ip(V4), ip(V6)],
        also: Vec::new(),
        watch: None,
    }
}

pub(crate) fn wanted(group: L2Group, told: &[&str]) -> GroupWanted {
    GroupWanted { group, key: None, told: told.iter().map(|vip| ip(vip)).collect() }
}

pub(crate) struct Lan {
    switch: Namespace,
    hosts: Vec<(&'static str, Namespace)>,
    dir: tempfile::TempDir,
}

impl Lan {
    /// `None`: no right to make one, which is said.
    pub(crate) fn new(test: &str) -> Option<Self> {
        if let Err(reason) = netns::available() {
            eprintln!("SKIPPED: {reason}");
            return None;
        }
        let switch = Namespace::new(&format!("l2-{test}-sw")).unwrap();
        switch.ip("link add br0 type bridge mcast_snooping 0").unwrap();
        switch.ip("link set br0 up").unwrap();
        let mut hosts = Vec::new();
        for (number, host) in ["a", "b", "c"].into_iter().enumerate() {
            let namespace = Namespace::new(&format!("l2-{test}-{host}")).unwrap();
            // Link-local addresses at once, and no Linux neighbour that ignores what it is told within a second.
            let set = |name: &str, value: &str| std::fs::write(format!("/proc/sys/net/{name}"), value).unwrap();
            namespace
                .run(|| {
                    set("ipv6/conf/default/accept_dad", "0");
                    set("ipv6/conf/default/dad_transmits", "0");
                    set("ipv6/conf/default/accept_ra", "0");
                    set("ipv6/conf/default/router_solicitations", "0");
                })
                .unwrap();
            switch.ip(&format!("link add p{host} type veth peer name eth0 netns {}", namespace.name())).unwrap();
            switch.ip(&format!("link set p{host} master br0")).unwrap();
            switch.ip(&format!("link set p{host} up")).unwrap();
            namespace.ip(&format!("addr add 198.51.100.{}/24 dev eth0", number + 1)).unwrap();
            namespace.ip("link set eth0 up").unwrap();
            namespace.ip(&format!("addr add fd51::{}/64 dev eth0 nodad", number + 1)).unwrap();
            hosts.push((host, namespace));
        }
        Some(Self { switch, hosts, dir: tempfile::tempdir().unwrap() })
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn host(&self, name: &str) -> &Namespace {
        &self.hosts.iter().find(|(host, _)| *host == name).unwrap().1
    }

    pub(crate) fn ip(&self, host: &str, line: &str) {
        self.host(host).ip(line).unwrap();
    }

    pub(crate) fn has(&self, host: &str, vip: &str) -> bool {
        let listed = self.host(host).ip("-o addr show dev eth0").unwrap_or_default();
        listed.split_whitespace().any(|word| word.split('/').next() == Some(vip))
    }

    /// Every interface and address of a host.
    pub(crate) fn all(&self, host: &str) -> String {
        let links = self.host(host).ip("-o link show").unwrap();
        links + &self.host(host).ip("-o addr show").unwrap()
    }

    pub(crate) fn sysctl(&self, host: &str, name: &str, value: &str) {
        self.host(host).run(|| std::fs::write(format!("/proc/sys/net/{name}"), value).unwrap()).unwrap();
    }

    pub(crate) fn mac(&self, host: &str) -> Mac {
        self.mac_at(host, "eth0")
    }

    pub(crate) fn mac_at(&self, host: &str, interface: &str) -> Mac {
        let text = self.host(host).ip(&format!("-o link show dev {interface}")).unwrap();
        let text = text.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap().to_owned();
        mac(&text)
    }

    /// Sends something, so that the neighbour is asked for; and waits for an answer of its machine: no socket listens.
    pub(crate) fn reaches(&self, host: &str, address: &str) -> bool {
        let to = SocketAddr::new(ip(address), 9);
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        self.host(host)
            .run(|| {
                let socket = UdpSocket::bind(any).unwrap();
                socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
                socket.connect(to).unwrap();
                let _ = socket.send(b"?");
                let result = socket.recv(&mut [0; 8]);
                result.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
            })
            .unwrap()
    }

    pub(crate) fn neighbour(&self, host: &str, address: &str) -> Option<Mac> {
        let text = self.host(host).ip(&format!("neigh show {address} dev eth0")).unwrap();
        let text = text.split_whitespace().skip_while(|word| *word != "lladdr").nth(1)?.to_owned();
        Some(mac(&text))
    }

    pub(crate) fn carrier(&self, host: &str, is_there: bool) {
        self.switch.ip(&format!("link set p{host} {}", if is_there { "up" } else { "down" })).unwrap();
    }

    /// What a host hears of announcements from now on.
    pub(crate) fn listen(&self, host: &str) -> Ear {
        self.listen_at(host, "eth0")
    }

    /// A second wire for two hosts, `eth1` at both.
    pub(crate) fn join(&self, hosts: [&str; 2]) {
        let [one, other] = hosts.map(|host| self.host(host));
        one.ip(&format!("link add eth1 type veth peer name eth1 netns {}", other.name())).unwrap();
        for host in [one, other] {
            host.ip("link set eth1 up").unwrap();
        }
    }

    /// These hosts do not reach each other any more, though both reach everybody else; or they do again.
    pub(crate) fn part(&self, hosts: &[&str], are_apart: bool) {
        let word = if are_apart { "on" } else { "off" };
        for host in hosts {
            self.switch.ip(&format!("link set dev p{host} type bridge_slave isolated {word}")).unwrap();
        }
    }

    pub(crate) fn listen_at(&self, host: &str, interface: &str) -> Ear {
        let mut child = Command::new("ip")
            .args(["netns", "exec", self.host(host).name()])
            .args(["tcpdump", "-i", interface, "-U", "-w", "-", "-p", "arp or icmp6"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("tcpdump ({error}) is installed by `make packages`"));
        let mut output = child.stdout.take().unwrap();
        // The header of the file comes when it listens.
        output.read_exact(&mut [0; 24]).unwrap();
        let (sender, frames) = channel();
        std::thread::spawn(move || {
            let mut header = [0; 16];
            while output.read_exact(&mut header).is_ok() {
                let length = u32::from_ne_bytes(header[8..12].try_into().unwrap());
                let mut frame = vec![0; length as usize];
                output.read_exact(&mut frame).unwrap();
                // A gratuitous one, or an unsolicited advertisement: to everybody, from the address itself.
                let is_group = frame[0] & 1 == 1;
                if let Some(claim) = claim(&frame).filter(|_| is_group)
                    && sender.send((claim.address, claim.mac)).is_err()
                {
                    break;
                }
            }
        });
        Ear { child, frames, heard: Mutex::default() }
    }
}

pub(crate) struct Ear {
    child: Child,
    frames: Receiver<(IpAddr, Mac)>,
    heard: Mutex<Vec<(IpAddr, Mac)>>,
}

impl Ear {
    pub(crate) fn announcements(&self) -> Vec<(IpAddr, Mac)> {
        let mut heard = self.heard.lock().unwrap();
        heard.extend(self.frames.try_iter());
        heard.clone()
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn mac(text: &str) -> Mac {
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    Mac(bytes.try_into().unwrap())
}

pub(crate) struct Edge {
    l2: L2,
    observed: watch::Receiver<Arc<L2Observed>>,
    permitted: Arc<AtomicBool>,
}

impl Edge {
    pub(crate) fn start(lan: &Lan, host: &str) -> Self {
        let permitted = Arc::new(AtomicBool::new(true));
        let asked = permitted.clone();
        let options = L2Options {
            list: lan.dir().join(format!("{host}.addresses")),
            permit: Permit::new(move || asked.load(Ordering::Relaxed).then_some(0)),
            handed: None,
        };
        let l2 = lan.host(host).run(|| L2::start(options).unwrap()).unwrap();
        Self { observed: l2.observed(), l2, permitted }
    }

    pub(crate) fn set(&self, wanted: GroupWanted) {
        self.l2.set(vec![wanted]);
    }

    pub(crate) fn permit(&self, is_permitted: bool) {
        self.permitted.store(is_permitted, Ordering::Relaxed);
    }

    pub(crate) fn observed(&self) -> Arc<L2Observed> {
        self.observed.borrow().clone()
    }

    pub(crate) fn elections(&self) -> Vec<ElectionSeen> {
        self.observed().groups.iter().flat_map(|group| group.elections.clone()).collect()
    }

    /// Of IPv4, then of IPv6.
    pub(crate) fn role(&self) -> Vec<Role> {
        self.elections().into_iter().map(|election| election.role).collect()
    }

    pub(crate) fn vip(&self, vip: &str) -> (GroupSeen, ElectionSeen, VipHeld) {
        let mut found = None;
        until("the VIP is known", || {
            let seen = self.observed();
            let known = seen.vip(ip(vip));
            found = known.map(|(group, election, vip)| (group.clone(), election.clone(), vip.state.clone()));
            found.is_some()
        });
        found.unwrap()
    }

    pub(crate) fn conflicts(&self, vip: &str) -> Vec<Mac> {
        let seen = self.observed();
        let found = seen.vip(ip(vip)).map(|(.., vip)| vip.conflicts.iter().map(|conflict| conflict.mac).collect());
        found.unwrap_or_default()
    }

    pub(crate) fn announced(&self, vip: &str) -> u64 {
        self.observed().vip(ip(vip)).unwrap().2.announced
    }

    pub(crate) fn stop(self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(self.l2.stop());
    }
}

const PROCESS: &str = "EDGE_L2_PROCESS";

/// An edge in a process of its own, in the namespace of a host.
pub(crate) fn edge_process(lan: &Lan, host: &str, priority: u8) -> Child {
    let list: PathBuf = lan.dir().join(format!("{host}.addresses"));
    Command::new("ip")
        .args(["netns", "exec", lan.host(host).name()])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "edge_alone", "--ignored", "--nocapture"])
        .env(PROCESS, format!("{priority} {}", list.display()))
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

pub(crate) fn run_edge_process() {
    let Ok(text) = std::env::var(PROCESS) else { return };
    let (priority, list) = text.split_once(' ').unwrap();
    let l2 = L2::start(L2Options { list: list.into(), permit: Permit::unconditional(), handed: None }).unwrap();
    l2.set(vec![wanted(group(priority.parse().unwrap()), &[V4, V6])]);
    std::thread::sleep(Duration::from_secs(120));
}

pub(crate) struct Keepalived(Child);

/// keepalived with the same virtual router; `peers` make it speak unicast.
pub(crate) fn keepalived(lan: &Lan, host: &str, priority: u8, peers: &str) -> Keepalived {
    let peers = |is_v4: bool| -> String {
        let list: Vec<&str> = peers.split_whitespace().filter(|peer| ip(peer).is_ipv4() == is_v4).collect();
        if list.is_empty() { String::new() } else { format!("unicast_peer {{ {} }}", list.join("\n")) }
    };
    let number = host.as_bytes()[0] - b'a' + 1;
    let instance = |name: &str, vip: &str, source: &str, peers: String| {
        let source = if peers.is_empty() { String::new() } else { format!("unicast_src_ip {source}") };
        format!(
            "vrrp_instance {name} {{
               interface eth0
               virtual_router_id 51
               version 3
               priority {priority}
               advert_int 0.3
               {source}
               {peers}
               virtual_ipaddress {{ {vip} }}
             }}
            "
        )
    };
    let (v4, v6) = (peers(true), peers(false));
    let mut text = "global_defs { vrrp_version 3\n script_user root\n }\n".to_owned();
    text += &instance("V4", &format!("{V4}/32"), &format!("198.51.100.{number}"), v4.clone());
    if !v6.is_empty() || v4.is_empty() {
        text += &instance("V6", &format!("{V6}/128"), &format!("fd51::{number}"), v6);
    }
    let file = |name: &str| lan.dir().join(format!("{host}-{name}"));
    std::fs::write(file("keepalived.conf"), text).unwrap();
    let child = Command::new("ip")
        .args(["netns", "exec", lan.host(host).name(), "keepalived", "-n", "-l", "-P", "-f"])
        .arg(file("keepalived.conf"))
        .arg("-p")
        .arg(file("keepalived.pid"))
        .arg("-r")
        .arg(file("vrrp.pid"))
        .stdout(std::fs::File::create(file("keepalived.log")).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("keepalived ({error}) is installed by `make packages`"));
    Keepalived(child)
}

impl Keepalived {
    /// In order: with a farewell.
    pub(crate) fn end(mut self) {
        self.signal("TERM");
        self.0.wait().unwrap();
    }

    /// The parent and, which matters, its child that speaks VRRP.
    pub(crate) fn kill(mut self) {
        self.signal_children("KILL");
        self.signal("KILL");
        self.0.wait().unwrap();
    }

    fn signal(&self, name: &str) {
        Command::new("kill").args([&format!("-{name}"), &self.0.id().to_string()]).status().unwrap();
    }

    fn signal_children(&self, name: &str) {
        let path = format!("/proc/{0}/task/{0}/children", self.0.id());
        for child in std::fs::read_to_string(path).unwrap().split_whitespace() {
            Command::new("kill").args([&format!("-{name}"), child]).status().unwrap();
        }
    }
}

impl Drop for Keepalived {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            self.signal("TERM");
            let _ = self.0.wait();
        }
    }
}
