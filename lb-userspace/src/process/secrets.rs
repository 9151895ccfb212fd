//! Who gets which secret. The watchdog knows all; a role gets those it uses: vrrp `auth_pass`,
//! checker the passwords of MYSQL_CHECK, forwarder the key of `flow_sync`, api (which parses bytes of the
//! network) none. What `--record` writes carries none at all.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use lb_common::csum;

use super::ipc::Role;
use crate::{
    config::model::{
        Authentication, Checker, Config, Global, TlsCaContent, TrackMysql, VrrpInstance,
    },
    vrrp::{
        auth::{Auth, TYPE_PASS},
        router::{self, Input},
        wire::Options,
    },
};

/// Bytes of VRRPv2's authentication data, at the end of the message.
const AUTH_DATA: usize = 8;

/// The part of the configuration that a role works with, and the secrets of that role only. What a
/// role does not look at costs it memory, once for each instance of a large file.
pub fn for_role(config: &Config, role: Role) -> Arc<Config> {
    let flow_sync = config.global.flow_sync.clone().filter(|_| role == Role::Forwarder);
    let global = Global { flow_sync, ..config.global.clone() };
    Arc::new(match role {
        Role::Vrrp => Config {
            virtual_servers: vec![],
            track_mysql: without_passwords(&config.track_mysql),
            global,
            ..config.clone()
        },
        Role::Checker => Config {
            global,
            virtual_servers: config.virtual_servers.clone(),
            track_mysql: config.track_mysql.clone(),
            ..Config::default()
        },
        Role::Forwarder => {
            let mut virtual_servers = config.virtual_servers.clone();
            let servers = virtual_servers.iter_mut().flat_map(|vs| &mut vs.real_servers);
            servers.flat_map(|rs| &mut rs.checkers).for_each(strip);
            let open = |instance: &VrrpInstance| VrrpInstance {
                authentication: Authentication::None,
                wire: Options { hmac: None, ..instance.wire.clone() },
                ..instance.clone()
            };
            let vrrp_instances = config.vrrp_instances.iter().map(open).collect();
            Config { global, virtual_servers, vrrp_instances, ..Config::default() }
        }
        Role::Api => Config { global, ..Config::default() },
    })
}

fn without_passwords(tracked: &BTreeMap<String, TrackMysql>) -> BTreeMap<String, TrackMysql> {
    let mut tracked = tracked.clone();
    tracked.values_mut().for_each(|track| strip(&mut track.checker));
    tracked
}

/// Takes out what only the checker uses: the password, and what `tls_ca` holds.
fn strip(checker: &mut Checker) {
    if let Checker::Mysql(_, check) = checker {
        check.password = None;
        if let Some(ca) = &mut check.tls_ca {
            ca.content = TlsCaContent::Unread;
        }
    }
}

/// An input of a virtual router as it may be recorded. `auth_pass` of an advert becomes zeros where
/// it is ours and 0xff where it is not, so that a replay, whose `auth_pass` is zeros too, judges
/// it as the router did; the checksum changes with it (RFC 1624): a right one stays right, a wrong
/// one wrong.
pub fn recordable_input(input: &Input, own: Auth) -> Cow<'_, Input> {
    let bytes = match input {
        Input::Datagram(bytes) => bytes,
        Input::Configure(config) => {
            return Cow::Owned(Input::Configure(Box::new(recordable_router(config))));
        }
        _ => return Cow::Borrowed(input),
    };
    // Over IPv6 VRRPv2 carries no password.
    let first = bytes.first().filter(|byte| *byte >> 4 == 4);
    let header = first.map_or(bytes.len(), |byte| usize::from(byte & 0xf) * 4);
    let message = bytes.get(header..).unwrap_or_default();
    let has_pass = message.first().is_some_and(|byte| byte >> 4 == 2)
        && message.get(4) == Some(&TYPE_PASS)
        && message.len() >= 8 + AUTH_DATA;
    if !has_pass {
        return Cow::Borrowed(input);
    }
    let mut bytes = bytes.clone();
    let end = bytes.len() - AUTH_DATA;
    let (rest, data) = bytes.split_at_mut(end);
    let mask = if data == own.data() { 0 } else { 0xff };
    let word = |pair: &[u8]| u16::from_be_bytes([pair[0], pair[1]]);
    // An odd length shifts the words of the sum; such a message is discarded for its length.
    let delta = data
        .chunks_exact(2)
        .fold(0, |sum, pair| sum + csum::delta16(word(pair), u16::from_be_bytes([mask; 2])));
    data.fill(mask);
    let field = &mut rest[header + 6..header + 8];
    let checksum = csum::update(word(field), csum::fold(delta));
    field.copy_from_slice(&checksum.to_be_bytes());
    Cow::Owned(Input::Datagram(bytes))
}

/// The forwarder's configuration as it may be recorded: without the key of flow sync.
pub fn recordable_config(config: &Config) -> Cow<'_, Config> {
    if config.global.flow_sync.is_none() {
        return Cow::Borrowed(config);
    }
    let global = Global { flow_sync: None, ..config.global.clone() };
    Cow::Owned(Config { global, ..config.clone() })
}

