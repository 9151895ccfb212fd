//! Who gets which secret. The watchdog knows all; a role gets those it uses: vrrp `auth_pass`,
//! checker the passwords of MYSQL_CHECK, forwarder and api (which parses bytes of the network)
//! none. What `--record` writes carries none at all.

use std::{borrow::Cow, sync::Arc};

use super::ipc::{Down, Role};
use crate::{
    config::model::{Authentication, Checker, Config},
    vrrp::router::Input,
};

/// VRRPv2's authentication type "simple text" (RFC 2338 §5.3.6).
const AUTH_PASS: u8 = 1;
/// Bytes of its data, at the end of the message.
const AUTH_DATA: usize = 8;

/// The configuration with the secrets of this role only. Everything else is as it was, so that a
/// role compares generations as if it had them all.
pub fn for_role(config: &Config, role: Role) -> Arc<Config> {
    let mut config = config.clone();
    if role != Role::Vrrp {
        for instance in &mut config.vrrp_instances {
            instance.authentication = Authentication::None;
            instance.wire.hmac = None;
        }
    }
    if role != Role::Checker {
        let servers = config.virtual_servers.iter_mut().flat_map(|vs| &mut vs.real_servers);
        let tracked = config.track_mysql.values_mut().map(|track| &mut track.checker);
        for checker in servers.flat_map(|rs| &mut rs.checkers).chain(tracked) {
            if let Checker::Mysql(_, check) = checker {
                check.password = None;
            }
        }
    }
    Arc::new(config)
}

/// A message as it may be recorded.
pub fn recordable(message: &Down) -> Cow<'_, Down> {
    // The api role is trusted with nothing.
    match message {
        Down::Start { runtime, generation, config } => Cow::Owned(Down::Start {
            runtime: runtime.clone(),
            generation: *generation,
            config: for_role(config, Role::Api),
        }),
        Down::Reload { generation, config } => Cow::Owned(Down::Reload {
            generation: *generation,
            config: for_role(config, Role::Api),
        }),
        other => Cow::Borrowed(other),
    }
}

/// An input of a virtual router as it may be recorded: `auth_pass` in an advert becomes zeros,
/// and its checksum is that of the advert as it came.
pub fn recordable_input(input: &Input) -> Cow<'_, Input> {
    let Input::Datagram(bytes) = input else { return Cow::Borrowed(input) };
    let header = bytes.first().map_or(0, |byte| usize::from(byte & 0xf) * 4);
    let message = bytes.get(header..).unwrap_or_default();
    let has_pass = message.first().is_some_and(|byte| byte >> 4 == 2)
        && message.get(4) == Some(&AUTH_PASS)
        && message.len() >= 8 + AUTH_DATA;
    if !has_pass {
        return Cow::Borrowed(input);
    }
    let mut bytes = bytes.clone();
    let data = bytes.len() - AUTH_DATA;
    bytes[data..].fill(0);
    Cow::Owned(Input::Datagram(bytes))
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
        for (role, wanted) in [
            (Role::Vrrp, (true, false)),
            (Role::Checker, (false, true)),
            (Role::Forwarder, (false, false)),
            (Role::Api, (false, false)),
        ] {
            let given = for_role(&config, role);
            assert_eq!(secrets(&*given), wanted, "{role:?}");
            // Unchanged stays unchanged, and nothing else is touched.
            assert_eq!(given, for_role(&config, role));
            assert_eq!(for_role(&given, Role::Api), for_role(&config, Role::Api));
            assert_eq!(given.virtual_servers[0].key, config.virtual_servers[0].key);
            assert_eq!(given.vrrp_instances[0].vrid, config.vrrp_instances[0].vrid);
        }
    }

    #[test]
    fn what_is_recorded_carries_no_secret() {
        let config = Arc::new(checked());
        let message = Down::Reload { generation: 2, config };
        assert_eq!(secrets(&message), (true, true));
        assert_eq!(secrets(&*recordable(&message)), (false, false));

        // IPv4 header, VRRPv2 advert with one address and simple text authentication.
        let mut bytes = vec![0x45];
        bytes.resize(20, 0);
        bytes.extend([0x21, 51, 100, 1, AUTH_PASS, 1, 0, 0, 192, 0, 2, 10]);
        bytes.extend(b"vrrpsec\0");
        let advert = Input::Datagram(bytes.clone());
        assert_eq!(secrets(&advert), (true, false));
        let recorded = recordable_input(&advert);
        assert_eq!(secrets(&*recorded), (false, false));
        let Input::Datagram(recorded) = &*recorded else { panic!("a datagram") };
        assert_eq!((recorded.len(), &recorded[..32]), (40, &bytes[..32]));
        // No authentication, VRRPv3, or too short: as it is.
        for (at, byte) in [(24, 0), (20, 0x31)] {
            let mut bytes = bytes.clone();
            bytes[at] = byte;
            let advert = Input::Datagram(bytes);
            assert!(matches!(recordable_input(&advert), Cow::Borrowed(_)), "{at}");
        }
        for length in 0..36 {
            let advert = Input::Datagram(bytes[..length].to_vec());
            assert!(matches!(recordable_input(&advert), Cow::Borrowed(_)), "{length}");
        }
    }
}
