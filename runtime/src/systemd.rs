//! Talks to systemd's manager of units over D-Bus
//! ([its interface](https://www.freedesktop.org/software/systemd/man/latest/org.freedesktop.systemd1.html)),
//! for `--systemd-cgroup`.

use std::{
    env,
    error::Error,
    fmt, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use dbus::{
    Message,
    arg::{AppendAll, RefArg, Variant},
    channel::{BusType, Channel},
};
use nacre_agent::container::{
    cgroups::systemd::{Property, Units, Value},
    in_user_namespace,
};
use nix::unistd::geteuid;

use crate::log;

/// How long an answer to a call, and the start of a unit, may take.
const BOUND: Duration = Duration::from_secs(25);

/// How long a unit with the same name, whose container has ended, may take to disappear.
const GONE_BOUND: Duration = Duration::from_secs(5);

const SERVICE: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const OBJECT: &str = "/org/freedesktop/systemd1";

/// Why systemd can't be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SystemdError {
    #[error(
        "--systemd-cgroup: systemd doesn't run on this host (there is no {}); leave the option out \
         to have cgroups made without it",
        BOOTED
    )]
    NotRunning,
    #[error(
        "--systemd-cgroup: can't find the user's bus: neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR is set"
    )]
    NoUserBus,
    #[error("--systemd-cgroup: can't connect to {bus}")]
    Connect {
        bus: String,
        #[source]
        source: dbus::Error,
    },
    #[error("{method}")]
    Call {
        method: &'static str,
        #[source]
        source: dbus::Error,
    },
    #[error("its job ended with \"{0}\"")]
    Job(String),
    #[error("its job isn't done after {} s", BOUND.as_secs())]
    TimedOut,
    #[error("the bus broke off")]
    BrokeOff,
    #[error("{method} gave an unexpected answer")]
    Answer { method: &'static str },
}

/// The path that sd_booted(3) checks.
const BOOTED: &str = "/run/systemd/system";

/// Returns whether this process is the root that systemd belongs to: it isn't in a user namespace
/// whose root is an ordinary user.
fn is_roots() -> bool {
    geteuid().is_root() && fs::metadata(BOOTED).is_ok_and(|found| found.uid() == 0)
}

/// A connection to systemd: for root, the system's; for another user, that user's.
pub(crate) struct Systemd {
    bus: Channel,
    is_users: bool,
}

impl fmt::Debug for Systemd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_users = self.is_users;
        f.debug_struct("Systemd")
            .field("is_users", &is_users)
            .finish_non_exhaustive()
    }
}

impl Systemd {
    /// Checks that there is one to connect to.
    pub(crate) fn check_runs() -> Result<(), SystemdError> {
        if Path::new(BOOTED).is_dir() {
            Ok(())
        } else {
            Err(SystemdError::NotRunning)
        }
    }

    /// Connects.
    pub(crate) fn connect() -> Result<Self, SystemdError> {
        Self::check_runs()?;
        let is_users = !is_roots();
        let (name, bus) = if is_users {
            let address = user_bus().ok_or(SystemdError::NoUserBus)?;
            let way = if in_user_namespace() {
                through_bridge(&address)
            } else {
                address.clone()
            };
            let bus = Channel::open_private(&way).and_then(|mut bus| {
                bus.register()?;
                Ok(bus)
            });
            (address, bus)
        } else {
            (
                "the system's bus".to_owned(),
                Channel::get_private(BusType::System),
            )
        };
        let bus = bus.map_err(|source| SystemdError::Connect { bus: name, source })?;
        Ok(Systemd { bus, is_users })
    }

    fn call(
        &self,
        interface: &str,
        method: &'static str,
        arguments: impl AppendAll,
    ) -> Result<Message, dbus::Error> {
        self.call_at(OBJECT, interface, method, arguments)
    }

    fn call_at(
        &self,
        object: &str,
        interface: &str,
        method: &'static str,
        arguments: impl AppendAll,
    ) -> Result<Message, dbus::Error> {
        let call = Message::call_with_args(SERVICE, object, interface, method, arguments);
        self.bus.send_with_reply_and_block(call, BOUND)
    }

