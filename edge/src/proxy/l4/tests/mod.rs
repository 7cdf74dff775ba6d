//! What the tests of this module share: endpoints that are given by hand, and a worker's runtime.

mod tcp;
mod udp;
mod worker;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use edge_config::names::{Kind, ObjectKey, ObjectRef};
use edge_config::snapshot::{Backend, StreamRoute, Target, UpstreamId};

use super::Targets;
use crate::proxy::upstream::{Census, priority};

/// Endpoints by upstream; round robin. Clones share it all.
#[derive(Clone, Default)]
pub struct Fixed(Rc<State>);

#[derive(Default)]
struct State {
    endpoints: RefCell<Vec<Vec<SocketAddr>>>,
    turn: Cell<usize>,
    loads: Cell<i32>,
    /// Endpoint, and whether it accepted.
    notes: RefCell<Vec<(SocketAddr, bool)>>,
}

pub struct Load(Rc<State>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.loads.set(self.0.loads.get() - 1);
    }
}

impl Fixed {
    pub fn new(endpoints: &[&[SocketAddr]]) -> Self {
        let fixed = Self::default();
        fixed.put(endpoints);
        fixed
    }

    pub fn put(&self, endpoints: &[&[SocketAddr]]) {
        *self.0.endpoints.borrow_mut() = endpoints.iter().map(|list| list.to_vec()).collect();
    }

    pub fn loads(&self) -> i32 {
        self.0.loads.get()
    }

    pub fn notes(&self) -> Vec<(SocketAddr, bool)> {
        self.0.notes.borrow().clone()
    }
}

impl Targets for Fixed {
    type Load = Load;

    fn pick(&self, upstream: UpstreamId, _: super::How<'_>, avoid: Option<SocketAddr>) -> Option<(SocketAddr, Load)> {
        let endpoints = self.0.endpoints.borrow();
        let list = endpoints.get(upstream.index())?;
        self.0.turn.set(self.0.turn.get() + 1);
        let from = self.0.turn.get();
        let order = (0..list.len()).map(|step| list[(from + step) % list.len()]);
        let picked = order.clone().find(|endpoint| Some(*endpoint) != avoid).or_else(|| order.clone().next())?;
        self.0.loads.set(self.0.loads.get() + 1);
        Some((picked, Load(Rc::clone(&self.0))))
    }

    fn has(&self, upstream: UpstreamId, endpoint: SocketAddr) -> bool {
        self.0.endpoints.borrow().get(upstream.index()).is_some_and(|list| list.contains(&endpoint))
    }

    fn hold(&self, upstream: UpstreamId, endpoint: SocketAddr) -> Option<Load> {
        self.has(upstream, endpoint).then(|| {
            self.0.loads.set(self.0.loads.get() + 1);
            Load(Rc::clone(&self.0))
        })
    }

    fn note(&self, _: UpstreamId, endpoint: SocketAddr, outcome: Result<(), &io::Error>) {
        self.0.notes.borrow_mut().push((endpoint, outcome.is_ok()));
    }
}

/// Backends by weight and upstream; `None` is an invalid one.
pub fn route(backends: &[(u32, Option<u32>)]) -> StreamRoute {
    let backend = |(weight, upstream): &(u32, Option<u32>)| Backend {
        weight: *weight,
        reference: format!("Service a/{}:1", upstream.map_or("gone".to_owned(), |id| format!("s{id}"))).into(),
        target: match upstream {
            Some(id) => Target::Upstream(UpstreamId(*id)),
            None => Target::Invalid { status: 500, reason: "gone".into() },
        },
        filters: Default::default(),
        balance: None,
        fallback: false,
    };
    StreamRoute {
        route: ObjectRef::new(Kind::TCPRoute, ObjectKey::parse("a/b")),
        backends: backends.iter().map(backend).collect(),
        affinity: None,
        admission: None,
    }
}

pub fn on_a_worker<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(Duration::from_secs(30), future).await.expect("the test hangs")
    })
}

pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn weights() {
    for (backends, draw, expected) in [
        (&[][..], 0, None),
        (&[(0, Some(0)), (0, None)], u32::MAX, None),
        (&[(1, Some(0))], u32::MAX, Some(Some(0))),
        (&[(0, Some(0)), (1, Some(1))], 0, Some(Some(1))),
        (&[(1, Some(0)), (1, None)], u32::MAX / 2, Some(Some(0))),
        (&[(1, Some(0)), (1, None)], u32::MAX / 2 + 1, Some(None)),
        (&[(70, Some(0)), (30, Some(1)), (0, Some(2))], u32::MAX, Some(Some(1))),
        (&[(u32::MAX, Some(0)), (u32::MAX, Some(1))], u32::MAX, Some(Some(1))),
    ] {
        let route = route(backends);
        let found = priority::choose(&route.backends, draw, |_| Census::default())
            .map(|backend| super::target(backend).map(|upstream| upstream.0));
        assert_eq!(found, expected, "{backends:?} at {draw}");
    }
    let route = route(&[(70, Some(0)), (30, Some(1))]);
    let first = (0..1000u32).filter(|step| {
        super::target(priority::choose(&route.backends, step * (u32::MAX / 1000), |_| Census::default()).unwrap())
            == Some(UpstreamId(0))
    });
    assert!((699..=701).contains(&first.count()));
}
