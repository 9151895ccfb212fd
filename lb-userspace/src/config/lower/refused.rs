//! What stands in a block whose head is refused: read for its own mistakes, so that one run tells all of them.

use std::net::SocketAddr;

use super::{
    super::keywords::{Argument, Block},
    Entry, Lower,
    checkers::Schedule,
};

impl Lower<'_> {
    /// The words of a virtual_server whose address is not known or not available.
    pub(super) fn refused_server(&mut self, block: &Entry<'_>) {
        for entry in self.entries(Block::VirtualServer, block.block()) {
            match entry.name() {
                "lb_algo" | "lvs_sched" => drop(self.scheduler(&entry)),
                "lb_kind" | "lvs_method" => drop(self.method(&entry)),
                "on_down" => drop(self.on_down(&entry)),
                // Without a port of its own it has that of the VIP, which nobody knows.
                "real_server" => self.refused_real_server(&entry, None),
                _ => self.value_alone(&entry),
            }
        }
    }

    /// The words of a real_server that cannot be one, or whose virtual_server cannot be one.
    pub(super) fn refused_real_server(&mut self, block: &Entry<'_>, port: Option<u16>) {
        let server = self.server(block).map(|server| server.value);
        let addr = server.and_then(|(ip, own)| Some(SocketAddr::new(ip, own.or(port)?)));
        let schedule = Schedule::default();
        for entry in self.entries(Block::RealServer, block.block()) {
            match (entry.name(), addr) {
                ("TCP_CHECK", Some(addr)) => drop(self.tcp_check(addr, &schedule, &entry)),
                ("MISC_CHECK", Some(addr)) => drop(self.misc_check(addr, &schedule, &entry)),
                ("MYSQL_CHECK", Some(addr)) => drop(self.mysql_check(addr, &schedule, &entry)),
                ("HTTP_GET" | "SSL_GET", Some(addr)) => {
                    drop(self.http_check(addr, &schedule, &entry));
                }
                ("lvs_method", _) => drop(self.method(&entry)),
                _ => self.value_alone(&entry),
            }
        }
    }

    /// Whether a value has the form that the table wants; what does not is told.
    fn value_alone(&mut self, entry: &Entry<'_>) {
        match entry.keyword.argument {
            Argument::Bool => drop(self.bool(entry, false)),
            Argument::Int { .. } => drop(self.int(entry)),
            Argument::Seconds { .. } | Argument::Time { .. } => drop(self.duration(entry)),
            Argument::Choice(_) => drop(self.choice(entry)),
            Argument::Address => drop(self.address(entry)),
            Argument::Socket => drop(self.socket(entry)),
            Argument::Server => drop(self.server(entry)),
            Argument::Command { .. } => drop(self.command(entry, None)),
            Argument::User => drop(self.user(entry)),
            Argument::Nothing
            | Argument::Word(_)
            | Argument::Millis { .. }
            | Argument::Words(_)
            | Argument::Optional(_)
            | Argument::Secret => {}
        }
        self.block_alone(entry);
    }

    /// The words of a block whose object is not known.
    pub(super) fn block_alone(&mut self, entry: &Entry<'_>) {
        let Some(opens) = entry.keyword.opens.filter(|opens| !opens.is_list()) else { return };
        for inner in self.entries(opens, entry.block()) {
            self.value_alone(&inner);
        }
    }
}
