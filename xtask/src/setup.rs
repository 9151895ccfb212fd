//! `cargo xtask setup`: what building and testing need, installed when it is missing.
//!
//! Idempotent: each step says what it found. Without root or apt it says exactly what is missing.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    fuzz,
    shell::{command, output, run as run_command, say},
    vm,
};

/// Programs that the lab and the root suites call, and the Debian package of each.
const PROGRAMS: [(&str, &str); 18] = [
    ("cc", "build-essential"),
    ("mariadbd", "mariadb-server"),
    ("mariadb", "mariadb-client"),
    ("keepalived", "keepalived"),
    ("ip", "iproute2"),
    ("ethtool", "ethtool"),
    ("tcpdump", "tcpdump"),
    ("arping", "iputils-arping"),
    ("ping", "iputils-ping"),
    ("netstat", "net-tools"),
    ("nft", "nftables"),
    ("pkill", "procps"),
    ("killall", "psmisc"),
    ("nsenter", "util-linux"),
    ("mount", "mount"),
    ("openssl", "openssl"),
    ("script", "bsdutils"),
    ("systemd-analyze", "systemd"),
];

const POLICY: &str = "/usr/sbin/policy-rc.d";

/// One step: whether it had to change this machine.
type Step = fn() -> Result<bool>;

/// Everything that building, the lab and the suites need. Returns how many steps changed the
/// machine.
///
/// # Errors
/// When something is missing that cannot be installed here; the message lists it all.
pub fn run() -> Result<usize> {
    perform(&[rust_source, linker, fuzzer, packages])
}

/// What the guests of `cargo xtask vm` need: the programs alone.
///
/// # Errors
/// As [`run`].
pub fn vm() -> Result<()> {
    perform(&[packages]).map(drop)
}

/// What building lbd needs, and nothing of the lab's: for a host that is to run it.
///
/// # Errors
/// As [`run`].
pub fn toolchain() -> Result<usize> {
    perform(&[rust_source, linker])
}

fn perform(steps: &[Step]) -> Result<usize> {
    let (mut changed, mut missing) = (0, Vec::new());
    for step in steps {
        match step() {
            Ok(change) => changed += usize::from(change),
            Err(err) => missing.push(format!("{err:#}")),
        }
    }
    if missing.is_empty() {
        return Ok(changed);
    }
    bail!("set-up is not complete:\n  {}", missing.join("\n  "))
}

/// Nightly with rust-src: build-std for the BPF target needs the sources of core.
fn rust_source() -> Result<bool> {
    if output("rustup", &["--version"]).is_none() {
        bail!("rustup is missing: install it from https://rustup.rs");
    }
    let sysroot = || output("rustup", &["run", "nightly", "rustc", "--print", "sysroot"]);
    let installed = sysroot().is_some();
    if !installed {
        step("nightly toolchain", "installing");
        let words = ["toolchain", "install", "nightly", "--profile", "minimal"];
        run_command(command("rustup", &words)).context("cannot install the nightly toolchain")?;
    }
    let sysroot = sysroot().context("the nightly toolchain does not start")?;
    if Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core").is_dir() {
        step("rust-src for nightly", "there");
        return Ok(!installed);
    }
    step("rust-src for nightly", "adding");
    let words = ["component", "add", "rust-src", "--toolchain", "nightly"];
    run_command(command("rustup", &words)).context("cannot add rust-src to nightly")?;
    Ok(true)
}

/// bpf-linker 0.10, built with nightly against rustc's own LLVM (no system LLVM).
fn linker() -> Result<bool> {
    let found = output("bpf-linker", &["--version"]).unwrap_or_default();
    if found.trim().starts_with("bpf-linker 0.10.") {
        step("bpf-linker 0.10", found.trim());
        return Ok(false);
    }
    step("bpf-linker 0.10", if found.is_empty() { "installing" } else { "replacing" });
    let words =
        ["run", "nightly", "cargo", "install", "--locked", "bpf-linker", "--version", "^0.10"];
    run_command(command("rustup", &words)).context("cannot install bpf-linker 0.10")?;
    Ok(true)
}

