//! The tunnel for connections that are not plain TCP on both sides (TLS that Edge terminates or begins): it copies, over
//! the same I/O interface as HTTP. The rules of [`super::tunnel`] hold, except that a break ends both sides at once with
//! what the interface offers, which is no reset.

use std::cell::Cell;

use super::tunnel::{Cause, Fault, Meter, Quiet, TunnelEnd, Watch, join};
use crate::proxy::body::Chunk;
use crate::proxy::buffer::Buffer;
use crate::proxy::io::Io;

/// Joins two connections; afterwards neither is of further use. What was read from `a` already goes `first`.
pub async fn relay<A: Io, B: Io>(a: &A, b: &B, first: Option<Buffer>, idle: Quiet, meter: &impl Meter) -> TunnelEnd {
    let watch = Watch::new(idle);
    let (up, down) = (Cell::new(0), Cell::new(0));
    let count_up = |bytes| watch.count(&up, bytes, |bytes| meter.a_to_b(bytes));
    let count_down = |bytes| watch.count(&down, bytes, |bytes| meter.b_to_a(bytes));
    let cause = join(one_way(a, b, first, &count_up), one_way(b, a, None, &count_down), &watch).await;
    if cause != Cause::Closed {
        a.abort();
        b.abort();
    }
    TunnelEnd { a_to_b: up.get(), b_to_a: down.get(), cause }
}

async fn one_way<F: Io, T: Io>(from: &F, to: &T, first: Option<Buffer>, count: &impl Fn(usize)) -> Result<(), Fault> {
    let mut next = first;
    loop {
        if let Some(buffer) = next.take() {
            let bytes = buffer.len();
            let (outcome, _) = to.write(Chunk::Pooled(buffer)).await;
            outcome.map_err(|_| Fault::Sink)?;
            count(bytes);
        }
        // A quiet tunnel holds no buffer.
        from.readable().await.map_err(|_| Fault::Source)?;
        let (outcome, buffer) = from.read(Buffer::take()).await;
        if outcome.map_err(|_| Fault::Source)? == 0 {
            return to.finish().await.map_err(|_| Fault::Sink);
        }
        next = Some(buffer);
    }
}
