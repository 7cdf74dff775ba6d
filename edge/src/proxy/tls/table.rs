//! The TLS side of a generation: what each listener terminates with and what each upstream is called with.
//!
//! In flow a snapshot, the certificates at hand and the table of the generation before; out flow a [`TlsTable`] and a
//! reason for everything that cannot be as configured. Made on the control side, shared by all workers. What did not
//! change is taken over; sessions are resumed whether or not it did, and at every edge of a fleet ([`super::tickets`]),
//! but never pass from one listener to another, nor from one client-certificate rule to another (CVE-2025-23419).

use std::collections::HashMap;
use std::sync::Arc;

use edge_config::names::{CertId, ObjectRef};
use edge_config::settings::TlsRecords;
use edge_config::snapshot::{
    CertificateDemands, ClientValidation, Listener, ListenerId, ListenerServe, Snapshot, Terminate, TlsParameters,
    TrustId, UpstreamId, UpstreamKey, UpstreamProtocol, UpstreamTls,
};
use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::server::NoServerSessionStorage;
use rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion};

use super::demands::Prepared;
use super::provider;
use super::resolver::Resolver;
use super::tickets::{TicketContext, Tickets};
use super::trust::TrustStore;
use super::verify::{ClientMode, ClientVerifier, UpstreamVerifier};
use crate::certs::table::{CertEntry, CertTable};
use crate::proxy::h3::quic_config;

/// TLS 1.3 tickets after a full handshake: a browser opens a few connections at once and may use each only once. After a
/// resumed one, the ticket that was used is replaced.
const TICKETS: usize = 2;
const TICKETS_RESUMED: usize = 1;
/// Sessions kept per upstream; every endpoint of it answers to the same name, which is the key of the store.
const UPSTREAM_SESSIONS: usize = 8;

#[derive(Debug, Default)]
pub struct TlsTable {
    listeners: Vec<Option<Arc<Served>>>,
    upstreams: Vec<Option<Arc<Called>>>,
    trust: HashMap<Vec<Arc<[u8]>>, Arc<TrustStore>>,
    /// Read once: the files of the operating system change with its packages, at which Edge is restarted.
    system: Option<Arc<TrustStore>>,
}

/// What a connection to an upstream needs.
#[derive(Debug, Clone)]
pub struct UpstreamConfig {
    pub config: Arc<ClientConfig>,
    /// Sent as SNI.
    pub name: ServerName<'static>,
}

/// Something that cannot be as configured. Traffic that does not need it goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsReason {
    pub subject: TlsSubject,
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsSubject {
    Listener(ListenerId),
    Upstream(UpstreamId),
    Trust(TrustId),
    SystemTrust,
}

impl TlsTable {
    /// For a client that offers a session (`resumes`) or does not. `None` for a listener that terminates no TLS, or has no
    /// certificate at all: the connection is closed.
    pub fn listener(&self, id: ListenerId, resumes: bool) -> Option<&Arc<ServerConfig>> {
        let served = self.listeners.get(id.index())?.as_ref()?;
        Some(if resumes { &served.resuming } else { &served.config })
    }

    /// For a client that comes by QUIC. `None` for a listener that does not speak it, or has no certificate at all.
    pub fn quic(&self, id: ListenerId) -> Option<&Arc<ServerConfig>> {
        self.listeners.get(id.index())?.as_ref()?.quic.as_ref()
    }

    /// `None` for an upstream without TLS; the error is why its TLS cannot be used, and it must not be called without.
    pub fn upstream(&self, id: UpstreamId) -> Option<Result<&UpstreamConfig, &str>> {
        let called = self.upstreams.get(id.index())?.as_ref()?;
        Some(called.result.as_ref().map_err(|why| &**why))
    }
}

#[derive(Debug)]
struct Served {
    parent: ObjectRef,
    name: Box<str>,
    context: Context,
    entries: Vec<Arc<CertEntry>>,
    config: Arc<ServerConfig>,
    /// The same but for the number of tickets.
    resuming: Arc<ServerConfig>,
    quic: Option<Arc<ServerConfig>>,
}

/// What a session is bound to, besides the listener.
#[derive(Debug, Clone)]
struct Context {
    http: bool,
    http3: bool,
    parameters: Option<Arc<TlsParameters>>,
    records: TlsRecords,
    client: Option<(ClientMode, Arc<TrustStore>, Option<Arc<CertificateDemands>>)>,
}

