//! Buffers for several records, for connections that move bulk; each belongs to its user for one operation only.

use std::cell::RefCell;

use crate::proxy::buffer::{BUFFER_SIZE, Buffer};

/// Four full records, their framing included.
pub const SIZE: usize = 4 * (BUFFER_SIZE + 64);
/// Per thread: 32 are 2 MiB.
const RETAINED: usize = 32;

thread_local! {
    static POOL: RefCell<Vec<Buffer>> = const { RefCell::new(Vec::new()) };
}

pub fn take() -> Buffer {
    let pooled = POOL.try_with(|pool| pool.borrow_mut().pop()).ok().flatten();
    pooled.unwrap_or_else(|| Buffer::with_size(SIZE))
}

/// Keeps a large buffer for the next user. One of another size goes where it came from.
pub fn give_back(mut buffer: Buffer) {
    buffer.clear();
    if buffer.room() != SIZE {
        return;
    }
    let _ = POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if pool.len() < RETAINED {
            pool.push(buffer);
        }
    });
}