    /// Asks systemd to report finished jobs.
    fn subscribe(&self) -> Result<(), SystemdError> {
        let failed = |method| move |source| SystemdError::Call { method, source };
        let rule = format!("type='signal',interface='{MANAGER}',member='JobRemoved'");
        let (bus, object) = ("org.freedesktop.DBus", "/org/freedesktop/DBus");
        let call = Message::call_with_args(bus, object, bus, "AddMatch", (rule,));
        let told = self.bus.send_with_reply_and_block(call, BOUND);
        told.map_err(failed("AddMatch"))?;
        match self.call(MANAGER, "Subscribe", ()) {
            Err(e) if e.name() == Some(SUBSCRIBED) => Ok(()),
            other => other.map(drop).map_err(failed("Subscribe")),
        }
    }

    /// Starts a unit; returns the job that does it.
    fn start(&self, name: &str, properties: &[Property]) -> Result<Message, SystemdError> {
        let method = "StartTransientUnit";
        let until = Instant::now() + GONE_BOUND;
        loop {
            // No other units with it.
            let auxiliary: Vec<(String, Vec<Marshalled>)> = Vec::new();
            let arguments = (name, "fail", marshalled(properties), auxiliary);
            match self.call(MANAGER, method, arguments) {
                // The unit of a container that was just deleted, or that failed.
                Err(e) if e.name() == Some(UNIT_EXISTS) && Instant::now() < until => {
                    let _ = self.call(MANAGER, "ResetFailedUnit", (name,));
                    sleep(Duration::from_millis(20));
                }
                other => return other.map_err(|source| SystemdError::Call { method, source }),
            }
        }
    }

    /// Waits until a job is done.
    fn wait_for(&self, job: &dbus::Path<'_>) -> Result<(), SystemdError> {
        let until = Instant::now() + BOUND;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(SystemdError::TimedOut);
            }
            let message = self.bus.blocking_pop_message(left);
            let Some(message) = message.map_err(|_| SystemdError::BrokeOff)? else {
                continue;
            };
            if message.member().as_deref() != Some("JobRemoved") {
                continue;
            }
            let removed: Result<(u32, dbus::Path<'_>, &str, &str), _> = message.read4();
            match removed {
                Ok((_, removed, _, "done")) if removed == *job => return Ok(()),
                Ok((_, removed, _, result)) if removed == *job => {
                    return Err(SystemdError::Job(result.to_owned()));
                }
                _ => {}
            }
        }
    }

    /// Stops a unit, without waiting for its end.
    fn stop(&self, name: &str) -> Result<(), SystemdError> {
        let method = "StopUnit";
        match self.call(MANAGER, method, (name, "replace")) {
            Err(e) if e.name() == Some(NO_SUCH_UNIT) => Ok(()),
            other => other
                .map(drop)
                .map_err(|source| SystemdError::Call { method, source }),
        }
    }

    /// Returns where a scope's cgroup is.
    fn control_group(&self, name: &str) -> Result<PathBuf, SystemdError> {
        let failed = |method| move |source| SystemdError::Call { method, source };
        let method = "GetUnit";
        let unit = self
            .call(MANAGER, method, (name,))
            .map_err(failed(method))?;
        let unit: dbus::Path<'_> = unit.read1().map_err(|_| SystemdError::Answer { method })?;
        let method = "Get";
        let arguments = ("org.freedesktop.systemd1.Scope", "ControlGroup");
        let properties = "org.freedesktop.DBus.Properties";
        let path = self.call_at(&unit, properties, method, arguments);
        let path = path.map_err(failed(method))?;
        match path.read1::<Variant<&str>>() {
            Ok(Variant(path)) if path.starts_with('/') => Ok(PathBuf::from(path)),
            _ => Err(SystemdError::Answer { method }),
        }
    }
}

/// Has systemd forget the scope that a removed cgroup was, if it was one: a cgroup that is removed
/// right after the end of its last process may be gone before the kernel has reported that.
pub(crate) fn forget(unit: Option<&str>) {
    let Some(name) = unit else { return };
    let stopped = Systemd::connect().and_then(|systemd| systemd.stop(name));
    if let Err(error) = stopped {
        tracing::warn!("{name} stays with systemd: {}", log::chain(&error));
    }
}

const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
const SUBSCRIBED: &str = "org.freedesktop.systemd1.AlreadySubscribed";
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";

impl Units for Systemd {
    fn start_scope(
        &self,
        name: &str,
        properties: &[Property],
    ) -> Result<PathBuf, Box<dyn Error + Send + Sync>> {
        self.subscribe()?;
        let job = self.start(name, properties)?;
        let method = "StartTransientUnit";
        let job: dbus::Path<'_> = job.read1().map_err(|_| SystemdError::Answer { method })?;
        self.wait_for(&job)?;
        Ok(self.control_group(name)?)
    }

