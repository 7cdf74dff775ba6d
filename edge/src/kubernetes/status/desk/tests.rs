//! A desk beside an API that is a map of values: conflicts, other writers, restarts and several edges.

use std::time::Duration;

use edge_config::inputs::{Inputs, Meta, Object, Objects, Outdated};
use edge_config::names::ObjectKey;
use edge_config::problem::Origin;
use edge_config::settings::{AddressRange, Pool, Settings};
use serde::de::DeserializeOwned;

use super::*;
use crate::control::observed::{Observed, SocketState, VipState};
use crate::kubernetes::mirror::{OWN_ANNOTATIONS, StatusText};

const OTHER: &str = "example.com/other";

fn add<T: DeserializeOwned>(objects: &mut Objects<T>, name: &str, generation: i64, spec: Value) {
    let key = ObjectKey::parse(name);
    let origin = Origin { file: SOURCE.into(), line: 1, column: 1 };
    let (labels, annotations) = (BTreeMap::new(), BTreeMap::new());
    let meta = Meta { key: key.clone(), labels, annotations, generation, created: None, origin };
    objects.insert(key, Arc::new(Object { meta, spec: serde_json::from_value(spec).unwrap() }));
}

/// One class, one Gateway and some routes; the Gateway in this generation.
fn inputs(generation: i64, routes: usize) -> Inputs {
    let addresses = vec![AddressRange::parse("192.0.2.1").unwrap()];
    let pool = Pool::new("p", addresses);
    let settings = Settings { pools: vec![pool], ..Settings::default() };
    let mut inputs = Inputs { settings: Arc::new(settings), ..Inputs::default() };
    add(&mut inputs.gateway_classes, "edge", 1, json!({"controllerName": "edge.internal/gateway-controller"}));
    let listeners = json!([{"name": "http", "port": 80, "protocol": "HTTP"}]);
    add(&mut inputs.gateways, "ns/gw", generation, json!({"gatewayClassName": "edge", "listeners": listeners}));
    for n in 0..routes {
        add(&mut inputs.http_routes, &format!("ns/r{n}"), 1, json!({"parentRefs": [{"name": "gw"}], "rules": [{}]}));
    }
    inputs
}

fn world(inputs: Inputs, is_acknowledged: bool) -> Arc<World> {
    let compiled = edge_config::compile(&inputs);
    let snapshot = &compiled.snapshot;
    let observed = Observed {
        workers: 2,
        acknowledged: if is_acknowledged { 2 } else { 1 },
        sockets: snapshot.sockets.iter().map(|s| ((s.address, s.transport), SocketState::Bound)).collect(),
        vips: snapshot.vips.iter().map(|vip| (vip.address, VipState::Bound { announced: None })).collect(),
        ..Observed::default()
    };
    Arc::new(World {
        inputs: Arc::new(inputs),
        compiled: Arc::new(compiled),
        observed: Arc::new(observed),
        generation: 1,
        ..World::empty("edge", SystemTime::UNIX_EPOCH)
    })
}

fn gateway() -> ObjectRef {
    ObjectRef::new(Kind::Gateway, ObjectKey::parse("ns/gw"))
}

fn route(n: usize) -> ObjectRef {
    ObjectRef::new(Kind::HTTPRoute, ObjectKey::new("ns", format!("r{n}")))
}

/// The API server as far as a writer can tell.
#[derive(Default)]
struct Api {
    objects: BTreeMap<ObjectRef, (u64, i64, Value)>,
    annotations: BTreeMap<ObjectRef, Value>,
    version: u64,
    writes: usize,
}

impl Api {
    fn put(&mut self, object: ObjectRef, generation: i64, status: Value) {
        self.version += 1;
        self.objects.insert(object, (self.version, generation, status));
    }

    fn of(inputs: &Inputs) -> Self {
        let mut api = Self::default();
        for (key, class) in &inputs.gateway_classes {
            api.put(ObjectRef::new(Kind::GatewayClass, key.clone()), class.meta.generation, Value::Null);
        }
        for (key, gateway) in &inputs.gateways {
            api.put(ObjectRef::new(Kind::Gateway, key.clone()), gateway.meta.generation, Value::Null);
        }
        for key in inputs.http_routes.keys() {
            api.put(ObjectRef::new(Kind::HTTPRoute, key.clone()), 1, Value::Null);
        }
        api
    }

