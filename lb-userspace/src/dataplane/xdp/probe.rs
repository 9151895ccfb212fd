//! What this kernel and an interface make of the program, without leaving anything: `lbd check-host`.

use aya::{Ebpf, EbpfLoader, programs::Xdp};
use lb_common::maps;
use nix::net::if_::if_nametoindex;

use anyhow::Context as _;

use super::{
    attach::{AttachError, refusal},
    loader::{explain_load, explain_program},
    object, sys,
};

/// Entries of the tables of connections: enough to be tables.
const FLOWS: u32 = 1024;

/// The program in the kernel, pinned nowhere and attached to nothing. It goes when this is dropped.
#[derive(Debug)]
pub struct Probe {
    ebpf: Ebpf,
}

impl Probe {
    /// Has the kernel verify the object that lbd carries.
    ///
    /// # Errors
    /// A sentence with the attempt and the cause, as at a start.
    pub fn load() -> anyhow::Result<Self> {
        let bytes = object::bytes().map_err(anyhow::Error::msg)?;
        let mut loader = EbpfLoader::new();
        for name in [maps::FLOWS4, maps::FLOWS6] {
            loader.map_max_entries(name, FLOWS);
        }
        let mut ebpf = loader.load(bytes).map_err(explain_load)?;
        for name in [maps::PROGRAM6, maps::PROGRAM, maps::CLOCK_PROGRAM] {
            let program: &mut Xdp = ebpf
                .program_mut(name)
                .with_context(|| format!("the kernel object has no program {name}"))?
                .try_into()
                .with_context(|| format!("the program {name} is not XDP"))?;
            program.load().map_err(|error| explain_program(name, error))?;
        }
        Ok(Self { ebpf })
    }

    /// Instructions that the verifier counted for the programs of IPv4 and IPv6; kernels before 5.16 do not say.
    pub fn verified(&self) -> Vec<u32> {
        let count = |name: &&str| {
            let program: &Xdp = self.ebpf.program(name)?.try_into().ok()?;
            program.info().ok()?.verified_instruction_count()
        };
        [maps::PROGRAM, maps::PROGRAM6].iter().filter_map(count).collect()
    }

    /// Puts the program on an interface in native mode and takes it off again. Its tables are empty, so that every
    /// packet passes meanwhile; but some drivers reset their link for it.
    ///
    /// # Errors
    /// [`AttachError`], as at a start.
    pub fn attach(&self, interface: &str) -> Result<(), AttachError> {
        let ifindex =
            if_nametoindex(interface).map_err(|_| AttachError::Missing(interface.to_owned()))?;
        let program: Option<&Xdp> =
            self.ebpf.program(maps::PROGRAM).and_then(|program| program.try_into().ok());
        let fd = program.and_then(|program| program.fd().ok());
        let fd = fd.ok_or_else(|| {
            let lost = std::io::Error::other("the program is not loaded");
            AttachError::Refused(interface.to_owned(), lost)
        })?;
        sys::attach_xdp(fd, ifindex, false)
            .map(drop)
            .map_err(|error| refusal(interface, error, || Some("an XDP program".to_owned())))
    }
}

/// Whether a tc program can be attached without a qdisc (tcx, since 6.6).
pub fn has_tcx() -> bool {
    const LOOPBACK: u32 = 1;
    sys::query_tcx(LOOPBACK).is_ok()
}
