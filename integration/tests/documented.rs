//! What the peers' documentation shows, loaded as it is written, does what the documentation says: Envoy Gateway's tasks
//! and NGINX Gateway Fabric's example folders. The documents are read where they are (see `edge_integration::documented`);
//! what a cluster adds (endpoints, Secrets that a page has one make) stands in the tests. docs/documented.md is the table.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

#[path = "documented/balancing.rs"]
mod balancing;
#[path = "documented/clients.rs"]
mod clients;
#[path = "documented/limits.rs"]
mod limits;
#[path = "documented/nginx.rs"]
mod nginx;
#[path = "documented/responses.rs"]
mod responses;
#[path = "documented/routes.rs"]
mod routes;
#[path = "documented/security.rs"]
mod security;
#[path = "documented/tokens.rs"]
mod tokens;

use edge_integration::documented::Checkout;
use edge_integration::lab::skip;

/// The host of the quickstart's route.
const WWW: &str = "www.example.com";

/// Runs a scenario on Envoy Gateway's files, or says that they are not here.
fn envoy(name: &str, scenario: impl FnOnce(&Checkout)) {
    match Checkout::envoy_gateway() {
        Ok(files) => scenario(&files),
        Err(why) => skip(&format!("documented {name}"), &why),
    }
}

/// The same of NGINX Gateway Fabric.
fn nginx(name: &str, scenario: impl FnOnce(&Checkout)) {
    match Checkout::nginx_gateway_fabric() {
        Ok(files) => scenario(&files),
        Err(why) => skip(&format!("documented {name}"), &why),
    }
}
