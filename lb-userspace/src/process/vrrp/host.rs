//! What the kernel tells of links, addresses, routes and rules, and who has to know it.

use anyhow::bail;

use super::{VrrpRole, interfaces::Interfaces, lower};
use crate::{
    base::time::Instant, config::model::Config, io::link, process::clock, vrrp::damper::Delays,
};

impl VrrpRole {
    /// Words about the host that concern no single instance.
    pub(super) fn configure_host(&mut self, config: &Config) {
        let (usual, groups) = lower::paces(config);
        self.shell.pacer.configure(usual, groups);
        let delays = config
            .link_delays
            .iter()
            .map(|it| (it.interface.clone(), Delays { down: it.down, up: it.up }));
        self.shell.damper.configure(delays.collect());
        self.statics.configure(lower::statics(&config.statics), &mut self.shell);
    }

    pub(super) fn link_event(&mut self, event: &link::Event) -> anyhow::Result<()> {
        let now = clock::now();
        match event {
            link::Event::Failed(error) => bail!("rtnetlink: {error}"),
            link::Event::Done { id, added, aborted, errors } => {
                if self.statics.changed(*id, errors, now) {
                    return Ok(());
                }
                for instance in self.instances.iter_mut().chain(&mut self.leaving) {
                    instance.aborted(*id, aborted);
                    if instance.changed(*id, *added, errors, now, &mut self.shell) {
                        break;
                    }
                }
                return Ok(());
            }
            link::Event::ObjectGone(_) => {
                self.statics.object_gone(event, now);
                for instance in &mut self.instances {
                    instance.object_gone(event, now, &mut self.shell);
                }
                return Ok(());
            }
            _ => {}
        }
        // Another link of a name is a new one, too: sockets of the old one hear nothing any more.
        let known = |event: &link::Event, interfaces: &Interfaces| match event {
            link::Event::Link(link) => {
                interfaces.get(&link.name).is_some_and(|it| it.link.index == link.index)
            }
            _ => true,
        };
        let came = !known(event, &self.shell.interfaces);
        // Down, it has lost its routes; a flap may be hidden from the instances (link delays).
        let rose = matches!(event, link::Event::Link(link)
            if link.up && self.shell.interfaces.get(&link.name).is_none_or(|it| !it.up()));
        // A rename is told as the new name; who followed the old one has to look, too.
        if let link::Event::Link(link) = event {
            self.touched.extend(self.shell.interfaces.name_of(link.index));
        }
        let Some(name) = self.shell.interfaces.notice(event) else { return Ok(()) };
        if came {
            self.watch_vips();
        }
        if came || rose {
            self.statics.interface_came(&name, now);
            for instance in &mut self.instances {
                instance.interface_came(&name, &mut self.shell);
            }
        }
        if let link::Event::Address(address) | link::Event::AddressGone(address) = event {
            self.moved.insert(address.address());
        }
        if let link::Event::AddressGone(address) = event {
            // Of an interface that is down nobody took it.
            self.look_at_touched(now);
            self.statics.address_gone(&name, address.assigned, now);
            for instance in &mut self.instances {
                instance.address_gone(&name, address.assigned, now, &mut self.shell);
            }
        }
        self.touched.insert(name);
        Ok(())
    }

    /// Instances look at their interfaces once, however much was told of them.
    pub(super) fn look_at_touched(&mut self, now: Instant) {
        let touched = std::mem::take(&mut self.touched);
        if touched.is_empty() {
            return;
        }
        self.look_at_group_interfaces(now);
        for instance in &mut self.instances {
            if touched.iter().any(|name| instance.follows(name)) {
                instance.look_at_interfaces(now, &mut self.shell);
            }
        }
    }
}
