//! What tests of logins share: a certified OpenID provider, curl as the browser, and the example that is served.

// A failed expectation is what a test is for; no test uses all of it.
#![allow(clippy::panic, clippy::unwrap_used, dead_code)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use edge_integration::edged::{Edged, run, until, workspace};
use edge_integration::lab::{Origins, Running, copy_example, start_example};

pub const SHOP: &str = "http://shop.edge.test:8080";
pub const PROVIDER: &str = "127.0.0.1:18421";
pub const SECRET: &str = "a-secret-that-only-edge-and-the-provider-know";

pub fn loopback(last: u8, port: u16) -> SocketAddr {
    ([127, 0, 0, last], port).into()
}

/// A program that ends with the test.
pub struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn peers() -> PathBuf {
    let built = Command::new(workspace().join("integration/run/peers")).output().unwrap();
    assert!(built.status.success(), "no peers: {}", String::from_utf8_lossy(&built.stderr));
    String::from_utf8(built.stdout).unwrap().trim().into()
}

pub fn start(program: &str, arguments: &[&str], at: &[SocketAddr]) -> Peer {
    let child = Command::new(peers().join(program)).args(arguments).stdout(Stdio::null()).spawn().unwrap();
    let peer = Peer(child);
    for address in at {
        until("a peer listens", || std::net::TcpStream::connect(address).is_ok().then_some(()));
    }
    peer
}

pub fn provider(more: &[&str]) -> Peer {
    let issuer = format!("http://{PROVIDER}");
    let redirects = format!("{SHOP}/oauth2/callback");
    let mut arguments =
        vec!["-listen", PROVIDER, "-issuer", &issuer, "-client", "shop", "-secret", SECRET, "-redirects", &redirects];
    arguments.extend(more);
    start("openid-provider", &arguments, &[PROVIDER.parse().unwrap()])
}

/// What came back.
#[derive(Debug)]
pub struct Page {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Page {
    pub fn field<'p>(&'p self, name: &'p str) -> Option<&'p str> {
        self.fields(name).next()
    }

    pub fn fields<'p>(&'p self, name: &'p str) -> impl Iterator<Item = &'p str> {
        let pairs = self.head.lines().filter_map(|line| line.split_once(": "));
        pairs.filter(move |(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    pub fn location(&self) -> &str {
        self.field("location").unwrap_or_else(|| panic!("no redirect: {self:?}"))
    }
}

/// A browser that follows no redirect by itself.
pub struct Browser {
    pub jar: tempfile::NamedTempFile,
    pub options: Vec<String>,
}

impl Browser {
    pub fn new() -> Self {
        let mut browser = Self { jar: tempfile::NamedTempFile::new().unwrap(), options: Vec::new() };
        browser.turn_to(42);
        browser
    }

    /// The shop is found at another edge from now on.
    pub fn turn_to(&mut self, last: u8) {
        self.options = vec!["--resolve".to_owned(), format!("shop.edge.test:8080:127.0.0.{last}")];
    }

    pub fn ask(&self, url: &str, more: &[&str]) -> Page {
        let jar = self.jar.path().to_str().unwrap();
        let mut arguments = vec!["-sS", "-i", "--max-time", "40", "-b", jar, "-c", jar];
        arguments.extend(self.options.iter().map(String::as_str));
        arguments.extend(more);
        arguments.push(url);
        let said = run(Path::new("curl"), &arguments);
        let (head, body) = said.stdout.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{url}: {said:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Page { status, head: head.to_owned(), body: body.to_owned() }
    }

    /// From the page that the provider shows to the callback URL.
    pub fn sign_in(&self, page: &Page, at: &str) -> String {
        assert_eq!(page.status, 302, "{page:?}");
        let form = self.ask(page.location(), &[]);
        assert_eq!(form.status, 302, "{form:?}");
        let place = form.location();
        let id = place.split("authRequestID=").nth(1).unwrap().to_owned();
        let data = format!("id={id}&username=test-user2&password=verysecure");
        let done = self.ask(&format!("{at}/login/username"), &["-d", &data]);
        assert_eq!(done.status, 302, "{done:?}");
        let back = match done.location() {
            path if path.starts_with('/') => format!("{at}{path}"),
            url => url.to_owned(),
        };
        let back = self.ask(&back, &[]);
        assert_eq!(back.status, 302, "{back:?}");
        back.location().to_owned()
    }

    pub fn log_in(&self) {
        let page = self.ask(&format!("{SHOP}/cart?x=1"), &[]);
        let callback = self.sign_in(&page, &format!("http://{PROVIDER}"));
        let arrived = self.ask(&callback, &[]);
        assert_eq!(arrived.status, 302, "{arrived:?}");
        assert_eq!(arrived.location(), format!("{SHOP}/cart?x=1"));
    }

    /// As the browser keeps them: name and value.
    pub fn cookies(&self) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(self.jar.path()).unwrap();
        let lines = text.lines().filter(|line| line.contains("shop.edge.test"));
        let fields = lines.map(|line| line.split('\t').collect::<Vec<_>>());
        fields.filter(|all| all.len() == 7).map(|all| (all[5].to_owned(), all[6].to_owned())).collect()
    }
}

/// Edge over the example, and its backend.
pub struct Scene {
    pub edged: Edged,
    _origins: Origins,
    _shop: Running,
    pub dir: tempfile::TempDir,
}

pub fn scene(edit: impl Fn(String) -> String) -> Scene {
    let origins = Origins::start();
    let shop = origins.http_at("shop", loopback(1, 18420), None);
    let (edged, dir) = edge_at(42, edit);
    Scene { edged, _origins: origins, _shop: shop, dir }
}

/// An edge of the example at another address of loopback.
pub fn edge_at(last: u8, edit: impl Fn(String) -> String) -> (Edged, tempfile::TempDir) {
    let dir = copy_example("oidc");
    let change = |path: &str, edit: &dyn Fn(String) -> String| {
        let path = dir.path().join(path);
        std::fs::write(&path, edit(std::fs::read_to_string(&path).unwrap())).unwrap();
    };
    change("manifests/login.yaml", &edit);
    change("edge.toml", &|text| text.replace("127.0.0.42", &format!("127.0.0.{last}")));
    (start_example(dir.path(), &[loopback(last, 8080)]), dir)
}

impl Scene {
    pub fn metrics(&self) -> String {
        let socket = self.dir.path().join(".run/edged.sock");
        let arguments = ["-sS", "--unix-socket", socket.to_str().unwrap(), "http://edge/metrics"];
        run(Path::new("curl"), &arguments).stdout
    }
}

pub fn control(what: &str) -> String {
    let said = run(Path::new("curl"), &["-sS", &format!("http://{PROVIDER}/control/{what}")]);
    assert_eq!(said.code, Some(0), "{said:?}");
    said.stdout
}

/// Until the provider is known to Edge.
pub fn discovered(browser: &Browser) -> Page {
    until("the provider is discovered", || {
        Some(browser.ask(&format!("{SHOP}/"), &[])).filter(|page| page.status == 302)
    })
}
