//! The memory that bytes travel in: fixed-size buffers from a pool of the worker's thread, given back when dropped.
//!
//! A buffer keeps a little room in front and behind, so that a body chunk can be framed in place. An idle connection
//! owns none; the pool keeps a bounded number and the rest goes back to the allocator.

use std::cell::RefCell;

/// What a pooled buffer can hold, framing room not counted.
pub const BUFFER_SIZE: usize = 16 * 1024;
/// Room kept in front: a chunk-size line (16 hex digits and CRLF), and before it the beginning of a TLS record (13).
const FRONT: usize = 32;
/// Room kept behind: the CRLF after a chunk, the last chunk with its empty trailer section, and the end of a TLS record (17).
const BACK: usize = 32;
/// Per thread: 512 of 16 KiB are 8 MiB.
const RETAINED: usize = 512;

/// For connections that move bulk: fewer system calls per byte.
pub const LARGE_SIZE: usize = 64 * 1024;
/// Per thread: 64 of 64 KiB are 4 MiB.
const RETAINED_LARGE: usize = 64;

thread_local! {
    static POOL: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
    static LARGE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Owned memory with a filled part: `start..end`.
pub struct Buffer {
    memory: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// An empty buffer of [`BUFFER_SIZE`].
    pub fn take() -> Self {
        let pooled = POOL.try_with(|pool| pool.borrow_mut().pop()).ok().flatten();
        let memory = pooled.unwrap_or_else(|| vec![0; FRONT + BUFFER_SIZE + BACK].into_boxed_slice());
        Self { memory, start: FRONT, end: FRONT }
    }

    /// An empty buffer of [`LARGE_SIZE`].
    pub fn take_large() -> Self {
        let pooled = LARGE.try_with(|pool| pool.borrow_mut().pop()).ok().flatten();
        let memory = pooled.unwrap_or_else(|| vec![0; FRONT + LARGE_SIZE + BACK].into_boxed_slice());
        Self { memory, start: FRONT, end: FRONT }
    }

    /// An empty buffer for at least `size` bytes; only those of the usual size are pooled.
    pub fn with_size(size: usize) -> Self {
        if size <= BUFFER_SIZE {
            return Self::take();
        }
        Self { memory: vec![0; FRONT + size + BACK].into_boxed_slice(), start: FRONT, end: FRONT }
    }

    /// A buffer that holds a copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut buffer = Self::with_size(bytes.len());
        buffer.append(bytes);
        buffer
    }

    pub fn as_slice(&self) -> &[u8] {
        self.memory.get(self.start..self.end).unwrap_or_default()
    }

    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.start..self.end).unwrap_or_default()
    }

    pub fn len(&self) -> usize {
        self.end - self.start
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// How many bytes can be appended.
    pub fn room(&self) -> usize {
        (self.memory.len() - BACK).saturating_sub(self.end)
    }

    /// The free part, to be filled from its beginning and then [`grow`](Self::grow)n by.
    pub fn room_mut(&mut self) -> &mut [u8] {
        let limit = self.memory.len() - BACK;
        self.memory.get_mut(self.end..limit).unwrap_or_default()
    }

    /// The same, only to look at.
    pub fn room_slice(&self) -> &[u8] {
        self.memory.get(self.end..self.memory.len() - BACK).unwrap_or_default()
    }

    /// The same and what is kept behind, for what writes a little more than it gives.
    pub fn room_and_back_mut(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.end..).unwrap_or_default()
    }

    /// Counts `count` bytes of the room as filled.
    pub fn grow(&mut self, count: usize) {
        self.end += count.min(self.room());
    }

    /// Forgets the first `count` bytes.
    pub fn advance(&mut self, count: usize) {
        self.start += count.min(self.len());
        if self.is_empty() {
            self.clear();
        }
    }

    /// Forgets all but the first `count` bytes.
    pub fn truncate(&mut self, count: usize) {
        self.end = self.start + count.min(self.len());
    }

    pub fn clear(&mut self) {
        self.start = FRONT;
        self.end = FRONT;
    }

    /// Appends as much as fits and says how much that was.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        let room = self.room_mut();
        let count = bytes.len().min(room.len());
        let (Some(to), Some(from)) = (room.get_mut(..count), bytes.get(..count)) else { return 0 };
        to.copy_from_slice(from);
        self.end += count;
        count
    }

    /// Moves the filled part to the front, so that all free memory is room.
    pub fn compact(&mut self) {
        if self.start > FRONT {
            self.memory.copy_within(self.start..self.end, FRONT);
            self.end -= self.start - FRONT;
            self.start = FRONT;
        }
    }

    /// Takes the first `count` bytes away into a buffer of their own. The larger part is the one that is not copied.
    pub fn split_front(&mut self, count: usize) -> Self {
        let count = count.min(self.len());
        if count == self.len() {
            return std::mem::replace(self, Self::take());
        }
        if count <= self.len() / 2 {
            let front = Self::copy_of(self.as_slice().get(..count).unwrap_or_default());
            self.advance(count);
            return front;
        }
        let back = Self::copy_of(self.as_slice().get(count..).unwrap_or_default());
        let mut front = std::mem::replace(self, back);
        front.truncate(count);
        front
    }

    /// Puts framing in front; `false` when there is no room for it.
    pub fn prepend(&mut self, bytes: &[u8]) -> bool {
        let Some(start) = self.start.checked_sub(bytes.len()) else { return false };
        let Some(to) = self.memory.get_mut(start..self.start) else { return false };
        to.copy_from_slice(bytes);
        self.start = start;
        true
    }

    /// Counts so many bytes in front and behind as filled, in the room kept for framing, and gives everything to be filled
    /// in place; `None` when there is no such room.
    pub fn surround(&mut self, front: usize, back: usize) -> Option<&mut [u8]> {
        let start = self.start.checked_sub(front)?;
        let end = self.end + back;
        let whole = self.memory.get_mut(start..end)?;
        (self.start, self.end) = (start, end);
        Some(whole)
    }

    /// Puts framing behind, in the room kept for it; `false` when there is none.
    pub fn frame_end(&mut self, bytes: &[u8]) -> bool {
        let end = self.end + bytes.len();
        let Some(to) = self.memory.get_mut(self.end..end) else { return false };
        to.copy_from_slice(bytes);
        self.end = end;
        true
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        const USUAL: usize = FRONT + BUFFER_SIZE + BACK;
        const LARGER: usize = FRONT + LARGE_SIZE + BACK;
        let (pool, most) = match self.memory.len() {
            USUAL => (&POOL, RETAINED),
            LARGER => (&LARGE, RETAINED_LARGE),
            _ => return,
        };
        let memory = std::mem::take(&mut self.memory);
        // At thread exit the pool may be gone already; then the memory is simply freed.
        let _ = pool.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            if pool.len() < most {
                pool.push(memory);
            }
        });
    }
}

