//! The status of a Pod: a pure function of what its containers do.
//!
//! Flows in: a [`View`]. Flows out: a `PodStatus` to apply, equal to the last one where nothing changed.

use k8s_openapi::api::core::v1::{
    Container as ContainerSpec, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use crate::objects::Place;

/// What a container does now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    Waiting {
        reason: &'static str,
        message: String,
    },
    Running {
        since: Timestamp,
        ready: bool,
    },
    /// For good.
    Ended(Ended),
}

/// How a run was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    pub code: i32,
    pub signal: Option<i32>,
    pub started: Timestamp,
    pub finished: Timestamp,
}

/// One container and its history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Course {
    pub stage: Stage,
    pub restarts: i32,
    pub last: Option<Ended>,
    /// Unlike for every run.
    pub id: Option<String>,
}

/// All that the status of a Pod depends on.
pub struct View<'a> {
    pub pod: &'a Pod,
    /// Without one, there is no network yet.
    pub place: Option<&'a Place>,
    pub node_ip: std::net::IpAddr,
    pub began: Timestamp,
    /// In the order of the spec's containers.
    pub courses: &'a [Course],
}

impl Course {
    pub fn new() -> Self {
        let stage = Stage::Waiting { reason: "ContainerCreating", message: String::new() };
        Self { stage, restarts: 0, last: None, id: None }
    }

    fn ready(&self) -> bool {
        matches!(self.stage, Stage::Running { ready: true, .. })
    }

    fn begun(&self) -> bool {
        self.last.is_some() || !matches!(self.stage, Stage::Waiting { .. })
    }
}

/// Whether a container that ended so is to be started again.
pub fn restarts(policy: Option<&str>, code: i32) -> bool {
    match policy {
        Some("Never") => false,
        Some("OnFailure") => code != 0,
        _ => true,
    }
}

/// The status, with transition times of `before` where a condition did not change.
pub fn status(view: &View<'_>, before: Option<&PodStatus>, now: Timestamp) -> PodStatus {
    let specs: &[ContainerSpec] = view.pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let pairs = || specs.iter().zip(view.courses);
    let unready: Vec<&str> =
        pairs().filter(|(_, course)| !course.ready()).map(|(spec, _)| spec.name.as_str()).collect();
    let phase = phase(view.courses);
    let (reason, message) = match (phase, unready.is_empty()) {
        (_, true) => (None, None),
        ("Succeeded", false) => (Some("PodCompleted"), None),
        ("Failed", false) => (Some("PodFailed"), None),
        _ => (Some("ContainersNotReady"), Some(format!("containers with unready status: [{}]", unready.join(" ")))),
    };
    let networked = view.place.is_some();
    let states = [
        ("PodScheduled", true, None, None),
        ("PodReadyToStartContainers", networked, None, None),
        ("Initialized", true, None, None),
        ("ContainersReady", unready.is_empty(), reason, message.clone()),
        ("Ready", unready.is_empty(), reason, message),
    ];
    let generation = view.pod.metadata.generation;
    let conditions = states.into_iter().map(|(type_, holds, reason, message)| {
        let status = if holds { "True" } else { "False" };
        let old = before.and_then(|before| before.conditions.as_ref());
        let old = old.and_then(|old| old.iter().find(|old| old.type_ == type_ && old.status == status));
        PodCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.map(str::to_owned),
            message,
            last_transition_time: old
                .and_then(|old| old.last_transition_time.clone())
                .or_else(|| Some(whole_second(now))),
            observed_generation: generation,
            ..PodCondition::default()
        }
    });
    let ips = view.place.map(|place| place.pod_ips.as_slice()).unwrap_or_default();
    PodStatus {
        phase: Some(phase.to_owned()),
        conditions: Some(conditions.collect()),
        host_ip: Some(view.node_ip.to_string()),
        host_ips: Some(vec![HostIP { ip: view.node_ip.to_string() }]),
        pod_ip: ips.first().map(ToString::to_string),
        pod_ips: networked.then(|| ips.iter().map(|ip| PodIP { ip: ip.to_string() }).collect()),
        start_time: Some(whole_second(view.began)),
        container_statuses: Some(pairs().map(|(spec, course)| container_status(spec, course)).collect()),
        observed_generation: generation,
        ..PodStatus::default()
    }
}

/// Kubernetes keeps these times in whole seconds; sending more would make equal statuses differ.
fn whole_second(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

fn phase(courses: &[Course]) -> &'static str {
    let ended = |course: &Course| match &course.stage {
        Stage::Ended(ended) => Some(ended.code),
        _ => None,
    };
    let codes: Option<Vec<i32>> = courses.iter().map(ended).collect();
    match codes {
        Some(codes) if !codes.is_empty() => {
            if codes.iter().all(|code| *code == 0) {
                "Succeeded"
            } else {
                "Failed"
            }
        }
        _ if courses.iter().all(Course::begun) => "Running",
        _ => "Pending",
    }
}

