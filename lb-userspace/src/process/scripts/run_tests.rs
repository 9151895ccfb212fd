//! Real `sh` scripts, each a kind of misbehaviour.

use std::{fs, io::Write as _, os::unix::fs::PermissionsExt as _, path::Path, time::Instant};

use super::*;
use crate::config::model::Command as Script;

/// Time in which a shell has read its first words, even where the machine does not run it for a moment.
const SHORT: Duration = Duration::from_secs(3);

fn request(argv: &[&str], timeout: Option<Duration>) -> ScriptRun {
    ScriptRun {
        id: 1,
        object: "vrrp_script test".to_owned(),
        command: Script { argv: argv.iter().map(|&word| word.to_owned()).collect(), user: None },
        extra_args: Vec::new(),
        timeout,
        queue: None,
        reply: true,
    }
}

async fn sh(text: &str, timeout: Option<Duration>) -> ScriptOutcome {
    run(&request(&["/bin/sh", "-c", text], timeout), &Surroundings::default(), &Notify::new()).await
}

/// Waits until `file` has a complete line, and gives it.
async fn line_of(file: &Path) -> String {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Ok(text) = fs::read_to_string(file)
            && text.ends_with('\n')
        {
            return text.trim().to_owned();
        }
        assert!(Instant::now() < deadline, "{} was not written", file.display());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Whether the process is there and not a zombie.
fn alive(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").starts_with(" Z"))
}

async fn gone(pid: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while alive(pid) {
        assert!(Instant::now() < deadline, "process {pid} is still there");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn exit_codes_and_signals_are_told_apart() {
    assert_eq!(sh("exit 0", None).await, ScriptOutcome::Exit(0));
    assert_eq!(sh("exit 253", None).await, ScriptOutcome::Exit(253));
    assert_eq!(sh("kill -9 $$", None).await, ScriptOutcome::Signal(9));
}

/// As when lbd ends: nobody reads any more, and the script goes on.
#[tokio::test]
async fn a_script_outlives_the_reader_of_its_output() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (go, done) = (dir.path().join("go"), dir.path().join("done"));
    let text = format!(
        "until [ -e {} ]; do sleep 0.01; done; echo one || exit 1; echo two >&2; echo $? > {}",
        go.display(),
        done.display()
    );
    let asked = request(&["/bin/sh", "-c", &text], None);
    let (mut child, readers) =
        spawn("/bin/sh", &asked.command.argv[1..], &asked, &Surroundings::default())
            .expect("started");
    drop(readers);
    fs::write(&go, "").expect("written");
    assert_eq!(line_of(&done).await, "0");
    assert!(child.wait().await.expect("reaped").success());
}

/// A check that leaves something behind at each run costs a bounded number of descriptors for good; what others left
/// is read all the same.
#[tokio::test]
async fn what_checks_leave_behind_is_read_up_to_a_bound() {
    let grace = Duration::from_millis(20);
    let left = |reply: bool| {
        let (reader, held) = io::pipe().expect("a pipe");
        let reader = Receiver::from_owned_fd(reader.into()).expect("a reader");
        let asked = ScriptRun { reply, ..request(&["/bin/true"], None) };
        let (runs, ended) = watch::channel(());
        collect(&asked, "stdout", reader, ended, grace);
        (runs, held)
    };
    // Other tests of this process may hold a few places.
    let (mut runs, mut held): (Vec<_>, Vec<_>) =
        (0..2 * LINGERING_LIMIT).map(|_| left(true)).unzip();
    for writer in &mut held {
        writer.write_all(b"while it runs\n").expect("it is read");
    }
    runs.clear();
    let deadline = Instant::now() + Duration::from_secs(10);
    // A pipe without a reader is an error for whoever writes.
    let read = |held: &mut Vec<io::PipeWriter>| {
        held.iter_mut().filter_map(|it| it.write_all(b"x\n").ok()).count()
    };
    while read(&mut held) > LINGERING_LIMIT {
        assert!(Instant::now() < deadline, "{} are read for ever", read(&mut held));
        tokio::time::sleep(grace).await;
    }
    let (runs, mut service) = left(false);
    drop(runs);
    tokio::time::sleep(10 * grace).await;
    service.write_all(b"a service\n").expect("what a notify script started is read on");
}

#[tokio::test]
async fn arguments_follow_the_command() {
    let mut asked = request(&["/bin/sh", "-c", "test \"$1/$2\" = 'INSTANCE/VI 1'", "sh"], None);
    asked.extra_args = vec!["INSTANCE".to_owned(), "VI 1".to_owned()];
    let outcome = run(&asked, &Surroundings::default(), &Notify::new()).await;
    assert_eq!(outcome, ScriptOutcome::Exit(0));
}

#[tokio::test]
async fn missing_and_not_executable_are_named() {
    let around = Surroundings::default();
    let missing = run(&request(&["/nonexistent/chk.sh"], None), &around, &Notify::new()).await;
    let ScriptOutcome::NotStarted(why) = missing else { panic!("{missing:?}") };
    assert!(why.contains("/nonexistent/chk.sh: no such file"), "{why}");

    let dir = tempfile::tempdir().expect("tempdir");
    let file = dir.path().join("plain");
    fs::write(&file, "#!/bin/sh\nexit 0\n").expect("written");
    let path = file.to_str().expect("utf-8");
    let plain = run(&request(&[path], None), &around, &Notify::new()).await;
    let ScriptOutcome::NotStarted(why) = plain else { panic!("{plain:?}") };
    assert!(why.contains("not executable"), "{why}");
}

#[tokio::test]
async fn script_without_interpreter_line_runs_in_sh() {
    let dir = tempfile::tempdir().expect("tempdir");
    let file = dir.path().join("bare.sh");
    fs::write(&file, "exit $1\n").expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("chmod");
    let path = file.to_str().expect("utf-8");
    let outcome = run(&request(&[path, "7"], None), &Surroundings::default(), &Notify::new()).await;
    assert_eq!(outcome, ScriptOutcome::Exit(7));
}

#[tokio::test]
async fn hanging_script_is_ended_at_its_time_out_with_its_children() {
    let dir = tempfile::tempdir().expect("tempdir");
    let pid_file = dir.path().join("pid");
    let text = format!("sleep 1000 & echo $! > {}; wait", pid_file.display());
    let begin = Instant::now();
    assert_eq!(sh(&text, Some(SHORT)).await, ScriptOutcome::TimedOut);
    assert!(begin.elapsed() < SHORT + KILL_DELAY, "SIGTERM sufficed");
    gone(&line_of(&pid_file).await).await;
}

#[tokio::test]
async fn script_that_ignores_term_is_killed() {
    let begin = Instant::now();
    let outcome = sh("trap '' TERM; while :; do sleep 1; done", Some(SHORT)).await;
    assert_eq!(outcome, ScriptOutcome::TimedOut);
    assert!(begin.elapsed() >= SHORT + KILL_DELAY);
    assert!(begin.elapsed() < SHORT + KILL_DELAY + Duration::from_secs(5));
}

#[tokio::test]
async fn deaf_grandchild_of_an_obedient_script_is_killed_too() {
    let dir = tempfile::tempdir().expect("tempdir");
    let pid_file = dir.path().join("pid");
    let text = format!(
        "(trap '' TERM; sh -c 'echo $PPID' > {}; while :; do sleep 1; done) & trap 'exit 0' TERM; wait",
        pid_file.display()
    );
    let watch = async {
        let pid = line_of(&pid_file).await;
        assert!(alive(&pid));
        pid
    };
    let (outcome, pid) = tokio::join!(sh(&text, Some(SHORT)), watch);
    assert_eq!(outcome, ScriptOutcome::TimedOut);
    gone(&pid).await;
}

#[tokio::test]
async fn background_process_of_a_finished_script_lives_and_does_not_delay_the_answer() {
    let dir = tempfile::tempdir().expect("tempdir");
    let pid_file = dir.path().join("pid");
    let begin = Instant::now();
    let text = format!("sleep 600 & echo $! > {}; exit 3", pid_file.display());
    assert_eq!(sh(&text, Some(Duration::from_secs(30))).await, ScriptOutcome::Exit(3));
    assert!(begin.elapsed() < Duration::from_secs(20), "waited for the background process");
    let pid = line_of(&pid_file).await;
    assert!(alive(&pid));
    let pid = Pid::from_raw(pid.parse().expect("a pid"));
    nix::sys::signal::kill(pid, Signal::SIGKILL).expect("ours");
}

#[tokio::test]
async fn cancelled_script_ends_early() {
    let cancel = Notify::new();
    cancel.notify_one();
    let asked = request(&["/bin/sleep", "1000"], None);
    assert_eq!(run(&asked, &Surroundings::default(), &cancel).await, ScriptOutcome::TimedOut);
}

#[tokio::test]
async fn flood_of_output_does_not_block_the_script() {
    let outcome = sh("head -c 1000000 /dev/zero", Some(Duration::from_secs(20))).await;
    assert_eq!(outcome, ScriptOutcome::Exit(0));
}

#[tokio::test]
async fn script_has_no_input_and_its_own_group() {
    assert_eq!(sh("read x || exit 9", Some(Duration::from_secs(10))).await, ScriptOutcome::Exit(9));
    let text = "test \"$(ps -o pgid= -p $$ | tr -d ' ')\" = $$";
    assert_eq!(sh(text, None).await, ScriptOutcome::Exit(0));
}

#[tokio::test]
async fn insecure_script_is_refused_as_root_when_security_is_on() {
    let dir = tempfile::tempdir().expect("tempdir");
    let file = dir.path().join("s.sh");
    fs::write(&file, "#!/bin/sh\nexit 0\n").expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o777)).expect("chmod");
    let asked = request(&[file.to_str().expect("utf-8")], None);
    let around = Surroundings { identity: Some(Identity { uid: 0, gid: 0 }), secure: true };
    let outcome = run(&asked, &around, &Notify::new()).await;
    let ScriptOutcome::NotStarted(why) = outcome else { panic!("{outcome:?}") };
    assert!(why.starts_with("enable_script_security"), "{why}");
}

