//! `startup_script` and `shutdown_script`: around everything that lbd does. A script that hangs is
//! ended at its time-out and delays lbd for no longer.

use tokio::sync::Notify;

use crate::{
    config::model::{Global, Timed},
    process::{
        ipc::{ScriptOutcome, ScriptRun},
        scripts::{
            identity,
            run::{self, Surroundings},
        },
    },
};

/// Runs the script to its end, if there is one. `word` is its keyword.
pub(super) async fn run(word: &str, script: &Timed, global: &Global, cancel: &Notify) {
    let Some(command) = &script.command else { return };
    let identity = match identity::resolve(command, global.script_user.as_ref()) {
        Ok(identity) => identity,
        Err(why) => return tracing::error!(word, "script not started: {why}"),
    };
    let asked = ScriptRun {
        id: 0,
        object: word.to_owned(),
        command: command.clone(),
        extra_args: vec![],
        timeout: Some(script.timeout),
        queue: None,
        reply: false,
    };
    let around = Surroundings { identity, secure: global.enable_script_security };
    match run::run(&asked, &around, cancel).await {
        ScriptOutcome::Exit(0) => tracing::info!(word, "script ended"),
        outcome => tracing::error!(word, ?outcome, limit = ?script.timeout, "script failed"),
    }
}
