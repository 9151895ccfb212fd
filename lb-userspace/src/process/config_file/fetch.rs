//! Secrets and certificates that a configuration points to: read here, because the roles that use them
//! may not read root's files any more.

use std::{
    collections::BTreeMap,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::disk::open;
use crate::{
    config::{
        Outcome, Reference,
        diag::{Class, Diagnostic, Place, Severity},
        model::{Checker, Config, MysqlCheck, Password, TlsCa, TlsCaContent, TlsMode},
    },
    io::probes::mysql::trust,
    process::{ipc::Role, secrets as role_secrets},
    vrrp::auth::hmac::{self, Secret},
};

/// Longest password.
const PASSWORD_LIMIT: u64 = 4096;

/// Replaces every `password_file` by what it holds. One that cannot be read stays and is told:
/// the probe that needs it will report it again, the others run.
pub(super) fn secrets(config: &mut Config) {
    for mysql in mysql_checks(config) {
        let Some(Password::File(path)) = &mysql.password else { continue };
        match read_password(path) {
            Ok(password) => mysql.password = Some(Password::Literal(password)),
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "password_file not read");
            }
        }
    }
}

/// Every MYSQL_CHECK, those of `track_mysql` included.
fn mysql_checks(config: &mut Config) -> impl Iterator<Item = &mut MysqlCheck> {
    let checkers = config
        .virtual_servers
        .iter_mut()
        .flat_map(|vs| &mut vs.real_servers)
        .flat_map(|rs| &mut rs.checkers);
    let tracked = config.track_mysql.values_mut().map(|track| &mut track.checker);
    checkers.chain(tracked).filter_map(|checker| match checker {
        Checker::Mysql(_, mysql) => Some(&mut **mysql),
        _ => None,
    })
}

/// Puts into every `tls_ca` what it holds. One that cannot be used is told, and its check treats
/// the server as one whose certificate does not verify.
pub(super) fn authorities(outcome: &mut Outcome) {
    let Some(config) = &mut outcome.config else { return };
    let mut read = BTreeMap::<PathBuf, TlsCaContent>::new();
    for mysql in mysql_checks(config).filter(|mysql| mysql.tls != TlsMode::Off) {
        let Some(TlsCa { path, content }) = &mut mysql.tls_ca else { continue };
        let found = read.entry(path.clone()).or_insert_with(|| match read_authority(path) {
            Ok(text) => TlsCaContent::Pem(text),
            Err(reason) => TlsCaContent::Unusable(reason),
        });
        *content = found.clone();
    }
    let named: Vec<_> =
        outcome.references.iter().filter(|it| it.object == "tls_ca").cloned().collect();
    for reference in named {
        let Some(TlsCaContent::Unusable(reason)) = read.get(Path::new(&reference.value)) else {
            continue;
        };
        let message = format!("tls_ca {}: {reason}; no login is made", reference.value);
        outcome.report(&reference, Severity::Warning, Class::Fault, message);
    }
}

