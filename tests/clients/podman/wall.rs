//! draft
use std::fs;
use nacre_tests::Case;
use super::super::image::BUSYBOX;
use super::Podman;
nacre_tests::tests![draft];
fn draft(case: &Case) {
    let podman = Podman::new(case);
    let d = case.directory().to_owned();
    podman.detach(&["--uidmap", "0:100000:5000", "--gidmap", "0:100000:5000", "--hostname", "inside", "--ipc", "shareable"], "echo started; sleep 1000");
    podman.wait_for_log("started");
    let mut log = String::new();
    let mut t = |words: &[&str]| { let r = podman.run(words); log += &format!("$ {}\n{:?} {}\n{}\n", words.join(" "), r.status(), r.text().chars().take(1500).collect::<String>(), r.stderr.chars().take(1500).collect::<String>()); fs::write("/tmp/vm-draft.log", &log).unwrap(); };
    t(&["top", "c", "-o", "pid,args"]);
    t(&["top", "c", "pid", "user", "huser", "args"]);
    std::os::unix::fs::symlink(nacre_tests::nacre::runtime(), d.join("nacre-process")).unwrap();
    let runtimes = ["runc".to_owned(), "crun".to_owned(), d.join("nacre-process").to_str().unwrap().to_owned(), case.binary().to_str().unwrap().to_owned()];
    for r in &runtimes {
        for kind in ["userns", "ipc", "userns pid", "userns ipc uts", "all"] {
            let parent = podman.cgroup.path().to_owned();
            let mut words: Vec<String> = ["--runtime", r, "run", "--rm", "--cgroup-parent", &parent].iter().map(|s| s.to_string()).collect();
            match kind { "all" => for k in ["pid", "ipc", "uts", "network"] { words.push(format!("--{k}=container:c")) }, _ => for k in kind.split(' ') { words.push(format!("--{k}=container:c")) } }
            words.extend([BUSYBOX, "sh", "-c", "hostname; ps; ls /dev/shm; cat /proc/self/uid_map"].map(str::to_owned));
            let words: Vec<&str> = words.iter().map(|s| s.as_str()).collect();
            t(&words);
        }
    }
    t(&["container", "clone", "--name", "clone", "c"]);
    t(&["rm", "clone"]);
    podman.clear();
}
