//! Which kinds are read, where the API server serves them, and how much of them is asked for.

use edge_config::names::{Kind, ObjectRef};
use edge_config::settings::KubernetesSettings;

/// Kinds without which nothing can be decided: while one of them is not known yet, nothing new is served.
pub fn is_essential(kind: Kind) -> bool {
    use Kind::*;
    matches!(
        kind,
        GatewayClass
            | Gateway
            | ListenerSet
            | HTTPRoute
            | GRPCRoute
            | TLSRoute
            | TCPRoute
            | UDPRoute
            | ReferenceGrant
            | BackendTLSPolicy
            | Namespace
            | Service
            | EndpointSlice
            | Secret
            | ConfigMap
    )
}

/// Versions with a shape that Edge reads, the preferred one first.
pub fn versions(kind: Kind) -> &'static [&'static str] {
    use Kind::*;
    match kind {
        Namespace | Service | EndpointSlice | Secret | ConfigMap | Node => &["v1"],
        GatewayClass | Gateway | HTTPRoute | ReferenceGrant => &["v1", "v1beta1"],
        GRPCRoute | TCPRoute | UDPRoute => &["v1", "v1alpha2"],
        TLSRoute => &["v1", "v1alpha3", "v1alpha2"],
        BackendTLSPolicy => &["v1", "v1alpha3"],
        ListenerSet => &["v1"],
        Issuer | ClusterIssuer | Certificate => &["v1"],
        BGPPeer => &["v1beta2", "v1beta1"],
        IPAddressPool | L2Advertisement | BGPAdvertisement | Community | BFDProfile => &["v1beta1"],
        ClientTrafficPolicy
        | BackendTrafficPolicy
        | SecurityPolicy
        | EnvoyProxy
        | Backend
        | UpstreamSettingsPolicy
        | HTTPRouteFilter
        | ClientSettingsPolicy
        | ProxySettingsPolicy
        | RateLimitPolicy
        | AuthenticationFilter
        | SnippetsFilter
        | SnippetsPolicy => &["v1alpha1"],
    }
}

/// Whether every API server has the kind: then nothing has to be discovered.
pub fn is_builtin(kind: Kind) -> bool {
    matches!(kind.group(), "" | "discovery.k8s.io")
}

/// The name of the kind in paths: lower case and plural.
pub fn plural(kind: Kind) -> String {
    let name = kind.as_str().to_ascii_lowercase();
    let before_y = name.strip_suffix('y').filter(|rest| !rest.ends_with(['a', 'e', 'i', 'o', 'u']));
    match before_y {
        Some(rest) => format!("{rest}ies"),
        None if name.ends_with('s') => format!("{name}es"),
        None => format!("{name}s"),
    }
}

/// One collection that is watched: a kind, in one namespace or everywhere, or a single object of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    pub kind: Kind,
    pub namespace: Option<String>,
    pub name: Option<String>,
}

impl Slot {
    /// The path of the collection.
    pub fn path(&self, version: &str) -> String {
        let root = match self.kind.group() {
            "" => format!("/api/{version}"),
            group => format!("/apis/{group}/{version}"),
        };
        match &self.namespace {
            Some(namespace) => format!("{root}/namespaces/{namespace}/{}", plural(self.kind)),
            None => format!("{root}/{}", plural(self.kind)),
        }
    }

    pub fn holds(&self, object: &ObjectRef) -> bool {
        object.kind == self.kind
            && self.namespace.as_deref().is_none_or(|namespace| namespace == &*object.key.namespace)
            && self.name.as_deref().is_none_or(|name| name == &*object.key.name)
    }

    /// Selectors as query parameters, encoded; each begins with `&`.
    pub fn narrowing(&self, settings: &KubernetesSettings) -> String {
        let mut query = String::new();
        let mut add = |key: &str, selector: &str| {
            query.push('&');
            query.push_str(key);
            query.push('=');
            encode(selector, &mut query);
        };
        match (self.kind, &self.name) {
            (_, Some(name)) => add("fieldSelector", &format!("metadata.name={name}")),
            (Kind::Secret, None) => {
                let others: Vec<String> = OTHER_SECRETS.iter().map(|kind| format!("type!={kind}")).collect();
                add("fieldSelector", &others.join(","));
            }
            // Slices of no Service are of no use.
            (Kind::EndpointSlice, None) => add("labelSelector", edge_config::core::SERVICE_NAME_LABEL),
            (Kind::Gateway, None) => {
                if let Some(selector) = &settings.gateway_selector {
                    add("labelSelector", selector);
                }
            }
            _ => {}
        }
        query
    }
}

