//! Where the certificate of a listener comes from: its Secret as it is, an issuer, cert-manager, or the internal CA in the
//! place of one that cannot.

use super::super::context::Context;
use super::super::listeners::ListenerState;
use super::annotations::Asker;
use super::hosts::{Bereft, Pending};
use super::issuers::{Chosen, Issuers, NoIssuer};
use super::wanted::{Written, is_same, issuer_of};
use super::{Certificates, Note, Place, is_supplied, may_stand_in};
use crate::certmanager::{CertificateSpec, INTERNAL_ISSUER_GROUP, PrivateKeyAlgorithm};
use crate::inputs::Object;
use crate::names::{CertId, HostPattern};
use crate::problem::Severity;
use crate::settings::CertificateMode;
use crate::snapshot::WantedIssuer;

/// Edge's own CA, by nobody's default but Edge's own.
const INTERNAL: WantedIssuer = WantedIssuer::Internal { instead_of: None };

/// Where a listener's certificate will come from.
pub(in super::super) enum Supply {
    /// The Secret is served as it is, whether or not somebody renews it.
    Held,
    /// An issuer that was asked for will issue it.
    Issued,
    /// cert-manager will; the internal CA serves until then.
    Deferred,
    /// The internal CA stands in for this reason, for what is not held from before.
    Placeholder(Option<String>),
    /// Nobody may stand in for who cannot issue: what is held from before serves, if anything.
    LastGood(String),
    /// Nobody is asked, and nobody may stand in.
    Nothing(Option<String>),
}

/// A listener that refers to a Secret, and what is wrong with that, if anything.
pub(in super::super) struct Asked<'x, 'a> {
    pub listener: &'x ListenerState<'a>,
    pub place: Place,
    pub asker: Asker<'x>,
    pub id: &'x CertId,
    pub why: Option<&'x str>,
}

impl<'a> Certificates<'a> {
    /// Decides where the certificate of a listener comes from, and wants it.
    pub fn supply(&mut self, context: &Context<'a>, asked: &Asked<'_, '_>) -> Supply {
        let &Asked { listener, id, why, .. } = asked;
        let writer = self.issuers.writer(&id.0);
        if let Some(reason) = deferred(context, asked, writer) {
            return self.defer(context, asked, reason);
        }
        let home = &*listener.parent.namespace;
        let (resolved, is_by_listener) = if let Some(certificate) = writer {
            let home = &certificate.meta.key.namespace;
            (Some(self.issuers.by_reference(context, home, &certificate.spec.issuer_ref)), false)
        } else if let Some(wish) = Issuers::wish(context, &id.0) {
            let defaults = &context.inputs.settings.certificates.issuers;
            let names = if wish.issuers.is_empty() { defaults } else { &wish.issuers };
            // What is wrong with some of them is told where the wish itself is looked at.
            let chosen = match names.is_empty() {
                true => Ok(Chosen { issuer: WantedIssuer::Internal { instead_of: None }, named: Vec::new() }),
                false => self.issuers.by_names(context, &id.0.namespace, names, |_| {}),
            };
            (Some(chosen), false)
        } else {
            (self.asked_for(context, asked, home), true)
        };
        match resolved {
            Some(Ok(Chosen { issuer: WantedIssuer::Acme(issuers), named })) => {
                if is_by_listener {
                    self.pend(context, asked, issuers, named);
                } else {
                    self.want(id, WantedIssuer::Acme(issuers)).by.insert(listener.describe());
                    let message = match writer {
                        Some(writer) => format!("as Certificate {} has it", writer.meta.key),
                        None => "as edge.toml has it".to_owned(),
                    };
                    self.notes.push((asked.place, Note::good("Issued", message)));
                }
                if why.is_none() { Supply::Held } else { Supply::Issued }
            }
            Some(Ok(Chosen { issuer, named })) => {
                let message = match writer {
                    Some(writer) => format!("as Certificate {} has it", writer.meta.key),
                    None if !is_by_listener => "as edge.toml has it".to_owned(),
                    None => promised(&issuer, &named, &listener.hostname),
                };
                self.notes.push((asked.place, Note::good("Issued", message)));
                self.issue(context, asked, issuer, named, is_by_listener);
                if why.is_none() { Supply::Held } else { Supply::Issued }
            }
            Some(Err(away)) if why.is_none() => {
                if !away.unsupported {
                    let message = format!("{}; what Secret {id} holds is served, and not renewed", away.text);
                    self.notes.push((asked.place, Note::bad("IssuerNotReady", message)));
                }
                Supply::Held
            }
            None if why.is_none() => Supply::Held,
            other => self.stand_in(context, asked, other.and_then(Result::err), is_by_listener),
        }
    }

