//! What to ask the API server next, for one collection: the state machine behind every watch. What was heard flows in, the
//! next request or wait flows out; it does no I/O and reads no clock.
//!
//! A collection is listed, as a stream where the server can (`sendInitialEvents`) and page by page where it cannot, and
//! followed from the version of the list. A list counts only when it is complete, so half of one never replaces anything.
//! Standards: Kubernetes API concepts, "Efficient detection of changes" and "Retrieving large results sets in chunks".

use std::time::Duration;

use crate::kubernetes::backoff::Backoff;

/// Objects of a page.
const PAGE: u32 = 500;
/// An older list than the one before is refused so often; then the server means it (a restored backup).
const STALE_TRIES: u32 = 3;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// A watch that begins with the whole collection.
    Stream,
    /// One page; an empty token is the first.
    Page {
        token: String,
        limit: u32,
    },
    Watch {
        version: String,
    },
    Wait(Duration),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A page; an empty token: it was the last one.
    Page {
        version: String,
        next: String,
    },
    /// Everything that was there when the stream began is known.
    InitialEnd {
        version: String,
    },
    /// An event or a bookmark.
    Version(String),
    /// The watch ended as watches do. `is_abrupt`: right after it began.
    Ended {
        is_abrupt: bool,
    },
    Failed(Failure),
}

/// Why a request came to nothing, as far as it matters to the next one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// 410: the version or the token is too old.
    #[error("the version is too old")]
    Gone,
    /// 429, or 503 with Retry-After.
    #[error("the server is busy")]
    Busy(Option<Duration>),
    #[error("the credentials are refused")]
    Unauthorized,
    #[error("{0}")]
    Forbidden(String),
    /// 404: no such collection.
    #[error("the collection is not served")]
    Missing,
    /// The server has no streaming lists.
    #[error("no streaming lists: {0}")]
    NoStream(String),
    #[error("the answer is larger than may be read")]
    TooLarge,
    /// Nothing came for so long that the connection counts as dead.
    #[error("nothing was heard for {} s", .0.as_secs())]
    Silent(Duration),
    #[error("{0}")]
    Other(String),
}

/// What follows for the objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    None,
    /// The list is complete: what it did not name is gone.
    Complete,
    /// What was listed so far counts for nothing.
    Discard,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum At {
    Start,
    Paging { token: String },
    Following { version: String },
}

#[derive(Debug)]
pub struct Reflector {
    at: At,
    streams: bool,
    limit: u32,
    wait: Option<Duration>,
    backoff: Backoff,
    /// The highest version of a complete list or an event.
    newest: u64,
    stale: u32,
}

impl Default for Reflector {
    fn default() -> Self {
        Self { at: At::Start, streams: true, limit: PAGE, wait: None, backoff: Backoff::default(), newest: 0, stale: 0 }
    }
}

/// Versions of one server can be compared as numbers (KEP-5504); others are 0, which is older than everything.
pub fn number(version: &str) -> u64 {
    version.parse().unwrap_or(0)
}

impl Reflector {
    /// The next thing to do.
    pub fn next(&mut self) -> Ask {
        if let Some(wait) = self.wait.take() {
            return Ask::Wait(wait);
        }
        match &self.at {
            At::Start if self.streams => Ask::Stream,
            At::Start => Ask::Page { token: String::new(), limit: self.limit },
            At::Paging { token } => Ask::Page { token: token.clone(), limit: self.limit },
            At::Following { version } => Ask::Watch { version: version.clone() },
        }
    }

    /// Lists everything again, at the next occasion.
    pub fn resync(&mut self) -> Effect {
        self.at = At::Start;
        Effect::Discard
    }

    /// Whether the collection is listed and followed, as far as the server lets it.
    pub fn is_following(&self) -> bool {
        matches!(self.at, At::Following { .. })
    }

    /// Whether objects may be older than they were: the server insists on it.
    pub fn accepts_older(&self) -> bool {
        self.stale >= STALE_TRIES
    }

