//! Faults: what is ordered over the control socket, and what that means for a request.
//!
//! Flows in: command lines and [`Shape`]s. Flows out: [`Decision`]s, and [`Strike`]s at watches that are open. Pure; a
//! share of requests is counted out and not thrown for, so a scenario sees the same faults in every run.

use std::str::FromStr;
use std::time::Duration;

use crate::request::{Shape, Verb};

/// A rule too many is a scenario gone wrong.
const MOST: usize = 100;
const LONGEST_DELAY: u64 = 600_000;

pub const USAGE: &str = "commands:
  fail CODE [retry-after=S] SCOPE  answer with a Status of this code: 401 409 410 429 500 503 …
  gone SCOPE                       a watch begins, says in an event that it is too old, and ends
  silent SCOPE                     a watch begins and nothing ever comes
  stale SCOPE                      lists as they were when they were last read before this command
  delay MS SCOPE                   wait before the request is passed on
  reset SCOPE                      close the connection instead of an answer
  watches drop|gone|silence SCOPE  the same, to the watches that are open now
  refuse                           end all connections and accept none
  expire                           from now on the token of the token file is refused
  renew                            write a new token to the token file and accept that one alone
  clear                            no faults any more; silenced watches break
  counts                           requests by verb, resource and code since the last reset-counts, as JSON
  reset-counts
SCOPE: [verb=V|read|write] [resource=R[/SUB]] [path=TEXT] [times=N] [share=PERCENT]";

/// Which requests.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scope {
    verbs: Option<Vec<Verb>>,
    resource: Option<String>,
    path: Option<String>,
}

/// What a rule does to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    Fail { code: u16, retry_after: Option<u32> },
    Gone,
    Silent,
    Stale,
    Reset,
    Delay(Duration),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    effect: Effect,
    scope: Scope,
    /// Requests left.
    times: Option<u32>,
    share: u32,
    /// Requests that matched, for the share.
    seen: u32,
}

/// What happens to watches that are open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strike {
    pub blow: Blow,
    pub scope: Scope,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    Drop,
    Gone,
    Silence,
    /// To those that were silenced.
    Wake,
}

/// A line of the control socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Add(Box<Addition>),
    Watches(Strike),
    Refuse,
    Expire,
    Renew,
    Clear,
    Counts,
    ResetCounts,
}

/// A rule to add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addition(Rule);

/// What to do with one request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decision {
    pub delay: Duration,
    /// Never [`Effect::Delay`]; `None` passes it on.
    pub effect: Option<Effect>,
}

/// All rules in force.
#[derive(Debug, Default)]
pub struct Rules {
    rules: Vec<Rule>,
}

impl Rules {
    pub fn add(&mut self, Addition(rule): Addition) -> Result<(), String> {
        if self.rules.len() >= MOST {
            return Err(format!("{MOST} rules are in force already; clear them first"));
        }
        self.rules.push(rule);
        Ok(())
    }

    pub fn clear(&mut self) {
        self.rules.clear();
    }

    /// All delays that match, and the first other rule that does.
    pub fn decide(&mut self, shape: &Shape) -> Decision {
        let mut decision = Decision::default();
        for rule in &mut self.rules {
            let fits = match rule.effect {
                Effect::Gone | Effect::Silent => shape.verb == Verb::Watch,
                Effect::Stale => shape.verb == Verb::List,
                _ => true,
            };
            let is_delay = matches!(rule.effect, Effect::Delay(_));
            if !fits || !rule.scope.matches(shape) || (decision.effect.is_some() && !is_delay) || !rule.strikes() {
                continue;
            }
            match &rule.effect {
                Effect::Delay(delay) => decision.delay += *delay,
                effect => decision.effect = Some(effect.clone()),
            }
        }
        self.rules.retain(|rule| rule.times != Some(0));
        decision
    }
}

impl Rule {
    /// Whether this request is one of the share, and counts it.
    fn strikes(&mut self) -> bool {
        // Of any hundred requests in a row exactly `share`, evenly spread.
        let due = |seen: u32| u64::from(seen) * u64::from(self.share) / 100;
        let strikes = due(self.seen.wrapping_add(1)) > due(self.seen);
        self.seen = (self.seen + 1) % 100;
        if strikes && let Some(times) = &mut self.times {
            *times = times.saturating_sub(1);
        }
        strikes
    }
}

