//! The forms of a pair: protocol, address family, delivery; and the configuration of its members.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{HIGH, with_len};

/// Protocol version with its authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    V2,
    V2Pass,
    V2Ah,
    V3,
}

/// What adverts travel over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// How adverts are delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cast {
    Multi,
    Uni,
}

/// The form of a pair's adverts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    pub protocol: Protocol,
    pub family: Family,
    pub cast: Cast,
}

impl Form {
    /// Whether its adverts and VIPs are IPv6.
    pub fn is_v6(self) -> bool {
        self.family == Family::V6
    }

    /// The VIP by which the master is known.
    pub fn vip(self) -> IpAddr {
        self.address(100)
    }

    fn address(self, last: u8) -> IpAddr {
        match self.family {
            Family::V4 => Ipv4Addr::new(10, 77, 0, last).into(),
            Family::V6 => Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, last.into()).into(),
        }
    }

    fn own(self, index: usize) -> IpAddr {
        self.address(if index == HIGH { 10 } else { 11 })
    }

    /// Addresses of a host, with prefix lengths.
    pub fn addresses(self, index: usize) -> Vec<String> {
        let own = self.own(index);
        let link_local = match own {
            IpAddr::V4(_) => None,
            IpAddr::V6(own) => Some(in_link(own)),
        };
        link_local.into_iter().chain([own]).map(with_len).collect()
    }

    /// `advert_int`: the least that VRRPv2 can say; with VRRPv3 the tests are faster, yet slow enough
    /// for a farewell to differ from silence by more than [`super::SLACK`], and for a lease, and master-down, to
    /// outlast a process that is not run for so long after its last advert.
    pub fn interval(self) -> Duration {
        match self.protocol {
            Protocol::V3 => Duration::from_millis(800),
            Protocol::V2 | Protocol::V2Pass | Protocol::V2Ah => Duration::from_secs(1),
        }
    }

    /// RFC 3768 §6.1, RFC 9568 §6.1.
    pub fn skew(self, priority: u8) -> Duration {
        let unit =
            if self.protocol == Protocol::V3 { self.interval() } else { Duration::from_secs(1) };
        unit * (256 - u32::from(priority)) / 256
    }

    /// RFC 3768 §6.1, RFC 9568 §6.1.
    pub fn master_down(self, priority: u8) -> Duration {
        self.interval() * 3 + self.skew(priority)
    }

    /// How long one master has to stay the only one before a move counts as over: until the
    /// other one would have been heard again.
    pub fn calm(self) -> Duration {
        self.interval() + Duration::from_millis(300)
    }
}

/// The link-local address with the same last octets.
fn in_link(address: Ipv6Addr) -> IpAddr {
    let last = address.segments()[7];
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x77, last).into()
}

/// What makes a host's tracked script fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// Weight 0: FAULT.
    Fault,
    /// The priority falls below the other host's.
    Weight,
}

/// One host's vrrp_instance.
#[derive(Clone, Debug)]
pub struct Member {
    form: Form,
    index: usize,
    pub priority: u8,
    /// Further lines of the instance.
    pub words: String,
    /// Whether it tracks a script for each [`Flag`].
    pub tracks: bool,
    flags: PathBuf,
}

/// What the script of [`Flag::Weight`] takes away.
pub const WEIGHT: u8 = 20;
/// How often scripts run; keepalived 2.2 knows whole seconds.
pub const SCRIPT_INTERVAL: Duration = Duration::from_secs(1);

impl Member {
    /// The host of this index, with files below `dir`.
    pub fn new(form: Form, index: usize, dir: &Path) -> Self {
        let priority = if index == HIGH { 101 } else { 99 };
        let flags = dir.join(format!("flags-{index}"));
        Self { form, index, priority, words: String::new(), tracks: false, flags }
    }

    /// Makes a script succeed or fail from now on.
    ///
    /// # Errors
    /// When the file cannot be made or removed.
    pub fn set_flag(&self, flag: Flag, good: bool) -> Result<()> {
        let path = self.flag(flag);
        let done = if good { fs::write(&path, "") } else { fs::remove_file(&path) };
        done.with_context(|| format!("cannot change {}", path.display()))
    }

