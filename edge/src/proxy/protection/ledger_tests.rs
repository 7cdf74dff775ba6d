use super::*;
use std::cell::Cell;

thread_local! {
    static NOW: Cell<Duration> = const { Cell::new(Duration::from_secs(1000)) };
}

fn simulated() -> Duration {
    NOW.get()
}

fn pass(time: Duration) {
    NOW.set(NOW.get() + time);
}

fn pace() -> Pace {
    Pace::new(4, Duration::from_secs(60), 3)
}

fn passes(ledger: &Ledger, near: &Near, reach: Reach, key: Key) -> bool {
    ledger.take(near, Account { reach, key, pace: pace() }, 1, ledger.now()).is_ok()
}

#[test]
fn workers_count_together() {
    let ledger = Ledger::by(simulated);
    let (one, other) = (Near::default(), Near::default());
    for key in [Key::everybody(7), Key::client(7, 99)] {
        let passed: Vec<bool> =
            (0..6).map(|turn| passes(&ledger, if turn % 2 == 0 { &one } else { &other }, Reach::Edge, key)).collect();
        assert_eq!(passed, [true, true, true, true, false, false], "{key:?}");
    }
    // A new generation forgets nothing that counts.
    one.forget();
    assert!(!passes(&ledger, &one, Reach::Edge, Key::everybody(7)));
    pass(Duration::from_secs(15));
    assert!(passes(&ledger, &one, Reach::Edge, Key::everybody(7)));
    assert!(!ledger.is_shared() && ledger.spent(100).is_empty());
}

#[test]
fn what_is_refused_elsewhere_is_given_back() {
    let (ledger, near) = (Ledger::by(simulated), Near::default());
    let key = Key::client(1, 1234);
    let account = Account { reach: Reach::Fleet, key, pace: pace() };
    let taken = ledger.take(&near, account, 3, ledger.now()).unwrap();
    ledger.give_back(&near, account, taken.ticks, ledger.now());
    assert!(ledger.spent(100).is_empty());
    assert!((0..4).all(|_| passes(&ledger, &near, Reach::Fleet, key)));
    assert_eq!(ledger.spent(100), [Entry { key, ticks: pace().cost(4) }]);
    assert!(ledger.spent(100).is_empty(), "told twice");
}

#[test]
fn what_others_let_pass_counts_here() {
    let (here, there) = (Ledger::by(simulated), Ledger::by(simulated));
    let near = Near::default();
    for key in [Key::everybody(5), Key::client(5, 77)] {
        assert!((0..3).all(|_| passes(&here, &near, Reach::Fleet, key)));
        there.learn_spent(&here.spent(100));
        let far = Near::default();
        let passed: Vec<bool> = (0..2).map(|_| passes(&there, &far, Reach::Fleet, key)).collect();
        assert_eq!(passed, [true, false], "{key:?}");
        // It comes back with nothing, and learns how full it is.
        let again = Ledger::by(simulated);
        again.learn_levels(&there.levels(100));
        assert!(!passes(&again, &Near::default(), Reach::Fleet, key));
        there.spent(100);
    }
    // What others say is no news of our own.
    let quiet = Ledger::by(simulated);
    quiet.learn_spent(&[Entry { key: Key::client(1, 55), ticks: 1 << 40 }]);
    assert!(quiet.spent(100).is_empty());
}

#[test]
fn the_fullest_are_told_first_and_garbage_has_a_bound() {
    let (ledger, near) = (Ledger::by(simulated), Near::default());
    for client in 2..40_u64 {
        let account = Account { reach: Reach::Fleet, key: Key::client(1, client), pace: pace() };
        ledger.take(&near, account, client % 5, ledger.now()).ok();
    }
    let levels = ledger.levels(6);
    assert_eq!(levels.len(), 6);
    assert!(levels.iter().all(|entry| entry.key.client % 5 == 4), "{levels:?}");
    let flood: Vec<Entry> = (0..200_000).map(|limit| Entry { key: Key::everybody(limit), ticks: u64::MAX }).collect();
    ledger.learn_spent(&flood);
    assert!(ledger.fleet.named.count() <= MOST_NAMED);
}

#[test]
fn parallel_requests_and_samples_are_the_same_for_all_workers() {
    let ledger = Ledger::by(simulated);
    let (one, other) = (Near::default(), Near::default());
    ledger.running(&one, 3).fetch_add(2, Relaxed);
    assert_eq!(ledger.running(&other, 3).load(Relaxed), 2);
    assert_eq!(ledger.running(&other, 4).load(Relaxed), 0);
    let window = Duration::from_secs(5);
    assert!(Arc::ptr_eq(&ledger.sample(&one, 1, window), &ledger.sample(&other, 1, window)));
    let changed = ledger.sample(&Near::default(), 1, Duration::from_secs(6));
    assert_eq!(changed.window(), Duration::from_secs(6));
}
