//! Providers against small servers in this process that check every request against the published API. No real service
//! is asked.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::StatusCode;
use serde_json::json;

use super::*;
use crate::client::Settings as HttpsSettings;
use crate::dns::resolver::Settings;

mod apis;
mod server;

use server::{Reply, Server};

pub(super) const SECRET: &str = "s3cret-that-nobody-may-see";

struct Fixed(BTreeMap<PathBuf, String>);

impl Secrets for Fixed {
    fn read<'a>(&'a self, source: &'a SecretSource) -> SecretResult<'a> {
        Box::pin(async move {
            let SecretSource::File(path) = source else { return Err("it is not a file".into()) };
            let text = self.0.get(path).ok_or("it is not there")?;
            Ok(Zeroizing::new(text.clone().into_bytes()))
        })
    }
}

fn secrets(files: &[(&str, &str)]) -> Fixed {
    Fixed(files.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned())).collect())
}

fn file(path: &str) -> SecretSource {
    SecretSource::File(path.into())
}

pub(super) fn means() -> Means {
    Means {
        resolver: Resolver::new(Settings::configured(vec!["127.0.0.1:1".parse().unwrap()])),
        https: Https::new(&HttpsSettings {
            plain_http: true,
            trust: crate::client::Trust::Insecure,
            ..HttpsSettings::default()
        })
        .unwrap(),
        now: || 1_790_000_000,
        limits: Limits { time: Duration::from_secs(20), output: 64 },
    }
}

pub(super) fn record(value: &str) -> TxtValue {
    TxtValue { name: "_acme-challenge.shop.example.com".into(), domain: "shop.example.com".into(), value: value.into() }
}

/// Neither an error nor its chain may hold the secret.
pub(super) fn clean(error: &ProviderError) -> String {
    let text = format!("{error} {error:?}");
    assert!(!text.contains(SECRET), "{text}");
    error.to_string()
}

#[tokio::test]
async fn acme_dns() {
    let server = Server::start(|request| {
        assert_eq!((request.method.as_str(), &*request.target), ("POST", "/update"));
        if request.header("x-api-key") != Some(SECRET) {
            return Reply::json(StatusCode::UNAUTHORIZED, &json!({"error": format!("forbidden {SECRET}")}));
        }
        assert_eq!(request.header("x-api-user"), Some("user"));
        assert_eq!(request.json(), json!({"subdomain": "d420c923", "txt": "value-1"}));
        Reply::json(StatusCode::OK, &json!({"txt": "value-1"}))
    })
    .await;
    let account = json!({"username": "user", "password": SECRET, "fulldomain": "d420c923.auth.test",
        "subdomain": "d420c923", "allowfrom": []});
    let accounts = |name: &str| format!("{}\n", json!({ (name): account }));
    let secrets = secrets(&[
        ("/good", &accounts("shop.example.com")),
        ("/wild", &accounts("*.shop.example.com")),
        ("/other", &accounts("other.example.com")),
        ("/garbage", &format!("{{\"x\": {{\"password\": \"{SECRET}\"")),
    ]);
    let open = |path: &str| DnsProvider::AcmeDns { server: server.url("/").into(), accounts: file(path) };
    for path in ["/good", "/wild"] {
        let provider = Provider::open(&open(path), &secrets, &means()).await.unwrap();
        provider.add(&record("value-1")).await.unwrap();
        provider.remove(&record("value-1")).await.unwrap();
    }
    assert_eq!(server.count(), 2, "nothing is removed");
    let provider = Provider::open(&open("/other"), &secrets, &means()).await.unwrap();
    let error = provider.add(&record("value-1")).await.unwrap_err();
    assert_eq!(clean(&error), "acme-dns accounts: there is no registration for shop.example.com");
    let error = Provider::open(&open("/garbage"), &secrets, &means()).await.unwrap_err();
    assert!(clean(&error).contains("line 1 column"), "{error}");
    let error = Provider::open(&open("/absent"), &secrets, &means()).await.unwrap_err();
    assert_eq!(clean(&error), "acme-dns accounts: it is not there");
}

