//! Device nodes and who may open them.

use nacre_tests::Case;
use serde_json::json;

nacre_tests::tests![
    default_devices,
    default_devices_work,
    given_devices,
    a_device_that_isnt_allowed_cant_be_opened,
];

fn default_devices(case: &Case) {
    let bundle = case.busybox().shell(
        "cd /dev; for d in null zero full random urandom tty; do
         stat -c '%n %F %t:%T %a %u:%g' $d; done
         for l in fd stdin stdout stderr ptmx; do echo $l $(readlink $l); done",
    );
    let devices: String = [
        ("null", "1:3"),
        ("zero", "1:5"),
        ("full", "1:7"),
        ("random", "1:8"),
        ("urandom", "1:9"),
        ("tty", "5:0"),
    ]
    .iter()
    .map(|(name, number)| format!("{name} character special file {number} 666 0:0\n"))
    .collect();
    let links = "fd /proc/self/fd\nstdin /proc/self/fd/0\nstdout /proc/self/fd/1\n\
                 stderr /proc/self/fd/2\nptmx pts/ptmx\n";
    assert_eq!(case.run(&bundle).ok(), devices + links);
}

fn default_devices_work(case: &Case) {
    let bundle = case.busybox().shell(
        "echo x >/dev/null; head -c 3 /dev/zero | od -An -tx1; echo x >/dev/full
         [ $(head -c 100 /dev/urandom | wc -c) = 100 ] && head -c 16 /dev/random | wc -c
         echo through >/dev/stdout; echo error >/dev/stderr",
    );
    let outcome = case.run(&bundle);
    assert_eq!(outcome.expect(0), " 00 00 00\n16\nthrough\n");
    assert!(
        outcome.stderr.contains("No space left on device"),
        "{}",
        outcome.stderr
    );
    assert!(outcome.stderr.ends_with("error\n"), "{}", outcome.stderr);
}

fn given_devices(case: &Case) {
    let bundle = case
        .busybox()
        .set(
            "/linux/devices",
            json!([
                { "path": "/dev/fuse", "type": "c", "major": 10, "minor": 229,
                  "fileMode": 0o620, "uid": 11, "gid": 12 },
                { "path": "/dev/made/disk", "type": "b", "major": 7, "minor": 5 },
                { "path": "/dev/pipe", "type": "p" },
            ]),
        )
        .shell(
            "stat -c '%F %t:%T %a %u %g' /dev/fuse; stat -c '%F %t:%T' /dev/made/disk
             stat -c %F /dev/pipe",
        );
    assert_eq!(
        case.run(&bundle).ok(),
        "character special file a:e5 620 11 12\nblock special file 7:5\nfifo\n"
    );
}

fn a_device_that_isnt_allowed_cant_be_opened(case: &Case) {
    let bundle = case
        .busybox()
        .set(
            "/linux/devices",
            json!([
                { "path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666 },
                { "path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11, "fileMode": 0o666 },
            ]),
        )
        .set(
            "/linux/resources/devices",
            json!([
                { "allow": false, "access": "rwm" },
                { "allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw" },
            ]),
        )
        .shell(": <>/dev/fuse && echo opened; : >/dev/kmsg");
    let outcome = case.run(&bundle);
    assert_eq!(outcome.text(), "opened\n", "{}", outcome.stderr);
    assert!(
        outcome
            .stderr
            .contains("/dev/kmsg: Operation not permitted"),
        "{}",
        outcome.stderr
    );
}