impl PartialEq for Context {
    fn eq(&self, other: &Self) -> bool {
        let client = match (&self.client, &other.client) {
            (None, None) => true,
            (Some((mode, trust, demands)), Some((other_mode, other_trust, other_demands))) => {
                mode == other_mode && Arc::ptr_eq(trust, other_trust) && demands == other_demands
            }
            _ => false,
        };
        client
            && self.http == other.http
            && self.http3 == other.http3
            && self.records == other.records
            && self.parameters == other.parameters
    }
}

#[derive(Debug)]
struct Called {
    key: UpstreamKey,
    tls: UpstreamTls,
    protocol: UpstreamProtocol,
    trust: Arc<TrustStore>,
    client: Option<Arc<CertEntry>>,
    result: Result<UpstreamConfig, Box<str>>,
}

/// Builds the table of a generation.
pub fn tls_table(
    snapshot: &Snapshot,
    certificates: &CertTable,
    records: TlsRecords,
    tickets: &Tickets,
    previous: Option<&TlsTable>,
) -> (TlsTable, Vec<TlsReason>) {
    let empty = TlsTable::default();
    let mut build = Build {
        snapshot,
        certificates,
        records,
        tickets,
        previous: previous.unwrap_or(&empty),
        table: TlsTable::default(),
        reasons: Vec::new(),
    };
    let served: HashMap<(&ObjectRef, &str), &Arc<Served>> =
        build.previous.listeners.iter().flatten().map(|served| ((&served.parent, &*served.name), served)).collect();
    let called: HashMap<&UpstreamKey, &Arc<Called>> =
        build.previous.upstreams.iter().flatten().map(|called| (&called.key, called)).collect();
    for (id, listener) in (0..).map(ListenerId).zip(&snapshot.listeners) {
        let before = served.get(&(&listener.parent, &*listener.name)).copied();
        let entry = build.listener(id, listener, before);
        build.table.listeners.push(entry);
    }
    for (id, upstream) in (0..).map(UpstreamId).zip(&snapshot.upstreams) {
        let entry = upstream.tls.as_ref().map(|tls| build.upstream(id, tls, called.get(&upstream.key).copied()));
        build.table.upstreams.push(entry);
    }
    (build.table, build.reasons)
}

struct Build<'a> {
    snapshot: &'a Snapshot,
    certificates: &'a CertTable,
    records: TlsRecords,
    tickets: &'a Tickets,
    previous: &'a TlsTable,
    table: TlsTable,
    reasons: Vec<TlsReason>,
}

