//! One container of a Pod: prepared, started, watched, started again.
//!
//! Flows in: its spec and the order to stop. Flows out: its [`Course`] in the Pod's [`Board`], its lines in a journal.
//! Probes, resources, security contexts and lifecycle hooks of the spec have no effect here.

use std::cell::RefCell;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::environment::{environment, image_name, invocation};
use crate::fetch;
use crate::launch::{Mount, Plan};
use crate::listening;
use crate::logs::{Journal, Title};
use crate::objects::{Fault, Objects, Place};
use crate::pod::World;
use crate::sandbox::Sandbox;
use crate::status::{Course, Ended, Stage, restarts};
use crate::volumes::{self, Content};

/// Between attempts to prepare a container.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// Between runs; a run longer than [`STEADY`] starts over.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
const STEADY: Duration = Duration::from_secs(60);
/// Between looks at what a container listens to.
const LOOK: Duration = Duration::from_millis(50);
/// A container that declares no port and listens to none is ready when it has lived so long.
const QUIET: Duration = Duration::from_secs(5);
/// To take in a plan; a loaded machine takes a while to start `ip`.
const TAKE_IN: Duration = Duration::from_secs(60);
/// After SIGKILL a process is gone at once, but for the kernel's own waits.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// The courses of a Pod's containers, and a bell for whoever reports them.
#[derive(Default)]
pub struct Board {
    pub courses: RefCell<Vec<Course>>,
    pub changed: Notify,
}

impl Board {
    pub fn update(&self, index: usize, change: impl FnOnce(&mut Course)) {
        if let Some(course) = self.courses.borrow_mut().get_mut(index) {
            change(course);
        }
        self.changed.notify_one();
    }
}

/// A container in its Pod.
pub struct Seat<'a> {
    pub world: &'a World,
    pub pod: &'a Pod,
    pub index: usize,
    pub container: &'a Container,
    pub place: &'a Place,
    pub sandbox: &'a Sandbox,
    /// The Pod's own, for volumes.
    pub directory: PathBuf,
    pub board: Rc<Board>,
}

enum End {
    Exit(ExitStatus),
    Stop,
}

