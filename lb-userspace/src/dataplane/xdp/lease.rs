//! Writes leases for the kernel program: one map update an advert.
//!
//! The program compares jiffies64, which costs it nothing; user space knows CLOCK_MONOTONIC. The
//! pinned `lbd_clock` program reads both together, and every [`LeaseWriter::set`] asks it anew
//! (about 2 µs): were jiffies late at that moment, the lease would end earlier, never later.

use std::{os::fd::OwnedFd, path::Path, thread, time::Duration};

use anyhow::{Context as _, bail};
use aya::maps::{Array, MapData, MapInfo};
use lb_common::{
    abi::{LEASE_ALWAYS, LEASE_FENCED, LEASE_STANDBY},
    maps,
};

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

/// CONFIG_HZ values that the architecture's kernels are built with.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const HZ: &[u64] = &[100, 250, 300, 1000];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const HZ: &[u64] = &[24, 32, 48, 64, 100, 128, 200, 250, 256, 300, 500, 512, 1000, 1024];

/// Between two samples of the measurement.
const CALIBRATION_STEP: Duration = Duration::from_millis(20);
/// A measurement ends when one CONFIG_HZ is left (after 80 to 250 ms), or after this long.
const CALIBRATION: Duration = Duration::from_millis(600);
/// Jiffies by which a sample may be behind the clock: the CPU that counts them may be late.
const LAG: u64 = 2;

impl Clock {
    /// Opens the pinned clock program and measures the length of a jiffy (80 to 250 ms, asleep
    /// nearly all of it).
    ///
    /// # Errors
    /// When it is not pinned, cannot run, or jiffies stand still.
    pub fn open(pin_dir: &Path) -> anyhow::Result<Self> {
        Self::new(loader::pinned_program(pin_dir, maps::CLOCK_PROGRAM)?)
    }

    pub(super) fn new(program: OwnedFd) -> anyhow::Result<Self> {
        let mut clock = Self { program, tick: 1 };
        let limit = crate::base::time::nanos(CALIBRATION);
        let begin = clock.sample()?;
        clock.tick = loop {
            thread::sleep(CALIBRATION_STEP);
            let sample = clock.sample()?;
            let nanos = sample.now.as_nanos().saturating_sub(begin.now.as_nanos());
            let jiffies = sample.jiffies.saturating_sub(begin.jiffies);
            match ticks(nanos, jiffies) {
                (tick, 1) => break tick,
                (tick, _) if nanos > limit => {
                    if jiffies <= LAG {
                        bail!("the kernel's jiffies stood still for {CALIBRATION:?}");
                    }
                    break tick;
                }
                _ => {}
            }
        };
        Ok(clock)
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

/// Lengths of a jiffy that fit a measurement: the longest of them, and how many fit.
///
/// Wherever in their jiffies the two samples lie, however late the process was to take them, and
/// with [`LAG`] jiffies not counted yet at either, the true length lies between
/// `nanos / (jiffies + 1 + LAG)` and `nanos / (jiffies - 1 - LAG)`. The longest is the safe one:
/// too long a jiffy makes leases shorter, too short a one would make them outlive their end. Where no
/// CONFIG_HZ fits, it is the upper bound itself (and counts as none).
fn ticks(nanos: u64, jiffies: u64) -> (u64, usize) {
    let least = nanos / (jiffies + 1 + LAG);
    let most = match jiffies.saturating_sub(1 + LAG) {
        0 => u64::MAX, // too short to say
        surely => nanos.div_ceil(surely),
    };
    let fits = |tick: &u64| (least..=most).contains(tick);
    let fitting = || HZ.iter().map(|hz| 1_000_000_000_u64.div_ceil(*hz)).filter(fits);
    (fitting().max().unwrap_or(most), fitting().count())
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
}

impl LeaseWriter {
    /// Opens map and clock program where the forwarder pinned them. Takes 80 to 250 ms; needs no
    /// capability on kernels since 5.19, CAP_BPF before.
    ///
    /// # Errors
    /// When the forwarder has not pinned them (yet), or the clock cannot be calibrated.
    pub fn open(pin_dir: &Path) -> anyhow::Result<Self> {
        let id = pinned_id(pin_dir)?;
        Ok(Self { lease: array(pin_dir, maps::LEASE)?, id, clock: Clock::open(pin_dir)? })
    }

    /// Whether this is the map that is pinned there now.
    pub fn is_pinned(&self, pin_dir: &Path) -> bool {
        pinned_id(pin_dir).is_ok_and(|id| id == self.id)
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
    fn a_long_measurement_leaves_one_config_hz() {
        for (nanos, jiffies, want) in [
            (100_010_000, 25, 4_000_000),
            (260_000_000, 26, 10_000_000),
            (30_900_000, 30, 1_000_000),
            (100_000_100, 30, 3_333_334),
        ] {
            assert_eq!(ticks(nanos, jiffies), (want, 1));
        }
        // Too short to tell 250 from 300: the longer one.
        assert_eq!(ticks(40_000_000, 10).0, 4_000_000);
        let (odd, fitting) = ticks(700_000_000, 100);
        assert!(odd > 7_000_000 && fitting == 0, "an unknown tick is taken too long: {odd}");
    }

    proptest! {
        /// Samples anywhere in their jiffies, taken late, with jiffies lagging: never too short.
        #[test]
        fn the_measured_tick_is_never_too_short(
            hz in prop::sample::select(HZ), from in 0u64..10_000_000, nanos in 0u64..700_000_000,
            lag_first in 0..=LAG, lag_last in 0..=LAG,
        ) {
            let tick = 1_000_000_000u64.div_ceil(hz);
            let first = (from / tick + 10).saturating_sub(lag_first);
            let last = ((from + nanos) / tick + 10).saturating_sub(lag_last);
            if let (measured, 1) = ticks(nanos, last.saturating_sub(first)) {
                prop_assert_eq!(measured, tick);
            }
            prop_assert!(ticks(nanos, last.saturating_sub(first)).0 >= tick);
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
