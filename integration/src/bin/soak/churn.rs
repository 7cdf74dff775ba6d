//! What changes during a soak: routes, endpoints, certificates, one after the other, each awaited until it is seen.
//!
//! Flows in: a laboratory. Flows out: changed files, and how often each kind took effect and how soon. The routes under
//! load are never taken away, the origins behind them never stop: so no exchange has a reason to fail.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edge_integration::client::{Connection, Tls, fetch};
use edge_integration::edged::{Edged, until};
use edge_integration::engine::Histogram;
use edge_integration::lab::{HTTP, HTTPS, Lab, block_on};
use edge_integration::manifests::{CLASS, LISTENERS, gateway, http_route, service, to};
use edge_integration::pki::{self, Authority, Leaf, Pair};

use crate::LOADED;

/// The host of HTTP/2 and WebSocket.
pub const STEADY: &str = "steady.test";
/// A change that takes longer has not taken effect.
const PATIENCE: Duration = Duration::from_secs(20);
/// Routes that come, change and go.
const ROUTES: u32 = 7;

pub struct Churn<'a> {
    lab: &'a Lab,
    authority: Authority,
    origins: Vec<SocketAddr>,
    step: u32,
    done: BTreeMap<&'static str, u64>,
    /// File changed to the first client that sees it.
    pub effect: Histogram,
    pub failures: BTreeMap<String, u64>,
}

impl<'a> Churn<'a> {
    /// Writes the whole configuration; edged is not started yet.
    pub fn new(lab: &'a Lab, steady: SocketAddr, origins: Vec<SocketAddr>) -> Self {
        let dir = lab.dir().display();
        let vip = lab.vip;
        lab.write_file(
            "edge.toml",
            &format!(
                "[state]\ndirectory = \"{dir}/state\"\n[control]\nsocket = \"{dir}/edged.sock\"\n\
                 [[manifests]]\npath = \"{dir}/manifests\"\n[[pool]]\nname = \"soak\"\naddresses = [\"{vip}/32\"]\n\
                 [proxy]\nworkers = 1\n[log]\nlevel = \"warn\"\n"
            ),
        );
        let base = [
            CLASS,
            &gateway("web", LISTENERS),
            &service("default", "steady", 80, &[steady]),
            &http_route("steady", &[STEADY], &to("steady", 80)),
            &http_route("loaded", &[LOADED], &to("loaded", 80)),
        ];
        lab.manifest("base.yaml", &base.concat());
        let authority = Authority::new("soak").unwrap();
        let churn = Self {
            lab,
            authority,
            origins,
            step: 0,
            done: BTreeMap::new(),
            effect: Histogram::default(),
            failures: BTreeMap::new(),
        };
        churn.endpoints(0);
        churn.certificate();
        churn
    }

    pub fn authority(&self) -> &str {
        &self.authority.certificate
    }

    /// Until both hosts are served with the certificate of the Secret.
    pub fn wait_ready(&self) {
        let tls = self.tls(STEADY);
        for (host, path) in [(STEADY, "/load"), (LOADED, "/b/1024")] {
            until(host, || {
                let reply = block_on(fetch(self.lab.at(HTTPS), Some(&tls), host, path));
                reply.ok().filter(|reply| reply.status == 200)
            });
        }
    }

    pub fn summary(&self) -> String {
        let parts: Vec<String> = self.done.iter().map(|(what, times)| format!("{times} {what}")).collect();
        parts.join(", ")
    }

