//! Debian's kernels: looked up, fetched and unpacked by apt and dpkg, in directories of our own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::shell::{command, output, root, run as run_command, say};

/// A kernel by the suite that carries it. Its version is looked up: Debian prunes old ones.
#[derive(Debug)]
pub struct Kernel {
    /// Our word for it.
    pub name: &'static str,
    suite: &'static str,
    /// In the archive of security updates.
    security: bool,
    /// How the names of its packages begin and end, behind `linux-image-`.
    package: (&'static str, &'static str),
    /// The verifier takes the shipped object. False: it need not, and then lbd must say so and take IPVS.
    pub takes_xdp: bool,
    /// What it does not load when it is asked, so that an operator has to, by blanks.
    pub loaded: &'static str,
}

const KERNELS: [Kernel; 4] = [
    Kernel {
        name: "5.10",
        suite: "bullseye-security",
        security: true,
        package: ("5.10.0-", "-cloud-amd64"),
        takes_xdp: false,
        loaded: "ip_vs",
    },
    Kernel {
        name: "6.1",
        suite: "bookworm-security",
        security: true,
        package: ("6.1.0-", "-cloud-amd64"),
        takes_xdp: true,
        loaded: "",
    },
    Kernel {
        name: "6.12",
        suite: "trixie",
        security: false,
        package: ("6.12.", "+deb13-cloud-amd64"),
        takes_xdp: true,
        loaded: "",
    },
    Kernel {
        name: "newest",
        suite: "trixie-backports",
        security: false,
        package: ("", "+deb13-cloud-amd64"),
        takes_xdp: true,
        loaded: "",
    },
];

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Where Debian is when apt here knows no mirror of it.
const SITE: &str = "http://deb.debian.org/debian";

/// Where a kernel lies unpacked.
#[derive(Debug)]
pub struct Files {
    /// `uname -r`.
    pub release: String,
    /// Debian's version of the package.
    pub version: String,
    pub vmlinuz: PathBuf,
    /// `lib/modules/RELEASE`.
    pub modules: PathBuf,
}

/// The kernels that `words` names: names by comma, or `all`.
///
/// # Errors
/// When a name is none of them.
pub fn chosen(words: &str) -> Result<Vec<&'static Kernel>> {
    if words == "all" {
        return Ok(KERNELS.iter().collect());
    }
    let find = |word: &str| {
        KERNELS.iter().find(|kernel| kernel.name == word).with_context(|| {
            let names: Vec<_> = KERNELS.iter().map(|kernel| kernel.name).collect();
            format!("no kernel `{word}`; there are: {}, all", names.join(", "))
        })
    };
    words.split(',').map(find).collect()
}

/// Fetches the newest of its packages, unless that lies here already.
///
/// # Errors
/// When apt finds none, does not trust it, or cannot fetch it.
pub fn fetch(kernel: &Kernel) -> Result<Files> {
    let base = root().join("target/vm").join(kernel.name);
    let apt = Apt::new(kernel, &base.join("apt"))?;
    if let Err(error) = apt.run(&["update", "-q"]).context("cannot update the lists of apt") {
        // Without a network the one that is here has to do.
        say(&format!("   vm: {error:#}: the lists of before are taken"));
    }
    let names =
        apt.output("apt-cache", &["search", "--names-only", "^linux-image-.*-cloud-amd64$"])?;
    let (start, end) = kernel.package;
    let candidates = names.lines().filter_map(|line| line.split_whitespace().next());
    let release = candidates
        .filter_map(|name| name.strip_prefix("linux-image-"))
        .filter(|release| release.starts_with(start) && release.ends_with(end))
        .filter(|release| !release.contains(".deb11."))
        .max_by_key(|release| numbers(release))
        .with_context(|| format!("{} has no kernel {}", kernel.suite, kernel.name))?
        .to_owned();
    // Newer kernels come in two packages, and linux-image is but their name.
    let parts = ["binary", "modules"].map(|part| format!("linux-{part}-{release}"));
    let listed = apt.output("apt-cache", &["pkgnames", "linux-"])?;
    let there = |name: &String| listed.lines().any(|line| line == name);
    let packages = match parts.iter().all(there) {
        true => parts.to_vec(),
        false => vec![format!("linux-image-{release}")],
    };
    let first = packages.first().context("a package")?;
    let shown = apt.output("apt-cache", &["show", "--no-all-versions", first])?;
    let version = shown.lines().find_map(|line| line.strip_prefix("Version: "));
    let version = version.with_context(|| format!("{first} has no version"))?.to_owned();
    let place = base.join("unpacked");
    let unpacked = || {
        let said = fs::read_to_string(place.join("version")).ok()?;
        (said == format!("{release} {version}")).then_some(())
    };
    if unpacked().is_none() {
        say(&format!("   vm: fetching {} {version} from {}", packages.join(", "), kernel.suite));
        let _ = fs::remove_dir_all(&place); // an older one
        let debs = base.join("debs");
        let _ = fs::remove_dir_all(&debs);
        for directory in [&debs, &place] {
            fs::create_dir_all(directory)
                .with_context(|| format!("cannot make {}", directory.display()))?;
        }
        let mut download = apt.command("apt-get");
        download.args(["download", "-q"]).args(&packages).current_dir(&debs);
        run_command(download).context("cannot fetch the kernel")?;
        for entry in fs::read_dir(&debs)? {
            let words = ["-x", text(&entry?.path())?, text(&place)?].map(str::to_owned);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            run_command(command("dpkg-deb", &words)).context("cannot unpack the kernel")?;
        }
        fs::write(place.join("version"), format!("{release} {version}"))?;
        let _ = fs::remove_dir_all(&debs);
    }
    let modules = [place.join("lib/modules"), place.join("usr/lib/modules")]
        .into_iter()
        .map(|directory| directory.join(&release))
        .find(|directory| directory.is_dir())
        .context("the package has no modules")?;
    // Newer packages have it beside its modules.
    let vmlinuz = [place.join(format!("boot/vmlinuz-{release}")), modules.join("vmlinuz")]
        .into_iter()
        .find(|path| path.is_file())
        .with_context(|| format!("{} has no vmlinuz", packages.join(", ")))?;
    Ok(Files { release, version, vmlinuz, modules })
}