    fn object(&self, object: &ObjectRef) -> Seen {
        let (version, generation, status) = &self.objects[object];
        let addresses = Seen::addresses_in(status);
        let status = if status.is_null() { String::new() } else { status.to_string() };
        let annotation = |name: &str| self.annotations.get(object).and_then(|all| all[name].as_str()).map(Box::from);
        Seen {
            uid: "u".into(),
            resource_version: version.to_string().into(),
            generation: *generation,
            status: StatusText::of(status.as_bytes()),
            addresses,
            annotations: OWN_ANNOTATIONS.map(annotation),
            ..Seen::default()
        }
    }

    fn show(&self, mirror: &Mirror) {
        mirror.note(self.objects.keys().map(|object| (object.clone(), Some(self.object(object)))));
    }

    fn patch(&mut self, job: &Job) -> Result<(), ()> {
        let (version, _, status) = self.objects.get_mut(&job.object).unwrap();
        let expected = job.patch["metadata"]["resourceVersion"].as_str().unwrap();
        if expected.parse() != Ok(*version) {
            return Err(());
        }
        if status.is_null() {
            *status = json!({});
        }
        for (name, value) in job.patch["status"].as_object().unwrap() {
            status[name] = value.clone();
        }
        for (name, value) in job.patch["metadata"]["annotations"].as_object().into_iter().flatten() {
            self.annotations.entry(job.object.clone()).or_insert_with(|| json!({}))[name] = value.clone();
        }
        self.version += 1;
        *version = self.version;
        self.writes += 1;
        Ok(())
    }
}

struct Edge {
    desk: Desk,
    mirror: Mirror,
    now: Instant,
}

impl Edge {
    fn new(api: &Api) -> Self {
        let (mirror, now) = (Mirror::default(), Instant::now());
        api.show(&mirror);
        let mut desk = Desk::new(mirror.clone(), now);
        desk.open();
        Self { desk, mirror, now }
    }

    fn world(&mut self, world: &Arc<World>) {
        self.desk.note_world(Arc::clone(world), SystemTime::now(), self.now);
    }

    /// Writes until there is nothing to write for ten minutes; returns the faults of what it wrote.
    fn settle(&mut self, api: &mut Api) -> Vec<Fault> {
        let mut faults = Vec::new();
        let end = self.now + Duration::from_secs(600);
        while self.now < end {
            self.desk.note_mirror(self.now);
            match self.desk.next("2026-11-23T10:00:00Z", self.now) {
                Next::Write(job) => match api.patch(&job) {
                    Ok(()) => {
                        self.desk.written(&job, api.object(&job.object), self.now);
                        faults.extend(job.faults);
                    }
                    Err(()) => {
                        let fresh = Some(api.object(&job.object));
                        self.desk.failed(&job.object, Failure::Conflict, fresh, self.now);
                    }
                },
                Next::Tell(told) => faults.extend(told.into_iter().map(|told| told.fault)),
                Next::Wait(at) => self.now = at.unwrap_or(end).min(end),
            }
        }
        assert_eq!(self.desk.backlog(), 0);
        faults
    }
}

fn says(api: &Api, object: &ObjectRef, kind: &str) -> String {
    let status = &api.objects[object].2;
    let conditions = match object.kind {
        Kind::HTTPRoute => &status["parents"][0]["conditions"],
        _ => &status["conditions"],
    };
    let found = conditions.as_array().unwrap().iter().find(|condition| condition["type"] == kind).unwrap();
    format!("{} {}", found["status"].as_str().unwrap(), found["observedGeneration"])
}

#[test]
fn everything_is_written_once() {
    let inputs = inputs(1, 50);
    let mut api = Api::of(&inputs);
    let mut edge = Edge::new(&api);
    let world = world(inputs, true);
    edge.world(&world);
    assert_eq!(edge.settle(&mut api), []);
    assert_eq!(api.writes, 52);
    assert_eq!(says(&api, &gateway(), "Programmed"), "True 1");
    assert_eq!(says(&api, &route(7), "Accepted"), "True 1");
    // The watch shows what was written, the world is shown again, another edge takes over: nothing to write.
    api.show(&edge.mirror);
    edge.world(&world);
    edge.desk.take_over(edge.now);
    edge.settle(&mut api);
    let mut another = Edge::new(&api);
    another.world(&world);
    another.desk.take_over(another.now);
    another.settle(&mut api);
    assert_eq!(api.writes, 52);
}

