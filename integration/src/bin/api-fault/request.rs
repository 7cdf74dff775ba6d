//! What a request asks of the API, told from its method and path.
//!
//! Flows in: method and URI. Flows out: a [`Shape`] for rules to match and counts to be kept by. Pure.

use http::{Method, Uri};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    /// Not about a resource: discovery, health.
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    pub verb: Verb,
    /// `httproutes` or `httproutes/status`; empty where there is none.
    pub resource: String,
    pub path: String,
}

impl Verb {
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::Other => "other",
        }
    }

    pub const fn writes(self) -> bool {
        matches!(self, Self::Create | Self::Update | Self::Patch | Self::Delete)
    }

    pub const fn reads(self) -> bool {
        matches!(self, Self::Get | Self::List | Self::Watch)
    }
}

impl Shape {
    pub fn of(method: &Method, uri: &Uri) -> Self {
        let path = uri.path().to_owned();
        let Some((resource, named)) = resource(&path) else {
            return Self { verb: Verb::Other, resource: String::new(), path };
        };
        let watched = || {
            form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes())
                .any(|(name, value)| name == "watch" && (value == "true" || value == "1"))
        };
        let verb = match *method {
            Method::GET if watched() => Verb::Watch,
            Method::GET if named => Verb::Get,
            Method::GET => Verb::List,
            Method::POST => Verb::Create,
            Method::PUT => Verb::Update,
            Method::PATCH => Verb::Patch,
            Method::DELETE => Verb::Delete,
            _ => Verb::Other,
        };
        Self { verb, resource, path }
    }
}

/// The resource of a path, with its subresource, and whether one object is named.
fn resource(path: &str) -> Option<(String, bool)> {
    let mut parts = path.split('/').skip(1).filter(|part| !part.is_empty());
    match parts.next()? {
        "api" => parts.next()?,
        "apis" => parts.nth(1)?,
        _ => return None,
    };
    let mut rest: Vec<&str> = parts.collect();
    // A namespace in front of a resource; `namespaces` and `namespaces/NAME` by themselves are objects.
    if rest.first() == Some(&"namespaces") && rest.len() > 2 && !matches!(rest[2], "status" | "finalize") {
        rest.drain(..2);
    }
    match rest.as_slice() {
        [] => None,
        [resource] => Some(((*resource).to_owned(), false)),
        [resource, _] => Some(((*resource).to_owned(), true)),
        [resource, _, subresource @ ..] => Some((format!("{resource}/{}", subresource.join("/")), true)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes() {
        let routes = "/apis/gateway.networking.k8s.io/v1/httproutes";
        let route = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/cart";
        let cases = [
            ("GET", routes.to_owned(), Verb::List, "httproutes"),
            ("GET", format!("{routes}?limit=5&watch=false"), Verb::List, "httproutes"),
            ("GET", format!("{routes}?watch=true"), Verb::Watch, "httproutes"),
            ("GET", format!("{routes}?resourceVersion=5&watch=1"), Verb::Watch, "httproutes"),
            ("GET", route.to_owned(), Verb::Get, "httproutes"),
            ("PATCH", format!("{route}/status?force=true"), Verb::Patch, "httproutes/status"),
            ("PUT", route.to_owned(), Verb::Update, "httproutes"),
            ("DELETE", route.to_owned(), Verb::Delete, "httproutes"),
            ("POST", "/api/v1/namespaces/shop/events".to_owned(), Verb::Create, "events"),
            ("GET", "/api/v1/namespaces".to_owned(), Verb::List, "namespaces"),
            ("GET", "/api/v1/namespaces/shop".to_owned(), Verb::Get, "namespaces"),
            ("PUT", "/api/v1/namespaces/shop/finalize".to_owned(), Verb::Update, "namespaces/finalize"),
            ("GET", "/api/v1/namespaces/shop/pods/web/log?follow=true".to_owned(), Verb::Get, "pods/log"),
            ("GET", "/apis/gateway.networking.k8s.io/v1".to_owned(), Verb::Other, ""),
            ("GET", "/api".to_owned(), Verb::Other, ""),
            ("GET", "/readyz".to_owned(), Verb::Other, ""),
            ("GET", "//".to_owned(), Verb::Other, ""),
        ];
        for (method, uri, verb, resource) in cases {
            let shape = Shape::of(&method.parse().unwrap(), &uri.parse().unwrap());
            assert_eq!((shape.verb, shape.resource.as_str()), (verb, resource), "{method} {uri}");
        }
    }
}
