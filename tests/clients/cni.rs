//! CNI's plugins.

use std::path::PathBuf;

use nacre_tests::Case;

/// Where the plugins are, by the packages of distributions and by hand.
const PLACES: [&str; 3] = ["/usr/lib/cni", "/usr/libexec/cni", "/opt/cni/bin"];

/// Where the plugins are. Ends the test where they aren't.
pub(crate) fn plugins(case: &Case) -> PathBuf {
    let mut places = PLACES.into_iter().map(PathBuf::from);
    places
        .find(|place| place.join("bridge").exists())
        .unwrap_or_else(|| case.ignore("no CNI plugins (containernetworking-plugins) here"))
}