#[test]
fn few_are_not_held_up_by_many() {
    let inputs = inputs(1, 1000);
    let mut api = Api::of(&inputs);
    let mut edge = Edge::new(&api);
    edge.world(&world(inputs.clone(), false));
    let mut written = Vec::new();
    let start = edge.now;
    while api.writes < 1003 {
        if api.writes == 500 && written.is_empty() {
            // All routes are due, and there is leave for a hundred a second.
            edge.world(&world(inputs.clone(), true));
        }
        edge.desk.note_mirror(edge.now);
        match edge.desk.next("2026-11-23T10:00:00Z", edge.now) {
            Next::Write(job) => {
                api.patch(&job).unwrap();
                edge.desk.written(&job, api.object(&job.object), edge.now);
                if job.object == gateway() && api.writes > 500 {
                    written.push(api.writes);
                }
            }
            Next::Tell(told) => panic!("{told:?}"),
            Next::Wait(at) => edge.now = at.expect("there is more to write"),
        }
    }
    assert_eq!(written, [501], "the Gateway is next");
    assert_eq!(says(&api, &gateway(), "Programmed"), "True 1");
    let took = edge.now - start;
    assert!(took >= Duration::from_secs(7) && took < Duration::from_secs(10), "{took:?}");
}

/// A revision is held: what serves is not what the API server has, whatever their generations say.
#[test]
fn nothing_is_written_about_objects_of_the_past() {
    let now = inputs(2, 2);
    let mut api = Api::of(&now);
    let mut edge = Edge::new(&api);
    // One route of then is as it is now, the other was made anew meanwhile, with the same name and generation.
    let mut held = inputs(1, 2);
    for (key, origin) in [("ns/gw", "revision 1"), ("ns/r1", "revision 1"), ("ns/r0", SOURCE)] {
        let (key, file) = (ObjectKey::parse(key), Arc::from(origin));
        let origin = Origin { file, line: 1, column: 1 };
        match held.gateways.get(&key).cloned() {
            Some(mut gateway) => {
                Arc::make_mut(&mut gateway).meta.origin = origin;
                held.gateways.insert(key, gateway);
            }
            None => {
                let mut route = held.http_routes[&key].clone();
                Arc::make_mut(&mut route).meta.origin = origin;
                held.http_routes.insert(key, route);
            }
        }
    }
    edge.world(&world(held, true));
    edge.settle(&mut api);
    assert_eq!(says(&api, &route(0), "Accepted"), "True 1");
    assert!(api.objects[&gateway()].2.is_null() && api.objects[&route(1)].2.is_null(), "{:?}", api.objects);
    // It is released.
    edge.world(&world(now, true));
    edge.desk.take_over(edge.now);
    edge.settle(&mut api);
    assert_eq!(says(&api, &gateway(), "Accepted"), "True 2");
    assert_eq!(says(&api, &route(1), "Accepted"), "True 1");
}

#[test]
fn objects_that_serve_in_their_last_good_version_are_told_of() {
    let mut inputs = inputs(1, 1);
    let api = Api::of(&inputs);
    let mut edge = Edge::new(&api);
    let secret = ObjectRef::new(Kind::Secret, ObjectKey::parse("ns/tls"));
    let told = |edge: &mut Edge| -> Vec<String> {
        let mut api = Api { objects: Api::of(&self::inputs(1, 1)).objects, ..Api::default() };
        edge.settle(&mut api).into_iter().map(|fault| format!("{}: {}", fault.reason, fault.note)).collect()
    };
    edge.world(&world(inputs.clone(), true));
    assert_eq!(told(&mut edge), Vec::<String>::new());
    edge.mirror
        .note([(secret.clone(), Some(Seen { uid: "s".into(), resource_version: "1".into(), ..Seen::default() }))]);
    let outdated = |reason: &str| Outdated { reason: reason.into(), since: "2026-11-23T10:00:00Z".into() };
    for (reason, is_new) in [("no key", true), ("no key", false), ("no certificate", true)] {
        inputs.outdated.insert(secret.clone(), outdated(reason));
        edge.world(&world(inputs.clone(), true));
        let expected =
            format!("LastGoodVersionServed: its newest version is of no use, the last good one is served: {reason}");
        assert_eq!(told(&mut edge), if is_new { vec![expected] } else { Vec::new() }, "{reason}");
    }
    inputs.outdated.clear();
    edge.world(&world(inputs.clone(), true));
    assert_eq!(told(&mut edge), Vec::<String>::new());
    assert!(edge.desk.told.is_empty());
}

