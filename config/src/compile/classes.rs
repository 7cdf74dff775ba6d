//! GatewayClasses: which are ours, whether we accept them, and what we support.

use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};

use super::context::{Context, Fault, condition};
use super::parameters::Parameters;
use crate::names::{Kind, ObjectKey, ObjectRef};
use crate::problem::Severity;
use crate::report::ObjectReport;

/// A GatewayClass whose `controllerName` is one of ours.
pub(super) struct Class<'a> {
    pub controller: Arc<str>,
    pub fault: Option<Fault>,
    pub parameters: Parameters<'a>,
}

/// Gateway API v1.6.1 feature names that Edge implements, sorted ascending as `supportedFeatures` must be. Not claimed:
/// all of mesh. GatewayInfrastructurePropagation is about the Service that a Gateway of the Kubernetes API gets.
pub(super) const FEATURES: [&str; 48] = [
    "BackendTLSPolicy",
    "BackendTLSPolicySANValidation",
    "GRPCRoute",
    "GRPCRouteNamedRouteRule",
    "Gateway",
    "GatewayAddressEmpty",
    "GatewayBackendClientCertificate",
    "GatewayFrontendClientCertificateValidation",
    "GatewayFrontendClientCertificateValidationInsecureFallback",
    "GatewayHTTPListenerIsolation",
    "GatewayHTTPSListenerDetectMisdirectedRequests",
    "GatewayInfrastructurePropagation",
    "GatewayPort8080",
    "GatewayStaticAddresses",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteBackendProtocolH2C",
    "HTTPRouteBackendProtocolWebSocket",
    "HTTPRouteBackendRequestHeaderModification",
    "HTTPRouteBackendTimeout",
    "HTTPRouteCORS",
    "HTTPRouteDestinationPortMatching",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteNamedRouteRule",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestMirror",
    "HTTPRouteRequestMultipleMirrors",
    "HTTPRouteRequestPercentageMirror",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteRetry",
    "HTTPRouteRetryBackendTimeout",
    "HTTPRouteRetryConnectionError",
    "HTTPRouteSchemeRedirect",
    "ListenerSet",
    "ReferenceGrant",
    "TCPRoute",
    "TLSRoute",
    "TLSRouteModeMixed",
    "TLSRouteModeTerminate",
    "UDPRoute",
];

/// Our classes by name. Others are reported as not claimed, so that a forgotten `controller_names` shows.
pub(super) fn classes<'a>(
    context: &Context<'a>,
    out: &mut Vec<(ObjectRef, ObjectReport)>,
) -> HashMap<&'a str, Class<'a>> {
    let inputs = context.inputs;
    let mut classes = HashMap::new();
    for (key, class) in &inputs.gateway_classes {
        if !inputs.settings.controller_names.contains(&class.spec.controller_name) {
            context.problem(
                Severity::Inert,
                Kind::GatewayClass,
                &class.meta,
                format!(
                    "controllerName {:?} is none of [gateway] controller_names, so its Gateways are left to others",
                    class.spec.controller_name
                ),
            );
            continue;
        }
        let read = class.spec.parameters_ref.as_ref().map(|reference| {
            let namespace = reference.namespace.as_deref().unwrap_or_default();
            parameters(context, (&reference.group, &reference.kind), (namespace, &reference.name))
        });
        let (parameters, fault) = match read.unwrap_or_else(|| Ok(Parameters::default())) {
            Ok(parameters) => (parameters, None),
            Err(fault) => (Parameters::default(), Some(fault)),
        };
        out.push((
            ObjectRef::new(Kind::GatewayClass, key.clone()),
            ObjectReport {
                generation: class.meta.generation,
                conditions: vec![condition("Accepted", "Accepted", fault.as_ref())],
                supported_features: FEATURES.to_vec(),
                ..ObjectReport::default()
            },
        ));
        classes.insert(&*key.name, Class { controller: class.spec.controller_name.as_str().into(), fault, parameters });
    }
    classes
}

/// What `parametersRef` of a GatewayClass or of a Gateway's infrastructure says. An EnvoyProxy is accepted, so that Envoy
/// Gateway's manifests work unchanged; its fields are reported as not acted on where it is parsed. A ConfigMap has Edge's
/// own parameters.
pub(super) fn parameters<'a>(
    context: &Context<'a>,
    (group, kind): (&str, &str),
    (namespace, name): (&str, &str),
) -> Result<Parameters<'a>, Fault> {
    let invalid = |message: String| Fault::new("InvalidParameters", format!("parametersRef: {message}"));
    let key = ObjectKey::new(namespace, name);
    match Kind::of(group, kind) {
        Some(Kind::EnvoyProxy) if context.inputs.envoy_proxies.contains_key(&key) => Ok(Parameters::default()),
        Some(Kind::EnvoyProxy) => Err(invalid(context.missing(Kind::EnvoyProxy, &key))),
        Some(Kind::ConfigMap) if namespace.is_empty() => Err(invalid("a ConfigMap needs a namespace".to_owned())),
        Some(Kind::ConfigMap) => match context.inputs.config_maps.get(&key) {
            Some(map) => Parameters::read(&map.spec).map_err(|why| invalid(format!("ConfigMap {key}: {why}"))),
            None => Err(invalid(context.missing(Kind::ConfigMap, &key))),
        },
        _ => Err(invalid(format!("{kind} of group {group:?} is not supported"))),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn features_are_sorted_and_few_enough() {
        assert!(super::FEATURES.is_sorted());
        assert!(super::FEATURES.len() <= 64);
    }
}
