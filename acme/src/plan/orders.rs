//! The part of the plan that ACME CAs carry out: what to order, from which issuer, within its limits.
//!
//! Order of thought, per certificate: is something due, at which issuer may it be ordered now, and if at none, what does
//! it wait for. The most pressing choose first: what serves nothing, then what is about to expire, then what was changed,
//! then renewals, each by what expires soonest. Choices of one plan count for those after them.

use std::collections::BTreeMap;

use edge_config::issuer::IssuerId;
use edge_config::names::CertId;
use edge_config::snapshot::{WantedCertificate, WantedIssuer};

use super::local::{supplied, timely};
use super::{
    CLOCK_FLOOR, Held, IssuerState, MadeFor, Plan, PlanInput, PlannedOrder, Poll, Reason, Start, UnderWay, Wait,
    is_ordered,
};
use crate::budget::{Charge, Exemption, Haste, Tentative, identifiers};
use crate::due::{Validity, acme_due, emergency_at};
use crate::failure::Class;
use crate::memory::Window;

/// What has no certificate, or one for other names, waits so long for its first issuer before the next is asked.
const PATIENCE: i64 = 15 * 60;
/// Windows asked for at a time.
const POLLS: usize = 32;
/// Once a certificate is about to expire, the wait after a failure is no longer than a hundredth of its lifetime or this.
const SHORTEST_DAILY: i64 = 100 * 60;

/// How pressing; the first goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Priority {
    /// Its listener serves a placeholder.
    Unserved,
    Emergency,
    Changed,
    Renewal,
}

/// Something is to be ordered.
struct Need<'a> {
    index: usize,
    wanted: &'a WantedCertificate,
    issuers: &'a [IssuerId],
    held: Option<&'a Held>,
    validity: Option<Validity>,
    due: i64,
    reason: Reason,
    priority: Priority,
    /// Tries that failed, while an issuer is thought to be down: its next probe is one that fails for no reason of its own.
    tries: u32,
}

/// Why an issuer is not used now.
struct Blocked {
    wait: Wait,
    /// Since when the trouble lasts.
    since: i64,
    /// It will not go away by waiting.
    hopeless: bool,
}

struct Orders<'a, 'p> {
    input: &'a PlanInput<'a>,
    plan: &'p mut Plan,
    ledger: Tentative<'a>,
    /// Orders under way and planned, by issuer.
    under_way: BTreeMap<&'a IssuerId, usize>,
}

/// Plans all orders and polls. Returns when the next window is to be asked for.
pub(super) fn plan(input: &PlanInput<'_>, plan: &mut Plan) -> Option<i64> {
    let mut under_way = BTreeMap::new();
    for order in input.acme.under_way.values().filter(|order| order.running) {
        *under_way.entry(&order.issuer).or_insert(0) += 1;
    }
    let ledger = Tentative::new(&input.acme.memory.ledger, input.now);
    let mut orders = Orders { input, plan, ledger, under_way };
    let mut needs = orders.needs();
    needs.sort_by(|a, b| a.rank().cmp(&b.rank()));
    for need in &needs {
        if let Err(wait) = orders.settle(need) {
            orders.plan.waiting.insert(need.wanted.id.clone(), wait);
        }
    }
    orders.abandon(&needs);
    orders.polls()
}

impl Need<'_> {
    fn rank(&self) -> (Priority, u32, i64, &CertId) {
        let ends = self.validity.map_or(i64::MIN, |validity| validity.not_after);
        (self.priority, self.tries, ends, &self.wanted.id)
    }

    fn haste(&self) -> Haste {
        let pressed = self.priority == Priority::Emergency || matches!(self.reason, Reason::Asked | Reason::Revoked);
        Haste { paced: !pressed && self.priority == Priority::Renewal, keeps: !pressed }
    }

    /// Whether the next issuer is to be asked instead of waiting for this one.
    fn gives_up(&self, blocked: &Blocked, now: i64) -> bool {
        let until = blocked.wait.until().unwrap_or(now);
        let patience = match self.validity {
            Some(validity) if self.priority == Priority::Renewal || self.priority == Priority::Emergency => {
                // The level of warning: the next issuer is better than that.
                validity.not_after.saturating_sub(validity.not_after.saturating_sub(self.due).max(0) / 3)
            }
            _ => blocked.since.saturating_add(PATIENCE),
        };
        let waits = matches!(blocked.wait, Wait::Busy(_) | Wait::Account(_) | Wait::UnderWay { .. });
        blocked.hopeless || !waits && until > patience
    }
}

