//! External authorization: an authorizer is asked about each request, and what follows when it does not answer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;

use crate::issuer::SecretRef;
use crate::names::ObjectRef;
use crate::policy::ServiceName;

/// An authorizer that is asked about each request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExtAuth {
    /// Who says it.
    pub owner: ObjectRef,
    pub service: ServiceName,
    pub protocol: ExtAuthProtocol,
    /// Fields of the request that it is told of, lower case. `None`: as the protocol has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_fields: Option<Vec<Box<str>>>,
    /// The body too, up to so many bytes; a longer one is answered 413.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<u32>,
    pub timeout: Duration,
    /// Without a decision the request passes.
    pub fail_open: bool,
    /// Without a decision, and closed.
    pub status_on_error: u16,
    /// Told to an authorizer of gRPC.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extensions: BTreeMap<Box<str>, Extension>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Extension {
    Text(Box<str>),
    Secret(SecretRef),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum ExtAuthProtocol {
    /// envoy.service.auth.v3.Authorization/Check.
    Grpc,
    Http {
        path: ExtAuthPath,
        /// Fields of a good answer that go to the backend, lower case. `None`: all but those that are about the answer
        /// itself.
        answer_fields: Option<Vec<Box<str>>>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum ExtAuthPath {
    /// Before the path of the request; most often empty.
    Before(Box<str>),
    Instead(Box<str>),
}

impl ExtAuth {
    pub(super) fn secrets(&self, into: &mut BTreeSet<SecretRef>) {
        into.extend(self.extensions.values().filter_map(|extension| match extension {
            Extension::Text(_) => None,
            Extension::Secret(reference) => Some(reference.clone()),
        }));
    }
}
