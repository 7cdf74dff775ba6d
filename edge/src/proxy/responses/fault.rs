//! Faults on purpose: requests that wait, and requests that fail.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use edge_config::policy::{AbortStatus, Fault, Share};

use crate::proxy::body::{Leaving, Sink, StreamError};
use crate::proxy::exchange::answer::Answer;
use crate::proxy::reason::Reason;
use crate::proxy::worker::Worker;

/// Waits where the request is to wait, and says what it is answered where it is to fail. A client that goes away meanwhile is
/// an error.
pub async fn inject<K: Sink>(
    fault: &Fault,
    worker: &std::rc::Rc<Worker>,
    is_grpc: bool,
    sink: &mut K,
) -> Result<Option<Answer>, StreamError> {
    let is_hit = |share: Share| worker.random.below(u64::from(Share::ALL.0)) < u64::from(share.0);
    if let Some(delay) = fault.delay.filter(|delay| is_hit(delay.share)) {
        let timer = worker.clock.timer();
        let mut over = pin!(timer.within(delay.length, std::future::pending::<()>()));
        poll_fn(|cx| {
            if over.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            match sink.poll_leaving(cx) {
                Poll::Ready(Leaving::Gone) => Poll::Ready(Err(StreamError::Closed)),
                // It may still wait for its answer.
                Poll::Ready(Leaving::Perhaps) | Poll::Pending => Poll::Pending,
            }
        })
        .await?;
    }
    let Some(abort) = fault.abort.filter(|abort| is_hit(abort.share)) else { return Ok(None) };
    Ok(Some(match abort.status {
        AbortStatus::Http(status) => Answer::new(status, Reason::FaultInjected),
        AbortStatus::Grpc(code) if is_grpc => Answer::of_grpc(code, Reason::FaultInjected),
        AbortStatus::Grpc(code) => Answer::new(http_status(code), Reason::FaultInjected),
    }))
}

/// The status of HTTP that a code of gRPC stands for (google.rpc.Code).
fn http_status(code: u8) -> u16 {
    match code {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}