impl std::fmt::Debug for Buffer {
    // Never the content: it may be secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_when_a_buffer_is_dropped() {
        let address = Buffer::take().memory.as_ptr();
        assert_eq!(Buffer::take().memory.as_ptr(), address);
        assert_ne!(Buffer::with_size(BUFFER_SIZE + 1).memory.as_ptr(), address);
        let address = Buffer::take_large().memory.as_ptr();
        assert_eq!(Buffer::take_large().memory.as_ptr(), address);
    }

    #[test]
    fn a_full_buffer_can_still_be_framed() {
        let mut buffer = Buffer::take();
        assert_eq!(buffer.append(&[b'x'; BUFFER_SIZE + 5]), BUFFER_SIZE);
        assert_eq!(buffer.room(), 0);
        assert!(buffer.prepend(b"4000\r\n"));
        assert!(buffer.frame_end(b"\r\n"));
        assert_eq!(buffer.len(), BUFFER_SIZE + 8);
        assert!(buffer.surround(13, 17).is_some());
        assert_eq!(buffer.len(), BUFFER_SIZE + 8 + 30);
        assert!(buffer.surround(64, 0).is_none() && buffer.surround(0, 64).is_none());
        assert!(!buffer.frame_end(&[0; 64]));
        assert!(!buffer.prepend(&[0; 64]));
    }

    #[test]
    fn splitting_keeps_both_parts() {
        for at in [0, 1, 3, 5, 6, 9] {
            let mut buffer = Buffer::copy_of(b"abcdef");
            let front = buffer.split_front(at);
            let joined = [front.as_slice(), buffer.as_slice()].concat();
            assert_eq!((joined.as_slice(), front.len()), (&b"abcdef"[..], at.min(6)));
        }
    }

    #[test]
    fn compacting_gives_the_room_back() {
        let mut buffer = Buffer::copy_of(&[b'x'; 100]);
        buffer.advance(60);
        buffer.compact();
        assert_eq!((buffer.len(), buffer.room()), (40, BUFFER_SIZE - 40));
    }
}
