//! The peer's frames (RFC 9113 §6), each judged in the state that its stream is in (§5.1).

use std::time::Instant;

use super::stream::{Failed, Stream};
use super::{Block, Drain, Ended, Flood, Mux, Side, Stage, Started};
use crate::proxy::h1::parse::HeadLimits;
use crate::proxy::h2::convert::{Refusal, RequestBlock, ResponseBlock, TrailerBlock};
use crate::proxy::h2::frame::{self, Code, Head};
use crate::proxy::h2::front;
use crate::proxy::message::{Length, ResponseHead};

/// CONTINUATION frames to one HEADERS (CVE-2024-27316 and its kin).
const CONTINUATIONS: u32 = 64;
/// Interim responses that may wait to be fetched.
const INTERIM: usize = 16;

impl Mux {
    /// Takes what the peer has sent; what is not whole yet is kept.
    pub fn receive(&mut self, mut bytes: &[u8]) {
        self.heard = self.heard.wrapping_add(1);
        if let Stage::Preface(seen) = self.stage {
            let expected = frame::PREFACE.get(seen..).unwrap_or_default();
            let count = expected.len().min(bytes.len());
            if bytes.get(..count) != expected.get(..count) {
                return self.broken(Code::PROTOCOL_ERROR, "no preface");
            }
            bytes = bytes.get(count..).unwrap_or_default();
            self.stage = if count == expected.len() { Stage::Settings } else { Stage::Preface(seen + count) };
        }
        if !self.partial.is_empty() && !bytes.is_empty() {
            let mut partial = std::mem::take(&mut self.partial);
            while self.ended.is_none() && !bytes.is_empty() {
                let whole = Head::read(&partial).map_or(frame::HEADER, |head| frame::HEADER + head.length);
                let count = (whole - partial.len()).min(bytes.len());
                partial.extend_from_slice(bytes.get(..count).unwrap_or_default());
                bytes = bytes.get(count..).unwrap_or_default();
                let Some(head) = Head::read(&partial) else { break };
                if self.is_oversize(head) {
                    return;
                }
                if partial.len() == frame::HEADER + head.length {
                    self.frame(head, partial.get(frame::HEADER..).unwrap_or_default());
                    partial.clear();
                    break;
                }
            }
            if !partial.is_empty() {
                self.partial = partial;
            }
        }
        while self.ended.is_none()
            && let Some(head) = Head::read(bytes)
        {
            if self.is_oversize(head) {
                return;
            }
            let Some(payload) = bytes.get(frame::HEADER..frame::HEADER + head.length) else { break };
            self.frame(head, payload);
            bytes = bytes.get(frame::HEADER + head.length..).unwrap_or_default();
        }
        if self.ended.is_none() {
            self.partial.extend_from_slice(bytes);
            self.watch_head();
        }
    }

    /// §4.2. The connection's state may be in doubt after it, so that it ends.
    fn is_oversize(&mut self, head: Head) -> bool {
        let is_oversize = head.length > frame::MAX_SIZE;
        if is_oversize {
            self.broken(Code::FRAME_SIZE_ERROR, "frame too large");
        }
        is_oversize
    }

    /// Notes since when a head is on its way. Bodies may be slow; they have a deadline of their own.
    fn watch_head(&mut self) {
        let is_body = self.partial.get(3) == Some(&frame::DATA);
        let waits = self.stage != Stage::Open || self.block.is_some() || (!self.partial.is_empty() && !is_body);
        if !waits {
            self.head_since = None;
        } else if self.head_since.is_none() {
            self.head_since = Some(Instant::now());
        }
    }

    fn frame(&mut self, head: Head, payload: &[u8]) {
        if let Some(block) = &self.block
            && (head.kind != frame::CONTINUATION || head.stream != block.stream)
        {
            return self.broken(Code::PROTOCOL_ERROR, "another frame inside a header block");
        }
        if self.stage == Stage::Settings {
            if head.kind != frame::SETTINGS || head.has(frame::ACK) {
                return self.broken(Code::PROTOCOL_ERROR, "the first frame is not SETTINGS");
            }
            self.stage = Stage::Open;
        }
        match head.kind {
            frame::DATA => self.data(head, payload),
            frame::HEADERS => self.headers(head, payload),
            frame::CONTINUATION => self.continuation(head, payload),
            frame::PRIORITY => self.priority(head, payload),
            frame::RST_STREAM => self.rst_stream(head, payload),
            frame::SETTINGS => self.settings(head, payload),
            frame::PUSH_PROMISE => self.broken(Code::PROTOCOL_ERROR, "PUSH_PROMISE"),
            frame::PING => self.ping(head, payload),
            frame::GOAWAY => self.goaway(head, payload),
            frame::WINDOW_UPDATE => self.window_update(head, payload),
            // §4.1: unknown types are ignored.
            _ => self.empty_frame(),
        }
    }

