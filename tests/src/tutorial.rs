//! The classic dual-master host: check scripts in /opt, an init script, the daemon under
//! keepalived's name. Own texts with the tutorial scripts' behaviour, or the tutorial's own ([`Seed`]).

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{
    host::{Host, Program, bin_dir},
    jail::Bind,
    lab::{HOSTS, VIP},
    mariadb::ROOT_PASSWORD,
};

/// The three check scripts of the tutorial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    /// Nobody listens on 3306: stops the daemon by its init script.
    Netstat,
    /// `show status` fails three times: `pkill keepalived`.
    ShowStatus,
    /// As before; on the host with the VIP it "mounts" the shared disk (a directory here),
    /// restarts the server and, if that fails, the daemon.
    SharedDisk,
}

/// Where the tutorial itself can be read. With it local mode runs its files and scripts.
pub const SEED: &str = "LB_SEED";

/// The tutorial's own files, as they stand there, but for interface, addresses and the shared disk.
#[derive(Clone, Debug)]
pub struct Seed {
    /// keepalived.conf of master and slave.
    configs: [String; 2],
    scripts: [String; 3],
}

impl Seed {
    /// The one that [`SEED`] names, if it does.
    ///
    /// # Errors
    /// When it cannot be read or is not that tutorial.
    pub fn from_env() -> Result<Option<Self>> {
        let Some(path) = std::env::var_os(SEED) else { return Ok(None) };
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        eprintln!("local mode runs the files of {}", path.display());
        // The page it was taken from indents by blanks that do not break, which bash takes for words.
        Self::cut(&text.replace('\u{a0}', " "))
            .with_context(|| format!("{} is another text", path.display()))
            .map(Some)
    }

    fn cut(text: &str) -> Option<Self> {
        let between = |number: usize, begin: &str, end: &str| -> Option<String> {
            let (at, _) = text.match_indices(begin).nth(number)?;
            let rest = &text[at..];
            Some(rest[..rest.find(end).unwrap_or(rest.len())].to_owned())
        };
        let config = |number, end| {
            let file = between(number, "! Configuration File for keepalived", end)?;
            let [master, slave] = HOSTS.map(|addr| addr.to_string());
            Some(
                file.replace("ens33", "eth0")
                    .replace("192.168.0.102", &VIP.to_string())
                    .replace("192.168.0.103", &master)
                    .replace("192.168.0.104", &slave),
            )
        };
        let script = |number, end| between(number, "#!/bin/bash", end);
        let shared = script(3, "\u{0}")?
            .replace("192.168.0.102", &VIP.to_string())
            .replace("umount /dev/mapper/mpathb", "rmdir /run/diskarray/mounted")
            .replace("mount /dev/mapper/mpathb /opt/diskarray", "mkdir -p /run/diskarray/mounted");
        Some(Self {
            configs: [config(0, "3)")?, config(1, "[root@slave ~]# cat")?],
            scripts: [script(0, "[root@master ~]# chmod")?, script(2, "案例二")?, shared],
        })
    }

    /// keepalived.conf of host 0 or 1.
    pub fn config(&self, host: usize) -> Option<&str> {
        self.configs.get(host).map(String::as_str)
    }

    fn script(&self, script: Script) -> &str {
        let [netstat, show_status, shared_disk] = &self.scripts;
        match script {
            Script::Netstat => netstat,
            Script::ShowStatus => show_status,
            Script::SharedDisk => shared_disk,
        }
    }
}

impl Script {
    /// The text of /opt/chk_mysql.sh.
    fn text(self) -> String {
        match self {
            Self::Netstat => NETSTAT.to_owned(),
            Self::ShowStatus => format!("{PROBE}\n{SHOW_STATUS}").replace("@PASS@", ROOT_PASSWORD),
            Self::SharedDisk => format!("{PROBE}\n{SHARED_DISK}")
                .replace("@PASS@", ROOT_PASSWORD)
                .replace("@VIP@", &VIP.to_string()),
        }
    }
}

const NETSTAT: &str = r#"#!/bin/bash
# No listener on the MySQL port: this host must not keep the VIP.
listeners=$(netstat -na | grep "LISTEN" | grep "3306" | wc -l)
if [ "${listeners}" -eq 0 ]; then
    /etc/init.d/keepalived stop
fi
"#;

const PROBE: &str = r#"#!/bin/bash
tries=3
probe() {
    /usr/bin/mysql -h localhost -u root -p@PASS@ -e "show status;" >/dev/null 2>&1
}
"#;

const SHOW_STATUS: &str = r#"while [ "$tries" -ne 0 ]; do
    let "tries -= 1"
    if probe; then
        exit 0
    fi
    if [ "$tries" -eq 0 ]; then
        pkill keepalived
        exit 1
    fi
    sleep 1
done
"#;

const SHARED_DISK: &str = r#"while [ "$tries" -ne 0 ]; do
    let "tries -= 1"
    if probe; then
        exit 0
    fi
    ip a | grep -q "@VIP@"
    here=$?
    if [ "$here" -eq 0 ] && [ "$tries" -eq 0 ]; then
        mkdir -p /run/diskarray/mounted
        echo "the VIP is here, mysql is down"
        service mysqld restart
        if [ $? -ne 0 ]; then
            echo "the VIP is here, but mysql does not work"
            /etc/init.d/keepalived restart
            rmdir /run/diskarray/mounted
            exit 1
        fi
        exit 3
    elif [ "$tries" -eq 0 ]; then
        echo "no VIP here, mysql is down"
        exit 5
    fi
    sleep 2
done
"#;

/// The init script that lbd ships.
const SHIPPED_INIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/init.d-keepalived");