impl Build<'_> {
    fn reason(&mut self, subject: TlsSubject, text: String) {
        self.reasons.push(TlsReason { subject, text });
    }

    fn listener(&mut self, id: ListenerId, listener: &Listener, before: Option<&Arc<Served>>) -> Option<Arc<Served>> {
        let (terminate, http) = match &listener.serve {
            ListenerServe::Https { tls, .. } => (tls, true),
            ListenerServe::TlsTerminate { tls, .. } => (tls, false),
            ListenerServe::Http { .. }
            | ListenerServe::TlsPassthrough { .. }
            | ListenerServe::Tcp { .. }
            | ListenerServe::Udp { .. } => return None,
        };
        let entries = self.entries(id, terminate);
        if entries.is_empty() {
            self.reason(TlsSubject::Listener(id), "no certificate at hand: connections are closed".into());
            return None;
        }
        let client = asked(terminate.client_validation)
            .map(|(mode, trust)| (mode, self.trust(trust), terminate.demands.clone()));
        let http3 = listener.client.http3;
        let context = Context { http, http3, parameters: terminate.parameters.clone(), records: self.records, client };
        let served = |entries, context, config: ServerConfig, quic: Option<ServerConfig>| {
            let (parent, name) = (listener.parent.clone(), listener.name.clone());
            let mut resuming: ServerConfig = ServerConfig::clone(&config);
            resuming.send_tls13_tickets = config.send_tls13_tickets.min(TICKETS_RESUMED);
            let (config, resuming) = (Arc::new(config), Arc::new(resuming));
            Some(Arc::new(Served { parent, name, context, entries, config, resuming, quic: quic.map(Arc::new) }))
        };
        let Some(before) = before.filter(|before| before.context == context) else {
            let tickets = self.ticket_context(listener, terminate, if http { "http" } else { "stream" });
            let config = self.server_config(id, &entries, &context, tickets)?;
            let quic = http3.then(|| {
                quic_config(&config, || self.tickets.ticketer(self.ticket_context(listener, terminate, "http3")))
            });
            return served(entries, context, config, quic.flatten());
        };
        if before.entries.len() == entries.len() && before.entries.iter().zip(&entries).all(|(a, b)| Arc::ptr_eq(a, b))
        {
            return Some(Arc::clone(before));
        }
        let mut config = before.config.as_ref().clone();
        config.cert_resolver = Arc::new(Resolver::new(entries.clone()));
        let quic = before.quic.as_deref().map(|quic| {
            let mut quic = quic.clone();
            quic.cert_resolver = Arc::clone(&config.cert_resolver);
            quic
        });
        served(entries, context, config, quic)
    }

    fn entries(&mut self, id: ListenerId, terminate: &Terminate) -> Vec<Arc<CertEntry>> {
        let mut entries = Vec::with_capacity(terminate.certificates.len());
        for certificate in &terminate.certificates {
            match self.certificates.entry(certificate) {
                Some(entry) => entries.push(Arc::clone(entry)),
                None => self.missing(TlsSubject::Listener(id), certificate),
            }
        }
        entries
    }

    fn missing(&mut self, subject: TlsSubject, certificate: &CertId) {
        self.reason(subject, format!("certificate {certificate} is not at hand"));
    }

    /// The same for this listener at every edge, as long as what is asked of clients stays the same.
    fn ticket_context(&self, listener: &Listener, terminate: &Terminate, protocol: &str) -> TicketContext {
        let mode = match terminate.client_validation {
            ClientValidation::Off => "off",
            ClientValidation::Required { .. } => "required",
            ClientValidation::Requested { .. } => "requested",
            ClientValidation::IfGiven { .. } => "if-given",
            ClientValidation::Any { .. } => "any",
        };
        let trust = terminate.client_validation.trust();
        let (parent, port) = (listener.parent.to_string(), listener.port.to_be_bytes());
        let trusted = trust.and_then(|trust| self.snapshot.trust.get(trust.index()));
        let trusted = trusted.into_iter().flat_map(|trust| trust.certificates.iter().map(|certificate| &**certificate));
        let parts = [parent.as_bytes(), listener.name.as_bytes(), &port, protocol.as_bytes(), mode.as_bytes()];
        TicketContext::of(parts.into_iter().chain(trusted))
    }

    fn server_config(
        &mut self,
        id: ListenerId,
        entries: &[Arc<CertEntry>],
        context: &Context,
        tickets: TicketContext,
    ) -> Option<ServerConfig> {
        let (provider, versions) = match &context.parameters {
            None => (Arc::clone(provider()), rustls::DEFAULT_VERSIONS),
            Some(parameters) => narrowed(parameters),
        };
        let builder = match ServerConfig::builder_with_provider(provider).with_protocol_versions(versions) {
            Ok(builder) => builder,
            Err(error) => {
                self.reason(TlsSubject::Listener(id), error.to_string());
                return None;
            }
        };
        let builder = match &context.client {
            None => builder.with_no_client_auth(),
            Some((mode, trust, demands)) => {
                let demands = match demands.as_ref().map(Prepared::new).transpose() {
                    Ok(demands) => demands,
                    Err(why) => {
                        self.reason(TlsSubject::Listener(id), why);
                        return None;
                    }
                };
                builder.with_client_cert_verifier(Arc::new(ClientVerifier::new(Arc::clone(trust), *mode, demands)))
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(Resolver::new(entries.to_vec())));
        if context.http {
            let wish = context.parameters.as_ref().and_then(|parameters| parameters.alpn.as_deref());
            let names = wish.unwrap_or(&["h2", "http/1.1"]);
            config.alpn_protocols = names.iter().map(|name| name.as_bytes().to_vec()).collect();
        }
        // What Records are made from.
        config.enable_secret_extraction = context.records == TlsRecords::Own;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        // A resumed session is not verified again. Where certificates are verified, each connection shows its own anew: a
        // CA that is taken away, or a certificate that ends, then counts from the next connection on.
        if !context.client.as_ref().is_some_and(|(mode, ..)| mode.verifies()) {
            config.ticketer = self.tickets.ticketer(tickets);
            config.send_tls13_tickets = TICKETS;
        }
        Some(config)
    }

    fn upstream(&mut self, id: UpstreamId, tls: &UpstreamTls, before: Option<&Arc<Called>>) -> Arc<Called> {
        let trust = match tls.trust {
            Some(trust) => self.trust(trust),
            None => self.system(),
        };
        let client = tls.client_certificate.as_ref().and_then(|certificate| {
            let entry = self.certificates.entry(certificate).cloned();
            if entry.is_none() {
                self.missing(TlsSubject::Upstream(id), certificate);
            }
            entry
        });
        let upstream = &self.snapshot.upstreams[id.index()];
        let unchanged = before.filter(|before| {
            before.tls == *tls
                && before.protocol == upstream.protocol
                && Arc::ptr_eq(&before.trust, &trust)
                && before.client.as_ref().map(Arc::as_ptr) == client.as_ref().map(Arc::as_ptr)
        });
        if let Some(before) = unchanged {
            return Arc::clone(before);
        }
        let result = client_config(tls, upstream.protocol, &trust, client.as_ref());
        if let Err(why) = &result {
            self.reason(TlsSubject::Upstream(id), why.to_string());
        }
        let (key, tls, protocol) = (upstream.key.clone(), tls.clone(), upstream.protocol);
        Arc::new(Called { key, tls, protocol, trust, client, result })
    }

    /// Stores are compared by identity, so equal content must give the same store.
    fn trust(&mut self, id: TrustId) -> Arc<TrustStore> {
        let certificates = self.snapshot.trust.get(id.index()).map_or(&[][..], |trust| &trust.certificates);
        if let Some(store) = self.table.trust.get(certificates) {
            return Arc::clone(store);
        }
        let store = match self.previous.trust.get(certificates) {
            Some(store) => Arc::clone(store),
            None => {
                let (store, reasons) = TrustStore::new(certificates);
                reasons.into_iter().for_each(|text| self.reason(TlsSubject::Trust(id), text));
                Arc::new(store)
            }
        };
        self.table.trust.insert(certificates.to_vec(), Arc::clone(&store));
        store
    }

    fn system(&mut self) -> Arc<TrustStore> {
        if let Some(store) = self.table.system.as_ref().or(self.previous.system.as_ref()) {
            let store = Arc::clone(store);
            self.table.system = Some(Arc::clone(&store));
            return store;
        }
        let (store, reasons) = TrustStore::system();
        reasons.into_iter().for_each(|text| self.reason(TlsSubject::SystemTrust, text));
        if store.is_empty() {
            self.reason(
                TlsSubject::SystemTrust,
                "the system has no CA certificates: no upstream can be verified".into(),
            );
        }
        Arc::clone(self.table.system.insert(Arc::new(store)))
    }
}

