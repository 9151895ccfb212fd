//! Weights of trackers that can never change who is master.

use super::{
    super::{
        diag::{Class, Severity},
        model::{Config, TrackScript, VrrpInstance},
        source::Span,
    },
    Lower,
    cross::{InstanceMarks, Marks},
    tracking::Object,
};
use crate::base::net::Priority;

/// One tracked object of an instance whose weight is not 0.
struct Weighted {
    at: Span,
    /// `script chk`.
    what: String,
    weight: i32,
    /// A file's weight is a factor: what it adds is known only when the file is read.
    factor: bool,
}

/// What an instance tracks with a weight, in the order of its lists.
fn weighted(config: &Config, instance: &VrrpInstance, mark: &InstanceMarks) -> Vec<Weighted> {
    let mut out = Vec::new();
    let scripts = instance.track_scripts.iter().filter_map(|track| {
        let script = config.vrrp_scripts.get(&track.name)?;
        let (_, at) = mark.scripts.iter().find(|(name, _)| *name == track.name)?;
        let weight = track.weight.unwrap_or(script.weight);
        let what = format!("vrrp_script {}", track.name);
        Some(Weighted { at: *at, what, weight, factor: false })
    });
    out.extend(scripts);
    // A sync group may have taken some out of the lists: places are found by name.
    let interfaces = instance.track_interfaces.iter().filter_map(|track| {
        let (_, at) = mark.interfaces.iter().find(|(name, _)| *name == track.name)?;
        let what = format!("interface {}", track.name);
        Some(Weighted { at: *at, what, weight: track.weight, factor: false })
    });
    out.extend(interfaces);
    let more = &instance.track_more;
    let lists: [(Object, &[TrackScript]); 3] = [
        (Object::Process, &more.processes),
        (Object::File, &more.files),
        (Object::Mysql, &more.mysql),
    ];
    for (object, list) in lists {
        for track in list {
            let own = match object {
                Object::Process => config.track_processes.get(&track.name).map(|it| it.weight),
                Object::File => config.track_files.get(&track.name).map(|it| it.weight),
                Object::Mysql => config.track_mysql.get(&track.name).map(|it| it.weight),
            };
            let mut marks = mark.objects.iter();
            let Some((.., at)) =
                marks.find(|(kind, name, _)| *kind == object && *name == track.name)
            else {
                continue;
            };
            out.push(Weighted {
                at: *at,
                what: format!("{} {}", object.keyword(), track.name),
                weight: track.weight.or(own).unwrap_or(0),
                factor: object == Object::File,
            });
        }
    }
    out.retain(|it| it.weight != 0);
    out
}

/// Why a weight never decides, and what to do; `None`: it may.
fn useless(instance: &VrrpInstance, it: &Weighted) -> Option<(Class, String, &'static str)> {
    let Weighted { what, weight, factor, .. } = it;
    let (name, priority) = (&instance.name, instance.priority);
    let found = |why: String| format!("vrrp_instance `{name}`: {why}");
    if priority == Priority::OWNER {
        let why = format!("weight {weight} of {what} never counts: priority 255 does not change");
        let help = match factor {
            true => "give a priority from 1 to 254; only -254 or less in all means FAULT here too",
            false => "give a priority from 1 to 254, or weight 0: a failure means FAULT",
        };
        // keepalived says so too, and does not track it.
        return Some((Class::Fault, found(why), help));
    }
    if !factor && priority.weighted(*weight) == priority {
        let why = format!("weight {weight} of {what} cannot change priority {priority}");
        let help = "the effective priority stays within 1 to 254";
        return Some((Class::Advice, found(why), help));
    }
    if instance.nopreempt {
        let why = format!("with nopreempt weight {weight} of {what} never moves the VIP");
        let help = match factor {
            true => {
                "a peer that has nopreempt too leaves a master alone whatever its priority; -254 or \
                 less in all means FAULT, and the peer takes over"
            }
            false => {
                "a peer that has nopreempt too leaves a master alone whatever its priority; use weight \
                 0: a failure means FAULT, and the peer takes over"
            }
        };
        return Some((Class::Advice, found(why), help));
    }
    None
}

