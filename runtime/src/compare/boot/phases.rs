//! The phases of a start, in each mode, with what happens in them.

/// What happens in a phase.
#[derive(Debug, Clone, Copy)]
pub(super) struct About {
    /// As it is told by whoever ends it.
    pub(super) name: &'static str,
    pub(super) sentence: &'static str,
}

/// All of them, in the order in which they come.
pub(super) const PHASES: &[About] = &[
    About {
        name: "configuration",
        sentence: "nacre create is executed, and anew from a read-only mount; it reads and checks config.json and its own file",
    },
    About {
        name: "plan",
        sentence: "everything about the VM is decided before anything is made",
    },
    About {
        name: "sandbox",
        sentence: "the sandbox process is forked, and assembles what the VM shares in namespaces of its own",
    },
    About {
        name: "processes",
        sentence: "the file server and the monitor are forked, with the devices",
    },
    About {
        name: "memory",
        sentence: "the monitor gets the guest's memory, and loads the kernel and the agent into it",
    },
    About {
        name: "machine",
        sentence: "the machine is made; meanwhile the processes join the container's cgroup",
    },
    About {
        name: "confinement",
        sentence: "the monitor gives up its rights, and starts the machine",
    },
    About {
        name: "kernel: memory",
        sentence: "the guest's kernel finds its memory, and sets up page tables and allocators",
    },
    About {
        name: "kernel: processors",
        sentence: "interrupts, clocks, processors and their flaws",
    },
    About {
        name: "kernel: drivers",
        sentence: "virtio devices, networks, file systems; the initramfs is unpacked",
    },
    About {
        name: "hello",
        sentence: "the agent, the guest's first process, mounts what it needs, connects and says hello",
    },
    About {
        name: "network",
        sentence: "the container's network is carried into the guest",
    },
    About {
        name: "container",
        sentence: "the engine makes the container: namespaces, cgroup, mounts, root, rights, filter",
    },
    About {
        name: "shown",
        sentence: "the stand-in shows the container on the host, and what is read-only is sealed",
    },
    About {
        name: "left",
        sentence: "the sandbox process leaves the host's file systems, and gives up rights and system calls",
    },
    About {
        name: "created",
        sentence: "nacre create returns",
    },
    About {
        name: "asked",
        sentence: "nacre start is executed",
    },
    About {
        name: "exec",
        sentence: "the workload's program is executed",
    },
    About {
        name: "first byte",
        sentence: "the workload begins, and its first byte of output arrives",
    },
];

/// Returns what happens in the phase of that name.
pub(super) fn about(name: &str) -> Option<&'static About> {
    PHASES.iter().find(|about| about.name == name)
}