impl std::fmt::Display for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.namespace, &self.name) {
            (Some(namespace), Some(name)) => write!(f, "{} {namespace}/{name}", self.kind),
            (Some(namespace), None) => write!(f, "{} in {namespace}", self.kind),
            (None, _) => write!(f, "{}", self.kind),
        }
    }
}

/// Types of Secrets that never hold a certificate or a password of a BGPPeer. Often they are most of a cluster's Secrets, and the largest.
const OTHER_SECRETS: [&str; 6] = [
    "helm.sh/release.v1",
    "kubernetes.io/service-account-token",
    "kubernetes.io/dockerconfigjson",
    "kubernetes.io/dockercfg",
    "kubernetes.io/ssh-auth",
    "bootstrap.kubernetes.io/token",
];

/// The collections that are watched from the start; single Secrets come and go with what refers to them.
pub fn slots(settings: &KubernetesSettings) -> Vec<Slot> {
    use edge_config::settings::SecretScope;
    let mut slots = Vec::new();
    for kind in Kind::ALL {
        if kind == Kind::Secret && settings.secrets == SecretScope::Referenced {
            continue;
        }
        if kind.is_cluster_scoped() || settings.namespaces.is_empty() {
            slots.push(Slot { kind, namespace: None, name: None });
        } else {
            let one = |namespace: &String| Slot { kind, namespace: Some(namespace.clone()), name: None };
            slots.extend(settings.namespaces.iter().map(one));
        }
    }
    slots
}

/// RFC 3986 §2.3: everything but unreserved characters is escaped.
pub fn encode(text: &str, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edge_config::settings::SecretScope;

    #[test]
    fn plurals() {
        for (kind, expected) in [
            (Kind::GatewayClass, "gatewayclasses"),
            (Kind::Gateway, "gateways"),
            (Kind::ListenerSet, "listenersets"),
            (Kind::BackendTLSPolicy, "backendtlspolicies"),
            (Kind::EndpointSlice, "endpointslices"),
            (Kind::Community, "communities"),
            (Kind::BGPPeer, "bgppeers"),
            (Kind::EnvoyProxy, "envoyproxies"),
            (Kind::IPAddressPool, "ipaddresspools"),
        ] {
            assert_eq!(plural(kind), expected);
        }
    }

    #[test]
    fn paths_and_selectors() {
        let settings =
            KubernetesSettings { gateway_selector: Some("shard in (a)".to_owned()), ..KubernetesSettings::default() };
        let slot = |kind, namespace: Option<&str>, name: Option<&str>| Slot {
            kind,
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
        };
        for (slot, path, query) in [
            (slot(Kind::Namespace, None, None), "/api/v1/namespaces", ""),
            (
                slot(Kind::Gateway, Some("shop"), None),
                "/apis/gateway.networking.k8s.io/v1/namespaces/shop/gateways",
                "&labelSelector=shard%20in%20%28a%29",
            ),
            (
                slot(Kind::Secret, Some("shop"), Some("tls")),
                "/api/v1/namespaces/shop/secrets",
                "&fieldSelector=metadata.name%3Dtls",
            ),
            (
                slot(Kind::EndpointSlice, None, None),
                "/apis/discovery.k8s.io/v1/endpointslices",
                "&labelSelector=kubernetes.io%2Fservice-name",
            ),
        ] {
            assert_eq!((slot.path("v1").as_str(), slot.narrowing(&settings).as_str()), (path, query));
        }
        let secrets = slot(Kind::Secret, None, None).narrowing(&settings);
        assert!(secrets.starts_with("&fieldSelector=type%21%3Dhelm.sh%2Frelease.v1%2C"), "{secrets}");
    }

    #[test]
    fn every_kind_has_its_watches() {
        let mut settings = KubernetesSettings::default();
        assert_eq!(slots(&settings).len(), Kind::ALL.len());
        settings.namespaces = vec!["a".to_owned(), "b".to_owned()];
        settings.secrets = SecretScope::Referenced;
        let slots = slots(&settings);
        let cluster = Kind::ALL.iter().filter(|kind| kind.is_cluster_scoped()).count();
        assert_eq!(slots.len(), cluster + 2 * (Kind::ALL.len() - cluster - 1));
        assert!(slots.iter().all(|slot| slot.kind != Kind::Secret));
        assert!(Kind::ALL.iter().all(|kind| !versions(*kind).is_empty()));
    }
}
