//! Cut at every step: the next process goes on, with the same order and the same key.

use std::pin::pin;
use std::task::Poll;
use std::time::Instant;

use edge_acme::order::{Account, Secrets};
use edge_integration::acme::{Edition, Memory, Settings};

use super::desk::{Desk, said, wish};

/// Lets a future run for some polls, as a process runs until it is killed.
async fn polled<T>(times: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut left = times;
    std::future::poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(context).map(Some)
    })
    .await
}

#[tokio::test]
async fn no_cut_makes_a_second_order_or_loses_a_key() {
    for edition in [Edition::Debian, Edition::Newest] {
        let Some(desk) = Desk::open("resume", Settings { edition, ..Settings::default() }).await else { return };
        let start = Instant::now();
        let (mut finished, mut cuts) = (0, 0);
        for cut in 1.. {
            let journal = Memory::default();
            let name = format!("cut{cut}.example.com");
            let wished = wish(&[&name]);
            let before = desk.pebble.orders();
            let first = polled(cut, async {
                let account = Account::open(&desk.issuer, &desk.secrets, None, &journal).await.unwrap();
                account.obtain(&wished, &desk.responder, &journal, None).await.unwrap()
            });
            let done = first.await.is_some();
            if !done {
                cuts += 1;
                // A request that was on its way arrives or not; the account's key and the order's are journaled.
                let key = journal.order_now().map(|record| record.key);
                let account =
                    Account::open(&desk.issuer, &Secrets::default(), journal.account_now(), &journal).await.unwrap();
                let record = journal.order_now();
                let obtained = account.obtain(&wished, &desk.responder, &journal, record).await.unwrap();
                if let Some(key) = key {
                    assert_eq!(key.reveal(), &**obtained.key_pem, "cut after {cut} polls");
                }
            }
            assert_eq!(desk.pebble.orders() - before, 1, "cut after {cut} polls: {}", desk.pebble.log());
            finished = if done { finished + 1 } else { 0 };
            if finished == 3 {
                break;
            }
        }
        said(&format!("{edition:?}: {cuts} cuts"), start);
        assert!(cuts > 10, "{cuts}");
    }
}

#[tokio::test]
async fn a_full_disk_stops_an_order_before_it_is_made() {
    let Some(desk) = Desk::open("full", Settings::default()).await else { return };
    let account = desk.account().await.unwrap();
    for (writes, orders) in [(0, 0), (1, 1), (2, 1)] {
        *desk.journal.full_from.lock().unwrap() = Some(writes);
        desk.journal.orders.lock().unwrap().clear();
        let before = desk.pebble.orders();
        let name = format!("full{writes}.example.com");
        let error = account.obtain(&wish(&[&name]), &desk.responder, &desk.journal, None).await.unwrap_err();
        assert_eq!(error.to_string(), "storing the order: no space left on device");
        assert_eq!(desk.pebble.orders() - before, orders);
        // There is space again.
        *desk.journal.full_from.lock().unwrap() = None;
        let record = desk.journal.order_now();
        account.obtain(&wish(&[&name]), &desk.responder, &desk.journal, record).await.unwrap();
        assert_eq!(desk.pebble.orders() - before, 1);
    }
}
