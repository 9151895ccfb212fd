//! Writes leases for the kernel program: one map update an advert.
//!
//! The program compares jiffies64, which costs it nothing; user space knows CLOCK_MONOTONIC. The
//! pinned `lbd_clock` program reads both together, and every [`LeaseWriter::set`] asks it anew
//! (about 2 µs): were jiffies late at that moment, the lease would end earlier, never later. How long
//! a jiffy is, the kernel says; a lease never trusts that further than what it has seen of both clocks.

use std::{os::fd::OwnedFd, path::Path, time::Duration};

use anyhow::{Context as _, bail, ensure};
use aya::maps::{Array, MapData, MapInfo};
use lb_common::{
    abi::{LEASE_ALWAYS, LEASE_FENCED, LEASE_STANDBY},
    maps,
};
use nix::time::{ClockId, clock_getres};

use super::{loader, maps::array, sys};
use crate::base::{
    table::{LeaseSlot, LeaseState},
    time::Instant,
};

/// jiffies64 and CLOCK_MONOTONIC at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    pub jiffies: u64,
    pub now: Instant,
}

/// Reads the kernel's two clocks together.
#[derive(Debug)]
pub struct Clock {
    program: OwnedFd,
    /// Length of a jiffy in nanoseconds, at least the true one.
    tick: u64,
}

/// From one sample to one that shows whether the kernel keeps to the tick that it told.
const CHECK_AFTER: Duration = Duration::from_secs(1);
/// Jiffies by which a sample may be behind the clock: the CPU that counts them may be late.
const LAG: u64 = 2;

impl Clock {
    /// Opens the pinned clock program and asks for the length of a jiffy.
    ///
    /// # Errors
    /// When it is not pinned, or the kernel tells no sensible length.
    pub fn open(pin_dir: &Path) -> anyhow::Result<Self> {
        Self::new(loader::pinned_program(pin_dir, maps::CLOCK_PROGRAM)?)
    }

    pub(super) fn new(program: OwnedFd) -> anyhow::Result<Self> {
        // The coarse clock is the one that the timer interrupt moves, so that its resolution is
        // the kernel's tick, rounded (TICK_NSEC), whatever timers of high resolution there are.
        let clock = ClockId::CLOCK_MONOTONIC_COARSE;
        let told = clock_getres(clock).context("ask for the resolution of the coarse clock")?;
        let told = u64::try_from(Duration::from(told).as_nanos()).unwrap_or(0);
        let tick = tick(told).with_context(|| {
            format!("the kernel tells a tick of {told} ns, which no CONFIG_HZ has")
        })?;
        Ok(Self { program, tick })
    }

    /// Both clocks now.
    ///
    /// # Errors
    /// When the kernel refuses to run the program.
    pub fn sample(&self) -> anyhow::Result<Sample> {
        let mut packet = [0u8; 64];
        sys::run(&self.program, &mut packet).context("run the pinned program lbd_clock")?;
        let word = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&packet[at..at + 8]);
            u64::from_ne_bytes(bytes)
        };
        Ok(Sample { jiffies: word(0), now: Instant::from_nanos(word(8)) })
    }

    /// Length of a jiffy.
    pub fn tick(&self) -> Duration {
        Duration::from_nanos(self.tick)
    }

    /// Whole jiffies in `time`, at least one.
    pub fn ticks(&self, time: Duration) -> u32 {
        let ticks = crate::base::time::nanos(time) / self.tick;
        u32::try_from(ticks).unwrap_or(u32::MAX).max(1)
    }
}

/// Length of a jiffy in nanoseconds, rounded up, from the one that the kernel rounds to the nearest:
/// too long a jiffy makes leases shorter, too short a one would make them outlive their end. `None`
/// where it is none (kernels are built with 24 to 1024 jiffies a second, some old ones with 1200).
fn tick(told: u64) -> Option<u64> {
    const SECOND: u64 = 1_000_000_000;
    let hz = (SECOND + told / 2).checked_div(told).filter(|hz| (24..=1200).contains(hz))?;
    Some(SECOND.div_ceil(hz))
}

/// Whether jiffies have gone slower than one in `tick` nanoseconds for `nanos`: then leases would
/// outlive their end. Wherever in their jiffies the two samples lie, however late the process was to
/// take them, and with [`LAG`] jiffies not counted yet at either, the true length is at least
/// `nanos / (jiffies + 1 + LAG)`.
fn is_slow(tick: u64, nanos: u64, jiffies: u64) -> bool {
    nanos / (jiffies + 1 + LAG) > tick
}

/// What to write for a lease state. `sample` was taken just before.
fn encode(state: LeaseState, sample: Sample, tick: u64) -> u64 {
    let LeaseState::Until(end) = state else { return LEASE_STANDBY };
    // The current jiffy began at or before the sample: the one counted as `jiffies + whole` begins
    // at or before `end`, and then the lease is over.
    let whole = end.as_nanos().saturating_sub(sample.now.as_nanos()) / tick;
    match sample.jiffies.saturating_add(whole) {
        _ if whole == 0 => LEASE_FENCED,
        LEASE_ALWAYS => LEASE_ALWAYS - 1,
        value => value,
    }
}