    pub fn hear(&mut self, heard: Heard) -> Effect {
        match heard {
            Heard::Page { version, next } if next.is_empty() => self.complete(version),
            Heard::Page { next, .. } => {
                self.at = At::Paging { token: next };
                Effect::None
            }
            Heard::InitialEnd { version } => self.complete(version),
            Heard::Version(version) => {
                // Within a streaming list, objects come in any order and with old versions.
                if let At::Following { version: known } = &mut self.at {
                    self.backoff.reset();
                    self.newest = self.newest.max(number(&version));
                    *known = version;
                }
                Effect::None
            }
            Heard::Ended { is_abrupt } => {
                if !self.is_following() {
                    return self.failed(Failure::Other("the stream ended before the list was complete".to_owned()));
                }
                if is_abrupt {
                    // One that ends at once, again and again, must not become a loop.
                    self.wait = Some(self.backoff.next(None));
                } else {
                    self.backoff.reset();
                }
                Effect::None
            }
            Heard::Failed(failure) => self.failed(failure),
        }
    }

    fn complete(&mut self, version: String) -> Effect {
        let at = number(&version);
        // With several API servers, one that lags may answer; the state must not go back in time.
        if at > 0 && at < self.newest && self.stale < STALE_TRIES {
            self.stale += 1;
            self.at = At::Start;
            self.wait = Some(self.backoff.next(None));
            return Effect::Discard;
        }
        self.stale = 0;
        self.newest = at;
        self.limit = PAGE;
        self.at = At::Following { version };
        self.backoff.reset();
        Effect::Complete
    }

