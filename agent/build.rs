//! Links the agent without position independence.
//!
//! A static position-independent program carries its own relocations, some 9000 here, and
//! applies them when it starts: that is 220 KiB more to unpack, and pages to copy, in every
//! boot of a guest.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    for argument in ["-no-pie", "-static"] {
        println!("cargo:rustc-link-arg-bin=nacre-agent={argument}");
    }
}