/// apt with lists, cache and sources of its own.
struct Apt {
    config: PathBuf,
}

impl Apt {
    fn new(kernel: &Kernel, base: &Path) -> Result<Self> {
        if !Path::new(KEYRING).exists() {
            bail!("{KEYRING} is missing (package debian-archive-keyring)");
        }
        for directory in ["lists/partial", "cache/archives/partial"] {
            let directory = base.join(directory);
            fs::create_dir_all(&directory)
                .with_context(|| format!("cannot make {}", directory.display()))?;
        }
        let site =
            site(&output("apt-get", &["indextargets", "--format", "$(SITE)"]).unwrap_or_default());
        let site = if kernel.security { format!("{site}-security") } else { site };
        let sources = base.join("sources.list");
        fs::write(&sources, format!("deb [signed-by={KEYRING}] {site} {} main\n", kernel.suite))?;
        let config = base.join("apt.conf");
        let base = text(base)?;
        // What else this machine's apt is told, such as a proxy, stays in force.
        let settings = [
            format!("Dir::Etc::sourcelist \"{base}/sources.list\";"),
            "Dir::Etc::sourceparts \"-\";".to_owned(),
            format!("Dir::State::lists \"{base}/lists\";"),
            format!("Dir::Cache \"{base}/cache\";"),
            "Acquire::Languages \"none\";".to_owned(),
            "Acquire::Retries \"3\";".to_owned(),
            // The directory is ours, and apt's own user may not look into it.
            "APT::Sandbox::User \"root\";".to_owned(),
        ];
        fs::write(&config, settings.join("\n") + "\n")?;
        Ok(Self { config })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = command(program, &[]);
        command.env("APT_CONFIG", &self.config);
        command
    }

    fn run(&self, words: &[&str]) -> Result<()> {
        let mut apt = self.command("apt-get");
        apt.args(words);
        run_command(apt)
    }

    fn output(&self, program: &str, words: &[&str]) -> Result<String> {
        let out = self.command(program).args(words).output();
        let out = out.with_context(|| format!("cannot start {program}"))?;
        if !out.status.success() {
            bail!("{program} {}: {}", words.join(" "), String::from_utf8_lossy(&out.stderr));
        }
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }
}

/// The mirror of Debian among the sites that apt knows.
fn site(sites: &str) -> String {
    let mut sites = sites.lines().map(|line| line.trim().trim_end_matches('/'));
    sites.find(|site| site.ends_with("/debian")).unwrap_or(SITE).to_owned()
}

/// The numbers in a release, for comparing: 6.1.0-9 is before 6.1.0-10.
fn numbers(release: &str) -> Vec<u64> {
    release.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not text", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_chosen_by_name() {
        let names =
            |words| chosen(words).expect("known").iter().map(|it| it.name).collect::<Vec<_>>();
        assert_eq!(names("6.1"), ["6.1"]);
        assert_eq!(names("newest,5.10"), ["newest", "5.10"]);
        assert_eq!(names("all").len(), KERNELS.len());
        let error = chosen("4.19").expect_err("long gone").to_string();
        assert!(error.contains("`4.19`") && error.contains("6.12"), "{error}");
    }

    #[test]
    fn the_newest_release_is_found_by_numbers() {
        let releases = ["6.1.0-9-cloud-amd64", "6.1.0-10-cloud-amd64", "6.1.0-2-cloud-amd64"];
        let newest = releases.iter().max_by_key(|release| numbers(release));
        assert_eq!(newest, Some(&"6.1.0-10-cloud-amd64"));
    }

    #[test]
    fn the_mirror_is_the_one_that_apt_knows() {
        let sites = "https://deb.nodesource.com/node_20.x\nhttp://mirror.example/debian/\n";
        assert_eq!(site(sites), "http://mirror.example/debian");
        assert_eq!(site("https://deb.nodesource.com/node_20.x\n"), SITE);
    }
}
