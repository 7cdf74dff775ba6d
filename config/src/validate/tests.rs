//! One line per rule: a spec that breaks it, and what is said. Every base is valid without the change.

use crate::manifest::{Outcome, Place, decode_document};

fn check(kind: &str, api: &str, body: &str) -> (Vec<String>, bool) {
    let text = format!("apiVersion: {api}\nkind: {kind}\nmetadata: {{name: x, namespace: n}}\n{body}\n");
    let place = Place { file: "f".into(), line_offset: 0 };
    let mut items = decode_document(&text, &place, &"default".into(), &[]);
    assert_eq!(items.len(), 1, "{text}");
    let item = items.remove(0);
    let is_usable = !matches!(item.outcome, Outcome::Broken | Outcome::Foreign);
    (item.problems.into_iter().map(|problem| problem.message).collect(), is_usable)
}

/// Each case replaces a piece of the base and expects exactly one message.
fn table(kind: &str, api: &str, base: &str, cases: &[(&str, &str, &str)]) {
    let (problems, is_usable) = check(kind, api, base);
    assert_eq!(problems, Vec::<String>::new(), "{kind} base");
    assert!(is_usable);
    for (piece, replacement, expected) in cases {
        assert!(base.contains(piece), "{piece} is not in the base of {kind}");
        let (problems, is_usable) = check(kind, api, &base.replacen(piece, replacement, 1));
        assert_eq!(problems, [*expected], "{kind}: {piece} → {replacement}");
        assert!(!is_usable, "{kind}: {piece} → {replacement}");
    }
}

const V1: &str = "gateway.networking.k8s.io/v1";

fn repeat(item: &str, count: usize) -> String {
    (0..count).map(|index| item.replace('#', &index.to_string())).collect::<Vec<_>>().join(", ")
}

