//! ClientTrafficPolicy and HTTPRouteFilter, by the rules of their CRDs (Envoy Gateway v1.9).

use std::fmt;

use super::Faults;
use super::text::is_field_name;
use crate::envoy::{
    AlpnProtocol, ClientCertDetail, ClientCertForwarding, ClientHeaders, ClientIpDetection, ClientTls,
    ClientTrafficPolicySpec, ClientValidationType, CookieMatchType, CustomBody, CustomBodyType, EscapedSlashesAction,
    HeaderEdits, HostnameRewriteType, Http2Settings, HttpRouteFilterSpec, InvalidMessageAction, PathRewriteType,
    RequestIdAction, SchemeTransform, StringMatch, StringMatchType, TlsFingerprint, TlsVersion, UnderscoresAction,
};
use crate::yaml::Quoted;

pub fn client_traffic_policy(spec: &ClientTrafficPolicySpec, faults: &mut Faults) {
    if let Some(detection) = &spec.client_ip_detection {
        client_ip(detection, faults);
    }
    if let Some(action) = spec.path.as_ref().and_then(|path| path.escaped_slashes_action.as_ref()) {
        let path = "spec.path.escapedSlashesAction";
        faults.known(path, action.as_str(), action.is_known(), EscapedSlashesAction::KNOWN);
    }
    if let Some(headers) = &spec.headers {
        client_headers(headers, faults);
    }
    if let Some(tls) = &spec.tls {
        client_tls(tls, faults);
    }
    if let Some(http2) = &spec.http2 {
        http2_settings("spec.http2", http2, faults);
    }
    for (index, entry) in spec.http1.iter().flat_map(|http1| &http1.ignored_upgrade_types).enumerate() {
        string_match(format_args!("spec.http1.ignoredUpgradeTypes[{index}]"), entry, faults);
    }
    let limit = spec.connection.as_ref().and_then(|connection| connection.connection_limit);
    if limit.and_then(|limit| limit.value) == Some(0) {
        faults.error("spec.connection.connectionLimit.value", "0 is out of range, expected at least 1");
    }
    if let Some(check) = &spec.health_check
        && !(1..=1024).contains(&check.path.len())
    {
        faults.error("spec.healthCheck.path", "is empty or longer than 1024 characters");
    }
    if let Some(scheme) = &spec.scheme {
        faults.known("spec.scheme", scheme.as_str(), scheme.is_known(), SchemeTransform::KNOWN);
    }
}

fn client_ip(detection: &ClientIpDetection, faults: &mut Faults) {
    let path = "spec.clientIPDetection";
    let members =
        [detection.x_forwarded_for.is_some(), detection.custom_header.is_some(), detection.direct_source_ip.is_some()];
    if members.into_iter().filter(|is_there| *is_there).count() != 1 {
        faults.error(path, "expected exactly one of xForwardedFor, customHeader and directSourceIP");
    }
    if let Some(forwarded) = &detection.x_forwarded_for {
        let path = format!("{path}.xForwardedFor");
        if forwarded.num_trusted_hops.is_some() && !forwarded.trusted_cidrs.is_empty() {
            faults.error(&path, "has both numTrustedHops and trustedCIDRs, expected one of them");
        }
        if forwarded.num_trusted_hops.is_some_and(|hops| hops > 16) {
            faults.error(format_args!("{path}.numTrustedHops"), "is out of range, expected 0 to 16");
        }
        for (index, text) in forwarded.trusted_cidrs.iter().enumerate() {
            if text.parse::<ipnet::IpNet>().is_err() {
                let message = format!("{} is no network, expected one such as \"192.0.2.0/24\"", Quoted(text));
                faults.error(format_args!("{path}.trustedCIDRs[{index}]"), message);
            }
        }
    }
    if let Some(header) = &detection.custom_header {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if !(1..=255).contains(&header.name.len()) || !header.name.bytes().all(is_name) {
            let message = format!("{} is no name of a header field", Quoted(&header.name));
            faults.error(format_args!("{path}.customHeader.name"), message);
        }
    }
}

