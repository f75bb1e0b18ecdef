//! The peer: QEMU's microvm machine, which boots the same kernel only to print a line. What a
//! container costs above that is nacre's cost.

use std::error::Error;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const QEMU: &str = "/usr/bin/qemu-system-x86_64";

/// Returns how to start the peer on KVM, or what is missing for it.
pub(crate) fn qemu_microvm(kernel: &Path, work: &Path) -> Peer {
    let machine = ["microvm,acpi=off,pit=off,pic=off,rtc=off", "kvm", "host"];
    qemu(kernel, work, machine, "reboot=k")
}

/// Returns how to start the emulated peer, or what is missing for it.
pub(crate) fn qemu_emulated(kernel: &Path, work: &Path) -> Peer {
    let machine = ["microvm,acpi=off,pit=on,pic=on,rtc=on", "tcg", "max"];
    qemu(kernel, work, machine, "reboot=t")
}

/// How to start a peer, or what is missing for it.
type Peer = Result<Result<Box<dyn FnMut() -> Command>, String>, Box<dyn Error>>;

fn qemu(
    kernel: &Path,
    work: &Path,
    [machine, accelerator, processor]: [&'static str; 3],
    reboot: &'static str,
) -> Peer {
    for needed in [QEMU, "/usr/bin/cpio"] {
        if !Path::new(needed).exists() {
            return Ok(Err(format!("no {needed}")));
        }
    }
    let initramfs = initramfs(work)?;
    let kernel = kernel.to_path_buf();
    Ok(Ok(Box::new(move || {
        let mut command = Command::new(QEMU);
        command
            .args(["-M", machine, "-accel", accelerator, "-cpu", processor])
            .args(["-m", "128M", "-smp", "1"])
            .args(["-nodefaults", "-no-user-config", "-display", "none"])
            .args(["-no-reboot", "-serial", "stdio", "-kernel"])
            .arg(&kernel)
            .arg("-initrd")
            .arg(&initramfs)
            .args(["-append", &format!("console=ttyS0 quiet panic=-1 {reboot}")]);
        command
    })))
}

fn initramfs(work: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let root = work.join("peer");
    fs::create_dir_all(root.join("bin"))?;
    fs::create_dir_all(root.join("dev"))?;
    fs::copy("/bin/busybox", root.join("bin/busybox"))?;
    let _ = symlink("busybox", root.join("bin/sh"));
    fs::write(
        root.join("init"),
        "#!/bin/sh\n/bin/busybox mount -t devtmpfs dev /dev\n\
         echo one line >/dev/ttyS0\n/bin/busybox reboot -f\n",
    )?;
    let image = work.join("peer.cpio");
    let status = Command::new("sh")
        .args(["-c", "chmod +x init && find . | cpio --quiet -o -H newc"])
        .current_dir(&root)
        .stdin(Stdio::null())
        .stdout(File::create(&image)?)
        .status()?;
    if !status.success() {
        return Err(format!("making the peer's initramfs ended with {status}").into());
    }
    Ok(image)
}
