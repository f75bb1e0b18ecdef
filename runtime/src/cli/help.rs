//! The help that `nacre --help` ends with.

/// Isolation, hypervisor, size, and the configuration file with every key.
pub(super) const AFTER_HELP: &str = "\
Isolation: --isolation, else the annotation dev.nacre.isolation, else the name that nacre was
called by (nacre-vm, nacre-process), else the configuration file, else vm. What was asked for
is what one gets, or an error; an annotation can't ask for less than the name or the file.

Hypervisor of a VM: --hypervisor, else the annotation dev.nacre.vm.hypervisor, else the
configuration file, else kvm. qemu emulates the processor, for hosts whose KVM can't be used: it
is slow, and needs Debian's package qemu-system-x86. auto, in the configuration file only, is kvm
where that can run a guest, else qemu, with a warning.

Size of a VM (dev.nacre.vm.cpus and dev.nacre.vm.memory are annotations in config.json):
  vCPUs   dev.nacre.vm.cpus, else the container's CPU limits (quota/period rounded up, the
          number of CPUs in its cpuset, the smaller of both), else the configuration file, else 1
  memory  dev.nacre.vm.memory (bytes, or with K, M, G), else the container's memory limit and
          room for the guest's kernel, else the configuration file, else 256M; at least 64M

Virtual machines in a VM's container: dev.nacre.vm.nested (\"true\" or \"false\"), else the configuration
file, else none. Where the file says false, no annotation says true.

Root of a VM's container (annotations, else the configuration file):
  dev.nacre.vm.rootfs          shared: the host's directory; or overlay: that is only read, and
                               what the container writes ends with it
  dev.nacre.vm.rootfs.memory   of an overlay, the most guest memory for it, half by default
  dev.nacre.vm.rootfs.disk     or the size of a disk for it

Limits on what a VM does with the host's devices, a second, and as much as for a second at once
(annotations, or the configuration file; the lower one counts, and none is the default):
  dev.nacre.vm.disk.bandwidth      bytes of its disk, or with K, M, G
  dev.nacre.vm.disk.operations     requests to its disk
  dev.nacre.vm.files.bandwidth, dev.nacre.vm.files.operations
                                   the same, of the host's files that it has
  dev.nacre.vm.network.bandwidth, dev.nacre.vm.network.operations
                                   bytes and packets of its networks, in each direction

The configuration file, /etc/nacre/config.toml, with its defaults; every key may be left out,
and an unknown one is an error:
  isolation = \"vm\"
  [vm]
  hypervisor = \"kvm\"           # or \"qemu\", or \"auto\"
  qemu = \"/usr/bin/qemu-system-x86_64\"
  cpus = 1
  memory = \"256M\"
  boot-timeout = 30            # seconds for the guest's hello, its network, its container, each
  watchdog = 60                # seconds that it may say nothing from then on; 0 is for ever
  rootfs = \"shared\"            # or \"overlay\"
  disk-directory = \"/var/tmp\"  # where the images of disks are made
and, without a fixed default:
  kernel = \"FILE\"              # vmlinux beside the nacre binary, in ../lib/nacre, or in /usr/lib/nacre
  agent = \"FILE\"               # nacre-agent in the same places
  nested = false               # no VMs in containers, whatever annotations say; true: in all
  overhead-memory = \"SIZE\"     # what a VM may take besides its size: 64M, with QEMU 256M
  rootfs-memory = \"SIZE\"       # of overlays, or rootfs-disk = \"SIZE\": half of the guest's memory
  disk-limit = { bandwidth = \"SIZE\", operations = NUMBER }     # of each VM, a second; also
                               # files-limit = { … } and network-limit = { … }: none
  console-log = \"FILE\"         # where the guest kernel's log is appended: nowhere";