/// cargo-fuzz is wanted by one task only: told, not installed.
fn fuzzer() -> Result<bool> {
    if fuzz::available() {
        step("cargo-fuzz", "there");
    } else {
        step("cargo-fuzz", &format!("missing, only `xtask fuzz` needs it: {}", fuzz::INSTALL));
    }
    Ok(false)
}

/// Debian packages of the suites and of the guests, when apt and root are there.
fn packages() -> Result<bool> {
    install(&[&PROGRAMS[..], &vm::PROGRAMS].concat())
}

fn install(programs: &[(&str, &'static str)]) -> Result<bool> {
    let absent = absent(programs, |program| find(program).is_some());
    if absent.is_empty() {
        step("programs of the lab", "there");
        return Ok(false);
    }
    let list = absent.join(" ");
    let may = find("apt-get").is_some() && nix::unistd::geteuid().is_root();
    installable(may, &list)?;
    step("programs of the lab", &format!("installing {list}"));
    let _quiet = NoServices::begin()?;
    let apt = |words: &[&str]| {
        let mut apt = command("apt-get", words);
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        run_command(apt)
    };
    apt(&["update", "-q"]).context("cannot update apt's lists")?;
    let mut words = vec!["install", "-q", "-y", "--no-install-recommends"];
    words.extend(absent);
    apt(&words).with_context(|| format!("cannot install {list}"))?;
    Ok(true)
}

/// Packages of the programs that are not there, each once.
fn absent(programs: &[(&str, &'static str)], there: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let missing = programs.iter().filter(|(program, _)| !there(program));
    let mut packages: Vec<&str> = missing.map(|(_, package)| *package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

/// `may`: apt is there, and we are root.
fn installable(may: bool, list: &str) -> Result<()> {
    if !may {
        bail!(
            "programs of these Debian packages are missing (installing needs apt and root): {list}"
        );
    }
    Ok(())
}

/// Keeps apt from starting the services it installs, by a policy-rc.d of our own that is taken
/// away again; one that is there already is left alone.
struct NoServices {
    ours: bool,
}

impl NoServices {
    fn begin() -> Result<Self> {
        if Path::new(POLICY).exists() {
            return Ok(Self { ours: false });
        }
        fs::write(POLICY, "#!/bin/sh\nexit 101\n")
            .and_then(|()| fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("cannot write {POLICY}"))?;
        Ok(Self { ours: true })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours {
            let _ = fs::remove_file(POLICY);
        }
    }
}

/// A program on the PATH, or where Debian keeps an administrator's.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

fn step(what: &str, state: &str) {
    say(&format!("   setup: {what}: {state}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every step is tried, and what is missing is listed, all of it.
    #[test]
    fn what_is_missing_is_listed_and_nothing_hides_the_rest() {
        let there: Step = || Ok(false);
        let installed: Step = || Ok(true);
        assert_eq!(perform(&[there, installed, installed]).expect("complete"), 2);
        let missing = perform(&[
            || bail!("rustup is missing"),
            installed,
            || Err(anyhow::anyhow!("no network").context("cannot install bpf-linker 0.10")),
            || installable(false, "keepalived mariadb-server").map(|()| true),
        ]);
        let said = missing.expect_err("three are missing").to_string();
        let lines: Vec<&str> = said.lines().map(str::trim).collect();
        assert_eq!(
            lines,
            [
                "set-up is not complete:",
                "rustup is missing",
                "cannot install bpf-linker 0.10: no network",
                "programs of these Debian packages are missing (installing needs apt and root): \
                 keepalived mariadb-server",
            ]
        );
    }

    #[test]
    fn packages_are_those_of_the_programs_that_are_not_there() {
        assert_eq!(absent(&PROGRAMS, |_| true), Vec::<&str>::new());
        assert_eq!(
            absent(&PROGRAMS, |program| !["keepalived", "ip"].contains(&program)),
            ["iproute2", "keepalived"]
        );
        let all = absent(&PROGRAMS, |_| false);
        assert!(all.is_sorted() && all.contains(&"mariadb-server"), "{all:?}");
        assert!(installable(true, "x").is_ok());
    }
}