    /// The next change, awaited. Every second one is also told by a signal; the others the daemon notices by itself.
    pub fn change(&mut self, edged: &Edged) {
        self.step += 1;
        let step = self.step;
        let begin = Instant::now();
        let told = || {
            if step.is_multiple_of(2) {
                edged.reload();
            }
        };
        let (what, seen) = match step % 4 {
            0 => {
                let pair = self.certificate();
                told();
                ("certificates", self.sees_certificate(&pair))
            }
            1 => {
                self.endpoints(step as usize / 4);
                self.mark(step, step);
                told();
                // The mark is of the same reload or a later one.
                ("endpoints", self.sees_mark(step, Some(step)))
            }
            2 if step > 4 * ROUTES && step.is_multiple_of(3) => {
                let file = format!("churn-{}.yaml", step % ROUTES);
                if self.lab.path("manifests").join(&file).exists() {
                    self.lab.remove_manifest(&file);
                }
                told();
                ("routes", self.sees_mark(step, None))
            }
            _ => {
                self.mark(step, step);
                told();
                ("routes", self.sees_mark(step, Some(step)))
            }
        };
        if seen {
            *self.done.entry(what).or_default() += 1;
            self.effect.record(begin.elapsed());
        } else {
            *self.failures.entry(format!("a change of {what} was not seen within {PATIENCE:?}")).or_default() += 1;
        }
    }

    /// One, two or three of the origins.
    fn endpoints(&self, turn: usize) {
        let subsets: [&[usize]; 6] = [&[0], &[0, 1], &[1, 2], &[2], &[0, 1, 2], &[1]];
        let chosen = subsets.get(turn % subsets.len()).copied().unwrap_or_default();
        let endpoints: Vec<SocketAddr> = chosen.iter().filter_map(|index| self.origins.get(*index).copied()).collect();
        self.lab.manifest("loaded.yaml", &service("default", "loaded", 80, &endpoints));
    }

    fn certificate(&self) -> Pair {
        let pair = self.authority.sign(&Leaf { dns: &[LOADED, STEADY], ..Leaf::default() }).unwrap();
        let text = format!(
            "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: web-tls, namespace: default}}\n\
             type: kubernetes.io/tls\ndata:\n  tls.crt: {}\n  tls.key: {}\n",
            STANDARD.encode(&pair.certificate),
            STANDARD.encode(&pair.key)
        );
        self.lab.manifest("secret.yaml", &text);
        pair
    }

    /// A route that answers by itself and names the step.
    fn mark(&self, step: u32, mark: u32) {
        let name = format!("churn-{}", step % ROUTES);
        let rule = format!(
            "    - filters: [{{type: RequestRedirect, requestRedirect: {{hostname: mark-{mark}.test, statusCode: 302}}}}]\n"
        );
        self.lab.manifest(&format!("{name}.yaml"), &http_route(&name, &[&format!("{name}.test")], &rule));
    }

    fn tls(&self, name: &str) -> Tls {
        let config = pki::client(self.authority(), &["http/1.1"], None).unwrap();
        Tls { config, server_name: Some(name.to_owned()) }
    }

    fn sees_certificate(&mut self, pair: &Pair) -> bool {
        let expected = pki::certificates(&pair.certificate).unwrap();
        let tls = self.tls(LOADED);
        self.sees(async || {
            let connection = Connection::open(self.lab.at(HTTPS), Some(&tls)).await?;
            Ok(connection.handshake.certificates.first() == expected.first())
        })
    }

    fn sees_mark(&mut self, step: u32, expected: Option<u32>) -> bool {
        let host = format!("churn-{}.test", step % ROUTES);
        let expected = expected.map(|mark| format!("http://mark-{mark}.test"));
        self.sees(async || {
            let reply = fetch(self.lab.at(HTTP), None, &host, "/").await?;
            Ok(match &expected {
                None => reply.status == 404,
                Some(start) => reply.header("location").is_some_and(|location| location.starts_with(start.as_str())),
            })
        })
    }

    fn sees(&self, look: impl AsyncFn() -> std::io::Result<bool>) -> bool {
        let begin = Instant::now();
        block_on(async {
            while begin.elapsed() < PATIENCE {
                match look().await {
                    Ok(true) => return true,
                    Ok(false) => tokio::time::sleep(Duration::from_millis(2)).await,
                    Err(error) => {
                        eprintln!("soak: while waiting for a change: {error}");
                        return false;
                    }
                }
            }
            false
        })
    }
}
