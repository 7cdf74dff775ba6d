//! What exchanges send and consume on their streams. Nothing is held for a stream: what has no room stays with its
//! sender, who is woken when there is some.

use std::task::{Context, Poll};

use super::Mux;
use super::stream::Stream;
use crate::proxy::body::{Chunk, StreamError};
use crate::proxy::h2::convert::{self, Unwritable};
use crate::proxy::h2::frame;
use crate::proxy::message::{Fields, RequestHead, ResponseHead};

/// DATA below this pays for no WINDOW_UPDATE: a window that opens byte by byte is a way to keep us busy.
const WORTHWHILE: usize = 256;
/// Where the flags are in a frame's header.
const FLAGS: usize = 4;

impl Mux {
    /// Opens a stream of ours with a request. Its head leaves at the end of this turn. The limit of streams is the caller's
    /// to keep.
    pub fn open_stream(&mut self, head: &RequestHead, secure: bool, ends: bool) -> Result<usize, Unwritable> {
        let id = self.next;
        let flags = if ends { frame::END_STREAM } else { 0 };
        let flags_at = self.put_block(id, flags, |out| convert::put_request(head, secure, out))?;
        self.next += 2;
        let mut stream = Stream::new(id, self.peer.initial_window, i64::from(self.bounds.stream_window));
        stream.flags_at = flags_at;
        stream.send_done = ends;
        stream.request_is_head = head.is_head();
        let key = self.streams.insert(stream);
        self.open.insert(id, key);
        self.wake();
        Ok(key)
    }

    /// Sends a response head, interim or final. `ends`: it is also the end.
    pub fn send_head(&mut self, key: usize, head: &ResponseHead, ends: bool) -> Result<(), StreamError> {
        let stream = self.sending(key)?;
        let id = stream.id;
        let flags = if ends { frame::END_STREAM } else { 0 };
        let flags_at = self
            .put_block(id, flags, |out| convert::put_response(head, out))
            .map_err(|_| StreamError::Malformed("response head"))?;
        if let Some(stream) = self.streams.get_mut(key) {
            stream.flags_at = flags_at;
            stream.head_sent |= head.status >= 200;
            stream.send_done = ends;
        }
        if ends {
            self.settle(key);
        }
        self.wake();
        Ok(())
    }

    /// Sends a piece of a body, as much as has room; says how much.
    pub fn poll_send(&mut self, key: usize, cx: &Context<'_>, bytes: &[u8]) -> Poll<Result<usize, StreamError>> {
        if let Err(error) = self.sending(key) {
            return Poll::Ready(Err(error));
        }
        let shared = if self.is_full() { 0 } else { self.send_window };
        let Some(stream) = self.streams.get_mut(key) else { return Poll::Ready(Err(StreamError::Closed)) };
        let room = usize::try_from(stream.send_window.min(shared)).unwrap_or_default();
        if room == 0 {
            stream.park(cx);
            if shared <= 0 && !std::mem::replace(&mut stream.queued, true) {
                self.waiting.push_back(key);
            } else {
                // What this one cannot use may help the next.
                self.wake_next();
            }
            return Poll::Pending;
        }
        let count = bytes.len().min(room).min(frame::MAX_SIZE).min(self.peer.max_frame);
        let piece = bytes.get(..count).unwrap_or_default();
        stream.send_window -= count as i64;
        stream.flags_at = self.base + (self.out.len() + FLAGS) as u64;
        let id = stream.id;
        self.send_window -= count as i64;
        frame::head(&mut self.out, count, frame::DATA, 0, id);
        self.out.extend_from_slice(piece);
        if count >= WORTHWHILE || count == bytes.len() {
            self.budget.earn(2);
        }
        self.wake();
        self.wake_next();
        Poll::Ready(Ok(count))
    }

    /// Ends our direction of a stream.
    pub fn finish(&mut self, key: usize, trailers: Option<&Fields>) -> Result<(), StreamError> {
        let stream = self.sending(key)?;
        let (id, flags_at) = (stream.id, stream.flags_at);
        if let Some(trailers) = trailers.filter(|trailers| !trailers.is_empty()) {
            self.put_block(id, frame::END_STREAM, |out| convert::put_fields(trailers, out))
                .map_err(|_| StreamError::Malformed("trailers"))?;
        } else {
            // The last frame becomes the last one, unless it has left already.
            let is_here = flags_at >= self.base + self.sent as u64;
            let at = usize::try_from(flags_at.wrapping_sub(self.base)).ok();
            match at.filter(|_| is_here).and_then(|at| self.out.get_mut(at)) {
                Some(flags) => *flags |= frame::END_STREAM,
                None => frame::head(&mut self.out, 0, frame::DATA, frame::END_STREAM, id),
            }
        }
        if let Some(stream) = self.streams.get_mut(key) {
            stream.send_done = true;
        }
        self.settle(key);
        self.wake();
        Ok(())
    }

    /// Whether there is room for a head.
    pub fn poll_room(&mut self, key: usize, cx: &Context<'_>) -> Poll<Result<(), StreamError>> {
        if let Err(error) = self.sending(key) {
            return Poll::Ready(Err(error));
        }
        if !self.is_full() {
            return Poll::Ready(Ok(()));
        }
        if let Some(stream) = self.streams.get_mut(key) {
            stream.park(cx);
            if !std::mem::replace(&mut stream.queued, true) {
                self.waiting.push_back(key);
            }
        }
        Poll::Pending
    }

    /// The stream, if something can still be sent on it.
    fn sending(&self, key: usize) -> Result<&Stream, StreamError> {
        match self.streams.get(key) {
            Some(Stream { failed: Some(why), .. }) => Err(why.error()),
            Some(stream) if !stream.send_done => Ok(stream),
            _ => Err(StreamError::Closed),
        }
    }

