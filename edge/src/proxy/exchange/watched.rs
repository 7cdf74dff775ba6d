//! A sink that remembers whether the client has seen anything of a final response.

use std::cell::Cell;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::proxy::body::{Chunk, Leaving, Sink, StreamError};
use crate::proxy::message::{Fields, ResponseHead};

pub struct Watched<'a, K> {
    pub sink: &'a mut K,
    pub begun: &'a Cell<bool>,
    /// It was a 101: the connection is a tunnel now.
    pub switched: &'a Cell<bool>,
}

impl<K: Sink> Sink for Watched<'_, K> {
    async fn interim(&mut self, head: &ResponseHead) -> Result<(), StreamError> {
        // Given up in the middle, it leaves a client that can be told nothing more.
        self.begun.set(true);
        let sent = self.sink.interim(head).await;
        self.begun.set(false);
        sent
    }

    async fn head(&mut self, head: &ResponseHead) -> Result<(), StreamError> {
        self.begun.set(true);
        self.switched.set(head.status == 101);
        self.sink.head(head).await
    }

    fn poll_leaving(&mut self, cx: &mut Context<'_>) -> Poll<Leaving> {
        self.sink.poll_leaving(cx)
    }

    async fn gone(&mut self) {
        self.sink.gone().await;
    }

    fn close(&mut self) {
        self.sink.close();
    }

    fn set_idle(&mut self, idle: Duration) {
        self.sink.set_idle(idle);
    }

    async fn chunk(&mut self, chunk: Chunk) -> Result<(), StreamError> {
        self.sink.chunk(chunk).await
    }

    async fn flush(&mut self) -> Result<(), StreamError> {
        self.sink.flush().await
    }

    async fn finish(&mut self, trailers: Option<&Fields>) -> Result<(), StreamError> {
        self.sink.finish(trailers).await
    }
}
