//! The environment and the command line of a container, as a kubelet would resolve them.
//!
//! Flows in: a Pod, one of its containers, what it refers to. Flows out: variables and words. Pure.
//! Service variables (`KUBERNETES_SERVICE_HOST` and its like) are not made: there is no Service address in the rig.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod};

use crate::objects::{Fault, Objects, Place, field};

/// Variables in the order a kubelet resolves them: `envFrom` first, then `env`, a later one replacing an earlier.
pub fn environment(
    pod: &Pod,
    container: &Container,
    place: &Place,
    objects: &Objects,
) -> Result<Vec<(String, String)>, Fault> {
    let mut variables: Vec<(String, String)> = Vec::new();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let (kind, name, optional) = match (&source.secret_ref, &source.config_map_ref) {
            (Some(secret), _) => ("Secret", &secret.name, secret.optional),
            (None, Some(map)) => ("ConfigMap", &map.name, map.optional),
            (None, None) => continue,
        };
        for (key, value) in objects.entries(kind, name, optional)?.into_iter().flatten() {
            let text = text(kind, name, key, value)?;
            set(&mut variables, format!("{prefix}{key}"), text);
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            None => Some(expand(variable.value.as_deref().unwrap_or_default(), &variables)),
            Some(source) => resolve(&variable.name, source, pod, place, objects)?,
        };
        if let Some(value) = value {
            set(&mut variables, variable.name.clone(), value);
        }
    }
    Ok(variables)
}

/// `None` where an optional key is absent: the variable is then not set at all.
fn resolve(
    name: &str,
    source: &EnvVarSource,
    pod: &Pod,
    place: &Place,
    objects: &Objects,
) -> Result<Option<String>, Fault> {
    if let Some(reference) = &source.field_ref {
        let value = field(pod, place, &reference.field_path);
        let fault = || Fault::Field { name: name.to_owned(), path: reference.field_path.clone() };
        return value.map(Some).ok_or_else(fault);
    }
    let (kind, object, key, optional) = match (&source.secret_key_ref, &source.config_map_key_ref) {
        (Some(secret), _) => ("Secret", &secret.name, &secret.key, secret.optional),
        (None, Some(map)) => ("ConfigMap", &map.name, &map.key, map.optional),
        (None, None) => return Err(Fault::ResourceField { name: name.to_owned() }),
    };
    match objects.entries(kind, object, optional)?.and_then(|entries| entries.get(key)) {
        Some(value) => text(kind, object, key, value).map(Some),
        None if optional == Some(true) => Ok(None),
        None => Err(Fault::NoKey { kind, name: object.clone(), key: key.clone() }),
    }
}

fn text(kind: &'static str, name: &str, key: &str, value: &[u8]) -> Result<String, Fault> {
    std::str::from_utf8(value).map(str::to_owned).map_err(|_| Fault::NotText {
        kind,
        name: name.to_owned(),
        key: key.to_owned(),
    })
}

fn set(variables: &mut Vec<(String, String)>, name: String, value: String) {
    variables.retain(|(other, _)| *other != name);
    variables.push((name, value));
}

/// Replaces `$(NAME)` by what was resolved before; an unknown name stays as it is and `$$` is a plain `$`.
pub fn expand(text: &str, variables: &[(String, String)]) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('$') {
        let (before, from) = rest.split_at(start);
        result.push_str(before);
        let after = &from[1..];
        if let Some(after) = after.strip_prefix('$') {
            result.push('$');
            rest = after;
            continue;
        }
        let name = after.strip_prefix('(').and_then(|inner| inner.split_once(')'));
        match name {
            Some((name, after)) => {
                match variables.iter().find(|(other, _)| other == name) {
                    Some((_, value)) => result.push_str(value),
                    None => result.push_str(&from[..name.len() + 3]),
                }
                rest = after;
            }
            None => {
                result.push('$');
                rest = after;
            }
        }
    }
    result.push_str(rest);
    result
}

/// What to execute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// On the host.
    pub program: PathBuf,
    /// What the program is called, in its `argv[0]` too.
    pub name: String,
    pub arguments: Vec<String>,
}

/// `registry/path/name:tag@digest` → `name`.
pub fn image_name(image: &str) -> &str {
    let image = image.split_once('@').map_or(image, |(image, _)| image);
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split_once(':').map_or(last, |(name, _)| name)
}

