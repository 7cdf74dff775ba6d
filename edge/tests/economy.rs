//! What a request costs on the keep-alive path: no allocation, and one read and one write on each side.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]
#![allow(unsafe_code)] // a counting allocator

mod rig;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

use rig::{Origin, Rig, on_both};

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

#[test]
fn a_kept_alive_request_allocates_nothing() {
    on_both(|backend| {
        let origin = Origin::new(|client, _| {
            while !client.head().is_empty() {
                client.send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-type: text/plain\r\n\r\nhello");
            }
        });
        let rig = Rig::plain(backend, origin.address);
        let mut client = rig.client();
        let mut ask = |count| {
            for _ in 0..count {
                client.send("GET /path?query HTTP/1.1\r\nHost: a.test\r\nUser-Agent: x\r\nAccept: */*\r\n\r\n");
                assert_eq!(client.message().1, "hello");
            }
        };
        ask(50);
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        if std::env::var_os("TRACE").is_some() {
            TRACE.store(12, Ordering::Relaxed);
        }
        ask(1000);
        let count = ALLOCATIONS.load(Ordering::Relaxed) - before;
        // The timers of the runtime and the idle sweep may allocate now and then; requests may not.
        assert!(count < 100, "{count} allocations for 1000 requests on {}", backend.as_str());
    });
}
