//! The names of interfaces.

/// The kernel's limit on the length of interface names, in bytes (`IFNAMSIZ` includes a NUL).
const MAX_NAME: usize = 15;

/// Returns whether the kernel accepts it as an interface's name; except for `%`, which it would
/// replace by a number.
pub fn is_name(name: &str) -> bool {
    let forbidden =
        |b: u8| b.is_ascii_whitespace() || b == 0x0b || matches!(b, b'/' | b':' | b'%' | 0);
    (1..=MAX_NAME).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.bytes().any(forbidden)
}
