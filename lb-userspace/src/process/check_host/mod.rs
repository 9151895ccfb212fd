//! `lbd check-host`: what this kernel and its interfaces can do, and what to change, before anything is configured.
//!
//! `facts` looks, without leaving anything behind; `judge` says what that means. What is found out by asking the
//! kernel is never concluded from its version.

mod facts;

use std::fmt::Write as _;

use clap::Parser;
use serde::Serialize;

use crate::dataplane::xdp::attach::SOFTWARE;

pub use facts::{Facts, Interface, Module, Native};

/// The verifier's own limit.
const INSTRUCTIONS: u32 = 1_000_000;
/// Longest packet, headers included, for which native XDP has room in one page with most drivers.
const MTU: u32 = 3498;

/// `lbd check-host`.
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "lbd check-host", max_term_width = 100)]
pub struct Args {
    /// Look at this interface only; may be given several times [default: every Ethernet interface that is up]
    #[arg(long = "interface", short = 'i', value_name = "NAME")]
    pub interfaces: Vec<String>,
    /// Where the kernel does not tell whether a driver has XDP (before 6.3), find out: put a program that passes every
    /// packet on the interface for a moment. Some drivers reset their link for that
    #[arg(long)]
    pub attach: bool,
    /// Answer as JSON
    #[arg(long)]
    pub json: bool,
}

/// How good a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Good,
    /// To know, nothing to do.
    Note,
    /// Works better when it is changed.
    Change,
    /// Not to be had.
    Missing,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Note => "note",
            Self::Change => "CHANGE",
            Self::Missing => "MISSING",
        }
    }
}

/// One sentence about one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub about: String,
    pub level: Level,
    pub text: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// What virtual servers would be forwarded by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Xdp,
    Ipvs,
    None,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    pub kernel: String,
    pub engine: Verdict,
    pub summary: String,
    pub findings: Vec<Finding>,
}