fn client_headers(headers: &ClientHeaders, faults: &mut Faults) {
    if let Some(action) = &headers.with_underscores_action {
        let path = "spec.headers.withUnderscoresAction";
        faults.known(path, action.as_str(), action.is_known(), UnderscoresAction::KNOWN);
    }
    if let Some(action) = &headers.request_id {
        faults.known("spec.headers.requestID", action.as_str(), action.is_known(), RequestIdAction::KNOWN);
        if headers.preserve_x_request_id.is_some() {
            faults.error("spec.headers", "has both preserveXRequestID and requestID, expected one of them");
        }
    }
    if let Some(limit) = headers.max_request_header_limit
        && !(1024..=8192 * 1024).contains(&limit.0)
    {
        let message = format!("{} bytes are out of range, expected 1Ki to 8192Ki", limit.0);
        faults.error("spec.headers.maxRequestHeaderLimit", message);
    }
    for (member, edits) in [
        ("earlyRequestHeaders", &headers.early_request_headers),
        ("lateResponseHeaders", &headers.late_response_headers),
    ] {
        if let Some(edits) = edits {
            header_edits(&format!("spec.headers.{member}"), edits, faults);
        }
    }
    if let Some(forward) = &headers.x_forwarded_client_cert {
        let path = "spec.headers.xForwardedClientCert";
        if let Some(mode) = &forward.mode {
            faults.known(format_args!("{path}.mode"), mode.as_str(), mode.is_known(), ClientCertForwarding::KNOWN);
        }
        let adds =
            matches!(forward.mode, Some(ClientCertForwarding::AppendForward | ClientCertForwarding::SanitizeSet));
        if !forward.cert_details_to_add.is_empty() && !adds {
            faults
                .error(format_args!("{path}.certDetailsToAdd"), "belongs to modes AppendForward and SanitizeSet only");
        }
        for (index, detail) in forward.cert_details_to_add.iter().enumerate() {
            let path = format!("{path}.certDetailsToAdd[{index}]");
            faults.known(path, detail.as_str(), detail.is_known(), ClientCertDetail::KNOWN);
        }
    }
}

/// Those of Envoy Gateway, wherever they stand.
pub(super) fn header_edits(path: &str, edits: &HeaderEdits, faults: &mut Faults) {
    for (list, headers) in [("set", &edits.set), ("add", &edits.add), ("addIfAbsent", &edits.add_if_absent)] {
        let path = format!("{path}.{list}");
        faults.at_most(&path, headers.len(), 64);
        for (index, header) in headers.iter().enumerate() {
            if !is_field_name(&header.name) {
                let message = format!("{} is no name of a header field", Quoted(&header.name));
                faults.error(format_args!("{path}[{index}].name"), message);
            }
        }
    }
    faults.at_most(format_args!("{path}.remove"), edits.remove.len(), 64);
    faults.at_most(format_args!("{path}.removeOnMatch"), edits.remove_on_match.len(), 64);
    for (index, entry) in edits.remove_on_match.iter().enumerate() {
        string_match(format_args!("{path}.removeOnMatch[{index}]"), entry, faults);
    }
}

pub(super) fn string_match(path: impl fmt::Display, entry: &StringMatch, faults: &mut Faults) {
    if let Some(kind) = &entry.kind {
        faults.known(format_args!("{path}.type"), kind.as_str(), kind.is_known(), StringMatchType::KNOWN);
    }
    if !(1..=1024).contains(&entry.value.len()) {
        faults.error(format_args!("{path}.value"), "is empty or longer than 1024 characters");
    }
}

