//! What one ClientTrafficPolicy comes to, over what edge.toml says. A value that cannot be honoured spoils the policy: half
//! of one would be nobody's wish.

use std::sync::Arc;
use std::time::Duration;

use super::validation::{Validation, certificate_field, validation};
use crate::compile::context::{Context, Fault};
use crate::compile::listener_headers::listener_headers;
use crate::compile::policies::invalid;
use crate::compile::ports::client_settings;
use crate::envoy::{
    AlpnProtocol, ClientHeaders, ClientIpDetection, ClientTimeout, ClientTls, ClientTrafficPolicySpec,
    EscapedSlashesAction, Http2Settings, PathSettings, RequestIdAction, TcpKeepalive, TlsVersion, UnderscoresAction,
};
use crate::inputs::Object;
use crate::policy::{
    ClientKeepalive, ClientRules, ConnectionLimit, Detection, Http2Bounds, RequestId, TlsParameters, Underscores, Waits,
};
use crate::settings::{EscapedSlashes, ProxySettings, RepeatedSlashes};
use crate::snapshot::ClientSettings;
use crate::wire::GepDuration;

/// A connection that is not served has a descriptor all the same.
const LONGEST_CLOSE_DELAY: Duration = Duration::from_secs(60);
/// Stands for "no timeout" where a duration is needed; far enough away, and safe to add to a clock.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

#[derive(Debug, Clone)]
pub(super) struct Client {
    pub settings: ClientSettings,
    pub tls: Option<Arc<TlsParameters>>,
    pub keepalive: Option<ClientKeepalive>,
    pub validation: Option<Validation>,
}

pub(super) fn client(context: &Context<'_>, policy: &Object<ClientTrafficPolicySpec>) -> Result<Client, Fault> {
    let of_client = policy.spec.tls.as_ref().and_then(|tls| tls.client_validation.as_ref());
    let validation = of_client.map(|spec| validation(context, &policy.meta.key, spec)).transpose()?;
    let client = values(&policy.spec, &context.inputs.settings.proxy).map_err(invalid)?;
    Ok(Client { validation, ..client })
}

/// Everything but the validation of clients.
fn values(spec: &ClientTrafficPolicySpec, proxy: &ProxySettings) -> Result<Client, String> {
    let mut settings = client_settings(proxy);
    let mut rules = ClientRules::default();
    let mut waits = Waits::default();
    if let Some(detection) = &spec.client_ip_detection {
        client_ip(detection, &mut settings, &mut rules)?;
    }
    if let Some(connection) = &spec.connection {
        settings.buffer_limit = connection.buffer_limit.map(|limit| limit.0);
        if let Some(limit) = connection.connection_limit {
            waits.keep.requests = limit.max_requests_per_connection.filter(|most| *most > 0);
            waits.keep.age = limit.max_connection_duration.and_then(or_never);
            settings.connection_limit = connection_limit(limit)?;
        }
    }
    if let Some(path) = &spec.path {
        paths(path, &mut settings);
    }
    if let Some(timeout) = &spec.timeout {
        timeouts(timeout, &mut settings, &mut waits);
    }
    if let Some(headers) = &spec.headers {
        fields(headers, &mut rules);
        rules.certificate = headers.x_forwarded_client_cert.as_ref().map(certificate_field).transpose()?.flatten();
        settings.headers = listener_headers(headers)?;
        settings.rate_limit_headers = headers.disable_rate_limit_headers != Some(true);
    }
    if let Some(check) = &spec.health_check {
        if !check.path.starts_with('/') {
            return Err(format!("healthCheck.path {:?} is no path, expected one that begins with '/'", check.path));
        }
        rules.health_path = Some(check.path.as_str().into());
    }
    settings.http2 = spec.http2.as_ref().map(http2).filter(|bounds| *bounds != Http2Bounds::default());
    settings.http3 = spec.http3.is_some();
    settings.rules = rules.or_none();
    settings.waits = waits.or_none();
    let wish = |tls: &ClientTls| {
        let versions = (&tls.min_version, &tls.max_version);
        tls_parameters(versions, &tls.ciphers, &tls.ecdh_curves, tls.alpn_protocols.as_deref())
    };
    let tls = spec.tls.as_ref().map(|tls| wish(tls)).transpose()?;
    let keepalive = spec.tcp_keepalive.map(keepalive).transpose()?;
    let tls = tls.filter(|tls| *tls != TlsParameters::default()).map(Arc::new);
    Ok(Client { settings, tls, keepalive, validation: None })
}

