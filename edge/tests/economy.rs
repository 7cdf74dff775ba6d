//! What a request allocates on the keep-alive path: nothing, in clear, inside TLS and with an access log.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

mod counting;
mod rig;
mod secure;

use std::io::{Read as _, Write as _};
use std::sync::{Arc, Mutex};

use edge::proxy::access_log::{AccessLog, Destination};
use edge::proxy::trace::Tracer;
use edge::proxy::trace::sampling::Sampler;
use edge_config::settings::{ParentRule, Ratio};
use edge_config::snapshot::UpstreamProtocol;
use rig::{Origin, Rig, on_both, rule};
use secure::{Ca, SecureRig, cert_table, client_config, connect, https, snapshot, upstream};

/// The counter is one for the whole process.
static ALONE: Mutex<()> = Mutex::new(());

const REQUEST: &str = "GET /path?query HTTP/1.1\r\nHost: a.test\r\nUser-Agent: x\r\nAccept: */*\r\n\r\n";

fn origin() -> Origin {
    Origin::new(|client, _| {
        while !client.head().is_empty() {
            client.send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-type: text/plain\r\n\r\nhello");
        }
    })
}

/// Allocations of the workers for 1000 requests, once everything is warm.
fn allocations(mut ask: impl FnMut()) -> usize {
    (0..50).for_each(|_| ask());
    let before = counting::allocations();
    if std::env::var_os("TRACE").is_some() {
        counting::trace(12);
    }
    (0..1000).for_each(|_| ask());
    counting::allocations() - before
}

fn ask(client: &mut rig::Client) {
    client.send(REQUEST);
    assert_eq!(client.message().1, "hello");
}

// The timers of the runtime and the idle sweep may allocate now and then; requests may not. Hence 100 and not 0 below.

#[test]
fn a_kept_alive_request_allocates_nothing() {
    let _alone = ALONE.lock();
    on_both(|backend| {
        let origin = origin();
        let rig = Rig::plain(backend, origin.address);
        let mut client = rig.client();
        let count = allocations(|| ask(&mut client));
        assert!(count < 100, "{count} allocations for 1000 requests on {}", backend.as_str());
    });
}

#[test]
fn a_logged_request_allocates_nothing() {
    let _alone = ALONE.lock();
    on_both(|backend| {
        let origin = origin();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let rig = Rig::logging(backend, origin.address, AccessLog::start(Destination::File(path.clone())).unwrap());
        let mut client = rig.client();
        let count = allocations(|| ask(&mut client));
        assert!(count < 100, "{count} allocations for 1000 requests on {}", backend.as_str());
        rig::wait_for(|| std::fs::read_to_string(&path).is_ok_and(|log| log.lines().count() >= 1050));
    });
}

/// Without tracing a request costs one look. With it, one that is not sampled gets a field and allocates nothing; of one
/// that is sampled, what it records is two allocations, and no more for its spans than buffers for many of them.
#[test]
fn a_request_that_is_not_sampled_allocates_nothing() {
    let _alone = ALONE.lock();
    on_both(|backend| {
        let origin = origin();
        let rig = Rig::plain(backend, origin.address);
        for (ratio, most) in [(0.0, 100), (1.0, 3_000)] {
            let sampler = Sampler::new(Ratio::new(ratio).unwrap(), ParentRule::Follow);
            let (tracer, mut spans) = Tracer::new(sampler, 64 << 20, Arc::default());
            rig.publish_traced(origin.address, &Arc::new(tracer));
            let mut client = rig.client();
            let count = allocations(|| ask(&mut client));
            assert!(count < most, "{count} allocations for 1000 requests with {ratio} on {}", backend.as_str());
            // Of each sampled request, what Edge did and what it asked.
            let mut seen = 0;
            rig::wait_for(|| {
                while let Ok(batch) = spans.try_recv() {
                    seen += batch.count;
                }
                seen == if ratio > 0.0 { 2 * 1050 } else { 0 }
            });
        }
    });
}

#[test]
fn a_request_inside_tls_allocates_nothing() {
    let _alone = ALONE.lock();
    on_both(|backend| {
        let (origin, ca) = (origin(), Ca::new());
        let rig = SecureRig::new(backend);
        let upstreams = vec![upstream(0, UpstreamProtocol::Http1, None)];
        let snapshot = snapshot(rig.address, vec![https("a", "*", "a", 0)], vec![rule(0)], upstreams);
        let leaf = ca.server(&["a.test"]);
        assert_eq!(rig.publish(snapshot, &cert_table(&[("a", &leaf)]), &[origin.address]), []);
        let mut stream = connect(rig.address, &Arc::new(client_config(None, &[])), "a.test").unwrap();
        let count = allocations(|| {
            stream.write_all(REQUEST.as_bytes()).unwrap();
            let mut got = Vec::new();
            while !got.ends_with(b"hello") {
                let mut piece = [0; 1024];
                let count = stream.read(&mut piece).unwrap();
                assert!(count > 0, "the connection ended");
                got.extend_from_slice(&piece[..count]);
            }
        });
        // Records are sealed and opened where they lie. rustls would make a vector of each: one that came, one that leaves.
        assert!(count < 100, "{count} allocations for 1000 requests on {}", backend.as_str());
    });
}
