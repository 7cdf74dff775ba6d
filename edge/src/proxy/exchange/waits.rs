//! How long the two ends of an exchange are waited for, and how long the client's connection is kept after it: what the rule
//! says, then its listener, then edge.toml. Nothing is decided here but which of the two counts, member by member.

use std::time::Duration;

use edge_config::policy;
use edge_config::snapshot::{Listener, Rule};

use crate::proxy::body::{Sink, Source};
use crate::proxy::worker::Arrival;

/// The narrower one first.
#[derive(Debug, Clone, Copy)]
pub struct Waits<'g>([Option<&'g policy::Waits>; 2]);

impl<'g> Waits<'g> {
    pub fn of(rule: &'g Rule, listener: &'g Listener) -> Self {
        Self([rule.timeouts.waits.as_deref(), listener.client.waits.as_deref()])
    }

    pub fn is_some(self) -> bool {
        self.0.iter().any(Option::is_some)
    }

    fn first<T>(self, of: impl Fn(&policy::Waits) -> Option<T>) -> Option<T> {
        self.0.into_iter().flatten().find_map(of)
    }

    /// Tells the client's side. A connection that has carried all that it may ends with this exchange.
    #[cold]
    pub fn settle<S: Source, K: Sink>(self, arrival: &Arrival, source: &mut S, sink: &mut K) {
        let stream = self.first(|waits| waits.stream);
        if let Some(idle) = self.first(|waits| waits.body).or(stream) {
            source.set_idle(idle);
        }
        if let Some(idle) = stream {
            sink.set_idle(idle);
        }
        if let Some(idle) = self.first(|waits| waits.keep.idle) {
            if idle.is_zero() {
                sink.close();
            } else {
                arrival.patience.set(arrival.patience.get().map(|known| known.with_idle(idle)));
            }
        }
        let requests = arrival.requests.get().saturating_add(1);
        arrival.requests.set(requests);
        let is_worn = self.first(|waits| waits.keep.requests).is_some_and(|most| requests >= most)
            || self.first(|waits| waits.keep.age).is_some_and(|age| arrival.at.elapsed() >= age);
        if is_worn {
            sink.close();
        }
    }

    /// From one piece of an answer to the next, where something says so.
    pub fn read(self) -> Option<Duration> {
        self.first(|waits| waits.read.or(waits.stream))
    }

    /// The same of a request.
    pub fn send(self) -> Option<Duration> {
        self.first(|waits| waits.send.or(waits.stream))
    }

    /// Until a connection is made, where something says so.
    pub fn connect(self) -> Option<Duration> {
        self.first(|waits| waits.connect)
    }
}