    /// The issuer that annotations or edge.toml name for a listener. `None`: nobody is asked.
    fn asked_for(&self, context: &Context<'a>, asked: &Asked<'_, '_>, home: &str) -> Option<Result<Chosen, NoIssuer>> {
        let Asked { listener, asker, id, .. } = asked;
        let remark = |text: String| context.problem(Severity::Error, asker.kind, asker.own, text);
        if let Some(names) = asker.issuers(context) {
            return Some(self.issuers.by_names(context, home, &names, remark));
        }
        // A listener that cert-manager is to leave alone is Edge's where Edge is to issue.
        let is_ours = !asker.ignores(&listener.spec.name) || asker.mode(context) == CertificateMode::Own;
        match asker.issuer() {
            Err(text) => {
                remark(text.clone());
                let text = format!("{} {} {text}", asker.kind, asker.own.key);
                return Some(Err(NoIssuer { text, unsupported: false }));
            }
            Ok(Some(reference)) if is_ours => return Some(self.issuers.by_reference(context, home, &reference)),
            Ok(_) => {}
        }
        let defaults = &context.inputs.settings.certificates.issuers;
        if defaults.is_empty() {
            return None;
        }
        let chosen = self.issuers.by_names(context, home, defaults, |text| {
            context.problem_in_settings(Severity::Error, format!("[certificates] issuers: {text}"));
        });
        // Nobody said of this Secret that it is to be renewed, unless it is one that was written for such a listener.
        let is_foreign = |chosen: &Chosen| {
            let secret = context.inputs.secrets.get(&id.0).filter(|_| is_supplied(context, id));
            let issuer = secret.map(|secret| issuer_of(secret));
            issuer.is_some_and(|issuer| {
                !issuer.is_some_and(|issuer| chosen.named.iter().any(|one| is_same(one, &issuer)))
            })
        };
        if chosen.as_ref().is_ok_and(is_foreign) { None } else { Some(chosen) }
    }

    /// ACME issues for a listener: which names is known once its routes are.
    fn pend(
        &mut self,
        context: &Context<'a>,
        asked: &Asked<'_, '_>,
        issuers: Vec<crate::issuer::IssuerId>,
        named: Vec<crate::certmanager::IssuerRef>,
    ) {
        let Asked { place, asker, id, .. } = asked;
        self.pending.push(Pending {
            place: *place,
            id: (*id).clone(),
            issuers,
            named,
            // No public CA has a better one than the internal CA.
            shape: asker.shape(context, PrivateKeyAlgorithm::Ecdsa, true),
            wildcard: asker.wildcard(context),
            written: asker.own.is_served().then(Written::default),
        });
    }

    fn issue(
        &mut self,
        context: &Context<'a>,
        asked: &Asked<'_, '_>,
        issuer: WantedIssuer,
        named: Vec<crate::certmanager::IssuerRef>,
        is_by_listener: bool,
    ) {
        let Asked { listener, asker, id, .. } = asked;
        // cert-manager's default key is RSA; Edge's own CA, which it does not know, has a better one.
        let usual = match issuer {
            WantedIssuer::Internal { .. } | WantedIssuer::Nobody { .. } => PrivateKeyAlgorithm::Ecdsa,
            WantedIssuer::SelfSigned | WantedIssuer::Ca(_) | WantedIssuer::Acme(_) => PrivateKeyAlgorithm::Rsa,
        };
        let shape = is_by_listener.then(|| asker.shape(context, usual, false));
        let wanted = self.want(id, issuer);
        if let Some(shape) = shape {
            wanted.shape(&shape);
            wanted.names.extend(shape.names);
            wanted.addresses.extend(shape.addresses);
            wanted.named = named;
            wanted.written = asker.own.is_served().then(Written::default);
        }
        wanted.by.insert(listener.describe());
        if listener.hostname != HostPattern::Any {
            wanted.names.insert(listener.hostname.to_string().into());
        }
    }

