//! `[issuers.NAME]` and `[webhooks."GROUP/SOLVER"]`: ACME issuers, and who writes DNS records for them. Secrets are named
//! by their files.

use super::{Section, Sink, not_empty, path};
use crate::issuer::{
    AcmeIssuer, DnsProvider, ExternalAccount, IssuerId, NameSelector, SecretSource, ServerAddress, Solve, Solver, Tsig,
    TsigAlgorithm, UrlHost,
};
use crate::names::{HostPattern, Hostname, Kind};
use crate::settings::{IssuerName, IssuerSettings, Settings};
use crate::suggest;
use crate::validate::{is_email, is_object_name};
use crate::yaml::Quoted;

pub(super) fn issuers(root: &mut Section<'_>, settings: &mut IssuerSettings, sink: &mut Sink<'_>) {
    for (name, section) in root.named_sections(sink, "issuers") {
        if !is_object_name(Kind::ClusterIssuer, &name) {
            section.error(sink, "has no proper name, expected lower-case letters, digits, '-' and '.'");
        }
        if let Some(issuer) = issuer(&name, section, sink) {
            settings.acme.insert(name, issuer);
        }
    }
    for (name, mut section) in root.named_sections(sink, "webhooks") {
        if !name.split_once('/').is_some_and(|(group, solver)| !group.is_empty() && !solver.is_empty()) {
            section.error(sink, "has no proper name, expected \"groupName/solverName\" of the webhook");
        }
        let provider = provider(&mut section, sink);
        section.finish(sink);
        if let Some(provider) = provider {
            settings.webhooks.insert(name, provider);
        }
    }
}

/// Names that can only be meant for this file have to be in it.
pub(super) fn known(settings: &Settings, sink: &mut Sink<'_>, (start, wishes): (usize, usize)) {
    let issuers = &settings.issuers;
    let lists = issuers.certificates.iter().map(|wish| (wishes, "certificate.issuers", &wish.issuers));
    for (start, place, names) in
        std::iter::once((start, "certificates.issuers", &settings.certificates.issuers)).chain(lists)
    {
        for name in names {
            if let IssuerName::Toml(name) = name
                && !issuers.acme.contains_key(name)
            {
                let hint = suggest::hint(name, issuers.acme.keys().map(String::as_str));
                sink.error(start..start, format!("{place}: there is no [issuers.{name}]{hint}"));
            }
        }
    }
}

