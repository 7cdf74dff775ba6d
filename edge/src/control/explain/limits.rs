//! How much may pass, in words: every limit of a rule, and which rates would count this request.

use std::net::IpAddr;

use edge_config::policy::Protection;
use edge_config::policy::protection::{Counts, KeyPart, Priority, Rate, RateList, Rates, Reach, UNBOUNDED};

use crate::control::span;
use crate::proxy::message::RequestHead;
use crate::proxy::protection::select;

/// One line for each limit. `client`: who asks, where that is known.
pub fn lines(protection: &Protection, head: &RequestHead, client: Option<IpAddr>) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(priority) = protection.priority {
        lines.push(match priority {
            Priority::Low => "priority low: refused while more than 80 % of Edge's connections are open".to_owned(),
            Priority::Normal => {
                "priority normal: refused while more than 90 % of Edge's connections are open".to_owned()
            }
            Priority::High => "priority high".to_owned(),
        });
    }
    if let Some(most) = protection.max_body.filter(|most| *most != UNBOUNDED) {
        lines.push(format!("request bodies of at most {most} bytes"));
    }
    lines.extend(protection.buffer.map(|most| format!("requests are taken whole first, at most {most} bytes")));
    for rates in protection.rates.iter().chain(&protection.zones) {
        lines.extend(self::rates(rates, head, client));
    }
    lines.extend(protection.parallel.map(|most| format!("at most {most} requests of the rule at once")));
    if let Some(admission) = &protection.admission {
        lines.push(format!(
            "{}: refused by chance while less than {} % of the requests of the last {} succeed, at most {} %",
            admission.name,
            admission.min_success,
            span::exact(admission.window),
            admission.most_refused
        ));
    }
    if let Some(bandwidth) = &protection.bandwidth {
        let one = |rate: Option<u64>, what: &str| rate.map(|rate| format!("{what} {rate} bytes per second"));
        let both: Vec<String> =
            [one(bandwidth.request, "requests"), one(bandwidth.response, "responses")].into_iter().flatten().collect();
        lines.push(format!("{}: bandwidth of {}", bandwidth.name, both.join(", ")));
    }
    lines
}

fn rates(rates: &Rates, head: &RequestHead, client: Option<IpAddr>) -> Vec<String> {
    let of = |rate: &Rate| verdict(rate, head, client);
    // The default is for requests that no other one counts.
    let is_taken = rates.list.iter().any(|rate| {
        !rate.otherwise && rate.name.list == RateList::Local && matches!(of(rate), Verdict::Counts | Verdict::Perhaps)
    });
    let one = |rate: &Rate| {
        let dry = if rate.dry_run || rates.dry_run == Some(true) { ", dry run" } else { "" };
        let fleet = if rate.reach == Reach::Fleet { ", all edges together" } else { "" };
        let verdict = match of(rate) {
            _ if rate.otherwise && is_taken => "does not count this request: another rule does",
            Verdict::Counts => "counts this request",
            Verdict::Perhaps => "counts this request if its client is of the addresses",
            Verdict::Not => "is not about this request",
        };
        format!("{}: {}{fleet}{dry}; {verdict}", rate.name, amount(rate))
    };
    rates.list.iter().map(one).collect()
}

enum Verdict {
    Counts,
    /// Who asks is not known here.
    Perhaps,
    Not,
}

fn verdict(rate: &Rate, head: &RequestHead, client: Option<IpAddr>) -> Verdict {
    let asks = client.unwrap_or(IpAddr::from([0, 0, 0, 0]));
    if select::key(rate, 0, head, asks).is_none() {
        return Verdict::Not;
    }
    let Some(when) = &rate.when else { return Verdict::Counts };
    let depends = client.is_none() && when.source.is_some();
    let mut rest = (**when).clone();
    if depends {
        rest.source = None;
    }
    match (select::is_about(&rest, head, asks), depends) {
        (false, _) => Verdict::Not,
        (true, true) => Verdict::Perhaps,
        (true, false) => Verdict::Counts,
    }
}

