//! The two APIs with state: Cloudflare v4, and Keystone v3 with Designate v2, as far as they are used, by their
//! published descriptions.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};

use http::StatusCode;
use serde_json::{Value, json};

use super::server::{Asked, Reply, Server};
use super::{Fixed, SECRET, clean, file, means, record, secrets};
use crate::dns::provider::{DnsProvider, Provider, ProviderError, WriteTxt, cloudflare};

/// A zone of Cloudflare: records by id.
type Records = Arc<Mutex<BTreeMap<String, Value>>>;

fn cloudflare_api(records: &Records, asked: &Asked) -> Reply {
    let fail = |status, code: u32, message: &str| {
        Reply::json(status, &json!({"success": false, "errors": [{"code": code, "message": message}], "result": null}))
    };
    let ok = |result: Value| Reply::json(StatusCode::OK, &json!({"success": true, "errors": [], "result": result}));
    if asked.header("authorization") != Some(&format!("Bearer {SECRET}")) {
        return fail(StatusCode::FORBIDDEN, 9109, "Invalid access token");
    }
    let mut records = records.lock().unwrap();
    let path = asked.target.strip_prefix("/client/v4").unwrap();
    match (asked.method.as_str(), path) {
        ("GET", "/zones?name=example.com") => ok(json!([{"id": "023e105f", "name": "example.com"}])),
        ("GET", zones) if zones.starts_with("/zones?name=") => ok(json!([])),
        ("GET", list) if list.starts_with("/zones/023e105f/dns_records?") => {
            assert_eq!(list, "/zones/023e105f/dns_records?type=TXT&name=_acme-challenge.shop.example.com&per_page=100");
            ok(records.values().cloned().collect())
        }
        ("POST", "/zones/023e105f/dns_records") => {
            let mut new = asked.json();
            assert_eq!(new["name"], "_acme-challenge.shop.example.com");
            assert_eq!((&new["type"], &new["ttl"]), (&json!("TXT"), &json!(60)));
            let content = new["content"].as_str().unwrap();
            assert!(content.starts_with('"') && content.ends_with('"'), "{content}");
            if records.values().any(|one| one["content"] == new["content"]) {
                return fail(StatusCode::BAD_REQUEST, 81058, "An identical record already exists.");
            }
            let id = format!("id{}", records.len());
            new["id"] = id.clone().into();
            records.insert(id, new.clone());
            ok(new)
        }
        ("DELETE", one) => {
            let id = one.strip_prefix("/zones/023e105f/dns_records/").unwrap();
            match records.remove(id) {
                Some(_) => ok(json!({ "id": id })),
                None => fail(StatusCode::NOT_FOUND, 81044, "Record does not exist."),
            }
        }
        other => panic!("{other:?} is not in the API"),
    }
}

#[tokio::test]
async fn cloudflare_keeps_what_is_not_ours() {
    let records = Records::default();
    let server = Server::start({
        let records = Arc::clone(&records);
        move |asked| cloudflare_api(&records, asked)
    })
    .await;
    let api = server.url("/client/v4");
    let provider = cloudflare::Cloudflare::at(&api, &format!("{SECRET}\n"), &means()).unwrap();
    let contents = || -> Vec<String> {
        records.lock().unwrap().values().map(|one| one["content"].as_str().unwrap().to_owned()).collect()
    };
    for value in ["one", "two", "two"] {
        provider.add(&record(value)).await.unwrap();
    }
    assert_eq!(contents(), ["\"one\"", "\"two\""]);
    for _ in 0..2 {
        provider.remove(&record("one")).await.unwrap();
        assert_eq!(contents(), ["\"two\""]);
    }
    let wrong = cloudflare::Cloudflare::at(&api, "other", &means()).unwrap();
    let error = wrong.add(&record("one")).await.unwrap_err();
    assert_eq!(
        clean(&error),
        "Cloudflare refuses _acme-challenge.shop.example.com: 403 Forbidden: Invalid access token"
    );
    let mut foreign = record("one");
    foreign.name = "_acme-challenge.elsewhere.test".into();
    let error = provider.add(&foreign).await.unwrap_err();
    assert!(clean(&error).ends_with("the token sees no zone that holds it"), "{error}");
}

#[derive(Default)]
struct Stack {
    /// The record set at the challenge's name.
    records: Vec<String>,
    set: bool,
    /// How often another writer comes between.
    conflicts: usize,
    wanted_auth: Value,
    url: Arc<OnceLock<String>>,
}

