//! What it answers when it behaves: accounts, orders, authorizations, certificates.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::CertificateSigningRequestDer;
use serde_json::{Value, json};

use super::wire::Request;
use super::{Leaf, Manner, Place, Reply};

const PEM: &str = "application/pem-certificate-chain";

pub struct Ca {
    base: String,
    pub manner: Manner,
    nonces: Vec<String>,
    next_nonce: u64,
    pub bad_nonces: usize,
    /// Account keys (JWK as text), by number.
    accounts: HashMap<u64, String>,
    pub accounts_made: usize,
    orders: Vec<Order>,
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    /// Of nobody.
    other: (Issuer<'static, KeyPair>, String),
}

struct Order {
    account: u64,
    names: Vec<Value>,
    told: bool,
    csr: Option<Vec<u8>>,
    chain: Option<String>,
    /// Why every name of it failed.
    refused: Option<(&'static str, &'static str)>,
}

/// What a path of the directory stands for.
pub fn place(path: &str) -> Place {
    match path.split('/').nth(1).unwrap_or_default() {
        "dir" => Place::Directory,
        "nonce" => Place::Nonce,
        "new-account" => Place::NewAccount,
        "account" | "orders" => Place::Account,
        "new-order" => Place::NewOrder,
        "order" => Place::Order,
        "authorization" => Place::Authorization,
        "challenge" => Place::Challenge,
        "finalize" => Place::Finalize,
        "certificate" => Place::Certificate,
        "revoke" => Place::Revocation,
        _ => Place::Elsewhere,
    }
}

fn authority(name: &str) -> (Issuer<'static, KeyPair>, String) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    (Issuer::new(params, key), pem)
}

impl Ca {
    pub fn new(base: &str) -> Self {
        let (issuer, pem) = authority("Small CA");
        Self {
            base: base.to_owned(),
            manner: Manner::default(),
            nonces: Vec::new(),
            next_nonce: 0,
            bad_nonces: 0,
            accounts: HashMap::new(),
            accounts_made: 0,
            orders: Vec::new(),
            issuer,
            pem,
            other: authority("Small CA of nobody"),
        }
    }

    pub fn root(&self) -> String {
        self.pem.clone()
    }

    pub fn orders(&self) -> usize {
        self.orders.len()
    }

    pub fn forget_accounts(&mut self) {
        self.accounts.clear();
    }

    pub fn nonce(&mut self) -> String {
        self.next_nonce += 1;
        let nonce = format!("n{:012}", self.next_nonce);
        self.nonces.push(nonce.clone());
        nonce
    }

    pub fn answer(&mut self, place: Place, request: &Request) -> Reply {
        match place {
            Place::Directory => return json_reply(200, &self.directory()),
            Place::Nonce => return Reply::of(200, "text/plain", "").with("replay-nonce", &self.nonce()),
            _ => {}
        }
        let reply = self.signed(place, request).unwrap_or_else(|problem| problem);
        reply.with("replay-nonce", &self.nonce())
    }

    fn directory(&self) -> Value {
        let at = |path: &str| format!("{}/{path}", self.base);
        let profiles: serde_json::Map<String, Value> =
            self.manner.profiles.iter().map(|name| ((*name).to_owned(), json!("of the test"))).collect();
        json!({
            "newNonce": at("nonce"), "newAccount": at("new-account"), "newOrder": at("new-order"),
            "revokeCert": at("revoke"),
            "meta": { "externalAccountRequired": self.manner.wants_external_account, "profiles": profiles,
                "caaIdentities": ["small.test"] },
        })
    }