/// `3 per hour for each client address`
fn amount(rate: &Rate) -> String {
    let per = match rate.per.as_secs() {
        1 => "second".to_owned(),
        60 => "minute".to_owned(),
        3600 => "hour".to_owned(),
        86_400 => "day".to_owned(),
        _ => span::exact(rate.per),
    };
    let mut text = format!("{} per {per}", rate.requests);
    if rate.burst + 1 != rate.requests && rate.burst > 0 {
        text.push_str(&format!(", {} more at once", rate.burst));
        text.push_str(match rate.delay_after {
            None => "",
            Some(0) => " wait for their turn",
            Some(_) => ", the last of them wait for their turn",
        });
    }
    let parts: Vec<String> = rate.by.iter().map(part).collect();
    if !parts.is_empty() {
        text.push_str(&format!(" for each {}", parts.join(" and ")));
    }
    text.push_str(match rate.counts {
        Counts::Route => " of this route",
        Counts::Gateway => " of the Gateway",
        Counts::Policy => " of all targets together",
    });
    text
}

fn part(part: &KeyPart) -> String {
    match part {
        KeyPart::Client => "client address".to_owned(),
        KeyPart::Header(name) => format!("header {name}"),
        KeyPart::Cookie(name) => format!("cookie {name}"),
        KeyPart::Query(name) => format!("query parameter {name}"),
        KeyPart::Host => "host".to_owned(),
        KeyPart::Method => "method".to_owned(),
        KeyPart::Path => "path".to_owned(),
        KeyPart::Uri => "path with query".to_owned(),
        KeyPart::Text(text) => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use edge_config::names::{Kind, ObjectKey, ObjectRef};
    use edge_config::policy::protection::{RateName, Selector, Unless};
    use edge_config::settings::AddressRange;

    use super::*;

    fn rate(index: u32) -> Rate {
        let policy = ObjectRef::new(Kind::BackendTrafficPolicy, ObjectKey::new("shop", "limits"));
        Rate {
            name: RateName { policy, list: RateList::Local, index },
            digest: 1,
            requests: 3,
            per: Duration::from_secs(3600),
            burst: 2,
            delay_after: None,
            when: None,
            otherwise: false,
            by: Vec::new(),
            by_any: false,
            counts: Counts::Route,
            reach: Reach::Edge,
            dry_run: false,
            cost: 1,
            response_cost: 0,
            headers: None,
        }
    }

    #[test]
    fn every_limit_has_a_line_and_says_whether_it_counts() {
        let range = AddressRange::parse("192.0.2.0/24").unwrap();
        let from = Selector { source: Some(Unless { is: range, inverted: false }), ..Selector::default() };
        let list = vec![
            Rate { otherwise: true, ..rate(0) },
            Rate { by: vec![KeyPart::Header("x-user".into())], dry_run: true, reach: Reach::Fleet, ..rate(1) },
            Rate { when: Some(Box::new(from)), counts: Counts::Policy, ..rate(2) },
        ];
        let rates = Arc::new(Rates { list, ..Rates::default() });
        let protection = Protection {
            priority: Some(Priority::Low),
            max_body: Some(UNBOUNDED),
            buffer: Some(100),
            rates: Some(rates),
            parallel: Some(7),
            ..Protection::default()
        };
        let said = lines(&protection, &RequestHead::default(), None);
        let name = "BackendTrafficPolicy shop/limits local rule";
        assert_eq!(
            said,
            [
                "priority low: refused while more than 80 % of Edge's connections are open".to_owned(),
                "requests are taken whole first, at most 100 bytes".to_owned(),
                format!("{name} 0: 3 per hour of this route; does not count this request: another rule does"),
                format!(
                    "{name} 1: 3 per hour for each header x-user of this route, all edges together, dry run; \
                 is not about this request"
                ),
                format!(
                    "{name} 2: 3 per hour of all targets together; counts this request if its client is of the addresses"
                ),
                "at most 7 requests of the rule at once".to_owned(),
            ]
        );
        let known = lines(&protection, &RequestHead::default(), Some(IpAddr::from([198, 51, 100, 1])));
        assert!(known[2].ends_with("rule 0: 3 per hour of this route; counts this request"), "{}", known[2]);
    }
}