pub(super) fn http2_settings(path: &str, http2: &Http2Settings, faults: &mut Faults) {
    if let Some(streams) = http2.max_concurrent_streams.filter(|streams| !(1..=0x7fff_ffff).contains(streams)) {
        let message = format!("{streams} is out of range, expected 1 to 2147483647");
        faults.error(format_args!("{path}.maxConcurrentStreams"), message);
    }
    for (member, size) in [
        ("initialStreamWindowSize", http2.initial_stream_window_size),
        ("initialConnectionWindowSize", http2.initial_connection_window_size),
    ] {
        // As Envoy has it: RFC 9113 §6.9.2 allows less than 65535, Envoy does not.
        if let Some(size) = size.filter(|size| !(65_535..=0x7fff_ffff).contains(&size.0)) {
            let message = format!("{} is out of range, expected 65535 to 2147483647", size.0);
            faults.error(format_args!("{path}.{member}"), message);
        }
    }
    if let Some(action) = &http2.on_invalid_message {
        let path = format!("{path}.onInvalidMessage");
        faults.known(path, action.as_str(), action.is_known(), InvalidMessageAction::KNOWN);
    }
    if http2.connection_keepalive.and_then(|keep| keep.interval_jitter).is_some_and(|jitter| jitter > 100) {
        faults.error(format_args!("{path}.connectionKeepalive.intervalJitter"), "is out of range, expected 0 to 100");
    }
}

fn client_tls(tls: &ClientTls, faults: &mut Faults) {
    tls_parameters(
        "spec.tls",
        (tls.min_version.as_ref(), tls.max_version.as_ref()),
        (tls.alpn_protocols.as_deref().unwrap_or_default(), &tls.fingerprints),
        faults,
    );
    let Some(validation) = &tls.client_validation else { return };
    let path = "spec.tls.clientValidation";
    if let Some(mode) = &validation.mode {
        faults.known(format_args!("{path}.mode"), mode.as_str(), mode.is_known(), ClientValidationType::KNOWN);
        let verifies = matches!(mode, ClientValidationType::VerifyIfGiven | ClientValidationType::RequireAndVerify);
        if validation.allow_expired_certificate == Some(true) && !verifies {
            let message = "belongs to modes VerifyIfGiven and RequireAndVerify only";
            faults.error(format_args!("{path}.allowExpiredCertificate"), message);
        }
    }
    faults.at_most(format_args!("{path}.caCertificateRefs"), validation.ca_certificate_refs.len(), 8);
    if let Some(crl) = &validation.crl {
        if crl.refs.is_empty() {
            faults.error(format_args!("{path}.crl.refs"), "is empty, expected at least one item");
        }
        faults.at_most(format_args!("{path}.crl.refs"), crl.refs.len(), 8);
    }
    let Some(names) = &validation.subject_alt_names else { return };
    let path = format!("{path}.subjectAltNames");
    for (member, list) in [
        ("dnsNames", &names.dns_names),
        ("emailAddresses", &names.email_addresses),
        ("ipAddresses", &names.ip_addresses),
        ("uris", &names.uris),
    ] {
        for (index, entry) in list.iter().enumerate() {
            string_match(format_args!("{path}.{member}[{index}]"), entry, faults);
        }
    }
}

/// What TLS towards clients and towards endpoints have in common.
pub(super) fn tls_parameters(
    path: &str,
    (min, max): (Option<&TlsVersion>, Option<&TlsVersion>),
    (alpn, fingerprints): (&[AlpnProtocol], &[TlsFingerprint]),
    faults: &mut Faults,
) {
    for (member, version) in [("minVersion", min), ("maxVersion", max)] {
        if let Some(version) = version {
            faults.known(format_args!("{path}.{member}"), version.as_str(), version.is_known(), TlsVersion::KNOWN);
        }
    }
    for (index, protocol) in alpn.iter().enumerate() {
        let path = format!("{path}.alpnProtocols[{index}]");
        faults.known(path, protocol.as_str(), protocol.is_known(), AlpnProtocol::KNOWN);
    }
    for (index, kind) in fingerprints.iter().enumerate() {
        let path = format!("{path}.fingerprints[{index}]");
        faults.known(path, kind.as_str(), kind.is_known(), TlsFingerprint::KNOWN);
    }
}

