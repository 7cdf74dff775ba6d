//! Bytes without sense or with too much of it. What a connection does with them is asked for by h2spec and by
//! `tests/hostile_h2.rs`; here nothing may panic, spin or grow.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Waker};

use super::stream::Handle;
use super::*;
use crate::proxy::message::ResponseHead;

fn bounds(side: Side) -> Bounds {
    Bounds {
        side,
        scheme: Scheme::Http,
        limits: HeadLimits { bytes: 4096, fields: 20 },
        streams: 10,
        stream_window: 65_535,
        connection_window: 100_000,
    }
}

struct Noise(u64);

impl Noise {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    /// A frame that is whole and means little.
    fn frame(&mut self) -> Vec<u8> {
        let mut payload: Vec<u8> = match self.next(4) {
            // A request that is one, a response that is one.
            0 => b"\x82\x86\x84\x01\x01a".to_vec(),
            1 => b"\x88".to_vec(),
            2 => (0..self.next(12)).map(|_| self.next(256) as u8).collect(),
            _ => (self.next(4) as u32).to_be_bytes().to_vec(),
        };
        if self.next(10) == 0 {
            payload.resize(self.next(300) as usize, 7);
        }
        let mut bytes = Vec::new();
        let (kind, flags) = (self.next(11) as u8, [0, 1, 4, 5, 8, 0x2d][self.next(6) as usize]);
        frame::head(&mut bytes, payload.len(), kind, flags, self.next(30) as u32);
        bytes.extend_from_slice(&payload);
        bytes
    }
}

#[test]
fn noise_is_survived_by_both_sides() {
    for round in 1..3_000_u64 {
        let mut noise = Noise(round);
        let side = if round % 2 == 0 { Side::Client } else { Side::Server };
        let mux = Rc::new(RefCell::new(Mux::new(bounds(side), Instant::now())));
        let mut bytes = if side == Side::Server { frame::PREFACE.to_vec() } else { Vec::new() };
        frame::settings(&mut bytes, &[]);
        let mut handles = Vec::new();
        if side == Side::Client {
            let mut head = RequestHead::default();
            head.method = head.fields.store(b"GET");
            head.authority = head.fields.store(b"a");
            head.path = head.fields.store(b"/");
            for _ in 0..5 {
                let key = mux.borrow_mut().open_stream(&head, false, noise.next(2) == 0).unwrap();
                handles.push(Handle::new(&mux, key));
            }
        }
        for _ in 0..60 {
            bytes.extend(noise.frame());
            let cut = noise.next(bytes.len() as u64 + 1) as usize;
            mux.borrow_mut().receive(&bytes[..cut]);
            bytes.drain(..cut);
            let cx = Context::from_waker(Waker::noop());
            while let Some(started) = { mux.borrow_mut().next_started() } {
                handles.push(Handle::new(&mux, started.key));
            }
            if !handles.is_empty() {
                let key = handles[noise.next(handles.len() as u64) as usize].key;
                let mut mux = mux.borrow_mut();
                match noise.next(6) {
                    0 => drop(mux.send_head(key, &ResponseHead { status: 200, ..ResponseHead::default() }, false)),
                    1 => drop(mux.poll_send(key, &cx, &[b'x'; 1000])),
                    2 => drop(mux.finish(key, None)),
                    3 => drop(mux.poll_chunk(key, &cx)),
                    4 => drop(mux.poll_head(key, &cx)),
                    _ => {}
                }
            }
            if noise.next(4) == 0 && !handles.is_empty() {
                handles.swap_remove(noise.next(handles.len() as u64) as usize);
            }
            let mut mux = mux.borrow_mut();
            assert!(mux.streams.len() <= 25 && mux.open.len() <= 15, "round {round}");
            let (out, sent) = mux.pending();
            assert!(out.len() < 200_000, "round {round}");
            *sent = out.len();
            mux.flushed();
            mux.reap_late(Instant::now());
        }
        handles.clear();
        assert!(mux.borrow().in_use() <= 10, "round {round}");
    }
}

/// What we sent on a stream can be marked as its end for as long as it is here, and not a byte longer.
#[test]
fn the_end_is_marked_on_the_last_frame_or_sent_by_itself() {
    for flushed in [false, true] {
        let mux = Rc::new(RefCell::new(Mux::new(bounds(Side::Server), Instant::now())));
        let mut bytes = frame::PREFACE.to_vec();
        frame::settings(&mut bytes, &[]);
        frame::head(&mut bytes, 6, frame::HEADERS, frame::END_HEADERS | frame::END_STREAM, 1);
        bytes.extend_from_slice(b"\x82\x86\x84\x01\x01a");
        mux.borrow_mut().receive(&bytes);
        let started = mux.borrow_mut().next_started().unwrap();
        let _handle = Handle::new(&mux, started.key);
        let mut mux = mux.borrow_mut();
        let flush = |mux: &mut Mux| {
            let (out, sent) = mux.pending();
            let bytes = out.to_vec();
            *sent = bytes.len();
            mux.flushed();
            bytes
        };
        flush(&mut mux);
        mux.send_head(started.key, &ResponseHead { status: 200, ..ResponseHead::default() }, false).unwrap();
        let cx = Context::from_waker(Waker::noop());
        assert!(mux.poll_send(started.key, &cx, b"body").is_ready());
        let mut sent = if flushed { flush(&mut mux) } else { Vec::new() };
        mux.finish(started.key, None).unwrap();
        sent.extend(flush(&mut mux));
        let mut expected = b"\0\0\x01\x01\x04\0\0\0\x01\x88\0\0\x04\0\x01\0\0\0\x01body".to_vec();
        if flushed {
            expected[14] = 0;
            expected.extend_from_slice(b"\0\0\0\0\x01\0\0\0\x01");
        }
        assert_eq!(sent, expected);
    }
}
