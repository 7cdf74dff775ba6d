//! Cloudflare: API v4 with a token that may edit the zone's DNS (`Zone.DNS:Edit`, `Zone.Zone:Read`).
//!
//! developers.cloudflare.com/api: each answer is `{"success", "errors": [{"code", "message"}], "result"}`. Every value
//! is a record of its own there, so adding and removing touch no other.

use http::Method;
use serde_json::{Value, json};

use super::json::{Json, JsonAnswer, query, zones};
use super::{Means, ProviderError, TxtValue, WriteTxt};

const API: &str = "https://api.cloudflare.com/client/v4";
/// The lowest that is free for all; seconds.
const TTL: u32 = 60;
/// The record is there already.
const IDENTICAL: [i64; 2] = [81057, 81058];
/// The record is gone already.
const NOT_THERE: i64 = 81044;

pub struct Cloudflare {
    api: Box<str>,
    json: Json,
}

impl Cloudflare {
    pub fn new(token: &str, means: &Means) -> Result<Self, ProviderError> {
        Self::at(API, token, means)
    }

    pub(super) fn at(api: &str, token: &str, means: &Means) -> Result<Self, ProviderError> {
        let mut json = Json::new(means.https.clone(), "Cloudflare");
        json.secret_header("authorization", "Bearer ", token.trim())?;
        Ok(Self { api: api.into(), json })
    }

    /// The id of the zone that holds a name.
    async fn zone(&self, name: &str) -> Result<Box<str>, ProviderError> {
        for zone in zones(name) {
            let url = format!("{}/zones?name={}", self.api, query(zone));
            let answer = self.get(name, &url).await?;
            let id = answer.body.pointer("/result/0/id").and_then(Value::as_str);
            if let Some(id) = id {
                return Ok(id.into());
            }
        }
        Err(ProviderError::Refused {
            who: "Cloudflare".into(),
            name: name.into(),
            reason: "the token sees no zone that holds it".into(),
        })
    }

    /// Ids of the records that have this very value.
    async fn records(&self, zone: &str, record: &TxtValue) -> Result<Vec<Box<str>>, ProviderError> {
        let url = format!("{}/zones/{zone}/dns_records?type=TXT&name={}&per_page=100", self.api, query(&record.name));
        let answer = self.get(&record.name, &url).await?;
        let found = answer.body.get("result").and_then(Value::as_array);
        let matches = |one: &&Value| {
            let content = one.get("content").and_then(Value::as_str).unwrap_or_default();
            content.trim_matches('"') == &*record.value
        };
        let id = |one: &Value| one.get("id").and_then(Value::as_str).map(Into::into);
        Ok(found.into_iter().flatten().filter(matches).filter_map(id).collect())
    }

    async fn get(&self, name: &str, url: &str) -> Result<JsonAnswer, ProviderError> {
        let answer = self.json.send(Method::GET, url, None).await?;
        if succeeded(&answer) { Ok(answer) } else { Err(self.refused(name, &answer)) }
    }

    fn refused(&self, name: &str, answer: &JsonAnswer) -> ProviderError {
        let message = answer.body.pointer("/errors/0/message").and_then(Value::as_str);
        self.json.refused(name, answer, message)
    }
}

impl WriteTxt for Cloudflare {
    async fn add(&self, record: &TxtValue) -> Result<(), ProviderError> {
        let zone = self.zone(&record.name).await?;
        let url = format!("{}/zones/{zone}/dns_records", self.api);
        // Content in quotes is what Cloudflare stores; without them it warns.
        let content = format!("\"{}\"", record.value);
        let body = json!({"type": "TXT", "name": &*record.name, "content": content, "ttl": TTL});
        let answer = self.json.send(Method::POST, &url, Some(&body)).await?;
        if succeeded(&answer) || code(&answer).is_some_and(|code| IDENTICAL.contains(&code)) {
            return Ok(());
        }
        Err(self.refused(&record.name, &answer))
    }

    async fn remove(&self, record: &TxtValue) -> Result<(), ProviderError> {
        let zone = self.zone(&record.name).await?;
        for id in self.records(&zone, record).await? {
            let url = format!("{}/zones/{zone}/dns_records/{id}", self.api);
            let answer = self.json.send(Method::DELETE, &url, None).await?;
            if !succeeded(&answer) && code(&answer) != Some(NOT_THERE) {
                return Err(self.refused(&record.name, &answer));
            }
        }
        Ok(())
    }
}

fn succeeded(answer: &JsonAnswer) -> bool {
    answer.status.is_success() && answer.body.get("success").and_then(Value::as_bool) == Some(true)
}

fn code(answer: &JsonAnswer) -> Option<i64> {
    answer.body.pointer("/errors/0/code").and_then(Value::as_i64)
}
