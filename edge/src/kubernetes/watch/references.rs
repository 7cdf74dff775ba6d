//! Which Secrets an object names: all that may be read where the rights are given by name. Pure.

use edge_config::gateway::{FrontendTlsConfig, Listener, SecretRef};
use edge_config::manifest::AnyObject;
use edge_config::names::{Kind, ObjectKey};

/// Where cert-manager keeps the Secrets of ClusterIssuers.
const CLUSTER_RESOURCE_NAMESPACE: &str = "cert-manager";

/// The Secrets that an object refers to, whether or not it may.
pub fn secrets_of(object: &AnyObject) -> Vec<ObjectKey> {
    let home = &object.meta().key.namespace;
    let key = |namespace: Option<&str>, name: &str| ObjectKey::new(namespace.unwrap_or(home), name);
    let secret = |reference: &SecretRef| {
        let is_secret = reference.group.is_empty() && reference.kind == Kind::Secret.as_str();
        is_secret.then(|| key(reference.namespace.as_deref(), &reference.name))
    };
    let of_listeners = |listeners: &[Listener]| -> Vec<ObjectKey> {
        let tls = listeners.iter().filter_map(|listener| listener.tls.as_ref());
        tls.flat_map(|tls| &tls.certificate_refs).filter_map(secret).collect()
    };
    let of_frontend = |config: &FrontendTlsConfig| -> Vec<ObjectKey> {
        let references = config.validation.iter().flat_map(|validation| &validation.ca_certificate_refs);
        let secrets = references.filter(|one| one.group.is_empty() && one.kind == Kind::Secret.as_str());
        secrets.map(|one| key(one.namespace.as_deref(), &one.name)).collect()
    };
    match object {
        AnyObject::Gateway(gateway) => {
            let mut secrets = of_listeners(&gateway.spec.listeners);
            if let Some(tls) = &gateway.spec.tls {
                let client = tls.backend.as_ref().and_then(|backend| backend.client_certificate_ref.as_ref());
                secrets.extend(client.and_then(secret));
                if let Some(frontend) = &tls.frontend {
                    secrets.extend(of_frontend(&frontend.default));
                    secrets.extend(frontend.per_port.iter().flat_map(|port| of_frontend(&port.tls)));
                }
            }
            secrets
        }
        AnyObject::ListenerSet(set) => of_listeners(&set.spec.listeners),
        AnyObject::BackendTLSPolicy(policy) => {
            let references = policy.spec.validation.ca_certificate_refs.iter();
            let secrets = references.filter(|one| one.group.is_empty() && one.kind == Kind::Secret.as_str());
            secrets.map(|one| key(None, &one.name)).collect()
        }
        AnyObject::Issuer(issuer) => issuer.spec.ca.iter().map(|ca| key(None, &ca.secret_name)).collect(),
        AnyObject::ClusterIssuer(issuer) => {
            issuer.spec.ca.iter().map(|ca| key(Some(CLUSTER_RESOURCE_NAMESPACE), &ca.secret_name)).collect()
        }
        AnyObject::Certificate(certificate) => vec![key(None, &certificate.spec.secret_name)],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edge_config::manifest::{Outcome, Place, decode_document};

    #[test]
    fn secrets_of_each_kind() {
        for (text, expected) in [
            (
                "kind: Gateway\nmetadata: {name: g, namespace: n}\nspec:\n  gatewayClassName: c\n  listeners:\n  - {name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: one}, {name: two, namespace: m}, {name: x, kind: Foo, group: foo.example}]}}\n  tls: {backend: {clientCertificateRef: {name: client}}, frontend: {default: {validation: {caCertificateRefs: [{group: '', kind: Secret, name: ca}, {group: '', kind: ConfigMap, name: map}]}}}}",
                vec!["n/one", "m/two", "n/client", "n/ca"],
            ),
            (
                "kind: BackendTLSPolicy\nmetadata: {name: p, namespace: n}\nspec: {targetRefs: [{group: '', kind: Service, name: s}], validation: {hostname: a.example, caCertificateRefs: [{group: '', kind: Secret, name: ca}]}}",
                vec!["n/ca"],
            ),
        ] {
            let text = format!("apiVersion: gateway.networking.k8s.io/v1\n{text}");
            let place = Place { file: "f".into(), line_offset: 0 };
            let items = decode_document(&text, &place, &"default".into(), &[]);
            let [item] = &*items else { panic!("{items:?}") };
            let Outcome::Ready(object) = &item.outcome else { panic!("{item:?}") };
            let found: Vec<String> = secrets_of(object).iter().map(ToString::to_string).collect();
            assert_eq!(found, expected);
        }
    }
}
