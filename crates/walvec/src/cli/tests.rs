//! Guarantees to users of the command line.

use std::collections::BTreeSet;

use clap::Command;

use super::*;

/// Returns every command, with its name as it is typed.
fn commands() -> Vec<(String, Command)> {
    fn add(command: &Command, before: &str, all: &mut Vec<(String, Command)>) {
        let name = format!("{before}{}", command.get_name());
        all.push((name.clone(), command.clone()));
        command.get_subcommands().for_each(|inner| add(inner, &format!("{name} "), all));
    }
    let mut command = Cli::command();
    command.build();
    let mut all = Vec::new();
    add(&command, "", &mut all);
    all
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn help_refers_only_to_commands_that_exist() {
    let commands = commands();
    let names: BTreeSet<&str> = commands.iter().map(|(name, _)| name.as_str()).collect();
    let mut seen = 0;
    for (name, command) in &commands {
        let help = command.clone().render_long_help().to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for typed in help.split('`').skip(1).step_by(2).filter(|typed| typed.starts_with("walvec ")) {
            let known = names.iter().filter(|known| typed == **known || typed.starts_with(&format!("{known} ")));
            let longest = known.max_by_key(|known| known.len()).copied().unwrap_or_default();
            let rest = typed[longest.len()..].split_whitespace().next().unwrap_or_default();
            // Words after a command are its arguments; a word after a group must be one of its commands.
            let is_group = commands.iter().any(|(other, command)| other == longest && command.has_subcommands());
            assert!(!is_group || rest.is_empty(), "{name} --help: {typed}");
            seen += 1;
        }
    }
    assert!(seen > 5, "{seen}");
}

#[test]
fn every_command_that_takes_a_configuration_takes_it_from_the_environment() {
    let mut takes = 0;
    for (name, command) in commands() {
        let argument = command.get_arguments().find(|argument| argument.get_short() == Some('c'));
        let Some(argument) = argument else { continue };
        assert_eq!(argument.get_env().and_then(|name| name.to_str()), Some("WALVEC_CONFIG"), "{name}");
        takes += 1;
    }
    assert!(takes > 8, "{takes}");
    assert!(EXIT_CODES.contains("WALVEC_CONFIG"));
}

#[test]
fn help_names_every_variable_of_an_argument() {
    for (name, command) in commands() {
        for variable in command.get_arguments().filter_map(|argument| argument.get_env()?.to_str()) {
            assert!(EXIT_CODES.contains(variable), "walvec --help does not name {variable} of {name}");
        }
    }
}

#[test]
fn json_is_asked_for_by_the_command_itself() {
    let wants = |line: &[&str]| wants_json(&Cli::command().try_get_matches_from([&["walvec"], line].concat()).unwrap());
    assert!(wants(&["status", "--json"]) && wants(&["dead-letters", "list", "--json"]));
    assert!(!wants(&["status"]) && !wants(&["schema"]) && !wants(&["search", "--", "--json"]));
}

#[test]
fn a_row_that_could_not_be_processed_is_called_by_one_name() {
    for (name, command) in commands() {
        let help = command.clone().render_long_help().to_string().to_lowercase();
        assert!(!help.contains("dead letter"), "{name} --help");
    }
}

#[test]
fn a_command_line_that_is_refused_is_refused_in_json_too() {
    let refused = Cli::command().try_get_matches_from(["walvec", "status", "--jsonn"]).unwrap_err();
    let failure = Failure::usage(&refused);
    assert_eq!((failure.exit, failure.code()), (2, "E_USAGE"));
    assert!(failure.to_json()["message"].as_str().unwrap().starts_with("unexpected argument '--jsonn'"));
}
