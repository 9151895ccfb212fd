//! `global_defs`.

use super::{
    super::{
        keywords::Block,
        model::{Hook, VrrpVersion, XdpMode},
    },
    Entry, Lower,
    host::GarpWords,
};

impl Lower<'_> {
    /// One `global_defs` block; several add up, the last word of a kind counts.
    pub(super) fn global(&mut self, block: &Entry<'_>) {
        let mut garp = GarpWords::default();
        for entry in self.entries(Block::GlobalDefs, block.block()) {
            if !self.counts_in_globals(&entry) {
                continue;
            }
            self.marks.global.insert(entry.name(), entry.head());
            match entry.name() {
                "script_user" => self.config.global.script_user = self.runs_as(&entry),
                "enable_script_security" => self.config.global.enable_script_security = true,
                // Acted on while the text was read (`expand`).
                "include_check" => {}
                "random_seed" => drop(self.int(&entry)),
                "process_name" => {
                    self.config.global.process_name = self.word(&entry).map(|w| w.value);
                }
                "vrrp_version" => {
                    if let Some(version) = self.version(&entry) {
                        self.config.global.vrrp_version = version;
                    }
                }
                "metrics_listen" => {
                    self.config.global.metrics_listen = self.socket(&entry);
                }
                "lvs_flow_table" => {
                    if let Some(rows) = self.u32(&entry) {
                        self.config.global.flow_table_size = rows;
                    }
                }
                "lvs_hook" => {
                    self.config.global.hook = match self.choice(&entry) {
                        Some(1) => Hook::Xdp,
                        Some(2) => Hook::Tc,
                        _ => Hook::Auto,
                    };
                }
                "lvs_xdp_mode" => {
                    self.config.global.xdp_mode = match self.choice(&entry) {
                        Some(1) => XdpMode::Native,
                        Some(2) => XdpMode::Generic,
                        _ => XdpMode::Auto,
                    };
                }
                "flow_sync" => self.flow_sync(&entry),
                _ if self.global_notify_word(&entry) => {}
                word if self.election_default(&entry, word) => {}
                word if self.scheduling(&entry, word) => {}
                _ if self.global_wire_word(&entry) => {}
                other => {
                    if !self.global_host_word(&entry, &mut garp) {
                        self.unhandled(&entry, other);
                    }
                }
            }
        }
        garp.apply(&mut self.config.global);
    }

    pub(super) fn version(&mut self, entry: &Entry<'_>) -> Option<VrrpVersion> {
        match self.int(entry)? {
            3 => Some(VrrpVersion::V3),
            _ => Some(VrrpVersion::V2),
        }
    }

    /// A word that the table calls acting and no code handles: a mistake of ours, and told, so
    /// that a configuration is never silently cut short. A test goes through the whole table.
    pub(super) fn unhandled(&mut self, entry: &Entry<'_>, name: &str) {
        self.cannot(
            entry.head(),
            format!("lbd's keyword table says that `{name}` acts, but nothing handles it"),
            "please report this",
        );
    }
}