impl Lower<'_> {
    /// Weights that cannot decide who is master.
    pub(super) fn useless_weights(&mut self, marks: &Marks) {
        let mut findings = Vec::new();
        for (instance, mark) in self.config.vrrp_instances.iter().zip(&marks.instances) {
            for it in weighted(&self.config, instance, mark) {
                findings.extend(useless(instance, &it).map(|told| (it.at, told)));
            }
        }
        for (at, (class, message, help)) in findings {
            let diagnostic = self.diagnostic(Severity::Warning, at, message);
            self.sink.push(diagnostic.class(class).help(help));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::load;

    const TRACKED: &str = "vrrp_script s {\n script /bin/true\n timeout 1\n weight -5\n}\n\
        vrrp_track_process p {\n process x\n weight -5\n}\n\
        track_file f {\n file /run/f\n}\n\
        track_mysql m {\n user u\n weight 5\n}\n";

    /// Lines of the warnings about weights.
    fn lines(instance: &str) -> Vec<(u32, String)> {
        let text = format!(
            "{TRACKED}vrrp_instance V {{\n interface eth0\n virtual_router_id 1\n virtual_ipaddress {{\n \
             192.0.2.1\n }}\n{instance}}}\n"
        );
        let outcome = load("t", &text);
        let said = outcome.render();
        assert!(outcome.config.is_some(), "{said}");
        let weights = outcome.diagnostics.iter().filter(|it| it.message.contains("weight"));
        weights.map(|it| (it.place.line, it.message.clone())).collect()
    }

    const ALL: &str = "track_script {\n s\n }\n track_interface {\n eth1 weight -5\n eth2\n }\n \
        track_process {\n p\n }\n track_file {\n f\n }\n track_mysql {\n m\n }\n";

    #[test]
    fn every_kind_of_tracker_is_looked_at() {
        let found = lines(&format!("priority 255\n{ALL}"));
        let what: Vec<_> = found.iter().map(|(line, it)| (*line, it.as_str())).collect();
        let expect = [
            (25, "weight -5 of vrrp_script s never counts"),
            (28, "weight -5 of interface eth1 never counts"),
            (32, "weight -5 of vrrp_track_process p never counts"),
            (35, "weight 1 of track_file f never counts"),
            (38, "weight 5 of track_mysql m never counts"),
        ];
        assert_eq!(what.len(), expect.len(), "{what:?}");
        for ((line, message), (at, words)) in what.iter().zip(expect) {
            assert!(message.contains(words) && *line == at, "{what:?}");
        }
        // Adding to 254 and taking from 1; what a file adds is not known.
        let one = lines(&format!("priority 1\n{ALL}"));
        assert_eq!(one.len(), 3, "{one:?}");
        assert!(one.iter().all(|(_, it)| it.contains("cannot change priority 1")), "{one:?}");
        let most = lines(&format!("priority 254\n{ALL}"));
        assert!(matches!(&most[..], [(38, it)] if it.contains("track_mysql m")), "{most:?}");
        let stay = lines(&format!("state BACKUP\n nopreempt\n{ALL}"));
        assert_eq!(stay.len(), 5, "{stay:?}");
        assert!(stay.iter().all(|(_, it)| it.contains("never moves the VIP")), "{stay:?}");
    }

    #[test]
    fn weights_that_may_decide_and_those_that_mean_fault_are_fine() {
        assert_eq!(lines(&format!("priority 100\n{ALL}")), []);
        let fault = "priority 255\n track_script {\n s weight 0\n }\n track_interface {\n eth2\n }\n \
            track_process {\n p weight 0\n }\n track_file {\n f weight 0\n }\n track_mysql {\n m weight 0\n }\n";
        assert_eq!(lines(fault), []);
    }
}