#[test]
fn gateways() {
    let base = "spec: {gatewayClassName: c, listeners: [{name: a, port: 80, protocol: HTTP, hostname: \"*.a.example\"}, \
                {name: b, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: s}]}}], \
                addresses: [{value: 192.0.2.1}], tls: {frontend: {default: {validation: \
                {caCertificateRefs: [{group: \"\", kind: ConfigMap, name: ca}]}}, perPort: [{port: 443, tls: {}}]}}}";
    let too_many = format!("listeners: [{}, ", repeat("{name: l#, port: 1#, protocol: TCP}", 63));
    table(
        "Gateway",
        V1,
        base,
        &[
            (
                "gatewayClassName: c",
                "gatewayClassName: \"\"",
                "spec.gatewayClassName: is empty or longer than 253 characters",
            ),
            (
                "name: a,",
                "name: A,",
                "spec.listeners[0].name: \"A\" is no name, expected lower-case letters, digits, '-' and '.', at most 253",
            ),
            ("name: a,", "name: b,", "spec.listeners[1].name: \"b\" is the name of two listeners"),
            ("listeners: [", &too_many, "spec.listeners: has 65 items, expected at most 64"),
            ("port: 80,", "port: 0,", "spec.listeners[0].port: 0 is no port, expected 1 to 65535"),
            ("port: 80,", "port: 65536,", "spec.listeners[0].port: 65536 is out of range, expected 0 to 65535"),
            ("protocol: HTTP,", "protocol: HTTP_,", "spec.listeners[0].protocol: \"HTTP_\" is no protocol name"),
            ("protocol: HTTP,", "protocol: TCP,", "spec.listeners[0].hostname: must not be there for protocol TCP"),
            (
                "\"*.a.example\"",
                "\"a.*.example\"",
                "spec.listeners[0].hostname: \"a.*.example\" is no host name, expected a lower-case DNS name, or one with \"*.\" before it",
            ),
            (
                "\"*.a.example\"",
                "192.0.2.1",
                "spec.listeners[0].hostname: \"192.0.2.1\" is an IP address, expected a DNS name",
            ),
            ("protocol: HTTPS,", "protocol: HTTP,", "spec.listeners[1].tls: must not be there for protocol HTTP"),
            (
                "tls: {certificateRefs: [{name: s}]}",
                "tls: {}",
                "spec.listeners[1].tls: certificateRefs is empty, expected a certificate for mode Terminate",
            ),
            (
                "tls: {certificateRefs: [{name: s}]}",
                "tls: {mode: Passthrough}",
                "spec.listeners[1].tls.mode: is Passthrough, expected Terminate for protocol HTTPS; protocol TLS passes through",
            ),
            (
                "tls: {certificateRefs: [{name: s}]}",
                "tls: {mode: Passthru, certificateRefs: [{name: s}]}",
                "spec.listeners[1].tls.mode: unknown value \"Passthru\", expected Terminate, Passthrough",
            ),
            (
                "protocol: HTTPS, tls: {certificateRefs: [{name: s}]}",
                "protocol: TLS",
                "spec.listeners[1]: tls is missing, expected it with a mode for protocol TLS",
            ),
            (
                "protocol: HTTP,",
                "protocol: HTTP, allowedRoutes: {namespaces: {from: None}},",
                "spec.listeners[0].allowedRoutes.namespaces.from: unknown value \"None\", expected All, Selector, Same",
            ),
            (
                "protocol: HTTP,",
                "protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchExpressions: [{key: a, operator: In}]}}},",
                "spec.listeners[0].allowedRoutes.namespaces.selector.matchExpressions[0].values: expected at least one for operator In",
            ),
            ("{value: 192.0.2.1}", "{value: 192.0.2.300}", "spec.addresses[0].value: \"192.0.2.300\" is no IP address"),
            (
                "{value: 192.0.2.1}",
                "{value: 192.0.2.1}, {value: 192.0.2.1}",
                "spec.addresses[1].value: \"192.0.2.1\" is there twice",
            ),
            ("{value: 192.0.2.1}", "{type: Hostname, value: A_}", "spec.addresses[0].value: \"A_\" is no host name"),
            (
                "[{group: \"\", kind: ConfigMap, name: ca}]",
                "[]",
                "spec.tls.frontend.default.validation.caCertificateRefs: is empty, expected at least one CA certificate",
            ),
            (
                "{port: 443, tls: {}}",
                "{port: 443, tls: {}}, {port: 443, tls: {}}",
                "spec.tls.frontend.perPort[1].port: port 443 is there twice",
            ),
            (
                "gatewayClassName: c",
                "gatewayClassName: c, infrastructure: {annotations: {\"-bad\": x}}",
                "spec.infrastructure.annotations: \"-bad\" is no annotation key",
            ),
        ],
    );
    // Legal on the wire: conditions will say that nobody serves them.
    for change in ["protocol: example.com/QUIC", "protocol: SCTP"] {
        assert_eq!(check("Gateway", V1, &base.replacen("protocol: HTTP", change, 1)), (vec![], true), "{change}");
    }
    let address = base.replace("{value: 192.0.2.1}", "{type: example.com/vip, value: a}");
    assert_eq!(check("Gateway", V1, &address), (vec![], true));
    let duplicate = base.replacen(
        "hostname: \"*.a.example\"}",
        "hostname: a.b}, {name: c, port: 80, protocol: HTTP, hostname: a.b}",
        1,
    );
    let message =
        "spec.listeners[1]: listener \"c\" has the port, protocol and hostname of listener \"a\", so neither serves";
    assert_eq!(check("Gateway", V1, &duplicate), (vec![message.to_owned()], true));
}

#[test]
fn classes_and_sets() {
    let (problems, is_usable) = check("GatewayClass", V1, "spec: {controllerName: b}");
    assert!(
        problems.contains(&"spec.controllerName: \"b\" is no controller name, expected \"domain/path\"".to_owned())
    );
    assert!(!is_usable);
    let base = "spec: {parentRef: {name: g}, listeners: [{name: a, port: 80, protocol: HTTP}]}";
    table(
        "ListenerSet",
        V1,
        base,
        &[
            (
                "{name: g}",
                "{name: g, kind: 1}",
                "spec.parentRef.kind: found the number 1, expected a string; put it in quotes",
            ),
            ("[{name: a, port: 80, protocol: HTTP}]", "[]", "spec.listeners: is empty, expected at least one listener"),
        ],
    );
}