fn connection_limit(limit: crate::envoy::ConnectionLimit) -> Result<Option<ConnectionLimit>, String> {
    let delay = limit.close_delay.map_or(Duration::ZERO, |delay| delay.0);
    match limit.value {
        Some(0) => Err("connection.connectionLimit.value 0, expected at least 1".to_owned()),
        None if limit.close_delay.is_some() => {
            Err("connection.connectionLimit.closeDelay is for a limit with a value".to_owned())
        }
        _ if delay > LONGEST_CLOSE_DELAY => {
            Err(format!("connection.connectionLimit.closeDelay {}, expected at most 60s", GepDuration(delay)))
        }
        None => Ok(None),
        Some(most) => Ok(Some(ConnectionLimit { most, close_delay: delay })),
    }
}

fn or_never(duration: GepDuration) -> Option<Duration> {
    (!duration.0.is_zero()).then_some(duration.0)
}

fn client_ip(
    detection: &ClientIpDetection,
    settings: &mut ClientSettings,
    rules: &mut ClientRules,
) -> Result<(), String> {
    if detection.direct_source_ip.is_some() {
        settings.trusted_hops = 0;
    }
    if let Some(header) = &detection.custom_header {
        rules.detection = Some(Detection::Field {
            name: header.name.to_ascii_lowercase().into(),
            is_required: header.fail_closed == Some(true),
        });
    }
    let Some(forwarded) = &detection.x_forwarded_for else { return Ok(()) };
    if let Some(hops) = forwarded.num_trusted_hops {
        settings.trusted_hops = hops;
    }
    if !forwarded.trusted_cidrs.is_empty() {
        let networks = forwarded.trusted_cidrs.iter().map(|text| {
            let wrong = |_| format!("clientIPDetection.xForwardedFor.trustedCIDRs: {text:?} is no network");
            text.parse::<ipnet::IpNet>().map(|network| network.trunc()).map_err(wrong)
        });
        rules.detection = Some(Detection::Networks(networks.collect::<Result<_, _>>()?));
    }
    rules.keeps_forwarded = forwarded.disable_x_forwarded_for_append == Some(true);
    Ok(())
}

fn paths(path: &PathSettings, settings: &mut ClientSettings) {
    settings.path.escaped_slashes = match path.escaped_slashes_action {
        Some(EscapedSlashesAction::KeepUnchanged) => EscapedSlashes::Keep,
        Some(EscapedSlashesAction::RejectRequest) => EscapedSlashes::Reject,
        Some(EscapedSlashesAction::UnescapeAndForward) => EscapedSlashes::Unescape,
        Some(EscapedSlashesAction::UnescapeAndRedirect) => EscapedSlashes::Redirect,
        // An unknown value was refused with the object; absent, edge.toml's holds.
        Some(EscapedSlashesAction::Other(_)) | None => settings.path.escaped_slashes,
    };
    settings.path.repeated_slashes = match path.disable_merge_slashes {
        Some(true) => RepeatedSlashes::Keep,
        Some(false) => RepeatedSlashes::Merge,
        None => settings.path.repeated_slashes,
    };
}

fn timeouts(timeout: &ClientTimeout, settings: &mut ClientSettings, waits: &mut Waits) {
    if let Some(tcp) = timeout.tcp {
        settings.tunnel_idle_timeout = tcp.idle_timeout.map(|idle| idle.0);
        // A handshake without an end would hold its memory for ever.
        settings.handshake_timeout = tcp.tls_handshake_timeout.and_then(or_never);
    }
    let Some(http) = timeout.http else { return };
    if let Some(idle) = http.idle_timeout {
        settings.idle_timeout = if idle.0.is_zero() { NEVER } else { idle.0 };
    }
    if let Some(head) = http.request_headers_received_timeout.and_then(or_never) {
        settings.head_timeout = head;
    }
    // It limits a request up to its last byte, so its head all the more; a longer one does not loosen ours.
    if let Some(received) = http.request_received_timeout.and_then(or_never) {
        settings.head_timeout = settings.head_timeout.min(received);
    }
    waits.stream = http.stream_idle_timeout.map(|idle| idle.0);
}

fn fields(headers: &ClientHeaders, rules: &mut ClientRules) {
    rules.underscores = match headers.with_underscores_action {
        Some(UnderscoresAction::RejectRequest) => Underscores::Reject,
        Some(UnderscoresAction::DropHeader) => Underscores::Drop,
        Some(UnderscoresAction::Allow | UnderscoresAction::Other(_)) | None => Underscores::Pass,
    };
    rules.request_id = match (&headers.request_id, headers.preserve_x_request_id) {
        (Some(RequestIdAction::Generate), _) => Some(RequestId::Generate),
        (Some(RequestIdAction::PreserveOrGenerate), _) | (None, Some(true)) => Some(RequestId::PreserveOrGenerate),
        (Some(RequestIdAction::Disable), _) => Some(RequestId::Remove),
        // To preserve it and make none is what is done anyway.
        _ => None,
    };
}