    fn signed(&mut self, place: Place, request: &Request) -> Result<Reply, Reply> {
        let malformed = |what: &str| Reply::problem(400, "malformed", what);
        let jws: Value = serde_json::from_slice(&request.body).map_err(|_| malformed("no JWS"))?;
        let part = |name: &str| -> Result<Vec<u8>, Reply> {
            URL_SAFE_NO_PAD.decode(jws[name].as_str().unwrap_or_default()).map_err(|_| malformed("no base64url"))
        };
        let protected: Value = serde_json::from_slice(&part("protected")?).map_err(|_| malformed("no header"))?;
        let payload: Value = serde_json::from_slice(&part("payload")?).unwrap_or(Value::Null);
        let nonce = protected["nonce"].as_str().unwrap_or_default();
        let Some(known) = self.nonces.iter().position(|one| one == nonce) else {
            self.bad_nonces += 1;
            return Err(Reply::problem(400, "badNonce", "this nonce is not one of ours, or was used"));
        };
        self.nonces.swap_remove(known);
        if protected["url"].as_str() != Some(&format!("{}{}", self.base, request.path)) {
            return Err(Reply::problem(401, "unauthorized", "the signature is for another URL"));
        }
        let number = |at: usize| request.path.split('/').nth(at).and_then(|text| text.parse::<usize>().ok());
        if place == Place::NewAccount {
            return self.new_account(&protected["jwk"].to_string(), &payload);
        }
        let account: u64 = protected["kid"]
            .as_str()
            .and_then(|kid| kid.rsplit('/').next()?.parse().ok())
            .filter(|account| self.accounts.contains_key(account))
            .ok_or_else(|| Reply::problem(400, "accountDoesNotExist", "no such account"))?;
        let of = number(2).unwrap_or(usize::MAX);
        if place == Place::Account {
            return Ok(json_reply(200, &json!({ "status": "valid", "contact": payload["contact"] })));
        }
        if place == Place::Revocation {
            return Ok(Reply::of(200, "text/plain", ""));
        }
        if place == Place::NewOrder {
            return self.new_order(account, &payload);
        }
        if self.orders.get(of).is_none_or(|order| order.account != account) {
            return Err(Reply::problem(404, "malformed", "no such order"));
        }
        match place {
            Place::Order => Ok(json_reply(200, &self.order(of))),
            Place::Authorization => Ok(json_reply(200, &self.authorization(of, number(3).unwrap_or(0)))),
            Place::Challenge => {
                let order = &mut self.orders[of];
                (order.told, order.refused) = (true, self.manner.refuses);
                Ok(json_reply(200, &self.challenge(of)))
            }
            Place::Finalize => self.finalize(of, &payload),
            Place::Certificate => {
                let chain = self.orders[of].chain.clone().unwrap_or_default();
                Ok(Reply::of(200, PEM, chain))
            }
            _ => Err(Reply::problem(404, "malformed", "nothing is here")),
        }
    }

    fn new_account(&mut self, key: &str, payload: &Value) -> Result<Reply, Reply> {
        let known = self.accounts.iter().find(|(_, known)| *known == key).map(|(number, _)| *number);
        let number = match known {
            Some(number) => number,
            None if payload["onlyReturnExisting"] == json!(true) => {
                return Err(Reply::problem(400, "accountDoesNotExist", "no such account"));
            }
            None if self.manner.wants_external_account && payload["externalAccountBinding"].is_null() => {
                return Err(Reply::problem(403, "externalAccountRequired", "bind an external account"));
            }
            None => {
                self.accounts_made += 1;
                self.accounts.insert(self.accounts_made as u64, key.to_owned());
                self.accounts_made as u64
            }
        };
        let body = json!({ "status": "valid", "contact": payload["contact"] });
        let status = if known.is_some() { 200 } else { 201 };
        Ok(json_reply(status, &body).with("location", &format!("{}/account/{number}", self.base)))
    }

    fn new_order(&mut self, account: u64, payload: &Value) -> Result<Reply, Reply> {
        let names = payload["identifiers"].as_array().cloned().unwrap_or_default();
        if let Some(profile) = payload["profile"].as_str().filter(|one| !self.manner.profiles.contains(one)) {
            return Err(Reply::problem(400, "invalidProfile", &format!("there is no profile {profile}")));
        }
        if let Some(name) = self.manner.rejects.filter(|name| names.iter().any(|one| one["value"] == json!(name))) {
            let what = format!("the CA issues nothing for {name}");
            return Err(Reply::problem(400, "rejectedIdentifier", &what));
        }
        self.orders.push(Order { account, names, told: false, csr: None, chain: None, refused: None });
        let number = self.orders.len() - 1;
        Ok(json_reply(201, &self.order(number)).with("location", &format!("{}/order/{number}", self.base)))
    }

    fn order(&self, number: usize) -> Value {
        let order = &self.orders[number];
        let status = match order {
            Order { refused: Some(_), .. } => "invalid",
            Order { chain: Some(_), .. } => "valid",
            Order { csr: Some(_), .. } => "processing",
            Order { told: true, .. } => "ready",
            _ => "pending",
        };
        let at = |what: &str| format!("{}/{what}/{number}", self.base);
        let authorizations: Vec<String> =
            (0..order.names.len()).map(|name| format!("{}/{name}", at("authorization"))).collect();
        let mut shown = json!({
            "status": status, "identifiers": order.names, "authorizations": authorizations, "finalize": at("finalize"),
        });
        if order.chain.is_some() {
            shown["certificate"] = json!(at("certificate"));
        }
        shown
    }