#[test]
fn http_routes() {
    let base = "spec: {parentRefs: [{name: g}], hostnames: [a.example], rules: [{matches: [{path: {type: PathPrefix, value: /a}, \
                headers: [{name: h, value: v}], queryParams: [{name: q, value: v}], method: GET}], \
                filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}], \
                backendRefs: [{name: s, port: 80}]}]}";
    let filter = "{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}";
    let path = "value: /a}";
    let backend = "{name: s, port: 80}";
    let many = |count| format!("rules: [{}, ", repeat("{matches: [{path: {value: /r#}}]}", count));
    let headers = |count| format!("headers: [{}, ", repeat("{name: x#, value: v}", count));
    table(
        "HTTPRoute",
        V1,
        base,
        &[
            (
                "[a.example]",
                "[A.example]",
                "spec.hostnames[0]: \"A.example\" is no host name, expected a lower-case DNS name, or one with \"*.\" before it",
            ),
            ("rules: [", &many(16), "spec.rules: has 17 items, expected at most 16"),
            ("headers: [", &headers(16), "spec.rules[0].matches[0].headers: has 17 items, expected at most 16"),
            (path, "value: a}", "spec.rules[0].matches[0].path.value: \"a\" does not begin with \"/\""),
            (path, "value: //a}", "spec.rules[0].matches[0].path.value: \"//a\" contains \"//\""),
            (path, "value: /a/../b}", "spec.rules[0].matches[0].path.value: \"/a/../b\" contains \"/../\""),
            (path, "value: /a/..}", "spec.rules[0].matches[0].path.value: \"/a/..\" ends with \"/..\""),
            (path, "value: /a%2Fb}", "spec.rules[0].matches[0].path.value: \"/a%2Fb\" contains \"%2F\""),
            (
                path,
                "value: \"/a b\"}",
                "spec.rules[0].matches[0].path.value: \"/a b\" has a character that no path has",
            ),
            ("name: h,", "name: \"h:\",", "spec.rules[0].matches[0].headers[0].name: \"h:\" is no header name"),
            (
                "{name: h, value: v}",
                "{name: h, value: v}, {name: h, value: w}",
                "spec.rules[0].matches[0].headers[1].name: \"h\" is there twice",
            ),
            (
                "{name: q, value: v}",
                "{name: q, value: v}, {name: q, value: w}",
                "spec.rules[0].matches[0].queryParams[1].name: \"q\" is there twice",
            ),
            (
                "method: GET",
                "method: get",
                "spec.rules[0].matches[0].method: unknown value \"get\", expected GET, HEAD, POST, PUT, DELETE, CONNECT, OPTIONS, TRACE, PATCH, did you mean `GET`?",
            ),
            (
                filter,
                "{type: URLRewrite}",
                "spec.rules[0].filters[0]: `urlRewrite` is missing, expected it for type URLRewrite",
            ),
            (
                filter,
                "{type: URLRewrite, urlRewrite: {}, cors: {}}",
                "spec.rules[0].filters[0].cors: belongs to type CORS only",
            ),
            (
                filter,
                &format!("{filter}, {{type: URLRewrite, urlRewrite: {{}}}}"),
                "spec.rules[0].filters[1]: filter URLRewrite is there twice",
            ),
            (
                filter,
                "{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replacePrefixMatch: /b, replaceFullPath: /c}}}",
                "spec.rules[0].filters[0].urlRewrite.path.replacePrefixMatch: belongs to type ReplacePrefixMatch only",
            ),
            (
                "type: PathPrefix",
                "type: Exact",
                "spec.rules[0].filters: replacePrefixMatch needs exactly one match, of type PathPrefix",
            ),
            (
                filter,
                "{type: RequestRedirect, requestRedirect: {}}",
                "spec.rules[0]: has RequestRedirect and backendRefs, expected one of them",
            ),
            (
                filter,
                "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: \"b\\n\"}]}}",
                "spec.rules[0].filters[0].requestHeaderModifier.set[0].value: \"b\\n\" is no header value, expected 1 to 4096 visible ASCII characters with single blanks between them",
            ),
            (
                filter,
                "{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: a, value: b}, {name: a, value: c}]}}",
                "spec.rules[0].filters[0].requestHeaderModifier.add[1].name: \"a\" is there twice",
            ),
            (
                filter,
                "{type: RequestMirror, requestMirror: {backendRef: {name: s, port: 1}, percent: 101}}",
                "spec.rules[0].filters[0].requestMirror.percent: 101 is out of range, expected 0 to 100",
            ),
            (
                filter,
                "{type: RequestMirror, requestMirror: {backendRef: {name: s, port: 1}, percent: 1, fraction: {numerator: 1}}}",
                "spec.rules[0].filters[0].requestMirror: has both percent and fraction, expected one of them",
            ),
            (
                filter,
                "{type: RequestMirror, requestMirror: {backendRef: {name: s, port: 1}, fraction: {numerator: 3, denominator: 2}}}",
                "spec.rules[0].filters[0].requestMirror.fraction: 3/2 is more than 1",
            ),
            (
                filter,
                "{type: RequestMirror, requestMirror: {backendRef: {name: s}}}",
                "spec.rules[0].filters[0].requestMirror.backendRef: port is missing, expected it for a Service",
            ),
            (
                filter,
                "{type: CORS, cors: {allowOrigins: [\"*\", \"https://a\"]}}",
                "spec.rules[0].filters[0].cors.allowOrigins: has \"*\" beside other entries, expected it alone",
            ),
            (
                filter,
                "{type: CORS, cors: {allowOrigins: [\"ftp://a\"]}}",
                "spec.rules[0].filters[0].cors.allowOrigins[0]: \"ftp://a\" does not fit, expected \"*\" or \"scheme://host[:port]\", where the host may begin with \"*.\"",
            ),
            (
                filter,
                "{type: CORS, cors: {allowMethods: [get]}}",
                "spec.rules[0].filters[0].cors.allowMethods[0]: \"get\" does not fit, expected a method in upper case or \"*\"",
            ),
            (
                filter,
                "{type: CORS, cors: {maxAge: 0}}",
                "spec.rules[0].filters[0].cors.maxAge: 0 is out of range, expected at least 1",
            ),
            (backend, "{name: s}", "spec.rules[0].backendRefs[0]: port is missing, expected it for a Service"),
            (
                backend,
                "{name: s, port: 80, weight: 1000001}",
                "spec.rules[0].backendRefs[0].weight: 1000001 is out of range, expected 0 to 1000000",
            ),
            (
                backend,
                "{name: s, port: 80, namespace: A}",
                "spec.rules[0].backendRefs[0].namespace: \"A\" is no namespace",
            ),
            (
                "[{name: g}]",
                "[{name: g}, {name: g}]",
                "spec.parentRefs[1]: names the same parent, sectionName and port as one before it",
            ),
            (
                "[{name: g}]",
                "[{name: g}, {name: g, sectionName: a}]",
                "spec.parentRefs[1]: names a parent that is there already, expected sectionName or port on both or on neither",
            ),
            ("rules: [{", "rules: [{name: a}, {name: a}, {", "spec.rules[1].name: \"a\" is the name of two rules"),
            (
                "rules: [{",
                "rules: [{timeouts: {request: 1s, backendRequest: 2s}, ",
                "spec.rules[0].timeouts.backendRequest: 2s is longer than the whole request's 1s",
            ),
            (
                "rules: [{",
                "rules: [{timeouts: {request: 1.5s}, ",
                "spec.rules[0].timeouts.request: invalid value: string \"1.5s\", expected a duration such as \"10s\", \"1m30s\" or \"500ms\"",
            ),
            (
                "rules: [{",
                "rules: [{retry: {codes: [600]}, ",
                "spec.rules[0].retry.codes[0]: 600 is out of range, expected 400 to 599",
            ),
            ("rules: [{", "rules: [{retry: {codes: [500, 500]}, ", "spec.rules[0].retry.codes[1]: 500 is there twice"),
            (
                "rules: [{",
                "rules: [{retry: {attempts: 0}, ",
                "spec.rules[0].retry.attempts: 0 is out of range, expected at least 1",
            ),
            (
                "rules: [{",
                "rules: [{sessionPersistence: {cookieConfig: {lifetimeType: Permanent}}, ",
                "spec.rules[0].sessionPersistence: absoluteTimeout is missing, expected it for a Permanent cookie",
            ),
            (
                "rules: [{",
                "rules: [{sessionPersistence: {type: Header, cookieConfig: {}}, ",
                "spec.rules[0].sessionPersistence.cookieConfig: belongs to type Cookie only",
            ),
            (
                "rules: [{",
                "rules: [{sessionPersistence: {sessionName: \"a b\"}, ",
                "spec.rules[0].sessionPersistence.sessionName: \"a b\" is no cookie or header name",
            ),
        ],
    );
    let unknown = "spec: {rules: [{matches: [{path: {type: Prefix}}]}]}";
    assert_eq!(
        check("HTTPRoute", V1, unknown).0,
        ["spec.rules[0].matches[0].path.type: unknown value \"Prefix\", expected Exact, PathPrefix, RegularExpression"]
    );
    let both = "spec: {rules: [{filters: [{type: RequestRedirect, requestRedirect: {statusCode: 305}}, {type: URLRewrite, urlRewrite: {}}]}]}";
    assert_eq!(
        check("HTTPRoute", V1, both).0,
        [
            "spec.rules[0].filters: has both RequestRedirect and URLRewrite, expected one of them",
            "spec.rules[0].filters[0].requestRedirect.statusCode: 305 is no status for this, expected 301, 302, 303, 307 or 308",
        ]
    );
    // Conditions say these: unknown filters and kinds of backends.
    for change in ["{type: Teleport}", "{type: ExtensionRef, extensionRef: {group: a.b, kind: X, name: y}}"] {
        let (problems, is_usable) = check("HTTPRoute", V1, &base.replace(filter, change));
        assert!(is_usable && problems.is_empty(), "{change}: {problems:?}");
    }
}

