//! Certificates that objects of cert-manager and edge.toml want, whether or not a listener uses them, and what is
//! reported about issuers and Certificates.

use std::collections::BTreeMap;

use super::super::context::{Context, Fault, condition};
use super::super::gateways::GatewayState;
use super::annotations::{RenewBefore, key_algorithm, lifetime};
use super::issuers::Chosen;
use super::names::{Refusal, Subject, judge};
use super::wanted::Written;
use super::{Certificates, is_supplied, may_stand_in, not_ready};
use crate::certmanager::{CertificateSpec, PrivateKeyAlgorithm, PrivateKeySpec, RotationPolicy};
use crate::inputs::{Meta, Object};
use crate::issuer::IssuerId;
use crate::names::{CertId, HostPattern, Kind, ObjectKey, ObjectRef};
use crate::problem::Severity;
use crate::report::{Condition, ObjectReport};
use crate::settings::{CertificateMode, CertificateWish, WishedAddress};
use crate::snapshot::WantedIssuer;

impl<'a> Certificates<'a> {
    /// Every Certificate wants its Secret, and so does every wish of edge.toml.
    pub fn objects(
        &mut self,
        context: &Context<'a>,
        gateways: &[GatewayState<'_>],
        out: &mut Vec<(ObjectRef, ObjectReport)>,
    ) {
        let inputs = context.inputs;
        for certificate in inputs.certificates.values() {
            let certificate: &'a Object<CertificateSpec> = certificate;
            // What cert-manager acts on has its status from cert-manager, too.
            if !is_of_cert_manager(context, &certificate.meta) {
                let ready = self.certificate(context, certificate);
                out.push(report(Kind::Certificate, &certificate.meta, ready));
            }
        }
        for wish in &inputs.settings.issuers.certificates {
            self.wish(context, wish, gateways);
        }
        for (kind, issuers) in [(Kind::Issuer, &inputs.issuers), (Kind::ClusterIssuer, &inputs.cluster_issuers)] {
            for (key, issuer) in issuers.iter().filter(|(_, issuer)| !is_of_cert_manager(context, &issuer.meta)) {
                let fault = self.issuers.resolve(context, kind, key, &issuer.spec, 0).err();
                let fault =
                    fault.map(|why| Fault::new(if why.unsupported { "NotActedOn" } else { "NotReady" }, why.text));
                out.push(report(kind, &issuer.meta, condition("Ready", "Ready", fault.as_ref())));
            }
        }
    }

    fn certificate(&mut self, context: &Context<'a>, object: &'a Object<CertificateSpec>) -> Condition {
        let spec = &object.spec;
        let meta = &object.meta;
        let home = &*meta.key.namespace;
        let id = CertId(ObjectKey::new(home, spec.secret_name.as_str()));
        if let Some(writer) = self.issuers.writer(&id.0).filter(|writer| writer.meta.key != meta.key) {
            let message = format!("Certificate {} writes to the same Secret {id}", writer.meta.key);
            return condition("Ready", "Ready", Some(&Fault::new("IncorrectCertificate", message)));
        }
        let problem = |message: String| context.problem(Severity::Error, Kind::Certificate, meta, message);
        let mut names = Vec::new();
        for dns_name in &spec.dns_names {
            match HostPattern::parse(Some(dns_name)) {
                Ok(HostPattern::Any) | Err(_) => {
                    problem(format!("dnsNames: {dns_name:?} is no DNS name and is left out"));
                }
                Ok(pattern) => names.push(Box::<str>::from(pattern.to_string())),
            }
        }
        let mut content = Content { names, addresses: spec.addresses().collect() };
        let resolved = self.issuers.by_reference(context, home, &spec.issuer_ref);
        let mut fault = resolved.as_ref().err().map(|why| not_ready(&why.text));
        let mut named = vec![spec.issuer_ref.clone()];
        let issuer = match resolved {
            Ok(Chosen { issuer: WantedIssuer::Acme(issuers), .. }) if !spec.is_ca => {
                let common =
                    spec.common_name.as_deref().filter(|name| !content.names.iter().any(|known| **known == **name));
                if let Some(Ok(HostPattern::Exact(name))) = common.map(|name| HostPattern::parse(Some(name))) {
                    content.names.push(name.as_str().into());
                }
                match self.certifiable(content, &issuers, &meta.labels) {
                    (content, Ok(able), refused) => {
                        for refusal in &refused {
                            problem(format!("{}; it is left out", refusal.message));
                        }
                        fault = refused.into_iter().next().map(|refusal| Fault::new(refusal.reason, refusal.message));
                        return self.by_object(context, object, (WantedIssuer::Acme(able), named), content, fault);
                    }
                    (left, Err(refusal), _) => {
                        fault = Some(Fault::new(refusal.reason, refusal.message.clone()));
                        content = left;
                        named.clear();
                        Err(refusal.message)
                    }
                }
            }
            Ok(Chosen { issuer: WantedIssuer::Acme(ids), .. }) => {
                let why = format!("{}: ACME gives no CA certificates", ids[0]);
                fault = Some(not_ready(&why));
                Err(why)
            }
            Ok(Chosen { issuer, .. }) => Ok(issuer),
            Err(why) => Err(why.text),
        };
        match issuer {
            Ok(issuer) => self.by_object(context, object, (issuer, named), content, fault),
            // What is there is served.
            Err(_) if is_supplied(context, &id) => condition("Ready", "Ready", None),
            Err(why) => {
                // The internal CA stands in for leaf certificates only: it hands out no CA power.
                let issuer = match spec.is_ca || !may_stand_in(context) {
                    true => WantedIssuer::Nobody { why },
                    false => WantedIssuer::Internal { instead_of: Some(why) },
                };
                self.by_object(context, object, (issuer, Vec::new()), content, fault)
            }
        }
    }

    fn by_object(
        &mut self,
        context: &Context<'a>,
        object: &'a Object<CertificateSpec>,
        (issuer, named): (WantedIssuer, Vec<crate::certmanager::IssuerRef>),
        content: Content,
        fault: Option<Fault>,
    ) -> Condition {
        let Object { meta, spec } = object;
        let id = CertId(ObjectKey::new(&*meta.key.namespace, spec.secret_name.as_str()));
        let is_acme = matches!(issuer, WantedIssuer::Acme(_));
        let before = spec.renew_before.map(|before| RenewBefore::Time(before.0));
        let percentage = spec.renew_before_percentage.and_then(|percentage| u32::try_from(percentage).ok());
        let before = before.or(percentage.filter(|it| (1..=99).contains(it)).map(RenewBefore::Percentage));
        let duration = spec.duration.filter(|_| !is_acme);
        let (duration, renew_before) = lifetime(context, (Kind::Certificate, meta), duration, before, is_acme);
        // A spec without a key has cert-manager's default, but for ACME, where nothing else would use it.
        let usual = if is_acme { PrivateKeyAlgorithm::Ecdsa } else { PrivateKeyAlgorithm::default() };
        let private =
            spec.private_key.clone().unwrap_or(PrivateKeySpec { algorithm: usual, ..PrivateKeySpec::default() });
        let key = key_algorithm(context, (Kind::Certificate, meta), &private.algorithm, private.size);
        let wanted = self.want(&id, issuer.clone());
        wanted.certificate.issuer = issuer;
        wanted.certificate.common_name = spec.common_name.as_deref().map(Into::into);
        wanted.certificate.is_ca = spec.is_ca;
        wanted.certificate.key = key;
        wanted.certificate.rotate_key = private.rotation_policy != Some(RotationPolicy::Never);
        wanted.certificate.duration = duration;
        wanted.certificate.renew_before = renew_before;
        wanted.labels(&meta.labels);
        wanted.names.extend(content.names);
        wanted.addresses.extend(content.addresses);
        wanted.named = named;
        wanted.written = meta.is_served().then(|| Written {
            certificate: Some(meta.key.name.to_string()),
            template: spec.secret_template.clone().unwrap_or_default(),
        });
        wanted.by.insert(ObjectRef::new(Kind::Certificate, meta.key.clone()).to_string());
        condition("Ready", "Ready", fault.as_ref())
    }

    fn wish(&mut self, context: &Context<'a>, wish: &'a CertificateWish, gateways: &[GatewayState<'_>]) {
        let id = &wish.id;
        let problem = |severity, message: String| {
            context.problem_in_settings(severity, format!("certificate {id} (line {}): {message}", wish.line));
        };
        if let Some(writer) = self.issuers.writer(&id.0) {
            problem(
                Severity::Error,
                format!("Certificate {} writes to the same Secret, and goes first", writer.meta.key),
            );
            return;
        }
        let mut content = Content { names: wish.names.clone(), addresses: Vec::new() };
        for address in &wish.addresses {
            match address {
                WishedAddress::Address(address) => content.addresses.push(*address),
                WishedAddress::Gateway(key) => match gateways.iter().find(|gateway| gateway.key() == key) {
                    Some(gateway) => content.addresses.extend(gateway.addresses.iter().map(|(address, _)| *address)),
                    None => {
                        problem(Severity::Error, format!("there is no Gateway {key} whose addresses could be in it"))
                    }
                },
            }
        }
        if content.names.is_empty() && content.addresses.is_empty() {
            problem(Severity::Warning, "there is no name and no address to be in it".to_owned());
            return;
        }
        let defaults = &context.inputs.settings.certificates.issuers;
        let names = if wish.issuers.is_empty() { defaults } else { &wish.issuers };
        let chosen = match names.is_empty() {
            true => Ok(Chosen { issuer: WantedIssuer::Internal { instead_of: None }, named: Vec::new() }),
            false => {
                let remark = |text: String| problem(Severity::Error, text);
                self.issuers.by_names(context, &id.0.namespace, names, remark)
            }
        };
        let (issuer, content, named) = match chosen {
            Ok(Chosen { issuer: WantedIssuer::Acme(issuers), named }) => {
                match self.certifiable(content, &issuers, &BTreeMap::new()) {
                    (content, Ok(able), refused) => {
                        for refusal in refused {
                            problem(Severity::Error, format!("{}; it is left out", refusal.message));
                        }
                        (WantedIssuer::Acme(able), content, named)
                    }
                    (content, Err(refusal), _) => {
                        problem(Severity::Error, refusal.message.clone());
                        (WantedIssuer::Internal { instead_of: Some(refusal.message) }, content, Vec::new())
                    }
                }
            }
            Ok(Chosen { issuer, named }) => (issuer, content, named),
            Err(why) => {
                problem(Severity::Error, why.text.clone());
                (WantedIssuer::Internal { instead_of: Some(why.text) }, content, Vec::new())
            }
        };
        let issuer = match issuer {
            WantedIssuer::Internal { instead_of: Some(_) } if is_supplied(context, id) => return,
            WantedIssuer::Internal { instead_of: Some(why) } if !may_stand_in(context) => WantedIssuer::Nobody { why },
            issuer => issuer,
        };
        let is_acme = matches!(issuer, WantedIssuer::Acme(_));
        let wanted = self.want(id, issuer.clone());
        wanted.certificate.issuer = issuer;
        wanted.certificate.key = wish.key;
        wanted.certificate.profile.clone_from(&wish.profile);
        if is_acme {
            wanted.certificate.renew_before = std::time::Duration::ZERO;
        }
        wanted.names.extend(content.names);
        wanted.addresses.extend(content.addresses);
        wanted.named = named;
        wanted.by.insert(format!("certificate {id} of edge.toml"));
    }

    /// What of the content somebody can certify as a whole, who, and why the rest is left out. Where nothing can be
    /// certified, all of the content comes back with the first reason.
    fn certifiable(
        &self,
        content: Content,
        issuers: &[IssuerId],
        labels: &BTreeMap<String, String>,
    ) -> (Content, Result<Vec<IssuerId>, Refusal>, Vec<Refusal>) {
        let mut able: Option<Vec<IssuerId>> = None;
        let mut refused = Vec::new();
        let mut check = |subject: Subject<'_>| {
            let who = able.clone().unwrap_or_else(|| issuers.to_vec());
            match judge(subject, self.issuers.acme(&who), labels) {
                Ok(found) => {
                    able = Some(found);
                    true
                }
                Err(refusal) => {
                    refused.push(refusal);
                    false
                }
            }
        };
        let mut good = content.clone();
        good.names.retain(|name| check(Subject::Name(name)));
        good.addresses.retain(|address| check(Subject::Address(*address)));
        match (able, refused.is_empty()) {
            (Some(able), _) => (good, Ok(able), refused),
            (None, false) => {
                let first = refused.swap_remove(0);
                (content, Err(first), refused)
            }
            (None, true) => {
                let message = "it has no DNS name and no address that ACME could certify".to_owned();
                (content, Err(Refusal { reason: super::names::NOT_ISSUABLE, message }), refused)
            }
        }
    }
}

#[derive(Debug, Clone)]
struct Content {
    names: Vec<Box<str>>,
    addresses: Vec<std::net::IpAddr>,
}

/// Whether an object is cert-manager's to act on.
fn is_of_cert_manager(context: &Context<'_>, meta: &Meta) -> bool {
    let inputs = context.inputs;
    inputs.settings.certificates.mode == CertificateMode::Defer || (inputs.cert_manager.is_some() && meta.is_served())
}

fn report(kind: Kind, meta: &Meta, condition: Condition) -> (ObjectRef, ObjectReport) {
    let report = ObjectReport { generation: meta.generation, conditions: vec![condition], ..ObjectReport::default() };
    (ObjectRef::new(kind, meta.key.clone()), report)
}
