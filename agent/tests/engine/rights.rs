//! The rights that a process of a container ends with: each field of the table in docs/rights.md,
//! measured.

use std::fs;

use serde_json::{Value, json};

use crate::Skipped;
use crate::bundle::{Bundle, Running};
use crate::exec;

tests![
    each_process_ends_with_what_the_table_says,
    what_is_asked_for_is_given_to_nobody_else,
];

const TABLE: &str = include_str!("../../../docs/rights.md");

/// Prints a line for each field that can be read from inside the process.
const PROBE: &str = "cd /proc/self; s() { grep $1: status | sed 's/.*:[ \\t]*//'; }
    echo uid $(s Uid) $(s Gid); echo groups $(s Groups); echo umask $(umask)
    for set in Bnd Eff Prm Inh Amb; do echo $set $(s Cap$set); done
    echo nnp $(s NoNewPrivs); echo seccomp $(s Seccomp)
    echo nofile $(ulimit -Sn) $(ulimit -Hn); echo oom $(cat oom_score_adj)
    echo nice $(cut -d' ' -f19 stat); echo io $(ionice -p $$)
    echo fds $(ls fd | grep -vx [0-2] | wc -l)";

/// Returns the table's rows: the field, and what each of the three processes has of it.
fn rows() -> Vec<[&'static str; 4]> {
    let lines = TABLE.lines().filter(|line| line.starts_with("| "));
    let rows = lines.map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        cells.try_into().expect("a row of four")
    });
    rows.skip(1).collect()
}

/// Returns what a probe prints for a row of the table if everything is as it was asked for, or as
/// the cell says where it differs.
fn expected(field: &str, cell: &str) -> Option<(&'static str, String)> {
    let is_asked = cell == "as asked";
    let bits = |bits: u64| format!("{bits:016x}");
    Some(match field {
        "user.uid, user.gid" => ("uid", "7 7 7 7 8 8 8 8".into()),
        "user.additionalGids" => ("groups", "9 10".into()),
        "user.umask" => ("umask", "0037".into()),
        // KILL and NET_BIND_SERVICE; an exec by an ordinary user keeps the ambient ones.
        "capabilities.bounding" => ("Bnd", bits(1 << 5 | 1 << 10)),
        "capabilities.effective" => ("Eff", bits(1 << 5)),
        "capabilities.permitted" => ("Prm", bits(1 << 5)),
        "capabilities.inheritable" => ("Inh", bits(1 << 5)),
        "capabilities.ambient" => ("Amb", bits(1 << 5)),
        "noNewPrivileges" => ("nnp", "1".into()),
        "linux.seccomp" => ("seccomp", "2".into()),
        "rlimits" => ("nofile", "77 88".into()),
        "oomScoreAdj" => ("oom", "321".into()),
        "scheduler" => ("nice", "7".into()),
        "ioPriority" => ("io", "best-effort: prio 6".into()),
        "cwd" => ("cwd", "/somewhere".into()),
        "env" if is_asked => ("env", "VARIABLE=process".into()),
        "env" => ("env", "VARIABLE=hook".into()),
        // Two are the shell's, for its script and for reading the list.
        "descriptors from 3 on" if is_asked => ("fds", "3".into()),
        "descriptors from 3 on" => ("fds", "2".into()),
        _ => return None,
    })
}

fn bundle() -> Bundle {
    let mut bundle = Bundle::new("sleep 20");
    let script = format!("echo cwd $(pwd); echo env $(env | grep VARIABLE); {PROBE}; echo done");
    fs::write(bundle.at("probe"), script).unwrap();
    fs::create_dir(bundle.at("somewhere")).unwrap();
    fs::write(bundle.at("hooks-output"), "").unwrap();
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    fs::set_permissions(bundle.at("hooks-output"), everybody).unwrap();
    let process = &mut bundle.config["process"];
    process["args"] = json!(["sh", "-c", "sh /probe; sleep 20"]);
    process["user"] = json!({"uid": 7, "gid": 8, "additionalGids": [9, 10], "umask": 0o037});
    process["capabilities"] = json!({
        "bounding": ["CAP_KILL", "CAP_NET_BIND_SERVICE"], "effective": ["CAP_KILL"],
        "permitted": ["CAP_KILL"], "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"],
    });
    process["noNewPrivileges"] = json!(true);
    process["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 88}]);
    process["oomScoreAdj"] = json!(321);
    process["scheduler"] = json!({"policy": "SCHED_OTHER", "nice": 7});
    process["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 6});
    process["cwd"] = json!("/somewhere");
    process["env"] = json!(["PATH=/bin", "VARIABLE=process"]);
    bundle.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW"});
    bundle.config["hooks"]["startContainer"] = json!([{
        "path": "/bin/sh", "args": ["sh", "-c", "sh /probe > /hooks-output"],
        "env": ["PATH=/bin", "VARIABLE=hook"],
    }]);
    bundle
}

/// Returns what the three processes have printed.
fn measure(bundle: &Bundle) -> [String; 3] {
    let mut running: Running<'_> = bundle.start();
    running.wait_for("done");
    let first = running.stdout();
    let mut process = bundle.config["process"].clone();
    process["args"] = json!(["sh", "/probe"]);
    let further = exec::run_preserving(bundle, &mut running, &process);
    let hook = fs::read_to_string(bundle.at("hooks-output")).unwrap();
    [first, further, hook]
}

fn each_process_ends_with_what_the_table_says() -> Result<(), Skipped> {
    let bundle = bundle();
    let outputs = measure(&bundle);
    let rows = rows();
    assert_eq!(rows.len(), 17, "{rows:?}");
    for [field, cells @ ..] in rows {
        for ((cell, output), who) in cells.iter().zip(&outputs).zip(["first", "exec", "hook"]) {
            let Some((name, mut value)) = expected(field, cell) else {
                panic!("{field} isn't measured");
            };
            if name == "fds" && who == "first" {
                // The first process is created with nothing to be preserved.
                value = "2".into();
            }
            let line = format!("{name} {value}");
            assert!(
                output.lines().any(|l| l == line),
                "{field}, {who}: no {line:?} in {output}"
            );
        }
    }
    Ok(())
}

/// Only root gets a capability that is asked for; nobody else does, however it would be passed on.
fn what_is_asked_for_is_given_to_nobody_else() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("sleep 20");
    for set in ["bounding", "effective", "permitted"] {
        bundle.config["process"]["capabilities"][set] = json!(["CAP_KILL"]);
    }
    let mut running = bundle.start();
    let script = "grep -E '^Cap(Inh|Prm|Eff|Amb)' /proc/self/status";
    for (uid, held) in [(0, true), (1000, false)] {
        let mut process: Value = bundle.config["process"].clone();
        process["user"] = json!({"uid": uid, "gid": uid});
        process["args"] = json!(["sh", "-c", script]);
        let output = exec::run(&bundle, &mut running, &process).stdout;
        assert_eq!(
            output.contains("CapEff:\t0000000000000020"),
            held,
            "{output}"
        );
        assert!(held || !output.contains('2'), "{output}");
    }
    Ok(())
}
