//! Builds QEMU's command line.

use std::ffi::CString;

use virtio_bindings::virtio_ids::{
    VIRTIO_ID_BLOCK, VIRTIO_ID_FS, VIRTIO_ID_NET, VIRTIO_ID_RNG, VIRTIO_ID_VSOCK,
};

use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::fs::MAX_TAG;

/// The descriptors that QEMU starts with: the standard streams (its output is the console), guest
/// memory, the boot ROM, and then the devices' sockets.
pub(super) const MEMORY: usize = 3;
pub(super) const ROM: usize = 4;
pub(super) const FIRST_SOCKET: usize = 5;

/// The files that QEMU has open in addition, generously: its own, those for a device's socket, and
/// events for each of its queues.
const OWN_FILES: u64 = 64;
const FILES_OF_A_SOCKET: u64 = 2;
const FILES_OF_A_QUEUE: u64 = 4;

/// The port with which the guest powers off (see `arch`), and QEMU's exit status then:
/// `isa-debug-exit` turns the value written into `value << 1 | 1`.
const EXIT_PORT: u16 = 0x600;
pub(super) const POWER_OFF_STATUS: i32 = 0x34 << 1 | 1;

/// QEMU's own system call filter: a running machine needs nothing in these groups.
const FILTER: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// The machine: a PC's timer, interrupt controllers and clock, without which Linux has nothing to
/// calibrate its clocks with; no firmware but ours, no option ROMs, and nothing added to the
/// kernel's command line, as QEMU doesn't see one.
const MACHINE: &str = "microvm,acpi=off,pit=on,pic=on,rtc=on,isa-serial=on,x-option-roms=off,\
                       auto-kernel-cmdline=off,memory-backend=memory";

/// What QEMU would do by itself for a network device, and the device here doesn't: commands to set
/// filters and offloads, and announcements.
const NET: &str = "ctrl_rx=off,ctrl_rx_extra=off,ctrl_vlan=off,ctrl_mac_addr=off,\
                   ctrl_guest_offloads=off,guest_announce=off";

/// Returns how many threads emulate the processors: one, even for several processors. With a thread
/// for each, QEMU 7.2 sometimes executes code that another processor has just changed (Linux
/// changes its own, for static keys, and dies of an `int3` that it has long removed: seen here, and
/// in <https://github.com/multipath-tcp/mptcp_net-next/issues/471>).
fn threads(vcpus: u8) -> &'static str {
    match vcpus {
        1 => "multi",
        _ => "single",
    }
}

fn accelerator(vcpus: u8) -> String {
    let (threads, translations) = (threads(vcpus), TRANSLATIONS >> 20);
    format!("tcg,thread={threads},tb-size={translations}")
}

/// Returns the processor: all that QEMU emulates, except AMD's virtualization unless it was
/// requested. QEMU doesn't have Intel's.
fn processor(nested: bool) -> &'static str {
    if nested {
        "max,svm=on"
    } else {
        "max,svm=off,vmx=off"
    }
}

/// How much memory QEMU keeps translated code in, in bytes. When it is full, all of it is
/// discarded, which only costs time; QEMU's own default is up to 1 GiB.
pub const TRANSLATIONS: u64 = 128 << 20;

/// A kind of device that QEMU can show a guest on our behalf.
pub(super) struct DeviceKind {
    /// Its name in messages.
    pub(super) name: &'static str,
    /// How many of the device's queues QEMU hands over to it. `None` if QEMU has such a device of
    /// its own, which replaces ours.
    pub(super) handed_over: Option<usize>,
    /// How many of them the driver must set up before the device can work, if not all.
    pub(super) needed: Option<usize>,
    /// Whether it asks the device for its configuration space.
    pub(super) gives_config: bool,
    /// How many pairs of queues it has, if it is a network device.
    net_pairs: Option<usize>,
    /// QEMU's name for it, and its properties.
    device: String,
}

