//! MYSQL_CHECK on a real MariaDB server with TLS: who is let in, whom it trusts, and that nothing of
//! it counts as a connect error.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    checks::{
        LB, LIMIT, Resolver,
        bench::{Bench, config, mysql_check},
        checker, clients_settled, connect_errors, counter, db_addr, inside, log_in, namespace,
        target,
    },
    mariadb::{self, MariaDb},
    wait::wait_for,
};
use lb_userspace::{
    base::status::Health,
    config::model::{MysqlLevel, TlsMode},
    io::probes::mysql::{self, Answer, Credentials, Failure, Question, Tls, trust::Authority},
};

const SUITE: &str = "check_tls";

fn read_text(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Makes a CA and a certificate of it for the server's address; the server's options for them.
fn tls_files(dir: &tempfile::TempDir) -> Result<Vec<String>> {
    let at = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(at("EXT"), "basicConstraints=CA:FALSE\nsubjectAltName=IP:10.99.0.1\n")?;
    for words in [
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=CA -keyout CAKEY -out CA",
        "req -newkey rsa:2048 -nodes -subj /CN=db1 -keyout KEY -out REQ",
        "x509 -req -in REQ -CA CA -CAkey CAKEY -CAcreateserial -days 2 -extfile EXT -out CERT",
    ] {
        let args = words.split(' ').map(|word| {
            let file = word.chars().all(char::is_uppercase);
            if file { at(word) } else { word.to_owned() }
        });
        let done = std::process::Command::new("openssl").args(args).output()?;
        ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    let (ca, cert, key) = (at("CA"), at("CERT"), at("KEY"));
    Ok(vec![format!("--ssl-ca={ca}"), format!("--ssl-cert={cert}"), format!("--ssl-key={key}")])
}

/// Whatever is wrong with certificate or authority, and whenever a check is stopped.
#[test]
fn nothing_inside_tls_counts_as_a_connect_error() -> Result<()> {
    let Some(netns) = namespace(SUITE)? else { return Ok(()) };
    let dir = mariadb::workspace("tls")?;
    let mut options = tls_files(&dir)?;
    let more = ["--max-connect-errors=5", "--skip-name-resolve=0", "--performance-schema=1"];
    options.extend(more.map(str::to_owned));
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let resolver = Resolver::start(&netns)?;
    let db = MariaDb::start_with(&netns, 1, &options)?;
    let clients = counter(&db, "Aborted_clients")?;

    // The server's certificate in place of its CA's: not what has signed it.
    let wrong = read_text(&dir.path().join("CERT").display().to_string());
    for content in [Ok(wrong), Err("Permission denied".to_owned())] {
        let authority = Authority { name: "ca.pem".into(), content };
        let target = mysql::Target {
            tls: Tls::Require,
            tls_ca: Some(authority),
            ..target(Question::Nothing)
        };
        inside(&netns, async {
            for _ in 0..20 {
                let got = log_in(&target, &checker()).await;
                ensure!(
                    matches!(&got, Err(Failure::Credentials(text)) if text.contains("ca.pem")),
                    "{got:?}"
                );
            }
            Ok(())
        })??;
        ensure!(connect_errors(&db)? == "0", "{}", connect_errors(&db)?);
    }
    ensure!(resolver.asked() > 0, "the server did not resolve names");

    // A check that is stopped in the middle of a question, ten times.
    let mut check = mysql_check(db_addr(), LB, MysqlLevel::Query);
    check.1.tls = TlsMode::Require;
    check.1.query = Some("SELECT SLEEP(0.2)".into());
    check.1.role_interval = Duration::from_millis(10);
    let slow =
        "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE INFO LIKE 'SELECT SLEEP%'";
    for _ in 0..10 {
        let mut bench = Bench::start(&netns, config(db_addr(), vec![check.clone()]))?;
        bench.wait_health(Health::Up, LIMIT)?;
        wait_for(
            "a question in flight",
            LIMIT,
            || Ok((db.sql(slow)?.trim() != "0").then_some(())),
        )?;
        bench.stop()?;
    }
    ensure!(clients_settled(&db, clients)?, "a session inside TLS ended without COM_QUIT");
    ensure!(connect_errors(&db)? == "0", "{}", connect_errors(&db)?);
    let fine = mysql::Target { tls: Tls::Require, ..target(Question::Nothing) };
    let got = inside(&netns, log_in(&fine, &checker()))?;
    ensure!(got == Ok(Answer::Alive), "{got:?}");
    Ok(())
}

#[test]
fn credentials_tls_and_plugins() -> Result<()> {
    let Some(netns) = namespace(SUITE)? else { return Ok(()) };
    let dir = mariadb::workspace("tls")?;
    let at = |name: &str| dir.path().join(name).display().to_string();
    let mut options = tls_files(&dir)?;
    options.push("--plugin-load-add=auth_ed25519".to_owned());
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let db = MariaDb::start_with(&netns, 1, &options)?;
    db.sql(
        "CREATE USER tlsuser@'%' IDENTIFIED BY 'tls-secret' REQUIRE SSL;\
         CREATE USER eduser@'%' IDENTIFIED VIA ed25519 USING PASSWORD('ed-secret');\
         CREATE USER native@'%' IDENTIFIED VIA mysql_native_password USING PASSWORD('n-secret');\
         CREATE USER nopass@'%';",
    )?;
    let who = |user: &str, password: &str| Credentials {
        user: user.to_owned(),
        password: password.to_owned(),
    };
    let with = |tls: Tls| mysql::Target { tls, ..target(Question::Query("SELECT 1".into())) };
    let one = || Ok(Answer::Value(Some("1".to_owned())));
    inside(&netns, async {
        for (user, password) in [("native", "n-secret"), ("eduser", "ed-secret"), ("nopass", "")] {
            for tls in [Tls::Off, Tls::Prefer, Tls::Require] {
                let got = log_in(&with(tls), &who(user, password)).await;
                ensure!(got == one(), "{user} {tls:?}: {got:?}");
            }
        }
        let tls_user = who("tlsuser", "tls-secret");
        ensure!(log_in(&with(Tls::Prefer), &tls_user).await == one(), "prefer takes TLS");
        ensure!(log_in(&with(Tls::Require), &tls_user).await == one());
        let plain = log_in(&with(Tls::Off), &tls_user).await;
        ensure!(matches!(plain, Err(Failure::Server { code: 1045, tls: false, .. })), "{plain:?}");

        // The chain is verified when a CA is given: the right one and a wrong one.
        let authority =
            |name: &str| Authority { name: at(name), content: Ok(read_text(&at(name))) };
        let ca = |name: &str| mysql::Target { tls_ca: Some(authority(name)), ..with(Tls::Require) };
        let got = log_in(&ca("CA"), &tls_user).await;
        ensure!(got == one(), "{got:?}");
        let got = log_in(&ca("CERT"), &tls_user).await;
        ensure!(matches!(got, Err(Failure::Credentials(_))), "a wrong CA: {got:?}");

        let wrong = log_in(&with(Tls::Prefer), &who("native", "wrong")).await;
        ensure!(matches!(wrong, Err(Failure::Server { code: 1045, tls: true, .. })), "{wrong:?}");
        Ok(())
    })??;
    Ok(())
}

#[test]
fn tls_required_of_a_server_without_it_sends_no_password_and_counts_no_error() -> Result<()> {
    let Some(netns) = namespace(SUITE)? else { return Ok(()) };
    let options = ["--max-connect-errors=5", "--skip-name-resolve=0", "--skip-ssl"];
    let resolver = Resolver::start(&netns)?;
    let db = MariaDb::start_with(&netns, 1, &options)?;
    let require = mysql::Target { tls: Tls::Require, ..target(Question::Nothing) };
    inside(&netns, async {
        for _ in 0..20 {
            let got = log_in(&require, &checker()).await;
            ensure!(
                matches!(&got, Err(Failure::Credentials(text)) if text.contains("TLS")),
                "{got:?}"
            );
        }
        log_in(&target(Question::Nothing), &checker()).await.context("not blocked")?;
        Ok(())
    })??;
    // A server that resolves no names counts nothing.
    ensure!(resolver.asked() > 0, "the server did not resolve names");
    ensure!(db.sql("SELECT 1")?.trim() == "1");
    Ok(())
}