#[test]
fn nothing_is_written_before_all_is_known() {
    let inputs = inputs(2, 1);
    let mut api = Api::of(&inputs);
    let closed = Mirror::default();
    api.show(&closed);
    let mut edge = Edge { desk: Desk::new(closed.clone(), Instant::now()), mirror: closed, now: Instant::now() };
    edge.world(&world(inputs.clone(), true));
    edge.desk.note_mirror(edge.now);
    assert!(matches!(edge.desk.next("now", edge.now), Next::Wait(None)));
    edge.desk.open();
    // The API has a later generation than what was compiled: it will be compiled too.
    api.put(gateway(), 3, Value::Null);
    api.show(&edge.mirror);
    edge.settle(&mut api);
    assert_eq!(api.objects[&gateway()].2, Value::Null);
    edge.world(&world(self::inputs(3, 1), true));
    edge.settle(&mut api);
    assert_eq!(says(&api, &gateway(), "Accepted"), "True 3");
    // And an earlier one is what a stale watch shows.
    edge.world(&world(self::inputs(4, 1), true));
    let writes = api.writes;
    edge.settle(&mut api);
    assert_eq!(api.writes, writes);
}

#[test]
fn what_others_write_meanwhile_is_kept() {
    let inputs = inputs(1, 1);
    let mut api = Api::of(&inputs);
    let mut edge = Edge::new(&api);
    edge.world(&world(inputs, true));
    // The watch has not shown it yet, so the first write meets a conflict.
    let theirs = json!({"controllerName": OTHER, "parentRef": {"name": "gw"}, "conditions": []});
    api.put(route(0), 1, json!({"parents": [theirs.clone()]}));
    edge.settle(&mut api);
    let parents = api.objects[&route(0)].2["parents"].as_array().unwrap();
    assert_eq!((parents.len(), &parents[0]), (2, &theirs));
    // The route leaves our Gateway: our entry goes, theirs stays.
    let mut inputs = self::inputs(1, 0);
    add(&mut inputs.http_routes, "ns/r0", 2, json!({"parentRefs": [{"name": "elsewhere"}], "rules": [{}]}));
    let status = api.objects[&route(0)].2.clone();
    api.put(route(0), 2, status);
    api.show(&edge.mirror);
    edge.world(&world(inputs, true));
    edge.settle(&mut api);
    assert_eq!(api.objects[&route(0)].2["parents"], json!([theirs]));
}

#[test]
fn of_many_states_the_last_is_written() {
    let mut api = Api::of(&inputs(1, 200));
    let mut edge = Edge::new(&api);
    for routes in 1..=200 {
        edge.world(&world(inputs(1, routes), true));
    }
    edge.settle(&mut api);
    assert_eq!(api.objects[&gateway()].2["listeners"][0]["attachedRoutes"], 200);
    assert_eq!(api.writes, 202);
    // A Gateway whose routes change all the time is written at its own pace.
    let (start, writes) = (edge.now, api.writes);
    for round in 0..600 {
        edge.now = edge.now.max(start + Duration::from_millis(100 * round));
        edge.world(&world(inputs(1, 100 + usize::try_from(round % 2).unwrap()), true));
        edge.desk.note_mirror(edge.now);
        while let Next::Write(job) = edge.desk.next("now", edge.now) {
            api.patch(&job).unwrap();
            edge.desk.written(&job, api.object(&job.object), edge.now);
        }
    }
    let of_gateway = api.writes - writes;
    assert!(of_gateway < 220, "{of_gateway} writes in a minute of 600 changes, the route that flips included");
}

#[test]
fn a_quarrel_does_not_become_a_loop() {
    let inputs = inputs(1, 0);
    let mut api = Api::of(&inputs);
    let mut edge = Edge::new(&api);
    edge.world(&world(inputs, true));
    let end = edge.now + Duration::from_secs(3600);
    while edge.now < end {
        edge.desk.note_mirror(edge.now);
        match edge.desk.next("now", edge.now) {
            Next::Write(job) => {
                api.patch(&job).unwrap();
                edge.desk.written(&job, api.object(&job.object), edge.now);
                // Somebody else says at once that the Gateway is its own.
                if job.object.kind == Kind::Gateway {
                    let theirs = json!([{"type": "Accepted", "status": "False", "observedGeneration": 1,
                        "lastTransitionTime": "2026-01-01T00:00:00Z", "reason": "Mine", "message": ""}]);
                    api.put(gateway(), 1, json!({"conditions": theirs}));
                    api.show(&edge.mirror);
                }
            }
            Next::Tell(told) => assert_eq!(told, []),
            Next::Wait(at) => edge.now = at.unwrap_or(end),
        }
    }
    assert!(api.writes < 40, "{} writes in an hour", api.writes);
}

