use edge_config::policy::{Limits, RetryBudget};

use super::*;

fn address(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn outliers() -> Outliers {
    Outliers {
        server_errors: 3,
        gateway_errors: 0,
        local_failures: None,
        base_ejection: Duration::from_secs(10),
        most_ejected: 50,
        at_least_one: false,
    }
}

fn circuit(policy: UpstreamPolicy) -> Arc<Circuit> {
    Registry::default().circuit(&key(), &Arc::new(policy))
}

fn key() -> UpstreamKey {
    use edge_config::names::{Kind, ObjectKey, ObjectRef};
    UpstreamKey { object: ObjectRef::new(Kind::Service, ObjectKey::new("a", "b")), port: 80, variant: "x".into() }
}

fn judged(outliers: Outliers, count: u16) -> (Arc<Circuit>, Vec<Arc<Vitals>>) {
    let circuit = circuit(UpstreamPolicy { outliers: Some(outliers), ..UpstreamPolicy::default() });
    let vitals = circuit.attend((1..=count).map(address), 1);
    (circuit, vitals)
}

#[test]
fn errors_in_a_row_eject_for_longer_each_time() {
    let (circuit, all) = judged(outliers(), 4);
    let one = &all[0];
    let mut now = 1000;
    for times in 1..=3_u64 {
        assert!(!circuit.answered(one, 500, || now) && !circuit.answered(one, 503, || now));
        // One good answer forgives.
        assert!(!circuit.answered(one, 200, || now) && !circuit.answered(one, 500, || now));
        assert!(!circuit.failed(one, || now), "a failure counts as a 5xx");
        assert!(one.is_healthy(now));
        assert!(circuit.answered(one, 599, || now));
        assert!(!one.is_healthy(now + times * 10_000 - 1), "{times}");
        assert_eq!(one.why_out(now).map(|(_, why)| why).as_deref(), Some("3 answers with 5xx in a row"));
        now += times * 10_000;
        assert!(one.is_healthy(now) && one.why_out(now).is_none());
    }
    // After it was in the right for long enough, the first length holds again.
    now += 1_000_000;
    for _ in 0..3 {
        circuit.answered(one, 500, || now);
    }
    assert!(!one.is_healthy(now + 9_999) && one.is_healthy(now + 10_000));
}

#[test]
fn no_ejection_is_longer_than_the_longest() {
    let (circuit, all) = judged(Outliers { base_ejection: Duration::from_secs(100), ..outliers() }, 4);
    let mut now = 0;
    for _ in 0..10 {
        for _ in 0..3 {
            circuit.answered(&all[0], 500, || now);
        }
        assert!(!all[0].is_healthy(now));
        now += 300_000;
        assert!(all[0].is_healthy(now));
    }
}

#[test]
fn not_more_than_their_share_are_ejected() {
    for (most, at_least_one, expected) in
        [(50, false, 2), (10, false, 0), (10, true, 1), (100, false, 4), (0, false, 0)]
    {
        let (circuit, all) = judged(Outliers { most_ejected: most, at_least_one, ..outliers() }, 4);
        for vitals in &all {
            for _ in 0..5 {
                circuit.answered(vitals, 500, || 100);
            }
        }
        let out = all.iter().filter(|vitals| !vitals.is_healthy(100)).count();
        assert_eq!(out, expected, "{most} % {at_least_one}");
    }
}

#[test]
fn gateway_errors_and_local_failures_are_counted_apart() {
    let (circuit, all) = judged(Outliers { server_errors: 0, gateway_errors: 2, ..outliers() }, 4);
    for status in [500, 502, 500, 503, 200, 504, 501, 502] {
        assert!(!circuit.answered(&all[0], status, || 1), "{status}");
    }
    assert!(circuit.answered(&all[0], 503, || 1));
    let (circuit, all) = judged(Outliers { server_errors: 1, local_failures: Some(2), ..outliers() }, 4);
    assert!(!circuit.failed(&all[0], || 1) && circuit.failed(&all[0], || 1));
    let (circuit, all) = judged(Outliers { local_failures: Some(0), ..outliers() }, 4);
    assert!((0..100).all(|_| !circuit.failed(&all[0], || 1)));
}

#[test]
fn checks_take_an_endpoint_out_and_back() {
    let (_circuit, all) = judged(outliers(), 2);
    assert!(all[0].check(Err("refused".to_owned()), 5));
    assert!(!all[0].check(Err("timed out".to_owned()), 6), "no news");
    assert!(!all[0].is_healthy(6));
    assert_eq!(all[0].why_out(6).map(|(_, why)| why).as_deref(), Some("timed out"));
    assert!(all[0].check(Ok(()), 7) && all[0].is_healthy(7));
    assert!(!all[0].check(Ok(()), 8));
}

#[test]
fn new_and_recovered_endpoints_start_slowly() {
    let window = Duration::from_secs(10);
    let circuit = circuit(UpstreamPolicy { slow_start: Some(window), ..UpstreamPolicy::default() });
    let first = circuit.attend([address(1)].into_iter(), 1000);
    assert_eq!(first[0].share(window, 1000), 1000, "a restart of Edge is no start of endpoints");
    let both = circuit.attend([address(1), address(2)].into_iter(), 2000);
    assert!(Arc::ptr_eq(&first[0], &both[0]));
    for (now, share) in [(2000, 100), (3000, 100), (4000, 200), (7000, 500), (11_999, 999), (12_000, 1000)] {
        assert_eq!(both[1].share(window, now), share, "{now}");
    }
    // The draws below the share take it.
    let half = u32::MAX / 2;
    assert!(circuit.is_spared(&both[1], 4000, half) && !circuit.is_spared(&both[1], 11_000, half));
    both[0].check(Err(String::new()), 20_000);
    both[0].check(Ok(()), 30_000);
    assert_eq!(both[0].share(window, 35_000), 500);
}

#[test]
fn limits_hold_and_everything_is_given_back() {
    let limits = Limits {
        connections: Some(3),
        endpoint_connections: Some(2),
        pending: Some(1),
        requests: Some(2),
        retries: Some(1),
        retry_budget: None,
    };
    let circuit = circuit(UpstreamPolicy { limits, ..UpstreamPolicy::default() });
    let all = circuit.attend([address(1), address(2)].into_iter(), 0);
    assert!(circuit.counts_connections() && circuit.has_room(&all[0]));
    let held = [circuit.connect(&all[0]), circuit.connect(&all[0])].map(Result::unwrap);
    assert!(circuit.connect(&all[0]).is_err() && !circuit.has_room(&all[0]));
    let third = circuit.connect(&all[1]).unwrap();
    assert!(circuit.connect(&all[1]).is_err(), "of the whole upstream");
    assert!(circuit.has_room(&all[1]));
    let place = circuit.queue().unwrap();
    assert!(circuit.queue().is_err());
    let requests = [circuit.enter(), circuit.enter()].map(|entered| entered.unwrap().unwrap());
    assert!(circuit.enter().is_err());
    let retry = circuit.retry().unwrap();
    assert!(circuit.retry().is_err());
    assert_eq!(circuit.load(), (3, 2, 1));
    drop((held, third, place, requests, retry));
    assert_eq!(circuit.load(), (0, 0, 0));
    assert!(circuit.connect(&all[0]).is_ok());
}

#[test]
fn retries_are_a_share_of_the_requests() {
    let budget = RetryBudget { share: 2500, at_least: 1 };
    let limits = Limits { retry_budget: Some(budget), retries: Some(100), ..Limits::default() };
    let circuit = circuit(UpstreamPolicy { limits, ..UpstreamPolicy::default() });
    let first = circuit.retry().unwrap().unwrap();
    assert!(circuit.retry().is_err(), "one however few requests there are");
    let _requests: Vec<Held> = (0..12).map(|_| circuit.enter().unwrap().unwrap()).collect();
    let _more = [circuit.retry(), circuit.retry()].map(|held| held.unwrap().unwrap());
    assert!(circuit.retry().is_err(), "a quarter of twelve");
    drop(first);
    assert!(circuit.retry().is_ok());
}

#[test]
fn who_waits_is_woken_by_who_ends() {
    let limits = Limits { connections: Some(1), pending: Some(1), ..Limits::default() };
    let circuit = circuit(UpstreamPolicy { limits, ..UpstreamPolicy::default() });
    let all = circuit.attend([address(1)].into_iter(), 0);
    let held = circuit.connect(&all[0]).unwrap();
    let waiter = {
        let (circuit, vitals) = (Arc::clone(&circuit), Arc::clone(&all[0]));
        let (ready, is_waiting) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let _place = circuit.queue().unwrap();
                let mut freed = std::pin::pin!(circuit.freed());
                freed.as_mut().enable();
                assert!(circuit.connect(&vitals).is_err());
                ready.send(()).unwrap();
                freed.await;
                assert!(circuit.connect(&vitals).is_ok());
            });
        });
        is_waiting.recv().unwrap();
        thread
    };
    drop(held);
    waiter.join().unwrap();
}

#[test]
fn a_circuit_lives_as_long_as_somebody_uses_it() {
    let registry = Registry::default();
    let policy = Arc::new(UpstreamPolicy { panic_below: 50, ..UpstreamPolicy::default() });
    let one = registry.circuit(&key(), &policy);
    assert!(Arc::ptr_eq(&one, &registry.circuit(&key(), &policy)));
    let vitals = one.attend([address(1)].into_iter(), 0);
    vitals[0].check(Err("down".to_owned()), 1);
    assert!(Arc::ptr_eq(&vitals[0], &one.attend([address(1)].into_iter(), 9)[0]));
    // The same fingerprint for another policy.
    let other = Arc::new(UpstreamPolicy { panic_below: 51, ..UpstreamPolicy::default() });
    assert!(!Arc::ptr_eq(&one, &registry.circuit(&key(), &other)));
    drop((one, vitals));
    let mut count = 0;
    registry.each(|_, _| count += 1);
    assert_eq!(count, 0);
}
