//! lbd and real keepalived as a pair on one LAN, in every form that their adverts can have.
//!
//! A [`Pair`] samples both hosts all the time; [`lives`] are the things that happen to it.

pub mod form;
pub mod lives;
mod settled;

use std::{
    fs,
    net::IpAddr,
    os::unix::fs::PermissionsExt as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_userspace::base::status::VrrpState;
use nix::sys::signal::Signal;
use tempfile::TempDir;

use self::form::{Form, Member};
use crate::{
    host::{self, Host, Program},
    looks, mariadb,
    netns::{Namespace, Port, Switch},
    sampler::{Look, Sampler},
    wait::wait_until,
};

/// What two busy cores may cost beyond what the protocol says: start and end of processes, their
/// turns; a guest's processor may stand still for so long.
pub const SLACK: Duration = Duration::from_millis(1500);
/// Start, convergence and master-down of a host that has been started, beside some thirty others.
pub const FIRST_ELECTION: Duration = Duration::from_secs(60);
/// keepalived sets its addresses as soon as it has sent its advert, without a guard, and takes its
/// own off when it gets to hear one: the other's end overlaps with that. So long is what README says of
/// it; in 113 such moves with eight pairs at a time on the busy test machine it was 39 ms at most.
const KEEPALIVED: Duration = Duration::from_millis(100);
/// Several samplers run at a time.
const LOOK_EVERY: Duration = Duration::from_millis(3);
/// So long nothing changes after the first election: the new master's first advert is heard by then.
const REST: Duration = Duration::from_millis(250);

/// Both hosts of a pair; the first has the higher priority, the second the higher address.
pub const HIGH: usize = 0;
/// The other one.
pub const LOW: usize = 1;

/// Two hosts and a switch between them.
#[derive(Debug)]
pub struct Pair {
    pub form: Form,
    hosts: [Host; 2],
    ports: [Port; 2],
    members: [Member; 2],
    /// What a host that is cut off does with its VIP is nobody's business.
    cut_off: [Arc<AtomicBool>; 2],
    sampler: Sampler,
    _switch: Switch,
    dir: TempDir,
}

impl Pair {
    /// Starts both; `programs[0]` has the higher priority. Returns when it is the only master and
    /// the other takes part.
    ///
    /// # Errors
    /// When a program is missing or they do not come to that; the message has their logs.
    pub fn start(form: Form, programs: [Program; 2]) -> Result<Self> {
        Self::start_with(form, programs, [""; 2])
    }

    /// [`Pair::start`] with further lines in each host's instance.
    ///
    /// # Errors
    /// As of [`Pair::start`].
    pub fn start_with(form: Form, programs: [Program; 2], words: [&str; 2]) -> Result<Self> {
        let pair = Self::start_members(form, programs, |members| {
            for (member, words) in members.iter_mut().zip(words) {
                words.clone_into(&mut member.words);
            }
        })?;
        pair.wait_rest()?;
        Ok(pair)
    }

    /// Starts both with one priority. `programs[1]` has the higher address. Returns when one of them, which of
    /// them is chance, is the only master and the other takes part.
    ///
    /// # Errors
    /// As of [`Pair::start`].
    pub fn start_equal(form: Form, programs: [Program; 2]) -> Result<Self> {
        let pair = Self::start_members(form, programs, |members| {
            members.iter_mut().for_each(|member| member.priority = 100);
        })?;
        let one = || Ok((pair.sampler.forwarders().count_ones() == 1).then_some(()));
        wait_until("one of two equals to be master", FIRST_ELECTION, one, || pair.logs())?;
        pair.wait_part(HIGH)?;
        pair.wait_part(LOW)?;
        Ok(pair)
    }

    /// Waits until both are master, as hosts that cannot hear each other are.
    ///
    /// # Errors
    /// After `limit`; the message has both logs.
    pub fn wait_both(&self, limit: Duration) -> Result<()> {
        let both = || Ok((self.sampler.forwarders() == 0b11).then_some(()));
        wait_until("both to be master", limit, both, || self.logs())
    }

    /// Writes the members' files as `change` leaves them, starts both and the sampler.
    fn start_members(
        form: Form,
        programs: [Program; 2],
        change: impl FnOnce(&mut [Member; 2]),
    ) -> Result<Self> {
        for program in programs {
            host::available(program).map_err(|why| anyhow::anyhow!(why))?;
        }
        let dir = mariadb::workspace("interop")?;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let switch = Switch::new("lan")?;
        let mut members = [HIGH, LOW].map(|index| Member::new(form, index, dir.path()));
        change(&mut members);
        let (mut hosts, mut ports) = (Vec::new(), Vec::new());
        for (index, (program, role)) in programs.into_iter().zip(["high", "low"]).enumerate() {
            let netns = Namespace::new(role)?;
            if form.is_v6() {
                netns.enable_ipv6()?;
            }
            ports.push(switch.plug(&netns, "eth0", None)?);
            for address in form.addresses(index) {
                netns.ip(&["address", "add", &address, "dev", "eth0"])?;
            }
            let host = Host::new(&netns, program, dir.path())?;
            host.write_config(&members[index].config())?;
            members[index].set_flags(true)?;
            hosts.push(host);
        }
        let mut hosts: [Host; 2] = hosts.try_into().ok().context("two hosts")?;
        let ports = ports.try_into().ok().context("two ports")?;
        for host in &mut hosts {
            host.start()?;
        }
        for host in &hosts {
            host.wait_plane(FIRST_ELECTION)?;
        }
        let cut_off = [Arc::default(), Arc::default()];
        let looks = looks::of_vip(&hosts, form.vip())?;
        let looks = looks.into_iter().zip(&cut_off).map(|(look, cut)| unless(look, cut)).collect();
        let sampler = Sampler::start_every(looks, LOOK_EVERY)?;
        Ok(Self { form, hosts, ports, members, cut_off, sampler, _switch: switch, dir })
    }

    /// Where both hosts' files are.
    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// One of the hosts.
    pub fn host(&mut self, host: usize) -> &mut Host {
        &mut self.hosts[host]
    }

    /// The host's end of the LAN.
    pub fn port(&self, host: usize) -> &Port {
        &self.ports[host]
    }

    /// What the host's configuration says; [`Pair::reload`] or a restart puts changes in force.
    pub fn member(&mut self, host: usize) -> &mut Member {
        &mut self.members[host]
    }

    /// Parts the two hosts, which keep their carriers, or joins them again.
    ///
    /// # Errors
    /// When the switch refuses.
    pub fn set_split(&self, split: bool) -> Result<()> {
        self.ports.iter().try_for_each(|port| port.set_isolated(split))
    }

    /// From now on a host counts as silent, or as what it is again.
    pub fn set_cut_off(&self, host: usize, cut_off: bool) {
        self.cut_off[host].store(cut_off, Ordering::Relaxed);
    }

    /// Writes the host's configuration.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_config(&self, host: usize) -> Result<()> {
        self.hosts[host].write_config(&self.members[host].config())
    }

    /// Writes the host's configuration and tells the daemon.
    ///
    /// # Errors
    /// When it does not run.
    pub fn reload(&mut self, host: usize) -> Result<()> {
        self.write_config(host)?;
        self.hosts[host].signal_main(Signal::SIGHUP)
    }

    /// How long a takeover by this host may overlap with the other's end, when that other is
    /// alive and has to hear of it.
    pub fn preempts(&self, host: usize) -> Duration {
        match self.hosts[host].program() {
            // lbd asks the LAN whether the other has let go.
            Program::Lbd => Duration::ZERO,
            Program::Keepalived => KEEPALIVED,
        }
    }

    fn logs(&self) -> String {
        let logs: Vec<_> = self.hosts.iter().map(|host| host.log_tail(30)).collect();
        format!("masters {:02b}\n{}", self.sampler.forwarders(), logs.join("\n"))
    }

    /// Who was master since `begin`, in milliseconds after it, and both logs.
    fn story(&self, begin: Instant) -> String {
        let changes = self.sampler.changes();
        let since = changes.iter().filter(|change| change.at >= begin);
        let told: Vec<String> = since
            .map(|it| format!("{:02b} at {} ms", it.forwarders, (it.at - begin).as_millis()))
            .collect();
        format!("since then: {}; {}", told.join(", "), self.logs())
    }

    /// Waits until this host alone is master, by the sampler and by its address.
    ///
    /// # Errors
    /// After `limit`; the message has both logs.
    pub fn wait_master(&self, host: usize, limit: Duration) -> Result<()> {
        let wanted = 1 << host;
        wait_until(
            &format!("{} to be the only master", self.hosts[host].name()),
            limit,
            || {
                let only = self.sampler.forwarders() == wanted;
                Ok((only && self.hosts[host].has(self.form.vip())?).then_some(()))
            },
            || self.logs(),
        )
    }

    /// Waits until the first election is over. Of two that start at once the lower may be master for a moment while the
    /// other is, or right after it, and let go when it hears that one: what is done meanwhile would be judged as its doing.
    fn wait_rest(&self) -> Result<()> {
        self.wait_master(HIGH, FIRST_ELECTION)?;
        let rests = || {
            let early = Instant::now().checked_sub(REST).context("a clock that is older")?;
            let changed = self.sampler.changes().last().is_some_and(|change| change.at > early);
            let backup = settled::state(&self.hosts[LOW]) == Some(VrrpState::Backup);
            let only = self.sampler.forwarders() == 1 << HIGH;
            Ok((only && backup && !changed).then_some(()))
        };
        wait_until("the first election to be over", FIRST_ELECTION, rests, || self.logs())
    }

    /// Waits until this host says that it takes part in the election.
    ///
    /// # Errors
    /// When it does not in time; the message has both logs.
    fn wait_part(&self, host: usize) -> Result<()> {
        let what = format!("{} to take part", self.hosts[host].name());
        let part = || Ok(settled::state(&self.hosts[host]).map(drop));
        wait_until(&what, FIRST_ELECTION, part, || self.logs())
    }

    /// Starts the daemon of this host and waits until it takes part in the election.
    ///
    /// # Errors
    /// When it does not in time; the message has both logs.
    pub fn join(&mut self, host: usize) -> Result<()> {
        self.hosts[host].start()?;
        self.wait_part(host)
    }

    /// Performs `action`, expects `host` to be the only master `limit` after it at the latest,
    /// then calm; never two masters for longer than `overlap`. How long it took.
    ///
    /// # Errors
    /// When it is otherwise; the message has both logs.
    pub fn moves_to(
        &mut self,
        host: usize,
        limit: Duration,
        overlap: Duration,
        action: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<Duration> {
        self.moves(host, limit, overlap, None, action)
    }

    /// [`Pair::moves_to`] where the old master lives to say farewell: the two never overlap, and
    /// however long the action takes, between them there is not more than the heir's skew.
    ///
    /// # Errors
    /// When it is otherwise; the message has both logs.
    pub fn yields_to(
        &mut self,
        host: usize,
        limit: Duration,
        action: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<Duration> {
        let skew = self.form.skew(self.members[host].priority);
        self.moves(host, limit, Duration::ZERO, Some(skew + SLACK), action)
    }

    fn moves(
        &mut self,
        host: usize,
        limit: Duration,
        overlap: Duration,
        silence: Option<Duration>,
        action: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<Duration> {
        let begin = Instant::now();
        action(self)?;
        let acted = Instant::now();
        // How long it took is judged by the sampler.
        self.wait_master(host, limit + SLACK * 4)?;
        let calm = self.calm(self.form.calm())?;
        let seen = self.sampler.first(1 << host, begin).context("the sampler missed it")?;
        let took = seen.saturating_duration_since(begin);
        // A sampler that is not run for a moment sees late what came after the look before.
        let changes = self.sampler.changes();
        let since = changes.iter().find(|it| it.at == seen).map_or(seen, |it| it.before);
        let least = since.saturating_duration_since(begin);
        let allowed = limit + acted.duration_since(begin);
        ensure!(
            least <= allowed,
            "took {least:?} to {took:?}, {allowed:?} allowed\n{}",
            self.story(begin)
        );
        let both = self.sampler.overlap(begin, calm);
        let none = self.sampler.silence(begin, calm);
        println!(
            "{:?} to {} ({:?}): took {took:?}, both {both:?} of {overlap:?}, none {none:?}",
            self.form,
            ["the higher", "the lower"][host],
            self.hosts[host].program(),
        );
        // One look is too many where they may not overlap at all.
        let overlapped = self.sampler.surely(begin, calm, |count| count >= 2);
        ensure!(
            both.is_zero() || (!overlap.is_zero() && overlapped <= overlap),
            "two masters for {both:?}, {overlap:?} allowed\n{}",
            self.story(begin)
        );
        if let Some(most) = silence {
            let silent = self.sampler.surely(begin, calm, |count| count == 0);
            ensure!(
                silent <= most,
                "no master for {none:?} after a farewell, {most:?} allowed\n{}",
                self.story(begin)
            );
        }
        Ok(took)
    }

    /// Performs `action` and expects that it changes nothing: `host` is the only master all the
    /// time and `lasts` longer.
    ///
    /// # Errors
    /// When it is otherwise; the message has both logs.
    pub fn stays_with(
        &mut self,
        host: usize,
        lasts: Duration,
        action: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let begin = Instant::now();
        action(self)?;
        let end = self.calm(lasts)?;
        let both = self.sampler.overlap(begin, end);
        ensure!(both.is_zero(), "two masters for {both:?}\n{}", self.story(begin));
        let none = self.sampler.silence(begin, end);
        ensure!(none.is_zero(), "no master for {none:?}\n{}", self.story(begin));
        ensure!(self.sampler.forwarders() == 1 << host, "another master\n{}", self.story(begin));
        let other = self.sampler.first(1 << (1 - host), begin);
        ensure!(
            other.is_none_or(|at| at >= end),
            "another master in between\n{}",
            self.story(begin)
        );
        Ok(())
    }

    /// Time without an event: exactly one master at every look. Its end.
    fn calm(&self, lasts: Duration) -> Result<Instant> {
        let begin = Instant::now();
        let over = || Ok((begin.elapsed() >= lasts).then_some(()));
        wait_until("calm", lasts + Duration::from_secs(5), over, String::new)?;
        let end = Instant::now();
        let (both, none) = (self.sampler.overlap(begin, end), self.sampler.silence(begin, end));
        ensure!(both.is_zero(), "two masters for {both:?} in calm times\n{}", self.story(begin));
        ensure!(none.is_zero(), "no master for {none:?} in calm times\n{}", self.story(begin));
        Ok(end)
    }
}

fn unless(mut look: Look, cut_off: &Arc<AtomicBool>) -> Look {
    let cut_off = Arc::clone(cut_off);
    Box::new(move || look() && !cut_off.load(Ordering::Relaxed))
}

/// An address as `ip` and configuration files write it, with its prefix length.
fn with_len(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv6() { 64 } else { 24 })
}
