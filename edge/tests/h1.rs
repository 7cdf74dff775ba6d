//! HTTP/1 end to end over loopback, on both back ends: what reaches an endpoint, what reaches the client, and what happens
//! to the connections.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

mod rig;

use std::io::Write as _;
use std::net::Shutdown;
use std::time::Duration;

use rig::{Origin, Rig, on_both, rule};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[test]
fn requests_on_one_connection_share_one_upstream_connection() {
    on_both(|backend| {
        let origin = Origin::echo();
        let rig = Rig::plain(backend, origin.address);
        let mut client = rig.client();
        for round in 0..5 {
            client.send(&format!(
                "GET /{round}?q HTTP/1.1\r\nHost: Example.test:80\r\nX-A: b\r\nConnection: x-c\r\nX-C: d\r\n\r\n"
            ));
            let (head, body) = client.message();
            assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
            assert_eq!(
                body,
                format!(
                    "GET /{round}?q HTTP/1.1\r\nhost: Example.test:80\r\nx-a: b\r\nx-forwarded-for: 127.0.0.1\r\n\
                     x-forwarded-proto: http\r\nx-forwarded-host: Example.test:80\r\n\r\n"
                )
            );
        }
        assert_eq!(origin.connections(), 1);
    });
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    on_both(|backend| {
        let origin = Origin::echo();
        let rig = Rig::plain(backend, origin.address);
        let mut client = rig.client();
        client.send(
            "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcPOST /2 HTTP/1.1\r\nHost: a\r\n\
             Transfer-Encoding: chunked\r\n\r\n2\r\nde\r\n1\r\nf\r\n0\r\n\r\nGET /3 HTTP/1.1\r\nHost: a\r\n\r\n",
        );
        for (path, end) in [("/1", "abc"), ("/2", "def"), ("/3", "\r\n\r\n")] {
            let (_, body) = client.message();
            assert!(body.contains(&format!(" {path} ")) && body.ends_with(end), "{body}");
        }
    });
}

#[test]
fn chunked_bodies_pass_both_ways_with_trailers() {
    on_both(|backend| {
        let origin = Origin::new(|client, _| {
            let (head, body) = client.message();
            assert!(head.contains("transfer-encoding: chunked\r\n"));
            client.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n");
            for piece in [&*body, "-", "end"] {
                client.send(&format!("{:x};ext=1\r\n{piece}\r\n", piece.len()));
            }
            client.send("0\r\nX-T: later\r\n\r\n");
            client.rest();
        });
        let rig = Rig::plain(backend, origin.address);
        let mut client = rig.client();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        client.send("3\r\nabc\r\n");
        client.send("4\r\ndefg\r\n0\r\nx-sum: 7\r\n\r\n");
        let (head, body) = client.message();
        assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
        assert_eq!(body, "abcdefg[x-sum: 7]-end[x-t: later]");
    });
}

#[test]
fn a_body_is_asked_for_with_100_continue_when_it_is_wanted() {
    on_both(|backend| {
        let origin = Origin::echo();
        let rig = Rig::plain(backend, origin.address);
        let mut client = rig.client();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
        assert_eq!(client.head(), "HTTP/1.1 100 Continue\r\n\r\n");
        client.send("hi");
        let (_, body) = client.message();
        assert!(body.ends_with("\r\n\r\nhi") && !body.contains("expect"), "{body}");
        // Nobody wants this body, so it is not asked for, and the connection ends.
        let rig = Rig::new(backend, vec![("/here", rule(0))], vec![vec![origin.address]]);
        let answer = rig.ask("POST /there HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 404 Not Found\r\n") && answer.contains("connection: close"), "{answer}");
    });
}

#[test]
fn an_early_response_does_not_wait_for_the_request() {
    on_both(|backend| {
        let origin = Origin::new(|client, _| {
            client.head();
            client.send("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno");
            client.rest();
        });
        let rig = Rig::plain(backend, origin.address);
        let mut client = rig.client();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nbegin");
        let (head, body) = client.message();
        assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
        assert_eq!(body, "no");
    });
}

#[test]
fn a_small_body_that_was_not_read_does_not_become_the_next_request() {
    on_both(|backend| {
        let origin = Origin::echo();
        let rig = Rig::new(backend, vec![("/ok", rule(0))], vec![vec![origin.address]]);
        let mut client = rig.client();
        client.send("POST /none HTTP/1.1\r\nHost: a\r\nContent-Length: 24\r\n\r\nGET /ok HTTP/1.1\r\n\r\n\r\n\r\n");
        client.send("GET /ok/2 HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(client.message().0.starts_with("HTTP/1.1 404 "));
        let (head, body) = client.message();
        assert!(head.starts_with("HTTP/1.1 200 ") && body.contains("/ok/2"), "{head}{body}");
    });
}

#[test]
fn a_websocket_is_tunnelled_after_101_and_half_closed() {
    on_both(|backend| {
        let origin = Origin::new(|client, _| {
            let head = client.head();
            if head.contains("upgrade: websocket\r\n") && head.contains("connection: upgrade\r\n") {
                client
                    .send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello");
                let text = client.rest();
                client.send(&format!("got {text}"));
            } else {
                client.send(OK);
            }
        });
        let rig = Rig::plain(backend, origin.address);
        let mut client = rig.client();
        client.send("GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\r\n");
        assert_eq!(
            client.head(),
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
        );
        assert_eq!(client.exactly(5), "hello");
        client.send("GET / HTTP/1.1\r\n\r\n");
        client.stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.rest(), "got GET / HTTP/1.1\r\n\r\n");
        // Other protocols, and websocket without Connection: upgrade, are requests like any other.
        for fields in
            ["Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA", "Upgrade: websocket"]
        {
            let answer = rig.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\nConnection: close\r\n\r\n"));
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        }
    });
}

