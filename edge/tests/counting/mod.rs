//! An allocator that counts what the workers do: how often they allocate, and how many bytes they hold.
#![allow(unsafe_code)] // an allocator
#![allow(dead_code)] // each test file counts one of the two

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
static HELD: AtomicUsize = AtomicUsize::new(0);
static TRACE: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static IS_WORKER: Cell<Option<bool>> = const { Cell::new(None) };
    static ASKING: Cell<bool> = const { Cell::new(false) };
}

/// Allocations of the workers since the start.
pub fn allocations() -> usize {
    ALLOCATIONS.load(Ordering::Relaxed)
}

/// Bytes that the workers have taken and not given back.
pub fn held() -> usize {
    HELD.load(Ordering::Relaxed)
}

/// Prints where the next allocations of the workers are made.
pub fn trace(count: usize) {
    TRACE.store(count, Ordering::Relaxed);
}

fn is_worker() -> bool {
    let known = IS_WORKER.try_with(|known| match known.get() {
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
    known == Ok(true)
}

fn took(size: usize) {
    ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    HELD.fetch_add(size, Ordering::Relaxed);
    if TRACE.load(Ordering::Relaxed) > 0 && !ASKING.replace(true) {
        TRACE.fetch_sub(1, Ordering::Relaxed);
        eprintln!("{}", std::backtrace::Backtrace::force_capture());
        ASKING.set(false);
    }
}

fn gave(size: usize) {
    HELD.fetch_sub(size, Ordering::Relaxed);
}

// SAFETY: everything is passed on to the system's allocator unchanged.
// JUSTIFICATION: what is allocated can be counted in no other way.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_worker() {
            took(layout.size());
        }
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if is_worker() {
            gave(layout.size());
        }
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if is_worker() {
            took(size);
            gave(layout.size());
        }
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
