//! Designate, the DNS of OpenStack: a token of Keystone v3 for what a clouds.yaml says, then record sets of Designate v2.
//!
//! docs.openstack.org/api-ref/identity/v3 and /dns. A record set holds all values at a name, so it is read, changed and
//! written as a whole; the presenter lets one change of a name at a time through. `cacert` and `verify` of the cloud are
//! obeyed.

use edge_config::issuer::SecretSource;
use edge_config::yaml::{self, Node, Value as Yaml};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::json::{Json, JsonAnswer, join, query, zones};
use super::{Means, ProviderError, Secrets, TxtValue, WriteTxt};
use crate::client::{Https, Settings, Trust};

/// Seconds.
const TTL: u32 = 60;
/// Of a read and write that another writer came between.
const TRIES: usize = 3;

pub struct Designate {
    auth_url: Box<str>,
    /// What Keystone wants as `auth`; holds the secret.
    auth: Value,
    secret: zeroize::Zeroizing<String>,
    region: Option<Box<str>>,
    interface: Box<str>,
    https: Https,
}

/// Designate with a token.
struct Dns {
    url: Box<str>,
    json: Json,
}

/// A record set as it was read.
struct Set {
    id: Box<str>,
    records: Vec<String>,
}

impl Designate {
    pub async fn open(clouds: &str, cloud: &str, secrets: &dyn Secrets, means: &Means) -> Result<Self, ProviderError> {
        // The parser's own words could repeat a password.
        let root = yaml::parse(clouds)
            .map_err(|error| fault(format!("line {} column {}: not valid YAML", error.mark.line, error.mark.column)))?;
        let node = root.as_ref().and_then(|root| root.member("clouds")?.member(cloud));
        let node = node.ok_or_else(|| fault(format!("there is no cloud {cloud:?}")))?;
        let auth = node.member("auth").ok_or_else(|| fault(format!("cloud {cloud:?} has no auth")))?;
        let auth_url = string(auth, "auth_url")?.ok_or_else(|| fault("auth has no auth_url".into()))?;
        let (auth, secret) = identity(node, auth)?;
        let https = match trust(node, secrets).await? {
            None => means.https.clone(),
            Some(trust) => Https::new(&Settings { trust, plain_http: true, ..Settings::default() })?,
        };
        Ok(Self {
            auth_url: auth_url.into(),
            auth,
            secret,
            region: string(node, "region_name")?.map(Into::into),
            interface: string(node, "interface")?.unwrap_or("public").trim_end_matches("URL").into(),
            https,
        })
    }

    /// Keystone: POST /v3/auth/tokens; the catalogue in its answer says where Designate is.
    async fn sign_in(&self) -> Result<Dns, ProviderError> {
        let mut keystone = Json::new(self.https.clone(), "Keystone");
        keystone.hide(&self.secret);
        let base = self.auth_url.trim_end_matches('/');
        let base = if base.ends_with("/v3") { base.to_owned() } else { format!("{base}/v3") };
        let body = json!({ "auth": self.auth });
        let answer = keystone.send(Method::POST, &join(&base, "auth/tokens"), Some(&body)).await?;
        if answer.status != StatusCode::CREATED {
            let message = answer.body.pointer("/error/message").and_then(Value::as_str);
            return Err(keystone.refused("a token", &answer, message));
        }
        let token = answer.headers.get("x-subject-token").and_then(|token| token.to_str().ok());
        let token = token.ok_or_else(|| keystone.garbled("it has no X-Subject-Token"))?;
        let url = self.endpoint(&answer.body).ok_or_else(|| {
            let region = self.region.as_deref().unwrap_or("any region");
            keystone.garbled(&format!("its catalogue has no {} endpoint of type dns in {region}", self.interface))
        })?;
        let mut json = Json::new(self.https.clone(), "Designate");
        json.secret_header("x-auth-token", "", token)?;
        json.hide(&self.secret);
        let url = url.trim_end_matches('/');
        let url = if url.ends_with("/v2") { url.into() } else { format!("{url}/v2").into() };
        Ok(Dns { url, json })
    }

