//! The tunnel for connections that are not plain TCP on both sides (TLS that Edge terminates or begins): it copies, over
//! the same I/O interface as HTTP. The rules of [`super::tunnel`] hold, except that a break ends both sides at once with
//! what the interface offers, which is no reset.

use std::cell::Cell;
use std::time::Duration;

use super::tunnel::{Cause, Fault, TunnelEnd, Watch, join};
use crate::proxy::body::Chunk;
use crate::proxy::buffer::Buffer;
use crate::proxy::io::Io;

/// Joins two connections; afterwards neither is of further use. `from_a` and `from_b` go first.
pub async fn relay<A: Io, B: Io>(a: &A, b: &B, from_a: Buffer, from_b: Buffer, idle: Duration) -> TunnelEnd {
    let watch = Watch::new(idle);
    let (up, down) = (Cell::new(0), Cell::new(0));
    let cause = join(one_way(a, b, from_a, &watch, &up), one_way(b, a, from_b, &watch, &down), &watch).await;
    if cause != Cause::Closed {
        a.abort();
        b.abort();
    }
    TunnelEnd { a_to_b: up.get(), b_to_a: down.get(), cause }
}

async fn one_way<F: Io, T: Io>(from: &F, to: &T, first: Buffer, watch: &Watch, moved: &Cell<u64>) -> Result<(), Fault> {
    let mut buffer = first;
    loop {
        if !buffer.is_empty() {
            let bytes = buffer.len();
            let (outcome, _) = to.write(Chunk::Pooled(buffer)).await;
            outcome.map_err(|_| Fault::Sink)?;
            moved.set(moved.get() + bytes as u64);
            watch.moved();
        }
        // A quiet tunnel holds no buffer.
        from.readable().await.map_err(|_| Fault::Source)?;
        let (outcome, filled) = from.read(Buffer::take()).await;
        if outcome.map_err(|_| Fault::Source)? == 0 {
            return to.finish().await.map_err(|_| Fault::Sink);
        }
        buffer = filled;
    }
}