impl Scope {
    pub fn matches(&self, shape: &Shape) -> bool {
        self.verbs.as_ref().is_none_or(|verbs| verbs.contains(&shape.verb))
            && self.resource.as_ref().is_none_or(|resource| *resource == shape.resource)
            && self.path.as_ref().is_none_or(|part| shape.path.contains(part))
    }
}

const ALL: [Verb; 8] =
    [Verb::Get, Verb::List, Verb::Watch, Verb::Create, Verb::Update, Verb::Patch, Verb::Delete, Verb::Other];

fn verbs(text: &str) -> Option<Vec<Verb>> {
    let found: Vec<Verb> = match text {
        "read" => ALL.into_iter().filter(|verb| verb.reads()).collect(),
        "write" => ALL.into_iter().filter(|verb| verb.writes()).collect(),
        name => ALL.into_iter().filter(|verb| verb.name() == name).collect(),
    };
    (!found.is_empty()).then_some(found)
}

/// `NAME=VALUE` words after a command.
struct Words {
    scope: Scope,
    times: Option<u32>,
    share: u32,
    retry_after: Option<u32>,
}

impl Words {
    fn read<'a>(words: impl Iterator<Item = &'a str>, allowed: &[&str]) -> Result<Self, String> {
        let mut read = Self { scope: Scope::default(), times: None, share: 100, retry_after: None };
        for word in words {
            let (name, value) = word.split_once('=').ok_or_else(|| format!("{word}: expected NAME=VALUE"))?;
            let bad = |expected: &str| format!("{word}: expected {expected}");
            if !allowed.contains(&name) && !["verb", "resource", "path"].contains(&name) {
                return Err(format!("{word}: has no meaning here"));
            }
            let number = || value.parse::<u32>().ok().filter(|number| *number > 0).ok_or_else(|| bad("1 or more"));
            match name {
                "verb" => read.scope.verbs = Some(verbs(value).ok_or_else(|| bad("a verb, read or write"))?),
                "resource" => read.scope.resource = Some(value.to_owned()),
                "path" => read.scope.path = Some(value.to_owned()),
                "times" => read.times = Some(number()?),
                "share" => read.share = Some(number()?).filter(|share| *share <= 100).ok_or_else(|| bad("1 to 100"))?,
                _ => read.retry_after = Some(number()?),
            }
        }
        Ok(read)
    }
}

