//! `cargo xtask TASK`: everything a person or CI does with the workspace. One file a task.

mod bench;
mod build;
mod conformance;
mod fuzz;
mod run;
mod setup;
mod shell;
mod source;
mod suites;
mod test;
mod tidy;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tasks of the lbd workspace.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what building and testing need; does nothing that is done already.
    Setup,
    /// Build target/release/lbd and target/release/lbctl, kernel object included.
    Build,
    /// Show lbd at work in a lab of network namespaces; with `-- --config FILE`, on this host.
    Run(run::Arguments),
    /// Everything CI checks: format, lints, import rules, all tests with root suites.
    Test(test::Arguments),
    /// Check the import rules of DESIGN §5, unsafe code, file lengths, the conformance ledger.
    Tidy,
    /// Feed untrusted bytes to every decoder, with cargo-fuzz and nightly.
    Fuzz(fuzz::Arguments),
    /// Nanoseconds per packet of the shipped object; fail-over beside keepalived.
    Bench(bench::Arguments),
    /// Suites on Debian's kernels in a QEMU guest: IPVS, and the kernel object on older and newer kernels.
    Vm(vm::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Setup => setup::run().map(drop),
        Task::Build => build::run(),
        Task::Run(arguments) => run::run(&arguments).map(|never| match never {}),
        Task::Test(arguments) => return test::run(&arguments),
        Task::Tidy => tidy::run(),
        Task::Fuzz(arguments) => fuzz::run(&arguments),
        Task::Bench(arguments) => bench::run(&arguments),
        Task::Vm(arguments) => vm::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            shell::complain(&err);
            ExitCode::FAILURE
        }
    }
}
