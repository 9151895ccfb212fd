//! Commands, shown before they run.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

/// The workspace's directory.
pub fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// A file below target/release.
pub fn release(name: &str) -> PathBuf {
    root().join("target/release").join(name)
}

/// A command that runs in the workspace. The variables that `cargo run` set for xtask itself are
/// taken away, lest they reach another toolchain's cargo.
pub fn command(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root());
    for (name, _) in std::env::vars_os() {
        let Some(name) = name.to_str() else { continue };
        let own = name.starts_with("CARGO_PKG_")
            || name.starts_with("CARGO_BIN_")
            || matches!(name, "CARGO_MANIFEST_DIR" | "CARGO_MANIFEST_PATH" | "CARGO_CRATE_NAME");
        if own {
            command.env_remove(name);
        }
    }
    command
}

/// Says what is run and runs it.
///
/// # Errors
/// When it cannot be started or fails.
pub fn run(mut command: Command) -> Result<()> {
    say(&format!("   $ {}", words(&command)));
    let status = command.status().with_context(|| format!("cannot start `{}`", words(&command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", words(&command));
    }
    Ok(())
}

/// What a command prints, when it succeeds.
pub fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let out = Command::new(program).args(arguments).current_dir(root()).output().ok()?;
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).into_owned())
}

/// The command as a person would type it.
pub fn words(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect();
    words.join(" ")
}

/// Prints a line; a closed pipe is no reason to panic.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

/// Prints an error with its causes.
pub fn complain(err: &anyhow::Error) {
    let _ = writeln!(std::io::stderr(), "error: {err:#}");
}
