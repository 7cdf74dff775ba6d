//! What must not happen whatever a peer sends and whenever a generation changes, end to end over loopback on both back ends:
//! a connection out of step, a rule or a listener reached past its condition, a deadline that cuts what it is not about.

mod rig;

use std::io::Write as _;
use std::time::Duration;

use edge::proxy::limits::Limits;
use rig::{Origin, Rig, on_both, rule};

/// A body that breaks the grammar has no end that both sides agree on: what follows is no request, however it looks.
#[test]
fn nothing_is_read_behind_a_broken_body() {
    on_both(|io| {
        let origin = Origin::new(|client, _| while !client.message().0.is_empty() {});
        let rig = Rig::plain(io, origin.address);
        for broken in ["0x2\r\nok\r\n", "2\nok\r\n", "2\r\nokay", "0\r\nno field\r\n\r\n"] {
            let mut client = rig.client();
            client.send(&format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{broken}"));
            let (head, _) = client.message();
            assert!(head.starts_with("HTTP/1.1 400 ") && head.contains("connection: close\r\n"), "{broken:?} {head}");
            // The end of the request for whoever reads it in another way.
            let _ = client.stream.write_all(b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(client.rest(), "", "{broken:?}");
        }
    });
}

#[test]
fn a_body_that_stops_is_told_so() {
    on_both(|io| {
        let origin = Origin::new(|client, _| drop(client.rest()));
        let limits = Limits { stream_idle_timeout: Duration::from_millis(100), ..Limits::default() };
        let rig = Rig::with_limits(io, vec![("", rule(0))], vec![vec![origin.address]], limits);
        for request in ["Content-Length: 5\r\n\r\nab", "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"] {
            let answer = rig.ask(&format!("POST / HTTP/1.1\r\nHost: a\r\n{request}"));
            assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("connection: close\r\n"), "{answer:?}");
        }
    });
}
