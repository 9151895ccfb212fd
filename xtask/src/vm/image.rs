//! The guest's root: an initramfs with lbd, the suites, and what they call.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs::{self, File},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use super::kernel::Files;
use crate::{
    setup::find,
    shell::{command, output, root, run as run_command, say},
};

/// Programs of this machine that go into every image, with their libraries. busybox has the rest.
const PROGRAMS: [&str; 14] = [
    "ip",
    "bash",
    "ethtool",
    "ipvsadm",
    "keepalived",
    "kmod",
    "mount",
    "nft",
    "nsenter",
    "pkill",
    "tcpdump",
    "unshare",
    "ping",
    "umount",
];
/// Modules that are there to be loaded, with what they need.
const MODULES: [&str; 32] = [
    "bridge",
    "cls_bpf",
    "dummy",
    "fou",
    "gre",
    "ip6_tunnel",
    "ip_gre",
    "ip_vs",
    "ip_vs_dh",
    "ip_vs_fo",
    "ip_vs_lblc",
    "ip_vs_lblcr",
    "ip_vs_lc",
    "ip_vs_mh",
    "ip_vs_nq",
    "ip_vs_ovf",
    "ip_vs_pe_sip",
    "ip_vs_rr",
    "ip_vs_sed",
    "ip_vs_sh",
    "ip_vs_twos",
    "ip_vs_wlc",
    "ip_vs_wrr",
    "ipip",
    "macvlan",
    "nf_conntrack",
    "nf_tables",
    "sch_ingress",
    "sch_netem",
    "sctp",
    "tcp_diag",
    "veth",
];
/// Modules that init loads; the kernel asks for all others itself, by their aliases.
const LOADED: &str = "veth bridge macvlan dummy nf_conntrack";
/// Files of this machine that name users.
const ETC: [&str; 5] = ["passwd", "group", "nsswitch.conf", "protocols", "services"];

/// What an image is for.
#[derive(Debug)]
pub struct Contents<'a> {
    /// Suite by name, with its binary.
    pub suites: &'a BTreeMap<String, PathBuf>,
    pub script: Option<&'a Path>,
    pub programs: &'a [&'a str],
    /// Arguments of each suite.
    pub words: &'a [String],
    /// Whether the kernel is to take the XDP object.
    pub takes_xdp: bool,
    /// Further modules that init loads.
    pub loaded: &'a str,
}

/// Builds the suites and says where their binaries are.
///
/// # Errors
/// When cargo fails or makes no binary of that name.
pub fn build_suites(names: &[&str]) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    if names.is_empty() {
        return Ok(found);
    }
    // The packages of `cargo xtask test`: another choice has other features, and everything would be compiled again.
    let words = ["test", "--workspace", "--exclude", "lb-ebpf", "--locked", "--no-run"];
    let mut cargo = command("cargo", &words);
    for name in names {
        cargo.args(["--test", name]);
    }
    cargo.arg("--message-format=json").env("LBD_REQUIRE_BPF", "1").env_remove("AYA_BUILD_SKIP");
    say(&format!("   $ {}", crate::shell::words(&cargo)));
    let out = cargo.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    if !out.status.success() {
        bail!("the suites {} cannot be built", names.join(", "));
    }
    for line in String::from_utf8_lossy(&out.stdout).lines() {
        let Ok(message) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        let name = message.pointer("/target/name").and_then(|it| it.as_str());
        let path = message.get("executable").and_then(|it| it.as_str());
        if let (Some(name), Some(path)) = (name, path)
            && names.contains(&name)
        {
            found.insert(name.to_owned(), PathBuf::from(path));
        }
    }
    match names.iter().find(|name| !found.contains_key(**name)) {
        Some(missing) => bail!("cargo made no binary of the suite {missing}"),
        None => Ok(found),
    }
}

/// Makes the image; its path.
///
/// # Errors
/// When a program or module that it needs is missing, or cpio fails.
pub fn make(name: &str, kernel: &Files, contents: &Contents<'_>) -> Result<PathBuf> {
    let place = root().join("target/vm").join(name);
    let mut tree = Tree { root: place.join("root"), copied: BTreeSet::new() };
    let _ = fs::remove_dir_all(&tree.root);
    for directory in [
        "bin",
        "sbin",
        "usr/bin",
        "usr/sbin",
        "lib",
        "etc",
        "proc",
        "sys",
        "dev",
        "run/netns",
        "tmp",
        "root",
        "var/tmp",
        "suites",
    ] {
        let directory = tree.root.join(directory);
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
    }
    symlink("/run", tree.root.join("var/run"))?;
    tree.copy(&program("busybox")?, "/bin/busybox")?;
    for name in PROGRAMS.iter().chain(contents.programs) {
        let path = program(name)?;
        tree.program(&path)?;
        // Debian's own directories are one, and ours are not.
        let short = format!("/bin/{name}");
        if !tree.root.join(short.trim_start_matches('/')).exists() {
            symlink(&path, tree.root.join(short.trim_start_matches('/')))?;
        }
    }
    // The kernel calls it by this name.
    symlink("/bin/kmod", tree.root.join("sbin/modprobe"))?;
    for name in ["lbd", "lbctl"] {
        let path = binaries().join(name);
        // A look around may come before the first build.
        if contents.script.is_some() && !path.is_file() {
            continue;
        }
        tree.program(&path)?;
        symlink(&path, tree.root.join("usr/sbin").join(name))?;
    }
    for (suite, path) in contents.suites {
        tree.program(path)?;
        symlink(path, tree.root.join("suites").join(suite))?;
    }
    for name in ETC {
        let path = Path::new("/etc").join(name);
        if path.is_file() {
            tree.copy(&path, &path.display().to_string())?;
        }
    }
    if let Some(script) = contents.script {
        tree.copy(script, "/suites/script.sh")?;
    }
    modules(&tree, kernel)?;
    let init = tree.root.join("init");
    fs::write(&init, script(contents))?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    let image = place.join("initramfs");
    pack(&tree.root, &image)?;
    fs::remove_dir_all(&tree.root).context("cannot remove what was packed")?;
    Ok(image)
}