    /// A frame that carries nothing.
    fn empty_frame(&mut self) {
        if let Err(flood) = self.budget.frame() {
            self.flooded(flood);
        }
    }

    /// Whether no frame has ever been on this stream.
    fn is_idle(&self, id: u32) -> bool {
        let is_peers = id % 2 == u32::from(self.bounds.side == Side::Server);
        if is_peers { id > self.highest } else { id >= self.next }
    }

    fn is_forgotten(&self, id: u32) -> bool {
        self.forgotten.contains(&id) || matches!(self.drain, Drain::Final(last) if id > last)
    }

    fn data(&mut self, head: Head, payload: &[u8]) {
        let Some(text) = frame::unpadded(head, payload) else {
            return self.broken(Code::PROTOCOL_ERROR, "padding longer than its frame");
        };
        if head.stream == 0 || self.is_idle(head.stream) {
            return self.broken(Code::PROTOCOL_ERROR, "DATA on an idle stream");
        }
        // §6.9: "the entire DATA frame payload is included in flow control", wherever it goes.
        self.recv_window -= payload.len() as i64;
        if self.recv_window < 0 {
            return self.broken(Code::FLOW_CONTROL_ERROR, "more DATA than the connection's window");
        }
        if text.is_empty() && !head.has(frame::END_STREAM) {
            self.empty_frame();
        }
        let Some(&key) = self.open.get(&head.stream) else {
            self.give_back(payload.len());
            if !self.is_forgotten(head.stream) {
                self.refuse(head.stream, Code::STREAM_CLOSED);
            }
            return;
        };
        let Some(stream) = self.streams.get_mut(key) else { return };
        if stream.recv_done {
            self.give_back(payload.len());
            return self.malformed(key, Code::STREAM_CLOSED, "DATA after the end");
        }
        stream.recv_window -= payload.len() as i64;
        if stream.recv_window < 0 {
            self.give_back(payload.len());
            return self.malformed(key, Code::FLOW_CONTROL_ERROR, "more DATA than the window");
        }
        let ended = head.has(frame::END_STREAM);
        let fits = match &mut stream.expected {
            Some(left) => {
                let rest = left.checked_sub(text.len() as u64);
                *left = rest.unwrap_or_default();
                rest.is_some_and(|rest| !ended || rest == 0)
            }
            None => true,
        };
        // §8.1.1: a length that the body does not meet makes the message malformed; so does a body before its head.
        let has_head = self.bounds.side == Side::Server || stream.head_received;
        if !fits || !has_head {
            self.give_back(payload.len());
            let why = if fits { "DATA before the head" } else { "body and Content-Length differ" };
            return self.malformed(key, Code::PROTOCOL_ERROR, why);
        }
        stream.queue.push(text);
        stream.recv_done = ended;
        stream.wake();
        let padding = payload.len() - text.len();
        self.consumed(key, padding);
        if ended {
            self.settle(key);
        }
    }

    /// Ends a stream for what the peer sent on it.
    fn malformed(&mut self, key: usize, code: Code, why: &'static str) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        let id = stream.id;
        stream.fail(Failed::Malformed(why));
        self.open.remove(&id);
        self.refuse(id, code);
    }

    fn headers(&mut self, head: Head, payload: &[u8]) {
        let Some(mut text) = frame::unpadded(head, payload) else {
            return self.broken(Code::PROTOCOL_ERROR, "padding longer than its frame");
        };
        let mut depends_on_itself = false;
        if head.has(frame::WITH_PRIORITY) {
            let Some((priority, rest)) = text.split_at_checked(5) else {
                return self.broken(Code::FRAME_SIZE_ERROR, "HEADERS too short");
            };
            depends_on_itself = frame::number(priority).is_some_and(|on| on & 0x7fff_ffff == head.stream);
            text = rest;
        }
        let is_ours = head.stream % 2 == u32::from(self.bounds.side == Side::Client);
        if head.stream == 0 || (is_ours && self.is_idle(head.stream)) || (!is_ours && self.bounds.side == Side::Client)
        {
            return self.broken(Code::PROTOCOL_ERROR, "HEADERS on a stream that is not the peer's to open");
        }
        let ended = head.has(frame::END_STREAM);
        if head.has(frame::END_HEADERS) {
            return self.block(head.stream, ended, depends_on_itself, text);
        }
        let bytes = text.to_vec();
        self.block = Some(Block { stream: head.stream, ended, depends_on_itself, bytes, frames: 0 });
    }

