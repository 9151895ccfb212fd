//! What a reload that does not name it leaves alone, for each kind of thing: checks under way, scripts of FIFOs, the
//! start-up script, mails that wait, a sorry server in use, sync groups in every state, tracked files, static objects.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    process::alive,
    single::{self, LIMIT, NOBODY, OTHER, Single, VIP, config, instance},
    wait::{wait_for, wait_true, wait_until},
};
use lb_userspace::base::status::{Health, InstanceStatus, Status, VrrpState};
use nix::unistd::Pid;

const PORT: u16 = 3306;
const MAIL: &str = "127.0.0.1:2525";

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn named<'a>(status: &'a Status, name: &str) -> Result<&'a InstanceStatus> {
    status.vrrp.iter().find(|it| it.name == name).with_context(|| format!("{name}: {status:?}"))
}

/// Files that scripts write and wait for.
struct Desk {
    dir: PathBuf,
}

impl Desk {
    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A check that runs until `go` is there, and notes its begin, its end, and whether it was told to end.
    fn slow(&self, single: &Single, name: &str) -> Result<PathBuf> {
        let (note, go) = (self.file(&format!("{name}.notes")), self.file("go"));
        single.script(
            &format!("{name}.sh"),
            &format!(
                "#!/bin/sh\ntrap 'echo TERM >> {0}; exit 1' TERM\necho began >> {0}\nwhile [ ! -e {1} ]; do \
                 sleep 0.05; done\necho ended >> {0}\n",
                note.display(),
                go.display()
            ),
        )
    }
}

/// Everything at once, with this priority of VI_1.
fn text(desk: &Desk, scripts: &[PathBuf; 4], priority: u8) -> String {
    let [check, misc, reader, up] = scripts.each_ref().map(|it| it.display().to_string());
    let fifo = |word: &str| {
        format!("{word} {}\n    {word}_script \"{reader} {word}\"\n    ", desk.file(word).display())
    };
    let fifos: String = ["notify_fifo", "vrrp_notify_fifo", "lvs_notify_fifo"].map(fifo).concat();
    let global = format!(
        "script_user root\n    startup_script {up}\n    {fifos}smtp_server 127.0.0.1 2525\n    \
         smtp_connect_timeout 1\n    smtp_alert_vrrp\n    notification_email_from lbd@example.com\n    \
         notification_email {{\n a@example.com\n }}"
    );
    let more = |name: &str, vrid: u8, words: &str, vip: Ipv4Addr| {
        format!(
            "vrrp_instance {name} {{\n state BACKUP\n interface eth0\n version 3\n virtual_router_id {vrid}\n \
             priority 90\n advert_int 40\n {words}\n virtual_ipaddress {{\n {vip}/24\n }}\n}}\n"
        )
    };
    let file = desk.file("weight");
    let rest = [
        format!("track_file f {{\n file {}\n}}\n", file.display()),
        format!(
            "vrrp_script slow {{\n script {check}\n interval 60\n timeout 50\n weight 5\n init_fail\n}}\n"
        ),
        "vrrp_sync_group WAITS {\n group {\n VI_2\n }\n}\n\
         vrrp_sync_group BROKEN {\n group {\n VI_3\n }\n track_interface {\n eth9\n }\n}\n"
            .to_owned(),
        more("VI_2", 52, "", Ipv4Addr::new(10, 79, 0, 101)),
        more("VI_3", 53, "", Ipv4Addr::new(10, 79, 0, 102)),
        "static_ipaddress {\n 10.99.0.1/32 dev lo\n}\n".to_owned(),
        format!("static_routes {{\n 10.98.0.0/24 via {OTHER} dev eth0\n}}\n"),
        format!(
            "virtual_server {VIP} {PORT} {{\n delay_loop 1\n lb_algo rr\n lb_kind DR\n protocol TCP\n \
             sorry_server {OTHER} {PORT}\n real_server {NOBODY} {PORT} {{\n TCP_CHECK {{\n connect_timeout 1\n }}\n }}\n}}\n"
        ),
        format!(
            "virtual_server {VIP} {} {{\n delay_loop 1\n lb_algo rr\n lb_kind DR\n protocol TCP\n \
             real_server {OTHER} {0} {{\n MISC_CHECK {{\n misc_path {misc}\n misc_timeout 50\n user root\n }}\n }}\n}}\n",
            PORT + 1
        ),
    ]
    .concat();
    let words = "track_file {\n f weight 1\n }\n track_script {\n slow\n }";
    let first = config("1", &global, words, "");
    // The suites' harness looks at the first instance.
    format!("{}{rest}", first.replace("priority 101", &format!("priority {priority}")))
}

