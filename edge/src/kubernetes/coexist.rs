//! Whether cert-manager is alive: two issuers of one Secret are worse than none.
//!
//! In: the Lease that cert-manager's controller renews. Out: [`CertManager`] while it does. Clocks of different machines
//! are not compared: the Lease must be seen to change within [`ALIVE`] by our own clock; only at first sight, when nothing
//! was seen yet, one that claims to be fresh is believed for so long. What cannot be known counts as alive as long as it
//! may be: before the API server has answered, and where there is no right to look.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use edge_config::issuer::CertManager;
use edge_config::manifest::AnyObject;
use edge_config::names::{Kind, ObjectKey};
use futures_util::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use kube::runtime::watcher::{self, Event};
use tokio::sync::watch;
use tokio::time::Instant;

use super::backoff::Backoff;
use super::client::Api;
use super::secrets::{EDGE, MANAGED_BY};
use super::texts::is_refused;
use super::watch::{Entry, Phase, Restored, SourceState};
use crate::moment;

/// cert-manager renews its Lease every 2 s at the latest, and who does not renew it for 60 s has lost it.
const ALIVE: Duration = Duration::from_secs(60);
/// No clock is so wrong: a Lease that was renewed longer ago at first sight is of a cert-manager that is gone.
const STALE: Duration = Duration::from_secs(600);

/// Who is refused for so long has no right.
const REFUSED: Duration = Duration::from_secs(20);

/// What is known of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coexistence {
    /// `Some` while it is alive, or may be.
    pub cert_manager: Option<CertManager>,
    /// By what that is known, in one line.
    pub why: String,
}

impl Coexistence {
    /// Before the API server has said anything. An edge that wrote Secrets when it was last heard of goes on: what it has
    /// must serve over a restart, too.
    pub fn unknown(restored: &Restored) -> Self {
        let is_written_by_edge = |entry: &Arc<Entry>| match &entry.served {
            Ok(served) => matches!(&served.object, AnyObject::Secret(secret)
                if secret.meta.labels.get(MANAGED_BY).is_some_and(|who| who == EDGE)),
            Err(_) => false,
        };
        if restored.values().any(is_written_by_edge) {
            return Self {
                cert_manager: None,
                why: "no living cert-manager was seen when Secrets were read last".to_owned(),
            };
        }
        Self {
            cert_manager: Some(CertManager { gateways: true }),
            why: "whether cert-manager is alive is not known yet".to_owned(),
        }
    }
}

/// What the Lease showed, and when.
#[derive(Debug, Default)]
struct Sight {
    version: Option<String>,
    /// Alive until then, unless it is renewed.
    until: Option<Instant>,
    holder: String,
    /// Why it may not be looked at, and since when.
    is_refused: Option<(String, Instant)>,
    /// The API server has said whether there is a Lease.
    is_known: bool,
}

impl Sight {
    fn saw(&mut self, lease: &Lease, wall: SystemTime, now: Instant) {
        self.is_known = true;
        self.is_refused = None;
        let version = lease.metadata.resource_version.clone();
        if self.version.is_some() && self.version == version {
            return;
        }
        let spec = lease.spec.clone().unwrap_or_default();
        self.holder = spec.holder_identity.unwrap_or_default();
        let is_first = self.version.is_none();
        self.version = version;
        let said = spec.renew_time.map(|time| SystemTime::from(time.0));
        let age = said.map(|said| wall.duration_since(said).unwrap_or_default());
        let is_stale = self.holder.is_empty() || (is_first && age.is_none_or(|age| age > STALE));
        self.until = (!is_stale).then(|| now + ALIVE);
    }

    fn gone(&mut self) {
        *self = Self { is_known: true, ..Self::default() };
    }

    /// `None`: not known yet.
    fn judge(&self, lease: &ObjectKey, has_certificates: Option<bool>, now: Instant) -> Option<Coexistence> {
        let absent = |why: &str| Coexistence { cert_manager: None, why: why.to_owned() };
        let alive = |why: String| Coexistence { cert_manager: Some(CertManager { gateways: true }), why };
        if has_certificates == Some(false) {
            return Some(absent("the API server does not have cert-manager's Certificates"));
        }
        Some(match (&self.is_refused, self.until) {
            // An API server that comes up refuses everybody until it has read who may do what: what was known holds on.
            (Some((_, since)), None) if now < *since + REFUSED => return None,
            (Some((why, _)), _) => alive(format!("whether cert-manager is alive cannot be seen: Lease {lease}: {why}")),
            (None, Some(until)) if until > now => {
                alive(format!("cert-manager is alive: Lease {lease} is renewed by {}", self.holder))
            }
            _ if !self.is_known => return None,
            _ => absent("no living cert-manager is seen"),
        })
    }
}