fn stack_api(stack: &Mutex<Stack>, asked: &Asked) -> Reply {
    let mut stack = stack.lock().unwrap();
    if asked.target == "/identity/v3/auth/tokens" {
        assert_eq!(asked.method, "POST");
        if asked.json() != stack.wanted_auth {
            let message = "The request you have made requires authentication.";
            return Reply::json(StatusCode::UNAUTHORIZED, &json!({"error": {"code": 401, "message": message}}));
        }
        let endpoint = |interface: &str, region: &str, path: &str| json!({"interface": interface, "region_id": region, "url": format!("{}{path}", stack.url.get().unwrap())});
        let catalog = json!([
            {"type": "identity", "endpoints": [endpoint("public", "one", "/wrong")]},
            {"type": "dns", "endpoints": [endpoint("internal", "one", "/wrong"), endpoint("public", "two", "/wrong"),
                endpoint("public", "one", "/dns/")]},
        ]);
        return Reply::json(StatusCode::CREATED, &json!({"token": {"catalog": catalog}}))
            .with("X-Subject-Token", "t0ken");
    }
    assert_eq!(asked.header("x-auth-token"), Some("t0ken"));
    let set =
        |stack: &Stack| json!({"id": "set1", "name": "_acme-challenge.shop.example.com.", "records": stack.records});
    let path = asked.target.strip_prefix("/dns/v2").unwrap();
    match (asked.method.as_str(), path) {
        ("GET", "/zones?name=example.com.") => Reply::json(StatusCode::OK, &json!({"zones": [{"id": "z1"}]})),
        ("GET", zones) if zones.starts_with("/zones?name=") => {
            assert!(zones.ends_with('.'), "{zones}");
            Reply::json(StatusCode::OK, &json!({"zones": []}))
        }
        ("GET", "/zones/z1/recordsets?type=TXT&name=_acme-challenge.shop.example.com.") => {
            let sets = if stack.set { vec![set(&stack)] } else { Vec::new() };
            Reply::json(StatusCode::OK, &json!({ "recordsets": sets }))
        }
        ("POST", "/zones/z1/recordsets") => {
            if stack.conflicts > 0 {
                stack.conflicts -= 1;
                (stack.set, stack.records) = (true, vec!["\"other\"".into()]);
                return Reply::json(StatusCode::CONFLICT, &json!({"code": 409, "message": "Duplicate RecordSet"}));
            }
            let new = asked.json();
            assert_eq!(
                (&new["name"], &new["type"], &new["ttl"]),
                (&json!("_acme-challenge.shop.example.com."), &json!("TXT"), &json!(60))
            );
            stack.records = serde_json::from_value(new["records"].clone()).unwrap();
            stack.set = true;
            Reply::json(StatusCode::CREATED, &set(&stack))
        }
        ("PUT", "/zones/z1/recordsets/set1") => {
            stack.records = serde_json::from_value(asked.json()["records"].clone()).unwrap();
            assert!(!stack.records.is_empty(), "an empty set is deleted");
            Reply::json(StatusCode::ACCEPTED, &set(&stack))
        }
        ("DELETE", "/zones/z1/recordsets/set1") => {
            (stack.set, stack.records) = (false, Vec::new());
            Reply::json(StatusCode::ACCEPTED, &json!({}))
        }
        other => panic!("{other:?} is not in the API"),
    }
}

async fn stack(wanted_auth: Value) -> (Server, Arc<Mutex<Stack>>) {
    let url = Arc::new(OnceLock::new());
    let stack = Arc::new(Mutex::new(Stack { wanted_auth, url: Arc::clone(&url), ..Stack::default() }));
    let server = Server::start({
        let stack = Arc::clone(&stack);
        move |asked| stack_api(&stack, asked)
    })
    .await;
    url.set(server.url("")).unwrap();
    (server, stack)
}

async fn open(secrets: &Fixed) -> Result<Provider, ProviderError> {
    let settings = DnsProvider::Designate { clouds: file("/clouds.yaml"), cloud: "site".into() };
    Provider::open(&settings, secrets, &means()).await
}

fn clouds(cloud: &str) -> Fixed {
    secrets(&[("/clouds.yaml", &format!("clouds:\n  site:\n{cloud}")), ("/ca.pem", "no certificate")])
}

