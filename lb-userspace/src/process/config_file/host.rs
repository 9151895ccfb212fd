//! What only the host can say about a file: interfaces, programs and users that it names.

use std::{collections::BTreeSet, os::unix::fs::MetadataExt as _};

use nix::unistd;

use super::Loaded;
use crate::{
    config::{
        Reference, ReferenceKind, ScriptSecurity,
        diag::{Class, Severity},
        model::{Config, User, VrrpInstance},
    },
    process::scripts::identity,
};

/// Words of a vrrp_instance that name an interface which its VIPs or adverts need.
const OF_INSTANCES: [&str; 3] = ["interface", "virtual_ipaddress", "virtual_ipaddress_excluded"];

fn interfaces(instance: &VrrpInstance) -> impl Iterator<Item = &str> {
    let vips = instance.virtual_ipaddress.iter().chain(&instance.on_host.excluded);
    let devices = vips.filter_map(|vip| vip.dev.as_deref());
    devices.chain([instance.interface.as_str()])
}

/// Interfaces that the instances make themselves.
fn made(config: &Config) -> BTreeSet<&str> {
    let links = config.vrrp_instances.iter().filter_map(|it| it.on_host.virtual_link.as_ref());
    links.map(|link| link.name.as_str()).collect()
}

impl Loaded {
    /// For `-t`: interfaces, programs and users that are not there. lbd runs nevertheless, and waits
    /// for them or says it when they are needed; keepalived counts them as faults (an interface
    /// whatever else there is).
    pub fn check_host(&mut self, interface: impl Fn(&str) -> bool) {
        let Some(config) = &self.outcome.config else { return };
        let dynamic = config.global.dynamic_interfaces;
        let made = made(config);
        let mut found = Vec::new();
        for reference in &self.outcome.references {
            let Reference { kind, value, object, .. } = reference;
            let finding = match kind {
                ReferenceKind::Interface => {
                    let missing = !dynamic && !made.contains(value.as_str()) && !interface(value);
                    missing.then(|| (Class::Interface, format!("interface {value} does not exist")))
                }
                ReferenceKind::Script => program(value)
                    .err()
                    .map(|why| (Class::Fault, format!("the command of `{object}`: {why}"))),
                ReferenceKind::User => missing_user(value).map(|why| (Class::Fault, why)),
                ReferenceKind::File => None,
            };
            found.extend(finding.map(|(class, message)| (reference.clone(), class, message)));
        }
        for (reference, class, message) in found {
            self.outcome.report(&reference, Severity::Warning, class, message);
        }
    }

    /// keepalived's word for scripts that anybody may have changed, exit code 6 of `-t`: scripts are
    /// run and `enable_script_security` is not set. Those that are not there are not run. It says so of a file
    /// with an error too.
    pub fn check_script_security(&mut self) {
        let ScriptSecurity { enabled, user } = &self.outcome.script_security;
        let mut scripts = self
            .outcome
            .references
            .iter()
            .filter(|it| it.kind == ReferenceKind::Script && !it.value.starts_with('<'))
            .filter(|it| program(&it.value).is_ok());
        let Some(first) = scripts.next().cloned() else { return };
        // A `script_user` who does not exist runs none.
        let nobody = |user: &User| missing_user(&user.name).is_some();
        if *enabled || user.as_ref().is_some_and(nobody) {
            return;
        }
        let which = match scripts.count() {
            0 => format!("the command of `{}` is run", first.object),
            1 => format!("the command of `{}` and one more are run", first.object),
            more => format!("the command of `{}` and {more} more are run", first.object),
        };
        let message = format!("{which} and `enable_script_security` is not set");
        self.outcome.report(&first, Severity::Warning, Class::Security, message);
    }

    /// Refuses a reload that puts an instance or a VIP on an interface that this host does not
    /// have: a start would refuse it too, and the VIPs would leave the interface where they are. One
    /// that the `running` configuration names already may be away for a while. With
    /// `dynamic_interfaces` any may.
    pub fn check_interfaces(&mut self, running: &Config, exists: impl Fn(&str) -> bool) {
        let Some(config) = &self.outcome.config else { return };
        if config.global.dynamic_interfaces {
            return;
        }
        let known: BTreeSet<&str> = running.vrrp_instances.iter().flat_map(interfaces).collect();
        let made = made(config);
        let absent: Vec<Reference> = self
            .outcome
            .references
            .iter()
            .filter(|it| it.kind == ReferenceKind::Interface)
            .filter(|it| OF_INSTANCES.contains(&it.object.as_str()))
            .filter(|it| ![&known, &made].iter().any(|set| set.contains(it.value.as_str())))
            .filter(|it| !exists(&it.value))
            .cloned()
            .collect();
        for reference in absent {
            let message = format!(
                "interface {} does not exist; with `dynamic_interfaces` it may come later",
                reference.value
            );
            self.outcome.report(&reference, Severity::Error, Class::Interface, message);
        }
    }
}

/// Whether a program can be started: found (without `/`: in PATH), a file, and executable by
/// somebody.
fn program(value: &str) -> Result<(), String> {
    // The short form of a vrrp_script: its file comes and goes.
    if value.starts_with('<') {
        return Ok(());
    }
    let path = identity::program_path(value);
    let shown = path.display();
    if !value.contains('/') && !path.is_absolute() {
        return Err(format!("`{shown}` is not in PATH"));
    }
    match std::fs::metadata(&path) {
        Err(error) => Err(format!("{shown}: {error}")),
        Ok(meta) if !meta.is_file() => Err(format!("{shown} is no file")),
        Ok(meta) if meta.mode() & 0o111 == 0 => Err(format!("{shown} is not executable")),
        Ok(_) => Ok(()),
    }
}