/// Reads what the kernel tells of addresses and routes of the host.
fn monitor(single: &Single) -> Result<(std::process::Child, PathBuf)> {
    let path = single.dir().join("kernel.said");
    let file = fs::File::create(&path)?;
    let mut command = single.host.netns().command("ip");
    command.args(["-o", "monitor", "address", "route"]).stdout(Stdio::from(file));
    Ok((command.spawn()?, path))
}

/// The greeting and the answers of a mail server, to one mail; its subject.
fn mail(listener: &TcpListener) -> Result<String> {
    let (stream, _) = wait_for("a mail", LIMIT, || Ok(listener.accept().ok()))?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let mut out = &stream;
    out.write_all(b"220 here\r\n")?;
    let (mut subject, mut body) = (String::new(), false);
    for line in BufReader::new(&stream).lines() {
        let line = line?;
        if body {
            if let Some(text) = line.strip_prefix("Subject: ") {
                text.clone_into(&mut subject);
            }
            if line == "." {
                body = false;
                out.write_all(b"250 taken\r\n")?;
            }
            continue;
        }
        match line.split(' ').next().unwrap_or_default() {
            "DATA" => {
                body = true;
                out.write_all(b"354 go on\r\n")?;
            }
            "QUIT" => {
                let _ = out.write_all(b"221 bye\r\n");
                break;
            }
            _ => out.write_all(b"250 yes\r\n")?,
        }
    }
    Ok(subject)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_reload_keeps_whatever_it_does_not_name() -> Result<()> {
    if !single::ready("proc_reload_keeps")? {
        return Ok(());
    }
    let mut single = Single::new()?;
    let desk = Desk { dir: single.dir().to_owned() };
    single.host.netns().ip(&["link", "add", "eth9", "type", "veth", "peer", "name", "eth9p"])?;
    // The sorry server; DR.
    single.other.sysctl("net/ipv4/conf/all/arp_ignore", "1")?;
    single.other.sysctl("net/ipv4/conf/all/arp_announce", "2")?;
    single.other.ip(&["addr", "add", &format!("{VIP}/32"), "dev", "lo"])?;
    let sorry = single.other.enter(|| TcpListener::bind(("0.0.0.0", PORT)))?.context("listen")?;
    let client = single.plug("client", "10.79.0.50/24")?;
    fs::write(desk.file("weight"), "7\n")?;
    let readers = desk.file("readers");
    let scripts = [
        desk.slow(&single, "check")?,
        desk.slow(&single, "misc")?,
        single.script(
            "reader.sh",
            &format!(
                "#!/bin/sh\necho $1 $$ >> {}\nexec cat \"$2\" > /dev/null\n",
                readers.display()
            ),
        )?,
        single
            .script("up.sh", &format!("#!/bin/sh\necho up >> {}\n", desk.file("up").display()))?,
    ];
    single.host.write_config(&text(&desk, &scripts, 101))?;
    single.host.start()?;
    single.wait_master()?;
    let settled = |status: &Status| {
        let state = |name, wanted| named(status, name).is_ok_and(|it| it.state == wanted);
        state("VI_2", VrrpState::Backup)
            && state("VI_3", VrrpState::Fault)
            && instance(status).is_ok_and(|it| it.effective_priority == 108)
            && status.quorum.iter().any(|it| it.sorry_in_use)
    };
    let before = single.wait_status("every part in its state", settled)?;
    let notes = |name: &str| lines(&desk.file(&format!("{name}.notes")));
    wait_true("both checks under way, three readers", LIMIT, || {
        notes("check") == ["began"] && notes("misc") == ["began"] && lines(&readers).len() == 3
    })?;
    let vip = SocketAddr::from((VIP, PORT));
    let _open = wait_for("a connection to the sorry server", LIMIT, || {
        Ok(client.enter(|| TcpStream::connect_timeout(&vip, Duration::from_secs(1)))?.ok())
    })?;
    sorry.set_nonblocking(true)?;
    let connections = |status: &Status| -> u64 {
        let servers = status.forwarder.iter().flat_map(|it| &it.virtual_servers);
        servers.flat_map(|it| &it.real_servers).map(|it| it.connections).sum()
    };
    let (mut said, kernel) = monitor(&single)?;
    let mark = |number: u8| -> Result<()> {
        let mark = format!("203.0.113.{number}");
        wait_true(&format!("the kernel's word of {mark}"), LIMIT, || {
            let _ = single.host.netns().ip(&["route", "add", "blackhole", &mark]);
            let _ = single.host.netns().ip(&["route", "del", "blackhole", &mark]);
            lines(&kernel).iter().any(|line| line.contains(&mark))
        })
    };
    mark(1)?;

    let reloaded = (|| -> Result<()> {
        for priority in [102, 103, 101] {
            single.host.write_config(&text(&desk, &scripts, priority))?;
            let output = single.lbctl(&["reload"])?;
            ensure!(output.status.success(), "{output:?}");
            let status = single.wait_status("the new priority", |status| {
                instance(status).is_ok_and(|it| it.base_priority == priority)
            })?;
            // The tracked file counts on; the check that has not ended has not failed anew nor succeeded.
            let own = instance(&status)?;
            ensure!(own.effective_priority == priority + 7, "{own:#?}");
            ensure!(own.state == VrrpState::Master, "{own:#?}");
            for name in ["VI_2", "VI_3"] {
                let (then, now) = (named(&before, name)?, named(&status, name)?);
                ensure!(now.state == then.state, "{name}: {now:#?}");
                ensure!(now.last_transition_ms == then.last_transition_ms, "{name}: {now:#?}");
            }
            ensure!(status.quorum.iter().any(|it| it.sorry_in_use), "{:#?}", status.quorum);
            ensure!(connections(&status) >= connections(&before), "{status:#?}");
            ensure!(status.processes.iter().all(|it| it.restarts == 0), "{status:#?}");
        }
        Ok(())
    })();
    let kernel_said = reloaded.and_then(|()| mark(2)).map(|()| lines(&kernel));
    said.kill()?;
    said.wait()?;
    // Neither the static objects nor VIPs were taken off or put on again.
    let moved: Vec<String> = kernel_said?
        .into_iter()
        .filter(|line| ["10.99.0.1", "10.98.0.0", "10.79.0.10"].iter().any(|it| line.contains(it)))
        .filter(|line| !line.contains("lladdr"))
        .collect();
    ensure!(moved.is_empty(), "{moved:#?}");

    // Mails of before the first reload have waited; the last of them is the master's.
    let listener = single.host.netns().enter(|| TcpListener::bind(MAIL))??;
    listener.set_nonblocking(true)?;
    let wanted = "[LBD] VRRP Instance VI_1 - Entering MASTER state";
    while mail(&listener)? != wanted {}
    drop(listener);

    let pids: BTreeSet<i32> =
        lines(&readers).iter().filter_map(|line| line.split(' ').nth(1)?.parse().ok()).collect();
    ensure!(pids.len() == 3, "a FIFO's script was started again: {:?}", lines(&readers));
    ensure!(pids.iter().all(|pid| alive(Pid::from_raw(*pid))), "a FIFO's script has ended");
    ensure!(lines(&desk.file("up")) == ["up"], "the start-up script ran again");
    ensure!(notes("check") == ["began"] && notes("misc") == ["began"], "{:?}", notes("check"));

    // What was under way is counted when it ends.
    fs::write(desk.file("go"), "")?;
    wait_until(
        "both checks' own ends, and what they found",
        LIMIT,
        || {
            let status = single.host.status()?;
            let up = status
                .servers
                .iter()
                .any(|it| it.real_server.port() == PORT + 1 && it.health == Health::Up);
            let found = up && instance(&status)?.effective_priority == 101 + 7 + 5;
            Ok(found.then_some(()))
        },
        || format!("{:?} {:?}\n{}", notes("check"), notes("misc"), single.host.log_tail(30)),
    )?;
    ensure!(notes("check") == ["began", "ended"], "{:?}", notes("check"));
    ensure!(
        notes("misc").starts_with(&["began".to_owned(), "ended".to_owned()]),
        "{:?}",
        notes("misc")
    );

    single.host.stop()
}
