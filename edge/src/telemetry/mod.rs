//! What is measured, sent to a collector by OTLP: an exporter on a thread of its own.
//!
//! In: settings, and batches of spans from the workers. Out: requests to the collector, what became of the spans, and why
//! they do not arrive. Traffic never waits for it: a collector that is dead, slow or mad costs spans and nothing else.
//!
//! Standards: OTLP 1.9 over HTTP with binary protobuf and over gRPC.

mod exporter;
mod files;
mod grpc;
mod http;
mod otlp;

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use edge_config::settings::TracingSettings;

use self::exporter::Exporter;
use crate::proxy::metrics::{MetricType, Text};
use crate::proxy::trace::sampling::Sampler;
use crate::proxy::trace::{Tally, Tracer};

/// At the end, what is left of spans gets this long.
const FAREWELL: Duration = Duration::from_secs(3);

/// Why spans do not arrive; `None`: they do, or there were none yet.
type Trouble = Arc<Mutex<Option<String>>>;

/// The tracing that the settings ask for.
pub struct Telemetry {
    tally: Arc<Tally>,
    running: Option<Running>,
    /// Why nothing runs that should.
    error: Option<String>,
}

struct Running {
    tracer: Arc<Tracer>,
    trouble: Trouble,
    thread: JoinHandle<()>,
}

impl Telemetry {
    pub fn start(settings: Option<&TracingSettings>) -> Self {
        let mut telemetry = Self { tally: Arc::default(), running: None, error: None };
        telemetry.set(settings);
        telemetry
    }

    /// Goes on by other settings. The exporter of before sends what it has once no generation has its tracer any more.
    pub fn set(&mut self, settings: Option<&TracingSettings>) {
        self.running = None;
        self.error = None;
        let Some(settings) = settings else { return };
        match self.run(settings) {
            Ok(running) => self.running = Some(running),
            Err(error) => {
                tracing::error!(%error, "nothing is traced: the exporter cannot be started");
                self.error = Some(format!("tracing: the exporter cannot be started: {error}"));
            }
        }
    }

    fn run(&self, settings: &TracingSettings) -> io::Result<Running> {
        let sampler = Sampler::new(settings.sample_ratio, settings.parent);
        let (tracer, spans) = Tracer::new(sampler, settings.queue, Arc::clone(&self.tally));
        let trouble = Trouble::default();
        let exporter = Exporter::new(settings.collector.clone(), Arc::clone(&self.tally), Arc::clone(&trouble));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new()
            .name("telemetry".to_owned())
            .spawn(move || runtime.block_on(exporter.run(spans)))?;
        Ok(Running { tracer: Arc::new(tracer), trouble, thread })
    }

    /// What workers trace with.
    pub fn tracer(&self) -> Option<Arc<Tracer>> {
        self.running.as_ref().map(|running| Arc::clone(&running.tracer))
    }

    /// One line, where spans do not arrive.
    pub fn trouble(&self) -> Option<String> {
        let of_running = self
            .running
            .as_ref()
            .and_then(|running| running.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone());
        of_running.or_else(|| self.error.clone())
    }

    /// Writes the families, for whoever outlives this value's owner.
    pub fn metrics(&self) -> impl Fn(&mut Text) + Send + Sync + 'static {
        let tally = Arc::clone(&self.tally);
        move |text| write(&tally, text)
    }

    /// Sends what is left, and waits for it a little. The workers must be gone.
    pub fn stop(self) {
        let Some(Running { tracer, thread, .. }) = self.running else { return };
        drop(tracer);
        let end = Instant::now() + FAREWELL;
        while !thread.is_finished() {
            if Instant::now() >= end {
                tracing::warn!("spans are lost: the collector did not take the last ones in time");
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        if thread.join().is_err() {
            tracing::error!("the thread of the exporter panicked");
        }
    }
}

fn write(tally: &Tally, text: &mut Text) {
    let outcomes = [("exported", &tally.exported), ("dropped", &tally.dropped), ("failed", &tally.failed)];
    let values = outcomes.map(|(outcome, count)| (outcome, count.load(Ordering::Relaxed)));
    // Who traces nothing has nothing to look at.
    if values.iter().all(|(_, value)| *value == 0) {
        return;
    }
    let family = "Spans of sampled requests: taken by the collector, lost for want of room, or not taken.";
    text.family("edge_trace_spans", MetricType::Counter, family);
    for (outcome, value) in values {
        text.sample(&[("outcome", &outcome)], value);
    }
}
