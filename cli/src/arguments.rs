//! The command line.

use clap::{Args, Parser, Subcommand};

use crate::commands::build::BuildArguments;
use crate::commands::builds::BuildsArguments;
use crate::commands::cache::CacheArguments;
use crate::commands::completion::CompletionArguments;
use crate::commands::context::ContextArguments;
use crate::commands::disk::{DuArguments, PruneArguments};
use crate::commands::images::{
    HistoryArguments, ImagesArguments, InspectArguments, LoadArguments, PullArguments,
    PushArguments, RemoveArguments, SaveArguments, TagArguments,
};
use crate::commands::login::{LoginArguments, LogoutArguments};
use crate::commands::machine::{
    DoctorArguments, LogsArguments, ResetArguments, RestartArguments, StartArguments,
    StatusArguments, StopArguments,
};
use crate::commands::shell::ShellArguments;

const AFTER: &str = "\
Exit codes: 0 done; 1 a build failed or a thing isn't there; 2 wrong arguments; 3 wrong configuration;
4 builder, registry or machine unavailable; 5 internal error; 130 interrupted.

Examples:
  kiln build -t app .
  kiln images
  kiln du";

/// Build container images, and look after what they leave behind
#[derive(Debug, Parser)]
#[command(name = "kiln", version, after_help = AFTER, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Builder to use: unix:///path, tcp://host:port, docker:///path; also KILN_HOST, BUILDKIT_HOST
    /// [default: Kiln's own machine]
    #[arg(
        long,
        global = true,
        value_name = "ADDRESS",
        help_heading = "Global options"
    )]
    pub(crate) builder: Option<String>,
    /// Say more about what goes wrong
    #[arg(short = 'D', long, global = true, help_heading = "Global options")]
    pub(crate) debug: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(visible_alias = "b")]
    Build(Box<BuildArguments>),
    Builds(BuildsArguments),
    Images(ImagesArguments),
    Pull(PullArguments),
    Push(PushArguments),
    Tag(TagArguments),
    Rmi(RemoveArguments),
    Save(SaveArguments),
    Load(LoadArguments),
    Inspect(InspectArguments),
    History(HistoryArguments),
    Du(DuArguments),
    Prune(PruneArguments),
    Cache(CacheArguments),
    Login(LoginArguments),
    Logout(LogoutArguments),
    Context(ContextArguments),
    Start(StartArguments),
    Stop(StopArguments),
    Restart(RestartArguments),
    Status(StatusArguments),
    Logs(LogsArguments),
    Shell(ShellArguments),
    Doctor(DoctorArguments),
    Reset(ResetArguments),
    Completion(CompletionArguments),
}