fn issuer(name: &str, mut section: Section<'_>, sink: &mut Sink<'_>) -> Option<AcmeIssuer> {
    let directory = section.required(sink, "directory", |text| match UrlHost::directory(text) {
        Ok(url) => Ok((Box::<str>::from(text), url)),
        Err(why) => Err(format!("{} {why}", Quoted(text))),
    });
    let contacts = section.list(sink, "contacts", |text| match is_email(text) {
        true => Ok(Box::<str>::from(text)),
        false => Err(format!("{} is no e-mail address", Quoted(text))),
    });
    let profile = section.parsed(sink, "profile", not_empty).map(Into::into);
    let preferred_chain = section.parsed(sink, "preferred_chain", not_empty).map(Into::into);
    let trust_file = section.parsed(sink, "ca_file", path);
    let public = section.boolean(sink, "public");
    let create_account = section.boolean(sink, "create_account").unwrap_or(true);
    let external_account = section.section(sink, "external_account").and_then(|mut section| {
        let key_id = section.required(sink, "key_id", not_empty);
        let key = section.required(sink, "key_file", path);
        section.finish(sink);
        Some(ExternalAccount { key_id: key_id?.into(), key: SecretSource::File(key?) })
    });
    let has_solvers = section.has("solver");
    let mut solvers: Vec<Solver> = Vec::new();
    for section in section.sections(sink, "solver") {
        solvers.extend(solver(section, sink));
    }
    if !has_solvers {
        solvers.push(Solver { names: NameSelector::default(), solve: Solve::Http01 });
    }
    section.finish(sink);
    let (directory, url) = directory?;
    // With trust of its own, or where nobody else gets to, it is nobody else's CA.
    let is_public = public.unwrap_or_else(|| url.is_public() && trust_file.is_none());
    Some(AcmeIssuer {
        id: IssuerId(format!("issuers.{name}").into()),
        directory,
        contacts: contacts.unwrap_or_default(),
        account_secret: None,
        create_account,
        external_account,
        profile,
        preferred_chain,
        trust: None,
        trust_file,
        insecure: false,
        private: !is_public,
        solvers,
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kinds {
    Http01,
    TlsAlpn01,
    Dns01,
}

fn solver(mut section: Section<'_>, sink: &mut Sink<'_>) -> Option<Solver> {
    if !section.has("type") {
        section.error(sink, "type is missing, expected http-01, tls-alpn-01 or dns-01");
    }
    let kinds = [("http-01", Kinds::Http01), ("tls-alpn-01", Kinds::TlsAlpn01), ("dns-01", Kinds::Dns01)];
    let kind = section.word(sink, "type", &kinds);
    let dns_names = section.list(sink, "names", |text| match HostPattern::parse(Some(text)) {
        Ok(HostPattern::Exact(_) | HostPattern::Wildcard(_)) => Ok(Box::<str>::from(text)),
        Ok(HostPattern::Any) => Err("is empty".to_owned()),
        Err(why) => Err(format!("{} {why}", Quoted(text))),
    });
    let dns_zones = section.list(sink, "zones", |text| match Hostname::parse(text) {
        Ok(_) => Ok(Box::<str>::from(text)),
        Err(why) => Err(format!("{} {why}", Quoted(text))),
    });
    let labels = section.texts(sink, "labels");
    let names = NameSelector {
        labels: labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect(),
        dns_names: dns_names.unwrap_or_default(),
        dns_zones: dns_zones.unwrap_or_default(),
    };
    let solve = match kind {
        Some(Kinds::Http01) => Some(Solve::Http01),
        Some(Kinds::TlsAlpn01) => Some(Solve::TlsAlpn01),
        Some(Kinds::Dns01) => {
            let follow_cname = section.boolean(sink, "follow_cname").unwrap_or(true);
            provider(&mut section, sink).map(|provider| Solve::Dns01 { provider, follow_cname })
        }
        None => {
            // Its keys are looked at once it is known what they belong to.
            return None;
        }
    };
    section.finish(sink);
    Some(Solver { names, solve: solve? })
}

fn file(section: &mut Section<'_>, sink: &mut Sink<'_>, key: &'static str) -> Option<SecretSource> {
    section.required(sink, key, path).map(SecretSource::File)
}

fn url(text: &str) -> Result<Box<str>, String> {
    UrlHost::parse(text).map(|_| text.into()).map_err(|why| format!("{} {why}", Quoted(text)))
}

/// The keys of a DNS provider; others belong to none.
fn provider(section: &mut Section<'_>, sink: &mut Sink<'_>) -> Option<DnsProvider> {
    #[derive(Clone, Copy)]
    enum Name {
        Rfc2136,
        AcmeDns,
        Cloudflare,
        Designate,
        Exec,
        Webhook,
    }
    if !section.has("provider") {
        section.error(sink, "provider is missing, expected rfc2136, acme-dns, cloudflare, designate, exec or webhook");
    }
    let names = [
        ("rfc2136", Name::Rfc2136),
        ("acme-dns", Name::AcmeDns),
        ("cloudflare", Name::Cloudflare),
        ("designate", Name::Designate),
        ("exec", Name::Exec),
        ("webhook", Name::Webhook),
    ];
    match section.word(sink, "provider", &names)? {
        Name::Rfc2136 => {
            let server = section.required(sink, "server", |text| {
                ServerAddress::name_server(text).map_err(|why| format!("{} {why}", Quoted(text)))
            });
            let tsig = tsig(section, sink);
            Some(DnsProvider::Rfc2136 { server: server?, tsig: tsig? })
        }
        Name::AcmeDns => {
            let server = section.required(sink, "server", url);
            let accounts = file(section, sink, "accounts_file");
            Some(DnsProvider::AcmeDns { server: server?, accounts: accounts? })
        }
        Name::Cloudflare => Some(DnsProvider::Cloudflare { token: file(section, sink, "token_file")? }),
        Name::Designate => {
            let clouds = file(section, sink, "clouds_file");
            let cloud = section.required(sink, "cloud", not_empty);
            Some(DnsProvider::Designate { clouds: clouds?, cloud: cloud?.into() })
        }
        Name::Exec => {
            let command = section.required(sink, "command", path);
            let arguments = section.list(sink, "arguments", |text| match text.contains('\0') {
                true => Err("has a zero byte".to_owned()),
                false => Ok(Box::<str>::from(text)),
            });
            Some(DnsProvider::Exec { command: command?, arguments: arguments.unwrap_or_default() })
        }
        Name::Webhook => {
            let url = section.required(sink, "url", url);
            let authorization = section.parsed(sink, "authorization_file", path).map(SecretSource::File);
            Some(DnsProvider::Webhook { url: url?, authorization })
        }
    }
}

/// All of its keys, or none of them.
fn tsig(section: &mut Section<'_>, sink: &mut Sink<'_>) -> Option<Option<Tsig>> {
    const KEYS: [&str; 3] = ["tsig_key_name", "tsig_key_file", "tsig_algorithm"];
    if !KEYS.iter().any(|key| section.has(key)) {
        KEYS.into_iter().for_each(|key| section.note(key));
        return Some(None);
    }
    let key_name = section.required(sink, "tsig_key_name", |text| {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        // Key names are domain names, and people write underscores into them.
        match Hostname::parse(&name.replace('_', "-")) {
            Ok(_) => Ok(Box::<str>::from(name)),
            Err(_) => Err(format!("{} is no name of a key", Quoted(text))),
        }
    });
    let key = file(section, sink, "tsig_key_file");
    let words = [
        ("hmac-sha256", TsigAlgorithm::HmacSha256),
        ("hmac-sha384", TsigAlgorithm::HmacSha384),
        ("hmac-sha512", TsigAlgorithm::HmacSha512),
    ];
    let algorithm = section.word(sink, "tsig_algorithm", &words).unwrap_or(TsigAlgorithm::HmacSha256);
    Some(Some(Tsig { key_name: key_name?, algorithm, key: key? }))
}
