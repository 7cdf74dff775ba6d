//! Connections to a TLS port: the server name picks the listener, which terminates or passes through.

use std::rc::Rc;

use super::io::Socket;
use super::worker::{Arrival, Worker};

pub async fn serve(_worker: &Rc<Worker>, _socket: Socket, _arrival: Arrival) {}
