//! A request body that somebody has to see before a backend is chosen. It is read up to a bound, and given again to
//! whoever reads the body afterwards ([`super::replay::Body`]).

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::pace::Pace;
use crate::proxy::body::{Chunk, Source, StreamError};
use crate::proxy::message::Length;

/// A whole body.
pub struct Gathered(VecDeque<Bytes>);

/// Why a body could not be gathered.
#[derive(Debug, thiserror::Error)]
pub enum GatherError {
    #[error("body is longer than allowed")]
    TooLong,
    #[error(transparent)]
    Client(#[from] StreamError),
}

impl Gathered {
    /// Reads the whole body, if it is no longer than this.
    pub async fn read<S: Source>(source: &mut S, most: usize, pace: &mut Pace) -> Result<Self, GatherError> {
        if matches!(source.length(), Length::Known(length) if length > most as u64) {
            return Err(GatherError::TooLong);
        }
        let (mut chunks, mut read) = (VecDeque::new(), 0);
        while let Some(chunk) = pace.hold(source.next()).await? {
            let bytes = chunk.as_slice();
            pace.moved(bytes.len());
            read += bytes.len();
            if read > most {
                return Err(GatherError::TooLong);
            }
            chunks.push_back(match chunk {
                Chunk::Shared(bytes) => bytes,
                Chunk::Pooled(buffer) => Bytes::copy_from_slice(buffer.as_slice()),
            });
        }
        Ok(Self(chunks))
    }

    /// All of it.
    pub fn bytes(&self) -> Bytes {
        if let ([only], []) = self.0.as_slices() {
            return only.clone();
        }
        let mut whole = BytesMut::with_capacity(self.0.iter().map(Bytes::len).sum());
        self.0.iter().for_each(|chunk| whole.extend_from_slice(chunk));
        whole.freeze()
    }

    /// What has not been taken yet, from its beginning.
    pub fn take(&mut self) -> Option<Chunk> {
        self.0.pop_front().map(Chunk::Shared)
    }
}
