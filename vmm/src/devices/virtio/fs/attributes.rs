//! Decides which names of extended attributes a guest is shown.
//!
//! The guest's kernel decides who may read or change an attribute, but shows the whole list to
//! everybody. Linux hides `trusted.*` in it from those who lack `CAP_SYS_ADMIN`. The device doesn't
//! know who asks: virtio-fs identifies users only where a file is created. So `trusted.*` is hidden
//! either from everybody or from nobody.

use std::io;

use virtiofsd::filesystem::ListxattrReply;

/// The maximum length of a list of names (`XATTR_LIST_MAX` of `linux/limits.h`).
const MAX_LIST: u32 = 64 << 10;

/// Answers a request for a list, without `trusted.*`, from a caller with room for `size` bytes, or
/// for 0 if it asks how many are needed; `list` returns the full list.
pub(super) fn untrusted(
    size: u32,
    list: impl FnOnce(u32) -> io::Result<ListxattrReply>,
) -> io::Result<ListxattrReply> {
    let ListxattrReply::Names(all) = list(MAX_LIST)? else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let names = all.split_inclusive(|byte| *byte == 0);
    let names = names.filter(|name| !name.starts_with(b"trusted."));
    let names = names.collect::<Vec<_>>().concat();
    match names.len() as u32 {
        length if size == 0 => Ok(ListxattrReply::Count(length)),
        length if length > size => Err(io::Error::from_raw_os_error(libc::ERANGE)),
        _ => Ok(ListxattrReply::Names(names)),
    }
}