#[test]
fn other_routes() {
    let base = "spec: {rules: [{matches: [{method: {service: a.B, method: C}, headers: [{name: h, value: v}]}], backendRefs: [{name: s, port: 80}]}]}";
    table(
        "GRPCRoute",
        V1,
        base,
        &[
            (
                "service: a.B",
                "service: a/B",
                "spec.rules[0].matches[0].method.service: \"a/B\" is no gRPC service name",
            ),
            (
                "{service: a.B, method: C}",
                "{}",
                "spec.rules[0].matches[0].method: has neither service nor method, expected at least one",
            ),
            (
                "{service: a.B, method: C}",
                "{type: Regex, method: C}",
                "spec.rules[0].matches[0].method.type: unknown value \"Regex\", expected Exact, RegularExpression",
            ),
            (
                "backendRefs",
                "filters: [{type: RequestMirror}], backendRefs",
                "spec.rules[0].filters[0]: `requestMirror` is missing, expected it for type RequestMirror",
            ),
        ],
    );
    table(
        "TLSRoute",
        V1,
        "spec: {hostnames: [a.example], rules: [{backendRefs: [{name: s, port: 80}]}]}",
        &[
            ("[a.example]", "[]", "spec.hostnames: is empty, expected at least one host name"),
            ("[a.example]", "[192.0.2.1]", "spec.hostnames[0]: \"192.0.2.1\" is an IP address, expected a DNS name"),
            (
                "rules: [",
                "rules: [{backendRefs: [{name: s, port: 80}]}, ",
                "spec.rules: has 2 items, expected exactly 1",
            ),
        ],
    );
    for kind in ["TCPRoute", "UDPRoute"] {
        table(
            kind,
            V1,
            "spec: {rules: [{backendRefs: [{name: s, port: 80}]}]}",
            &[("[{name: s, port: 80}]", "[]", "spec.rules[0].backendRefs: is empty, expected at least one backend")],
        );
    }
}