    fn endpoint<'a>(&self, body: &'a Value) -> Option<&'a str> {
        let services = body.pointer("/token/catalog")?.as_array()?;
        let service = services.iter().find(|service| text(service, "type") == Some("dns"))?;
        let fits = |endpoint: &&Value| {
            let region = text(endpoint, "region_id").or(text(endpoint, "region"));
            text(endpoint, "interface") == Some(&self.interface)
                && (self.region.is_none() || self.region.as_deref() == region)
        };
        service.get("endpoints")?.as_array()?.iter().find(fits).and_then(|endpoint| text(endpoint, "url"))
    }

    /// Reads, changes and writes the set until nobody came between.
    async fn change(&self, record: &TxtValue, change: impl Fn(&mut Vec<String>)) -> Result<(), ProviderError> {
        let dns = self.sign_in().await?;
        let zone = dns.zone(&record.name).await?;
        let mut last = None;
        for _ in 0..TRIES {
            let set = dns.set(&zone, &record.name).await?;
            let before = set.as_ref().map(|set| set.records.clone()).unwrap_or_default();
            let mut records = before.clone();
            change(&mut records);
            if records == before {
                return Ok(());
            }
            let answer = dns.write(&zone, &record.name, set.as_ref(), &records).await?;
            if answer.status.is_success() {
                return Ok(());
            }
            let error = dns.refused(&record.name, &answer);
            // Made or removed by another in the meantime.
            if answer.status != StatusCode::CONFLICT && answer.status != StatusCode::NOT_FOUND {
                return Err(error);
            }
            last = Some(error);
        }
        last.map_or(Ok(()), Err)
    }
}

impl Dns {
    async fn zone(&self, name: &str) -> Result<Box<str>, ProviderError> {
        for zone in zones(name) {
            let url = join(&self.url, &format!("zones?name={}.", query(zone)));
            let answer = self.get(name, &url).await?;
            if let Some(id) = answer.body.pointer("/zones/0/id").and_then(Value::as_str) {
                return Ok(id.into());
            }
        }
        Err(ProviderError::Refused {
            who: "Designate".into(),
            name: name.into(),
            reason: "the project has no zone that holds it".into(),
        })
    }

    async fn set(&self, zone: &str, name: &str) -> Result<Option<Set>, ProviderError> {
        let url = join(&self.url, &format!("zones/{zone}/recordsets?type=TXT&name={}.", query(name)));
        let answer = self.get(name, &url).await?;
        let Some(set) = answer.body.pointer("/recordsets/0") else { return Ok(None) };
        let id = set.get("id").and_then(Value::as_str).ok_or_else(|| self.json.garbled("a record set has no id"))?;
        let records = set.get("records").and_then(Value::as_array);
        let records = records.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        Ok(Some(Set { id: id.into(), records }))
    }

    async fn write(
        &self,
        zone: &str,
        name: &str,
        set: Option<&Set>,
        records: &[String],
    ) -> Result<JsonAnswer, ProviderError> {
        let sets = join(&self.url, &format!("zones/{zone}/recordsets"));
        match set {
            Some(set) if records.is_empty() => {
                self.json.send(Method::DELETE, &format!("{sets}/{}", set.id), None).await
            }
            Some(set) => {
                let body = json!({"ttl": TTL, "records": records});
                self.json.send(Method::PUT, &format!("{sets}/{}", set.id), Some(&body)).await
            }
            None => {
                let body = json!({"name": format!("{name}."), "type": "TXT", "ttl": TTL, "records": records});
                self.json.send(Method::POST, &sets, Some(&body)).await
            }
        }
    }

    async fn get(&self, name: &str, url: &str) -> Result<JsonAnswer, ProviderError> {
        let answer = self.json.send(Method::GET, url, None).await?;
        if answer.status.is_success() { Ok(answer) } else { Err(self.refused(name, &answer)) }
    }

    fn refused(&self, name: &str, answer: &JsonAnswer) -> ProviderError {
        let message = answer.body.get("message").and_then(Value::as_str);
        self.json.refused(name, answer, message)
    }
}

impl WriteTxt for Designate {
    async fn add(&self, record: &TxtValue) -> Result<(), ProviderError> {
        let value = format!("\"{}\"", record.value);
        let add = |records: &mut Vec<String>| {
            if !records.contains(&value) {
                records.push(value.clone());
            }
        };
        self.change(record, add).await
    }