impl Seat<'_> {
    /// Until the order to stop, or the container's end for good.
    pub async fn run(&self, mut stop: watch::Receiver<bool>) {
        let policy = self.pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
        let title = self.title();
        let mut journal: Option<Arc<Journal>> = None;
        let mut pause = BACK_OFF.0;
        loop {
            let plan = tokio::select! {
                plan = self.prepared() => plan,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            let current = self.world.shelf.open(&title);
            journal = Some(Arc::clone(&current));
            let started = Instant::now();
            let end = self.one_run(plan, &current, &mut stop).await;
            current.close();
            match end {
                Ok(End::Stop) => break,
                Ok(End::Exit(status)) => {
                    let ended = self.ended(status);
                    if !restarts(policy, ended.code) {
                        self.board.update(self.index, |course| course.stage = Stage::Ended(ended));
                        let _ = stop.wait_for(|stop| *stop).await;
                        break;
                    }
                    if started.elapsed() > STEADY {
                        pause = BACK_OFF.0;
                    }
                    let message = format!("back-off {} ms after exit code {}", pause.as_millis(), ended.code);
                    self.wait_for("CrashLoopBackOff", message, Some(ended));
                }
                Err(problem) => self.wait_for("CreateContainerError", problem, None),
            }
            tokio::select! {
                () = sleep(pause) => {}
                _ = stop.wait_for(|stop| *stop) => break,
            }
            pause = (pause * 2).min(BACK_OFF.1);
        }
        if let Some(journal) = journal {
            self.world.shelf.forget(&title, &journal);
        }
    }

    fn title(&self) -> Title {
        let meta = &self.pod.metadata;
        (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default(), self.container.name.clone())
    }

    fn wait_for(&self, reason: &'static str, message: String, ended: Option<Ended>) {
        self.board.update(self.index, |course| {
            course.stage = Stage::Waiting { reason, message };
            if ended.is_some() {
                course.restarts += 1;
                course.last = ended;
            }
        });
    }

    /// Tries until everything the container refers to exists.
    async fn prepared(&self) -> Plan {
        let mut pause = RETRY.0;
        loop {
            match self.prepare().await {
                Ok(plan) => return plan,
                Err(problem) => {
                    let shown = Stage::Waiting { reason: "CreateContainerConfigError", message: problem };
                    let known = self.board.courses.borrow().get(self.index).is_some_and(|course| course.stage == shown);
                    if !known {
                        self.board.update(self.index, |course| course.stage = shown);
                    }
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
    }

    async fn prepare(&self) -> Result<Plan, String> {
        let objects = fetch::objects(&self.world.client, self.pod).await?;
        let mounts = self.mounts(&objects)?;
        let variables =
            environment(self.pod, self.container, self.place, &objects).map_err(|fault| fault.to_string())?;
        let image = self.container.image.as_deref().unwrap_or_default();
        let program = self.world.options.images.get(image_name(image));
        let program = program.ok_or_else(|| format!("image {image}: no --image {}=PATH given", image_name(image)))?;
        let invocation = invocation(self.container, program, &variables)?;
        let name = self.pod.metadata.name.clone().unwrap_or_default();
        let usual = [("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("HOME", "/root")];
        let usual = usual.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let host = ("HOSTNAME".to_owned(), name.clone());
        let addresses = self.place.pod_ips.iter().map(|ip| format!("{ip} {name}\n"));
        let hosts = format!("127.0.0.1 localhost\n::1 localhost\n{}", addresses.collect::<String>());
        Ok(Plan {
            parent: std::process::id(),
            root: self.world.root(),
            program: invocation.program,
            name: invocation.name,
            arguments: invocation.arguments,
            // Later ones win.
            environment: usual.into_iter().chain([host]).chain(variables).collect(),
            directory: self.container.working_dir.as_deref().unwrap_or("/").into(),
            mounts,
            host_name: name,
            hosts,
        })
    }

    /// Writes the volumes this container mounts.
    fn mounts(&self, objects: &Objects) -> Result<Vec<Mount>, String> {
        let volumes = self.pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
        let mut mounts = Vec::new();
        for mount in self.container.volume_mounts.iter().flatten() {
            let absent = || Fault::NoVolume { name: mount.name.clone() }.to_string();
            let volume = volumes.iter().find(|volume| volume.name == mount.name).ok_or_else(absent)?;
            let content = volumes::content(self.pod, volume, self.place, objects).map_err(|fault| fault.to_string())?;
            let source = volumes::write(&self.directory, &volume.name, &content)
                .map_err(|error| format!("volume {}: {error}", volume.name))?;
            let source = match mount.sub_path.as_deref().filter(|path| !path.is_empty()) {
                Some(path) if path.split('/').any(|part| part == "..") || path.starts_with('/') => {
                    return Err(format!("volumeMount {}: subPath {path} leaves the volume", mount.name));
                }
                Some(path) => source.join(path),
                None => source,
            };
            let read_only = mount.read_only == Some(true) || matches!(content, Content::Files(_));
            mounts.push(Mount { source, target: mount.mount_path.clone().into(), read_only });
        }
        // An outer place before one inside it.
        mounts.sort_by_key(|mount| mount.target.components().count());
        Ok(mounts)
    }

    async fn one_run(
        &self,
        plan: Plan,
        journal: &Arc<Journal>,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<End, String> {
        let mut child = self.start(&plan).await?;
        let pid = child.id().ok_or("ended while it was started")?;
        if let (Some(output), Some(errors)) = (child.stdout.take(), child.stderr.take()) {
            tokio::task::spawn_local(Arc::clone(journal).record(output));
            tokio::task::spawn_local(Arc::clone(journal).record(errors));
        }
        let id = format!("{}-{pid}", self.container.name);
        self.board.update(self.index, |course| {
            course.stage = Stage::Running { since: Timestamp::now(), ready: false };
            course.id = Some(id);
        });
        let ready = async {
            self.listens(pid).await;
            self.board.update(self.index, |course| {
                if let Stage::Running { ready, .. } = &mut course.stage {
                    *ready = true;
                }
            });
            std::future::pending::<()>().await;
        };
        let end = tokio::select! {
            status = child.wait() => status.map(End::Exit).map_err(|error| error.to_string()),
            _ = stop.wait_for(|stop| *stop) => Ok(End::Stop),
            () = ready => Ok(End::Stop),
        };
        end_group(pid, &mut child, self.world.options.grace).await;
        end
    }

    async fn start(&self, plan: &Plan) -> Result<Child, String> {
        let own = std::env::current_exe().map_err(|error| format!("podlet's own path: {error}"))?;
        // From the runtime's only thread, which lives as long as podlet: the death signal hangs on the thread.
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.sandbox.namespace])
            .arg(own)
            .arg("launch")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("ip netns exec: {error}"))?;
        let text = serde_json::to_vec(plan).map_err(|error| format!("plan: {error}"))?;
        let mut input = child.stdin.take().ok_or("ip netns exec: no standard input")?;
        match timeout(TAKE_IN, input.write_all(&text)).await {
            Ok(Ok(())) => Ok(child),
            Ok(Err(error)) => Err(format!("ip netns exec: {error}")),
            Err(_) => Err(format!("ip netns exec: took in no plan in {} s", TAKE_IN.as_secs())),
        }
    }

    /// Until the container listens to what it declares, or has settled.
    async fn listens(&self, pid: u32) {
        let wanted = listening::declared(self.container);
        let mut before = None;
        let mut since = None;
        loop {
            sleep(LOOK).await;
            // Until it is inside, the process would show the host's sockets.
            if !self.sandbox.holds(pid) {
                continue;
            }
            let inside = *since.get_or_insert_with(Instant::now);
            let ports = listening::ports(pid);
            let settled = !ports.is_empty() && before.as_ref() == Some(&ports);
            let ready = match wanted {
                Some(port) => ports.contains(&port),
                None => settled || inside.elapsed() > QUIET,
            };
            if ready {
                return;
            }
            before = Some(ports);
        }
    }

    fn ended(&self, status: ExitStatus) -> Ended {
        use std::os::unix::process::ExitStatusExt as _;
        let started = match self.board.courses.borrow().get(self.index).map(|course| &course.stage) {
            Some(Stage::Running { since, .. }) => *since,
            _ => Timestamp::now(),
        };
        let signal = status.signal();
        let code = status.code().unwrap_or_else(|| 128 + signal.unwrap_or(0));
        Ended { code, signal, started, finished: Timestamp::now() }
    }
}

/// SIGTERM, a while, SIGKILL; nothing of the group stays.
async fn end_group(pid: u32, child: &mut Child, grace: Duration) {
    let group = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let signal = |signal| group.map(|group| kill_process_group(group, signal));
    let _ = signal(Signal::TERM);
    let _ = timeout(grace, child.wait()).await;
    let _ = signal(Signal::KILL);
    let _ = timeout(LAST_WAIT, child.wait()).await;
}
