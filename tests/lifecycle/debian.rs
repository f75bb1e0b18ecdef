//! Third-party workloads, which do the same in a VM as in a chroot.

use std::path::Path;
use std::process::Command;

use nacre_tests::{Bundle, Case, fixtures};

nacre_tests::tests![
    bash,
    perl,
    package_list,
    checksum_of_a_tree,
    a_compiler,
    stress,
    a_shared_directory,
];

fn root(case: &Case) -> &'static Path {
    fixtures::debian().unwrap_or_else(|why| case.ignore(why))
}

/// Runs a script in Debian's bash, in a VM and in a chroot, and returns what both print.
fn same_in_both(case: &Case, script: &str) -> String {
    let root = root(case);
    let bundle = Bundle::read_only(case.directory(), root)
        .mount("/tmp", "tmpfs", "tmpfs", &["mode=1777"])
        .annotation("dev.nacre.vm.cpus", "2")
        .annotation("dev.nacre.vm.memory", "512M")
        .args(["/bin/bash", "-c", script]);
    let inside = case.run(&bundle).ok();
    let outside = in_chroot(case, root, script);
    assert_eq!(inside, outside);
    inside
}

fn in_chroot(case: &Case, root: &Path, script: &str) -> String {
    let mut command = case.mark(Command::new("unshare"));
    command
        .args(["--mount", "--propagation", "private", "sh", "-ec"])
        .arg(
            "mount -t tmpfs tmpfs \"$0/tmp\"; mount -t proc proc \"$0/proc\"
             mount --rbind /dev \"$0/dev\"
             exec env -i PATH=/usr/bin:/bin:/usr/sbin:/sbin chroot \"$0\" /bin/bash -c \"$1\"",
        )
        .arg(root)
        .arg(script);
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {error}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

fn bash(case: &Case) {
    let output = same_in_both(
        case,
        "set -euo pipefail
         declare -A count; while read -r user _; do count[${user:0:1}]=$((${count[${user:0:1}]:-0}+1))
         done < <(cut -d: -f1 /etc/passwd); for k in $(printf '%s\\n' \"${!count[@]}\" | sort); do
         echo $k ${count[$k]}; done
         mapfile -t files < <(find /usr/share -type f | sort); echo ${#files[@]} ${files[0]}
         coproc bc_like { while read -r line; do echo $((line)); done; }
         echo '6 * 7' >&${bc_like[1]}; read -r answer <&${bc_like[0]}; echo $answer
         sleep 100 & kill $!; wait $! || echo status $?
         ( trap 'echo trapped' EXIT; exit 3 ) || echo $?",
    );
    assert!(output.contains("42\nstatus 143\ntrapped\n3\n"), "{output}");
}

fn perl(case: &Case) {
    let output = same_in_both(
        case,
        r#"perl -MDigest::SHA=sha256_hex -MPOSIX -e '
            use strict; use warnings;
            my %words; open my $f, "<", "/usr/share/common-licenses/GPL-3" or die $!;
            while (<$f>) { $words{lc $_}++ for /\w+/g }
            my @top = sort { $words{$b} <=> $words{$a} || $a cmp $b } keys %words;
            print "$_ $words{$_}\n" for @top[0..9];
            pipe my $r, my $w or die $!;
            my $pid = fork // die $!;
            if (!$pid) { close $r; print $w "from the child\n"; close $w; POSIX::_exit(7) }
            close $w; print <$r>; waitpid $pid, 0; print $? >> 8, "\n";
            print sha256_hex(join "", map { chr($_ % 256) } 1..100000), "\n";
        '"#,
    );
    assert!(output.contains("from the child\n7\n"), "{output}");
}

fn package_list(case: &Case) {
    let output = same_in_both(
        case,
        "dpkg -l; dpkg --verify coreutils bash && echo verified",
    );
    assert!(output.contains("ii  stress-ng"), "{output}");
    assert!(output.ends_with("verified\n"), "{output}");
}

fn checksum_of_a_tree(case: &Case) {
    same_in_both(
        case,
        "cd /; tar --sort=name --xattrs -cf - etc usr/share/perl var/lib/dpkg | sha256sum
         mkdir /tmp/copy; tar -C /etc -cf - . | tar -C /tmp/copy --no-same-owner -xf -; cd /tmp/copy
         find . -type f | sort | xargs -d '\\n' md5sum | md5sum",
    );
}

fn a_compiler(case: &Case) {
    let output = same_in_both(
        case,
        r#"set -e; cd /tmp; cat >sieve.c <<'END'
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static char *composite;
enum { N = 2000000 };
static void *count(void *part) {
    long from = (long)part * (N / 2), n = 0;
    for (long i = from; i < from + N / 2; i++) n += i > 1 && !composite[i];
    return (void *)n;
}
int main(int argc, char **argv) {
    composite = calloc(N, 1);
    for (long i = 2; i * i < N; i++)
        if (!composite[i])
            for (long j = i * i; j < N; j += i) composite[j] = 1;
    pthread_t t[2];
    long total = 0;
    for (long k = 0; k < 2; k++) pthread_create(&t[k], 0, count, (void *)k);
    for (int k = 0; k < 2; k++) { void *n; pthread_join(t[k], &n); total += (long)n; }
    printf("%ld primes below %d, %s\n", total, N, argv[argc - 1]);
    return 0;
}
END
gcc -O2 -Wall -Werror -o sieve sieve.c; ./sieve "as expected"
gcc -O2 -S -o - sieve.c | sha256sum"#,
    );
    assert!(
        output.starts_with("148933 primes below 2000000, as expected\n"),
        "{output}"
    );
}

fn stress(case: &Case) {
    // Its measurements differ; that everything was done and verified doesn't.
    let output = same_in_both(
        case,
        "cd /tmp; for stressor in 'cpu 2 --cpu-method int64 --cpu-ops 4' \
         'vm 1 --vm-bytes 4M --vm-ops 20' 'fork 2 --fork-ops 50' 'pipe 2 --pipe-ops 1000' \
         'hdd 1 --hdd-ops 10 --hdd-bytes 4M' 'mmap 1 --mmap-bytes 4M --mmap-ops 2' \
         'futex 2 --futex-ops 500' 'sock 1 --sock-ops 5' 'timer 1 --timer-ops 50'; do
         stress-ng --timeout 60 --verify --quiet --temp-path /tmp --$stressor 2>&1
         echo \"${stressor%% *}\" $?; done",
    );
    assert_eq!(output.matches(" 0\n").count(), 9, "{output}");
}

fn a_shared_directory(case: &Case) {
    let shared = case.directory().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("data"), "of the host").unwrap();
    let bundle = Bundle::read_only(case.directory(), root(case))
        .mount("/srv", "bind", shared.to_str().unwrap(), &["bind"])
        .mount("/tmp", "tmpfs", "tmpfs", &["mode=1777"])
        .args(["/usr/bin/perl", "-e"])
        .push(
            "/process/args",
            r#"
            use strict; use warnings; use Fcntl ":flock";
            chdir "/srv" or die $!;
            # A lock that another process holds is waited for.
            open my $lock, ">", "lock" or die $!;
            flock $lock, LOCK_EX or die $!;
            my $pid = fork // die $!;
            if (!$pid) {
                close $lock;
                open my $again, ">", "lock" or die $!;
                flock $again, LOCK_EX | LOCK_NB and die "locked twice";
                flock $again, LOCK_EX or die $!;
                open my $log, ">>", "log" or die $!; print $log "second
"; close $log;
                exit 0;
            }
            select undef, undef, undef, 0.5;
            open my $log, ">>", "log" or die $!; print $log "first
"; close $log;
            close $lock;
            waitpid $pid, 0; $? == 0 or die "child: $?";
            # Open files outlive their names; a rename replaces.
            open my $data, "+<", "data" or die $!;
            open my $new, ">", "new" or die $!; print $new "replaced"; close $new;
            rename "new", "data" or die $!;
            local $/; print <$data>, "
";
            open $data, "<", "data" or die $!; print <$data>, "
";
            # Reads and writes at any offset.
            open my $big, "+>", "big" or die $!;
            for my $i (reverse 0 .. 99) { seek $big, $i * 10007, 0; print $big pack "N", $i }
            close $big; open $big, "<", "big" or die $!;
            for my $i (0 .. 99) {
                seek $big, $i * 10007, 0; read $big, my $word, 4;
                unpack("N", $word) == $i or die "at $i";
            }
            utime 1000000000, 1000000000, "big" or die $!;
            print -s "big", " ", (stat "big")[9], "
";
            mkdir "a$_" or die $! for 1 .. 500;
            opendir my $dir, "." or die $!; print scalar(grep /^a/, readdir $dir), "
";
            "#,
        );
    assert_eq!(
        case.run(&bundle).ok(),
        "of the host
replaced
990697 1000000000
500
"
    );
    let read = |name| std::fs::read_to_string(shared.join(name)).unwrap();
    assert_eq!(
        read("log"),
        "first
second
"
    );
    assert_eq!(read("data"), "replaced");
    assert!(shared.join("a500").is_dir());
}
