use super::*;
use crate::proxy::upstream::balance::Random;

const SECOND: Tick = TICKS_PER_SECOND;
/// Some time after the start: buckets that were never used are at 0.
const START: Tick = 1000 * SECOND;

fn pace(requests: u32, seconds: u64) -> Pace {
    Pace::new(requests, Duration::from_secs(seconds), requests.saturating_sub(1))
}

#[test]
fn so_many_at_once_and_then_evenly() {
    let bucket = AtomicU64::new(0);
    let pace = pace(3, 60);
    let left: Vec<u64> = (0..3).map(|_| take(&bucket, pace, 1, START).unwrap().left).collect();
    assert_eq!(left, [2, 1, 0]);
    let refused = take(&bucket, pace, 1, START).unwrap_err();
    assert_eq!((refused.retry, refused.reset), (Some(Duration::from_secs(20)), Duration::from_secs(60)));
    assert!(take(&bucket, pace, 1, START + 20 * SECOND - 1).is_err());
    assert!(take(&bucket, pace, 1, START + 20 * SECOND).is_ok());
    assert!(take(&bucket, pace, 1, START + 20 * SECOND).is_err());
    // After a window of nothing all of it is there again.
    assert_eq!(take(&bucket, pace, 1, START + 1000 * SECOND).unwrap().left, 2);
}

#[test]
fn costs_are_taken_whole_or_not_at_all() {
    let bucket = AtomicU64::new(0);
    let pace = pace(4, 3600);
    assert_eq!(take(&bucket, pace, 2, START).unwrap().left, 2);
    assert!(take(&bucket, pace, 3, START).is_err());
    assert_eq!(take(&bucket, pace, 0, START).unwrap().left, 2);
    assert_eq!(take(&bucket, pace, 2, START).unwrap().left, 0);
    assert!(take(&bucket, pace, 0, START).is_err(), "nothing is left to look at");
    assert_eq!(take(&AtomicU64::new(0), pace, 5, START).unwrap_err().retry, None, "more than ever fits");
    assert_eq!(take(&AtomicU64::new(0), Pace::new(0, Duration::from_secs(1), 0), 1, START).unwrap_err().retry, None);
}

#[test]
fn what_is_charged_may_be_owed_and_what_is_given_back_is_there() {
    let bucket = AtomicU64::new(0);
    let pace = pace(10, 10);
    assert_eq!(charge(&bucket, pace.cost(15), 20 * SECOND, START), 15 * SECOND);
    assert_eq!(take(&bucket, pace, 1, START).unwrap_err().retry, Some(Duration::from_secs(6)));
    assert_eq!(charge(&bucket, pace.cost(100), 20 * SECOND, START), 5 * SECOND, "no more than is told");
    let bucket = AtomicU64::new(0);
    let taken = take(&bucket, pace, 4, START).unwrap();
    give_back(&bucket, taken.ticks);
    assert_eq!(take(&bucket, pace, 1, START).unwrap().left, 9);
    raise(&bucket, 9 * SECOND, START);
    raise(&bucket, 2 * SECOND, START);
    assert_eq!(take(&bucket, pace, 1, START).unwrap().left, 0);
    assert_eq!(charge(&AtomicU64::new(0), Tick::MAX, Tick::MAX, START), MOST_DEBT);
}

#[test]
fn bursts_of_nginx() {
    // rate=10r/s burst=3: of five at once the first goes on, three are in the burst, the fifth is refused.
    let bucket = AtomicU64::new(0);
    let pace = Pace::new(10, Duration::from_secs(1), 3);
    let due: Vec<u128> = (0..4).map(|_| take(&bucket, pace, 1, START).unwrap().due.as_millis()).collect();
    assert_eq!(due, [0, 100, 200, 300]);
    assert!(take(&bucket, pace, 1, START).is_err());
    // Without a burst the next one comes after a tenth of a second.
    let (bucket, pace) = (AtomicU64::new(0), Pace::new(10, Duration::from_secs(1), 0));
    assert!(take(&bucket, pace, 1, START).is_ok());
    assert!(take(&bucket, pace, 1, START + SECOND / 20).is_err());
    assert!(take(&bucket, pace, 1, START + SECOND / 10).is_ok());
}

#[test]
fn parts_of_a_limit_add_up_to_no_more_than_the_whole() {
    for (requests, per, all) in [(100_u32, 1_u64, 3_u32), (10, 60, 2), (7, 3600, 4)] {
        let mut sum = 0;
        for present in [1, all - 1] {
            let bucket = AtomicU64::new(0);
            let part = pace(requests, per).part(present, all);
            sum += (0..requests).filter(|_| take(&bucket, part, 1, START).is_ok()).count();
        }
        assert!(sum <= requests as usize && sum + 2 >= requests as usize, "{requests}/{per}s of {all}: {sum}");
    }
    // However small the part, one fits.
    let part = pace(1, 60).part(1, 4);
    let bucket = AtomicU64::new(0);
    assert!(take(&bucket, part, 1, START).is_ok() && take(&bucket, part, 1, START + 60 * SECOND).is_err());
    assert!(take(&bucket, part, 1, START + 240 * SECOND).is_ok());
}

/// Over any stretch of time no more passes than the burst and what the rate gives in it; and a client that keeps to the
/// rate is never refused.
#[test]
fn no_stretch_of_time_has_more_than_the_rate_and_the_burst() {
    for seed in 1..=40_u64 {
        let random = Random::new(seed);
        let (requests, seconds) = (1 + random.below(50) as u32, 1 + random.below(120));
        let burst = random.below(u64::from(requests) + 5) as u32;
        let pace = Pace::new(requests, Duration::from_secs(seconds), burst);
        let each = pace.cost(1);
        let bucket = AtomicU64::new(0);
        let (mut now, mut passed) = (START, Vec::new());
        for _ in 0..3000 {
            now += random.below(each / 2 + 1);
            if random.below(200) == 0 {
                now += random.below(seconds * 2 * SECOND);
            }
            if take(&bucket, pace, 1, now).is_ok() {
                passed.push(now);
            }
        }
        let most = usize::try_from(burst).unwrap() + 1;
        for (place, first) in passed.iter().enumerate() {
            // One more than the burst takes at least one step of the rate, two more two steps.
            if let Some(later) = passed.get(place + most) {
                assert!(later - first >= each, "seed {seed}: {} within {}", most + 1, later - first);
            }
            if let Some(later) = passed.get(place + most + 9) {
                assert!(later - first >= 10 * each, "seed {seed}");
            }
        }
        let steady = AtomicU64::new(0);
        assert!((0..500).all(|step| take(&steady, pace, 1, START + step * each).is_ok()), "seed {seed}");
    }
}

#[test]
fn many_threads_take_no_more_than_there_is() {
    let bucket = AtomicU64::new(0);
    let pace = Pace::new(1000, Duration::from_secs(3600), 999);
    let passed: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| (0..1000).filter(|_| take(&bucket, pace, 1, START).is_ok()).count()))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(passed, 1000);
}

#[test]
fn streams_wait_for_what_they_move() {
    let bucket = AtomicU64::new(0);
    let burst = Duration::from_millis(500);
    let step = |now| stream(&bucket, 1024, 1024, burst, now).as_millis();
    assert_eq!([step(START), step(START), step(START + SECOND)], [500, 1500, 1500]);
    assert_eq!(step(START + 100 * SECOND), 500);
    assert_eq!(stream(&AtomicU64::new(0), 100, 1 << 20, burst, START), Duration::ZERO);
}