    async fn remove(&self, record: &TxtValue) -> Result<(), ProviderError> {
        let value = format!("\"{}\"", record.value);
        self.change(record, |records| records.retain(|one| *one != value)).await
    }
}

/// `auth` of Keystone and the secret in it: an application credential, which has its scope in itself, or a password with
/// the project as its scope.
fn identity(cloud: &Node<'_>, auth: &Node<'_>) -> Result<(Value, zeroize::Zeroizing<String>), ProviderError> {
    let kind = string(cloud, "auth_type")?;
    let wanted = |key: &'static str| string(auth, key)?.ok_or_else(|| fault(format!("auth has no {key}")));
    let user = || -> Result<Option<Value>, ProviderError> {
        if let Some(id) = string(auth, "user_id")? {
            return Ok(Some(json!({ "id": id })));
        }
        let Some(name) = string(auth, "username")? else { return Ok(None) };
        Ok(Some(json!({ "name": name, "domain": domain(auth, "user_domain")? })))
    };
    match kind {
        Some("v3applicationcredential") => {}
        None if auth.member("application_credential_secret").is_some() => {}
        None | Some("password" | "v3password") => {
            let secret = wanted("password")?;
            let mut user = user()?.ok_or_else(|| fault("auth has neither username nor user_id".into()))?;
            user["password"] = secret.into();
            let project = match string(auth, "project_id")? {
                Some(id) => json!({ "id": id }),
                None => json!({ "name": wanted("project_name")?, "domain": domain(auth, "project_domain")? }),
            };
            let identity = json!({ "methods": ["password"], "password": { "user": user } });
            return Ok((json!({ "identity": identity, "scope": { "project": project } }), secret.to_owned().into()));
        }
        Some(other) => {
            return Err(fault(format!("auth_type {other:?}: expected v3applicationcredential or v3password")));
        }
    }
    let secret = wanted("application_credential_secret")?;
    let mut credential = json!({ "secret": secret });
    match string(auth, "application_credential_id")? {
        Some(id) => credential["id"] = id.into(),
        None => {
            credential["name"] = wanted("application_credential_name")?.into();
            credential["user"] = user()?.ok_or_else(|| fault("auth has neither username nor user_id".into()))?;
        }
    }
    let identity = json!({ "methods": ["application_credential"], "application_credential": credential });
    Ok((json!({ "identity": identity }), secret.to_owned().into()))
}

fn domain(auth: &Node<'_>, prefix: &str) -> Result<Value, ProviderError> {
    if let Some(id) = string(auth, &format!("{prefix}_id"))?.or(string(auth, "domain_id")?) {
        return Ok(json!({ "id": id }));
    }
    let name = string(auth, &format!("{prefix}_name"))?.or(string(auth, "domain_name")?);
    // What OpenStack's own tools take where nothing is said.
    Ok(name.map_or_else(|| json!({ "id": "default" }), |name| json!({ "name": name })))
}

async fn trust(cloud: &Node<'_>, secrets: &dyn Secrets) -> Result<Option<Trust>, ProviderError> {
    match cloud.member("verify").map(|node| &node.value) {
        None | Some(Yaml::Bool(true)) => {}
        Some(Yaml::Bool(false)) => return Ok(Some(Trust::Insecure)),
        Some(_) => return Err(fault("verify: expected true or false".into())),
    }
    let Some(path) = string(cloud, "cacert")? else { return Ok(None) };
    let pem =
        secrets.read(&SecretSource::File(path.into())).await.map_err(|reason| fault(format!("cacert: {reason}")))?;
    Ok(Some(Trust::Roots(pem.as_slice().into())))
}

fn string<'n>(node: &'n Node<'_>, key: &str) -> Result<Option<&'n str>, ProviderError> {
    match node.member(key).map(|member| (&member.value, member.as_str())) {
        None | Some((Yaml::Null, _)) => Ok(None),
        Some((_, Some(text))) => Ok(Some(text)),
        // The value may be a secret.
        Some((_, None)) => Err(fault(format!("{key}: expected a text, in quotes where it looks like a number"))),
    }
}

fn text<'v>(value: &'v Value, key: &str) -> Option<&'v str> {
    value.get(key).and_then(Value::as_str)
}

fn fault(reason: String) -> ProviderError {
    ProviderError::Secret { what: "clouds.yaml".into(), reason: reason.into() }
}