/// Real keepalived's init script, as classic packages had it: start, stop and restart by pid file.
const INIT: &str = r#"#!/bin/bash
pidfile=/run/keepalived.pid
running() { [ -s $pidfile ] && kill -0 "$(cat $pidfile)" 2>/dev/null; }
start() {
    running && return 0
    setsid /usr/sbin/keepalived -n -l -D -P -p $pidfile </dev/null >>@LOG@ 2>&1 &
}
stop() {
    running || return 0
    pid=$(cat $pidfile)
    kill -TERM "$pid"
    for _ in $(seq 100); do
        kill -0 "$pid" 2>/dev/null || return 0
        sleep 0.1
    done
    return 1
}
case "$1" in
    start) start ;;
    stop) stop ;;
    restart) stop; start ;;
    *) echo "usage: $0 start|stop|restart"; exit 2 ;;
esac
"#;

/// The database's init script: what `service mysqld restart` finds. It always fails here: the
/// lab, not the script, decides when a server comes back.
const MYSQLD: &str = "#!/bin/bash\necho \"$*\" >> /run/mysqld-service\nexit 1\n";

/// Turns a host into one of the tutorial's: everything is mounted in a jail of its own.
///
/// # Errors
/// When a file cannot be written or the jail cannot be made.
pub fn furnish(host: &mut Host, datadir: &Path, script: Script, seed: Option<&Seed>) -> Result<()> {
    let root = host.dir().join("root");
    let opt = directory(&root, "opt")?;
    let init = directory(&root, "init.d")?;
    let etc = directory(&root, "keepalived")?;
    let run = host.dir().join("run");
    let defaults = directory(&root, "default")?;
    match host.program() {
        Program::Lbd => {
            let options = format!("-l -D --instance {} --run-dir /run/lbd", host.instance());
            ship_init(&init, &defaults, &options, &host.log())?;
        }
        Program::Keepalived => {
            let text = INIT.replace("@LOG@", &host.log().display().to_string());
            executable(&init.join("keepalived"), &text)?;
        }
    }
    let text = seed.map_or_else(|| script.text(), |seed| seed.script(script).to_owned());
    executable(&opt.join("chk_mysql.sh"), &text)?;
    // The tutorial's third script calls it by the second name.
    for name in ["mysqld", "mysqll"] {
        executable(&init.join(name), MYSQLD)?;
    }
    let binds = [
        bind(&opt, "/opt"),
        bind(&init, "/etc/init.d"),
        bind(&defaults, "/etc/default"),
        bind(&etc, "/etc/keepalived"),
        bind(&run, "/run/lbd"),
        bind(datadir, "/run/mysqld"),
    ];
    host.jail_in(&etc.join("keepalived.conf"), &binds)
}

/// Puts the init script that lbd ships, unchanged, into `init` and its settings into `defaults`
/// (seen as /etc/init.d and /etc/default in a jail).
///
/// # Errors
/// When a file cannot be written.
pub fn ship_init(init: &Path, defaults: &Path, options: &str, log: &Path) -> Result<()> {
    fs::copy(SHIPPED_INIT, init.join("keepalived"))
        .with_context(|| format!("cannot copy {SHIPPED_INIT}"))?;
    let text = format!(
        "LBD={}\nKEEPALIVED_OPTIONS=\"{options}\"\nLOGFILE={}\n",
        bin_dir().join("lbd").display(),
        log.display()
    );
    let path = defaults.join("keepalived");
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn directory(root: &Path, name: &str) -> Result<PathBuf> {
    let path = root.join(name);
    fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path)
}

fn executable(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot make {} executable", path.display()))
}

fn bind(source: &Path, target: &str) -> Bind {
    Bind { source: source.to_owned(), target: PathBuf::from(target) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page of the tutorial's shape.
    const PAGE: &str = "two hosts\n! Configuration File for keepalived\nvrrp_instance A { \
        # master\n interface ens33\n mcast_src_ip 192.168.0.103\n 192.168.0.102\n}\n3) a script\n\
        #!/bin/bash\nnetstat\n[root@master ~]# chmod +x\n\
        ! Configuration File for keepalived\nvrrp_instance A {\n interface ens33\n mcast_src_ip 192.168.0.104\n}\n\
        [root@slave ~]# cat chk\n#!/bin/bash\nnetstat, again\n\
        then\n#!/bin/bash\nshow status\n案例二\n\
        #!/bin/bash\nip a | grep 192.168.0.102\nmount /dev/mapper/mpathb /opt/diskarray\n\
        umount /dev/mapper/mpathb\nexit 3\n";

    #[test]
    fn the_page_gives_its_files_as_they_stand_there() {
        let seed = Seed::cut(PAGE).expect("a page of that shape");
        let [master, slave] = HOSTS.map(|addr| addr.to_string());
        assert_eq!(
            seed.config(0).expect("the master's"),
            format!(
                "! Configuration File for keepalived\nvrrp_instance A {{ # master\n interface eth0\n \
                 mcast_src_ip {master}\n {VIP}\n}}\n"
            )
        );
        assert!(seed.config(1).is_some_and(|it| it.contains(&slave) && !it.contains("cat chk")));
        assert_eq!(seed.script(Script::Netstat), "#!/bin/bash\nnetstat\n");
        assert_eq!(seed.script(Script::ShowStatus), "#!/bin/bash\nshow status\n");
        assert_eq!(
            seed.script(Script::SharedDisk),
            format!(
                "#!/bin/bash\nip a | grep {VIP}\nmkdir -p /run/diskarray/mounted\n\
                 rmdir /run/diskarray/mounted\nexit 3\n"
            )
        );
        assert!(Seed::cut("another page").is_none());
    }
}
