//! Credential plugins of a kubeconfig: a program that prints a token or a certificate. kube would run one between two
//! requests and wait for it on the thread of all watches; here it has a deadline and holds up nobody.
//!
//! In: the `exec` of a user. Out: credentials and when they end. What it prints is never logged: it is a secret.
//! Standards: client-go credential plugins, `client.authentication.k8s.io/v1` and `v1beta1`.

use std::io;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use kube::config::{ExecConfig, ExecInteractiveMode};
use serde::Deserialize;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::process::Command;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::client::one_line;

/// A plugin may ask a server of its own.
pub const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    #[error("no command is given")]
    NoCommand,
    #[error("it wants a terminal (interactiveMode: Always), and a daemon has none")]
    Interactive,
    #[error("cannot be run")]
    Start(#[source] io::Error),
    #[error("no answer within {} s", .0.as_secs_f32())]
    Late(Duration),
    #[error("{status}: {said}")]
    Failed { status: std::process::ExitStatus, said: String },
    #[error("what it prints is no ExecCredential of {expected}")]
    Unreadable { expected: String },
    #[error("it prints neither a token nor a certificate with its key")]
    Empty,
}

/// What a plugin gives: secrets, so there is no way to print them.
#[derive(Default)]
pub struct Credentials {
    pub token: Option<Zeroizing<String>>,
    /// PEM of a chain and its key.
    pub pair: Option<(String, Zeroizing<String>)>,
    pub ends: Option<SystemTime>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExecCredential {
    api_version: String,
    kind: String,
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
    expiration_timestamp: Option<String>,
}

/// Runs a plugin; whatever is not over within `patience` is killed.
pub async fn run(exec: &ExecConfig, patience: Duration) -> Result<Credentials, PluginError> {
    let program = exec.command.as_deref().ok_or(PluginError::NoCommand)?;
    if exec.interactive_mode == Some(ExecInteractiveMode::Always) {
        return Err(PluginError::Interactive);
    }
    let version = exec.api_version.as_deref().unwrap_or("client.authentication.k8s.io/v1");
    let mut spec = json!({"interactive": false});
    if exec.provide_cluster_info {
        spec["cluster"] = json!(exec.cluster);
    }
    let about = json!({"apiVersion": version, "kind": "ExecCredential", "spec": spec});
    let mut command = Command::new(program);
    command.args(exec.args.iter().flatten()).env("KUBERNETES_EXEC_INFO", about.to_string());
    for variable in exec.env.iter().flatten() {
        if let (Some(name), Some(value)) = (variable.get("name"), variable.get("value")) {
            command.env(name, value);
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let child = command.spawn().map_err(PluginError::Start)?;
    let output = match timeout(patience, child.wait_with_output()).await {
        Ok(output) => output.map_err(PluginError::Start)?,
        Err(_) => return Err(PluginError::Late(patience)),
    };
    let printed = Zeroizing::new(output.stdout);
    if !output.status.success() {
        let said = one_line(&String::from_utf8_lossy(&output.stderr));
        return Err(PluginError::Failed { status: output.status, said });
    }
    read(&printed, version)
}

fn read(printed: &[u8], version: &str) -> Result<Credentials, PluginError> {
    let unreadable = || PluginError::Unreadable { expected: version.to_owned() };
    // serde's message would quote what it found.
    let found: ExecCredential = serde_json::from_slice(printed).map_err(|_| unreadable())?;
    if found.kind != "ExecCredential" || found.api_version != version {
        return Err(unreadable());
    }
    let status = found.status.ok_or(PluginError::Empty)?;
    let ends = match &status.expiration_timestamp {
        Some(text) => Some(OffsetDateTime::parse(text, &Rfc3339).map_err(|_| unreadable())?.into()),
        None => None,
    };
    let token = status.token.filter(|token| !token.is_empty()).map(Zeroizing::new);
    let pair = status.client_certificate_data.zip(status.client_key_data.map(Zeroizing::new));
    if token.is_none() && pair.is_none() {
        return Err(PluginError::Empty);
    }
    Ok(Credentials { token, pair, ends })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(script: &str) -> ExecConfig {
        serde_json::from_value(json!({
            "apiVersion": "client.authentication.k8s.io/v1", "command": "/bin/sh", "args": ["-c", script],
            "env": [{"name": "GIVEN", "value": "x"}],
        }))
        .unwrap()
    }

    async fn outcome(script: &str, patience: Duration) -> String {
        match run(&plugin(script), patience).await {
            Ok(found) => {
                let token = found.token.as_ref().map(|token| token.as_str().to_owned());
                let ends = found.ends.map(|ends| ends.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs());
                format!("{token:?} {:?} {ends:?}", found.pair.map(|(chain, key)| format!("{chain}{}", &*key)))
            }
            Err(error) => error.to_string(),
        }
    }

    #[tokio::test]
    async fn what_plugins_do() {
        let head = r#"echo '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential""#;
        for (script, expected) in [
            (
                format!(r#"{head},"status":{{"token":"t","expirationTimestamp":"1970-01-01T00:01:00Z"}}}}'"#),
                r#"Some("t") None Some(60)"#,
            ),
            (
                format!(r#"{head},"status":{{"clientCertificateData":"c","clientKeyData":"k"}}}}'"#),
                r#"None Some("ck") None"#,
            ),
            (
                r#"echo "$KUBERNETES_EXEC_INFO" | grep -q '"interactive":false' && test "$GIVEN" = x && exit 3"#
                    .to_owned(),
                "exit status: 3: ",
            ),
            ("echo secret; echo no way >&2; exit 1".to_owned(), "exit status: 1: no way"),
            (format!("{head}}}'"), "it prints neither a token nor a certificate with its key"),
            ("echo secret".to_owned(), "what it prints is no ExecCredential of client.authentication.k8s.io/v1"),
            (
                r#"echo '{"apiVersion":"client.authentication.k8s.io/v2","kind":"ExecCredential"}'"#.to_owned(),
                "what it prints is no ExecCredential of client.authentication.k8s.io/v1",
            ),
        ] {
            assert_eq!(outcome(&script, Duration::from_secs(60)).await, expected, "{script}");
        }
    }

    #[tokio::test]
    async fn one_that_hangs_is_given_up() {
        let said = outcome("sleep 600", Duration::from_millis(50)).await;
        assert_eq!(said, "no answer within 0.05 s");
        let mut absent = plugin("");
        absent.command = Some("/no/such/plugin".to_owned());
        assert!(matches!(run(&absent, PATIENCE).await, Err(PluginError::Start(_))));
    }
}