#[test]
fn policies() {
    table(
        "ReferenceGrant",
        V1,
        "spec: {from: [{group: a.b, kind: X, namespace: n}], to: [{group: \"\", kind: Secret}]}",
        &[
            ("[{group: a.b, kind: X, namespace: n}]", "[]", "spec.from: is empty, expected at least one item"),
            ("namespace: n", "namespace: N", "spec.from[0].namespace: \"N\" is no namespace"),
        ],
    );
    let base = "spec: {targetRefs: [{group: \"\", kind: Service, name: s}], validation: {hostname: a.example, wellKnownCACertificates: System, \
                subjectAltNames: [{type: Hostname, hostname: b.example}]}}";
    table(
        "BackendTLSPolicy",
        V1,
        base,
        &[
            (
                "hostname: a.example",
                "hostname: \"*.a\"",
                "spec.validation.hostname: \"*.a\" is no host name, expected a lower-case DNS name without a wildcard",
            ),
            (
                "wellKnownCACertificates: System, ",
                "",
                "spec.validation: has neither caCertificateRefs nor wellKnownCACertificates, expected one of them",
            ),
            (
                "wellKnownCACertificates: System",
                "wellKnownCACertificates: System, caCertificateRefs: [{group: \"\", kind: ConfigMap, name: c}]",
                "spec.validation: has both caCertificateRefs and wellKnownCACertificates, expected one of them",
            ),
            (
                "{type: Hostname, hostname: b.example}",
                "{type: URI}",
                "spec.validation.subjectAltNames[0]: `uri` is missing, expected it for type URI",
            ),
            (
                "{type: Hostname, hostname: b.example}",
                "{type: URI, uri: spiffe}",
                "spec.validation.subjectAltNames[0].uri: \"spiffe\" is no URI",
            ),
            (
                "[{group: \"\", kind: Service, name: s}]",
                "[{group: \"\", kind: Service, name: s}, {group: \"\", kind: Service, name: s}]",
                "spec.targetRefs[1]: names the same target and sectionName as one before it",
            ),
        ],
    );
}

