use std::path::PathBuf;

use super::faults;
use crate::edge_toml::decode;
use crate::settings::{DashboardCertificate, DashboardSettings};

#[test]
fn dashboard() {
    let text = r#"
[dashboard]
address = "10.1.1.1:9902"
names = ["edge-a.example.com"]
certificate = "dashboard.crt"
private_key = "/etc/ssl/dashboard.key"
client_ca = "operators.crt"
token_file = "dashboard.token"
"#;
    let settings = decode(&"edge.toml".into(), text).unwrap().anchored("/etc/edge".as_ref());
    let found = settings.dashboard.unwrap();
    let expected = DashboardSettings {
        address: "10.1.1.1:9902".parse().unwrap(),
        names: vec!["edge-a.example.com".to_owned()],
        certificate: Some(DashboardCertificate {
            certificate: PathBuf::from("/etc/edge/dashboard.crt"),
            private_key: PathBuf::from("/etc/ssl/dashboard.key"),
        }),
        client_ca: Some(PathBuf::from("/etc/edge/operators.crt")),
        token_file: Some(PathBuf::from("/etc/edge/dashboard.token")),
    };
    assert_eq!(found, expected);
    assert!(!found.is_open() && !found.is_plain());
    let open = decode(&"edge.toml".into(), "[dashboard]\naddress = \"[::1]:9902\"\n").unwrap().dashboard.unwrap();
    assert!(open.is_open() && open.is_plain());
    assert_eq!(decode(&"edge.toml".into(), "").unwrap().dashboard, None);
}

#[test]
fn faults_of_dashboard() {
    let elsewhere = "can be reached from elsewhere, so it needs token_file or client_ca; without either expected a loopback \
                     address such as \"127.0.0.1:9902\"";
    for (text, expected) in [
        ("", "1:1: dashboard.address is missing".to_owned()),
        ("address = \"10.1.1.1:9902\"", format!("2:11: dashboard.address: 10.1.1.1:9902 {elsewhere}")),
        ("address = \"0.0.0.0:9902\"", format!("2:11: dashboard.address: 0.0.0.0:9902 {elsewhere}")),
        (
            "address = \"10.1.1.1:9902\"\ncertificate = \"a\"\nprivate_key = \"b\"",
            format!("2:11: dashboard.address: 10.1.1.1:9902 {elsewhere}"),
        ),
        ("address = \"9902\"", "2:11: dashboard.address: \"9902\" is no socket".to_owned()),
        ("address = \"127.0.0.1:0\"", "2:11: dashboard.address: \"127.0.0.1:0\" is no socket".to_owned()),
        (
            "address = \"127.0.0.1:9902\"\ncertificate = \"a\"",
            "3:15: dashboard.certificate needs dashboard.private_key beside it".to_owned(),
        ),
        (
            "address = \"127.0.0.1:9902\"\nprivate_key = \"a\"",
            "3:15: dashboard.private_key needs dashboard.certificate beside it".to_owned(),
        ),
        (
            "address = \"127.0.0.1:9902\"\nnames = [\"a b\"]",
            "3:10: dashboard.names: \"a b\" is no host name".to_owned(),
        ),
        ("address = \"127.0.0.1:9902\"\ntoken = \"a\"", "3:1: unknown key `dashboard.token`".to_owned()),
    ] {
        let found = faults(&format!("[dashboard]\n{text}\n"));
        assert!(found.len() == 1 && found[0].contains(&expected), "{text}: {found:?}, expected {expected}");
    }
}