impl DeviceKind {
    /// Returns the kind of a device; `None` if QEMU doesn't have such a device.
    pub(super) fn new(device: &dyn VirtioDevice) -> Option<DeviceKind> {
        let queues = device.queue_sizes().len();
        match device.device_type() {
            VIRTIO_ID_VSOCK => Some(DeviceKind {
                name: "vsock",
                // QEMU keeps the event queue.
                handed_over: Some(queues.min(2)),
                needed: None,
                net_pairs: None,
                gives_config: true,
                device: "vhost-user-vsock-device".into(),
            }),
            VIRTIO_ID_FS => {
                let size = device.queue_sizes().iter().max()?;
                Some(DeviceKind {
                    name: "fs",
                    handed_over: Some(queues),
                    needed: None,
                    net_pairs: None,
                    gives_config: false,
                    device: format!(
                        "vhost-user-fs-device,tag={},queue-size={size}",
                        tag(device)?
                    ),
                })
            }
            VIRTIO_ID_BLOCK => {
                let size = device.queue_sizes().iter().max()?;
                Some(DeviceKind {
                    name: "block",
                    handed_over: Some(queues),
                    needed: None,
                    net_pairs: None,
                    gives_config: true,
                    // Without a number there is one queue; for everything else about the disk, QEMU
                    // asks the device.
                    device: format!("vhost-user-blk,num-queues={queues},queue-size={size}"),
                })
            }
            VIRTIO_ID_NET => Some(DeviceKind {
                name: "net",
                // QEMU keeps the control queue, which exists if there are several pairs.
                handed_over: Some(queues & !1),
                needed: Some(2),
                gives_config: false,
                net_pairs: Some(queues / 2),
                device: match queues {
                    0..=2 => format!("virtio-net-device,{NET},ctrl_vq=off"),
                    _ => format!("virtio-net-device,{NET},mq=on"),
                },
            }),
            // In Debian's build, QEMU can't reach anybody else's, and its own also uses
            // getrandom(2).
            VIRTIO_ID_RNG => Some(DeviceKind {
                name: "rng",
                handed_over: None,
                needed: None,
                net_pairs: None,
                gives_config: false,
                device: "virtio-rng-device,rng=random".into(),
            }),
            _ => None,
        }
    }
}

impl DeviceKind {
    /// Returns whether QEMU connects to the device's socket itself, and doesn't accept a connected
    /// one.
    pub(super) fn connects(&self) -> bool {
        self.net_pairs.is_some()
    }
}

/// Returns a file system's tag, if it can be part of a command line.
fn tag(device: &dyn VirtioDevice) -> Option<String> {
    let mut tag = [0; MAX_TAG];
    device.read_config(0, &mut tag);
    let tag = std::str::from_utf8(&tag).ok()?.trim_end_matches('\0');
    is_plain(tag).then(|| tag.to_owned())
}

/// Returns whether a text can be a property's value: a comma would end it.
fn is_plain(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
    !text.is_empty() && text.chars().all(plain)
}

/// The arguments, while they are put together.
pub(super) struct Arguments {
    words: Vec<String>,
    /// How many files QEMU needs for these arguments.
    files: u64,
}

impl Arguments {
    /// Starts with the arguments of a machine with that name, `vcpus` vCPUs, which can run virtual
    /// machines of their own if `nested`, and `memory` bytes, without devices.
    pub(super) fn new(name: &str, vcpus: u8, nested: bool, memory: u64) -> Arguments {
        let program = "qemu-system-x86_64";
        let flags = ["-nodefaults", "-no-user-config", "-no-reboot"];
        let words = [program].into_iter().chain(flags);
        let mut arguments = Arguments {
            words: words.map(String::from).collect(),
            files: OWN_FILES,
        };
        if is_plain(name) {
            arguments.add("-name", name);
        }
        arguments
            .add("-sandbox", FILTER)
            .add("-display", "none")
            .add("-machine", MACHINE)
            .add("-accel", accelerator(vcpus))
            .add("-cpu", processor(nested))
            .add("-smp", vcpus)
            // Memory is a multiple of 4 KiB.
            .add("-m", format!("{}k", memory >> 10))
            .add(
                "-object",
                format!(
                    "memory-backend-file,id=memory,size={memory},\
                     mem-path=/proc/self/fd/{MEMORY},share=on"
                ),
            )
            .add("-bios", format!("/proc/self/fd/{ROM}"))
            .add("-chardev", "stdio,id=console,signal=off")
            .add("-serial", "chardev:console")
            .add(
                "-device",
                format!("isa-debug-exit,iobase={EXIT_PORT:#x},iosize=1"),
            )
            .add("-global", "virtio-mmio.force-legacy=false");
        arguments
    }