/// `USER` or `USER GROUP`: which of them does not exist. What cannot be looked up is not told.
fn missing_user(value: &str) -> Option<String> {
    let (user, group) = value.split_once(' ').map_or((value, None), |(u, g)| (u, Some(g)));
    if matches!(unistd::User::from_name(user), Ok(None)) {
        return Some(format!("user {user} does not exist"));
    }
    let group = group.filter(|name| matches!(unistd::Group::from_name(name), Ok(None)))?;
    Some(format!("group {group} does not exist"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::load;

    /// What `-t` answers to an instance with these words, on a host that has eth0 and eth1; and the
    /// findings.
    fn tested(global: &str, rest: &str, words: &str) -> (u8, String) {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("lbd.conf");
        let script = dir.path().join("plain");
        std::fs::write(&script, "#!/bin/sh\n").expect("written");
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o644)).expect("chmod");
        let text = format!(
            "global_defs {{\n {global}\n}}\n{rest}\nvrrp_instance V {{\n interface eth0\n \
             virtual_router_id 1\n {words}\n virtual_ipaddress {{\n 192.0.2.1\n }}\n}}\n"
        );
        let text = text.replace("PLAIN", &script.display().to_string());
        std::fs::write(&path, text).expect("written");
        let mut loaded = load(&path);
        loaded.check_host(|name| ["eth0", "eth1"].contains(&name));
        loaded.check_script_security();
        (loaded.test_code(), loaded.outcome.render())
    }

    /// Exit codes as keepalived 2.2.7 gave them for the same files (seen with `keepalived -t`).
    #[test]
    fn codes_of_what_the_host_lacks_are_keepaliveds() {
        let script = |path: &str| format!("vrrp_script s {{\n script {path}\n timeout 1\n}}\n");
        let tracked = "track_script {\n s\n }";
        let secure = "enable_script_security\n script_user root";
        for (global, rest, words, code, phrase) in [
            ("", String::new(), "", 0, ""),
            ("", script("/bin/true"), tracked, 6, "`enable_script_security` is not set"),
            ("", script("true"), tracked, 6, "is not set"),
            // Beside an error too.
            ("", script("/bin/true"), &format!("priority 999\n {tracked}"), 6, "is not set"),
            (secure, script("/bin/true"), &format!("priority 999\n {tracked}"), 5, "priority"),
            ("", script("/no/such"), &format!("priority 999\n {tracked}"), 5, "priority"),
            ("", script("/bin/true"), &format!("priority\n {tracked}"), 2, "needs an argument"),
            ("", script("/no/such"), tracked, 5, "No such file"),
            ("", script("no-such-program-x"), tracked, 5, "is not in PATH"),
            ("", script("PLAIN"), tracked, 5, "is not executable"),
            ("", script("/bin"), tracked, 5, "is no file"),
            (secure, script("/bin/true"), tracked, 0, ""),
            (secure, script("/no/such"), tracked, 5, "No such file"),
            ("", String::new(), "track_interface {\n eth7\n }", 5, "interface eth7 does not exist"),
            (
                "",
                script("/bin/true"),
                "track_interface {\n eth7\n }\n track_script {\n s\n }",
                5,
                "eth7",
            ),
            ("dynamic_interfaces", String::new(), "track_interface {\n eth7\n }", 0, ""),
            ("", String::new(), "virtual_ipaddress_excluded {\n 192.0.2.3 dev eth7\n }", 5, "eth7"),
            (
                "",
                String::new(),
                "use_vmac vm0\n virtual_ipaddress_excluded {\n 192.0.2.3 dev vm0\n }",
                0,
                "",
            ),
            (
                "script_user no_such_user_x",
                script("/bin/true"),
                tracked,
                5,
                "user no_such_user_x does not exist",
            ),
            (secure, String::new(), "notify_master /bin/true no_such_user_x", 5, "does not exist"),
            (
                secure,
                String::new(),
                "notify_master /bin/true root no_such_group_x",
                5,
                "group no_such_group_x",
            ),
        ] {
            let (got, said) = tested(global, &rest, words);
            assert_eq!(got, code, "{global} {rest} {words}: {said}");
            assert!(said.contains(phrase), "{phrase}: {said}");
            let faults = ["warning:", "error:"].iter().any(|word| said.contains(word));
            assert_eq!(code == 0, !faults, "{said}");
        }
    }

    #[test]
    fn a_reload_to_an_interface_that_is_not_there_is_refused_at_its_word() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("lbd.conf");
        let instance = |global: &str, interface: &str, dev: &str| {
            let text = format!(
                "global_defs {{\n {global}\n}}\nvrrp_instance V {{\n interface {interface}\n \
                 virtual_router_id 1\n use_vmac vmx\n virtual_ipaddress {{\n  192.0.2.1 dev {dev}\n \
                 }}\n}}\n"
            );
            std::fs::write(&path, text).expect("written");
            load(&path)
        };
        let running = instance("", "gone0", "eth0").outcome.config.expect("a configuration");
        for (global, interface, dev, place) in [
            ("", "eth0", "eth0", ""),
            // Away, and no business of this reload.
            ("", "gone0", "eth0", ""),
            ("", "eth0", "vmx", ""),
            ("", "eht0", "eth0", ":5:12"),
            ("", "eth0", "eht1", ":9:17"),
            ("dynamic_interfaces", "eht0", "eth0", ""),
        ] {
            let mut loaded = instance(global, interface, dev);
            loaded.check_interfaces(&running, |name| name == "eth0");
            let said = loaded.outcome.render();
            assert_eq!(loaded.outcome.config.is_none(), !place.is_empty(), "{interface} {dev}");
            assert!(place.is_empty() || said.contains(place), "{place}: {said}");
        }
    }
}