/// Watches until nobody wants to know. `patience`: how long what is not known counts as alive.
pub async fn run(
    api: Api,
    lease: ObjectKey,
    mut source: watch::Receiver<Arc<SourceState>>,
    patience: Duration,
    out: watch::Sender<Coexistence>,
) {
    let mut sight = Sight::default();
    let mut backoff = Backoff::default();
    let known_by = Instant::now() + patience;
    let (mut events, mut is_found) = (None, false);
    let mut again = Instant::now();
    loop {
        let now = Instant::now();
        if !sight.is_known && now >= known_by {
            sight.is_known = true;
        }
        if events.is_none()
            && again <= now
            && let Ok(Some(client)) = tokio::time::timeout(Duration::from_secs(1), api.client()).await
        {
            let leases = kube::Api::namespaced(client, &lease.namespace);
            let config = watcher::Config::default().fields(&format!("metadata.name={}", lease.name));
            events = Some(watcher::watcher::<Lease>(leases, config).boxed());
        }
        if events.is_none() && again <= now {
            again = now + backoff.next(None);
        }
        let found = sight.judge(&lease, has_certificates(&source.borrow_and_update()), now);
        out.send_if_modified(|known| match found {
            Some(found) if *known != found => {
                *known = found;
                true
            }
            _ => false,
        });
        let refused = sight.is_refused.as_ref().map(|(_, since)| *since + REFUSED).filter(|at| *at > now);
        let wake = [sight.until.filter(|until| *until > now), (!sight.is_known).then_some(known_by), refused];
        let wake = wake.into_iter().chain([events.is_none().then_some(again)]).flatten().min();
        tokio::select! {
            event = heard(&mut events) => match event {
                Some(Ok(Event::Init)) => is_found = false,
                Some(Ok(Event::InitApply(seen) | Event::Apply(seen))) => {
                    is_found = true;
                    backoff.reset();
                    sight.saw(&seen, SystemTime::now(), Instant::now());
                }
                Some(Ok(Event::InitDone)) if is_found => {}
                Some(Ok(Event::InitDone | Event::Delete(_))) => sight.gone(),
                Some(Err(error)) => {
                    if is_refused(&error) {
                        let why = "no right to watch it (manifests/edge-write.yaml)".to_owned();
                        sight.is_refused.get_or_insert((why, Instant::now()));
                    }
                    events = None;
                    again = Instant::now() + backoff.next(None);
                }
                None => {
                    events = None;
                    again = Instant::now() + backoff.next(None);
                }
            },
            changed = source.changed() => if changed.is_err() { return },
            () = moment::reached(wake) => {}
            () = out.closed() => return,
        }
    }
}

async fn heard<S: futures_util::Stream + Unpin>(events: &mut Option<S>) -> Option<S::Item> {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}

/// Whether the API server has Certificates; `None`: it has not said yet.
fn has_certificates(state: &SourceState) -> Option<bool> {
    let row = state.kinds.iter().find(|row| row.kind == Kind::Certificate)?;
    match (&row.phase, row.version) {
        (Phase::Absent, _) => Some(false),
        (_, Some(_)) => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(version: &str, holder: &str, ago: u64, wall: SystemTime) -> Lease {
        let said = super::super::lease::micro_time(wall - Duration::from_secs(ago));
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "cert-manager-controller", "namespace": "kube-system", "resourceVersion": version},
            "spec": {"holderIdentity": holder, "renewTime": said},
        }))
        .unwrap()
    }

    #[test]
    fn it_lives_as_long_as_its_lease_changes() {
        let name = ObjectKey::parse("kube-system/cert-manager-controller");
        let (wall, start) = (SystemTime::now(), Instant::now());
        let mut sight = Sight::default();
        let is_alive = |sight: &Sight, after: u64| {
            let found = sight.judge(&name, Some(true), start + Duration::from_secs(after));
            found.unwrap().cert_manager.is_some()
        };
        assert_eq!(sight.judge(&name, Some(true), start), None, "nothing is known yet");
        sight.gone();
        assert!(!is_alive(&sight, 0), "there is none");
        sight.saw(&lease("1", "pod", 3600, wall), wall, start);
        assert!(!is_alive(&sight, 0), "one that was left behind");
        sight.saw(&lease("2", "pod", 3600, wall), wall, start);
        assert!(is_alive(&sight, 59), "it changes, whatever its clock says");
        assert!(!is_alive(&sight, 61));
        sight.saw(&lease("2", "pod", 3600, wall), wall, start + Duration::from_secs(60));
        assert!(!is_alive(&sight, 61), "told twice");
        sight.saw(&lease("3", "pod", 0, wall), wall, start + Duration::from_secs(60));
        assert!(is_alive(&sight, 119));
        assert!(sight.judge(&name, Some(false), start).unwrap().cert_manager.is_none(), "it has no CRDs");
        sight.saw(&lease("4", "", 0, wall), wall, start + Duration::from_secs(60));
        assert!(!is_alive(&sight, 61), "it was given up");
        sight.is_refused = Some(("no right".to_owned(), start + Duration::from_secs(60)));
        assert_eq!(sight.judge(&name, Some(true), start + Duration::from_secs(79)), None, "it may be coming up");
        assert!(is_alive(&sight, 81), "what cannot be seen may be");
        let mut new = Sight::default();
        new.saw(&lease("1", "pod", 5, wall), wall, start);
        assert!(is_alive(&new, 59));
    }
}