    /// Wakes the next one that waits for what all streams share, if there is some. Who is woken wakes the one after.
    pub(super) fn wake_next(&mut self) {
        if self.waiting.is_empty() || self.is_full() || self.send_window <= 0 {
            return;
        }
        while let Some(key) = self.waiting.pop_front() {
            if let Some(stream) = self.streams.get_mut(key)
                && std::mem::take(&mut stream.queued)
            {
                return stream.wake();
            }
        }
    }

    /// Writes a header block in as many frames as it takes; says where its flags are.
    fn put_block(
        &mut self,
        id: u32,
        flags: u8,
        block: impl FnOnce(&mut Vec<u8>) -> Result<(), Unwritable>,
    ) -> Result<u64, Unwritable> {
        let start = self.out.len();
        frame::head(&mut self.out, 0, frame::HEADERS, flags | frame::END_HEADERS, id);
        if self.owes_table_update {
            // Our table is empty from here on, and so smaller than whatever the peer allows.
            self.out.push(0x20);
        }
        if let Err(error) = block(&mut self.out) {
            self.out.truncate(start);
            return Err(error);
        }
        self.owes_table_update = false;
        let length = self.out.len() - start - frame::HEADER;
        let most = frame::MAX_SIZE.min(self.peer.max_frame);
        if length <= most {
            let [_, size @ ..] = (length as u32).to_be_bytes();
            if let Some(place) = self.out.get_mut(start..start + size.len()) {
                place.copy_from_slice(&size);
            }
        } else {
            let text = self.out.split_off(start + frame::HEADER);
            self.out.truncate(start);
            let mut pieces = text.chunks(most).peekable();
            let (mut kind, mut own) = (frame::HEADERS, flags);
            while let Some(piece) = pieces.next() {
                let last = if pieces.peek().is_none() { frame::END_HEADERS } else { 0 };
                frame::head(&mut self.out, piece.len(), kind, own | last, id);
                self.out.extend_from_slice(piece);
                (kind, own) = (frame::CONTINUATION, 0);
            }
        }
        Ok(self.base + (start + FLAGS) as u64)
    }

    /// The next piece of a body; `None` at its end.
    pub fn poll_chunk(&mut self, key: usize, cx: &Context<'_>) -> Poll<Result<Option<Chunk>, StreamError>> {
        let Some(stream) = self.streams.get_mut(key) else { return Poll::Ready(Err(StreamError::Closed)) };
        if let Some(chunk) = stream.queue.pop() {
            return Poll::Ready(Ok(Some(chunk)));
        }
        if stream.recv_done {
            return Poll::Ready(Ok(None));
        }
        if let Some(why) = stream.failed {
            return Poll::Ready(Err(why.error()));
        }
        stream.park(cx);
        Poll::Pending
    }

    /// Whether [`poll_chunk`](Self::poll_chunk) would have something.
    pub fn is_ready(&self, key: usize) -> bool {
        self.streams
            .get(key)
            .is_none_or(|stream| !stream.queue.is_empty() || stream.recv_done || stream.failed.is_some())
    }

    pub fn take_trailers(&mut self, key: usize) -> Option<Fields> {
        self.streams.get_mut(key)?.trailers.take()
    }

    /// The next response head.
    pub fn poll_head(&mut self, key: usize, cx: &Context<'_>) -> Poll<Result<ResponseHead, super::Failed>> {
        let gone = super::Failed::Gone { processed: true };
        let Some(stream) = self.streams.get_mut(key) else { return Poll::Ready(Err(gone)) };
        if let Some(head) = stream.head.take() {
            stream.head = stream.more_heads.pop_front();
            return Poll::Ready(Ok(head));
        }
        if let Some(why) = stream.failed {
            return Poll::Ready(Err(why));
        }
        stream.park(cx);
        Poll::Pending
    }

    /// Ready when the peer has no interest in the stream any more, or is gone.
    pub fn poll_gone(&mut self, key: usize, cx: &Context<'_>) -> Poll<()> {
        match self.streams.get_mut(key) {
            Some(stream) if stream.failed.is_none() => {
                stream.park(cx);
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    /// Whether a final response head is on its way.
    pub fn is_head_sent(&self, key: usize) -> bool {
        self.streams.get(key).is_none_or(|stream| stream.head_sent)
    }

    /// Gives bytes that were consumed back to the peer's windows, now and then (§6.9).
    pub fn consumed(&mut self, key: usize, count: usize) {
        if count == 0 {
            return;
        }
        if let Some(stream) = self.streams.get_mut(key)
            && !stream.recv_done
            && stream.failed.is_none()
        {
            stream.recv_owed += count as u32;
            if stream.recv_owed >= self.bounds.stream_window / 2 {
                let owed = std::mem::take(&mut stream.recv_owed);
                stream.recv_window += i64::from(owed);
                frame::window_update(&mut self.out, stream.id, owed);
                self.wake();
            }
        }
        self.give_back(count);
    }

    /// The same for the connection's window only.
    pub(super) fn give_back(&mut self, count: usize) {
        self.recv_owed = self.recv_owed.saturating_add(count as u32);
        if self.recv_owed >= self.bounds.connection_window / 2 && self.ended.is_none() {
            let owed = std::mem::take(&mut self.recv_owed);
            self.recv_window += i64::from(owed);
            frame::window_update(&mut self.out, 0, owed);
            self.wake();
        }
    }

    /// Whether the peer has ended its direction.
    pub fn is_received(&self, key: usize) -> bool {
        self.streams.get(key).is_none_or(|stream| stream.recv_done)
    }
}
