//! The sandbox process from its first step to its last.

use std::os::unix::net::UnixStream;

use nacre_agent::container::cgroups::Joined;
use nacre_vmm::phase;

use crate::{
    isolation::{
        signals::Signals,
        vm::{
            error::{SessionError, VmError},
            plan::Plan,
        },
    },
    log,
    state::Folder,
};

use super::{
    boot::{boot, join_cgroup},
    converse::{ContainerPlan, Conversation},
    devices::{self, Devices, Wanted},
    end::end,
    holdings::{Company, Holdings},
    oom,
    prepare::prepare,
};

/// Runs the container and returns the process's exit status. Errors have been reported by then.
pub(in crate::isolation::vm) fn main(
    plan: Plan,
    mut folder: Folder,
    signals: &Signals,
    caller: UnixStream,
) -> u8 {
    let mut holdings = Holdings::default();
    let outcome = run(plan, &mut folder, &mut holdings, signals, &caller);
    let company = match &outcome {
        Err(error) if is_abandoned(error) => Company::Alone,
        _ => Company::Caller,
    };
    let stand_in = holdings.stand_in.take();
    let cleaned = holdings.clean_up(folder, company, &outcome);
    for error in [outcome.as_ref().err(), cleaned.as_ref().err()] {
        // If the caller is gone, so is whoever would read the error.
        if let Some(error) = error.filter(|error| !is_abandoned(error)) {
            log::report(error);
        }
    }
    let status = outcome.unwrap_or_else(|error| error.exit_status());
    // Whoever sees the stand-in end finds the container's folder unlocked.
    if let Some(stand_in) = stand_in {
        stand_in.end(status);
    }
    status
}

/// Whether the command that waits for the container is gone.
fn is_abandoned(error: &VmError) -> bool {
    matches!(
        error,
        VmError::Session {
            error: SessionError::CallerGone,
            ..
        }
    )
}

/// Carries out the plan; returns the workload's exit status.
fn run(
    mut plan: Plan,
    folder: &mut Folder,
    holdings: &mut Holdings,
    signals: &Signals,
    caller: &UnixStream,
) -> Result<u8, VmError> {
    let Holdings {
        home,
        has_left_host,
        stand_in,
        cgroup,
        network,
        carried,
        used,
    } = holdings;
    let site = prepare(&plan, folder, caller, home, stand_in)?;
    phase::ended("sandbox");
    let folder = site.notes.folder();
    let place = plan.machine.cgroup.take();
    let wanted = Wanted {
        id: &plan.id,
        spec: &plan.spec,
        upper: plan.upper.as_ref(),
        rates: plan.rates,
        console_socket: plan.console_socket,
    };
    let Devices {
        mut monitor,
        logs,
        control,
        stdio,
        disk,
        file_server,
        file_alarm,
        file_policy,
        network,
    } = devices::make(plan.machine, wanted, &site, network)?;
    phase::ended("processes");
    let limits = &plan.limits.at_boot;
    let files = file_server.pid();
    join_cgroup(&monitor, place, &site, files, limits, cgroup)?;
    phase::ended("machine");
    boot(&mut monitor, logs, carried)?;
    phase::ended("confinement");
    file_server.await_start()?;
    let conversation = Conversation {
        machine: &monitor,
        site,
        cgroup: cgroup.as_ref(),
        network,
        disk,
        file_server: &file_server,
        file_alarm,
        signals,
        caller,
        container: ContainerPlan {
            id: &plan.id,
            options: &plan.options,
            spec: plan.spec,
            shared: &plan.shared,
            upper: plan.upper.as_ref(),
            limits: &plan.limits,
            boot_timeout: plan.boot_timeout,
            watchdog: plan.watchdog,
        },
        has_left_host,
    };
    let outcome = conversation.hold(control, stdio, file_policy);
    let cgroup = cgroup.as_ref().map(Joined::cgroup);
    let exited = end(monitor, outcome, cgroup)?;
    *used = exited.used;
    if exited.oom_killed {
        oom::tell(plan.id.as_str(), folder, cgroup);
    }
    Ok(exited.status)
}
