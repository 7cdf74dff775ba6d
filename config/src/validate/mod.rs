//! The rules that an API server would have enforced: schema limits, patterns and CEL rules of Gateway API v1.6.1, and
//! the few of the other kinds that matter to Edge. A decoded spec flows in, faults with their paths flow out. What the
//! specification answers with a condition is not a fault here: unknown protocols, address types, reference kinds.

mod certmanager;
mod envoy;
mod filter;
mod gateway;
mod metallb;
mod nginx;
mod policy;
mod route;
#[cfg(test)]
mod tests;
mod text;

use std::fmt;

pub use certmanager::{ca_bundle, certificate, is_email, issuer, tsig_algorithm};
pub use envoy::{client_traffic_policy, http_route_filter};
pub use gateway::{gateway, gateway_class, listener_set};
pub use metallb::{bfd_profile, bgp_advertisement, bgp_peer, community, l2_advertisement};
pub use nginx::{
    authentication_filter, client_settings_policy, proxy_settings_policy, rate_limit_policy, snippets_filter,
    snippets_policy, upstream_settings_policy,
};
pub use policy::{
    address_pool, backend, backend_tls_policy, backend_traffic_policy, endpoint_slice, reference_grant, service,
};
pub use route::{grpc_route, http_route, l4_route, tls_route};
pub use text::{is_label, is_label_text, is_object_name, is_qualified_name, object_name_rule};

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Such as `spec.listeners[2].port`.
    pub path: String,
    pub message: String,
    /// An API server would have refused the object; otherwise a part of it is not in effect.
    pub is_fatal: bool,
}

/// The faults of one object, in the order in which they were found.
#[derive(Debug, Default)]
pub struct Faults {
    list: Vec<Fault>,
}

impl Faults {
    pub fn error(&mut self, path: impl fmt::Display, message: impl Into<String>) {
        self.list.push(Fault { path: path.to_string(), message: message.into(), is_fatal: true });
    }

    /// A fault that costs only a part of the object, which a condition will say.
    pub fn part(&mut self, path: impl fmt::Display, message: impl Into<String>) {
        self.list.push(Fault { path: path.to_string(), message: message.into(), is_fatal: false });
    }

    pub fn into_list(self) -> Vec<Fault> {
        self.list
    }

    fn at_most(&mut self, path: impl fmt::Display, found: usize, most: usize) {
        if found > most {
            self.error(path, format!("has {found} items, expected at most {most}"));
        }
    }

    fn known(&mut self, path: impl fmt::Display, value: &str, is_known: bool, expected: &[&str]) {
        if !is_known {
            let hint = crate::suggest::hint(value, expected.iter().copied());
            self.error(path, format!("unknown value {value:?}, expected {}{hint}", expected.join(", ")));
        }
    }

    fn port(&mut self, path: impl fmt::Display, port: Option<u16>) {
        if port == Some(0) {
            self.error(path, "0 is no port, expected 1 to 65535");
        }
    }
}

/// For kinds without rules of their own.
pub fn nothing<T>(_: &T, _: &mut Faults) {}
