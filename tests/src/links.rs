//! Instances that do something to their host, and what `ip` says of it.

use std::time::Duration;

use anyhow::{Context as _, Result};
use lb_userspace::{
    base::status::VrrpState,
    config::{load, model::Config},
};
use serde_json::Value;

use crate::{netns::Namespace, vrrp::RoleThread, wait::wait_true};

/// A file with one instance that is master after 0.36 s; `words` are further words of it.
///
/// # Errors
/// What is wrong with the words.
pub fn config(words: &str, rest: &str) -> Result<Config> {
    let text = format!(
        "vrrp_instance VI_1 {{\n interface eth0\n virtual_router_id 51\n priority 150\n version 3\n \
         advert_int 0.1\n{words}\n}}\n{rest}\n"
    );
    let outcome = load("test", &text);
    let told = outcome.render();
    outcome.config.with_context(|| told)
}

/// What `ip -j -d ARGS` says.
///
/// # Errors
/// When it fails or its answer cannot be read.
pub fn ip_json(netns: &Namespace, args: &[&str]) -> Result<Vec<Value>> {
    let text = netns.ip(&[&["-j", "-d"], args].concat())?;
    Ok(if text.trim().is_empty() { vec![] } else { serde_json::from_str(&text)? })
}

/// `local/prefixlen` of every address of an interface, with what iproute2 tells of it.
pub fn addresses(netns: &Namespace, interface: &str) -> Vec<(String, Value)> {
    let links = ip_json(netns, &["addr", "show", "dev", interface]).unwrap_or_default();
    let infos = links.iter().filter_map(|link| link["addr_info"].as_array()).flatten();
    infos
        .map(|info| {
            let local = info["local"].as_str().unwrap_or_default();
            (format!("{local}/{}", info["prefixlen"]), info.clone())
        })
        .collect()
}

/// Whether an interface has an address, `local/prefixlen`.
pub fn has(netns: &Namespace, interface: &str, address: &str) -> bool {
    addresses(netns, interface).iter().any(|(it, _)| it == address)
}

/// Routes of keepalived's protocol number in every table.
pub fn routes(netns: &Namespace, v6: bool) -> Vec<Value> {
    let family = if v6 { "-6" } else { "-4" };
    let args = [family, "route", "show", "table", "all", "proto", "18"];
    ip_json(netns, &args).unwrap_or_default()
}

/// The IPv4 one of them to a destination.
pub fn route_to(netns: &Namespace, destination: &str) -> Option<Value> {
    routes(netns, false).into_iter().find(|route| route["dst"] == destination)
}

/// Converges the role and waits until it is master with its VIPs.
///
/// # Errors
/// When it is not in time.
pub fn master(role: &mut RoleThread) -> Result<()> {
    role.converge()?;
    wait_true("MASTER with its VIPs", Duration::from_secs(10), || {
        role.status().is_ok_and(|status| status.state == VrrpState::Master && status.vips_set)
    })
}