/// Where lbd and lbctl are, here and in the guest: `LBD_BIN_DIR`, as for the suites, else target/release.
fn binaries() -> PathBuf {
    std::env::var_os("LBD_BIN_DIR").map_or_else(|| root().join("target/release"), PathBuf::from)
}

/// What the guest does. Marks are at the beginning of a line: the console has more on it.
fn script(contents: &Contents<'_>) -> String {
    let quoted: Vec<String> =
        contents.words.iter().map(|word| format!("'{}'", word.replace('\'', ""))).collect();
    let words = quoted.join(" ");
    let mut lines = vec![
        "#!/bin/busybox sh".to_owned(),
        "/bin/busybox --install -s /bin".to_owned(),
        "export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TMPDIR=/tmp".to_owned(),
        "mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev"
            .to_owned(),
        "mkdir -p /dev/pts /dev/shm; mount -t devpts devpts /dev/pts; mount -t tmpfs shm /dev/shm"
            .to_owned(),
        "mount -t tmpfs -o mode=1777 tmp /tmp; mount -t tmpfs run /run; mkdir -p /run/netns"
            .to_owned(),
        "mount -t bpf bpf /sys/fs/bpf; mount -t cgroup2 cgroup /sys/fs/cgroup".to_owned(),
        "ln -sf /proc/self/fd /dev/fd; hostname vm; ip link set lo up".to_owned(),
        format!(
            "for module in {LOADED} {}; do modprobe $module || echo \"no module $module\"; done",
            contents.loaded
        ),
        // rmdir of a test's own directories is all that may fail for want of space.
        format!(
            "export LB_NO_SKIP=1 LBD_IN_VM=1 RUST_BACKTRACE=1 LBD_BIN_DIR={}",
            binaries().display()
        ),
        "echo; echo \"@@vm booted $(cut -d' ' -f1 /proc/uptime)\"".to_owned(),
    ];
    if contents.takes_xdp {
        lines.push("export LBD_EXPECT_XDP=1".to_owned());
    }
    let mut run = |name: &str, what: &str| {
        lines.push(format!("export LBD_VM_NOTES=/tmp/notes.{name}; : > $LBD_VM_NOTES"));
        lines.push(format!("echo '@@vm begin {name}'"));
        lines.push(what.to_owned());
        lines.push(format!(
            "code=$?; echo; sed 's/^/@@vm note /' $LBD_VM_NOTES; echo \"@@vm end {name} $code $(cut -d' ' -f1 /proc/uptime)\""
        ));
    };
    if contents.script.is_some() {
        run("script", "sh /suites/script.sh");
    }
    for suite in contents.suites.keys() {
        let what = format!("/suites/{suite} --include-ignored --test-threads=1 {words}");
        run(suite, &what);
    }
    lines.push("echo '@@vm off'; sync; poweroff -f".to_owned());
    lines.join("\n") + "\n"
}

/// A tree of files that grows.
struct Tree {
    root: PathBuf,
    copied: BTreeSet<PathBuf>,
}

impl Tree {
    /// A file, at another place.
    fn copy(&self, from: &Path, to: &str) -> Result<()> {
        let to = self.root.join(to.trim_start_matches('/'));
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)
                .with_context(|| format!("cannot make {}", parent.display()))?;
        }
        fs::copy(from, &to)
            .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
        Ok(())
    }

    /// A program and its libraries, each where it is on this machine.
    fn program(&mut self, path: &Path) -> Result<()> {
        let at = path.to_str().with_context(|| format!("{} is not text", path.display()))?;
        for library in libraries(&output("ldd", &[at]).unwrap_or_default()) {
            if self.copied.insert(library.clone()) {
                self.copy(&library, &library.display().to_string())?;
            }
        }
        if self.copied.insert(path.to_owned()) {
            self.copy(path, at)?;
            let copy = self.root.join(at.trim_start_matches('/'));
            // Line tables are most of a suite, and no use in there. A script has none.
            let _ = Command::new("strip").arg(copy).stderr(Stdio::null()).status();
        }
        Ok(())
    }
}