    fn continuation(&mut self, head: Head, payload: &[u8]) {
        let Some(mut block) = self.block.take() else {
            return self.broken(Code::PROTOCOL_ERROR, "CONTINUATION without HEADERS");
        };
        block.frames += 1;
        // Twice the limit, so that what is only somewhat too large is answered with 431.
        let most = self.bounds.limits.bytes.saturating_mul(2).saturating_add(frame::MAX_SIZE);
        if block.frames > CONTINUATIONS || block.bytes.len() + payload.len() > most {
            return self.flooded(Flood::Headers);
        }
        block.bytes.extend_from_slice(payload);
        if head.has(frame::END_HEADERS) {
            self.block(block.stream, block.ended, block.depends_on_itself, &block.bytes);
        } else {
            self.block = Some(block);
        }
    }

    /// A whole header block. It is decoded whatever becomes of it, because the table must stay in step (§4.3).
    fn block(&mut self, id: u32, ended: bool, depends_on_itself: bool, block: &[u8]) {
        if let Some(&key) = self.open.get(&id) {
            return match self.streams.get(key) {
                Some(stream) if stream.recv_done => {
                    self.skip(block);
                    self.malformed(key, Code::STREAM_CLOSED, "HEADERS after the end");
                }
                Some(stream) if self.bounds.side == Side::Client && !stream.head_received => {
                    self.response(key, ended, block);
                }
                _ => self.trailers(key, ended, block),
            };
        }
        if !self.is_idle(id) || self.bounds.side == Side::Client {
            self.skip(block);
            if !self.is_forgotten(id) {
                self.broken(Code::STREAM_CLOSED, "HEADERS on a closed stream");
            }
            return;
        }
        if matches!(self.drain, Drain::Final(_)) {
            // §6.8: what comes after is ignored; the client sends it elsewhere.
            return self.skip(block);
        }
        self.highest = id;
        self.request(id, ended, depends_on_itself, block);
    }

    fn skip(&mut self, block: &[u8]) {
        if let Err(error) = self.decoder.decode(block, |_, _| {}) {
            self.broken(Code::COMPRESSION_ERROR, error.0);
        }
    }

    fn request(&mut self, id: u32, ended: bool, depends_on_itself: bool, block: &[u8]) {
        // Those that were reset may still be on their way out; they count, but not at once.
        let most = self.bounds.streams as usize;
        if self.open.len() >= most || self.streams.len() >= 2 * most {
            self.skip(block);
            return self.refuse(id, Code::REFUSED_STREAM);
        }
        let mut head = front::take_head();
        let mut request = RequestBlock::new(&mut head, self.bounds.limits);
        if let Err(error) = self.decoder.decode(block, |name, value| request.field(name, value)) {
            return self.broken(Code::COMPRESSION_ERROR, error.0);
        }
        self.budget.request();
        let result = match request.finish(ended, self.bounds.scheme) {
            Ok(()) if depends_on_itself => Err(Refusal::Malformed("stream depends on itself")),
            result => result,
        };
        let refused = match result {
            Ok(()) => None,
            Err(Refusal::Refused(error)) => Some(error),
            Err(Refusal::Malformed(why)) => {
                self.malformed.push(why);
                return self.refuse(id, Code::PROTOCOL_ERROR);
            }
        };
        let mut stream = Stream::new(id, self.peer.initial_window, i64::from(self.bounds.stream_window));
        stream.recv_done = ended;
        stream.expected = if let Length::Known(length) = head.length { Some(length) } else { None };
        stream.request_is_head = head.is_head();
        let key = self.streams.insert(stream);
        self.open.insert(id, key);
        self.started.push_back(Started { key, head, refused, ended });
    }

