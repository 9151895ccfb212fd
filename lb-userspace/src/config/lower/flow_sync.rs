//! `flow_sync`, ours: connection sync between the hosts of a virtual router.

use std::net::IpAddr;

use crate::vrrp::auth::hmac::{self, Secret};

use super::{
    super::{
        ReferenceKind,
        keywords::Block,
        model::{FlowSync, SyncPeers},
        source::Span,
    },
    Entry, Lower,
};

/// Peers at most.
const PEERS: usize = crate::sync::PEERS;

impl Lower<'_> {
    /// The block; without a key there is no flow sync, because whoever can send to this host could enter
    /// connections.
    pub(super) fn flow_sync(&mut self, block: &Entry<'_>) {
        let mut sync = FlowSync::new(Secret::Bytes(Vec::new()));
        let (mut keyed, mut told) = (false, false);
        let (mut peers, mut group) = (Vec::new(), None);
        for entry in self.entries(Block::FlowSync, block.block()) {
            match entry.name() {
                "key" => match self.sync_key(&entry) {
                    Some(key) => (sync.key, keyed) = (key, true),
                    None => told = true,
                },
                "peer" => {
                    let Some(peer) = self.address(&entry) else { continue };
                    if self.has_room(peers.len(), PEERS, peer.span, "peers of flow_sync") {
                        peers.push(peer.value);
                    }
                }
                "multicast" => {
                    let Some(address) = self.address(&entry) else { continue };
                    if !address.value.is_multicast() {
                        let message = format!("flow_sync: {} is no multicast group", address.value);
                        self.error(address.span, message);
                    }
                    group = Some((address.value, entry.head()));
                }
                "interface" => {
                    let Some(word) = self.word(&entry) else { continue };
                    let (value, span) = (word.value.clone(), word.span);
                    self.refer(ReferenceKind::Interface, value, span, "interface");
                    sync.interface = Some(word.value);
                }
                "source" => sync.source = self.address(&entry).map(|word| word.value),
                "port" => {
                    sync.port =
                        self.int(&entry).and_then(|it| u16::try_from(it).ok()).unwrap_or(sync.port)
                }
                "timeout" => sync.timeout = self.duration(&entry).unwrap_or(sync.timeout),
                other => self.unhandled(&entry, other),
            }
        }
        if !keyed {
            if !told {
                self.cannot(
                    block.head(),
                    "`flow_sync` without `key`",
                    "whoever can send to this host could enter connections; give all hosts the same key",
                );
            }
            return;
        }
        if let Some((group, span)) = group {
            self.sync_group_words(&sync, &peers, group, span);
            sync.peers = SyncPeers::Group(group);
        } else {
            sync.peers = SyncPeers::Hosts(peers);
        }
        self.marks.flow_sync = Some(block.head());
        self.config.global.flow_sync = Some(sync);
    }

    fn sync_group_words(&mut self, sync: &FlowSync, peers: &[IpAddr], group: IpAddr, span: Span) {
        if !peers.is_empty() {
            self.error(span, "flow_sync: `multicast` and `peer` are both given");
        }
        if sync.interface.is_none() {
            self.error(span, format!("flow_sync: `multicast {group}` needs `interface`"));
        }
    }

    /// `key VALUE`. The value never shows in a message.
    fn sync_key(&mut self, entry: &Entry<'_>) -> Option<Secret> {
        let word = self.first(entry)?;
        let text = self.text(word).into_owned();
        if let Some(path) = text.strip_prefix("file:") {
            self.refer(ReferenceKind::File, path.to_owned(), word.span, "key");
            return Some(Secret::File(path.into()));
        }
        match hmac::key_bytes(&text) {
            Ok(bytes) => Some(Secret::Bytes(bytes)),
            Err(why) => {
                self.error(word.span, format!("flow_sync: {why}"));
                None
            }
        }
    }

    /// Peers that the block does not name are those of the instances.
    pub(super) fn complete_flow_sync(&mut self) {
        let Some(span) = self.marks.flow_sync else { return };
        let config = &mut self.config;
        let Some(sync) = &mut config.global.flow_sync else { return };
        let SyncPeers::Hosts(peers) = &mut sync.peers else { return };
        if peers.is_empty() {
            for instance in &config.vrrp_instances {
                let new = |peer: &&IpAddr| !peers.contains(peer);
                let more: Vec<IpAddr> =
                    instance.unicast_peers.iter().filter(new).copied().collect();
                if sync.source.is_none() && !more.is_empty() {
                    sync.source = instance.source;
                }
                peers.extend(more);
            }
            peers.truncate(PEERS);
        }
        let families = |v6: bool| peers.iter().any(|peer| peer.is_ipv6() == v6);
        let mixed = families(true) && families(false)
            || sync.source.is_some_and(|source| families(!source.is_ipv6()));
        if peers.is_empty() {
            self.cannot(
                span,
                "`flow_sync` has no peer",
                "name each other host by `peer IP`; without, those of `unicast_peer` are taken",
            );
        } else if mixed {
            self.error(span, "flow_sync: peers and `source` are of both address families");
        }
    }
}