impl Report {
    /// 0: XDP, 1: IPVS only, 2: neither.
    pub fn code(&self) -> u8 {
        match self.engine {
            Verdict::Xdp => 0,
            Verdict::Ipvs => 1,
            Verdict::None => 2,
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut out = format!("Linux {}\n", self.kernel);
        let width = self.findings.iter().map(|it| it.about.len()).max().unwrap_or(0);
        for Finding { about, level, text, advice } in &self.findings {
            let _ = writeln!(out, "  {:<7}  {about:<width$}  {text}", level.word());
            if let Some(advice) = advice {
                let _ = writeln!(out, "  {:<7}  {:<width$}  -> {advice}", "", "");
            }
        }
        let _ = writeln!(out, "{}", self.summary);
        out
    }
}

/// Carries the command out; its exit code.
pub fn run(args: &Args) -> u8 {
    let report = judge(&Facts::look(args));
    let text = match args.json {
        true => serde_json::to_string_pretty(&report).unwrap_or_default() + "\n",
        false => report.text(),
    };
    // A closed pipe is no failure.
    let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
    report.code()
}

/// What the facts mean.
pub fn judge(facts: &Facts) -> Report {
    let mut findings = vec![program(facts)];
    for interface in &facts.interfaces {
        findings.extend(judge_interface(interface, facts));
    }
    for name in &facts.absent {
        findings.push(missing(name, "there is no such interface", None));
    }
    findings.extend(ipvs(facts));
    let engine = verdict(facts);
    findings.extend(forwarding(facts, engine));
    findings.push(hook(facts));
    findings.push(module("nftables", "nf_tables", facts.nftables));
    let summary = match engine {
        Verdict::Xdp if facts.interfaces.iter().any(|it| it.native == Native::Unknown) => {
            "virtual servers are forwarded by xdp where the drivers have it, which is not known of all, else on tc's ingress"
        }
        Verdict::Xdp => "virtual servers are forwarded by xdp, or its program on tc's ingress",
        Verdict::Ipvs => {
            "virtual servers are forwarded by the kernel's IPVS, without a fence (docs/operating.md, IPVS in place of XDP)"
        }
        Verdict::None => "no engine: VRRP alone can run, a file with a virtual_server is refused",
    };
    Report { kernel: facts.release.clone(), engine, summary: summary.to_owned(), findings }
}

/// Whether a program can be on tc's ingress.
fn has_tc(facts: &Facts) -> bool {
    facts.tcx || facts.clsact != Module::Missing
}

/// What `--engine auto` would come to, with `lvs_hook auto`. Interfaces made of software count when they were asked
/// for by name.
fn verdict(facts: &Facts) -> Verdict {
    let cannot = |it: &Interface| {
        let no_native = matches!(it.native, Native::No | Native::Refused(_));
        (it.nic || it.named) && no_native && !has_tc(facts)
    };
    let xdp =
        facts.program.is_ok() && facts.absent.is_empty() && !facts.interfaces.iter().any(cannot);
    match (xdp, &facts.ipvs) {
        (true, _) => Verdict::Xdp,
        (false, Ok(())) => Verdict::Ipvs,
        (false, Err(_)) => Verdict::None,
    }
}

fn finding(about: &str, level: Level, text: impl Into<String>, advice: Option<String>) -> Finding {
    Finding { about: about.to_owned(), level, text: text.into(), advice }
}

fn missing(about: &str, text: impl Into<String>, advice: Option<String>) -> Finding {
    finding(about, Level::Missing, text, advice)
}

fn program(facts: &Facts) -> Finding {
    const ABOUT: &str = "xdp program";
    match &facts.program {
        Ok(counts) if counts.is_empty() => finding(ABOUT, Level::Good, "the kernel takes it", None),
        Ok(counts) => {
            let counts: Vec<String> = counts.iter().map(ToString::to_string).collect();
            let text = format!(
                "the kernel takes it ({} of {INSTRUCTIONS} instructions verified)",
                counts.join(" and ")
            );
            finding(ABOUT, Level::Good, text, None)
        }
        Err(why) => missing(ABOUT, why, Some("a kernel with bpf(2), 5.18 or newer".to_owned())),
    }
}

fn judge_interface(interface: &Interface, facts: &Facts) -> Vec<Finding> {
    let (program, tc) = (facts.program.is_ok(), has_tc(facts));
    let Interface { name, driver, mtu, nic, named, .. } = interface;
    let about = match driver {
        Some(driver) => format!("{name} ({driver})"),
        None => name.clone(),
    };
    let taken = matches!(interface.native, Native::Attached | Native::Foreign(_));
    if tc && !taken && driver.as_deref().is_some_and(|driver| SOFTWARE.contains(&driver)) {
        let text = "`lvs_hook auto` takes tc's ingress here, where offloads stay as they are";
        let advice = "only for `lvs_hook xdp`, at its other end: `ethtool -K PEER gro on tx off`";
        return vec![finding(&about, Level::Good, text, Some(advice.to_owned()))];
    }
    let is_software = driver.as_deref().is_some_and(|driver| SOFTWARE.contains(&driver));
    // What nobody asked for and is no network card is mentioned and no more; nor is what tc makes good.
    let bad = if (*nic || *named) && !tc { Level::Missing } else { Level::Note };
    let other = || {
        Some(
            if tc {
                "nothing: `lvs_hook auto` takes tc's ingress here"
            } else {
                "another driver, or `lvs_xdp_mode generic` at several times the cost; else IPVS forwards"
            }
            .to_owned(),
        )
    };
    let mut findings = vec![match &interface.native {
        Native::Attached => {
            finding(&about, Level::Good, "native XDP; lbd's program is there", None)
        }
        Native::Foreign(id) => finding(
            &about,
            Level::Change,
            format!(
                "native XDP, but the program {id} of somebody else is there: lbd leaves it alone and waits"
            ),
            Some(format!("`ip link set dev {name} xdp off` removes it")),
        ),
        Native::Yes if is_software => finding(
            &about,
            Level::Change,
            "native XDP, which costs its offloads; tc's ingress would not, but this kernel has none",
            Some(
                "the modules sch_ingress and cls_bpf, or at its other end: `ethtool -K PEER gro on tx off`"
                    .to_owned(),
            ),
        ),
        Native::Yes => finding(&about, Level::Good, "native XDP", None),
        Native::No => finding(&about, bad, "its driver has no native XDP", other()),
        Native::Refused(why) => finding(&about, bad, why, other()),
        Native::Unknown => finding(
            &about,
            Level::Note,
            "native XDP is not known: this kernel does not tell",
            program.then(|| {
                "`lbd check-host --attach` tries it, some drivers reset their link for that"
                    .to_owned()
            }),
        ),
    }];
    if matches!(interface.native, Native::No)
        || (tc && matches!(interface.native, Native::Refused(_)))
    {
        return findings;
    }
    if interface.lro == Some(true) {
        findings.push(finding(
            &about,
            Level::Change,
            "LRO is on, with which most drivers take no XDP program",
            Some(format!("`ethtool -K {name} lro off`")),
        ));
    }
    if *mtu > MTU && (*nic || *named) {
        findings.push(finding(
            &about,
            Level::Change,
            format!("an MTU of {mtu}: most drivers take native XDP up to about {MTU}"),
            Some(format!("`ip link set dev {name} mtu 1500`, at the servers too")),
        ));
    }
    findings
}

fn ipvs(facts: &Facts) -> Vec<Finding> {
    const ABOUT: &str = "ipvs";
    if let Err(why) = &facts.ipvs {
        let advice = "`modprobe ip_vs` says why; in a container the host has to load it".to_owned();
        return vec![finding(ABOUT, Level::Note, why, Some(advice))];
    }
    let absent: Vec<&str> = facts
        .schedulers
        .iter()
        .filter(|(_, module)| *module == Module::Missing)
        .map(|(name, _)| *name)
        .collect();
    match absent.as_slice() {
        [] => vec![finding(
            ABOUT,
            Level::Good,
            "the kernel has it, with every scheduler of lbd's",
            None,
        )],
        absent => vec![finding(
            ABOUT,
            Level::Note,
            format!("the kernel has it, without the schedulers {}", absent.join(" ")),
            Some("the kernel's package of further modules".to_owned()),
        )],
    }
}

/// NAT by IPVS wants it, XDP does not.
fn forwarding(facts: &Facts, engine: Verdict) -> Vec<Finding> {
    let judge = |(name, value): &(&'static str, Option<bool>)| {
        let (level, text, advice) = match (value, engine) {
            (Some(true), _) => (Level::Good, "1", None),
            (Some(false), Verdict::Ipvs) => (
                Level::Change,
                "0: `lb_kind NAT` by IPVS forwards nothing",
                Some(format!("`sysctl -w {name}=1` for NAT of this family")),
            ),
            (Some(false), _) => (Level::Note, "0: XDP does not need it, NAT by IPVS does", None),
            (None, _) => (Level::Note, "not there: no such address family", None),
        };
        finding(name, level, text, advice)
    };
    facts.forwarding.iter().map(judge).collect()
}

fn hook(facts: &Facts) -> Finding {
    let text = match (facts.tcx, facts.clsact) {
        (true, Module::Missing) => "tcx",
        (true, _) => "tcx and clsact",
        (false, Module::Missing) => "neither tcx (since 6.6) nor clsact (module sch_ingress)",
        (false, _) => "clsact (no tcx, which is of 6.6)",
    };
    finding("tc hook", Level::Note, text, None)
}

fn module(about: &str, name: &str, found: Module) -> Finding {
    let text = match found {
        Module::Here => "the kernel has it".to_owned(),
        Module::Loadable => format!("the module {name} can be loaded"),
        Module::Missing => format!("no module {name}"),
    };
    finding(about, Level::Note, text, None)
}

#[cfg(test)]
mod tests;