#[test]
fn kinds_of_others() {
    table(
        "Service",
        "v1",
        "spec: {ports: [{name: a, port: 80}]}",
        &[
            (
                "{name: a, port: 80}",
                "{port: 80}, {port: 81, name: b}",
                "spec.ports[0]: name is missing, expected it where there are several ports",
            ),
            (
                "{name: a, port: 80}",
                "{name: a, port: 80}, {name: b, port: 80}",
                "spec.ports[1].port: 80/TCP is there twice",
            ),
            (
                "ports: [{name: a, port: 80}]",
                "type: ExternalName",
                "spec: externalName is missing, expected it for type ExternalName",
            ),
        ],
    );
    table(
        "EndpointSlice",
        "discovery.k8s.io/v1",
        "addressType: IPv4\nendpoints: [{addresses: [192.0.2.1]}]\nports: [{port: 80}]",
        &[
            ("192.0.2.1", "2001:db8::1", "endpoints[0].addresses[0]: \"2001:db8::1\" is no IPv4 address"),
            ("[192.0.2.1]", "[]", "endpoints[0].addresses: is empty, expected at least one address"),
        ],
    );
    assert_eq!(check("EndpointSlice", "discovery.k8s.io/v1", "addressType: IPv6\nendpoints: null"), (vec![], true));
    table(
        "Issuer",
        "cert-manager.io/v1",
        "spec: {selfSigned: {}}",
        &[(
            "selfSigned: {}",
            "selfSigned: {}, ca: {secretName: s}",
            "spec: has 2 of selfSigned, ca, acme, vault and venafi, expected exactly one",
        )],
    );
    table(
        "Certificate",
        "cert-manager.io/v1",
        "spec: {secretName: s, issuerRef: {name: i}, commonName: c, privateKey: {algorithm: ECDSA, size: 256}, duration: 2h, renewBefore: 1h}",
        &[
            (
                "commonName: c, ",
                "",
                "spec: has no commonName, dnsNames, ipAddresses, uris or emailAddresses, expected one of them",
            ),
            (
                "size: 256",
                "size: 2048",
                "spec.privateKey.size: 2048 is no size for ECDSA, expected one of [256, 384, 521]",
            ),
            ("renewBefore: 1h", "renewBefore: 2h", "spec.renewBefore: is not shorter than duration"),
        ],
    );
    table(
        "IPAddressPool",
        "metallb.io/v1beta1",
        "spec: {addresses: [192.0.2.0/24]}",
        &[(
            "192.0.2.0/24",
            "192.0.2.0/33",
            "spec.addresses[0]: \"192.0.2.0/33\": not a network, expected one such as \"192.0.2.0/28\" or \"2001:db8::/120\"",
        )],
    );
    table(
        "Backend",
        "gateway.envoyproxy.io/v1alpha1",
        "spec: {endpoints: [{fqdn: {hostname: a.example, port: 80}}]}",
        &[(
            "{fqdn: {hostname: a.example, port: 80}}",
            "{}",
            "spec.endpoints[0]: expected exactly one of fqdn, ip and unix",
        )],
    );
    table(
        "ClientTrafficPolicy",
        "gateway.envoyproxy.io/v1alpha1",
        "spec: {clientIPDetection: {xForwardedFor: {numTrustedHops: 2}}, connection: {bufferLimit: 32Ki}}",
        &[
            (
                "32Ki",
                "32KiB",
                "spec.connection.bufferLimit: invalid value: string \"32KiB\", expected a number of bytes such as 16384 or \"32Ki\"",
            ),
            (
                "numTrustedHops: 2",
                "numTrustedHops: 17",
                "spec.clientIPDetection.xForwardedFor.numTrustedHops: is out of range, expected 0 to 16",
            ),
        ],
    );
    table(
        "BackendTrafficPolicy",
        "gateway.envoyproxy.io/v1alpha1",
        "spec: {loadBalancer: {type: LeastRequest}}",
        &[(
            "LeastRequest",
            "LeastRequests",
            "spec.loadBalancer.type: unknown value \"LeastRequests\", expected ConsistentHash, LeastRequest, Random, RoundRobin, BackendUtilization, DynamicModule, did you mean `LeastRequest`?",
        )],
    );
}
