//! Test containers: busybox, and the configuration that `runc spec` writes.
//!
//! The behaviour tests have a builder of their own (`tests/src/bundle.rs`), whose bundles are files
//! for another program. These are containers that this very process creates, with streams and
//! options of its choice, in a root with nothing in it that the engine didn't make. What both have
//! in common is the configuration, which is one file.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nacre_agent::container::{Container, CreateError, Options, Stdio, config, describe};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::wait::{WaitStatus, waitpid};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The busybox applets that the tests use.
const APPLETS: [&str; 34] = [
    "sh", "cat", "ls", "id", "env", "echo", "grep", "hostname", "readlink", "stat", "touch",
    "mkdir", "sleep", "true", "false", "mount", "umount", "dd", "ip", "ps", "kill", "sort", "wc",
    "test", "mkfifo", "chroot", "cut", "sed", "head", "seq", "uname", "ionice", "stty", "tty",
];

/// How long a container may run in a test, on a busy machine.
const LIMIT_MS: u16 = 60_000;

/// A bundle in a directory of its own, with a `config` for the test to change.
pub(crate) struct Bundle {
    directory: TempDir,
    pub(crate) config: Value,
}

/// How a container ended and what it printed.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Bundle {
    /// Makes a bundle whose workload is a shell that runs `script`.
    pub(crate) fn new(script: &str) -> Self {
        let spec = include_str!("../../src/container/config/testdata/runc-spec.json");
        let mut bundle = Bundle {
            directory: tempfile::tempdir().unwrap(),
            config: serde_json::from_str(spec).unwrap(),
        };
        let bin = bundle.at("bin");
        fs::create_dir_all(&bin).unwrap();
        fs::copy("/bin/busybox", bin.join("busybox")).unwrap();
        for applet in APPLETS {
            symlink("busybox", bin.join(applet)).unwrap();
        }
        bundle.config["root"] = json!({"path": "rootfs", "readonly": false});
        // It has a limit of 1024, which this process's own may be below.
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let limit = &mut bundle.config["process"]["rlimits"][0];
        for kind in ["soft", "hard"] {
            limit[kind] = json!(hard.min(limit[kind].as_u64().unwrap()));
        }
        bundle.config["process"]["args"] = json!(["sh", "-c", script]);
        bundle
    }

    /// Returns the bundle's directory.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Returns a path in its root.
    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.directory.path().join("rootfs").join(path)
    }

    /// Returns a path beside its root.
    pub(crate) fn beside(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    /// Writes its `config.json`, for another process.
    pub(crate) fn write(&self) -> &Path {
        fs::write(self.beside("config.json"), self.config.to_string()).unwrap();
        self.directory.path()
    }

    /// Adds to `mounts`.
    pub(crate) fn mount(&mut self, mount: Value) {
        self.config["mounts"].as_array_mut().unwrap().push(mount);
    }

    /// Adds to `linux.namespaces`.
    pub(crate) fn namespace(&mut self, namespace: Value) {
        let namespaces = self.config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|n| n["type"] != namespace["type"]);
        namespaces.push(namespace);
    }

    /// Gives the workload all capabilities that this process itself has.
    pub(crate) fn all_capabilities(&mut self) {
        let held = caps::read(None, caps::CapSet::Permitted).unwrap();
        let names: Vec<String> = held.iter().map(ToString::to_string).collect();
        for set in ["bounding", "effective", "permitted"] {
            self.config["process"]["capabilities"][set] = json!(names);
        }
    }

    pub(crate) fn create(&self, stdio: Stdio) -> Result<Container, CreateError> {
        self.create_with(stdio, |_| {})
    }

    /// Creates the container with options that `set` sets.
    pub(crate) fn create_with(
        &self,
        stdio: Stdio,
        set: impl FnOnce(&mut Options<'_>),
    ) -> Result<Container, CreateError> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let id = format!("nacre-test-{}-{number}", std::process::id());
        let mut spec = config::load(self.config.to_string().as_bytes())?;
        config::resolve_paths(&mut spec, self.directory.path());
        let mut options = Options::new(&id, self.directory.path(), stdio);
        set(&mut options);
        // SAFETY: the test's other threads change nothing that the child needs; if it hangs, the test fails.
        unsafe { Container::create(&spec, options) }
    }

    /// Tries to create the container, without streams, and returns the error.
    pub(crate) fn error(&self) -> (String, u8) {
        match self.create(null_stdio()) {
            Err(error) => (describe(&error), error.exit_status()),
            Ok(container) => {
                container.destroy().unwrap();
                panic!("it was created");
            }
        }
    }

    /// Starts a container.
    pub(crate) fn start(&self) -> Running<'_> {
        let mut running = self.created();
        running.container().start().unwrap();
        running
    }

    /// Creates a container.
    pub(crate) fn created(&self) -> Running<'_> {
        let created = self.try_created();
        created.unwrap_or_else(|e| panic!("{}", describe(&e)))
    }

    fn try_created(&self) -> Result<Running<'_>, CreateError> {
        let stdout = tempfile::tempfile().unwrap();
        let stderr = tempfile::tempfile().unwrap();
        let stdio = Stdio {
            stdin: File::open("/dev/null").unwrap().into(),
            stdout: stdout.try_clone().unwrap().into(),
            stderr: stderr.try_clone().unwrap().into(),
        };
        Ok(Running {
            _bundle: self,
            container: Some(self.create(stdio)?),
            stdout,
            stderr,
        })
    }

    /// Runs a container to its end.
    pub(crate) fn run(&self) -> Outcome {
        self.start().wait()
    }

    /// Runs a container to its end, unless it can't be created.
    pub(crate) fn try_run(&self) -> Result<Outcome, String> {
        let mut running = self.try_created().map_err(|e| describe(&e))?;
        running.container().start().unwrap();
        Ok(running.wait())
    }

    /// Runs a container to its end, which must be a success, and returns what it prints.
    pub(crate) fn output(&self) -> String {
        let outcome = self.run();
        assert_eq!(outcome.status, 0, "{outcome:?}");
        outcome.stdout
    }
}

