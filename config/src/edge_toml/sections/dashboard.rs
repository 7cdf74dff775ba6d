//! `[dashboard]`

use std::net::SocketAddr;

use super::{Section, Sink, path};
use crate::names::Kind;
use crate::settings::{DashboardCertificate, DashboardSettings};
use crate::validate::is_object_name;
use crate::yaml::Quoted;

pub(super) fn dashboard(mut section: Section<'_>, sink: &mut Sink<'_>) -> Option<DashboardSettings> {
    let place = section.value_start("address");
    let address = section.required(sink, "address", socket);
    let names = section.list(sink, "names", name).unwrap_or_default();
    let files = (section.value_start("certificate"), section.value_start("private_key"));
    let certificate = section.parsed(sink, "certificate", path);
    let private_key = section.parsed(sink, "private_key", path);
    let client_ca = section.parsed(sink, "client_ca", path);
    let token_file = section.parsed(sink, "token_file", path);
    section.finish(sink);
    let certificate = match (certificate, private_key) {
        (Some(certificate), Some(private_key)) => Some(DashboardCertificate { certificate, private_key }),
        (Some(_), None) => {
            sink.error(files.0..files.0, "dashboard.certificate needs dashboard.private_key beside it".to_owned());
            None
        }
        (None, Some(_)) => {
            sink.error(files.1..files.1, "dashboard.private_key needs dashboard.certificate beside it".to_owned());
            None
        }
        (None, None) => None,
    };
    let settings = DashboardSettings { address: address?, names, certificate, client_ca, token_file };
    if settings.is_open() && !settings.address.ip().is_loopback() {
        let message = format!(
            "dashboard.address: {} can be reached from elsewhere, so it needs token_file or client_ca; without either \
             expected a loopback address such as \"127.0.0.1:9902\"",
            settings.address
        );
        sink.error(place..place, message);
    }
    Some(settings)
}

fn socket(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<SocketAddr>() {
        Ok(socket) if socket.port() != 0 && !socket.ip().is_multicast() => Ok(socket),
        _ => Err(format!("{} is no socket, expected one such as \"127.0.0.1:9902\"", Quoted(text))),
    }
}

fn name(text: &str) -> Result<String, String> {
    match is_object_name(Kind::Secret, text) {
        true => Ok(text.to_owned()),
        false => Err(format!("{} is no host name, expected one such as \"edge-a.example.com\"", Quoted(text))),
    }
}
