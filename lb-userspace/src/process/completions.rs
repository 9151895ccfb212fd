//! Shell completions of `lbd` and `lbctl`, from their command lines and the keyword table.

use std::{collections::BTreeMap, io::Write as _};

use clap::{
    Command,
    builder::{PossibleValue, PossibleValuesParser},
};
use clap_complete::Shell;

use crate::config::keywords;

/// Prints the completions of a command for a shell; a closed pipe is no failure.
pub fn print(command: Command, shell: Shell) {
    // The text is kept: clap_complete panics when it cannot write.
    let _ = std::io::stdout().write_all(&generate(command, shell));
}

/// The command without its hidden options: some shells would offer them.
fn visible(command: &Command) -> Command {
    let shown = command.get_arguments().filter(|it| !it.is_hide_set()).cloned();
    let mut copy = Command::new(command.get_name().to_owned())
        .args(shown)
        .subcommands(command.get_subcommands().map(visible))
        .disable_version_flag(command.is_disable_version_flag_set());
    if let Some(about) = command.get_about() {
        copy = copy.about(about.clone());
    }
    if let Some(version) = command.get_version() {
        copy = copy.version(version.to_owned());
    }
    copy
}

/// The completions of a command for a shell.
pub fn generate(command: Command, shell: Shell) -> Vec<u8> {
    let mut command = visible(&command);
    let name = command.get_name().to_owned();
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut text);
    text
}

/// Offers the words of the configuration for an argument (of `lbctl explain`); what else it takes
/// stays allowed, because only completions see this.
pub fn with_keywords(
    command: Command,
    subcommand: &'static str,
    argument: &'static str,
) -> Command {
    // What a word means as a statement, which stands first in the table, before what it means in an entry.
    let mut words = BTreeMap::new();
    for keyword in keywords::all().filter(|it| !it.is_form()) {
        words.entry(keyword.name).or_insert(keyword.meaning);
    }
    let values = words.into_iter().map(|(name, meaning)| PossibleValue::new(name).help(meaning));
    let parser = PossibleValuesParser::new(values);
    command.mut_subcommand(subcommand, |it| it.mut_arg(argument, |it| it.value_parser(parser)))
}

#[cfg(test)]
mod tests {
    use clap::{Arg, CommandFactory as _};

    use super::*;
    use crate::process::cli::Args;

    #[test]
    fn every_shell_knows_the_options() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = String::from_utf8(generate(Args::command(), shell)).expect("UTF-8");
            for option in ["config-test", "config-id", "format", "engine"] {
                assert!(text.contains(option), "{shell} lacks {option}");
            }
            assert!(!text.contains("snmp-agent-socket"), "{shell} offers what has no effect");
        }
    }

    #[test]
    fn explain_knows_the_words_of_the_configuration() {
        let command = Command::new("tool")
            .subcommand(Command::new("explain").arg(Arg::new("what").required(true).num_args(1..)));
        let text = generate(with_keywords(command, "explain", "what"), Shell::Bash);
        let text = String::from_utf8(text).expect("UTF-8");
        for word in ["virtual_router_id", "MYSQL_CHECK", "include", "nopreempt"] {
            assert!(text.contains(word), "{word}");
        }
    }

    #[test]
    fn forms_are_not_offered_and_a_word_has_the_help_of_its_statement() {
        let command = Command::new("tool")
            .subcommand(Command::new("explain").arg(Arg::new("what").required(true).num_args(1..)));
        let command = with_keywords(command, "explain", "what");
        let explain = command.find_subcommand("explain").expect("explain");
        let what = explain.get_arguments().find(|it| it.get_id() == "what").expect("what");
        let offered: BTreeMap<_, _> = what
            .get_possible_values()
            .into_iter()
            .map(|it| (it.get_name().to_owned(), it.get_help().map(ToString::to_string)))
            .collect();
        for form in ["IP", "IF", "NAME", "ADDRESS", "OBJECT", "IP[/LEN]", "ROUTE or RULE"] {
            assert!(!offered.contains_key(form), "{form}");
        }
        for (word, help) in [
            ("priority", "the highest becomes master"),
            (
                "vrf",
                "virtual interfaces join this VRF; keepalived leaves it out beside `interface`",
            ),
            ("TCP_CHECK", ""),
            ("SSL", ""),
            ("metric", "route: the least one counts"),
        ] {
            let found = offered.get(word).unwrap_or_else(|| panic!("{word}"));
            assert!(help.is_empty() || found.as_deref() == Some(help), "{word}: {found:?}");
        }
    }
}
