//! Connections to a TLS port: the server name picks the listener, which terminates or passes through.
//!
//! In: connections that were accepted. Out: streams for HTTP/1, HTTP/2 and TLSRoute. Nothing is answered before the
//! listener is known: a name that no listener takes ends in a closed connection, not in an alert (TLSRoute conformance).
//! From accept to the end of the handshake everything happens within `head_timeout`.

use std::rc::Rc;

use edge_config::snapshot::{ListenerServe, PortServe, Transport};
use rustls::ProtocolVersion;

use super::buffer::Buffer;
use super::challenges::Challenges;
use super::clock::Elapsed;
use super::io::{Io as _, Socket};
use super::metrics::Handshake;
use super::protection::connections::{self, Counted};
use super::reason::Reason;
use super::tls::handshake::Agreed;
use super::tls::hello::{self, Hello, HelloError};
use super::tls::shown::Asked;
use super::tls::stream::{TlsError, TlsStream};
use super::worker::{Arrival, Patience, Settled, Worker};
use super::{h1, h2, l4};

/// For the end of a connection that was opened for its handshake.
const LAST_WORD: std::time::Duration = std::time::Duration::from_secs(2);

/// Serves a connection to its end. What each part needs of memory goes with it.
pub async fn serve(worker: &Rc<Worker>, socket: Socket, mut arrival: Arrival) {
    let Some((stream, _counted)) = Box::pin(terminate(worker, socket, &mut arrival)).await else { return };
    if stream.is_h2() {
        Box::pin(h2::front::tls(worker, stream, arrival)).await;
    } else {
        // In clear it could have been HTTP/2 after all; inside TLS that is for ALPN to say.
        h1::serve::serve(worker, stream, &arrival).await;
    }
}

/// The handshake of a connection that HTTP comes on. A TLSRoute's is served to its end.
async fn terminate(
    worker: &Rc<Worker>,
    socket: Socket,
    arrival: &mut Arrival,
) -> Option<(TlsStream<Socket>, Option<Counted>)> {
    let timer = worker.clock.timer();
    timer.set_at(arrival.at + worker.current().generation.limits.head_timeout);
    let read = async {
        // Who has not said anything holds no buffer.
        socket.readable().await?;
        hello::read(&socket, Buffer::take()).await
    };
    let (hello, bytes) = match timer.limit(read).await {
        Ok(Ok(read)) => read,
        Ok(Err(error)) => return refuse(worker, arrival, Reason::HandshakeFailed, &error),
        Err(Elapsed) => {
            socket.abort();
            return refuse(worker, arrival, Reason::HeadTimeout, &HelloError::Closed);
        }
    };
    let proof = Challenges::of_handshake(&worker.challenges, &hello);
    let Hello { server_name, resumes, .. } = hello;
    arrival.server_name = server_name;
    if let Some(config) = proof {
        let accepted = timer.limit(Box::pin(TlsStream::accept(socket, &config, bytes))).await;
        prove(worker, arrival, accepted).await;
        return None;
    }
    // What was published while the client made up its mind counts.
    let current = worker.current();
    let name = arrival.server_name.as_deref().unwrap_or_default();
    let id = match current.port_at(arrival.local).map(|port| &port.serve) {
        Some(PortServe::Tls { names }) => names.best(name).copied(),
        _ => None,
    };
    let found = id.and_then(|id| current.snapshot().listeners.get(id.index()).map(|listener| (id, listener)));
    let Some((id, listener)) = found else {
        return refuse(worker, arrival, Reason::NoListener, &"no listener for this server name");
    };
    let limit = listener.client.connection_limit;
    let counted = match limit.map(|limit| connections::enter(worker, limit, connections::of_listener(listener))) {
        None => None,
        Some(Ok(counted)) => Some(counted),
        Some(Err(delay)) => {
            drop((current, timer));
            connections::hold(worker, delay).await;
            return None;
        }
    };
    match &listener.serve {
        ListenerServe::Https { tls, .. } => {
            let Some(config) = current.generation.tls.listener(id, resumes).cloned() else {
                return refuse(worker, arrival, Reason::HandshakeFailed, &"the listener has no certificate");
            };
            arrival.patience.set(Some(Patience::of(&listener.client)));
            arrival.http2 = listener.client.http2;
            if let Some(limit) = listener.client.handshake_timeout {
                timer.set_at(arrival.at + limit);
            }
            let asked = Asked::of(listener, tls.client_validation);
            drop(current);
            let accepted = timer.limit(TlsStream::accept(socket, &config, bytes)).await;
            let mut stream = accept(worker, arrival, accepted)?;
            if let Some(asked) = asked {
                match asked.answered(&stream.take_certificates()) {
                    Ok(shown) => arrival.shown = Some(Box::new(shown)),
                    Err(why) => return refuse(worker, arrival, Reason::ClientCertificate, &why),
                }
            }
            return Some((stream, counted));
        }
        ListenerServe::TlsTerminate { routes, .. } => {
            let config = current.generation.tls.listener(id, resumes).cloned();
            let (Some(config), true) = (config, routes.best(name).is_some()) else {
                return refuse(worker, arrival, Reason::NoRoute, &"no certificate, or no route for this server name");
            };
            if let Some(limit) = listener.client.handshake_timeout {
                timer.set_at(arrival.at + limit);
            }
            let accepted = timer.limit(TlsStream::accept(socket, &config, bytes)).await;
            let mut stream = accept(worker, arrival, accepted)?;
            // Nobody is told of them here.
            drop(stream.take_certificates());
            drop((timer, config));
            // The listener's number means something in its own generation only.
            Box::pin(l4::terminated(worker, current, stream, arrival, id)).await;
        }
        ListenerServe::TlsPassthrough { .. } => {
            drop(timer);
            match socket.into_tokio() {
                Ok(client) => Box::pin(l4::passthrough(worker, current, client, bytes, arrival, id)).await,
                Err(error) => return refuse(worker, arrival, Reason::Internal, &error),
            }
        }
        ListenerServe::Http { .. } | ListenerServe::Tcp { .. } | ListenerServe::Udp { .. } => {
            return refuse(worker, arrival, Reason::NoListener, &"the listener takes no TLS");
        }
    }
    None
}