pub(crate) fn null_stdio() -> Stdio {
    let null = || {
        OwnedFd::from(
            File::options()
                .read(true)
                .write(true)
                .open("/dev/null")
                .unwrap(),
        )
    };
    Stdio {
        stdin: null(),
        stdout: null(),
        stderr: null(),
    }
}

/// A container that is destroyed at the end of the test, however that ends.
pub(crate) struct Running<'a> {
    /// Held because its files are removed with it.
    _bundle: &'a Bundle,
    container: Option<Container>,
    stdout: File,
    stderr: File,
}

impl Running<'_> {
    pub(crate) fn container(&mut self) -> &mut Container {
        self.container.as_mut().unwrap()
    }

    /// Returns what it has written so far.
    pub(crate) fn stdout(&mut self) -> String {
        read(&self.stdout)
    }

    /// Waits until it has written `text`.
    pub(crate) fn wait_for(&mut self, text: &str) {
        for _ in 0..LIMIT_MS / 5 {
            if self.stdout().contains(text) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        panic!("it never wrote {text:?}, but {:?}", self.stdout());
    }

    /// Waits for its end, and destroys it.
    pub(crate) fn wait(mut self) -> Outcome {
        let status = wait_for_exit(self.container());
        self.container.take().unwrap().destroy().unwrap();
        Outcome {
            status,
            stdout: read(&self.stdout),
            stderr: read(&self.stderr),
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(container) = self.container.take() {
            let _ = container.destroy();
        }
    }
}

/// Waits for the first process to end, and returns its status: 128+n for a signal.
pub(crate) fn wait_for_exit(container: &Container) -> i32 {
    let mut fds = [PollFd::new(container.pidfd().unwrap(), PollFlags::POLLIN)];
    let ready = poll(&mut fds, PollTimeout::from(LIMIT_MS)).unwrap();
    assert_eq!(ready, 1, "the workload doesn't end");
    match waitpid(container.pid(), None).unwrap() {
        WaitStatus::Exited(_, code) => code,
        WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
        other => panic!("{other:?}"),
    }
}

/// Returns all that was written to a file without moving its offset, which is the workload's too.
pub(crate) fn read(file: &File) -> String {
    let mut text = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut text, 0).unwrap();
    String::from_utf8(text).unwrap()
}

/// Returns the line of `mountinfo` for what is mounted at `path`: the mount's options, the file
/// system's type, and the file system's options.
pub(crate) fn mounted(mountinfo: &str, path: &str) -> (String, String, String) {
    let line = mountinfo
        .lines()
        .rev()
        .find(|line| line.split(' ').nth(4) == Some(path))
        .unwrap_or_else(|| panic!("nothing is mounted at {path}:\n{mountinfo}"));
    let (mount, file_system) = line.split_once(" - ").unwrap();
    let options = mount.split(' ').nth(5).unwrap().to_owned();
    let mut fields = file_system.split(' ');
    let kind = fields.next().unwrap().to_owned();
    (options, kind, fields.nth(1).unwrap().to_owned())
}

/// Returns whether a comma-separated list has an item.
pub(crate) fn has(list: &str, item: &str) -> bool {
    list.split(',').any(|i| i == item)
}

/// Returns a path as a JSON string.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Lets a descriptor stay open across an exec, as a careless caller does.
pub(crate) fn leak(fd: impl AsFd) {
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
}