/// The command line of a container whose image stands for `program`. An image here is one program, so a `command` must
/// name that program, or one of the host's by its absolute path.
pub fn invocation(container: &Container, program: &Path, variables: &[(String, String)]) -> Result<Invocation, String> {
    let words = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter().flatten().map(|word| expand(word, variables)).collect()
    };
    let own = image_name(container.image.as_deref().unwrap_or_default()).to_owned();
    let mut command = words(&container.command).into_iter();
    let (program, name) = match command.next() {
        None => (program.to_owned(), own),
        Some(first) => {
            let name = Path::new(&first).file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            if name == own || Some(name.as_str()) == program.file_name().and_then(|name| name.to_str()) {
                (program.to_owned(), name)
            } else if Path::new(&first).is_absolute() && Path::new(&first).is_file() {
                (PathBuf::from(first), name)
            } else {
                return Err(format!("command {first}: not in the image {own}"));
            }
        }
    };
    Ok(Invocation { program, name, arguments: command.chain(words(&container.args)).collect() })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::objects::tests::{objects, place, pod};

    fn resolved(container: Value) -> Result<Vec<(String, String)>, Fault> {
        let mut container = container;
        container["name"] = json!("a");
        let pod = pod(json!({"containers": [container], "nodeName": "n1"}));
        let container = &pod.spec.as_ref().unwrap().containers[0];
        environment(&pod, container, &place(), &objects())
    }

    #[test]
    fn variables() {
        let cases = [
            (json!({"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)$(X)"}]}), "A=1 B=1$(X)"),
            (json!({"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}), "A=2"),
            (json!({"env": [{"name": "A"}]}), "A="),
            (json!({"env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}), "N=web-6f-x2"),
            (
                json!({"env": [{"name": "K", "valueFrom": {"secretKeyRef": {"name": "certificate", "key": "tls.key"}}}]}),
                "K=KEY",
            ),
            (
                json!({"env": [{"name": "K", "valueFrom":
                    {"configMapKeyRef": {"name": "settings", "key": "no", "optional": true}}}]}),
                "",
            ),
            (
                json!({"env": [{"name": "K", "valueFrom":
                    {"secretKeyRef": {"name": "no", "key": "no", "optional": true}}}]}),
                "",
            ),
            (
                json!({"envFrom": [{"prefix": "P_", "configMapRef": {"name": "settings"}}],
                    "env": [{"name": "P_LEVEL", "value": "info"}]}),
                "P_Corefile=. { whoami } P_bits=\0\x01 P_LEVEL=info",
            ),
            (json!({"envFrom": [{"secretRef": {"name": "no", "optional": true}}]}), ""),
        ];
        for (container, expected) in cases {
            let found = resolved(container.clone()).unwrap();
            let found: Vec<String> = found.iter().map(|(name, value)| format!("{name}={value}")).collect();
            assert_eq!(found.join(" "), expected, "{container}");
        }
    }

    #[test]
    fn faults_name_the_object() {
        let cases = [
            (
                json!({"env": [{"name": "K", "valueFrom": {"secretKeyRef": {"name": "later", "key": "k"}}}]}),
                "Secret later: not found",
            ),
            (
                json!({"env": [{"name": "K", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "k"}}}]}),
                "ConfigMap settings: has no key k",
            ),
            (
                json!({"env": [{"name": "K", "valueFrom": {"secretKeyRef": {"name": "certificate", "key": "raw"}}}]}),
                "Secret certificate: raw is not UTF-8 text",
            ),
            (
                json!({"env": [{"name": "K", "valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}}]}),
                "env K: field spec.x is not known here",
            ),
            (
                json!({"env": [{"name": "K", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}]}),
                "env K: resourceFieldRef is not supported by podlet",
            ),
            (json!({"envFrom": [{"secretRef": {"name": "no"}}]}), "Secret no: not found"),
        ];
        for (container, expected) in cases {
            assert_eq!(resolved(container.clone()).unwrap_err().to_string(), expected, "{container}");
        }
    }

    #[test]
    fn expansion() {
        let variables = [("A".to_owned(), "1".to_owned())];
        let cases = [
            ("x$(A)y$(A)", "x1y1"),
            ("$$(A)", "$(A)"),
            ("$(B)", "$(B)"),
            ("$(A", "$(A"),
            ("5$", "5$"),
            ("$A", "$A"),
            ("é$(A)é", "é1é"),
        ];
        for (text, expected) in cases {
            assert_eq!(expand(text, &variables), expected, "{text}");
        }
    }

    #[test]
    fn image_names() {
        let cases = [
            ("registry.k8s.io/gateway-api/echo-basic:v1.6.0-dev.3", "echo-basic"),
            ("localhost:5000/coredns", "coredns"),
            ("coredns@sha256:0a", "coredns"),
            ("a/b:t@sha256:0a", "b"),
        ];
        for (image, expected) in cases {
            assert_eq!(image_name(image), expected);
        }
    }

    #[test]
    fn command_lines() {
        let case = |container: Value| {
            let container: Container = serde_json::from_value(container).unwrap();
            invocation(&container, Path::new("/opt/bin/echo-basic-1.6"), &[("A".to_owned(), "1".to_owned())])
        };
        let ours = PathBuf::from("/opt/bin/echo-basic-1.6");
        let plain = case(json!({"name": "a", "image": "r/echo-basic:v1", "args": ["-conf", "$(A)"]})).unwrap();
        let arguments = vec!["-conf".to_owned(), "1".to_owned()];
        assert_eq!(plain, Invocation { program: ours.clone(), name: "echo-basic".to_owned(), arguments });
        let named = case(json!({"name": "a", "image": "echo-basic", "command": ["/echo-basic", "x"], "args": ["y"]}));
        let named = named.unwrap();
        assert_eq!((named.program, named.arguments), (ours, vec!["x".to_owned(), "y".to_owned()]));
        let shell = case(json!({"name": "a", "image": "echo-basic", "command": ["/bin/sh", "-c", "true"]})).unwrap();
        assert_eq!((shell.program, shell.name.as_str()), (PathBuf::from("/bin/sh"), "sh"));
        let absent = case(json!({"name": "a", "image": "echo-basic", "command": ["/no/such"]})).unwrap_err();
        assert_eq!(absent, "command /no/such: not in the image echo-basic");
    }
}