#[tokio::test]
async fn designate_by_application_credential() {
    let credential = json!({"id": "21dced0f", "secret": SECRET});
    let identity = json!({"methods": ["application_credential"], "application_credential": credential});
    let (server, stack) = stack(json!({"auth": {"identity": identity}})).await;
    let yaml = format!(
        "    auth_type: v3applicationcredential\n    region_name: one\n    auth:\n      auth_url: {}\n      \
         application_credential_id: 21dced0f\n      application_credential_secret: {SECRET}\n",
        server.url("/identity/v3")
    );
    let provider = open(&clouds(&yaml)).await.unwrap();
    let records = || stack.lock().unwrap().records.clone();
    for value in ["one", "two", "two"] {
        provider.add(&record(value)).await.unwrap();
    }
    assert_eq!(records(), ["\"one\"", "\"two\""]);
    provider.remove(&record("one")).await.unwrap();
    provider.remove(&record("one")).await.unwrap();
    assert_eq!(records(), ["\"two\""]);
    provider.remove(&record("two")).await.unwrap();
    assert!(!stack.lock().unwrap().set, "nothing is left");
    // Another writer made the set between our look and our write.
    stack.lock().unwrap().conflicts = 1;
    provider.add(&record("three")).await.unwrap();
    assert_eq!(records(), ["\"other\"", "\"three\""]);
    // A wrong region has no endpoint.
    let provider = open(&clouds(&yaml.replace("name: one", "name: three"))).await.unwrap();
    let error = provider.add(&record("one")).await.unwrap_err();
    assert!(clean(&error).contains("has no public endpoint of type dns in three"), "{error}");
}

#[tokio::test]
async fn designate_by_password() {
    let user = json!({"name": "edge", "domain": {"name": "Default"}, "password": SECRET});
    let identity = json!({"methods": ["password"], "password": {"user": user}});
    let scope = json!({"project": {"name": "dns", "domain": {"id": "default"}}});
    let (server, stack) = stack(json!({"auth": {"identity": identity, "scope": scope}})).await;
    let yaml = |secret: &str| {
        format!(
            "    region_name: one\n    auth:\n      auth_url: {}\n      username: edge\n      password: {secret}\n      \
             project_name: dns\n      user_domain_name: Default\n      project_domain_id: default\n",
            server.url("/identity")
        )
    };
    open(&clouds(&yaml(SECRET))).await.unwrap().add(&record("one")).await.unwrap();
    assert_eq!(stack.lock().unwrap().records, ["\"one\""]);
    let error = open(&clouds(&yaml("wrong"))).await.unwrap().add(&record("one")).await.unwrap_err();
    assert_eq!(
        clean(&error),
        "Keystone refuses a token: 401 Unauthorized: The request you have made requires authentication."
    );
}

#[tokio::test]
async fn clouds_that_cannot_be_used() {
    let auth =
        format!("auth_url: http://127.0.0.1:1, application_credential_id: x, application_credential_secret: {SECRET}");
    for (yaml, expected) in [
        ("    auth: {}\n".to_owned(), "auth has no auth_url"),
        ("    region_name: x\n".to_owned(), "cloud \"site\" has no auth"),
        (format!("    auth_type: v3token\n    auth: {{{auth}}}\n"), "auth_type \"v3token\": expected"),
        (
            "    auth: {auth_url: http://x, username: edge, password: 12345}\n".to_owned(),
            "password: expected a text, in quotes",
        ),
        (format!("    auth: {{auth_url: http://x, password: {SECRET}}}\n"), "neither username nor user_id"),
        (format!("    verify: maybe\n    auth: {{{auth}}}\n"), "verify: expected true or false"),
        (format!("    cacert: /absent\n    auth: {{{auth}}}\n"), "cacert: it is not there"),
        (format!("    cacert: /ca.pem\n    auth: {{{auth}}}\n"), "no PEM block CERTIFICATE"),
        (format!("    auth: {{{auth}, \"{SECRET}\n"), "not valid YAML"),
    ] {
        let error = open(&clouds(&yaml)).await.err().unwrap_or_else(|| panic!("{yaml} is taken"));
        assert!(clean(&error).contains(expected), "{yaml}: {error}");
    }
    let error = open(&secrets(&[("/clouds.yaml", "clouds: {}")])).await.unwrap_err();
    assert_eq!(clean(&error), "clouds.yaml: there is no cloud \"site\"");
}
