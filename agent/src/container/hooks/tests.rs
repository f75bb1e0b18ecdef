use serde_json::{Value, json};

use super::*;

fn hooks(list: Value) -> Vec<Hook> {
    serde_json::from_value(list).unwrap()
}

fn shell(script: &str) -> Value {
    json!({"path": "/bin/sh", "args": ["sh", "-c", script]})
}

fn state() -> State {
    let mut state = State::default();
    state.set_id("a".into()).set_pid(Some(7));
    state
}

fn run_list(list: Value) -> Result<(), String> {
    run(&hooks(list), "hooks.poststart", &state()).map_err(|e| e.to_string())
}

#[test]
fn a_hook_gets_its_arguments_its_environment_and_the_state() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("out");
    let script = format!(
        "{{ echo $0 $1; cat; echo; env | grep -v -e ^PWD= -e ^SHLVL= -e ^_=; }} > {}",
        file.display()
    );
    let hook = json!({"path": "/bin/sh", "args": ["x", "-c", script, "zero", "one"],
                      "env": ["A=1=2"]});
    run_list(json!([hook])).unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("zero one"));
    let told: Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    assert_eq!((&told["id"], &told["pid"]), (&json!("a"), &json!(7)));
    assert_eq!(lines.collect::<Vec<_>>(), ["A=1=2"]);
}

#[test]
fn without_an_environment_it_is_the_surroundings() {
    let process = ["A=process".to_owned()];
    let with =
        |env: Value| -> Hook { serde_json::from_value(json!({"path": "/x", "env": env})).unwrap() };
    for (hook, in_container, in_runtime) in [
        (with(json!(["A=own"])), Some("A=own"), Some("A=own")),
        (with(json!([])), Some("A=process"), None),
        (with(Value::Null), Some("A=process"), None),
    ] {
        let of = |env| {
            let surroundings = HookSurroundings {
                directory: None,
                env,
            };
            let env = surroundings.env_of(&hook);
            env.and_then(<[_]>::first).map(String::as_str)
        };
        assert_eq!(of(Some(&process[..])), in_container);
        assert_eq!(of(None), in_runtime);
    }
    // An empty environment is not the same as this process's.
    let state = state();
    let surroundings = HookSurroundings::of_the_caller(&state);
    assert_eq!(surroundings.env_of(&with(json!([]))), Some(&[][..]));
    assert_eq!(surroundings.env_of(&with(Value::Null)), None);
}

#[test]
fn the_first_failure_ends_it_unless_all_are_to_run() {
    let directory = tempfile::tempdir().unwrap();
    let touch = |name: &str| shell(&format!("touch {}", directory.path().join(name).display()));
    let list = json!([touch("1"), shell("echo no >&2; exit 3"), touch("2")]);
    assert_eq!(
        run_list(list.clone()).unwrap_err(),
        "hooks.poststart[1] (/bin/sh): exit status 3, output: no"
    );
    assert!(directory.path().join("1").exists());
    assert!(!directory.path().join("2").exists());
    assert_eq!(run_all(&hooks(list), "hooks.poststop", &state()).len(), 1);
    assert!(directory.path().join("2").exists());
}

#[test]
fn how_one_failed_is_told() {
    let started = std::time::Instant::now();
    let mut slow = shell("echo so far; sleep 60 & sleep 60");
    slow["timeout"] = json!(1);
    for (hook, error) in [
        (
            slow,
            "hooks.poststart[0] (/bin/sh): it isn't done after 1 s (its timeout), and was killed, output: so far",
        ),
        (
            json!({"path": "/no/such"}),
            "hooks.poststart[0] (/no/such): can't run it: No such file or directory (os error 2)",
        ),
        (
            shell("kill -9 $$"),
            "hooks.poststart[0] (/bin/sh): killed by signal 9",
        ),
    ] {
        assert_eq!(run_list(json!([hook])).unwrap_err(), error);
    }
    let huge = run_list(json!([shell("seq 10000; exit 1")])).unwrap_err();
    assert!(huge.ends_with("9999\n10000") && huge.len() < 5000, "{huge}");
    // A process that is left behind isn't waited for.
    run_list(json!([shell("sleep 20 &")])).unwrap();
    assert!(started.elapsed() < Duration::from_secs(15));
}
