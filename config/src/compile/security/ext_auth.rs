//! External authorization: what a policy says of its authorizer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::super::backends::Use;
use super::super::context::Fault;
use super::super::policies::invalid;
use super::asked::service;
use super::credentials::field;
use super::make::Maker;
use crate::envoy::{self, ContextExtensionType, SecurityPolicySpec};
use crate::gateway::SecretRef;
use crate::names::{Kind, ObjectRef};
use crate::policy::{ExtAuth, ExtAuthPath, ExtAuthProtocol, Extension};

pub(in crate::compile) const TIMEOUT: Duration = Duration::from_secs(10);
pub(in crate::compile) const STATUS: u16 = 403;

pub(super) fn ext_auth(
    maker: &mut Maker<'_, '_, '_>,
    spec: &envoy::ExtAuth,
    _: &SecurityPolicySpec,
) -> Result<Arc<ExtAuth>, Fault> {
    if spec.recompute_route == Some(true) {
        return Err(invalid("extAuth.recomputeRoute is not acted on by this version".to_owned()));
    }
    let (service, protocol) = match (&spec.grpc, &spec.http) {
        (Some(grpc), None) => (service(maker, "extAuth.grpc", grpc.cluster(), Use::Grpc)?, ExtAuthProtocol::Grpc),
        (None, Some(http)) => {
            let path = path(http)?;
            let named = http.headers_to_backend.iter().map(|name| field("extAuth.http.headersToBackend", name));
            let answer_fields = Some(named.collect::<Result<_, _>>()?);
            let service = service(maker, "extAuth.http", http.cluster(), Use::Http)?;
            (service, ExtAuthProtocol::Http { path, answer_fields })
        }
        _ => return Err(invalid("extAuth: expected exactly one of grpc and http".to_owned())),
    };
    let service = service.ok_or_else(|| invalid("extAuth: backendRefs is empty".to_owned()))?;
    let request_fields = match spec.headers_to_ext_auth.is_empty() {
        true => None,
        false => {
            let named = spec.headers_to_ext_auth.iter().map(|name| field("extAuth.headersToExtAuth", name));
            Some(named.collect::<Result<_, _>>()?)
        }
    };
    let body = spec.body_to_ext_auth.as_ref().map(|body| body.max_request_bytes);
    if body == Some(0) {
        return Err(invalid("extAuth.bodyToExtAuth.maxRequestBytes: expected at least 1".to_owned()));
    }
    let timeout = spec.timeout.map_or(TIMEOUT, |timeout| timeout.0);
    if timeout.is_zero() {
        return Err(invalid("extAuth.timeout: expected more than 0s".to_owned()));
    }
    let status_on_error = spec.status_on_error.unwrap_or(STATUS);
    if !(400..=511).contains(&status_on_error) {
        return Err(invalid(format!("extAuth.statusOnError: {status_on_error}, expected 400 to 511")));
    }
    Ok(Arc::new(ExtAuth {
        owner: ObjectRef::new(Kind::SecurityPolicy, maker.policy.key.clone()),
        service,
        protocol,
        request_fields,
        body,
        timeout,
        fail_open: spec.fail_open == Some(true),
        status_on_error,
        extensions: extensions(maker, &spec.context_extensions)?,
    }))
}

fn path(http: &envoy::HttpExtAuth) -> Result<ExtAuthPath, Fault> {
    let sound = |place: &str, path: &str| {
        let is_path = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic()) && !path.contains('#');
        if is_path { Ok(Box::from(path)) } else { Err(invalid(format!("extAuth.http.{place}: {path:?} is no path"))) }
    };
    match (http.path.as_deref(), http.path_override.as_deref()) {
        (None, None) => Ok(ExtAuthPath::Before(Box::default())),
        (Some(path), None) if path.contains('?') => Err(invalid(format!("extAuth.http.path: {path:?} has a query"))),
        (Some(path), None) => sound("path", path).map(ExtAuthPath::Before),
        (None, Some(path)) => sound("pathOverride", path).map(ExtAuthPath::Instead),
        (Some(_), Some(_)) => Err(invalid("extAuth.http: path and pathOverride exclude each other".to_owned())),
    }
}

fn extensions(
    maker: &Maker<'_, '_, '_>,
    list: &[envoy::ContextExtension],
) -> Result<BTreeMap<Box<str>, Extension>, Fault> {
    let mut extensions = BTreeMap::new();
    for extension in list {
        let place = format!("extAuth.contextExtensions {:?}", extension.name);
        let found = match (&extension.kind, &extension.value, &extension.value_ref) {
            (ContextExtensionType::Value, Some(value), None) => Extension::Text(value.as_str().into()),
            (ContextExtensionType::ValueRef, None, Some(reference)) => {
                if Kind::of(reference.group.trim_start_matches("v1"), &reference.kind) != Some(Kind::Secret) {
                    let kind = &reference.kind;
                    return Err(invalid(format!("{place}: values of a {kind} are not acted on, expected a Secret")));
                }
                let secret = SecretRef {
                    group: String::new(),
                    kind: reference.kind.clone(),
                    name: reference.name.clone(),
                    namespace: None,
                };
                Extension::Secret(maker.secret(&place, &secret, &reference.key)?)
            }
            _ => return Err(invalid(format!("{place}: expected value for type Value, or valueRef for ValueRef"))),
        };
        if extensions.insert(extension.name.as_str().into(), found).is_some() {
            return Err(invalid(format!("{place}: is there twice")));
        }
    }
    Ok(extensions)
}
