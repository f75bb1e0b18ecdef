//! The options of a configuration's mounts.

use oci_spec::runtime::Mount;

/// Returns a mount's options, one by one.
pub(super) fn options_of(mount: &Mount) -> Vec<String> {
    let options = mount.options().iter().flatten();
    let options = options.flat_map(|option| option.split(','));
    options.map(str::to_owned).collect()
}