    fn set_properties(
        &self,
        name: &str,
        properties: &[Property],
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let method = "SetUnitProperties";
        // Until the unit ends, not permanently for units with that name.
        let arguments = (name, true, marshalled(properties));
        self.call(MANAGER, method, arguments)
            .map_err(|source| SystemdError::Call { method, source })?;
        Ok(())
    }

    fn is_users(&self) -> bool {
        self.is_users
    }
}

/// A property, as `(sv)`.
type Marshalled = (String, Variant<Box<dyn RefArg>>);

fn marshalled(properties: &[Property]) -> Vec<Marshalled> {
    let value = |value: &Value| -> Box<dyn RefArg> {
        match value {
            Value::Bool(value) => Box::new(*value),
            Value::Number(value) => Box::new(*value),
            Value::Text(value) => Box::new(value.clone()),
            Value::Bits(value) => Box::new(value.clone()),
            Value::Pids(value) => Box::new(value.clone()),
        }
    };
    let properties = properties.iter();
    properties
        .map(|(name, property)| (name.clone(), Variant(value(property))))
        .collect()
}

/// Returns the address of the bus of this user's session. D-Bus's own way of finding it may start
/// one.
fn user_bus() -> Option<String> {
    if let Ok(address) = env::var("DBUS_SESSION_BUS_ADDRESS") {
        return Some(address);
    }
    let directory = env::var("XDG_RUNTIME_DIR").ok()?;
    Some(format!("unix:path={directory}/bus"))
}

/// Returns the address of a bus that is reached through systemd's own program. libdbus says which
/// user it is, and a bus that sees a different user, as it does from outside a user namespace,
/// refuses that; the program leaves it to the bus.
fn through_bridge(address: &str) -> String {
    let path: String = format!("--bus-path={address}")
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
            _ => format!("%{byte:02x}"),
        })
        .collect();
    format!("unixexec:path=systemd-stdio-bridge,argv1={path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_an_address_is_escaped() {
        assert_eq!(
            through_bridge("unix:path=/run/a-b"),
            "unixexec:path=systemd-stdio-bridge,\
             argv1=%2d%2dbus%2dpath%3dunix%3apath%3d%2frun%2fa%2db"
        );
    }

    #[test]
    fn a_host_without_systemd_is_told_so() {
        let there = Path::new(BOOTED).is_dir();
        match Systemd::connect() {
            Err(SystemdError::NotRunning) => assert!(!there),
            _ => assert!(there),
        }
    }

    /// Follows a process in a scope from its start to its end, on a host that systemd manages.
    #[test]
    #[ignore = "needs root, and systemd"]
    fn a_scope_is_made_changed_and_gone() {
        if !Path::new(BOOTED).is_dir() || !geteuid().is_root() {
            panic!("skipped: it needs root, and systemd");
        }
        let systemd = Systemd::connect().unwrap();
        let mut process = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let name = format!("nacre-test-{}.scope", std::process::id());
        let properties = [
            ("PIDs".to_owned(), Value::Pids(vec![process.id()])),
            ("Delegate".to_owned(), Value::Bool(true)),
            ("TasksMax".to_owned(), Value::Number(5)),
            ("Description".to_owned(), Value::Text("a test".to_owned())),
        ];
        let group = systemd.start_scope(&name, &properties).unwrap();
        let directory = Path::new("/sys/fs/cgroup").join(group.strip_prefix("/").unwrap());
        let read = |file: &str| std::fs::read_to_string(directory.join(file)).unwrap();
        assert_eq!(read("cgroup.procs").trim(), process.id().to_string());
        assert_eq!(read("pids.max").trim(), "5");
        let changed = [("TasksMax".to_owned(), Value::Number(6))];
        systemd.set_properties(&name, &changed).unwrap();
        assert_eq!(read("pids.max").trim(), "6");
        // There can't be another one with that name.
        let error = systemd.start_scope(&name, &properties).unwrap_err();
        assert!(error.to_string().contains("StartTransientUnit"), "{error}");
        process.kill().unwrap();
        process.wait().unwrap();
        for _ in 0..100 {
            if !directory.exists() {
                return;
            }
            sleep(Duration::from_millis(50));
        }
        panic!("the scope is still there");
    }
}