fn read_authority(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    open(path)
        .and_then(|(file, _)| file.take(trust::AUTHORITY_LIMIT as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| error.to_string())?;
    trust::certificates(&bytes)?;
    // PEM with a binary preamble is still PEM.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A configuration goes to each role in one message. One that is too large for it is refused here, at a
/// start and at a reload, where it can still be said; a role would be cut off by it.
pub(super) fn fits(outcome: &mut Outcome, limit: usize) {
    let Some(config) = &outcome.config else { return };
    let size =
        |config: &Config| postcard::experimental::serialized_size(config).unwrap_or(usize::MAX);
    // Each role gets a part of it.
    if size(config) <= limit {
        return;
    }
    let roles = [Role::Vrrp, Role::Checker, Role::Forwarder, Role::Api];
    let large = roles.map(|role| (role, size(&role_secrets::for_role(config, role))));
    let Some((role, bytes)) = large.into_iter().find(|(_, bytes)| *bytes > limit) else { return };
    let message = format!(
        "the configuration takes {bytes} bytes for the {} process, {limit} are the limit",
        role.name()
    );
    let name = outcome.original.as_ref().map_or("", |it| it.name()).to_owned();
    outcome.add(
        Diagnostic::new(Severity::Error, Place::file(&name), message)
            .class(Class::CannotRun)
            .help("each check carries what its tls_ca holds: a file with one certificate is small"),
    );
}

/// Replaces every `key ID file:PATH` of `auth_hmac` and the `key file:PATH` of `flow_sync` by the key. One that
/// cannot be read takes the configuration away: adverts without a signature make two masters.
pub(super) fn keys(outcome: &mut Outcome) {
    let Some(config) = &mut outcome.config else { return };
    let mut failed = Vec::new();
    let hmacs = config.vrrp_instances.iter_mut().filter_map(|it| it.wire.hmac.as_mut());
    let keys = hmacs.flat_map(|hmac| &mut hmac.keys).map(|key| ("auth_hmac", &mut key.secret));
    let sync = config.global.flow_sync.as_mut().map(|sync| ("flow_sync", &mut sync.key));
    for (block, secret) in keys.chain(sync) {
        let Secret::File(path) = secret else { continue };
        let read = read_password(path).map_err(|error| error.to_string());
        match read.and_then(|text| hmac::key_bytes(&text)) {
            Ok(bytes) => *secret = Secret::Bytes(bytes),
            Err(error) => failed.push((block, path.display().to_string(), error)),
        }
    }
    for (block, path, error) in failed {
        let named = |it: &&Reference| it.object == "key" && it.value == path;
        let Some(reference) = outcome.references.iter().find(named).cloned() else { continue };
        let message = format!("{block} key not read from {path}: {error}");
        outcome.report(&reference, Severity::Error, Class::CannotRun, message);
    }
}

fn read_password(path: &Path) -> io::Result<String> {
    let (file, meta) = open(path)?;
    if meta.mode() & 0o044 != 0 {
        tracing::warn!(file = %path.display(), "password_file can be read by others; chmod 600 it");
    }
    let mut text = String::new();
    file.take(PASSWORD_LIMIT + 1).read_to_string(&mut text)?;
    if text.len() as u64 > PASSWORD_LIMIT {
        return Err(io::Error::other(format!("longer than {PASSWORD_LIMIT} bytes")));
    }
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Loaded, load},
        *,
    };

    #[test]
    fn keys_of_auth_hmac_come_from_files_or_nothing_runs() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (path, key) = (dir.path().join("lbd.conf"), dir.path().join("key"));
        let text = format!(
            "vrrp_instance V {{\n interface lo\n virtual_router_id 1\n auth_hmac {{\n  key 1 \
             file:{}\n }}\n virtual_ipaddress {{\n  192.0.2.1\n }}\n}}\n",
            key.display()
        );
        std::fs::write(&path, text).expect("written");
        let loaded = load(&path);
        assert!(loaded.outcome.config.is_none());
        let text = loaded.outcome.render();
        assert!(text.contains("auth_hmac key not read") && text.contains(":5:"), "{text}");
        std::fs::write(&key, format!("hex:{}\n", "2a".repeat(32))).expect("written");
        let config = load(&path).outcome.config.expect("a configuration");
        let hmac = config.vrrp_instances[0].wire.hmac.as_ref().expect("auth_hmac");
        assert_eq!(hmac.keys[0].secret, Secret::Bytes(vec![0x2a; 32]));
        std::fs::write(&key, "short").expect("written");
        assert!(load(&path).outcome.render().contains("32 to 64 bytes"));
    }

    #[test]
    fn a_tls_ca_is_handed_over_or_told_at_its_line() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (path, ca) = (dir.path().join("lbd.conf"), dir.path().join("ca.pem"));
        let check = format!(
            "  real_server 192.0.2.21 3306 {{\n   MYSQL_CHECK {{\n    user u\n    tls_ca {}\n   }}\n  }}\n",
            ca.display()
        );
        let text = format!(
            "virtual_server 192.0.2.10 3306 {{\n lb_kind DR\n protocol TCP\n{check}{}}}\n\
             track_mysql local {{\n host 127.0.0.1\n user u\n tls_ca {}\n}}\n",
            check.replace(".21", ".22"),
            ca.display()
        );
        std::fs::write(&path, text).expect("written");
        let contents = |loaded: Loaded| -> (Vec<TlsCaContent>, String) {
            let text = loaded.outcome.render();
            let mut config = loaded.outcome.config.unwrap_or_else(|| panic!("{text}"));
            let found = mysql_checks(&mut config).filter_map(|it| it.tls_ca.clone());
            (found.map(|ca| ca.content).collect(), text)
        };
        let good = include_str!("../../io/probes/mysql/testdata/ca.pem");
        std::fs::write(&ca, good).expect("written");
        let (found, text) = contents(load(&path));
        assert_eq!(found, vec![TlsCaContent::Pem(good.to_owned()); 3]);
        assert!(!text.contains("tls_ca"), "{text}");

        let broken = good.replace("MII", "AAA");
        let long = good.repeat(trust::AUTHORITY_LIMIT / good.len() + 1);
        for (bytes, reason) in [
            (Some("no certificate in here\n"), "it holds no certificate"),
            (Some(""), "it holds no certificate"),
            (Some(broken.as_str()), "certificate 1 in it"),
            (Some(long.as_str()), "longer than 65536 bytes"),
            (None, "No such file"),
        ] {
            match bytes {
                Some(bytes) => std::fs::write(&ca, bytes).expect("written"),
                None => std::fs::remove_file(&ca).expect("removed"),
            }
            let (found, text) = contents(load(&path));
            assert_eq!(found.len(), 3);
            for content in found {
                let TlsCaContent::Unusable(said) = content else { panic!("{content:?}") };
                assert!(said.contains(reason), "{said}");
            }
            for place in [":7:", ":13:", ":20:"] {
                assert!(text.contains(place), "{place} in {text}");
            }
            assert_eq!(text.matches(&format!("tls_ca {}: ", ca.display())).count(), 3, "{text}");
            assert_eq!(load(&path).start_code(), 0, "{reason}");
        }
    }

    /// A certificate for each of many checks: told with the process that cannot take it, and nothing runs.
    #[test]
    fn a_configuration_that_fits_no_message_is_refused_by_name() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (path, ca) = (dir.path().join("lbd.conf"), dir.path().join("ca.pem"));
        let good = include_str!("../../io/probes/mysql/testdata/ca.pem");
        std::fs::write(&ca, good).expect("written");
        let servers: String = (1..=50)
            .map(|n| {
                format!(
                    " real_server 192.0.2.{n} 3306 {{\n MYSQL_CHECK {{\n user u\n tls_ca {}\n }}\n }}\n",
                    ca.display()
                )
            })
            .collect();
        let text = format!("virtual_server 192.0.2.100 3306 {{\n protocol TCP\n{servers}}}\n");
        std::fs::write(&path, text).expect("written");
        let mut outcome = load(&path).outcome;
        fits(&mut outcome, 50 * (good.len() + 1000));
        assert!(outcome.config.is_some(), "it fits");
        fits(&mut outcome, 20 * good.len());
        let said = outcome.render();
        assert!(outcome.config.is_none() && outcome.exit_code() == 4, "{said}");
        assert!(said.contains("bytes for the checker process"), "{said}");
        assert!(said.contains("lbd.conf"), "{said}");
    }

    #[test]
    fn passwords_lose_their_line_end_and_have_a_bound() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("pw");
        std::fs::write(&path, "s3cret \r\n").expect("written");
        assert_eq!(read_password(&path).expect("read"), "s3cret ");
        std::fs::write(&path, "x".repeat(5000)).expect("written");
        assert!(read_password(&path).is_err());
        assert!(read_password(dir.path()).is_err());
    }

    /// Opened as files are, each of them would hold up the reload until somebody writes to it.
    #[test]
    fn secrets_in_fifos_are_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("fifo");
        for said in [
            read_password(&fifo).expect_err("refused").to_string(),
            read_authority(&fifo).expect_err("refused"),
        ] {
            assert_eq!(said, "not a regular file");
        }
    }
}
