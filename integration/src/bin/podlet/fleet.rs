//! All Pods of the node: watched, started, ended; and the unscheduled ones, bound.
//!
//! Flows in: two watches. Flows out: one task per Pod, with its orders. A Pod that a relist does not show is gone.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{Binding, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::PostParams;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::fetch::{call, innermost};
use crate::pod::{Order, World, live};
use crate::say;
use crate::schedule::{binding, wanted};

/// Between attempts. The usual half minute would be most of what a scenario with a dead API server waits for.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Beyond the grace, to take the namespaces down.
const LAST_WAIT: Duration = Duration::from_secs(20);

/// Pods by uid, with how to order them about.
pub struct Fleet {
    pub world: Rc<World>,
    orders: HashMap<String, watch::Sender<Order>>,
    lives: JoinSet<()>,
    /// Seen since a relist began.
    listed: Option<HashSet<String>>,
}

impl Fleet {
    pub fn new(world: Rc<World>) -> Self {
        Self { world, orders: HashMap::new(), lives: JoinSet::new(), listed: None }
    }

    /// Never returns.
    pub async fn follow(&mut self) {
        let api: Api<Pod> = Api::all(self.world.client.clone());
        let ours = watcher::Config::default().fields(&format!("spec.nodeName={}", self.world.options.node));
        let mut events = watcher(api, ours).backoff(Pauses::default()).boxed_local();
        let mut trouble = Trouble::default();
        while let Some(event) = events.next().await {
            // Ended lives leave nothing but their outcome.
            while self.lives.try_join_next().is_some() {}
            match event {
                Ok(event) => {
                    trouble.over("watch of own Pods");
                    self.take(event);
                }
                Err(error) => trouble.tell("watch of own Pods", &error),
            }
        }
    }

    fn take(&mut self, event: Event<Pod>) {
        match event {
            Event::Init => self.listed = Some(HashSet::new()),
            Event::InitApply(pod) => {
                if let (Some(listed), Some(uid)) = (&mut self.listed, &pod.metadata.uid) {
                    listed.insert(uid.clone());
                }
                self.see(pod);
            }
            Event::InitDone => {
                let Some(listed) = self.listed.take() else { return };
                self.orders.retain(|uid, order| {
                    let stays = listed.contains(uid);
                    if !stays {
                        raise(order, Order::Drop);
                    }
                    stays
                });
            }
            Event::Apply(pod) => self.see(pod),
            Event::Delete(pod) => {
                if let Some(order) = pod.metadata.uid.as_ref().and_then(|uid| self.orders.remove(uid)) {
                    raise(&order, Order::Drop);
                }
            }
        }
    }

    fn see(&mut self, pod: Pod) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        let wanted = if pod.metadata.deletion_timestamp.is_some() { Order::Delete } else { Order::Run };
        let order = self.orders.entry(uid).or_insert_with(|| {
            let (order, orders) = watch::channel(wanted);
            self.lives.spawn_local(live(Rc::clone(&self.world), Arc::new(pod), orders));
            order
        });
        raise(order, wanted);
    }

    /// Ends every Pod's processes and namespace; the objects stay.
    pub async fn end(mut self) {
        for order in self.orders.values() {
            raise(order, Order::Drop);
        }
        let all = async { while self.lives.join_next().await.is_some() {} };
        if timeout(self.world.options.grace + LAST_WAIT, all).await.is_err() {
            say!("{} Pods did not end in time; their processes are killed", self.lives.len());
        }
    }
}

fn raise(order: &watch::Sender<Order>, wanted: Order) {
    order.send_if_modified(|order| {
        let later = wanted > *order;
        *order = wanted.max(*order);
        later
    });
}

/// Binds unscheduled Pods of our share. Never returns.
pub async fn schedule(world: Rc<World>) {
    let options = &world.options;
    let labels = crate::node::labels(&options.node, &options.labels);
    let api: Api<Pod> = Api::all(world.client.clone());
    let unscheduled = watcher::Config::default().fields("spec.nodeName=");
    let mut events = watcher(api, unscheduled).backoff(Pauses::default()).boxed_local();
    let mut trouble = Trouble::default();
    let mut bindings: JoinSet<()> = JoinSet::new();
    let mut begun: HashSet<String> = HashSet::new();
    while let Some(event) = events.next().await {
        while bindings.try_join_next().is_some() {}
        if event.is_ok() {
            trouble.over("watch of unscheduled Pods");
        }
        match event {
            Ok(Event::Apply(pod) | Event::InitApply(pod)) => {
                let uid = pod.metadata.uid.clone().unwrap_or_default();
                if wanted(&pod, options.share, &labels) && begun.insert(uid) {
                    bindings.spawn_local(bind(world.client.clone(), pod, options.node.clone()));
                }
            }
            // Bound or deleted: either way it leaves this watch.
            Ok(Event::Delete(pod)) => {
                begun.remove(pod.metadata.uid.as_deref().unwrap_or_default());
            }
            // The relist shows again what is still unscheduled; a second binding does no harm.
            Ok(Event::Init) => begun.clear(),
            Ok(Event::InitDone) => {}
            Err(error) => trouble.tell("watch of unscheduled Pods", &error),
        }
    }
}

async fn bind(client: Client, pod: Pod, node: String) {
    let (Some(name), Some(namespace)) = (pod.metadata.name.clone(), pod.metadata.namespace.clone()) else { return };
    let binding: Binding = binding(&pod, &node);
    let api: Api<Pod> = Api::namespaced(client, &namespace);
    let mut pause = RETRY.0;
    loop {
        let params = PostParams::default();
        match call("binding", api.create_subresource::<_, Status>("binding", &name, &params, &binding)).await {
            Ok(_) => return,
            // Gone, or another podlet was first, or its namespace is going.
            Err(fault) if matches!(fault.code(), Some(403 | 404 | 409)) => return,
            Err(fault) if pause >= RETRY.1 => say!("Pod {namespace}/{name}: {fault}"),
            Err(_) => {}
        }
        sleep(pause).await;
        pause = (pause * 2).min(RETRY.1);
    }
}

/// Between attempts to watch.
#[derive(Default)]
struct Pauses {
    failures: u32,
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = RETRY.0.saturating_mul(1 << self.failures.min(10)).min(RETRY.1);
        self.failures = self.failures.saturating_add(1);
        Some(pause)
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Says once what is wrong, and once that it is over.
#[derive(Default)]
struct Trouble {
    told: Option<String>,
}

impl Trouble {
    fn tell(&mut self, what: &str, error: &watcher::Error) {
        let text = innermost(error);
        if self.told.as_ref() != Some(&text) {
            say!("{what}: {text}");
            self.told = Some(text);
        }
    }

    fn over(&mut self, what: &str) {
        if self.told.take().is_some() {
            say!("{what}: works again");
        }
    }
}
