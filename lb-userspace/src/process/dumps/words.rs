//! Addresses, routes and rules in the words of keepalived's dumps, which are iproute2's.

use std::fmt::{self, Write as _};

use crate::config::model::{
    NextHop, Route, RouteKind, Rule, RuleAction, TABLE_MAIN, VipAddress, VrrpInstance,
};

/// VIPs as keepalived shows them: `10.9.0.100/24 dev d0 scope global set`.
pub(super) fn vips(model: &VrrpInstance, vips: &[VipAddress], set: bool) -> Vec<String> {
    let set = if set { " set" } else { "" };
    let one = |vip: &VipAddress| {
        let dev = vip.dev.as_deref().unwrap_or(&model.interface);
        let scope = match vip.scope {
            0 => "global".to_owned(),
            200 => "site".to_owned(),
            253 => "link".to_owned(),
            254 => "host".to_owned(),
            255 => "nowhere".to_owned(),
            other => other.to_string(),
        };
        let label = vip.label.as_ref().map(|it| format!(" label {it}")).unwrap_or_default();
        format!("{} dev {dev} scope {scope}{label}{set}", vip.prefix)
    };
    vips.iter().map(one).collect()
}

/// `10.81.0.0/16 via 10.77.0.2 dev eth0 table 99 metric 5`.
pub(super) fn route(route: &Route) -> String {
    let mut out = match route.kind {
        RouteKind::Unicast => String::new(),
        other => format!("{other:?} ").to_lowercase(),
    };
    let several = route.next_hops.len() > 1;
    let mut words = || -> fmt::Result {
        write!(out, "{}", route.to)?;
        if let Some(from) = route.from {
            write!(out, " from {from}")?;
        }
        for NextHop { via, dev, weight, .. } in &route.next_hops {
            if several {
                out.push_str(" nexthop");
            }
            if let Some(via) = via {
                write!(out, " via {via}")?;
            }
            if let Some(dev) = dev {
                write!(out, " dev {dev}")?;
            }
            if several {
                write!(out, " weight {weight}")?;
            }
        }
        if let Some(src) = route.src {
            write!(out, " src {src}")?;
        }
        if route.table != TABLE_MAIN {
            write!(out, " table {}", route.table)?;
        }
        if let Some(metric) = route.metric {
            write!(out, " metric {metric}")?;
        }
        Ok(())
    };
    let _ = words(); // writing to a string does not fail
    out
}

/// `from 10.77.0.77 priority 2000 table 99`.
pub(super) fn rule(rule: &Rule) -> String {
    let mut words = Vec::new();
    if rule.invert {
        words.push("not".to_owned());
    }
    let given = [
        ("from", rule.from.map(|it| it.to_string())),
        ("to", rule.to.map(|it| it.to_string())),
        ("priority", rule.priority.map(|it| it.to_string())),
        ("fwmark", rule.fwmark.map(|(mark, _)| format!("{mark:#x}"))),
        ("iif", rule.iif.clone()),
        ("oif", rule.oif.clone()),
    ];
    words.extend(given.into_iter().filter_map(|(word, it)| Some(format!("{word} {}", it?))));
    words.push(match rule.action {
        RuleAction::Table(table) => format!("table {table}"),
        RuleAction::Goto(priority) => format!("goto {priority}"),
        other => format!("{other:?}").to_lowercase(),
    });
    words.join(" ")
}