    /// Makes every script succeed.
    ///
    /// # Errors
    /// When a file cannot be made.
    pub fn set_flags(&self, good: bool) -> Result<()> {
        fs::create_dir_all(&self.flags)
            .with_context(|| format!("cannot make {}", self.flags.display()))?;
        [Flag::Fault, Flag::Weight].into_iter().try_for_each(|flag| self.set_flag(flag, good))
    }

    fn flag(&self, flag: Flag) -> PathBuf {
        self.flags.join(format!("{flag:?}"))
    }

    /// The configuration file, for both programs.
    pub fn config(&self) -> String {
        let Form { protocol, family, cast } = self.form;
        let version = if protocol == Protocol::V3 { 3 } else { 2 };
        let seconds = self.form.interval().as_secs_f64();
        let auth_type = match protocol {
            Protocol::V2Pass => Some("PASS"),
            Protocol::V2Ah => Some("AH"),
            Protocol::V2 | Protocol::V3 => None,
        };
        let authentication = auth_type.map_or(String::new(), |word| {
            format!(
                "    authentication {{\n        auth_type {word}\n        auth_pass 1111\n    }}\n"
            )
        });
        let cast = match cast {
            Cast::Multi => String::new(),
            Cast::Uni => {
                let (own, peer) = (self.form.own(self.index), self.form.own(1 - self.index));
                format!("    unicast_src_ip {own}\n    unicast_peer {{\n        {peer}\n    }}\n")
            }
        };
        let vip = self.form.vip();
        let vips = match (family, vip) {
            (Family::V6, IpAddr::V6(global)) => vec![in_link(global), vip],
            _ => vec![vip],
        };
        let vips: String =
            vips.into_iter().map(|vip| format!("        {}\n", with_len(vip))).collect();
        let (blocks, tracked) = if self.tracks { self.scripts() } else { Default::default() };
        let (priority, words) = (self.priority, &self.words);
        // The word decides nothing below priority 255: the host that asks for it is the one that loses.
        let state = if self.index == HIGH { "BACKUP" } else { "MASTER" };
        format!(
            "global_defs {{
    router_id PAIR
    script_user root
}}
{blocks}vrrp_instance VI_1 {{
    version {version}
    state {state}
    interface eth0
    virtual_router_id 51
    priority {priority}
    advert_int {seconds}
{authentication}{cast}{words}{tracked}    virtual_ipaddress {{
{vips}    }}
}}
"
        )
    }

    /// The scripts' blocks, and the words that track them.
    fn scripts(&self) -> (String, String) {
        let interval = SCRIPT_INTERVAL.as_secs();
        let block = |(flag, weight): (Flag, String)| {
            let file = self.flag(flag).display().to_string();
            format!(
                "vrrp_script {flag:?} {{\n    script \"/usr/bin/test -e {file}\"\n    interval \
                 {interval}\n    weight {weight}\n}}\n"
            )
        };
        let flags = [(Flag::Fault, "0".to_owned()), (Flag::Weight, format!("-{WEIGHT}"))];
        let blocks = flags.into_iter().map(block).collect();
        let (fault, weight) = (Flag::Fault, Flag::Weight);
        (blocks, format!("    track_script {{\n        {fault:?}\n        {weight:?}\n    }}\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::SLACK, *};

    /// What is allowed after a clean stop, from it and between the two masters, is less than a backup
    /// waits that ignores the farewell: at least master-down less the interval since the last advert.
    #[test]
    fn a_farewell_that_is_ignored_is_seen() {
        for protocol in [Protocol::V2, Protocol::V2Pass, Protocol::V2Ah, Protocol::V3] {
            let form = Form { protocol, family: Family::V4, cast: Cast::Multi };
            for priority in [99, 101] {
                let ignored = form.master_down(priority) - form.interval();
                assert!(form.skew(priority) + SLACK < ignored, "{form:?} {priority}");
            }
        }
    }
}