#[test]
fn output_is_cut_into_bounded_lines() {
    let mut lines = Lines::default();
    assert_eq!(lines.take(b"one\ntw"), ["one"]);
    assert_eq!(lines.take(b"o\n\n\xff\n"), ["two", "\u{fffd}"]);
    assert_eq!(lines.take(&[b'x'; LINE_LIMIT]), ["x".repeat(LINE_LIMIT)]);
    let tail = lines.take(&vec![b'y'; OUTPUT_LIMIT]);
    assert!(tail.last().expect("a line").contains("the rest is dropped"));
    assert!(lines.take(b"z\n").is_empty());
    assert_eq!(lines.rest(), None);
}

#[tokio::test]
async fn what_hangs_in_the_kernel_is_not_waited_for() {
    static PLACES: Semaphore = Semaphore::const_new(1);
    reap(&PLACES, "ended".to_owned(), std::future::ready(())).await;
    assert_eq!(PLACES.available_permits(), 1);
    let (ends, ended) = tokio::sync::oneshot::channel::<()>();
    reap(&PLACES, "hangs".to_owned(), async move { drop(ended.await) }).await;
    assert_eq!(PLACES.available_permits(), 0, "not ended, and told");
    // Without a place for it, its next run waits.
    let next = reap(&PLACES, "hangs again".to_owned(), std::future::pending());
    assert!(tokio::time::timeout(UNKILLABLE * 2, next).await.is_err());
    drop(ends);
    while PLACES.available_permits() == 0 {
        tokio::task::yield_now().await;
    }
}