impl FromStr for Command {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let mut words = line.split_whitespace();
        let command = words.next().ok_or("an empty line")?;
        let mut value = |expected: &str| words.next().ok_or_else(|| format!("{command}: expected {expected}"));
        let effect = match command {
            "fail" => {
                let code = value("a code, 400 to 599")?.parse().ok().filter(|code| (400..600).contains(code));
                Some(Effect::Fail { code: code.ok_or("fail: expected a code, 400 to 599")?, retry_after: None })
            }
            "delay" => {
                let delay = value("milliseconds")?.parse().ok().filter(|delay| *delay <= LONGEST_DELAY);
                Some(Effect::Delay(Duration::from_millis(delay.ok_or("delay: expected at most 600000 milliseconds")?)))
            }
            "gone" => Some(Effect::Gone),
            "silent" => Some(Effect::Silent),
            "stale" => Some(Effect::Stale),
            "reset" => Some(Effect::Reset),
            _ => None,
        };
        if let Some(mut effect) = effect {
            let allowed: &[&str] = match effect {
                Effect::Fail { .. } => &["times", "share", "retry-after"],
                _ => &["times", "share"],
            };
            let read = Words::read(words, allowed)?;
            if let Effect::Fail { retry_after, .. } = &mut effect {
                *retry_after = read.retry_after;
            }
            let rule = Rule { effect, scope: read.scope, times: read.times, share: read.share, seen: 0 };
            return Ok(Self::Add(Box::new(Addition(rule))));
        }
        if command == "watches" {
            let blow = match value("drop, gone or silence")? {
                "drop" => Blow::Drop,
                "gone" => Blow::Gone,
                "silence" => Blow::Silence,
                other => return Err(format!("watches {other}: expected drop, gone or silence")),
            };
            return Ok(Self::Watches(Strike { blow, scope: Words::read(words, &[])?.scope }));
        }
        let command = match command {
            "refuse" => Self::Refuse,
            "expire" => Self::Expire,
            "renew" => Self::Renew,
            "clear" => Self::Clear,
            "counts" => Self::Counts,
            "reset-counts" => Self::ResetCounts,
            _ => return Err(format!("{command}: unknown command")),
        };
        match words.next() {
            None => Ok(command),
            Some(word) => Err(format!("{word}: has no meaning here")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(verb: Verb, resource: &str) -> Shape {
        Shape { verb, resource: resource.to_owned(), path: format!("/apis/x/v1/{resource}") }
    }

    fn rules(lines: &[&str]) -> Rules {
        let mut rules = Rules::default();
        for line in lines {
            let Command::Add(addition) = line.parse().unwrap() else { panic!("{line}") };
            rules.add(*addition).unwrap();
        }
        rules
    }

    fn code(decision: &Decision) -> u16 {
        match &decision.effect {
            Some(Effect::Fail { code, .. }) => *code,
            None => 0,
            Some(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn scopes() {
        let cases = [
            ("fail 500", Verb::Get, "httproutes", true),
            ("fail 409 verb=patch resource=httproutes/status", Verb::Patch, "httproutes/status", true),
            ("fail 409 verb=patch resource=httproutes/status", Verb::Patch, "httproutes", false),
            ("fail 409 verb=patch resource=httproutes/status", Verb::Update, "httproutes/status", false),
            ("fail 500 verb=write", Verb::Create, "events", true),
            ("fail 500 verb=write", Verb::Watch, "events", false),
            ("fail 500 verb=read", Verb::Watch, "events", true),
            ("fail 500 path=/httpr", Verb::Watch, "httproutes", true),
            ("fail 500 path=/grpc", Verb::Watch, "httproutes", false),
            ("gone", Verb::Watch, "httproutes", true),
            ("gone", Verb::List, "httproutes", false),
            ("stale", Verb::List, "httproutes", true),
            ("stale", Verb::Get, "httproutes", false),
            ("silent resource=httproutes", Verb::Watch, "httproutes", true),
        ];
        for (line, verb, resource, hits) in cases {
            let decision = rules(&[line]).decide(&shape(verb, resource));
            assert_eq!(decision.effect.is_some(), hits, "{line} {verb:?} {resource}");
        }
    }

    #[test]
    fn times_and_shares_are_counted() {
        let mut twice = rules(&["fail 503 times=2", "fail 500"]);
        let codes: Vec<u16> = (0..4).map(|_| code(&twice.decide(&shape(Verb::Get, "pods")))).collect();
        assert_eq!(codes, [503, 503, 500, 500]);
        let mut share = rules(&["fail 503 share=25"]);
        let codes: Vec<u16> = (0..8).map(|_| code(&share.decide(&shape(Verb::Get, "pods")))).collect();
        assert_eq!(codes, [0, 0, 0, 503, 0, 0, 0, 503]);
        for percent in [1, 33, 50, 99, 100] {
            let mut share = rules(&[&format!("fail 503 share={percent}")]);
            let hit = (0..200).filter(|_| share.decide(&shape(Verb::Get, "pods")).effect.is_some()).count();
            assert_eq!(hit, percent * 2, "{percent}");
        }
    }

    #[test]
    fn delays_add_up_before_a_fault() {
        let mut rules = rules(&["delay 100", "fail 429 retry-after=3", "delay 50 verb=get"]);
        let decision = rules.decide(&shape(Verb::Get, "pods"));
        assert_eq!(decision.delay, Duration::from_millis(150));
        assert_eq!(decision.effect, Some(Effect::Fail { code: 429, retry_after: Some(3) }));
        rules.clear();
        assert_eq!(rules.decide(&shape(Verb::Get, "pods")), Decision::default());
    }

    #[test]
    fn commands() {
        for line in ["refuse", "expire", "renew", "clear", "counts", "reset-counts", "watches drop resource=pods"] {
            assert!(line.parse::<Command>().is_ok(), "{line}");
        }
        let cases = [
            ("", "an empty line"),
            ("explode", "explode: unknown command"),
            ("fail", "fail: expected a code, 400 to 599"),
            ("fail 200", "fail: expected a code, 400 to 599"),
            ("fail 500 verb=scribble", "verb=scribble: expected a verb, read or write"),
            ("fail 500 share=101", "share=101: expected 1 to 100"),
            ("fail 500 times=0", "times=0: expected 1 or more"),
            ("gone retry-after=1", "retry-after=1: has no meaning here"),
            ("delay long", "delay: expected at most 600000 milliseconds"),
            ("watches", "watches: expected drop, gone or silence"),
            ("watches gone times=1", "times=1: has no meaning here"),
            ("clear now", "now: has no meaning here"),
        ];
        for (line, expected) in cases {
            assert_eq!(line.parse::<Command>().unwrap_err(), expected, "{line}");
        }
    }
}
