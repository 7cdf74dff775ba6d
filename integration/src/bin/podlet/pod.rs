//! One Pod from its binding to its end.
//!
//! Flows in: the Pod and [`Order`]s. Flows out: a network namespace, running containers, the status in the API, and in
//! the end the Pod's deletion. Nothing that is missing makes a Pod fail: it waits, and its status says for what.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::addresses::{Pool, Slot};
use crate::container::{Board, Seat};
use crate::fetch::{self, call};
use crate::logs::Shelf;
use crate::objects::Place;
use crate::options::Options;
use crate::sandbox::Sandbox;
use crate::say;
use crate::status::{Course, Stage, View, status};

const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// A status is written at most this often: what changes at once is written at once.
const GATHER: Duration = Duration::from_millis(10);

/// What all Pods of the node share.
pub struct World {
    pub options: Options,
    pub client: Client,
    pub pool: RefCell<Pool>,
    pub gateways: Vec<IpNet>,
    pub shelf: Arc<Shelf>,
}

impl World {
    /// Where every container builds its root, each in mounts of its own.
    pub fn root(&self) -> PathBuf {
        self.options.state.join("root")
    }

    pub fn pods(&self) -> PathBuf {
        self.options.state.join("pods")
    }
}

/// What is to become of a Pod; only ever later ones replace earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Order {
    Run,
    /// Somebody deleted it: end it and say so.
    Delete,
    /// It is not in the API any more, or podlet ends.
    Drop,
}

/// The whole life of a Pod on this node.
pub async fn live(world: Rc<World>, pod: Arc<Pod>, mut orders: watch::Receiver<Order>) {
    if *orders.borrow() == Order::Run && !over(&pod) {
        run(&world, &pod, &mut orders).await;
    }
    // The sender goes away only with podlet itself.
    let _ = orders.wait_for(|order| *order != Order::Run).await;
    let mut pause = RETRY.0;
    while *orders.borrow() == Order::Delete {
        match delete(&world, &pod).await {
            Ok(()) => break,
            Err(fault) => say!("Pod {}: {fault}", name(&pod)),
        }
        tokio::select! {
            () = sleep(pause) => {}
            _ = orders.wait_for(|order| *order == Order::Drop) => break,
        }
        pause = (pause * 2).min(RETRY.1);
    }
}

/// For messages.
fn name(pod: &Pod) -> String {
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    format!("{}/{}", part(&pod.metadata.namespace), part(&pod.metadata.name))
}

fn over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// What no Pod of the rig needs.
fn unsupported(pod: &Pod) -> Option<&'static str> {
    let spec = pod.spec.as_ref()?;
    if spec.host_network == Some(true) {
        return Some("hostNetwork is not supported by podlet");
    }
    let inits = spec.init_containers.as_ref().is_some_and(|list| !list.is_empty());
    inits.then_some("initContainers are not supported by podlet")
}

fn api(world: &World, pod: &Pod) -> Api<Pod> {
    Api::namespaced(world.client.clone(), pod.metadata.namespace.as_deref().unwrap_or_default())
}

async fn delete(world: &World, pod: &Pod) -> Result<(), fetch::Fault> {
    let uid = Preconditions { uid: pod.metadata.uid.clone(), ..Preconditions::default() };
    let params = DeleteParams::default().grace_period(0).preconditions(uid);
    match call("delete", api(world, pod).delete(pod.metadata.name.as_deref().unwrap_or_default(), &params)).await {
        // Gone, or another Pod by now.
        Err(fault) if matches!(fault.code(), Some(404 | 409)) => Ok(()),
        outcome => outcome.map(drop),
    }
}

/// Until the order to end. All that was made is gone afterwards.
async fn run(world: &World, pod: &Pod, orders: &mut watch::Receiver<Order>) {
    let began = Timestamp::now();
    let board = Rc::new(Board::default());
    let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    board.courses.borrow_mut().extend(containers.iter().map(|_| Course::new()));
    let mut report = Report { world, pod, began, board: Rc::clone(&board), last: None };
    let Some((slot, sandbox)) = network(world, pod, &mut report, orders).await else { return };
    let place = Place { node_ip: world.options.node_ip, pod_ips: slot.ips() };
    let directory = world.pods().join(pod.metadata.uid.as_deref().unwrap_or_default());
    let (stop, stopped) = watch::channel(false);
    let seats: Vec<Seat<'_>> = containers
        .iter()
        .enumerate()
        .map(|(index, container)| Seat {
            world,
            pod,
            index,
            container,
            place: &place,
            sandbox: &sandbox,
            directory: directory.clone(),
            board: Rc::clone(&board),
        })
        .collect();
    let work = async {
        join_all(seats.iter().map(|seat| seat.run(stopped.clone()))).await;
    };
    let ordered = async {
        let _ = orders.wait_for(|order| *order != Order::Run).await;
        let _ = stop.send(true);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        // All containers return only after the order to stop.
        () = work => {}
        () = ordered => {}
        () = report.follow(Some(&place), stopped.clone()) => {}
    }
    sandbox.remove().await;
    world.pool.borrow_mut().give_back(&slot);
    // Volumes may hold secrets.
    if let Err(error) = std::fs::remove_dir_all(&directory)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        say!("{}: {error}", directory.display());
    }
}

