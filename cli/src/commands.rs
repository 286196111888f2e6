//! The commands, one module for what belongs together.

pub(crate) mod build;
pub(crate) mod builds;
pub(crate) mod cache;
mod call;
pub(crate) mod completion;
pub(crate) mod context;
mod credentials;
pub(crate) mod disk;
pub(crate) mod images;
pub(crate) mod login;
pub(crate) mod machine;
mod report;
pub(crate) mod shell;
mod transfer;

use crate::arguments::{Arguments, Command};
use crate::failure::Outcome;

/// Runs the command that was asked for.
pub(crate) async fn run(arguments: Arguments) -> Outcome {
    let global = &arguments.global;
    match arguments.command {
        Command::Build(given) => Box::pin(build::run(*given, global)).await,
        Command::Builds(given) => builds::run(given, global).await,
        Command::Images(given) => images::list(given, global).await,
        Command::Pull(given) => images::pull(given, global).await,
        Command::Push(given) => images::push(given, global).await,
        Command::Tag(given) => images::tag(given, global).await,
        Command::Rmi(given) => images::remove(given, global).await,
        Command::Save(given) => images::save(given, global).await,
        Command::Load(given) => images::load(given, global).await,
        Command::Inspect(given) => images::inspect(given, global).await,
        Command::History(given) => images::history(given, global).await,
        Command::Du(given) => disk::du(given, global).await,
        Command::Prune(given) => disk::prune(given, global).await,
        Command::Cache(given) => cache::run(given, global).await,
        Command::Login(given) => Box::pin(login::login(given)).await,
        Command::Logout(given) => Box::pin(login::logout(given)).await,
        Command::Context(given) => context::run(&given, global),
        Command::Start(given) => machine::start(given).await,
        Command::Stop(given) => machine::stop(given).await,
        Command::Restart(given) => machine::restart(given).await,
        Command::Status(given) => machine::status(given).await,
        Command::Logs(given) => machine::logs(given).await,
        Command::Shell(given) => shell::run(given, global).await,
        Command::Doctor(given) => machine::doctor(given).await,
        Command::Reset(given) => machine::reset(given).await,
        Command::Completion(given) => completion::run(given),
    }
}
