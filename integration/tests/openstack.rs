//! `examples/openstack`, our own files in Genestack's shape: runs everywhere, as it is.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::Duration;

use edge_integration::client::WebSocket;
use edge_integration::edged::{edgectl, until};
use edge_integration::lab::{Origins, block_on, copy_example, isolated, start_example};
use edge_integration::pki;
use edge_integration::region::{Region, not_up};

const SERVICES: &[(&str, &str, u16)] = &[
    ("keystone", "keystone-api", 5000),
    ("glance", "glance-api", 9292),
    ("nova", "nova-api", 8774),
    ("neutron", "neutron-server", 9696),
    ("placement", "placement-api", 8778),
    ("cinder", "cinder-api", 8776),
    ("novnc", "nova-novncproxy", 6080),
    ("horizon", "horizon", 8081),
];

#[test]
fn every_host_of_the_region_answers_from_its_backend() {
    pki::install_provider();
    isolated("region", || {
        let example = copy_example("openstack");
        let check = edgectl(&["check", &example.path().join("edge.toml").to_string_lossy()]);
        assert_eq!(check.code, Some(0), "{check:?}");
        assert!(check.text().contains("L2Advertisement"), "what is not acted on is told: {check:?}");

        let origins = Origins::start();
        let mut running = Vec::new();
        for (_, service, port) in SERVICES {
            running.push(origins.http_at(service, ([127, 0, 0, 31], *port).into(), None));
        }
        running.push(origins.http_at("keystone-api-2", ([127, 0, 0, 32], 5000).into(), None));

        let region = Region { vip: [127, 0, 0, 30].into(), http: 8080, https: 8443 };
        let edged = start_example(example.path(), &[region.plain(), region.secure()]);
        block_on(async {
            for (label, service, _) in SERVICES {
                let host = format!("{label}.cloud.example.test");
                region.serves(&host, &[service, "keystone-api-2"]).await;
                region.redirects(&host).await;
            }
            let host = "keystone.cloud.example.test";
            region.sticks(host, "KeystoneSession", 300, &["keystone-api", "keystone-api-2"]).await;
            region.closes_idle(host, Duration::from_secs(3)).await;

            // noVNC: a socket that is idle for longer than keep-alive connections may be stays open.
            let tls = Region::tls("novnc.cloud.example.test", &["http/1.1"]);
            let secure: SocketAddr = region.secure();
            let mut socket = WebSocket::open(secure, Some(&tls), "novnc.cloud.example.test:8443", "/ws").await.unwrap();
            socket.echo(b"before").await.unwrap();
            tokio::time::sleep(Duration::from_secs(4)).await;
            socket.echo(b"after").await.unwrap();
            socket.close().await.unwrap();
        });

        // All certificates are signed by the region's own CA, which its self-signed issuer made.
        let issuers = block_on(async {
            let mut issuers = Vec::new();
            for (label, ..) in SERVICES {
                let tls = Region::tls(&format!("{label}.cloud.example.test"), &["http/1.1"]);
                let connection = edge_integration::client::Connection::open(region.secure(), Some(&tls)).await.unwrap();
                issuers.push(pki::facts(&connection.handshake.certificates[0]).unwrap().issuer);
            }
            issuers
        });
        assert!(issuers.iter().all(|issuer| issuer == "CN=region-ca"), "{issuers:?}");
        until("all rows of the status up", || not_up(&edged).is_empty().then_some(()));
        assert_eq!(edged.ctl(&["status"]).code, Some(0));
    });
}
