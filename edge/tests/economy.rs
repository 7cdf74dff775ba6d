//! What a request costs on the keep-alive path: no allocation, in clear, with an access log, and what TLS takes.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]
#![allow(unsafe_code)] // a counting allocator

mod rig;
mod secure;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use edge::proxy::access_log::{AccessLog, Destination};
use edge_config::snapshot::UpstreamProtocol;
use rig::{Origin, Rig, on_both, rule};
use secure::{Ca, SecureRig, cert_table, client_config, connect, https, snapshot, upstream};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static IS_WORKER: Cell<Option<bool>> = const { Cell::new(None) };
    static ASKING: Cell<bool> = const { Cell::new(false) };
}

fn note() {
    let is_worker = IS_WORKER.try_with(|known| match known.get() {
        Some(known) => known,
        None if ASKING.replace(true) => false,
        None => {
            // The name itself may allocate, hence the guard.
            let is_worker = std::thread::current().name().is_some_and(|name| name.starts_with("worker-"));
            ASKING.set(false);
            known.set(Some(is_worker));
            is_worker
        }
    });
    if is_worker == Ok(true) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        if TRACE.load(Ordering::Relaxed) > 0 && !ASKING.replace(true) {
            TRACE.fetch_sub(1, Ordering::Relaxed);
            eprintln!("{}", std::backtrace::Backtrace::force_capture());
            ASKING.set(false);
        }
    }
}

static TRACE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator unchanged.
// JUSTIFICATION: allocations can be counted in no other way.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

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
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    if std::env::var_os("TRACE").is_some() {
        TRACE.store(12, Ordering::Relaxed);
    }
    (0..1000).for_each(|_| ask());
    ALLOCATIONS.load(Ordering::Relaxed) - before
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

#[test]
fn a_request_inside_tls_allocates_what_rustls_takes() {
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
        // rustls makes a vector of each record: one that came, one that leaves.
        assert!(count < 2100, "{count} allocations for 1000 requests on {}", backend.as_str());
    });
}