/// Paths in what ldd prints.
fn libraries(said: &str) -> Vec<PathBuf> {
    let path = |line: &str| {
        let word = line.split_whitespace().find(|word| word.starts_with('/'))?;
        Some(PathBuf::from(word))
    };
    said.lines().filter_map(path).collect()
}

/// A program of this machine.
fn program(name: &str) -> Result<PathBuf> {
    find(name).with_context(|| format!("`{name}` is not installed here: cargo xtask setup"))
}

/// Modules with what they need, unpacked, and the index of them.
fn modules(tree: &Tree, kernel: &Files) -> Result<()> {
    let index = match fs::read_to_string(kernel.modules.join("modules.dep")) {
        Ok(text) => text,
        // Debian makes it when a package is installed.
        Err(_) => {
            let base = kernel
                .modules
                .ancestors()
                .find(|it| it.file_name() == Some(OsStr::new("lib")))
                .and_then(Path::parent)
                .context("modules are below lib")?;
            let base = base.to_str().context("the path of the modules is not text")?;
            run_command(command("depmod", &["-b", base, &kernel.release]))
                .context("cannot list the modules")?;
            fs::read_to_string(kernel.modules.join("modules.dep")).context("modules.dep")?
        }
    };
    let place = format!("/lib/modules/{}", kernel.release);
    for file in needed(&index, &MODULES) {
        let to = format!("{place}/{file}");
        tree.copy(&kernel.modules.join(&file), &to)?;
        if file.ends_with(".xz") {
            let path = tree.root.join(to.trim_start_matches('/'));
            let path = path.to_str().context("the path of a module is not text")?;
            let unpacked = command("xz", &["-d", path]).status().context("cannot start xz")?;
            if !unpacked.success() {
                bail!("xz cannot unpack {file}");
            }
        }
    }
    for file in ["modules.builtin", "modules.order", "modules.builtin.modinfo"] {
        let from = kernel.modules.join(file);
        if from.exists() {
            tree.copy(&from, &format!("{place}/{file}"))?;
        }
    }
    let base = tree.root.to_str().context("the path of the image is not text")?;
    run_command(command("depmod", &["-b", base, &kernel.release])).context("cannot list modules")
}

/// Files of the modules and of what they need. What a kernel has built in has no file.
fn needed(index: &str, names: &[&str]) -> BTreeSet<String> {
    let mut files = BTreeSet::new();
    for line in index.lines() {
        let Some((file, needs)) = line.split_once(':') else { continue };
        let stem = file.rsplit('/').next().and_then(|name| name.split('.').next());
        let stem = stem.unwrap_or_default().replace('-', "_");
        if names.iter().any(|name| *name == stem) {
            files.insert(file.to_owned());
            files.extend(needs.split_whitespace().map(str::to_owned));
        }
    }
    files
}

/// `find | cpio -H newc`.
fn pack(directory: &Path, image: &Path) -> Result<()> {
    let file = File::create(image).with_context(|| format!("cannot make {}", image.display()))?;
    let mut find = command("find", &[".", "-print0"]);
    let mut find = find.current_dir(directory).stdout(Stdio::piped()).spawn()?;
    let list = find.stdout.take().context("find has no output")?;
    let mut cpio = command("cpio", &["--null", "-o", "-H", "newc", "--quiet", "-R", "0:0"]);
    let status = cpio.current_dir(directory).stdin(list).stdout(file).status();
    let status = status.context("cannot start cpio")?;
    let listed = find.wait().context("cannot wait for find")?;
    if !status.success() || !listed.success() {
        bail!("cannot pack {} ({listed}, {status})", directory.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_brings_what_it_needs() {
        let index = "kernel/net/ipvs/ip_vs.ko: kernel/net/nf_conntrack.ko kernel/lib/crc.ko\n\
                     kernel/net/nf_conntrack.ko: kernel/lib/crc.ko\n\
                     kernel/net/ipvs/ip_vs_rr.ko.xz: kernel/net/ipvs/ip_vs.ko\n\
                     kernel/net/sch-ingress.ko:\nkernel/drivers/other.ko:\n";
        let files = needed(index, &["ip_vs", "sch_ingress"]);
        let want = [
            "kernel/lib/crc.ko",
            "kernel/net/ipvs/ip_vs.ko",
            "kernel/net/nf_conntrack.ko",
            "kernel/net/sch-ingress.ko",
        ];
        assert_eq!(files.into_iter().collect::<Vec<_>>(), want);
    }

    #[test]
    fn libraries_are_read_from_ldd() {
        let said = "\tlinux-vdso.so.1 (0x00007ffe)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f1)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f2)\n\tlibgone.so => not found\n";
        let want = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(libraries(said), want.map(PathBuf::from));
        assert!(libraries("\tnot a dynamic executable\n").is_empty());
    }
}