fn container_status(spec: &ContainerSpec, course: &Course) -> ContainerStatus {
    let image = spec.image.clone().unwrap_or_default();
    let terminated = |ended: &Ended| ContainerStateTerminated {
        exit_code: ended.code,
        signal: ended.signal,
        reason: Some(if ended.code == 0 { "Completed" } else { "Error" }.to_owned()),
        started_at: Some(whole_second(ended.started)),
        finished_at: Some(whole_second(ended.finished)),
        ..ContainerStateTerminated::default()
    };
    let state = match &course.stage {
        Stage::Waiting { reason, message } => ContainerState {
            waiting: Some(ContainerStateWaiting {
                reason: Some((*reason).to_owned()),
                message: (!message.is_empty()).then(|| message.clone()),
            }),
            ..ContainerState::default()
        },
        Stage::Running { since, .. } => ContainerState {
            running: Some(ContainerStateRunning { started_at: Some(whole_second(*since)) }),
            ..ContainerState::default()
        },
        Stage::Ended(ended) => ContainerState { terminated: Some(terminated(ended)), ..ContainerState::default() },
    };
    ContainerStatus {
        name: spec.name.clone(),
        image_id: format!("podlet://{image}"),
        image,
        container_id: course.id.as_ref().map(|id| format!("podlet://{id}")),
        ready: course.ready(),
        started: Some(matches!(course.stage, Stage::Running { .. })),
        restart_count: course.restarts,
        state: Some(state),
        last_state: course
            .last
            .as_ref()
            .map(|ended| ContainerState { terminated: Some(terminated(ended)), ..ContainerState::default() }),
        ..ContainerStatus::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::objects::tests::{place, pod};

    fn at(second: i64) -> Timestamp {
        Timestamp::new(1_800_000_000 + second, 123_456_789).unwrap()
    }

    fn ended(code: i32) -> Ended {
        Ended { code, signal: (code > 128).then(|| code - 128), started: at(1), finished: at(2) }
    }

    fn course(stage: Stage, restarts: i32, last: Option<Ended>) -> Course {
        Course { stage, restarts, last, id: Some("c1".to_owned()) }
    }

    fn waiting(reason: &'static str) -> Stage {
        Stage::Waiting { reason, message: "Secret later: not found".to_owned() }
    }

    fn written(courses: &[Course], before: Option<&PodStatus>, now: i64) -> PodStatus {
        let names = ["a", "b"].iter().take(courses.len());
        let containers: Vec<Value> = names.map(|name| json!({"name": name, "image": "r/echo-basic:v1"})).collect();
        let pod = pod(json!({"containers": containers}));
        let place = place();
        let view = View { pod: &pod, place: Some(&place), node_ip: place.node_ip, began: at(0), courses };
        status(&view, before, at(now))
    }

    fn condition<'a>(status: &'a PodStatus, type_: &str) -> &'a PodCondition {
        status.conditions.iter().flatten().find(|condition| condition.type_ == type_).unwrap()
    }

    #[test]
    fn phases_and_readiness() {
        let running = |ready| Stage::Running { since: at(1), ready };
        let cases = [
            (vec![course(waiting("ContainerCreating"), 0, None)], "Pending", "False"),
            (vec![course(running(false), 0, None)], "Running", "False"),
            (vec![course(running(true), 0, None)], "Running", "True"),
            (vec![course(running(true), 0, None), course(waiting("ContainerCreating"), 0, None)], "Pending", "False"),
            (vec![course(running(true), 0, None), course(running(false), 0, None)], "Running", "False"),
            (vec![course(waiting("CrashLoopBackOff"), 1, Some(ended(1)))], "Running", "False"),
            (vec![course(Stage::Ended(ended(0)), 0, None)], "Succeeded", "False"),
            (vec![course(Stage::Ended(ended(0)), 0, None), course(Stage::Ended(ended(3)), 0, None)], "Failed", "False"),
        ];
        for (courses, phase, ready) in cases {
            let status = written(&courses, None, 5);
            assert_eq!(status.phase.as_deref(), Some(phase), "{courses:?}");
            assert_eq!(condition(&status, "Ready").status, ready, "{courses:?}");
        }
    }

    #[test]
    fn a_dead_container_shows_how() {
        let status = written(&[course(waiting("CrashLoopBackOff"), 2, Some(ended(137)))], None, 5);
        let container = serde_json::to_value(&status.container_statuses.as_ref().unwrap()[0]).unwrap();
        assert_eq!(container["restartCount"], 2);
        assert_eq!(container["ready"], false);
        assert_eq!(container["state"]["waiting"]["reason"], "CrashLoopBackOff");
        assert_eq!(container["lastState"]["terminated"]["exitCode"], 137);
        assert_eq!(container["lastState"]["terminated"]["signal"], 9);
        let ready = condition(&status, "Ready");
        assert_eq!(ready.message.as_deref(), Some("containers with unready status: [a]"));
    }

    #[test]
    fn whole_status() {
        let status = written(&[course(Stage::Running { since: at(1), ready: true }, 0, None)], None, 5);
        let status = serde_json::to_value(status).unwrap();
        assert_eq!(status["podIP"], "10.244.1.5");
        assert_eq!(status["podIPs"], json!([{"ip": "10.244.1.5"}, {"ip": "fd00::5"}]));
        assert_eq!(status["hostIP"], "10.90.0.2");
        assert_eq!(status["startTime"], "2027-01-15T08:00:00Z");
        let types: Vec<&Value> = status["conditions"].as_array().unwrap().iter().map(|one| &one["type"]).collect();
        assert_eq!(types, ["PodScheduled", "PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"]);
    }

    #[test]
    fn transition_times_stay() {
        let unready = [course(Stage::Running { since: at(1), ready: false }, 0, None)];
        let ready = [course(Stage::Running { since: at(1), ready: true }, 0, None)];
        let first = written(&unready, None, 5);
        assert_eq!(written(&unready, Some(&first), 9), first);
        let second = written(&ready, Some(&first), 9);
        assert_eq!(condition(&second, "Ready").last_transition_time, Some(whole_second(at(9))));
        assert_eq!(condition(&second, "Initialized").last_transition_time, Some(whole_second(at(5))));
    }

    #[test]
    fn restart_policies() {
        let cases = [
            (None, 0, true),
            (Some("Always"), 0, true),
            (Some("OnFailure"), 0, false),
            (Some("OnFailure"), 1, true),
            (Some("Never"), 1, false),
        ];
        for (policy, code, expected) in cases {
            assert_eq!(restarts(policy, code), expected, "{policy:?} {code}");
        }
    }
}