    fn authorization(&self, number: usize, name: usize) -> Value {
        let order = &self.orders[number];
        let status = match order {
            Order { refused: Some(_), .. } => "invalid",
            Order { told: true, .. } => "valid",
            _ => "pending",
        };
        let identifier = order.names.get(name).cloned().unwrap_or_default();
        let mut shown = json!({ "identifier": identifier, "status": status, "challenges": [self.challenge(number)] });
        if order.refused.is_some() {
            shown["challenges"][0]["validationRecord"] = json!([{
                "url": format!("http://{}/", identifier["value"].as_str().unwrap_or_default()),
                "hostname": identifier["value"], "port": "80",
                "addressesResolved": ["203.0.113.9", "2001:db8::9"], "addressUsed": "2001:db8::9",
            }]);
        }
        shown
    }

    fn challenge(&self, number: usize) -> Value {
        let order = &self.orders[number];
        let status = match order {
            Order { refused: Some(_), .. } => "invalid",
            Order { told: true, .. } => "valid",
            _ => "pending",
        };
        let url = format!("{}/challenge/{number}", self.base);
        let token = format!("token-of-order-{number:08}");
        let mut shown = json!({ "type": "http-01", "url": url, "token": token, "status": status });
        if let Some((kind, detail)) = order.refused {
            shown["error"] = json!({ "type": format!("urn:ietf:params:acme:error:{kind}"), "detail": detail });
        }
        shown
    }

    fn finalize(&mut self, number: usize, payload: &Value) -> Result<Reply, Reply> {
        if !self.orders[number].told {
            return Err(Reply::problem(403, "orderNotReady", "it is not ready"));
        }
        let csr = payload["csr"].as_str().and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
        let csr = csr.ok_or_else(|| Reply::problem(400, "badCSR", "no request"))?;
        if self.orders[number].csr.as_ref().is_some_and(|known| *known != csr) {
            return Err(Reply::problem(400, "badCSR", "another request than before"));
        }
        if self.orders[number].chain.is_none() && !self.manner.stuck {
            let chain = self.sign(&csr).ok_or_else(|| Reply::problem(400, "badCSR", "this request cannot be read"))?;
            self.orders[number].chain = Some(chain);
        }
        self.orders[number].csr = Some(csr);
        Ok(json_reply(200, &self.order(number)).with("location", &format!("{}/order/{number}", self.base)))
    }

    fn sign(&self, csr: &[u8]) -> Option<String> {
        let csr = CertificateSigningRequestDer::from(csr.to_vec());
        let CertificateSigningRequestParams { mut params, public_key } =
            CertificateSigningRequestParams::from_der(&csr).ok()?;
        let name = |text: &str| SanType::DnsName(text.try_into().unwrap());
        let now = SystemTime::now();
        let lasts = Duration::from_secs(self.manner.validity);
        let mut span = (now - Duration::from_secs(60), now + lasts);
        params.use_authority_key_identifier_extension = true;
        match self.manner.leaf {
            Leaf::Nothing => return Some(String::new()),
            Leaf::Garbage => {
                return Some("-----BEGIN CERTIFICATE-----\nbm90aGluZw==\n-----END CERTIFICATE-----\n".into());
            }
            Leaf::OtherNames => params.subject_alt_names = vec![name("other.example.org")],
            Leaf::MoreNames => params.subject_alt_names.push(name("other.example.org")),
            Leaf::Expired => span = (now - 2 * lasts, now - lasts),
            Leaf::NotYet => span = (now + lasts, now + 2 * lasts),
            Leaf::IsCa => params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            Leaf::Right | Leaf::OtherKey | Leaf::BrokenChain | Leaf::SelfSigned => {}
        }
        (params.not_before, params.not_after) = (span.0.into(), span.1.into());
        let own = || KeyPair::generate().unwrap();
        let leaf = match self.manner.leaf {
            Leaf::OtherKey => params.signed_by(&own(), &self.issuer),
            Leaf::SelfSigned => params.self_signed(&own()),
            _ => params.signed_by(&public_key, &self.issuer),
        };
        let above = if self.manner.leaf == Leaf::BrokenChain { &self.other.1 } else { &self.pem };
        let leaf = leaf.unwrap().pem();
        Some(if self.manner.leaf == Leaf::SelfSigned { leaf } else { format!("{leaf}{above}") })
    }
}

fn json_reply(status: u16, body: &Value) -> Reply {
    Reply::of(status, "application/json", body.to_string())
}