#[test]
fn an_unasked_101_is_a_bad_gateway() {
    on_both(|backend| {
        let origin = Origin::new(|client, _| {
            client.head();
            client.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
            client.rest();
        });
        let rig = Rig::plain(backend, origin.address);
        assert!(rig.ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").starts_with("HTTP/1.1 502 "));
    });
}

#[test]
fn interim_responses_pass_and_100_does_not() {
    on_both(|backend| {
        let origin = Origin::new(|client, _| {
            client.head();
            client.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
            client.send(OK);
            client.rest();
        });
        let rig = Rig::plain(backend, origin.address);
        let mut client = rig.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.head(), "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
        assert!(client.head().starts_with("HTTP/1.1 200 OK\r\n"));
    });
}

#[test]
fn heads_without_bodies_keep_the_connection_in_step() {
    on_both(|backend| {
        let origin = Origin::new(|client, _| {
            loop {
                let head = client.head();
                let answer = match head.split(' ').nth(1) {
                    Some("/head") => "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n",
                    Some("/304") => "HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n",
                    Some("/204") => "HTTP/1.1 204 No Content\r\n\r\n",
                    Some("/empty") => "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
                    _ => return,
                };
                client.send(answer);
            }
        });
        let rig = Rig::plain(backend, origin.address);
        let mut client = rig.client();
        for (method, path, length) in
            [("HEAD", "/head", "1000"), ("GET", "/304", "7"), ("GET", "/204", ""), ("GET", "/empty", "0")]
        {
            client.send(&format!("{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
            let head = client.head();
            let expected = if length.is_empty() { String::new() } else { format!("content-length: {length}\r\n") };
            assert!(head.ends_with(&format!("\r\n{expected}\r\n")), "{head}");
        }
        assert_eq!(origin.connections(), 1);
    });
}

#[test]
fn clients_of_http_1_0_are_served_in_their_way() {
    on_both(|backend| {
        let origin = Origin::new(|client, _| {
            while !client.head().is_empty() {
                client.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n");
            }
        });
        let rig = Rig::plain(backend, origin.address);
        let answer = rig.ask("GET / HTTP/1.0\r\n\r\n");
        assert_eq!(answer, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nok");
        let echo = Origin::echo();
        rig.publish(vec![("", rule(0))], vec![vec![echo.address]]);
        let mut client = rig.client();
        for _ in 0..2 {
            client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
            assert!(client.message().0.contains("connection: keep-alive\r\n"));
        }
    });
}

#[test]
fn a_client_that_half_closes_gets_its_answer() {
    on_both(|backend| {
        let origin = Origin::new(|client, _| {
            client.head();
            std::thread::sleep(Duration::from_millis(50));
            client.send(OK);
        });
        let rig = Rig::plain(backend, origin.address);
        let mut client = rig.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        client.stream.shutdown(Shutdown::Write).unwrap();
        assert!(client.rest().ends_with("\r\n\r\nok"));
    });
}

#[test]
fn a_body_that_ends_with_the_connection_is_passed_on() {
    on_both(|backend| {
        let origin = Origin::new(|client, _| {
            client.head();
            client.send("HTTP/1.0 200 OK\r\n\r\nabc");
        });
        let rig = Rig::plain(backend, origin.address);
        let mut client = rig.client();
        for _ in 0..2 {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(client.message().1, "abc");
        }
        assert_eq!(origin.connections(), 2);
    });
}

#[test]
fn a_truncated_response_never_looks_complete() {
    on_both(|backend| {
        let partial = [
            "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nff\r\nabc",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcX",
        ];
        for partial in partial {
            let origin = Origin::new(move |client, _| {
                client.head();
                client.send(partial);
            });
            let rig = Rig::plain(backend, origin.address);
            let answer = rig.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            // What is malformed at once is answered in another way.
            let is_refused = answer.starts_with("HTTP/1.1 502 ");
            assert!(answer.starts_with("HTTP/1.1 200 ") || is_refused && answer.ends_with("\n"), "{answer}");
            assert!(!answer.ends_with("\r\n0\r\n\r\n"), "{answer}");
            // A client of HTTP/1.0 knows the end of a chunked body by the end of the connection only.
            let mut client = rig.client();
            client.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
            let head = client.head();
            assert!(head.starts_with("HTTP/1.1 502 ") || client.is_reset(), "{partial:?}");
        }
    });
}

#[test]
fn garbage_from_an_endpoint_is_a_bad_gateway() {
    on_both(|backend| {
        for garbage in [
            "hello\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\nok",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 999 Odd\r\n\r\n",
            "HTTP/1.1 200 OK\ncontent-length: 2\n\nok",
            "HTTP/1.1 200 OK\r\nbad name: x\r\n\r\n",
            "",
        ] {
            let origin = Origin::new(move |client, _| {
                client.head();
                client.send(garbage);
            });
            let rig = Rig::plain(backend, origin.address);
            let answer = rig.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            assert!(answer.starts_with("HTTP/1.1 502 "), "{garbage:?} {answer}");
        }
    });
}

#[test]
fn bytes_behind_a_response_are_not_the_next_response() {
    on_both(|backend| {
        let origin = Origin::new(|client, _| {
            client.head();
            client.send(&format!("{OK}HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"));
            client.rest();
        });
        let rig = Rig::plain(backend, origin.address);
        let mut client = rig.client();
        for _ in 0..3 {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(client.message().1, "ok");
        }
        assert_eq!(origin.connections(), 3);
    });
}

#[test]
fn malformed_requests_are_refused_and_the_connection_closed() {
    on_both(|backend| {
        let origin = Origin::echo();
        let rig = Rig::plain(backend, origin.address);
        for (request, status) in [
            ("GET / HTTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/1.1\nHost: a\n\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
            ("GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
            ("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
            ("GET /../x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nExpect: magic\r\n\r\n", 417),
        ] {
            let answer = rig.ask(request);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?} {answer}");
            assert!(answer.contains("connection: close\r\n"), "{answer}");
        }
        let long = "a".repeat(70_000);
        assert!(rig.ask(&format!("GET /{long}")).starts_with("HTTP/1.1 414 "));
        assert!(rig.ask(&format!("GET / HTTP/1.1\r\nx: {long}")).starts_with("HTTP/1.1 431 "));
        assert_eq!(origin.connections(), 0);
        // A large head that is within the limit passes.
        let answer =
            rig.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nx: {}\r\n\r\n", &long[..50_000]));
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains(&long[..50_000]));
    });
}

#[test]
fn broken_chunks_from_a_client_are_refused() {
    on_both(|backend| {
        let origin = Origin::new(|client, _| {
            client.message();
        });
        let rig = Rig::plain(backend, origin.address);
        let answer = rig.ask("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\nok\r\n0\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    });
}

#[test]
fn a_closed_idle_connection_is_replaced_unnoticed() {
    on_both(|backend| {
        // Every connection answers once and then ends, as if its idle time were over.
        let origin = Origin::new(|client, _| {
            client.message();
            client.send(OK);
        });
        let rig = Rig::plain(backend, origin.address);
        let mut client = rig.client();
        for _ in 0..20 {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(client.message().1, "ok");
        }
        // One that reads the next request and then ends: only what is idempotent is sent again.
        let origin = Origin::new(|client, _| {
            client.message();
            client.send(OK);
            client.message();
        });
        rig.publish(vec![("", rule(0))], vec![vec![origin.address]]);
        for (method, status) in [("GET", 200), ("GET", 200), ("POST", 200), ("POST", 502)] {
            let mut client = rig.client();
            // The same worker must get it for the connection to be there; so only a 502 of a GET would be wrong.
            client.send(&format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"));
            let (head, _) = client.message();
            let is_allowed = head.starts_with("HTTP/1.1 200 ") || method == "POST";
            assert!(is_allowed, "{method} {status} {head}");
        }
    });
}

#[test]
fn large_bodies_stream_in_flat_memory() {
    const SIZE: usize = 100 << 20;
    on_both(|io| {
        let origin = Origin::new(|client, _| {
            client.head();
            client.send(&format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n"));
            let block = vec![b'x'; 1 << 20];
            for _ in 0..SIZE >> 20 {
                if client.stream.write_all(&block).is_err() {
                    return;
                }
            }
            // The upload: read all, answer its size.
            client.head();
            let mut left = SIZE;
            let mut bytes = vec![0; 1 << 20];
            while left > 0 {
                match client.exactly_or_read(&mut bytes) {
                    0 => return,
                    count => left -= count,
                }
            }
            client.send(OK);
            client.rest();
        });
        let rig = Rig::plain(io, origin.address);
        let mut client = rig.client();
        let before = resident();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        client.head();
        let mut left = SIZE;
        let mut bytes = vec![0; 1 << 20];
        while left > 0 {
            // The first bytes may have come with the head.
            let count = client.exactly_or_read(&mut bytes);
            assert!(count > 0, "{left} bytes are missing");
            left -= count;
        }
        client.send(&format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n"));
        for _ in 0..SIZE >> 20 {
            client.stream.write_all(&bytes).unwrap();
        }
        assert_eq!(client.message().1, "ok");
        let grown = resident().saturating_sub(before);
        assert!(grown < 24 << 20, "{} MiB more", grown >> 20);
        assert_eq!(origin.connections(), 1);
    });
}

fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}
