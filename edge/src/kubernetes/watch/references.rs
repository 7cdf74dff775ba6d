//! Which Secrets an object names: all that may be read where the rights are given by name. Pure.

use edge_config::gateway::{FrontendTlsConfig, Listener, SecretRef};
use edge_config::manifest::AnyObject;
use edge_config::names::{Kind, ObjectKey};

/// The Secrets that an object refers to, whether or not it may. Those of ClusterIssuers are not here: in which namespace
/// they are is a setting, not in the object.
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
        // Those of ACME are not here: accounts and tokens are read by their own watch, and kept nowhere else.
        AnyObject::Issuer(issuer) => issuer.spec.ca.iter().map(|ca| key(None, &ca.secret_name)).collect(),
        AnyObject::BGPPeer(peer) => {
            let secret = peer.spec.password_secret.iter().filter(|secret| !secret.name.is_empty());
            secret.map(|secret| key(secret.namespace.as_deref(), &secret.name)).collect()
        }
        AnyObject::AuthenticationFilter(filter) => {
            let spec = &filter.spec;
            let (jwt, oidc) = (spec.jwt.as_ref(), spec.oidc.as_ref());
            let keys = jwt.and_then(|jwt| jwt.file.as_ref()).map(|file| &file.secret_ref);
            let remote = jwt.and_then(|jwt| jwt.remote.as_ref());
            let names = spec.basic.iter().map(|basic| &basic.secret_ref).chain(keys);
            let names = names.chain(remote.iter().flat_map(|remote| &remote.ca_certificate_refs));
            let names = names.chain(oidc.iter().flat_map(|oidc| {
                [&oidc.client_secret_ref].into_iter().chain(&oidc.ca_certificate_refs).chain(&oidc.crl_secret_ref)
            }));
            names.map(|local| key(None, &local.name)).collect()
        }
        AnyObject::HTTPRouteFilter(filter) => {
            let credential = filter.spec.credential_injection.iter();
            credential.filter_map(|injection| secret(&injection.credential.value_ref)).collect()
        }
        AnyObject::SecurityPolicy(policy) => {
            let spec = &policy.spec;
            let oidc = spec.oidc.iter();
            let of_oidc = oidc.flat_map(|oidc| [&oidc.client_secret].into_iter().chain(&oidc.client_id_ref));
            let users = spec.basic_auth.iter().map(|basic| &basic.users);
            let keys = spec.api_key_auth.iter().flat_map(|keys| &keys.credential_refs);
            let extensions = spec.ext_auth.iter().flat_map(|auth| &auth.context_extensions);
            let values = extensions.filter_map(|extension| extension.value_ref.as_ref());
            let values = values.filter(|value| value.group.is_empty() && value.kind == Kind::Secret.as_str());
            let values = values.map(|value| key(None, &value.name));
            users.chain(keys).chain(of_oidc).filter_map(secret).chain(values).collect()
        }
        AnyObject::ClientTrafficPolicy(policy) => {
            let validation = policy.spec.tls.iter().filter_map(|tls| tls.client_validation.as_ref());
            let lists = validation.flat_map(|validation| {
                validation.ca_certificate_refs.iter().chain(validation.crl.iter().flat_map(|crl| &crl.refs))
            });
            lists.filter_map(secret).collect()
        }
        AnyObject::Backend(backend) => {
            let Some(tls) = &backend.spec.tls else { return Vec::new() };
            let references = tls.ca_certificate_refs.iter();
            let secrets = references.filter(|one| one.group.is_empty() && one.kind == Kind::Secret.as_str());
            let cas = secrets.map(|one| key(None, &one.name));
            cas.chain(tls.client_certificate_ref.as_ref().and_then(secret)).collect()
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
            (
                "apiVersion: metallb.io/v1beta2\nkind: BGPPeer\nmetadata: {name: p, namespace: n}\nspec: {myASN: 1, peerASN: 2, peerAddress: 192.0.2.1, passwordSecret: {name: md5}}",
                vec!["n/md5"],
            ),
            (
                "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: SecurityPolicy\nmetadata: {name: p, namespace: n}\nspec: {targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: g}], basicAuth: {users: {name: users}}, apiKeyAuth: {credentialRefs: [{name: one}, {name: two, namespace: m}], extractFrom: [{headers: [x-key]}]}, oidc: {provider: {issuer: 'https://a.example'}, clientID: c, clientSecret: {name: login}}}",
                vec!["n/users", "n/one", "m/two", "n/login"],
            ),
        ] {
            let group = if text.starts_with("apiVersion") { "" } else { "apiVersion: gateway.networking.k8s.io/v1\n" };
            let text = format!("{group}{text}");
            let place = Place { file: "f".into(), line_offset: 0 };
            let items = decode_document(&text, &place, &"default".into(), &[]);
            let [item] = &*items else { panic!("{items:?}") };
            let Outcome::Ready(object) = &item.outcome else { panic!("{item:?}") };
            let found: Vec<String> = secrets_of(object).iter().map(ToString::to_string).collect();
            assert_eq!(found, expected);
        }
    }
}
