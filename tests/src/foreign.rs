//! Somebody else's XDP program on an interface.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use lb_userspace::{
    base::table::ForwardingTable,
    config::model::Attachment,
    dataplane::{
        DataPlane as _,
        xdp::{Xdp, loader},
    },
    reconcile::plan,
};

use crate::netns::Namespace;

/// Our object under pins that no lbd knows; gone when it is dropped.
#[derive(Debug)]
pub struct Foreign(PathBuf);

impl Foreign {
    /// Puts it on eth0 of a namespace.
    ///
    /// # Errors
    /// When the kernel does not take it.
    pub fn attach(on: &Namespace) -> Result<Self> {
        let name = format!("/sys/fs/bpf/foreign-{}-{}", std::process::id(), on.name());
        let foreign = Self(PathBuf::from(name));
        on.enter(|| -> Result<()> {
            let mut engine = Xdp::open(&foreign.0, 1024, Attachment::XDP)?;
            let wanted =
                ForwardingTable { interfaces: ["eth0".to_owned()].into(), ..Default::default() };
            let report = engine.apply(&plan(&ForwardingTable::default(), &wanted));
            ensure!(report.failures().count() == 0, "{report:?}");
            Ok(())
        })??;
        Ok(foreign)
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = loader::remove(&self.0);
    }
}