    fn stand_in(
        &mut self,
        context: &Context<'a>,
        asked: &Asked<'_, '_>,
        failed: Option<NoIssuer>,
        is_by_listener: bool,
    ) -> Supply {
        if let Some(why) = failed.as_ref().filter(|why| is_by_listener && !why.unsupported) {
            let (place, id) = (asked.place, asked.id.clone());
            self.bereft.push(Bereft { place, id, why: why.text.clone() });
        }
        let instead = failed.map(|why| why.text);
        if !may_stand_in(context) {
            let wanted = self.wanted.get(asked.id).map(|wanted| &wanted.certificate.issuer);
            if wanted.is_some_and(|issuer| issuer.away().is_none() && *issuer != INTERNAL) {
                return Supply::Issued;
            }
            let Some(why) = instead else { return Supply::Nothing(None) };
            self.placeholder(asked, WantedIssuer::Nobody { why: why.clone() });
            return Supply::LastGood(why);
        }
        // A Secret that is there but of no use is something that the internal CA stands in for, too.
        let is_there = context.inputs.secrets.contains_key(&asked.id.0);
        let useless = asked.why.filter(|_| is_there).map(str::to_owned);
        self.placeholder(asked, WantedIssuer::Internal { instead_of: instead.clone().or(useless) });
        Supply::Placeholder(instead)
    }

    fn placeholder(&mut self, asked: &Asked<'_, '_>, issuer: WantedIssuer) {
        let wanted = self.want(asked.id, issuer);
        wanted.by.insert(asked.listener.describe());
        if asked.listener.hostname != HostPattern::Any {
            wanted.names.insert(asked.listener.hostname.to_string().into());
        }
    }

    fn defer(&mut self, context: &Context<'a>, asked: &Asked<'_, '_>, reason: String) -> Supply {
        if asked.why.is_none() {
            self.notes.push((asked.place, Note::good("Deferred", reason)));
            return Supply::Held;
        }
        if !may_stand_in(context) {
            self.placeholder(asked, WantedIssuer::Nobody { why: reason.clone() });
            return Supply::LastGood(reason);
        }
        self.placeholder(asked, WantedIssuer::Internal { instead_of: Some(reason.clone()) });
        self.notes.push((asked.place, Note::bad("Deferred", reason)));
        Supply::Deferred
    }
}

/// `Issuer ca issues a.example`
fn promised(issuer: &WantedIssuer, named: &[crate::certmanager::IssuerRef], hostname: &HostPattern) -> String {
    let issuer = match (issuer, named.first()) {
        (_, Some(named)) => format!("{} {}", named.kind, named.name),
        (WantedIssuer::Ca(id), None) => format!("CA {id}"),
        (WantedIssuer::SelfSigned, None) => "its own key".to_owned(),
        (WantedIssuer::Internal { .. } | WantedIssuer::Acme(_) | WantedIssuer::Nobody { .. }, None) => {
            "the internal CA".to_owned()
        }
    };
    match hostname {
        HostPattern::Any => format!("{issuer} issues it"),
        hostname => format!("{issuer} issues {hostname}"),
    }
}

/// Whether a Secret is cert-manager's to write, and why: two issuers of one Secret would take turns for ever.
fn deferred(context: &Context<'_>, asked: &Asked<'_, '_>, writer: Option<&Object<CertificateSpec>>) -> Option<String> {
    let Asked { listener, asker, id, .. } = asked;
    let named = asker.issuer().ok().flatten().filter(|_| !asker.ignores(&listener.spec.name));
    let named = named.filter(|issuer| issuer.group != INTERNAL_ISSUER_GROUP);
    let mode = asker.mode(context);
    if mode == CertificateMode::Defer {
        let is_its_own = writer.is_some() || named.is_some();
        return is_its_own.then(|| format!("cert-manager issues Secret {id}, as the mode \"defer\" has it"));
    }
    let cert_manager = context.inputs.cert_manager.as_ref()?;
    let writer = writer.filter(|writer| writer.meta.is_served());
    let named = named.filter(|_| asker.own.is_served() && cert_manager.gateways);
    let by = match (writer, named) {
        (Some(writer), _) => format!("by Certificate {}", writer.meta.key),
        (None, Some(issuer)) => format!("by annotation for {} {}", issuer.kind, issuer.name),
        (None, None) => return None,
    };
    if mode == CertificateMode::Own {
        let message = format!(
            "mode \"own\" is not in effect for listener {}: cert-manager runs and issues Secret {id} {by}; \
             remove that, or name the listener in the annotation cert-manager.io/ignore-tls-listeners",
            listener.spec.name
        );
        context.problem(Severity::Error, asker.kind, asker.own, message);
    }
    Some(format!("cert-manager issues Secret {id} {by}"))
}
