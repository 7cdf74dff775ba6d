//! `[tracing]`: which requests are traced, and where the spans go.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Serialize, Serializer};

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TracingSettings {
    pub collector: Collector,
    /// Of the traces that begin here.
    pub sample_ratio: Ratio,
    pub parent: ParentRule,
    /// Bytes of spans that may wait for the collector.
    pub queue: usize,
}

/// Who takes what is measured, by OTLP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Collector {
    /// A URL. Over HTTP, one without a path gets that of its signal.
    pub endpoint: String,
    pub protocol: OtlpProtocol,
    /// `service.name` of the resource.
    pub service_name: String,
    /// What else is said of the resource.
    pub attributes: BTreeMap<String, String>,
    /// Lines `Name: value` that every request has; they may be credentials.
    pub headers_file: Option<PathBuf>,
    /// The only CA certificates that are believed; `None`: the system's.
    pub ca_file: Option<PathBuf>,
    /// Of one request with its answer.
    pub timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum OtlpProtocol {
    #[serde(rename = "http/protobuf")]
    HttpProtobuf,
    #[serde(rename = "grpc")]
    Grpc,
}

/// What the context that a request comes with decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ParentRule {
    /// Whether it is sampled.
    Follow,
    /// Which trace it belongs to, and nothing else.
    Ratio,
    /// Nothing: anybody could have written it.
    Ignore,
}

/// A part of one, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ratio(u32);

impl Ratio {
    pub const WHOLE: u32 = 1_000_000;
    pub const ONE: Self = Self(Self::WHOLE);

    /// `None`: not within 0 to 1. What is smaller than a millionth, and not nothing, is a millionth.
    pub fn new(part: f64) -> Option<Self> {
        if !(0.0..=1.0).contains(&part) {
            return None;
        }
        let millionths = (part * f64::from(Self::WHOLE)).round() as u32;
        Some(Self(if part > 0.0 { millionths.max(1) } else { 0 }))
    }

    pub fn millionths(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", f64::from(self.0) / f64::from(Self::WHOLE))
    }
}

impl Serialize for Ratio {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(f64::from(self.0) / f64::from(Self::WHOLE))
    }
}

impl Collector {
    /// The same with its files taken relative to `base`.
    pub(super) fn anchor(&mut self, base: &Path) {
        for file in [&mut self.headers_file, &mut self.ca_file].into_iter().flatten() {
            *file = base.join(&*file);
        }
    }
}