impl<'a> Orders<'a, '_> {
    fn needs(&mut self) -> Vec<Need<'a>> {
        let input = self.input;
        let mut needs = Vec::new();
        for (index, wanted) in input.wanted.iter().enumerate() {
            let WantedIssuer::Acme(issuers) = &wanted.issuer else { continue };
            if input.now < CLOCK_FLOOR {
                self.plan.waiting.insert(wanted.id.clone(), Wait::Clock);
                continue;
            }
            let held = input.held.get(&wanted.id);
            let validity = validity_of(wanted, held);
            let (due, reason) = match validity {
                None => (input.now, Some(Reason::Missing)),
                Some(validity) => {
                    let due = acme_due(validity, self.window(wanted, held), wanted.renew_before, &name_of(wanted));
                    let due = self.rested(wanted, validity).map_or(due, |rested| due.max(rested));
                    self.plan.renewals.insert(wanted.id.clone(), due);
                    (due, self.reason(wanted, issuers, held, (validity, due)))
                }
            };
            let Some(reason) = reason else { continue };
            let priority = match validity.filter(|validity| validity.holds_at(input.now)) {
                None => Priority::Unserved,
                Some(validity) if input.now >= emergency_at(validity) => Priority::Emergency,
                _ if matches!(reason, Reason::Changed(_) | Reason::Unfit(_) | Reason::Revoked) => Priority::Changed,
                _ => Priority::Renewal,
            };
            let tries = self.tries(wanted, issuers);
            needs.push(Need { index, wanted, issuers, held, validity, due, reason, priority, tries });
        }
        needs
    }

    /// Nothing is renewed again right after it was: a clock that is wrong by months, or a window in the past for whatever
    /// the CA issues, would make each new certificate due at once.
    fn rested(&self, wanted: &WantedCertificate, validity: Validity) -> Option<i64> {
        let at = self.input.acme.memory.obtained_at(&wanted.id, self.input.now)?;
        Some(at.saturating_add((validity.lifetime() / 100).min(crate::backoff::DAY)))
    }

    fn tries(&self, wanted: &WantedCertificate, issuers: &[IssuerId]) -> u32 {
        let setbacks = &self.input.acme.memory.setbacks;
        let is_down = |id: &&IssuerId| {
            let state = self.input.acme.issuers.get(*id);
            state.is_some_and(|state| setbacks.of_issuer(id, state.settings).is_some())
        };
        issuers.iter().filter(is_down).map(|id| setbacks.tries(&wanted.id, id)).max().unwrap_or(0)
    }

    fn window_of(&self, wanted: &WantedCertificate, held: Option<&Held>) -> Option<&'a Window> {
        if supplied(wanted, held).is_some() {
            return None;
        }
        let ari_id = held?.made_for.acme.as_ref()?.ari_id.as_ref()?;
        self.input.acme.memory.window_of(&wanted.id, ari_id)
    }

    fn window(&self, wanted: &WantedCertificate, held: Option<&Held>) -> Option<(i64, i64)> {
        self.window_of(wanted, held)?.suggested
    }

    fn reason(
        &self,
        wanted: &WantedCertificate,
        issuers: &[IssuerId],
        held: Option<&Held>,
        (validity, due): (Validity, i64),
    ) -> Option<Reason> {
        let now = self.input.now;
        if let Some(adopt) = supplied(wanted, held) {
            if let Some(why) = &adopt.unfit {
                return Some(Reason::Unfit(why.clone()));
            }
        } else if let Some(made) = held.map(|held| &held.made_for) {
            if made.revoked {
                return Some(Reason::Revoked);
            }
            let issuer = issuers.iter().find(|issuer| *issuer.0 == *made.issuer);
            let directory = issuer.and_then(|issuer| Some(&self.input.acme.issuers.get(issuer)?.directory));
            let moved = made.acme.as_ref().zip(directory).is_some_and(|(made, now)| made.directory != *now);
            if issuer.is_none() {
                return Some(Reason::Changed("its issuer"));
            } else if moved {
                return Some(Reason::Changed("the directory of its issuer"));
            } else if let Some(what) = made.difference(wanted) {
                return Some(Reason::Changed(what));
            }
        }
        match timely(validity, due, now) {
            Some(Reason::Due) if now >= emergency_at(validity) => Some(Reason::Pressing),
            // The CA says when a certificate begins, and would say the same of another one.
            Some(Reason::NotYetValid) | None => self.input.acme.memory.is_asked(&wanted.id).then_some(Reason::Asked),
            Some(Reason::Due) if self.input.acme.memory.is_asked(&wanted.id) => Some(Reason::Asked),
            reason => reason,
        }
    }

    /// Plans the order, or says what it waits for.
    fn settle(&mut self, need: &Need<'a>) -> Result<(), Wait> {
        let under_way = self.input.acme.under_way.get(&need.wanted.id);
        if let Some(order) = under_way.filter(|order| order.running) {
            return Err(Wait::UnderWay { issuer: order.issuer.clone(), since: order.since });
        }
        if let Some(edge) = self.input.acme.elsewhere {
            return Err(Wait::Elsewhere(edge.to_owned()));
        }
        let mut shown: Option<Wait> = None;
        if let Some(order) = under_way.filter(|order| self.goes_on(need, order)) {
            match self.resume(need, order) {
                Ok(()) => return Ok(()),
                // What was begun at a CA that does not end it is no reason to do without: the next one is asked.
                Err(blocked) if need.gives_up(&blocked, self.input.now) => shown = Some(blocked.wait),
                Err(blocked) => return Err(blocked.wait),
            }
        }
        for issuer in need.issuers {
            match self.order(need, issuer) {
                Ok(()) => return Ok(()),
                Err(blocked) => {
                    let gives_up = need.gives_up(&blocked, self.input.now);
                    let sooner = |known: &Wait| match (known.until(), blocked.wait.until()) {
                        (Some(known), Some(new)) => new < known,
                        // What passes by itself is of more interest than what is hopeless.
                        (None, Some(_)) => true,
                        (Some(_) | None, None) => false,
                    };
                    if shown.as_ref().is_none_or(sooner) {
                        shown = Some(blocked.wait);
                    }
                    if !gives_up {
                        break;
                    }
                }
            }
        }
        let nobody = || Wait::NoIssuer { issuer: IssuerId("nobody".into()), reason: "no issuer is named".into() };
        Err(shown.unwrap_or_else(nobody))
    }

    /// Whether an order that was begun is still what is wanted.
    fn goes_on(&self, need: &Need<'_>, order: &UnderWay) -> bool {
        let issuer = self.input.acme.issuers.get(&order.issuer);
        let attempt = issuer.map(|issuer| MadeFor::ordered(need.wanted, &order.issuer, issuer));
        need.issuers.contains(&order.issuer) && attempt.as_ref() == Some(&order.attempt)
    }

    fn resume(&mut self, need: &Need<'a>, order: &'a UnderWay) -> Result<(), Blocked> {
        let now = self.input.now;
        let unusable = |reason: String| Blocked {
            wait: Wait::NoIssuer { issuer: order.issuer.clone(), reason },
            since: now,
            hopeless: true,
        };
        let state = self.input.acme.issuers.get(&order.issuer);
        let state = state.ok_or_else(|| unusable("it is not configured".into()))?;
        if let Some(reason) = &state.unusable {
            return Err(unusable(reason.clone()));
        }
        self.open(need, &order.issuer, state, &order.attempt)?;
        self.slot(&order.issuer, state)?;
        self.push(need, &order.issuer, order.attempt.clone(), Start::Resume { replaces: order.replaces });
        Ok(())
    }

    fn order(&mut self, need: &Need<'a>, id: &'a IssuerId) -> Result<(), Blocked> {
        let now = self.input.now;
        let hopeless = |reason: String| Blocked {
            wait: Wait::NoIssuer { issuer: id.clone(), reason },
            since: now,
            hopeless: true,
        };
        let state = self.input.acme.issuers.get(id).ok_or_else(|| hopeless("it is not configured".into()))?;
        if let Some(reason) = &state.unusable {
            return Err(hopeless(reason.clone()));
        }
        if need.wanted.is_ca {
            return Err(hopeless("ACME CAs sign no CAs".into()));
        }
        let attempt = MadeFor::ordered(need.wanted, id, state);
        self.open(need, id, state, &attempt)?;
        let replaces = self.replaces(need, state);
        let exemption = match (&replaces, need.held.filter(|held| is_same_set(held, &attempt))) {
            (Some(_), _) => Exemption::Replaces,
            (None, Some(_)) => Exemption::SameSet,
            (None, None) => Exemption::None,
        };
        let mut charge = Charge::of_order(&state.directory, id, need.wanted, exemption);
        if state.account.is_none() {
            charge = charge.with_account(&state.directory);
        }
        if let Err((bucket, until)) = self.ledger.check(&charge, &state.limits, need.haste()) {
            let until = self.ledger.queue(&charge, &state.limits, need.haste()).max(until);
            return Err(Blocked {
                wait: Wait::Budget { issuer: id.clone(), bucket, until },
                since: now,
                hopeless: false,
            });
        }
        self.slot(id, state)?;
        self.ledger.take(&charge, &state.limits);
        self.push(need, id, attempt, Start::New { charge, replaces });
        Ok(())
    }

    fn push(&mut self, need: &Need<'a>, issuer: &'a IssuerId, attempt: MadeFor, start: Start) {
        *self.under_way.entry(issuer).or_insert(0) += 1;
        let keep_key = need.held.is_some_and(|held| held.made_for.lends_key(need.wanted));
        self.plan.orders.push(PlannedOrder {
            id: need.wanted.id.clone(),
            index: need.index,
            issuer: issuer.clone(),
            reason: need.reason.clone(),
            start,
            keep_key,
            attempt,
        });
    }

    /// Whether past failures let it be tried now.
    fn open(&self, need: &Need<'_>, id: &IssuerId, state: &IssuerState, attempt: &MadeFor) -> Result<(), Blocked> {
        let (now, setbacks) = (self.input.now, &self.input.acme.memory.setbacks);
        if let Some(setback) = setbacks.of_issuer(id, state.settings) {
            let until = setback.holds_until(now);
            if until.is_some() || self.busy(id) > 0 {
                let wait = Wait::CaDown { issuer: id.clone(), until, reason: setback.reason.clone() };
                return Err(Blocked { wait, since: setback.first, hopeless: setback.class == Class::Config });
            }
        }
        let names = identifiers(need.wanted);
        let of_names = names.iter().filter_map(|name| setbacks.of_identifier(id, name));
        let of_attempt = setbacks.of_attempt(&need.wanted.id, id, attempt, state.settings);
        let waits = of_names.chain(of_attempt).filter_map(|setback| {
            let mut until = setback.holds_until(now)?;
            if let (Some(validity), Priority::Emergency) = (need.validity, need.priority)
                && !setback.ordered_by_ca
            {
                until = until.min(setback.last.saturating_add((validity.lifetime() / 100).max(SHORTEST_DAILY)));
            }
            (until > now).then_some((until, setback))
        });
        let Some((until, setback)) = waits.max_by_key(|(until, _)| *until) else { return Ok(()) };
        let wait = Wait::Backoff { until, reason: setback.reason.clone() };
        Err(Blocked { wait, since: setback.first, hopeless: setback.class == Class::Config })
    }

    fn slot(&self, id: &IssuerId, state: &IssuerState) -> Result<(), Blocked> {
        let blocked = |wait| Err(Blocked { wait, since: self.input.now, hopeless: false });
        match self.busy(id) {
            0 => Ok(()),
            _ if state.account.is_none() => blocked(Wait::Account(id.clone())),
            busy if busy >= state.concurrent.max(1) => blocked(Wait::Busy(id.clone())),
            _ => Ok(()),
        }
    }

    fn busy(&self, id: &IssuerId) -> usize {
        self.under_way.get(id).copied().unwrap_or(0)
    }

    /// RFC 9773 §5: only the account that got a certificate may say what replaces it, and only once; at least one name
    /// has to be the same.
    fn replaces(&self, need: &Need<'_>, state: &IssuerState) -> Option<Box<str>> {
        if supplied(need.wanted, need.held).is_some() || !state.tells_windows {
            return None;
        }
        let held = need.held.filter(|held| held.validity.holds_at(self.input.now))?;
        let made = held.made_for.acme.as_ref()?;
        let own = made.directory == state.directory && made.account.is_some() && made.account == state.account;
        let names = &held.made_for.dns_names;
        let common = need.wanted.dns_names.iter().any(|name| names.contains(name))
            || need.wanted.addresses.iter().any(|address| held.made_for.addresses.contains(address));
        let refused = self.window_of(need.wanted, need.held).is_some_and(|window| window.irreplaceable);
        made.ari_id.clone().filter(|_| own && common && !refused)
    }

    /// Journal records that lead nowhere.
    fn abandon(&mut self, needs: &[Need<'_>]) {
        let wanted = |id: &CertId| self.input.wanted.iter().find(|wanted| wanted.id == *id);
        let abandoned = self.input.acme.under_way.iter().filter(|(id, order)| {
            let need = needs.iter().find(|need| need.wanted.id == **id);
            // Before the clock is right nothing is judged, and another edge may know better.
            let judged = self.input.now >= CLOCK_FLOOR && self.input.acme.elsewhere.is_none();
            // Whoever takes it up again when its issuer is back begins no other.
            let paused = wanted(id).is_some_and(|wanted| wanted.issuer.away().is_some());
            !order.running && judged && !paused && !need.is_some_and(|need| self.goes_on(need, order))
        });
        let abandoned: Vec<_> = abandoned.map(|(id, _)| id.clone()).collect();
        self.plan.abandon = abandoned;
    }

    fn polls(&mut self) -> Option<i64> {
        let (input, now) = (self.input, self.input.now);
        if input.acme.elsewhere.is_some() || now < CLOCK_FLOOR {
            return None;
        }
        let mut next: Option<i64> = None;
        let mut at = |moment: i64| next = Some(next.map_or(moment, |known| known.min(moment)));
        for wanted in input.wanted.iter().filter(|wanted| is_ordered(wanted)) {
            let WantedIssuer::Acme(issuers) = &wanted.issuer else { continue };
            let held = input.held.get(&wanted.id).filter(|held| held.validity.holds_at(now));
            let Some(held) = held.filter(|held| supplied(wanted, Some(held)).is_none()) else { continue };
            let Some(made) = &held.made_for.acme else { continue };
            let known = issuers.iter().filter_map(|id| Some((id, input.acme.issuers.get(id)?)));
            let mut told = known.filter(|(_, state)| state.tells_windows && state.directory == made.directory);
            let (Some((issuer, state)), Some(ari_id)) = (told.next(), &made.ari_id) else { continue };
            let down = input.acme.memory.setbacks.of_issuer(issuer, state.settings);
            let ask = input.acme.memory.window_of(&wanted.id, ari_id).map_or(now, |window| window.ask_again);
            // An hour of a wrong clock must not silence the CA for a year.
            let ask = if ask > now + 2 * crate::backoff::DAY { now } else { ask };
            let ask = ask.max(down.and_then(|setback| setback.holds_until(now)).unwrap_or(ask));
            if input.acme.polling.contains(&wanted.id) {
                continue;
            } else if ask > now {
                at(ask);
            } else if self.plan.polls.len() + input.acme.polling.len() < POLLS {
                let (id, issuer) = (wanted.id.clone(), issuer.clone());
                self.plan.polls.push(Poll { id, issuer, ari_id: ari_id.clone() });
            }
        }
        next
    }
}

/// What is held, by Edge or in the Secret, whichever counts.
pub(crate) fn validity_of(wanted: &WantedCertificate, held: Option<&Held>) -> Option<Validity> {
    match supplied(wanted, held) {
        Some(adopt) => Some(Validity { not_before: adopt.not_before, not_after: adopt.not_after }),
        None => held.map(|held| held.validity),
    }
}

/// Let's Encrypt: "an order for the exact same set of identifiers as a certificate before".
fn is_same_set(held: &Held, attempt: &MadeFor) -> bool {
    let directory = |made: &MadeFor| made.acme.as_ref().map(|acme| acme.directory.clone());
    let names = |made: &MadeFor| (made.dns_names.clone(), made.addresses.clone());
    directory(&held.made_for) == directory(attempt) && names(&held.made_for) == names(attempt)
}

fn name_of(wanted: &WantedCertificate) -> String {
    wanted.id.to_string()
}