/// The state that a value stands for; its end is no later than the true one.
fn decode(value: u64, sample: Sample, tick: u64) -> LeaseState {
    match value {
        LEASE_STANDBY => LeaseState::Standby,
        LEASE_FENCED => LeaseState::Until(Instant::ZERO),
        LEASE_ALWAYS => LeaseState::Until(Instant::from_nanos(u64::MAX)),
        value if value > sample.jiffies => {
            let left = (value - sample.jiffies - 1).saturating_mul(tick);
            LeaseState::Until(sample.now + Duration::from_nanos(left))
        }
        value => {
            let past = (sample.jiffies - value).saturating_mul(tick);
            LeaseState::Until(sample.now.saturating_sub(Duration::from_nanos(past)))
        }
    }
}

/// Handle on the lease map, for the vrrp process.
pub struct LeaseWriter {
    lease: Array<MapData, u64>,
    /// The kernel's name for this map.
    id: u32,
    clock: Clock,
    /// At the opening, until the clock has been checked against it.
    opened: Option<Sample>,
}

impl LeaseWriter {
    /// Opens map and clock program where the forwarder pinned them. Needs no
    /// capability on kernels since 5.19, CAP_BPF before.
    ///
    /// # Errors
    /// When the forwarder has not pinned them (yet), or the clock cannot be read.
    pub fn open(pin_dir: &Path) -> anyhow::Result<Self> {
        let id = pinned_id(pin_dir)?;
        let clock = Clock::open(pin_dir)?;
        let opened = Some(clock.sample()?);
        Ok(Self { lease: array(pin_dir, maps::LEASE)?, id, clock, opened })
    }

    /// Whether this is the map that is pinned there now.
    pub fn is_pinned(&self, pin_dir: &Path) -> bool {
        pinned_id(pin_dir).is_ok_and(|id| id == self.id)
    }

    /// Takes what is pinned now. What was not known of the kernel's clocks yet, or was known to be bad, stays so.
    ///
    /// # Errors
    /// As [`LeaseWriter::open`]; this handle is then as before.
    pub fn reopen(&mut self, pin_dir: &Path) -> anyhow::Result<()> {
        let opened = self.opened;
        *self = Self { opened, ..Self::open(pin_dir)? };
        Ok(())
    }

    /// Whether a lease could be written, as far as that can be known without writing one: both clocks can be read
    /// and go as they should, and the slot is there.
    ///
    /// # Errors
    /// What a [`LeaseWriter::set`] would fail by.
    pub fn probe(&mut self, slot: LeaseSlot) -> anyhow::Result<()> {
        let sample = self.clock.sample()?;
        self.verify(sample)?;
        self.raw(slot).map(drop)
    }

    /// Sets a lease. It is in force for the next packet and ends at the asked instant or up to one
    /// jiffy before, never later.
    ///
    /// # Errors
    /// When the slot does not exist or the kernel refuses; the lease is then as before.
    pub fn set(&mut self, slot: LeaseSlot, state: LeaseState) -> anyhow::Result<()> {
        check(slot)?;
        let value = match state {
            LeaseState::Standby => LEASE_STANDBY,
            // Fencing must work even if the clock program does not.
            LeaseState::Until(Instant::ZERO) => LEASE_FENCED,
            LeaseState::Until(_) => {
                let sample = self.clock.sample()?;
                self.verify(sample)?;
                if self.raw(slot)? <= sample.jiffies {
                    // Since it ran out, connections may have gone on elsewhere.
                    self.lease
                        .set(maps::tenure(slot.0), sample.jiffies, 0)
                        .with_context(|| format!("write the tenure of lease slot {}", slot.0))?;
                }
                encode(state, sample, self.clock.tick)
            }
        };
        self.lease
            .set(u32::from(slot.0), value, 0)
            .with_context(|| format!("write lease slot {}", slot.0))
    }

    /// Reads a lease. An end may be told up to one jiffy too early, never too late.
    ///
    /// # Errors
    /// As [`LeaseWriter::set`].
    pub fn get(&self, slot: LeaseSlot) -> anyhow::Result<LeaseState> {
        check(slot)?;
        let value = self
            .lease
            .get(&u32::from(slot.0), 0)
            .with_context(|| format!("read lease slot {}", slot.0))?;
        Ok(decode(value, self.clock.sample()?, self.clock.tick))
    }

    /// What the program compares jiffies64 with.
    ///
    /// # Errors
    /// As [`LeaseWriter::set`].
    pub fn raw(&self, slot: LeaseSlot) -> anyhow::Result<u64> {
        check(slot)?;
        let value = self.lease.get(&u32::from(slot.0), 0);
        value.with_context(|| format!("read lease slot {}", slot.0))
    }

