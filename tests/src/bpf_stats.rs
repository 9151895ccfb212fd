//! What the kernel counts of BPF programs only when asked to.

use std::fs;

use anyhow::Result;

/// The kernel's run-time statistics of programs, on while this lives.
#[derive(Debug)]
pub struct BpfStats(String);

impl BpfStats {
    const SETTING: &str = "/proc/sys/kernel/bpf_stats_enabled";

    /// Switches them on for the whole kernel; they cost every program some nanoseconds a run.
    ///
    /// # Errors
    /// When this is not root or the kernel has no such setting.
    pub fn on() -> Result<Self> {
        let before = fs::read_to_string(Self::SETTING)?;
        fs::write(Self::SETTING, "1")?;
        Ok(Self(before))
    }
}

impl Drop for BpfStats {
    fn drop(&mut self) {
        let _ = fs::write(Self::SETTING, self.0.trim());
    }
}
