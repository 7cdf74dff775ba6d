//! A moment that may not come, to be waited for beside other things.

use tokio::time::Instant;

/// Waits for it; for ever where there is none.
pub async fn reached(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
