//! cert-manager's ACME issuers to [`AcmeIssuer`]: what can be used of one, and what is left out for which reason.

use crate::certmanager::{AcmeIssuerSpec, CnameStrategy, Dns01Spec, IssuerSpec, SecretKeySelector, SolverSpec};
use crate::issuer::{
    AcmeIssuer, DnsProvider, ExternalAccount, IssuerId, NameSelector, SecretRef, SecretSource, ServerAddress, Solve,
    Solver, Tsig, UrlHost,
};
use crate::names::{Kind, ObjectKey};
use crate::settings::Settings;
use crate::validate;

/// An ACME issuer as an object has it, with remarks about the parts of it that are not in effect.
pub(super) struct Read {
    pub issuer: Result<AcmeIssuer, String>,
    pub remarks: Vec<String>,
}

pub(super) fn id(kind: Kind, key: &ObjectKey) -> IssuerId {
    IssuerId(format!("{kind} {key}").into())
}

/// `None` where the issuer is of another type.
pub(super) fn read(kind: Kind, key: &ObjectKey, spec: &IssuerSpec, settings: &Settings) -> Option<Read> {
    let acme = spec.acme.as_ref()?;
    let namespace = match kind {
        Kind::ClusterIssuer => settings.certificates.cluster_resource_namespace.as_str(),
        _ => &key.namespace,
    };
    let mut reader = Reader { namespace, settings, remarks: Vec::new() };
    let issuer = reader.issuer(kind, key, acme);
    Some(Read { issuer, remarks: reader.remarks })
}

const WEBHOOK: &str = "unsupported solver webhook";

struct Reader<'a> {
    /// Of the Secrets that are named.
    namespace: &'a str,
    settings: &'a Settings,
    remarks: Vec<String>,
}

