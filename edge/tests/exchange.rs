//! What the snapshot asks for, end to end over loopback and on both back ends: retries, timeouts, filters, sessions, hosts,
//! limits; and publishing, draining, listeners that come and go.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

mod rig;

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use edge::proxy::limits::Limits;
use edge_config::snapshot::{
    Action, Cors, Mirror, PathEdit, Redirect, Retry, Rewrite, Scheme, SessionCarrier, SessionPersistence, Target,
    UpstreamId,
};
use rig::{Client, Origin, Rig, backend, forward, on_both, rule};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[test]
fn retries_follow_the_policy() {
    on_both(|io| {
        let count = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&count);
        let origin = Origin::new(move |client, _| {
            loop {
                let (head, body) = client.message();
                if head.is_empty() {
                    return;
                }
                if counter.fetch_add(1, Ordering::Relaxed) % 3 < 2 {
                    client.send("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n");
                } else {
                    client.send(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()));
                }
            }
        });
        let retry = Retry::new(vec![503], 2, Duration::from_millis(5));
        let mut with = rule(0);
        with.retry = Some(Box::new(retry));
        let rig = Rig::new(io, vec![("/again", with), ("/once", rule(0))], vec![vec![origin.address]]);
        let mut client = rig.client();
        client.send("POST /again HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
        let (head, body) = client.message();
        assert!(head.starts_with("HTTP/1.1 200 ") && body == "hello", "{head}");
        assert_eq!(count.load(Ordering::Relaxed), 3);
        client.send("GET /once HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(client.message().0.starts_with("HTTP/1.1 503 "));
        assert_eq!(count.load(Ordering::Relaxed), 4);
    });
}

#[test]
fn connection_failures_move_on_or_tell() {
    on_both(|io| {
        let origin = Origin::echo();
        let dead = rig::free_address();
        let rig = Rig::new(io, vec![("", rule(0))], vec![vec![dead, origin.address]]);
        for _ in 0..10 {
            let answer = rig.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi");
            assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("hi"), "{answer}");
        }
        let close = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        rig.publish(vec![("", rule(0))], vec![vec![dead]]);
        assert!(rig.ask(close).ends_with("503 connect_failed\n"));
        rig.publish(vec![("", rule(0))], vec![vec![]]);
        assert!(rig.ask(close).ends_with("503 no_ready_endpoint\n"));
        let mut invalid = backend(0, 1);
        invalid.target = Target::Invalid { status: 500, reason: "gone".into() };
        rig.publish(vec![("", forward(vec![invalid.clone()]))], vec![]);
        assert!(rig.ask(close).ends_with("500 invalid_backend\n"));
        rig.publish(vec![("", forward(vec![backend(0, 3), invalid]))], vec![vec![origin.address]]);
        let failed = (0..100).filter(|_| rig.ask(close).starts_with("HTTP/1.1 500 ")).count();
        assert!((5..60).contains(&failed), "{failed} of 100, expected about 25");
    });
}

#[test]
fn timeouts_answer_504_in_time() {
    on_both(|io| {
        let origin = Origin::new(|client, _| {
            client.head();
            std::thread::sleep(Duration::from_secs(5));
        });
        let slow_body = Origin::new(|client, _| {
            client.head();
            client.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab");
            std::thread::sleep(Duration::from_secs(5));
        });
        // Long enough for a busy machine to bring the head of an answer.
        let limit = Some(Duration::from_secs(1));
        let (mut whole, mut single, mut body) = (rule(0), rule(0), rule(1));
        whole.timeouts.request = limit;
        single.timeouts.backend_request = limit;
        body.timeouts.request = limit;
        let rules = vec![("/request", whole), ("/backend", single), ("/body", body)];
        let rig = Rig::new(io, rules, vec![vec![origin.address], vec![slow_body.address]]);
        for (path, end) in
            [("/request", "request_timeout\n"), ("/backend", "backend_timeout\n"), ("/body", "\r\n\r\nab")]
        {
            let start = Instant::now();
            let answer = rig.ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
            assert!(answer.ends_with(end), "{path} {answer}");
            assert!((1000..5000).contains(&start.elapsed().as_millis()), "{path} {:?}", start.elapsed());
        }
    });
}