fn http2(http2: &Http2Settings) -> Http2Bounds {
    // Their ranges are those of the object's schema.
    let window = |size: crate::wire::ByteQuantity| u32::try_from(size.0).unwrap_or(0x7fff_ffff).min(0x7fff_ffff);
    Http2Bounds {
        streams: http2.max_concurrent_streams,
        stream_window: http2.initial_stream_window_size.map(window),
        connection_window: http2.initial_connection_window_size.map(window),
    }
}

/// Absent members are Linux's own, as with Envoy.
fn keepalive(wish: TcpKeepalive) -> Result<ClientKeepalive, String> {
    let whole = |member: &str, wish: Option<GepDuration>, usual: u64| match wish.map(|wish| wish.0.as_secs()) {
        None => Ok(Duration::from_secs(usual)),
        Some(seconds @ 1..=32_767) => Ok(Duration::from_secs(seconds)),
        Some(_) => Err(format!("tcpKeepalive.{member} is out of range, expected 1s to 32767s")),
    };
    let probes = wish.probes.unwrap_or(9);
    if !(1..=127).contains(&probes) {
        return Err(format!("tcpKeepalive.probes: {probes} is out of range, expected 1 to 127"));
    }
    let (idle, interval) = (whole("idleTime", wish.idle_time, 7200)?, whole("interval", wish.interval, 75)?);
    Ok(ClientKeepalive { probes, idle, interval })
}

/// OpenSSL's and IANA's names of the suites of TLS 1.2 that there are here: with forward secrecy and authenticated
/// encryption (RFC 9325 §4.2).
const CIPHERS: [(&str, &str); 6] = [
    ("ECDHE-ECDSA-AES128-GCM-SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
    ("ECDHE-RSA-AES128-GCM-SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
    ("ECDHE-ECDSA-AES256-GCM-SHA384", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"),
    ("ECDHE-RSA-AES256-GCM-SHA384", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
    ("ECDHE-RSA-CHACHA20-POLY1305", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
];

/// Envoy's names of groups, and IANA's.
const GROUPS: [(&str, &str); 5] = [
    ("X25519MLKEM768", "X25519MLKEM768"),
    ("X25519", "X25519"),
    ("P-256", "secp256r1"),
    ("P-384", "secp384r1"),
    ("P-521", "secp521r1"),
];

/// Of a listener or of a Backend.
pub(in crate::compile) fn tls_parameters(
    (min_version, max_version): (&Option<TlsVersion>, &Option<TlsVersion>),
    ciphers: &[String],
    curves: &[String],
    alpn: Option<&[AlpnProtocol]>,
) -> Result<TlsParameters, String> {
    let versions = |version: &Option<TlsVersion>, usual: u8| match version {
        Some(TlsVersion::V10) => 10,
        Some(TlsVersion::V11) => 11,
        Some(TlsVersion::V12) => 12,
        Some(TlsVersion::V13) => 13,
        Some(TlsVersion::Auto | TlsVersion::Other(_)) | None => usual,
    };
    let (min, max) = (versions(min_version, 12), versions(max_version, 13));
    if min > max {
        return Err("tls: minVersion is above maxVersion".to_owned());
    }
    if max < 12 {
        return Err("tls.maxVersion: TLS 1.0 and 1.1 are not spoken (RFC 8996), expected 1.2 or 1.3".to_owned());
    }
    let mut suites = Vec::new();
    for wish in ciphers.iter().flat_map(|entry| entry.trim_matches(['[', ']']).split('|')) {
        // A suite that is too weak to be here is not offered; that is no reason to offer none.
        let known = CIPHERS.iter().find(|(openssl, iana)| wish == *openssl || wish == *iana);
        suites.extend(known.map(|(_, iana)| *iana));
    }
    if suites.is_empty() && !ciphers.is_empty() && min <= 12 {
        let known: Vec<&str> = CIPHERS.iter().map(|(openssl, _)| *openssl).collect();
        return Err(format!("tls.ciphers: none of them is offered here, expected one of {}", known.join(", ")));
    }
    let groups = curves.iter().map(|wish| {
        let known = GROUPS.iter().find(|(envoy, iana)| wish == envoy || wish == iana);
        let wrong = || format!("tls.ecdhCurves: {wish:?} is not offered here, expected X25519, P-256, P-384 or P-521");
        known.map(|(_, iana)| *iana).ok_or_else(wrong)
    });
    let groups = groups.collect::<Result<_, _>>()?;
    let alpn = alpn.map(|list| {
        let names = list.iter().filter_map(|protocol| match protocol {
            AlpnProtocol::H2 => Some("h2"),
            AlpnProtocol::Http11 => Some("http/1.1"),
            AlpnProtocol::Http10 => Some("http/1.0"),
            AlpnProtocol::Other(_) => None,
        });
        names.collect()
    });
    Ok(TlsParameters { tls12: min <= 12, tls13: max >= 13, ciphers: suites, groups, alpn })
}