/// An address and a namespace for it; `None` after an order to end.
async fn network(
    world: &World,
    pod: &Pod,
    report: &mut Report<'_>,
    orders: &mut watch::Receiver<Order>,
) -> Option<(Slot, Sandbox)> {
    let mut pause = RETRY.0;
    loop {
        let problem = match unsupported(pod) {
            Some(what) => what.to_owned(),
            None => match attempt(world).await {
                Ok(network) => return Some(network),
                Err(problem) => problem,
            },
        };
        for course in report.board.courses.borrow_mut().iter_mut() {
            course.stage = Stage::Waiting { reason: "CreatePodSandboxError", message: problem.clone() };
        }
        if let Err(fault) = report.write(None).await {
            say!("Pod {}: {fault}", name(pod));
        }
        tokio::select! {
            () = sleep(pause) => {}
            _ = orders.wait_for(|order| *order != Order::Run) => return None,
        }
        pause = (pause * 2).min(RETRY.1);
    }
}

async fn attempt(world: &World) -> Result<(Slot, Sandbox), String> {
    let slot = world.pool.borrow_mut().take().ok_or("no address is free in --pod-cidr")?;
    let options = &world.options;
    match Sandbox::create(&options.prefix, &options.node, &options.bridge, &slot, &world.gateways).await {
        Ok(sandbox) => Ok((slot, sandbox)),
        Err(fault) => {
            world.pool.borrow_mut().give_back(&slot);
            Err(fault.to_string())
        }
    }
}

/// Writes the status whenever it changes.
struct Report<'a> {
    world: &'a World,
    pod: &'a Pod,
    began: Timestamp,
    board: Rc<Board>,
    last: Option<PodStatus>,
}

impl Report<'_> {
    /// Never returns. While the Pod ends it stays silent: what counts then is `deletionTimestamp`.
    async fn follow(&mut self, place: Option<&Place>, mut stopped: watch::Receiver<bool>) {
        let mut pause = RETRY.0;
        let mut told = String::new();
        while !*stopped.borrow() {
            match self.write(place).await {
                Ok(()) => {
                    pause = RETRY.0;
                    tokio::select! {
                        () = self.board.changed.notified() => sleep(GATHER).await,
                        _ = stopped.wait_for(|stopped| *stopped) => {}
                    }
                }
                Err(fault) => {
                    let fault = fault.to_string();
                    if fault != told {
                        say!("Pod {}: {fault}", name(self.pod));
                        told = fault;
                    }
                    tokio::select! {
                        () = sleep(pause) => {}
                        _ = stopped.wait_for(|stopped| *stopped) => {}
                    }
                    pause = (pause * 2).min(RETRY.1);
                }
            }
        }
        std::future::pending().await
    }

    async fn write(&mut self, place: Option<&Place>) -> Result<(), fetch::Fault> {
        let node_ip = self.world.options.node_ip;
        let wanted = {
            let courses = self.board.courses.borrow();
            let view = View { pod: self.pod, place, node_ip, began: self.began, courses: &courses };
            status(&view, self.last.as_ref(), Timestamp::now())
        };
        if self.last.as_ref() == Some(&wanted) {
            return Ok(());
        }
        let meta = &self.pod.metadata;
        // Applied by its own manager: conditions of others stay, and an address of a former run goes.
        let patch = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid},
            "status": wanted,
        });
        let pods = api(self.world, self.pod);
        let params = PatchParams::apply("podlet").force();
        let patch = Patch::Apply(&patch);
        let write = pods.patch_status(meta.name.as_deref().unwrap_or_default(), &params, &patch);
        match call("status", write).await {
            // Gone, or another Pod by now; the watch will say so.
            Err(fault) if !matches!(fault.code(), Some(404 | 409)) => return Err(fault),
            _ => {}
        }
        self.last = Some(wanted);
        Ok(())
    }
}