pub fn http_route_filter(spec: &HttpRouteFilterSpec, faults: &mut Faults) {
    if let Some(host) = spec.url_rewrite.as_ref().and_then(|rewrite| rewrite.hostname.as_ref()) {
        let path = "spec.urlRewrite.hostname";
        let kind = &host.kind;
        faults.known(format_args!("{path}.type"), kind.as_str(), kind.is_known(), HostnameRewriteType::KNOWN);
        for (of, member, is_there) in [
            (HostnameRewriteType::Header, "header", host.header.is_some()),
            (HostnameRewriteType::PathRegex, "pathRegex", host.path_regex.is_some()),
        ] {
            match (*kind == of, is_there) {
                (true, false) => faults.error(path, format!("`{member}` is missing, expected it for type {of}")),
                (false, true) => faults.error(format_args!("{path}.{member}"), format!("belongs to type {of} only")),
                _ => {}
            }
        }
    }
    if let Some(rewrite) = spec.url_rewrite.as_ref().and_then(|rewrite| rewrite.path.as_ref()) {
        let path = "spec.urlRewrite.path";
        let kind = &rewrite.kind;
        faults.known(format_args!("{path}.type"), kind.as_str(), kind.is_known(), PathRewriteType::KNOWN);
        if rewrite.replace_regex_match.is_none() {
            faults.error(path, "`replaceRegexMatch` is missing, expected it for type ReplaceRegexMatch");
        }
    }
    if let Some(answer) = &spec.direct_response {
        let path = "spec.directResponse";
        if let Some(status) = answer.status_code.filter(|status| !(200..=599).contains(status)) {
            faults.error(format_args!("{path}.statusCode"), format!("{status} is out of range, expected 200 to 599"));
        }
        if let Some(body) = &answer.body {
            custom_body(&format!("{path}.body"), body, faults);
        }
        if answer.header.as_ref().is_some_and(|header| !header.remove.is_empty()) {
            faults
                .error(format_args!("{path}.header.remove"), "has nothing to remove from an answer that is made here");
        }
    }
    faults.at_most("spec.matches", spec.matches.len(), 8);
    for (index, entry) in spec.matches.iter().enumerate() {
        let path = format!("spec.matches[{index}].cookies");
        if entry.cookies.is_empty() {
            faults.error(&path, "is empty, expected at least one item");
        }
        faults.at_most(&path, entry.cookies.len(), 16);
        for (index, cookie) in entry.cookies.iter().enumerate() {
            let path = format!("{path}[{index}]");
            if let Some(kind) = &cookie.kind {
                faults.known(format_args!("{path}.type"), kind.as_str(), kind.is_known(), CookieMatchType::KNOWN);
            }
            if !(1..=256).contains(&cookie.name.len()) {
                faults.error(format_args!("{path}.name"), "is empty or longer than 256 characters");
            }
            if !(1..=4096).contains(&cookie.value.len()) {
                faults.error(format_args!("{path}.value"), "is empty or longer than 4096 characters");
            }
        }
    }
}

pub(super) fn custom_body(path: &str, body: &CustomBody, faults: &mut Faults) {
    let kind = body.kind.as_ref().unwrap_or(&CustomBodyType::Inline);
    faults.known(format_args!("{path}.type"), kind.as_str(), kind.is_known(), CustomBodyType::KNOWN);
    match kind {
        CustomBodyType::Inline if body.inline.is_none() => {
            faults.error(path, "`inline` is missing, expected it for type Inline");
        }
        CustomBodyType::ValueRef => match &body.value_ref {
            None => faults.error(path, "`valueRef` is missing, expected it for type ValueRef"),
            Some(reference) if !reference.group.is_empty() || reference.kind != "ConfigMap" => {
                faults.error(format_args!("{path}.valueRef"), "is no ConfigMap, expected one");
            }
            Some(_) => {}
        },
        _ => {}
    }
}
