//! Parameters of a GatewayClass or a Gateway: the keys of the ConfigMap that `parametersRef` names.
//!
//! In: the keys and values as text. Out: what they mean, or which one means nothing. Nothing is guessed: a key that is
//! not known is a fault as a whole, for who wrote it expects something of it.

use std::sync::Arc;
use std::time::Duration;

use super::gateways::Profile;
use super::traffic::Traffic;
use crate::core::{ConfigMap, PARAMETERS};
use crate::snapshot::{Balance, ProxyVersion};
use crate::wire::GepDuration;

/// What was asked for; the rest is as without parameters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Parameters<'a> {
    pub pool: Option<&'a str>,
    balance: Option<Balance>,
    proxy_protocol: Option<ProxyVersion>,
    request_timeout: Option<Duration>,
}

impl<'a> Parameters<'a> {
    pub fn read(map: &'a ConfigMap) -> Result<Self, String> {
        if let Some(key) = map.keys.iter().find(|key| !PARAMETERS.contains(&key.as_str())) {
            return Err(format!("key {key:?} is not known, expected one of {}", PARAMETERS.join(", ")));
        }
        let mut read = Self::default();
        for (key, text) in &map.parameters {
            let value = text.trim();
            let expected = match key.as_str() {
                "addressPool" => {
                    read.pool = (!value.is_empty()).then_some(value);
                    read.pool.is_none().then_some("the name of a pool")
                }
                "loadBalancer" => {
                    read.balance = match value {
                        "LeastRequest" => Some(Balance::LeastRequest),
                        "Random" => Some(Balance::Random),
                        "RoundRobin" => Some(Balance::RoundRobin),
                        _ => None,
                    };
                    read.balance.is_none().then_some("LeastRequest, Random or RoundRobin")
                }
                "proxyProtocol" => {
                    read.proxy_protocol = match value {
                        "V1" => Some(ProxyVersion::V1),
                        "V2" => Some(ProxyVersion::V2),
                        _ => None,
                    };
                    read.proxy_protocol.is_none().then_some("V1 or V2")
                }
                _ => {
                    read.request_timeout = GepDuration::parse(value).map(|timeout| timeout.0);
                    read.request_timeout.is_none().then_some("a duration like 1h30m or 500ms")
                }
            };
            if let Some(expected) = expected {
                return Err(format!("{key}: {value:?}, expected {expected}"));
            }
        }
        Ok(read)
    }

    /// These, and for what they do not say those of the class.
    pub fn over(self, class: &Self) -> Self {
        Self {
            pool: self.pool.or(class.pool),
            balance: self.balance.or_else(|| class.balance.clone()),
            proxy_protocol: self.proxy_protocol.or(class.proxy_protocol),
            request_timeout: self.request_timeout.or(class.request_timeout),
        }
    }

    pub fn profile(&self) -> Profile {
        let traffic = Traffic {
            balance: self.balance.clone(),
            request_timeout: self.request_timeout,
            proxy_protocol: self.proxy_protocol,
            ..Traffic::default()
        };
        Profile { client_certificate: None, traffic: Arc::new(traffic), protection: None }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn map(values: &[(&str, &str)]) -> ConfigMap {
        let values = values.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec()));
        ConfigMap::new(&values.collect::<BTreeMap<_, _>>(), None, None)
    }

    #[test]
    fn values() {
        let of_class = map(&[
            ("addressPool", "public"),
            ("loadBalancer", "Random\n"),
            ("proxyProtocol", "V2"),
            ("requestTimeout", "1m30s"),
        ]);
        let all = Parameters {
            pool: Some("public"),
            balance: Some(Balance::Random),
            proxy_protocol: Some(ProxyVersion::V2),
            request_timeout: Some(Duration::from_secs(90)),
        };
        assert_eq!(Parameters::read(&of_class), Ok(all.clone()));
        let own = map(&[("requestTimeout", "5s")]);
        let own = Parameters::read(&own).unwrap().over(&all);
        assert_eq!(own, Parameters { request_timeout: Some(Duration::from_secs(5)), ..all });
        assert_eq!(Parameters::read(&map(&[])), Ok(Parameters::default()));
        let long = "V2".repeat(1000);
        for (key, value, said) in [
            ("addressPool", "", "addressPool: \"\", expected the name of a pool"),
            ("loadBalancer", "random", "loadBalancer: \"random\", expected LeastRequest, Random or RoundRobin"),
            ("proxyProtocol", "2", "proxyProtocol: \"2\", expected V1 or V2"),
            ("requestTimeout", "fast", "requestTimeout: \"fast\", expected a duration like 1h30m or 500ms"),
            ("timeout", "1s", "key \"timeout\" is not known, expected one of addressPool, loadBalancer"),
            ("proxyProtocol", &long, "proxyProtocol: \"V2V2"),
        ] {
            let error = Parameters::read(&map(&[(key, value)])).unwrap_err();
            assert!(error.starts_with(said) && error.len() < 400, "{error}");
        }
    }
}