    fn response(&mut self, key: usize, ended: bool, block: &[u8]) {
        let Some(stream) = self.streams.get_mut(key) else { return self.skip(block) };
        let mut head = ResponseHead::default();
        let mut response = ResponseBlock::new(&mut head, self.bounds.limits);
        if let Err(error) = self.decoder.decode(block, |name, value| response.field(name, value)) {
            return self.broken(Code::COMPRESSION_ERROR, error.0);
        }
        if let Err(why) = response.finish(ended, stream.request_is_head) {
            return self.malformed(key, Code::PROTOCOL_ERROR, why);
        }
        stream.recv_done = ended;
        stream.head_received = head.status >= 200;
        stream.expected = match head.length {
            Length::Known(length) if !head.is_bodiless(stream.request_is_head) => Some(length),
            Length::None | Length::Known(_) if stream.head_received => Some(0),
            _ => None,
        };
        match &stream.head {
            None => stream.head = Some(head),
            Some(_) if stream.more_heads.len() < INTERIM => stream.more_heads.push_back(head),
            Some(_) => return self.malformed(key, Code::ENHANCE_YOUR_CALM, "too many interim responses"),
        }
        stream.wake();
        if ended {
            self.settle(key);
        }
    }

    fn trailers(&mut self, key: usize, ended: bool, block: &[u8]) {
        let HeadLimits { bytes, fields } = self.bounds.limits;
        let mut trailers = TrailerBlock::new(HeadLimits { bytes, fields });
        if let Err(error) = self.decoder.decode(block, |name, value| trailers.field(name, value)) {
            return self.broken(Code::COMPRESSION_ERROR, error.0);
        }
        let fields = match trailers.finish() {
            Ok(fields) if ended => fields,
            // §8.1: a second HEADERS must end the stream.
            Ok(_) => return self.malformed(key, Code::PROTOCOL_ERROR, "a second head"),
            Err(why) => return self.malformed(key, Code::PROTOCOL_ERROR, why),
        };
        let Some(stream) = self.streams.get_mut(key) else { return };
        if stream.expected.is_some_and(|left| left > 0) {
            return self.malformed(key, Code::PROTOCOL_ERROR, "body and Content-Length differ");
        }
        stream.trailers = Some(fields);
        stream.recv_done = true;
        stream.wake();
        self.settle(key);
    }

    /// §5.3.2: deprecated, and only looked at for errors.
    fn priority(&mut self, head: Head, payload: &[u8]) {
        if head.stream == 0 {
            return self.broken(Code::PROTOCOL_ERROR, "PRIORITY on the connection");
        }
        let why = match payload {
            [_, _, _, _, _] if frame::number(payload).is_none_or(|on| on & 0x7fff_ffff != head.stream) => {
                return self.empty_frame();
            }
            [_, _, _, _, _] => Code::PROTOCOL_ERROR,
            _ => Code::FRAME_SIZE_ERROR,
        };
        match self.open.get(&head.stream) {
            Some(&key) => self.malformed(key, why, "PRIORITY"),
            None => self.refuse(head.stream, why),
        }
    }

    fn rst_stream(&mut self, head: Head, payload: &[u8]) {
        let Some(code) = frame::number(payload).filter(|_| payload.len() == 4) else {
            return self.broken(Code::FRAME_SIZE_ERROR, "RST_STREAM of a wrong size");
        };
        if head.stream == 0 || self.is_idle(head.stream) {
            return self.broken(Code::PROTOCOL_ERROR, "RST_STREAM on an idle stream");
        }
        let Some(key) = self.open.remove(&head.stream) else { return self.empty_frame() };
        if let Some(stream) = self.streams.get_mut(key) {
            if self.bounds.side == Side::Client && stream.recv_done {
                // §8.1: the response is whole; only the rest of the request is not wanted.
                stream.send_done = true;
                stream.wake();
            } else {
                stream.fail(Failed::Reset(Code(code)));
            }
        }
        self.forget(head.stream);
        if self.bounds.side == Side::Server
            && let Err(flood) = self.budget.reset()
        {
            self.flooded(flood);
        }
    }

