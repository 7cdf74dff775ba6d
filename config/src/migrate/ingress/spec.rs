//! The shape of an Ingress, of `networking.k8s.io/v1` and of the versions before it.

use serde::Deserialize;

use crate::wire::IntOrString;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct IngressSpec {
    #[serde(default)]
    pub ingress_class_name: Option<String>,
    /// `backend` before v1.
    #[serde(default, alias = "backend")]
    pub default_backend: Option<Backend>,
    #[serde(default)]
    pub tls: Vec<Tls>,
    #[serde(default)]
    pub rules: Vec<HostRule>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Tls {
    #[serde(default)]
    pub hosts: Vec<String>,
    #[serde(default)]
    pub secret_name: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct HostRule {
    #[serde(default)]
    pub host: Option<String>,
    #[serde(default)]
    pub http: Option<Paths>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Paths {
    #[serde(default)]
    pub paths: Vec<PathRule>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PathRule {
    #[serde(default)]
    pub path: Option<String>,
    #[serde(default)]
    pub path_type: Option<String>,
    pub backend: Backend,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Backend {
    #[serde(default)]
    pub service: Option<ServiceBackend>,
    #[serde(default)]
    pub resource: Option<Resource>,
    /// Before v1.
    #[serde(default)]
    pub service_name: Option<String>,
    #[serde(default)]
    pub service_port: Option<IntOrString>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub(super) struct ServiceBackend {
    pub name: String,
    #[serde(default)]
    pub port: Port,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub(super) struct Port {
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub number: Option<u16>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Resource {
    #[serde(default, rename = "apiGroup")]
    pub _api_group: Option<String>,
    pub kind: String,
    pub name: String,
}

impl Backend {
    /// The Service and its port, whichever version says it.
    pub fn service(&self) -> Option<(&str, IntOrString)> {
        if let Some(service) = &self.service {
            let number = service.port.number.map(|number| IntOrString::Int(number.into()));
            let name = service.port.name.clone().map(IntOrString::String);
            return Some((&service.name, number.or(name)?));
        }
        Some((self.service_name.as_deref()?, self.service_port.clone()?))
    }
}
