use std::collections::HashMap;

use nacre_agent::container::Identity;
use nix::unistd::Pid;

use super::*;
use crate::state::{
    record::{By, HostRecord, Progress, VmRecord},
    status::Status,
    store::Store,
};

fn record(id: &Id, by: By) -> Record {
    Record {
        oci_version: "1.2.1".into(),
        id: id.to_string(),
        bundle: "/b".into(),
        rootfs: "/b/rootfs".into(),
        created: "2026-01-01T00:00:00Z".into(),
        owner: 0,
        annotations: HashMap::new(),
        poststart: Vec::new(),
        poststop: Vec::new(),
        by,
    }
}

fn vm(progress: Progress, keep: bool) -> By {
    By::Vm(VmRecord {
        progress,
        keep,
        ..VmRecord::example()
    })
}

const STARTED: Progress = Progress::Started;

fn store() -> (tempfile::TempDir, Store, Id) {
    let root = tempfile::tempdir().unwrap();
    let store = Store::new(&root.path().join("run")).unwrap();
    (root, store, Id::new("a").unwrap())
}

/// Claims an id, and clears what is left in its folder.
fn claim(store: &Store, id: &Id) -> Result<Folder, StateError> {
    match store.claim(id)? {
        Claim::New(folder) => Ok(folder),
        Claim::Remains(folder) => folder.clear().map(|()| folder),
    }
}

#[test]
fn an_id_has_one_owner() {
    let (_root, store, id) = store();
    let folder = claim(&store, &id).unwrap();
    assert!(matches!(claim(&store, &id), Err(StateError::InUse(_))));
    assert!(store.take(&id).unwrap().is_none());
    folder.write(&record(&id, vm(STARTED, false))).unwrap();
    assert_eq!(store.look(&id).unwrap().status, Status::Running);
    folder.remove().unwrap();
    assert!(matches!(store.look(&id), Err(StateError::NoContainer(_))));
    claim(&store, &id).unwrap();
}

#[test]
fn what_a_killed_process_left_is_reclaimed() {
    let (root, store, id) = store();
    let folder = claim(&store, &id).unwrap();
    folder.share().unwrap();
    folder.write(&record(&id, vm(STARTED, false))).unwrap();
    drop(folder); // as the kernel does when the process is killed
    fs::write(root.path().join("run/a").join(NEW_RECORD), "half a rec").unwrap();
    assert!(store.list().unwrap().is_empty());
    assert!(matches!(store.look(&id), Err(StateError::NoContainer(_))));
    let folder = claim(&store, &id).unwrap();
    assert_eq!(fs::read_dir(root.path().join("run/a")).unwrap().count(), 0);
    folder.remove().unwrap();
    assert_eq!(fs::read_dir(root.path().join("run")).unwrap().count(), 0);
}

#[test]
fn what_is_to_be_kept_is_kept() {
    let (_root, store, id) = store();
    let folder = claim(&store, &id).unwrap();
    folder.write(&record(&id, vm(STARTED, true))).unwrap();
    drop(folder);
    assert_eq!(store.look(&id).unwrap().status, Status::Stopped);
    assert_eq!(store.list().unwrap().len(), 1);
    assert!(matches!(claim(&store, &id), Err(StateError::InUse(_))));
    store.take(&id).unwrap().unwrap().remove().unwrap();
    assert!(matches!(store.take(&id), Err(StateError::NoContainer(_))));
}

#[test]
fn what_was_never_made_in_full_is_not_kept() {
    let (_root, store, id) = store();
    let folder = claim(&store, &id).unwrap();
    let by = vm(Progress::Creating, true);
    folder.write(&record(&id, by)).unwrap();
    assert_eq!(store.look(&id).unwrap().status, Status::Creating);
    drop(folder);
    assert_eq!(store.look(&id).unwrap().status, Status::Stopped);
    claim(&store, &id).unwrap();
}

#[test]
fn a_first_process_tells_how_its_container_stands() {
    let (root, store, id) = store();
    let status = || store.look(&id).unwrap().status;
    let by = |init| {
        By::Process(HostRecord {
            init,
            cgroup: None,
            own_keyring: true,
        })
    };
    let folder = claim(&store, &id).unwrap();
    folder.write(&record(&id, by(None))).unwrap();
    assert_eq!(status(), Status::Creating);
    let this = Identity::of(Pid::this()).unwrap();
    let gate = Gate::make(folder.path()).unwrap();
    folder.write(&record(&id, by(Some(this)))).unwrap();
    // A process forked in the meantime has the lock's descriptor too.
    let forked = folder.lock.try_clone().unwrap();
    folder.release().unwrap();
    assert_eq!(status(), Status::Created);
    assert!(matches!(claim(&store, &id), Err(StateError::InUse(_))));
    Gate::remove(&root.path().join("run/a")).unwrap();
    drop((gate, forked));
    assert_eq!(status(), Status::Running);
    let folder = store.take(&id).unwrap().unwrap();
    let gone = Identity {
        start_time: 1,
        ..this
    };
    folder.write(&record(&id, by(Some(gone)))).unwrap();
    assert_eq!(status(), Status::Stopped);
    folder.release().unwrap();
    assert!(matches!(claim(&store, &id), Err(StateError::InUse(_))));
}

#[test]
fn the_remains_of_a_creation_are_seen_and_reclaimed() {
    let (_root, store, id) = store();
    let folder = claim(&store, &id).unwrap();
    let by = By::Process(HostRecord {
        init: None,
        cgroup: None,
        own_keyring: true,
    });
    folder.write(&record(&id, by)).unwrap();
    folder.write_config(b"{}").unwrap();
    drop(Gate::make(folder.path()).unwrap());
    drop(folder);
    assert_eq!(store.look(&id).unwrap().status, Status::Stopped);
    claim(&store, &id).unwrap().remove().unwrap();
}

#[test]
fn what_cannot_be_read_does_not_hide_the_others() {
    let (root, store, id) = store();
    let folder = claim(&store, &id).unwrap();
    folder.write(&record(&id, vm(STARTED, false))).unwrap();
    let run = root.path().join("run");
    fs::write(run.join("file"), "").unwrap();
    fs::create_dir(run.join("folder")).unwrap();
    fs::write(run.join("folder").join(RECORD), "{").unwrap();
    let broken = Id::new("folder").unwrap();
    assert!(matches!(
        store.look(&broken),
        Err(StateError::Record { .. })
    ));
    let listed = store.list().unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].record.id, "a");
}

#[test]
fn nothing_that_nacre_did_not_put_there_is_removed() {
    let (root, store, id) = store();
    let folder = claim(&store, &id).unwrap();
    let share = folder.share().unwrap();
    fs::write(share.join("file"), "of the container's").unwrap();
    assert!(folder.remove().is_err());
    assert!(root.path().join("run/a/share/file").exists());
}

#[test]
fn a_link_in_place_of_a_folder_is_not_followed() {
    let (root, store, id) = store();
    claim(&store, &id).unwrap().remove().unwrap();
    let elsewhere = root.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, root.path().join("run/a")).unwrap();
    assert!(matches!(claim(&store, &id), Err(StateError::Io { .. })));
}
