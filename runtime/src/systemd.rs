//! systemd's manager of units, over D-Bus
//! ([its interface](https://www.freedesktop.org/software/systemd/man/latest/org.freedesktop.systemd1.html)):
//! what `--systemd-cgroup` takes.

use std::{
    env,
    error::Error,
    fmt,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use dbus::{
    Message,
    arg::{AppendAll, RefArg, Variant},
    channel::{BusType, Channel},
};
use nacre_agent::container::cgroups::systemd::{Property, Units, Value};
use nix::unistd::geteuid;

use crate::log;

/// How long a call may take to be answered, and a unit to be started.
const BOUND: Duration = Duration::from_secs(25);

/// How long a unit of the same name, whose container has ended, may take to be gone.
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

/// As sd_booted(3) looks.
const BOOTED: &str = "/run/systemd/system";

/// A connection to systemd: root's to the system's, another user's to that user's.
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
    /// Whether there is one to connect to.
    pub(crate) fn check_runs() -> Result<(), SystemdError> {
        match Path::new(BOOTED).is_dir() {
            true => Ok(()),
            false => Err(SystemdError::NotRunning),
        }
    }

    /// Connects.
    pub(crate) fn connect() -> Result<Self, SystemdError> {
        Self::check_runs()?;
        let is_users = !geteuid().is_root();
        let (name, bus) = match is_users {
            false => (
                "the system's bus".to_owned(),
                Channel::get_private(BusType::System),
            ),
            true => {
                let address = user_bus().ok_or(SystemdError::NoUserBus)?;
                let bus = Channel::open_private(&address).and_then(|mut bus| {
                    bus.register()?;
                    Ok(bus)
                });
                (address, bus)
            }
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

    /// Has systemd tell of jobs that are done.
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

    /// Returns the job that does it.
    fn start(&self, name: &str, properties: &[Property]) -> Result<Message, SystemdError> {
        let method = "StartTransientUnit";
        let until = Instant::now() + GONE_BOUND;
        loop {
            // No other units with it.
            let auxiliary: Vec<(String, Vec<Marshalled>)> = Vec::new();
            let arguments = (name, "fail", marshalled(properties), auxiliary);
            match self.call(MANAGER, method, arguments) {
                // Of a container that was deleted just now, or that failed.
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

    /// Where a scope's cgroup is.
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
/// right after the end of its last process may be gone before the kernel has told of that.
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
        // Until it ends, not for units of that name for ever.
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

/// The address of the bus of this user's session. D-Bus's own way of finding it may start one.
fn user_bus() -> Option<String> {
    if let Ok(address) = env::var("DBUS_SESSION_BUS_ADDRESS") {
        return Some(address);
    }
    let directory = env::var("XDG_RUNTIME_DIR").ok()?;
    Some(format!("unix:path={directory}/bus"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_systemd_is_told_so() {
        let there = Path::new(BOOTED).is_dir();
        match Systemd::connect() {
            Err(SystemdError::NotRunning) => assert!(!there),
            _ => assert!(there),
        }
    }

    /// A process in a scope, from its start to its end, on a host that systemd manages.
    #[test]
    fn a_scope_is_made_changed_and_gone() {
        if !Path::new(BOOTED).is_dir() || !geteuid().is_root() {
            eprintln!("skipped: it needs root, and systemd");
            return;
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
        // Of that name there can't be another.
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
