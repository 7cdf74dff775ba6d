//! Hosts in maintenance, as workers look at them: one look at an option where there is none.

use std::net::IpAddr;
use std::sync::Arc;

use edge_config::hosts::HostMap;
use edge_config::policy::{Body, FixedAnswer};
use ipnet::IpNet;

use crate::control::maintenance::Closures;

/// What a host says that was given no page.
const PAGE: &str = "This site is down for maintenance. Please try again later.\n";

#[derive(Debug, Default)]
pub struct Maintenance(HostMap<Closed>);

#[derive(Debug)]
struct Closed {
    answer: FixedAnswer,
    allow: Vec<IpNet>,
}

impl Maintenance {
    /// `None` where every host is open.
    pub fn of(closures: &Closures) -> Option<Arc<Self>> {
        let mut hosts = HostMap::new();
        for closure in &closures.0 {
            let (content_type, text) = match &closure.page {
                Some(page) => (page.content_type.as_str(), page.text.as_str()),
                None => ("text/plain; charset=utf-8", PAGE),
            };
            let answer = FixedAnswer {
                status: Some(503),
                content_type: Some(content_type.into()),
                // Whoever asked was told whether it is one.
                body: Body::parse(text).or_else(|_| Body::parse(PAGE)).ok(),
                set: vec![
                    ("retry-after".into(), closure.retry_after.to_string().into()),
                    ("cache-control".into(), "no-store".into()),
                ],
                add: Vec::new(),
            };
            hosts.insert(closure.host.0.clone(), Closed { answer, allow: closure.allow.clone() });
        }
        (!hosts.is_empty()).then(|| Arc::new(Self(hosts)))
    }

    /// What a client of a host is answered, unless it is open to it.
    pub fn answer(&self, host: &str, client: IpAddr) -> Option<&FixedAnswer> {
        let closed = self.0.best(host)?;
        let client = client.to_canonical();
        (!closed.allow.iter().any(|network| network.contains(&client))).then_some(&closed.answer)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::control::maintenance::{Ask, Notice};

    #[test]
    fn who_is_let_in() {
        assert!(Maintenance::of(&Closures::default()).is_none());
        let mut closures = Closures::default();
        let notice = Notice {
            page: None,
            retry_after: 60,
            allow: vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()],
            seconds: None,
        };
        let ask = Ask { host: "*.example".parse().unwrap(), notice: Some(notice) };
        closures.ask(ask, SystemTime::UNIX_EPOCH).unwrap();
        let maintenance = Maintenance::of(&closures).unwrap();
        for (host, client, is_closed) in [
            ("a.example", "198.51.100.1", true),
            ("a.example", "192.0.2.7", false),
            ("a.example", "::ffff:192.0.2.7", false),
            ("a.example", "2001:db8::1", false),
            ("a.example", "2001:db9::1", true),
            ("a.test", "198.51.100.1", false),
        ] {
            let answer = maintenance.answer(host, client.parse().unwrap());
            assert_eq!(answer.is_some(), is_closed, "{host} {client}");
            assert!(answer.is_none_or(|answer| answer.status == Some(503)));
        }
    }
}