    fn settings(&mut self, head: Head, payload: &[u8]) {
        if head.stream != 0 {
            return self.broken(Code::PROTOCOL_ERROR, "SETTINGS on a stream");
        }
        if payload.len() % 6 != 0 || (head.has(frame::ACK) && !payload.is_empty()) {
            return self.broken(Code::FRAME_SIZE_ERROR, "SETTINGS of a wrong size");
        }
        if head.has(frame::ACK) {
            return self.empty_frame();
        }
        let mut window = self.peer.initial_window;
        for setting in payload.chunks_exact(6) {
            let &[a, b, c, d, e, f] = setting else { continue };
            let value = u32::from_be_bytes([c, d, e, f]);
            match u16::from_be_bytes([a, b]) {
                frame::HEADER_TABLE_SIZE => self.owes_table_update |= value < 4096,
                frame::ENABLE_PUSH if value > u32::from(self.bounds.side == Side::Server) => {
                    return self.broken(Code::PROTOCOL_ERROR, "invalid ENABLE_PUSH");
                }
                frame::MAX_CONCURRENT_STREAMS => self.peer.max_streams = value,
                frame::INITIAL_WINDOW_SIZE if i64::from(value) > frame::MAX_WINDOW => {
                    return self.broken(Code::FLOW_CONTROL_ERROR, "initial window too large");
                }
                frame::INITIAL_WINDOW_SIZE => window = i64::from(value),
                frame::MAX_FRAME_SIZE if !(16_384..=16_777_215).contains(&value) => {
                    return self.broken(Code::PROTOCOL_ERROR, "invalid MAX_FRAME_SIZE");
                }
                frame::MAX_FRAME_SIZE => self.peer.max_frame = value as usize,
                _ => {}
            }
        }
        // §6.9.2: the windows of open streams move by the difference, and may become negative. Only the last value
        // counts, so that a frame full of them costs no more than one.
        let change = window - self.peer.initial_window;
        self.peer.initial_window = window;
        if change != 0 {
            for (_, stream) in &mut self.streams {
                stream.send_window += change;
                if stream.send_window > frame::MAX_WINDOW {
                    return self.broken(Code::FLOW_CONTROL_ERROR, "window too large");
                }
                stream.wake();
            }
        }
        frame::settings_ack(&mut self.out);
        self.empty_frame();
    }

    fn ping(&mut self, head: Head, payload: &[u8]) {
        if head.stream != 0 {
            return self.broken(Code::PROTOCOL_ERROR, "PING on a stream");
        }
        let Ok(opaque) = <[u8; 8]>::try_from(payload) else {
            return self.broken(Code::FRAME_SIZE_ERROR, "PING of a wrong size");
        };
        if !head.has(frame::ACK) {
            frame::ping(&mut self.out, frame::ACK, opaque);
        } else if matches!(self.drain, Drain::Announced(_)) {
            // Whatever the client sent before it knew has come.
            self.finish_drain();
        }
        self.empty_frame();
    }

    fn goaway(&mut self, head: Head, payload: &[u8]) {
        if head.stream != 0 {
            return self.broken(Code::PROTOCOL_ERROR, "GOAWAY on a stream");
        }
        let Some(last) = frame::number(payload).filter(|_| payload.len() >= 8) else {
            return self.broken(Code::FRAME_SIZE_ERROR, "GOAWAY too short");
        };
        self.left = true;
        if self.bounds.side == Side::Client {
            for (_, stream) in &mut self.streams {
                if stream.id > last & 0x7fff_ffff && !stream.recv_done {
                    stream.fail(Failed::Gone { processed: false });
                    self.open.remove(&stream.id);
                }
            }
        }
        self.empty_frame();
        self.wake();
    }

    fn window_update(&mut self, head: Head, payload: &[u8]) {
        let Some(increment) = frame::number(payload).filter(|_| payload.len() == 4) else {
            return self.broken(Code::FRAME_SIZE_ERROR, "WINDOW_UPDATE of a wrong size");
        };
        let increment = i64::from(increment & 0x7fff_ffff);
        self.empty_frame();
        if self.ended.is_some() {
            return;
        }
        if head.stream == 0 {
            if increment == 0 {
                return self.broken(Code::PROTOCOL_ERROR, "WINDOW_UPDATE by nothing");
            }
            self.send_window += increment;
            if self.send_window > frame::MAX_WINDOW {
                return self.broken(Code::FLOW_CONTROL_ERROR, "window too large");
            }
            return self.wake_next();
        }
        if self.is_idle(head.stream) {
            return self.broken(Code::PROTOCOL_ERROR, "WINDOW_UPDATE on an idle stream");
        }
        // On a closed stream it may have been on its way (§5.1).
        let Some(&key) = self.open.get(&head.stream) else { return };
        let Some(stream) = self.streams.get_mut(key) else { return };
        stream.send_window += increment;
        let too_large = stream.send_window > frame::MAX_WINDOW;
        stream.wake();
        if increment == 0 {
            self.malformed(key, Code::PROTOCOL_ERROR, "WINDOW_UPDATE by nothing");
        } else if too_large {
            self.malformed(key, Code::FLOW_CONTROL_ERROR, "window too large");
        }
    }

    /// The socket's end, or its failure.
    pub fn lost(&mut self, error: Option<std::io::Error>) {
        self.end(error.map_or(Ended::Closed, Ended::Io));
    }
}