fn asked(validation: ClientValidation) -> Option<(ClientMode, TrustId)> {
    match validation {
        ClientValidation::Off => None,
        ClientValidation::Required { trust } => Some((ClientMode::Required, trust)),
        ClientValidation::Requested { trust } => Some((ClientMode::Requested, trust)),
        ClientValidation::IfGiven { trust } => Some((ClientMode::IfGiven, trust)),
        ClientValidation::Any { trust } => Some((ClientMode::Any, trust)),
    }
}

/// What is left of all that we offer.
fn narrowed(parameters: &TlsParameters) -> (Arc<CryptoProvider>, &'static [&'static SupportedProtocolVersion]) {
    let TlsParameters { tls12, tls13, ciphers, groups, alpn: _ } = parameters;
    let mut provider = CryptoProvider::clone(provider());
    if !ciphers.is_empty() {
        provider.cipher_suites.retain(|suite| {
            suite.tls13().is_some() || suite.suite().as_str().is_some_and(|name| ciphers.contains(&name))
        });
    }
    if !groups.is_empty() {
        provider.kx_groups.retain(|group| group.name().as_str().is_some_and(|name| groups.contains(&name)));
    }
    static TLS12: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS12];
    static TLS13: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];
    let versions: &[&SupportedProtocolVersion] = match (tls12, tls13) {
        (true, false) => &TLS12,
        (false, true) => &TLS13,
        _ => rustls::DEFAULT_VERSIONS,
    };
    (Arc::new(provider), versions)
}

fn client_config(
    tls: &UpstreamTls,
    protocol: UpstreamProtocol,
    trust: &Arc<TrustStore>,
    client: Option<&Arc<CertEntry>>,
) -> Result<UpstreamConfig, Box<str>> {
    let name = ServerName::try_from(tls.hostname.to_string())
        .map_err(|_| format!("hostname {:?} cannot be a TLS server name", tls.hostname))?;
    let verifier: Arc<dyn ServerCertVerifier> = Arc::new(UpstreamVerifier::new(Arc::clone(trust), tls));
    let (provider, versions) = match &tls.parameters {
        None => (Arc::clone(provider()), rustls::DEFAULT_VERSIONS),
        Some(parameters) => narrowed(parameters),
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match client {
        Some(entry) => builder
            .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(Arc::clone(&entry.certified)))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = match protocol {
        UpstreamProtocol::Http1 => vec![b"http/1.1".to_vec()],
        UpstreamProtocol::Http2 => vec![b"h2".to_vec()],
        UpstreamProtocol::Stream => Vec::new(),
    };
    config.resumption = Resumption::in_memory_sessions(UPSTREAM_SESSIONS);
    Ok(UpstreamConfig { config: Arc::new(config), name })
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