#[test]
fn programmed_is_what_every_edge_serves() {
    let inputs = inputs(1, 1);
    let mut api = Api::of(&inputs);
    let mut edge = Edge::new(&api);
    let mut other = Edge::new(&api);
    let first = world(inputs.clone(), true);
    let earlier = world(self::inputs(0, 1), true);
    edge.world(&first);
    other.world(&earlier);
    let peer = |other: &Edge| vec![Peer { name: "b".into(), said: other.desk.acknowledgement() }];
    edge.desk.note_peers(peer(&other), edge.now);
    edge.settle(&mut api);
    assert_eq!(says(&api, &gateway(), "Programmed"), "False 1");
    other.world(&first);
    edge.desk.note_peers(peer(&other), edge.now);
    edge.settle(&mut api);
    assert_eq!(says(&api, &gateway(), "Programmed"), "True 1");
    // A later configuration in which the Gateway is the same: it stays programmed while workers take it up.
    let writes = api.writes;
    edge.world(&world(inputs.clone(), false));
    edge.settle(&mut api);
    assert_eq!(api.writes, writes);
    // The other edge is gone: it does not count any more.
    let mut alone = Edge::new(&api);
    alone.world(&first);
    alone.desk.note_peers(Vec::new(), alone.now);
    alone.settle(&mut api);
    assert_eq!(api.writes, writes);
}

#[test]
fn faults_are_told_with_the_write_that_says_them() {
    let mut inputs = inputs(1, 0);
    let rules = json!([{"backendRefs": [{"name": "nowhere", "port": 80}]}]);
    add(&mut inputs.http_routes, "ns/r0", 1, json!({"parentRefs": [{"name": "gw"}], "rules": rules}));
    let mut api = Api::of(&inputs);
    let mut edge = Edge::new(&api);
    let world = world(inputs, true);
    edge.world(&world);
    let faults = edge.settle(&mut api);
    assert_eq!(faults.iter().map(|fault| fault.reason.as_str()).collect::<Vec<_>>(), ["BackendNotFound"]);
    let mut another = Edge::new(&api);
    another.world(&world);
    assert_eq!(another.settle(&mut api), [], "what the status says already was told");
}

fn service() -> ObjectRef {
    ObjectRef::new(Kind::Service, ObjectKey::parse("ns/lb"))
}

/// One Service of this class.
fn services(class: &str, spec: &Value) -> Inputs {
    let mut inputs = inputs(1, 0);
    inputs.gateways.clear();
    let mut whole = json!({"type": "LoadBalancer", "loadBalancerClass": class, "ports": [{"port": 80}]});
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    add(&mut inputs.services, "ns/lb", 0, whole);
    inputs
}

#[test]
fn a_service_has_its_address_until_it_is_not_ours() {
    let ours = services("edge.internal/load-balancer", &json!({}));
    let mut api = Api::of(&ours);
    api.put(service(), 0, json!({"loadBalancer": {}}));
    let mut edge = Edge::new(&api);
    edge.world(&world(ours.clone(), true));
    assert_eq!(edge.settle(&mut api), []);
    let ingress = json!([{"ip": "192.0.2.1", "ipMode": "Proxy"}]);
    assert_eq!(api.objects[&service()].2["loadBalancer"]["ingress"], ingress);
    let [pool, mine] = OWN_ANNOTATIONS;
    assert_eq!(api.annotations[&service()], json!({pool: "p", mine: "192.0.2.1"}));
    // At rest nothing is written, by another edge neither.
    let writes = api.writes;
    let mut another = Edge::new(&api);
    another.world(&world(ours, true));
    another.desk.take_over(another.now);
    another.settle(&mut api);
    assert_eq!(api.writes, writes);
    // Nothing in the status tells of what it lacks: that is told once.
    let asked = services("edge.internal/load-balancer", &json!({"loadBalancerIP": "198.51.100.1"}));
    another.world(&world(asked.clone(), true));
    let told = another.settle(&mut api);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].note.contains("198.51.100.1"), "{told:?}");
    assert_eq!(api.objects[&service()].2["loadBalancer"], json!({"ingress": null}));
    another.world(&world(asked, true));
    assert_eq!(another.settle(&mut api), []);
    // Ours again, and then somebody else's: what Edge wrote goes.
    another.world(&world(services("edge.internal/load-balancer", &json!({})), true));
    another.settle(&mut api);
    assert_eq!(api.objects[&service()].2["loadBalancer"]["ingress"], ingress);
    another.world(&world(services("example.com/other", &json!({})), true));
    another.settle(&mut api);
    assert_eq!(api.objects[&service()].2["loadBalancer"], json!({"ingress": null}));
    assert_eq!(api.annotations[&service()], json!({pool: null, mine: null}));
}
