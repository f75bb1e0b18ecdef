//! Traffic control: all that comes in by one interface goes out by another, before the host's own
//! network stack sees it ([tc-mirred(8)](https://man7.org/linux/man-pages/man8/tc-mirred.8.html)).
//!
//! The filter is of kind `u32` and compares nothing, since not every kernel has `matchall`.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use nacre_agent::network::{
    Netlink,
    message::{Message, attribute, u32_at},
};

/// From `linux/pkt_sched.h`, `pkt_cls.h` and `tc_act/tc_mirred.h`.
const TC_H_INGRESS: u32 = 0xffff_fff1;
const INGRESS_HANDLE: u32 = 0xffff_0000;
const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;
const TC_U32_TERMINAL: u8 = 1;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;
const TC_ACT_STOLEN: u32 = 4;
const TCA_EGRESS_REDIR: u32 = 1;

/// The size of `struct tcmsg`, and the offset of the interface in `struct tc_mirred`.
const TC: usize = 20;
const MIRRED_INTERFACE: usize = 24;

/// The preference of our filters, by which they are recognized.
const PREFERENCE: u32 = 0x6e61;

/// Which redirections to remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// Those to this interface.
    To(u32),
    /// Those to interfaces that are gone.
    ToNothing,
}

/// Redirects everything that comes in by `from` out by `to`.
///
/// Fails with EEXIST if somebody else has already put something in its way.
pub(super) fn add(netlink: &mut Netlink, from: u32, to: u32) -> io::Result<()> {
    // A redirection that a killed sandbox process left behind leads nowhere.
    remove(netlink, from, Which::ToNothing)?;
    let new = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let mut qdisc = tc(from, INGRESS_HANDLE, TC_H_INGRESS, 0);
    qdisc.put_name(libc::TCA_KIND, "ingress");
    netlink.tell(libc::RTM_NEWQDISC, new, qdisc.bytes())?;

    let every_protocol = u32::from((libc::ETH_P_ALL as u16).to_be());
    let info = PREFERENCE << 16 | every_protocol;
    let mut filter = tc(from, 0, INGRESS_HANDLE, info);
    filter.put_name(libc::TCA_KIND, "u32");
    filter.nest(libc::TCA_OPTIONS, |options| {
        options.put(TCA_U32_SEL, &selector_of_all());
        options.nest(TCA_U32_ACT, |actions| {
            actions.nest(1, |action| {
                action.put_name(TCA_ACT_KIND, "mirred");
                action.nest(TCA_ACT_OPTIONS, |mirred| {
                    // struct tc_mirred: index, capab, action, refcnt, bindcnt, eaction, ifindex
                    let words = [0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, to];
                    mirred.put(TCA_MIRRED_PARMS, &words.map(u32::to_ne_bytes).concat());
                });
            });
        });
    });
    let added = netlink.tell(libc::RTM_NEWTFILTER, new, filter.bytes());
    if added.is_err() {
        let _ = remove_qdisc(netlink, from);
    }
    added
}

/// Removes our redirection from an interface, if it has one of these.
pub(super) fn remove(netlink: &mut Netlink, from: u32, which: Which) -> io::Result<()> {
    match target(netlink, from)? {
        Some(0) if which == Which::ToNothing => remove_qdisc(netlink, from),
        Some(to) if which == Which::To(to) => remove_qdisc(netlink, from),
        _ => Ok(()),
    }
}

fn remove_qdisc(netlink: &mut Netlink, from: u32) -> io::Result<()> {
    let qdisc = tc(from, INGRESS_HANDLE, TC_H_INGRESS, 0);
    netlink.tell(libc::RTM_DELQDISC, 0, qdisc.bytes())
}

/// Returns where our redirection of what comes in by an interface leads: 0 if that is gone; `None`
/// if there is no redirection of ours.
fn target(netlink: &mut Netlink, from: u32) -> io::Result<Option<u32>> {
    let request = tc(from, 0, INGRESS_HANDLE, 0);
    let filters = match netlink.list(libc::RTM_GETTFILTER, request.bytes()) {
        // There is no ingress qdisc, or the interface is gone.
        Err(e)
            if matches!(
                e.raw_os_error(),
                Some(libc::EINVAL | libc::ENOENT | libc::ENODEV)
            ) =>
        {
            Vec::new()
        }
        other => other?,
    };
    Ok(filters.iter().find_map(|filter| target_of(filter)))
}

fn target_of(filter: &[u8]) -> Option<u32> {
    let preference = u32_at(filter, 16)? >> 16;
    let options = attribute(filter.get(TC..)?, libc::TCA_OPTIONS)?;
    let action = attribute(attribute(options, TCA_U32_ACT)?, 1)?;
    let mirred = attribute(attribute(action, TCA_ACT_OPTIONS)?, TCA_MIRRED_PARMS)?;
    let to = u32_at(mirred, MIRRED_INTERFACE)?;
    (preference == PREFERENCE).then_some(to)
}

/// Makes a message with a `struct tcmsg`.
fn tc(interface: u32, handle: u32, parent: u32, info: u32) -> Message {
    let words = [0, interface, handle, parent, info];
    Message::new(&words.map(u32::to_ne_bytes).concat())
}

/// Returns a `struct tc_u32_sel` with one key, whose mask matches everything.
fn selector_of_all() -> Vec<u8> {
    let mut selector = vec![0; 16 + 16];
    selector[0] = TC_U32_TERMINAL;
    // The number of keys.
    selector[2] = 1;
    selector
}

/// Removes what a killed sandbox process has left in a network namespace, if that still exists.
pub(super) fn remove_what_is_left(path: &Path) -> io::Result<()> {
    // What can't be opened is gone, or was never entered.
    let Ok(namespace) = open_namespace(path) else {
        return Ok(());
    };
    let mut netlink = match Netlink::open_in(namespace) {
        Ok(netlink) => netlink,
        // It is no namespace, or one that we may not enter: nothing of ours is there.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EPERM)) => return Ok(()),
        Err(e) => return Err(e),
    };
    for link in netlink.links()? {
        remove(&mut netlink, link.index, Which::ToNothing)?;
    }
    Ok(())
}

/// Opens a namespace's file. A path to a FIFO mustn't make us wait.
pub(super) fn open_namespace(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
}