#[tokio::test]
async fn a_server_that_repeats_the_secret() {
    let server = Server::start(|_| {
        Reply::json(StatusCode::UNAUTHORIZED, &json!({"error": format!("no such key {SECRET}"), "message": SECRET}))
    })
    .await;
    let account = json!({"shop.example.com": {"username": "user", "password": SECRET, "subdomain": "x"}});
    let cloud = format!(
        "clouds:\n  c:\n    auth:\n      auth_url: {}\n      application_credential_id: id\n      application_credential_secret: {SECRET}\n",
        server.url("")
    );
    let secrets = secrets(&[("/accounts", &account.to_string()), ("/token", SECRET), ("/clouds", &cloud)]);
    for provider in [
        DnsProvider::AcmeDns { server: server.url("").into(), accounts: file("/accounts") },
        DnsProvider::Webhook { url: server.url("/hook").into(), authorization: Some(file("/token")) },
        DnsProvider::Designate { clouds: file("/clouds"), cloud: "c".into() },
    ] {
        let provider = Provider::open(&provider, &secrets, &means()).await.unwrap();
        let error = provider.add(&record("value-1")).await.unwrap_err();
        let text = clean(&error);
        assert!(text.contains("401") && text.contains("[redacted]"), "{text}");
    }
    let cloudflare = cloudflare::Cloudflare::at(&server.url(""), SECRET, &means()).unwrap();
    let error = cloudflare.add(&record("value-1")).await.unwrap_err();
    assert!(clean(&error).contains("[redacted]"), "{error}");
}

#[tokio::test]
async fn webhook() {
    type Seen = Vec<(String, Option<String>)>;
    let seen: Arc<Mutex<Seen>> = Arc::default();
    let server = Server::start({
        let seen = Arc::clone(&seen);
        move |request| {
            assert_eq!(request.method, "POST");
            let authorization = request.header("authorization").map(str::to_owned);
            seen.lock().unwrap().push((request.target.clone(), authorization));
            assert_eq!(request.header("content-type"), Some("application/json"));
            assert_eq!(request.json(), json!({"fqdn": "_acme-challenge.shop.example.com.", "value": "value-1"}));
            Reply::text(
                if request.target.contains("broken") { StatusCode::BAD_GATEWAY } else { StatusCode::NO_CONTENT },
                "nö\n",
            )
        }
    })
    .await;
    let secrets = secrets(&[
        ("/token", &format!("{SECRET}\n")),
        ("/bearer", &format!("Bearer {SECRET}")),
        ("/basic", "user:pass"),
        ("/ready", "Basic dXNlcjpwYXNz"),
        ("/lines", "a\nb"),
    ]);
    let bearer = format!("Bearer {SECRET}");
    for (path, expected) in [
        (None, None),
        (Some("/token"), Some(bearer.as_str())),
        (Some("/bearer"), Some(bearer.as_str())),
        (Some("/basic"), Some("Basic dXNlcjpwYXNz")),
        (Some("/ready"), Some("Basic dXNlcjpwYXNz")),
    ] {
        let provider = DnsProvider::Webhook { url: server.url("/hook/").into(), authorization: path.map(file) };
        let provider = Provider::open(&provider, &secrets, &means()).await.unwrap();
        provider.add(&record("value-1")).await.unwrap();
        provider.remove(&record("value-1")).await.unwrap();
        let calls = std::mem::take(&mut *seen.lock().unwrap());
        let expected = expected.map(str::to_owned);
        assert_eq!(calls, [("/hook/present".into(), expected.clone()), ("/hook/cleanup".into(), expected)]);
    }
    let provider = DnsProvider::Webhook { url: server.url("/broken").into(), authorization: None };
    let error = Provider::open(&provider, &secrets, &means()).await.unwrap().add(&record("value-1")).await.unwrap_err();
    assert!(clean(&error).ends_with("refuses _acme-challenge.shop.example.com: 502 Bad Gateway: nö"), "{error}");
    let provider = DnsProvider::Webhook { url: server.url("").into(), authorization: Some(file("/lines")) };
    let error = Provider::open(&provider, &secrets, &means()).await.unwrap_err();
    assert!(error.to_string().contains("no HTTP header can hold"), "{error}");
    let provider = DnsProvider::Webhook { url: "http://127.0.0.1:1/".into(), authorization: None };
    let error = Provider::open(&provider, &secrets, &means()).await.unwrap().add(&record("value-1")).await.unwrap_err();
    assert!(error.to_string().starts_with("cannot reach 127.0.0.1:1"), "{error}");
}

