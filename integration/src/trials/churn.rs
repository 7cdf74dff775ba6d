//! Other changes beside what is measured: endpoints that move, routes that change, routes that come and go, at a rate.
//!
//! Flows in: a field. Flows out: how many changes a second there really were. Every route that was there keeps answering.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;

use super::Field;
use super::field::{host, name, origin};
use super::objects::{self, Objects, Plural};
use crate::lab::block_on;

pub struct Churn {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    began: Instant,
    thread: Option<JoinHandle<()>>,
}

struct Work {
    kubeconfig: std::path::PathBuf,
    spaces: u32,
    routes: u32,
}

impl Churn {
    /// On a thread of its own, in the namespace of the calling one.
    pub fn start(field: &Field, rate: f64) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let work = Work { kubeconfig: field.cluster.control.admin(), spaces: field.namespaces(), routes: field.routes };
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&done));
        let thread = std::thread::spawn(move || {
            block_on(async {
                let objects = Objects::connect(&work.kubeconfig).await;
                let mut pace = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
                let mut step = 0;
                while !stopped.load(Ordering::Relaxed) {
                    pace.tick().await;
                    change(&objects, &work, step).await;
                    step += 1;
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            });
        });
        Self { stop, done, began: Instant::now(), thread: Some(thread) }
    }

    /// Changes per second, as they were.
    pub fn stop(mut self) -> f64 {
        self.stop.store(true, Ordering::Relaxed);
        let rate = self.done.load(Ordering::Relaxed) as f64 / self.began.elapsed().as_secs_f64();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        rate
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Half of the changes are endpoints, the others routes.
async fn change(objects: &Objects, work: &Work, step: u32) {
    let place = |step: u32| {
        // Prime to the number of routes, so that every one has its turn.
        let index = step.wrapping_mul(7919) % work.routes;
        (index, format!("many-{}", index % work.spaces.max(1)))
    };
    let extra = |step: u32| format!("extra-{step}");
    let (index, space) = place(step);
    match step % 4 {
        0 | 2 => {
            let patch = objects::endpoint_patch(origin(step as usize / 2));
            objects.merge(Plural::EndpointSlices, &space, &name(index), &patch).await;
        }
        1 => {
            let header = json!({"set": [{"name": "x-step", "value": step.to_string()}]});
            let filter = json!([{"type": "ResponseHeaderModifier", "responseHeaderModifier": header}]);
            let rules = json!([{"backendRefs": [{"name": name(index), "port": 80}], "filters": filter}]);
            objects.merge(Plural::HttpRoutes, &space, &name(index), &json!({"spec": {"rules": rules}})).await;
        }
        // One that came goes four steps later.
        _ if step % 8 == 3 => {
            let route = objects::route(&space, &extra(step), &format!("extra-{}", host(index)), &name(index));
            objects.create(Plural::HttpRoutes, &route).await;
        }
        _ => {
            let (_, space) = place(step - 4);
            objects.delete(Plural::HttpRoutes, &space, &extra(step - 4)).await;
        }
    }
}
