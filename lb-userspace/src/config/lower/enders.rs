//! Commands that end keepalived, the classic of MySQL pairs.

/// Signals that end nothing: a look whether it runs, a reload, dumps.
const HARMLESS: [&str; 11] =
    ["0", "HUP", "1", "USR1", "10", "USR2", "12", "CONT", "18", "STOP", "19"];

/// Last part of a path.
fn base(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or(word)
}

fn is_keepalived(word: &&str) -> bool {
    matches!(*word, "keepalived" | "keepalived.service")
}

fn is_pid_file(word: &&str) -> bool {
    base(word).starts_with("keepalived") && word.ends_with(".pid")
}

/// Words behind a program.
fn behind<'a, 'b>(command: &'b [&'a str], program: &str) -> Option<&'b [&'a str]> {
    let at = command.iter().position(|word| base(word) == program)?;
    command.get(at + 1..)
}

/// Whether one of these words is an option for a signal that ends nothing.
fn is_harmless(words: &[&str]) -> bool {
    let next = words.iter().skip(1).chain([&""]);
    words.iter().zip(next).any(|(word, next)| {
        let signal = match *word {
            "-s" | "--signal" => Some(*next),
            word => word.strip_prefix("--signal=").or_else(|| word.strip_prefix('-')),
        };
        signal.is_some_and(|signal| HARMLESS.contains(&signal.trim_start_matches("SIG")))
    })
}

/// Words behind a program that sends a signal, when that ends a process.
fn killed<'a, 'b>(command: &'b [&'a str], program: &str) -> Option<&'b [&'a str]> {
    behind(command, program).filter(|words| !is_harmless(words))
}

fn ends(command: &[&str]) -> bool {
    let verb = |words: &[&str]| {
        words.iter().find(|word| !word.starts_with('-')).map(|it| (*it).to_owned())
    };
    let by_systemd = behind(command, "systemctl").is_some_and(|words| {
        let stops = match verb(words).as_deref() {
            Some("stop" | "kill") => !is_harmless(words),
            Some("disable") => words.contains(&"--now"),
            _ => false,
        };
        stops && words.iter().any(is_keepalived)
    });
    let by_service = behind(command, "service")
        .is_some_and(|words| matches!(words, [it, "stop", ..] if is_keepalived(it)));
    let by_script = command.windows(2).any(|pair| {
        matches!(pair, [script, "stop"] if script.starts_with("/etc/") && script.ends_with("init.d/keepalived"))
    });
    let by_name = ["pkill", "killall"].into_iter().any(|program| {
        killed(command, program).is_some_and(|words| words.iter().any(is_keepalived))
    });
    let by_pid = killed(command, "kill").is_some_and(|words| {
        let asked = words.iter().any(|word| matches!(base(word), "pidof" | "pgrep"));
        asked && words.iter().any(is_keepalived) || words.iter().any(is_pid_file)
    });
    by_systemd || by_service || by_script || by_name || by_pid
}

/// Whether a command, or a part of one that a shell runs, ends a service or process keepalived.
pub(super) fn ends_keepalived(argv: &[String]) -> bool {
    let line = argv.join(" ");
    let blank =
        |c: char| c.is_whitespace() || matches!(c, '`' | '\'' | '"' | '(' | ')' | '$' | '{' | '}');
    let commands: Vec<Vec<&str>> = line
        .split([';', '&', '|', '\n'])
        .map(|command| command.split(blank).filter(|word| !word.is_empty()).collect())
        .collect();
    // `ps … | grep keepalived | … | xargs kill`.
    let piped = commands.iter().any(|command| {
        behind(command, "xargs").is_some_and(|words| killed(words, "kill").is_some())
    });
    commands.iter().any(|command| ends(command))
        || piped && commands.iter().flatten().any(is_keepalived)
}

#[cfg(test)]
mod tests {
    use crate::config::load;

    fn said(command: &str) -> String {
        let text = format!(
            "virtual_server 192.0.2.1 80 {{\n protocol TCP\n real_server 192.0.2.2 80 {{\n \
             notify_down \"{command}\"\n }}\n}}\n"
        );
        load("t", &text).render()
    }

    #[test]
    fn scripts_that_end_keepalived_are_told_what_does_it_better() {
        for command in [
            "/usr/bin/systemctl stop keepalived",
            "/bin/sh -c 'pkill keepalived'",
            "/usr/bin/killall -9 keepalived",
            "/usr/bin/systemctl --no-block stop keepalived.service",
            "/usr/bin/systemctl disable --now keepalived",
            "/usr/bin/systemctl kill -s KILL keepalived",
            "/usr/sbin/service keepalived stop",
            "/etc/init.d/keepalived stop",
            "/bin/sh -c '[ -e /run/bad ] && systemctl stop keepalived; exit 0'",
            "/bin/sh -c 'kill -9 $(pidof keepalived)'",
            "/bin/sh -c 'kill `cat /var/run/keepalived.pid`'",
            "/bin/sh -c 'ps -ef | grep keepalived | cut -c9-15 | xargs kill -9'",
        ] {
            let said = said(command);
            assert!(said.contains("ends keepalived") && said.contains("track_mysql"), "{said}");
        }
    }

    #[test]
    fn scripts_that_only_ask_start_or_reload_are_left_alone() {
        for command in [
            "/etc/keepalived/stop.sh",
            "/etc/keepalived/service check keepalived",
            "/usr/bin/systemctl is-active keepalived",
            "/usr/bin/systemctl restart keepalived",
            "/usr/bin/systemctl start keepalived",
            "/usr/bin/systemctl disable keepalived",
            "/usr/bin/systemctl kill -s HUP keepalived",
            "/bin/sh -c 'systemctl stop mysql && echo keepalived'",
            "/usr/sbin/service keepalived status",
            "/usr/bin/killall -0 keepalived",
            "/usr/bin/killall -s 0 keepalived",
            "/usr/bin/pkill --signal=HUP keepalived",
            "/usr/bin/pkill mysqld",
            "/bin/sh -c 'kill -SIGUSR1 $(cat /run/keepalived.pid)'",
            "/bin/sh -c 'ps ax | grep keepalived | wc -l'",
        ] {
            let said = said(command);
            assert!(
                said.contains("192.0.2.1") && !said.contains("ends keepalived"),
                "{command}: {said}"
            );
        }
    }
}
