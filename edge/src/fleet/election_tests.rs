use proptest::prelude::*;

use super::*;

const STEP: Duration = Duration::from_millis(100);
/// Steps between two pings.
const PING: u32 = 5;

fn names(count: usize) -> Vec<Arc<str>> {
    ["a", "b", "c", "d", "e"].into_iter().take(count).map(Into::into).collect()
}

/// Edges and the messages between them.
struct World {
    list: Vec<Arc<str>>,
    alone_after: Option<Duration>,
    now: Instant,
    step: u32,
    edges: Vec<Option<Election>>,
    /// From whom nothing arrives where.
    cut: Vec<Vec<bool>>,
    under_way: Vec<Message>,
}

#[derive(Clone)]
struct Message {
    at: u32,
    from: usize,
    to: usize,
    sent: Instant,
    what: What,
}

#[derive(Clone)]
enum What {
    Ping { claims: bool },
    Pong(Said),
}

impl World {
    fn new(count: usize, alone_after: Option<Duration>) -> Self {
        let list = names(count);
        let mut world = Self {
            edges: (0..count).map(|_| None).collect(),
            cut: vec![vec![false; count]; count],
            list,
            alone_after,
            now: Instant::now(),
            step: 0,
            under_way: Vec::new(),
        };
        (0..count).for_each(|index| world.start(index));
        world
    }

    fn start(&mut self, index: usize) {
        let mut edge = Election::new(&self.list[index], &self.list, self.alone_after, self.now);
        edge.attach();
        self.edges[index] = Some(edge);
    }

    fn kill(&mut self, index: usize) {
        self.edges[index] = None;
    }

    fn partition(&mut self, one: &[usize]) {
        for from in 0..self.list.len() {
            for to in 0..self.list.len() {
                self.cut[from][to] = one.contains(&from) != one.contains(&to);
            }
        }
    }

    /// `delay` in steps, of every message that is sent now.
    fn step(&mut self, delay: u32) {
        self.step += 1;
        self.now += STEP;
        let due: Vec<Message> = self.under_way.iter().filter(|message| message.at <= self.step).cloned().collect();
        self.under_way.retain(|message| message.at > self.step);
        for Message { from, to, sent, what, .. } in due {
            if self.cut[from][to] {
                continue;
            }
            let (now, name) = (self.now, self.list[from].clone());
            let Some(edge) = &mut self.edges[to] else { continue };
            match what {
                What::Ping { claims } => {
                    edge.hear(&name, now);
                    let votes = claims && edge.vote(&name, now);
                    let said = Said { is_fit: edge.is_fit(now), votes, same_list: true };
                    let pong = Message { at: self.step + delay, from: to, to: from, sent, what: What::Pong(said) };
                    self.under_way.push(pong);
                }
                // As long as a real link waits for an answer.
                What::Pong(said) if now.saturating_duration_since(sent) <= Duration::from_secs(2) => {
                    edge.answer(&name, said, sent, now);
                    edge.synced(&name);
                }
                What::Pong(_) => {}
            }
        }
        let runs: Vec<bool> = self.edges.iter().map(Option::is_some).collect();
        for from in 0..self.list.len() {
            let Some(edge) = &mut self.edges[from] else { continue };
            edge.look(self.now);
            // As a link to nobody carries no ping.
            let others: Vec<usize> = (0..self.list.len()).filter(|to| *to != from && runs[*to]).collect();
            if (self.step + from as u32).is_multiple_of(PING) && !others.is_empty() {
                let what = What::Ping { claims: edge.claims(self.now) };
                for to in others {
                    let at = self.step + delay;
                    self.under_way.push(Message { at, from, to, sent: self.now, what: what.clone() });
                }
            }
        }
    }

    fn run(&mut self, seconds: u32) {
        for _ in 0..seconds * 10 {
            self.step(1);
            assert!(self.ordering().len() <= 1, "{:?}", self.ordering());
        }
    }

    fn ordering(&self) -> Vec<usize> {
        let orders = |edge: &Option<Election>| edge.as_ref().is_some_and(|edge| edge.orders(self.now) == Orders::Here);
        (0..self.list.len()).filter(|index| orders(&self.edges[*index])).collect()
    }

    fn orders(&self, index: usize) -> Orders {
        self.edges[index].as_ref().unwrap().orders(self.now)
    }
}

#[test]
fn the_first_orders_and_the_next_takes_over() {
    let mut world = World::new(3, None);
    world.run(6);
    assert_eq!(world.ordering(), [0]);
    assert_eq!(world.orders(2), Orders::Elsewhere("a".into()));
    world.kill(0);
    world.run(6);
    assert_eq!(world.ordering(), [1]);
    world.start(0);
    world.run(12);
    assert_eq!(world.ordering(), [0], "the first again");
    world.kill(1);
    world.kill(2);
    world.run(4);
    assert_eq!(world.ordering(), [0; 0]);
    let Orders::Unknown(why) = world.orders(0) else { unreachable!("two are gone") };
    assert_eq!(why, "1 of 3 edges can agree, expected at least 2");
}