#[test]
fn slow_and_idle_clients_are_cut() {
    on_both(|io| {
        let origin = Origin::echo();
        let limits = Limits {
            // A busy machine may take a while between a connection and the first bytes on it.
            head_timeout: Duration::from_millis(500),
            idle_timeout: Duration::from_millis(500),
            stream_idle_timeout: Duration::from_millis(500),
            ..Limits::default()
        };
        let rig = Rig::with_limits(io, vec![("", rule(0))], vec![vec![origin.address]], limits);
        let start = Instant::now();
        assert_eq!(rig.ask(""), "");
        assert!(rig.ask("GET / HT").starts_with("HTTP/1.1 408 "));
        let answer = rig.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab");
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{answer}");
        let mut client = rig.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        client.message();
        assert!(client.is_at_end());
        assert!(start.elapsed() < rig::PATIENCE, "{:?}", start.elapsed());
    });
}

#[test]
fn mirrors_get_copies_and_are_not_waited_for() {
    on_both(|io| {
        let origin = Origin::echo();
        let (sender, copies) = std::sync::mpsc::channel();
        let sender = std::sync::Mutex::new(sender);
        let mirror = Origin::new(move |client, _| {
            let (head, body) = client.message();
            sender.lock().unwrap().send(format!("{head}{body}")).unwrap();
            std::thread::sleep(Duration::from_secs(20));
        });
        let mut with = rule(0);
        let target = Target::Upstream(UpstreamId(1));
        Arc::make_mut(&mut with.filters).mirrors =
            vec![Mirror { reference: "m".into(), target, numerator: 1, denominator: 1 }];
        let rig = Rig::new(io, vec![("", with)], vec![vec![origin.address], vec![mirror.address]]);
        let mut client = rig.client();
        client.send("POST /m HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
        assert!(client.message().1.ends_with("body"));
        let copy = copies.recv_timeout(rig::PATIENCE).unwrap();
        assert!(copy.starts_with("POST /m HTTP/1.1\r\n") && copy.ends_with("\r\n\r\nbody"), "{copy}");
    });
}

#[test]
fn filters_redirects_and_cors_apply() {
    on_both(|io| {
        let origin = Origin::echo();
        let mut edited = rule(0);
        Arc::make_mut(&mut edited.filters).request_headers.set = vec![("x-set".into(), "1".into())];
        Arc::make_mut(&mut edited.filters).request_headers.remove = vec!["x-old".into()];
        Arc::make_mut(&mut edited.filters).response_headers.add = vec![("x-added".into(), "2".into())];
        Arc::make_mut(&mut edited.filters).rewrite =
            Some(Rewrite { hostname: Some("other.test".into()), path: Some(PathEdit::Prefix("/new".into())) });
        let mut moved = rule(0);
        moved.action = Action::Redirect(Redirect {
            scheme: Some(Scheme::Https),
            hostname: None,
            path: None,
            port: None,
            status: 301,
        });
        let mut cors = rule(0);
        Arc::make_mut(&mut cors.filters).cors = Some(Cors {
            allow_origins: vec![edge_config::snapshot::Origin::Exact("http://o.test".into())],
            ..Cors::default()
        });
        let rules = vec![("/old", edited), ("/moved", moved), ("/cors", cors)];
        let rig = Rig::new(io, rules, vec![vec![origin.address]]);
        let mut client = rig.client();
        client.send("GET /old/x?q=1 HTTP/1.1\r\nHost: a\r\nX-Old: y\r\n\r\n");
        let (head, body) = client.message();
        assert!(head.contains("x-added: 2\r\n"), "{head}");
        assert!(body.starts_with("GET /new/x?q=1 HTTP/1.1\r\nhost: other.test\r\n"), "{body}");
        assert!(body.contains("x-set: 1\r\n") && !body.contains("x-old"), "{body}");
        client.send("GET /moved?q HTTP/1.1\r\nHost: a.test\r\n\r\n");
        let (head, _) = client.message();
        assert!(head.starts_with("HTTP/1.1 301 ") && head.contains("location: https://a.test/moved?q\r\n"), "{head}");
        client.send(
            "OPTIONS /cors HTTP/1.1\r\nHost: a\r\nOrigin: http://o.test\r\nAccess-Control-Request-Method: GET\r\n\r\n",
        );
        let (head, _) = client.message();
        assert!(
            head.starts_with("HTTP/1.1 204 ") && head.contains("access-control-allow-origin: http://o.test"),
            "{head}"
        );
        client.send("GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(client.message().1.ends_with("404 no_route\n"));
    });
}

#[test]
fn sessions_stay_with_their_endpoint() {
    on_both(|io| {
        let origins: Vec<Origin> = (0..3)
            .map(|number| {
                Origin::new(move |client, _| {
                    while !client.head().is_empty() {
                        client.send(&format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{number}"));
                    }
                })
            })
            .collect();
        let mut sticky = rule(0);
        sticky.session = Some(Box::new(SessionPersistence {
            carrier: SessionCarrier::SessionCookie,
            name: "edge".into(),
            absolute_timeout: None,
        }));
        let addresses = origins.iter().map(|origin| origin.address).collect();
        let rig = Rig::new(io, vec![("", sticky)], vec![addresses]);
        let mut client = rig.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let (head, first) = client.message();
        let cookie = head.split("set-cookie: ").nth(1).unwrap().split(';').next().unwrap().to_owned();
        for _ in 0..6 {
            client.send(&format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n\r\n"));
            let (head, body) = client.message();
            assert_eq!(body, first);
            assert!(!head.contains("set-cookie"), "{head}");
        }
    });
}

#[test]
fn publishing_under_load_fails_no_request() {
    on_both(|io| {
        let origins = [Origin::echo(), Origin::echo()];
        let rig = Rig::plain(io, origins[0].address);
        let stop = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..4)
                .map(|number| {
                    let (rig, stop) = (&rig, &stop);
                    scope.spawn(move || {
                        let mut client = rig.client();
                        let mut count = 0;
                        while stop.load(Ordering::Relaxed) == 0 {
                            if number % 2 == 0 {
                                client = rig.client();
                            }
                            client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
                            let (head, body) = client.message();
                            assert!(head.starts_with("HTTP/1.1 200 ") && body.ends_with("body"), "{head}");
                            count += 1;
                        }
                        count
                    })
                })
                .collect();
            for round in 0..50 {
                rig.publish(vec![("", rule(0))], vec![vec![origins[round % 2].address]]);
            }
            stop.store(1, Ordering::Relaxed);
            for client in clients {
                assert!(client.join().unwrap() > 0);
            }
        });
    });
}

#[test]
fn draining_finishes_what_runs_and_takes_no_more() {
    on_both(|io| {
        // One request is under way from when the endpoint has it until it may answer.
        let (asked, may_answer) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (seen, allowed) = (Arc::clone(&asked), Arc::clone(&may_answer));
        let origin = Origin::new(move |client, _| {
            loop {
                let head = client.head();
                if head.is_empty() {
                    return;
                }
                if head.starts_with("GET /slow ") {
                    seen.store(1, Ordering::Relaxed);
                    rig::wait_for(|| allowed.load(Ordering::Relaxed) == 1);
                }
                client.send(OK);
            }
        });
        let rig = Rig::plain(io, origin.address);
        let mut idle = rig.client();
        idle.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        idle.message();
        let mut busy = rig.client();
        busy.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
        let address = rig.address;
        rig::wait_for(|| asked.load(Ordering::Relaxed) == 1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        std::thread::scope(|scope| {
            let answer = scope.spawn(move || busy.rest());
            scope.spawn(|| {
                // It drains as soon as nobody gets in any more.
                rig::wait_for(|| std::net::TcpStream::connect(address).is_err());
                may_answer.store(1, Ordering::Relaxed);
            });
            let start = Instant::now();
            runtime.block_on(rig.proxy.drain(rig::PATIENCE * 2));
            assert!(start.elapsed() < rig::PATIENCE);
            let answer = answer.join().unwrap();
            assert!(answer.contains("connection: close\r\n") && answer.ends_with("ok"), "{answer}");
        });
        assert!(idle.is_at_end());
        assert!(std::net::TcpStream::connect(address).is_err());
        rig.proxy.stop();
    });
}

#[test]
fn a_port_that_is_taken_costs_only_itself() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = Origin::echo();
    let rig = Rig::plain(edge::proxy::io::Backend::Epoll, origin.address);
    let failures =
        rig.publish_at(&[rig.address, taken.local_addr().unwrap()], vec![("", rule(0))], vec![vec![origin.address]]);
    assert_eq!(failures.len(), 1);
    assert_eq!(failures[0].address, taken.local_addr().unwrap());
    let mut client = Client::new(rig.address);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(client.message().0.starts_with("HTTP/1.1 200 "));
}

#[test]
fn connections_beyond_the_limit_are_closed_at_once() {
    on_both(|io| {
        let origin = Origin::echo();
        let limits = Limits { max_connections: 3, ..Limits::default() };
        let rig = Rig::with_limits(io, vec![("", rule(0))], vec![vec![origin.address]], limits);
        let ask = |client: &mut Client| {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            client.message().0.starts_with("HTTP/1.1 200 ")
        };
        let mut clients: Vec<Client> = (0..3).map(|_| rig.client()).collect();
        assert!(clients.iter_mut().all(ask));
        let mut refused = rig.client();
        // The close may come before or after the bytes are sent.
        let _ = refused.stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(refused.rest(), "");
        drop(clients);
        rig::wait_for(|| rig.proxy.connections() == 0);
        assert!(ask(&mut rig.client()));
    });
}

#[test]
fn a_listener_that_is_gone_takes_no_connection_and_others_live_on() {
    on_both(|io| {
        let origin = Origin::echo();
        let rig = Rig::plain(io, origin.address);
        let other = rig::free_address();
        let publish = |addresses: &[std::net::SocketAddr]| {
            assert!(rig.publish_at(addresses, vec![("", rule(0))], vec![vec![origin.address]]).is_empty());
        };
        publish(&[rig.address, other]);
        let mut stays = rig.client();
        let mut goes = Client::new(other);
        let ask = |client: &mut Client| {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            client.message()
        };
        assert!(ask(&mut stays).0.starts_with("HTTP/1.1 200 ") && ask(&mut goes).0.starts_with("HTTP/1.1 200 "));
        publish(&[rig.address]);
        rig::wait_for(|| std::net::TcpStream::connect(other).is_err());
        assert!(ask(&mut stays).0.starts_with("HTTP/1.1 200 "));
        assert!(ask(&mut goes).1.ends_with("404 no_listener\n"));
        publish(&[rig.address, other]);
        assert!(ask(&mut goes).0.starts_with("HTTP/1.1 200 "));
        assert!(ask(&mut Client::new(other)).0.starts_with("HTTP/1.1 200 "));
    });
}

#[test]
fn hosts_reach_their_listener_and_no_other() {
    on_both(|io| {
        let origin = Origin::echo();
        let rig = Rig::plain(io, origin.address);
        rig.publish_hosts(&["a.test", "*.b.test"], vec![rule(0), rule(0)], vec![vec![origin.address]]);
        for (host, status) in [
            ("a.test", 200),
            ("A.TEST.:80", 200),
            ("x.b.test", 200),
            ("b.test", 404),
            ("c.test", 404),
            ("127.0.0.1", 404),
        ] {
            let answer = rig.ask(&format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"));
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{host} {answer}");
        }
    });
}