impl Reader<'_> {
    fn issuer(&mut self, kind: Kind, key: &ObjectKey, spec: &AcmeIssuerSpec) -> Result<AcmeIssuer, String> {
        // The rules of files have said all this with its place; from an API server an object may come without them.
        let url =
            UrlHost::directory(&spec.server).map_err(|why| format!("{kind} {key}: server {:?} {why}", spec.server))?;
        let trust = spec.ca_bundle.as_deref().map(validate::ca_bundle).transpose();
        let trust = trust.map_err(|why| format!("{kind} {key}: caBundle {why}"))?;
        let contact = spec.email.as_deref().filter(|email| validate::is_email(email));
        let mut solvers = Vec::new();
        let mut refused = Vec::new();
        for (index, solver) in spec.solvers.iter().enumerate() {
            match self.solver(solver) {
                Ok(solver) => solvers.push(solver),
                Err(why) => refused.push(format!("solvers[{index}]: {why}")),
            }
        }
        if solvers.is_empty() {
            let why = if refused.is_empty() { "it has no solver".to_owned() } else { refused.join(", ") };
            return Err(format!("{kind} {key}: {why}"));
        }
        // The rules of the object alone have told of all others with their places.
        let is_webhook = |why: &String| why.contains(WEBHOOK);
        self.remarks.extend(refused.into_iter().filter(is_webhook).map(|why| format!("acme.{why}; it is left out")));
        let external_account = spec.external_account_binding.as_ref();
        let external_account = external_account.map(|binding| ExternalAccount {
            key_id: binding.key_id.as_str().into(),
            key: self.secret(&binding.key_secret_ref, "secret"),
        });
        let text = |text: &Option<String>| text.as_deref().filter(|text| !text.is_empty()).map(Box::<str>::from);
        Ok(AcmeIssuer {
            id: id(kind, key),
            directory: spec.server.as_str().into(),
            contacts: contact.into_iter().map(Into::into).collect(),
            account_secret: Some(self.reference(&spec.private_key_secret_ref, "tls.key")),
            create_account: !spec.disable_account_key_generation,
            external_account,
            profile: text(&spec.profile),
            preferred_chain: text(&spec.preferred_chain),
            private: !url.is_public() || trust.is_some(),
            trust: trust.map(Into::into),
            trust_file: None,
            insecure: spec.skip_tls_verify && !url.is_public(),
            solvers,
        })
    }

    fn reference(&self, selector: &SecretKeySelector, usual: &str) -> SecretRef {
        let key = selector.key.as_deref().filter(|key| !key.is_empty()).unwrap_or(usual);
        SecretRef { secret: ObjectKey::new(self.namespace, selector.name.as_str()), key: key.into() }
    }

    fn secret(&self, selector: &SecretKeySelector, usual: &str) -> SecretSource {
        SecretSource::Object(self.reference(selector, usual))
    }

    fn solver(&self, spec: &SolverSpec) -> Result<Solver, String> {
        let texts = |texts: &[String]| {
            texts.iter().map(|text| Box::<str>::from(text.trim_end_matches('.').to_ascii_lowercase())).collect()
        };
        let selector = spec.selector.as_ref();
        let names = selector.map_or_else(NameSelector::default, |selector| NameSelector {
            labels: selector
                .match_labels
                .iter()
                .map(|(key, value)| (key.as_str().into(), value.as_str().into()))
                .collect(),
            dns_names: texts(&selector.dns_names),
            dns_zones: texts(&selector.dns_zones),
        });
        let solve = match (&spec.http01, &spec.dns01) {
            (Some(_), None) => Solve::Http01,
            (None, Some(dns)) => {
                let follow_cname = dns.cname_strategy == Some(CnameStrategy::Follow);
                Solve::Dns01 { provider: self.provider(dns)?, follow_cname }
            }
            _ => return Err("expected exactly one of http01 and dns01".to_owned()),
        };
        Ok(Solver { names, solve })
    }

    fn provider(&self, dns: &Dns01Spec) -> Result<DnsProvider, String> {
        let mut providers = dns.providers();
        let (Some((name, is_usable)), None) = (providers.next(), providers.next()) else {
            return Err("expected exactly one provider for dns01".to_owned());
        };
        if !is_usable {
            return Err(format!("unsupported solver {name}"));
        }
        if let Some(spec) = &dns.rfc2136 {
            let wrong = |why| format!("rfc2136 nameserver {:?} {why}", spec.nameserver);
            let server = ServerAddress::name_server(&spec.nameserver).map_err(wrong)?;
            let key_name = spec.tsig_key_name.as_deref().filter(|name| !name.is_empty());
            let secret = spec.tsig_secret_secret_ref.as_ref().filter(|secret| !secret.name.is_empty());
            let tsig = match key_name.zip(secret) {
                None => None,
                Some((key_name, secret)) => Some(Tsig {
                    key_name: key_name.trim_end_matches('.').to_ascii_lowercase().into(),
                    algorithm: validate::tsig_algorithm(spec.tsig_algorithm.as_deref())
                        .map_err(|why| format!("unsupported solver rfc2136: tsigAlgorithm {why}"))?,
                    key: self.secret(secret, ""),
                }),
            };
            return Ok(DnsProvider::Rfc2136 { server, tsig });
        }
        if let Some(spec) = &dns.acme_dns {
            UrlHost::parse(&spec.host).map_err(|why| format!("acmeDNS host {:?} {why}", spec.host))?;
            let accounts = self.secret(&spec.account_secret_ref, "");
            return Ok(DnsProvider::AcmeDns { server: spec.host.as_str().into(), accounts });
        }
        if let Some(spec) = &dns.cloudflare {
            let token = spec.api_token_secret_ref.as_ref();
            let token = token.ok_or("unsupported solver cloudflare with a key of the whole account")?;
            return Ok(DnsProvider::Cloudflare { token: self.secret(token, "") });
        }
        let Some(webhook) = &dns.webhook else { return Err("expected a provider for dns01".to_owned()) };
        let name = format!("{}/{}", webhook.group_name, webhook.solver_name);
        let provider = self.settings.issuers.webhooks.get(&name);
        provider.cloned().ok_or_else(|| format!("{WEBHOOK} {name}: there is no [webhooks.{name:?}] in edge.toml"))
    }
}
