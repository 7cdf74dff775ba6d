//! A virtual machine that boots the appliance, as a real one would: firmware, systemd-boot, kernel, systemd, edged.
//!
//! Flows in: the disk, and volumes beside it. Flows out: what its console says, what its VIP answers, what a shell there says.
//! The processor is emulated, since tests cannot count on anything else: a boot takes a minute. Ends with the
//! [`Appliance`], like a machine whose power is cut.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tempfile::TempDir;

use crate::edged::{Said, run, until_within};
use crate::images::must;

/// Emulated, beside five builds.
const BOOT: Duration = Duration::from_secs(400);
const FIRMWARE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";
/// What the machine's network, which QEMU plays, has at its addresses: here.
const SSH: u16 = 2222;
const HTTP: u16 = 8080;
/// The VIP that [`Appliance::answer`] asks. The network is 10.0.2.0/24.
pub const VIP: &str = "10.0.2.50";

pub struct Appliance {
    machine: Mutex<Child>,
    /// How it is switched on.
    command: Mutex<Command>,
    directory: TempDir,
    key: PathBuf,
}

impl Appliance {
    /// Switches it on; `directory` holds what the machine has of its own. Its ports are in the network namespace of the caller.
    pub fn start(disk: &Path, volumes: &[(&str, &Path)], key: &Path) -> Self {
        let directory = tempfile::Builder::new().prefix("edge-appliance-").tempdir().unwrap();
        let variables = directory.path().join("variables");
        std::fs::copy(VARIABLES, &variables).unwrap();
        let console = directory.path().join("console");
        let forwards =
            format!("user,id=net,hostfwd=tcp:127.0.0.1:{SSH}-10.0.2.15:22,hostfwd=tcp:127.0.0.1:{HTTP}-{VIP}:80");
        let mut machine = Command::new("qemu-system-x86_64");
        machine
            .args(["-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1024"])
            .args(["-display", "none", "-monitor", "none", "-no-reboot", "-serial", "chardev:console"])
            .args(["-chardev", &format!("file,id=console,append=on,path={}", console.display())])
            .args(["-drive", &format!("if=pflash,format=raw,unit=0,readonly=on,file={FIRMWARE}")])
            .args(["-drive", &format!("if=pflash,format=raw,unit=1,file={}", variables.display())])
            .args(["-drive", &format!("if=none,id=disk,format=raw,cache=unsafe,file={}", disk.display())])
            .args(["-device", "virtio-blk-pci,drive=disk,bootindex=0"])
            .args(["-netdev", &forwards, "-device", "virtio-net-pci,netdev=net,romfile="])
            .args(["-device", "virtio-rng-pci"]);
        for (name, volume) in volumes {
            machine.args(["-drive", &format!("if=none,id={name},format=raw,readonly=on,file={}", volume.display())]);
            machine.args(["-device", &format!("virtio-blk-pci,drive={name},serial={name}")]);
        }
        let log = File::create(directory.path().join("qemu.log")).unwrap();
        machine.stdin(Stdio::null()).stderr(log.try_clone().unwrap()).stdout(log);
        let running = machine.spawn().unwrap();
        Self { machine: Mutex::new(running), command: Mutex::new(machine), directory, key: key.to_owned() }
    }

    /// A machine that starts anew is switched off and on: emulated ones hang now and then when they are merely reset.
    fn tend(&self) {
        let mut machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        if machine.try_wait().unwrap().is_some() {
            *machine = self.command.lock().unwrap_or_else(PoisonError::into_inner).spawn().unwrap();
        }
    }

    pub fn console(&self) -> String {
        let bytes = std::fs::read(self.directory.path().join("console")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until its console has said something so many times.
    pub fn wait_said(&self, words: &str, times: usize) {
        until_within(BOOT, &format!("{times} times on the console: {words}"), || {
            self.tend();
            (self.console().matches(words).count() >= times).then_some(())
        });
    }

    /// What its VIP answers, if it does.
    pub fn answer(&self) -> String {
        let url = format!("http://127.0.0.1:{HTTP}/");
        run(Path::new("curl"), &["--silent", "--max-time", "20", "--header", "Host: shop.edge.test", &url]).stdout
    }

    pub fn wait_answer(&self, wanted: &str) {
        until_within(BOOT, "the VIP answers", || {
            self.tend();
            (self.answer() == wanted).then_some(())
        });
    }

    /// A line for the shell of its root.
    pub fn run(&self, line: &str) -> Said {
        let known = self.directory.path().join("known_hosts");
        let (known, key) = (format!("UserKnownHostsFile={}", known.display()), self.key.to_str().unwrap());
        let options =
            ["StrictHostKeyChecking=accept-new", "ConnectTimeout=60", "LogLevel=ERROR", "BatchMode=yes", &known];
        let mut words = vec!["-i", key, "-p", "2222"];
        for option in options {
            words.extend(["-o", option]);
        }
        run(Path::new("ssh"), &[&words[..], &["root@127.0.0.1", line]].concat())
    }

    /// The same until it succeeds: a machine that is starting refuses for a while.
    pub fn must(&self, line: &str) -> String {
        until_within(BOOT, line, || {
            let said = self.run(line);
            (said.code == Some(0)).then_some(said.stdout)
        })
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.directory.path().join("qemu.log")).unwrap_or_default();
            eprintln!("the console said:\n{}\nQEMU said:\n{log}", self.console());
        }
        let mut machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = machine.kill();
        let _ = machine.wait();
    }
}

/// A volume with the label that an appliance looks for, from a folder.
pub fn seed(folder: &Path, volume: &Path) {
    let (folder, volume) = (folder.to_str().unwrap(), volume.to_str().unwrap());
    must("truncate", &["--size", "4M", volume]);
    must("mkfs.vfat", &["-n", "EDGE-SEED", volume]);
    must("sh", &["-c", &format!("cd {folder} && mcopy -sQ -i {volume} * ::")]);
}