/// A script of the shell, given as an argument: a file that was just written may still be busy in another thread's fork.
fn script(text: &str, limits: Limits) -> exec::Exec {
    exec::Exec::new(std::path::Path::new("/bin/sh"), &["-c".into(), text.into(), "hook".into()], limits)
}

#[tokio::test]
async fn exec_says_what_it_is_called_with() {
    let limits = means().limits;
    let checks = r#"test "$*" = "present _acme-challenge.shop.example.com. value-1" && test "$(pwd)" = / &&
        test -z "$HOME$CARGO_MANIFEST_DIR" && test -n "$PATH" && ! read -r line"#;
    script(checks, limits).add(&record("value-1")).await.unwrap();
    script("test $1 = cleanup", limits).remove(&record("value-1")).await.unwrap();
}

#[tokio::test]
async fn exec_fails_by_table() {
    let limits = means().limits;
    for (text, expected) in [
        ("exit 3", "program /bin/sh: exit status 3"),
        ("echo out; exit 1", "program /bin/sh: exit status 1: out"),
        ("echo out; echo 'bad\tzone' >&2; exit 1", "program /bin/sh: exit status 1: bad zone"),
        // Of much output the end is kept, and it never blocks.
        ("i=0; while [ $i -lt 20000 ]; do echo 0123456789; i=$((i+1)); done; echo end; exit 1", "0123456789 end"),
        ("kill -9 $$", "program /bin/sh: ended by signal: 9"),
    ] {
        let error = script(text, limits).add(&record("v")).await.unwrap_err().to_string();
        assert!(error.contains(expected) && error.len() < 200, "{text}: {error}");
    }
    let missing = exec::Exec::new(std::path::Path::new("/no/such/program"), &[], limits);
    let error = missing.add(&record("v")).await.unwrap_err().to_string();
    assert!(error.starts_with("program /no/such/program: No such file"), "{error}");
}

/// Whether the process is there and is no zombie (proc_pid_stat(5): the state follows the name in brackets).
fn lives(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

async fn gone(pid: &str) {
    let end = tokio::time::Instant::now() + Duration::from_secs(20);
    while lives(pid) {
        assert!(tokio::time::Instant::now() < end, "{pid} lives");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn exec_is_killed_with_its_children() {
    let directory = tempfile::tempdir().unwrap();
    let note = directory.path().join("pid");
    let text = format!("sleep 1000 & echo $! > {}.new; mv {0}.new {0}; wait", note.display());
    // A deadline.
    let limits = Limits { time: Duration::from_secs(4), output: 64 };
    let error = script(&text, limits).add(&record("v")).await.unwrap_err().to_string();
    assert_eq!(error, "program /bin/sh: still running after 4 s, killed");
    gone(std::fs::read_to_string(&note).unwrap().trim()).await;
    // A wait that is given up.
    std::fs::remove_file(&note).unwrap();
    let hook = script(&text, means().limits);
    let call = tokio::spawn(async move { hook.add(&record("v")).await });
    while !note.exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    call.abort();
    gone(std::fs::read_to_string(&note).unwrap().trim()).await;
    // One who stays behind with the output open neither blocks nor stays.
    std::fs::remove_file(&note).unwrap();
    let text = format!("sleep 1000 & echo $! > {}; exit 0", note.display());
    script(&text, means().limits).add(&record("v")).await.unwrap();
    gone(std::fs::read_to_string(&note).unwrap().trim()).await;
}