#[test]
fn of_a_partition_at_most_one_side_orders() {
    for (count, one, expected) in [
        (3, &[0][..], &[1][..]),
        (3, &[2], &[0]),
        (4, &[0, 3], &[0]),
        (4, &[0], &[1]),
        (5, &[0, 1], &[2]),
        (2, &[0], &[0]),
    ] {
        let mut world = World::new(count, None);
        world.run(6);
        world.partition(one);
        world.run(12);
        assert_eq!(world.ordering(), expected, "{count} edges, {one:?} apart");
        world.partition(&[]);
        world.run(12);
        assert_eq!(world.ordering(), [0], "{count} edges together again");
    }
}

#[test]
fn the_second_of_two_orders_alone_only_where_it_may() {
    for (alone_after, expected) in [(None, &[][..]), (Some(Duration::from_secs(60)), &[1])] {
        let mut world = World::new(2, alone_after);
        world.run(6);
        world.kill(0);
        world.run(50);
        assert_eq!(world.ordering(), [0; 0]);
        world.run(20);
        assert_eq!(world.ordering(), expected);
        world.start(0);
        world.run(12);
        assert_eq!(world.ordering(), [0]);
    }
    let mut world = World::new(2, None);
    world.kill(0);
    world.run(10);
    let Orders::Unknown(why) = world.orders(1) else { unreachable!("the first is gone") };
    assert_eq!(why, "1 of 2 edges can agree, expected more than half, or half with a");
}

#[test]
fn who_lacks_something_does_not_order() {
    let now = Instant::now();
    let later = now + Duration::from_secs(10);
    let said = Said { is_fit: false, votes: true, same_list: true };
    let mut edge = Election::new("a", &names(2), None, now);
    assert!(!edge.is_fit(later), "nobody is there to take what others have");
    edge.attach();
    assert!(!edge.is_fit(now + Duration::from_secs(1)), "it has not asked anybody yet");
    edge.answer("b", said, later, later);
    assert!(!edge.is_fit(later), "b has things that it has not learned of");
    edge.synced("b");
    assert!(edge.is_fit(later) && edge.claims(later));
    assert_eq!(edge.orders(later), Orders::Here);
    // Whoever has another list votes for another election.
    edge.answer("b", Said { same_list: false, ..said }, later, later);
    assert!(edge.is_stranger("b"));
}

#[test]
fn who_leaves_is_not_waited_for() {
    let mut world = World::new(3, None);
    world.run(6);
    world.edges[0].as_mut().unwrap().leave();
    assert!(!world.edges[0].as_ref().unwrap().is_fit(world.now));
    world.kill(0);
    // What it said before has arrived.
    world.under_way.clear();
    for index in [1, 2] {
        world.edges[index].as_mut().unwrap().release("a");
    }
    world.run(2);
    assert_eq!(world.ordering(), [1]);
}

#[derive(Debug, Clone)]
enum Event {
    Run { steps: u32, delay: u32 },
    Partition(Vec<usize>),
    OneWay(usize, usize),
    Kill(usize),
    Start(usize),
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (1u32..60, 1u32..25).prop_map(|(steps, delay)| Event::Run { steps, delay }),
        1 => proptest::collection::vec(0usize..5, 0..4).prop_map(Event::Partition),
        1 => (0usize..5, 0usize..5).prop_map(|(from, to)| Event::OneWay(from, to)),
        1 => (0usize..5).prop_map(Event::Kill),
        1 => (0usize..5).prop_map(Event::Start),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever is lost, late, cut off, killed or started: never two at once; and one again when all is well.
    #[test]
    fn never_two_and_always_one_in_the_end(count in 2usize..6, events in proptest::collection::vec(any_event(), 1..25)) {
        let mut world = World::new(count, None);
        for event in events {
            match event {
                Event::Run { steps, delay } => {
                    for _ in 0..steps {
                        world.step(delay);
                        prop_assert!(world.ordering().len() <= 1, "{:?} at once", world.ordering());
                    }
                }
                Event::Partition(one) => world.partition(&one),
                Event::OneWay(from, to) if from < count && to < count => world.cut[from][to] = true,
                Event::Kill(index) if index < count => world.kill(index),
                Event::Start(index) if index < count && world.edges[index].is_none() => world.start(index),
                Event::OneWay(..) | Event::Kill(_) | Event::Start(_) => {}
            }
        }
        world.partition(&[]);
        for index in 0..count {
            if world.edges[index].is_none() {
                world.start(index);
            }
        }
        for _ in 0..250 {
            world.step(1);
            prop_assert!(world.ordering().len() <= 1);
        }
        prop_assert_eq!(world.ordering(), [0]);
    }
}