    /// Once, a while after the opening: leases rest on it.
    fn verify(&mut self, sample: Sample) -> anyhow::Result<()> {
        let Some(opened) = self.opened else { return Ok(()) };
        let passed = sample.now.saturating_since(opened.now);
        if passed < CHECK_AFTER {
            return Ok(());
        }
        let (nanos, tick) = (crate::base::time::nanos(passed), self.clock.tick);
        let jiffies = sample.jiffies.saturating_sub(opened.jiffies);
        ensure!(
            !is_slow(tick, nanos, jiffies),
            "{jiffies} jiffies of {tick} ns in {passed:?}: the kernel's jiffies go too slow for leases"
        );
        self.opened = None;
        Ok(())
    }

    /// Length of a jiffy: the grain of leases.
    pub fn tick(&self) -> Duration {
        self.clock.tick()
    }
}

fn pinned_id(pin_dir: &Path) -> anyhow::Result<u32> {
    let path = pin_dir.join(maps::LEASE);
    let info = MapInfo::from_pin(&path);
    Ok(info.with_context(|| format!("ask for the pinned map {}", path.display()))?.id())
}

fn check(slot: LeaseSlot) -> anyhow::Result<()> {
    if slot.0 == 0 || slot.0 >= LeaseSlot::LIMIT {
        bail!("lease slot {} does not exist (1 to {})", slot.0, LeaseSlot::LIMIT - 1);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_told_tick_is_rounded_up() {
        for hz in [24, 32, 48, 64, 100, 128, 200, 250, 256, 300, 500, 512, 1000, 1024, 1200] {
            let told = (1_000_000_000 + hz / 2) / hz; // TICK_NSEC (linux/jiffies.h)
            assert_eq!(tick(told), Some(1_000_000_000u64.div_ceil(hz)), "CONFIG_HZ {hz}");
        }
        for told in [0, 1, 500_000, 1_000_000_000, u64::MAX] {
            assert_eq!(tick(told), None, "{told} ns");
        }
    }

    #[test]
    fn jiffies_that_go_slow_or_stand_still_are_noticed() {
        assert!(!is_slow(4_000_000, 1_000_000_000, 250));
        assert!(!is_slow(4_000_000, 1_000_000_000, 250 - LAG), "lags");
        assert!(!is_slow(4_000_000, 1_000_000_000, 1000), "leases are shorter, which is safe");
        assert!(is_slow(4_000_000, 1_000_000_000, 200));
        assert!(is_slow(4_000_000, 1_000_000_000, 0));
        assert!(is_slow(1_000_000, 1_000_000_000, 250));
    }

    proptest! {
        /// Samples anywhere in their jiffies, taken late, with jiffies lagging: never an alarm.
        #[test]
        fn no_alarm_while_the_kernel_keeps_its_tick(
            hz in 24u64..=1200, from in 0u64..50_000_000, nanos in 0u64..1 << 45,
            lag_first in 0..=LAG, lag_last in 0..=LAG,
        ) {
            let tick = 1_000_000_000u64.div_ceil(hz);
            let first = (from / tick + 10).saturating_sub(lag_first);
            let last = ((from + nanos) / tick + 10).saturating_sub(lag_last);
            prop_assert!(!is_slow(tick, nanos, last.saturating_sub(first)));
        }

        /// jiffies64 becomes `value` when that jiffy begins: no later than asked.
        #[test]
        fn no_lease_outlives_its_end(
            jiffies in 2u64..1 << 50, into in 0u64..4_000_000, ask in 0u64..1 << 45
        ) {
            const TICK: u64 = 4_000_000;
            // The jiffy of the sample began `into` nanoseconds before it.
            let began = 1u64 << 40;
            let sample = Sample { jiffies, now: Instant::from_nanos(began + into) };
            let end = Instant::from_nanos(began + into + ask);
            let value = encode(LeaseState::Until(end), sample, TICK);
            if value == LEASE_FENCED {
                prop_assert!(ask < TICK);
            } else {
                let over = began + (value - jiffies) * TICK;
                prop_assert!(over <= end.as_nanos(), "{over} > {end}");
                prop_assert!(end.as_nanos() - over < 2 * TICK);
            }
            // What is read back never promises more.
            let LeaseState::Until(read) = decode(value, sample, TICK) else {
                return Err(TestCaseError::fail("standby"));
            };
            prop_assert!(read <= end.max(sample.now));
        }
    }

    #[test]
    fn special_states() {
        let sample = Sample { jiffies: 1000, now: Instant::from_nanos(1 << 40) };
        let encode = |state| encode(state, sample, 4_000_000);
        assert_eq!(encode(LeaseState::Standby), LEASE_STANDBY);
        assert_eq!(encode(LeaseState::Until(Instant::ZERO)), LEASE_FENCED);
        assert_eq!(encode(LeaseState::Until(sample.now)), LEASE_FENCED);
        let forever = LeaseState::Until(Instant::from_nanos(u64::MAX));
        assert!(encode(forever) > sample.jiffies);
        for state in [LeaseState::Standby, LeaseState::Until(Instant::ZERO)] {
            assert_eq!(decode(encode(state), sample, 4_000_000), state);
        }
        let LeaseState::Until(past) = decode(900, sample, 4_000_000) else { panic!("standby") };
        assert_eq!(sample.now.saturating_since(past), Duration::from_millis(400));
        assert!(check(LeaseSlot(0)).is_err() && check(LeaseSlot(256)).is_err());
    }
}