    /// Adds a device at place `index` of the machine, reached through socket number `socket` if it
    /// is ours.
    pub(super) fn device(&mut self, kind: &DeviceKind, index: usize, socket: usize) {
        let mut device = format!("{},bus=virtio-mmio-bus.{index}", kind.device);
        if let Some(queues) = kind.handed_over {
            self.files += FILES_OF_A_SOCKET + FILES_OF_A_QUEUE * queues as u64;
            let fd = FIRST_SOCKET + socket;
            let socket = if kind.connects() {
                format!("path=/proc/self/fd/{fd}")
            } else {
                format!("fd={fd}")
            };
            self.add("-chardev", format!("socket,id=device{index},{socket}"));
            if let Some(pairs) = kind.net_pairs {
                let net = format!("vhost-user,id=net{index},chardev=device{index},queues={pairs}");
                self.add("-netdev", net);
                device += &format!(",netdev=net{index}");
            } else {
                device += &format!(",chardev=device{index}");
            }
        } else {
            self.add("-object", "rng-builtin,id=random");
        }
        self.add("-device", device);
    }

    fn add(&mut self, flag: &str, value: impl ToString) -> &mut Arguments {
        self.words.extend([flag.into(), value.to_string()]);
        self
    }

    /// Returns how many files QEMU must be able to have open.
    pub(super) fn max_files(&self) -> u64 {
        self.files
    }

    /// Returns all arguments. None contains a NUL: they are numbers, our own words and a checked
    /// tag.
    pub(super) fn finish(self) -> Vec<CString> {
        self.words.into_iter().flat_map(CString::new).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::virtio::net::{NetSlot, queue_pairs};
    use crate::devices::virtio::{block::Block, fs::Fs, rng::Rng, vsock::Vsock};

    #[test]
    fn devices_have_places_and_sockets() {
        let root = tempfile::tempdir().unwrap();
        let fs = |tag| Fs::new(tag, root.path()).unwrap();
        let (vsock, _ports) = Vsock::new(3).unwrap();
        let disk = Block::new(tempfile::tempfile().unwrap(), "", 2).unwrap();
        let mut arguments = Arguments::new("a-name", 2, false, 64 << 20);
        arguments.device(&DeviceKind::new(&Rng::new()).unwrap(), 0, 0);
        arguments.device(&DeviceKind::new(&vsock).unwrap(), 1, 0);
        arguments.device(&DeviceKind::new(&fs("nacre")).unwrap(), 2, 1);
        arguments.device(&DeviceKind::new(&disk).unwrap(), 3, 2);
        let line: Vec<String> = arguments
            .finish()
            .into_iter()
            .map(|a| a.into_string().unwrap())
            .collect();
        let line = line.join(" ");
        for part in [
            " -name a-name ",
            " -cpu max,svm=off,vmx=off ",
            "-smp 2 -m 65536k ",
            " -device virtio-rng-device,rng=random,bus=virtio-mmio-bus.0 ",
            " -chardev socket,id=device1,fd=5 ",
            " -device vhost-user-vsock-device,bus=virtio-mmio-bus.1,chardev=device1 ",
            " -chardev socket,id=device2,fd=6 ",
            " -device vhost-user-fs-device,tag=nacre,queue-size=512,bus=virtio-mmio-bus.2,",
            " -chardev socket,id=device3,fd=7 ",
            " -device vhost-user-blk,num-queues=2,queue-size=256,bus=virtio-mmio-bus.3,",
        ] {
            assert!(line.contains(part), "{part:?} isn't in {line}");
        }
        // A comma would end the property.
        assert!(DeviceKind::new(&fs("a,b=c")).is_none());
    }

    /// A container's VM with two interfaces, two places for more, and a disk: QEMU was seen to have
    /// 28 files, 66 for each network device, and 4 for each queue of the disk and one more.
    #[test]
    fn there_are_files_for_all_devices() {
        const VCPUS: u8 = 8;
        let root = tempfile::tempdir().unwrap();
        let (vsock, _ports) = Vsock::new(3).unwrap();
        let disk = Block::new(tempfile::tempfile().unwrap(), "", VCPUS.into()).unwrap();
        let mut devices: Vec<Box<dyn VirtioDevice>> = vec![
            Box::new(vsock),
            Box::new(Fs::new("nacre", root.path()).unwrap()),
            Box::new(Rng::new()),
            Box::new(disk),
        ];
        for _ in 0..4 {
            devices.push(Box::new(NetSlot::new(queue_pairs(VCPUS))));
        }
        let mut arguments = Arguments::new("a-name", VCPUS, false, 64 << 20);
        for (index, device) in devices.iter().enumerate() {
            arguments.device(&DeviceKind::new(&**device).unwrap(), index, index);
        }
        assert!(arguments.max_files() > 28 + 4 * 66 + 4 * 8 + 1);
        // What it opens beyond that is bounded.
        assert!(arguments.max_files() < 512);
    }
}