/// A virtual router's configuration as it may be recorded.
pub fn recordable_router(config: &router::Config) -> router::Config {
    router::Config { auth: config.auth.without_secret(), ..config.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    const TEXT: &str = "vrrp_instance VI_1 {\n interface eth0\n virtual_router_id 51\n priority 100\n \
        authentication {\n  auth_type PASS\n  auth_pass vrrpsec\n }\n virtual_ipaddress {\n  192.0.2.10/24\n }\n}\n\
        virtual_server 192.0.2.10 3306 {\n lb_algo wlc\n lb_kind DR\n protocol TCP\n \
        real_server 192.0.2.21 3306 {\n  MYSQL_CHECK {\n   user check\n   password mysqlsec\n  }\n }\n}\n";

    fn checked() -> Config {
        let outcome = config::check("test.conf", TEXT.as_bytes());
        let text = outcome.render();
        outcome.config.unwrap_or_else(|| panic!("{text}"))
    }

    #[test]
    fn the_key_of_flow_sync_is_the_forwarders_and_is_not_recorded() {
        let text = TEXT.to_owned()
            + "global_defs {\n flow_sync {\n  key 0123456789abcdef0123456789abcdef\n  peer 192.0.2.3\n }\n}\n";
        let config = config::check("test.conf", text.as_bytes()).config.expect("good");
        let holds = |config: &Config| {
            let bytes = postcard::to_stdvec(config).expect("encoded");
            bytes.windows(16).any(|w| w == b"0123456789abcdef")
        };
        assert!(holds(&config));
        for role in [Role::Vrrp, Role::Checker, Role::Forwarder, Role::Api] {
            assert_eq!(holds(&for_role(&config, role)), role == Role::Forwarder, "{role:?}");
        }
        assert!(!holds(&recordable_config(&config)));
        assert!(!format!("{config:?}").contains("0123456789abcdef"), "nor shown");
    }

    /// Whether the encoded form holds `auth_pass`, and MySQL's password.
    fn secrets(encoded: &impl serde::Serialize) -> (bool, bool) {
        let bytes = postcard::to_stdvec(encoded).expect("encoded");
        let holds = |secret: &str| bytes.windows(secret.len()).any(|w| w == secret.as_bytes());
        (holds("vrrpsec"), holds("mysqlsec"))
    }

    #[test]
    fn a_role_gets_the_secrets_it_uses() {
        let config = checked();
        assert_eq!(secrets(&config), (true, true));
        for (role, wanted, parts) in [
            (Role::Vrrp, (true, false), (1, 0)),
            (Role::Checker, (false, true), (0, 1)),
            (Role::Forwarder, (false, false), (1, 1)),
            (Role::Api, (false, false), (0, 0)),
        ] {
            let given = for_role(&config, role);
            assert_eq!(secrets(&*given), wanted, "{role:?}");
            // Unchanged stays unchanged, and nothing else is touched.
            assert_eq!(given, for_role(&config, role));
            assert_eq!(for_role(&given, Role::Api), for_role(&config, Role::Api));
            assert_eq!(given.global, config.global);
            let counts = (given.vrrp_instances.len(), given.virtual_servers.len());
            assert_eq!(counts, parts, "{role:?}");
        }
    }

    #[test]
    fn what_is_recorded_carries_no_secret() {
        let own = Auth::Pass(*b"vrrpsec\0");
        let config = router_config(own);
        let reload = Input::Configure(Box::new(config));
        assert_eq!(secrets(&reload), (true, false));
        assert_eq!(secrets(&*recordable_input(&reload, own)), (false, false));

        // IPv4 header, VRRPv2 advert with one address and simple text authentication.
        let mut bytes = vec![0x45];
        bytes.resize(20, 0);
        bytes.extend([0x21, 51, 100, 1, TYPE_PASS, 1, 0, 0, 192, 0, 2, 10]);
        bytes.extend(b"vrrpsec\0");
        let sum = |message: &[u8]| {
            let words = message.chunks_exact(2);
            csum::fold(words.map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum())
        };
        let field = !sum(&bytes[20..]);
        bytes[26..28].copy_from_slice(&field.to_be_bytes());
        let advert = Input::Datagram(bytes.clone());
        assert_eq!(secrets(&advert), (true, false));
        for (own, mask) in [(own, 0), (Auth::Pass(*b"another\0"), 0xff)] {
            let recorded = recordable_input(&advert, own);
            assert_eq!(secrets(&*recorded), (false, false));
            let Input::Datagram(recorded) = &*recorded else { panic!("a datagram") };
            assert_eq!((recorded.len(), &recorded[..26]), (40, &bytes[..26]));
            assert_eq!(recorded[32..], [mask; 8]);
            assert_eq!(sum(&recorded[20..]), 0xffff, "a right checksum stays right");
        }
        let mut wrong = bytes.clone();
        wrong[27] ^= 1;
        let wrong = Input::Datagram(wrong);
        let Input::Datagram(recorded) = &*recordable_input(&wrong, own) else { panic!() };
        assert_ne!(sum(&recorded[20..]), 0xffff, "a wrong one wrong");
        // No authentication, VRRPv3, or too short: as it is.
        for (at, byte) in [(24, 0), (20, 0x31)] {
            let mut bytes = bytes.clone();
            bytes[at] = byte;
            let advert = Input::Datagram(bytes);
            assert!(matches!(recordable_input(&advert, own), Cow::Borrowed(_)), "{at}");
        }
        for length in 0..36 {
            let advert = Input::Datagram(bytes[..length].to_vec());
            assert!(matches!(recordable_input(&advert, own), Cow::Borrowed(_)), "{length}");
        }
    }

    fn router_config(auth: Auth) -> router::Config {
        let config = checked();
        let instance = &config.vrrp_instances[0];
        let lowered = crate::process::vrrp::router_config(instance, &config.vrrp_scripts, false);
        router::Config { auth, ..lowered.expect("lowered") }
    }
}