    fn failed(&mut self, failure: Failure) -> Effect {
        let asked = match &failure {
            Failure::Busy(asked) => *asked,
            Failure::NoStream(_) => {
                self.streams = false;
                self.at = At::Start;
                return Effect::Discard;
            }
            Failure::TooLarge => {
                self.limit = (self.limit / 8).max(1);
                None
            }
            _ => None,
        };
        self.wait = Some(self.backoff.next(asked));
        let is_lost = matches!(failure, Failure::Gone | Failure::Missing | Failure::TooLarge);
        match &self.at {
            // The objects that are known stay, whatever happens until the next list is complete.
            At::Following { .. } if !is_lost => Effect::None,
            // The same page again.
            At::Paging { .. } if !is_lost => Effect::None,
            _ => {
                self.at = At::Start;
                Effect::Discard
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(version: &str, next: &str) -> Heard {
        Heard::Page { version: version.to_owned(), next: next.to_owned() }
    }

    fn watch(version: &str) -> Ask {
        Ask::Watch { version: version.to_owned() }
    }

    fn first() -> Ask {
        Ask::Page { token: String::new(), limit: PAGE }
    }

    /// Passes over a wait, which must be there.
    fn waited(reflector: &mut Reflector) -> Ask {
        assert!(matches!(reflector.next(), Ask::Wait(_)));
        reflector.next()
    }

    #[test]
    fn a_stream_becomes_the_watch() {
        let mut reflector = Reflector::default();
        assert_eq!(reflector.next(), Ask::Stream);
        assert_eq!(reflector.hear(Heard::Version("3".to_owned())), Effect::None);
        assert!(!reflector.is_following());
        assert_eq!(reflector.hear(Heard::InitialEnd { version: "10".to_owned() }), Effect::Complete);
        reflector.hear(Heard::Version("12".to_owned()));
        assert_eq!(reflector.hear(Heard::Ended { is_abrupt: false }), Effect::None);
        assert_eq!(reflector.next(), watch("12"));
    }

    #[test]
    fn pages_where_there_are_no_streams() {
        let mut reflector = Reflector::default();
        let refused = Failure::NoStream("the required storage feature is disabled".to_owned());
        assert_eq!(reflector.hear(Heard::Failed(refused)), Effect::Discard);
        assert_eq!(reflector.next(), first());
        assert_eq!(reflector.hear(page("5", "t1")), Effect::None);
        assert_eq!(reflector.next(), Ask::Page { token: "t1".to_owned(), limit: PAGE });
        // The same page again after a fault that passes.
        reflector.hear(Heard::Failed(Failure::Other("connection reset".to_owned())));
        assert_eq!(waited(&mut reflector), Ask::Page { token: "t1".to_owned(), limit: PAGE });
        // From the start after one that does not.
        assert_eq!(reflector.hear(Heard::Failed(Failure::Gone)), Effect::Discard);
        assert_eq!(waited(&mut reflector), first());
        reflector.hear(page("6", "t2"));
        assert_eq!(reflector.hear(page("6", "")), Effect::Complete);
        assert_eq!(reflector.next(), watch("6"));
    }

    #[test]
    fn what_each_failure_of_a_watch_leads_to() {
        for (failure, then, least) in [
            (Failure::Gone, first(), 0),
            (Failure::Missing, first(), 0),
            (Failure::Busy(Some(Duration::from_secs(7))), watch("9"), 7),
            (Failure::Busy(None), watch("9"), 0),
            (Failure::Unauthorized, watch("9"), 0),
            (Failure::Forbidden("no".to_owned()), watch("9"), 0),
            (Failure::Silent(Duration::from_secs(90)), watch("9"), 0),
            (Failure::Other("500".to_owned()), watch("9"), 0),
        ] {
            let mut reflector = Reflector { streams: false, ..Reflector::default() };
            reflector.hear(page("9", ""));
            reflector.hear(Heard::Failed(failure.clone()));
            let Ask::Wait(wait) = reflector.next() else { panic!("{failure:?}: no wait") };
            assert!(wait >= Duration::from_secs(least), "{failure:?}");
            assert_eq!(reflector.next(), then, "{failure:?}");
        }
    }

    #[test]
    fn a_list_that_is_older_is_refused_until_the_server_means_it() {
        let mut reflector = Reflector { streams: false, ..Reflector::default() };
        reflector.hear(page("100", ""));
        reflector.hear(Heard::Version("120".to_owned()));
        reflector.hear(Heard::Failed(Failure::Gone));
        for _ in 0..STALE_TRIES {
            assert_eq!(waited(&mut reflector), first());
            assert_eq!(reflector.hear(page("110", "")), Effect::Discard);
        }
        assert_eq!(waited(&mut reflector), first());
        assert_eq!(reflector.hear(page("110", "")), Effect::Complete);
    }

    #[test]
    fn watches_that_end_at_once_are_no_loop() {
        let mut reflector = Reflector { streams: false, ..Reflector::default() };
        reflector.hear(page("9", ""));
        for _ in 0..20 {
            reflector.hear(Heard::Ended { is_abrupt: true });
            assert_eq!(waited(&mut reflector), watch("9"));
        }
        reflector.hear(Heard::Ended { is_abrupt: true });
        assert!(matches!(reflector.next(), Ask::Wait(wait) if wait > Duration::from_secs(5)));
    }

    #[test]
    fn pages_that_are_too_large_get_smaller() {
        let mut reflector = Reflector { streams: false, ..Reflector::default() };
        for expected in [62, 7, 1, 1] {
            assert_eq!(reflector.hear(Heard::Failed(Failure::TooLarge)), Effect::Discard);
            assert_eq!(waited(&mut reflector), Ask::Page { token: String::new(), limit: expected });
        }
    }

    #[test]
    fn a_stream_that_breaks_off_counts_for_nothing() {
        let mut reflector = Reflector::default();
        reflector.hear(Heard::Version("3".to_owned()));
        assert_eq!(reflector.hear(Heard::Ended { is_abrupt: false }), Effect::Discard);
        assert_eq!(waited(&mut reflector), Ask::Stream);
    }
}