/// Ends a connection whose handshake was the answer to a CA (RFC 8737 §4: "the server ... MUST NOT" serve anything in it).
async fn prove(
    worker: &Worker,
    arrival: &Arrival,
    accepted: Result<Result<TlsStream<Socket>, TlsError>, Elapsed>,
) -> Option<TlsStream<Socket>> {
    let stream = match accepted {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return refuse(worker, arrival, Reason::HandshakeFailed, &error),
        Err(Elapsed) => return refuse(worker, arrival, Reason::HeadTimeout, &"the handshake took too long"),
    };
    worker.metrics.count(Reason::AcmeChallenge);
    tracing::debug!(client = %arrival.peer, name = arrival.server_name.as_deref(), "tls-alpn-01 answered");
    let timer = worker.clock.timer();
    timer.set(LAST_WORD);
    // Who asked has seen what counts; a close_notify that does not leave is nobody's loss.
    let _ = timer.limit(stream.finish()).await;
    None
}

/// The stream of a finished handshake, with what it settled noted; or the failure noted.
fn accept(
    worker: &Worker,
    arrival: &mut Arrival,
    accepted: Result<Result<TlsStream<Socket>, TlsError>, Elapsed>,
) -> Option<TlsStream<Socket>> {
    match accepted {
        Ok(Ok(stream)) => {
            arrival.secure = true;
            arrival.tls = stream.agreed().map(settled);
            let resumed = stream.agreed().is_some_and(|agreed| agreed.resumed);
            count(worker, arrival, if resumed { Handshake::Resumed } else { Handshake::Full });
            Some(stream)
        }
        Ok(Err(error)) => {
            count(worker, arrival, Handshake::Failed);
            let reason = match error {
                TlsError::Certificate(_) => Reason::ClientCertificate,
                _ => Reason::HandshakeFailed,
            };
            refuse(worker, arrival, reason, &error)
        }
        Err(Elapsed) => {
            count(worker, arrival, Handshake::Failed);
            refuse(worker, arrival, Reason::HeadTimeout, &"the handshake took too long")
        }
    }
}

pub fn count(worker: &Worker, arrival: &Arrival, handshake: Handshake) {
    let current = worker.current();
    let port = current.port_id(arrival.local, Transport::Tcp);
    if let Some(series) = port.and_then(|port| current.series.port(port)) {
        series.count_handshake(handshake);
    }
}

/// Counts a connection that comes to nothing, hence always `None`; dropping its socket closes it.
pub fn refuse<T>(worker: &Worker, arrival: &Arrival, reason: Reason, why: &dyn std::fmt::Display) -> Option<T> {
    worker.metrics.count(reason);
    let name = arrival.server_name.as_deref().unwrap_or("-");
    tracing::debug!(client = %arrival.peer, local = %arrival.local, name, %reason, error = %why, "no TLS connection");
    None
}

fn settled(agreed: &Agreed) -> Settled {
    let version = match agreed.version {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "",
    };
    let cipher = agreed.suite.and_then(|suite| suite.suite().as_str()).unwrap_or_default();
    Settled { version, cipher }
}
