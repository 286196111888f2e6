//! The scenarios of the first build: instructions, mounts, outputs, cache, errors, life cycle.

use std::process::ExitCode;

mod app;
mod asked_by;
mod bundles;
mod cache;
mod caps;
mod cli;
mod client;
mod errors;
mod exchange;
mod files;
mod golden;
mod history;
mod hostile;
mod instructions;
mod life;
mod logs;
mod mounts;
mod outputs;
mod prune;
mod recorded;
mod records;
mod remembered;
mod remote;
mod spans;
mod vectors;

fn main() -> ExitCode {
    let all = [
        instructions::ALL,
        files::ALL,
        mounts::ALL,
        outputs::ALL,
        recorded::ALL,
        cache::ALL,
        caps::ALL,
        remote::ALL,
        vectors::ALL,
        records::ALL,
        prune::ALL,
        errors::ALL,
        life::ALL,
        client::ALL,
        history::ALL,
        asked_by::ALL,
        bundles::ALL,
        logs::ALL,
        remembered::ALL,
        cli::ALL,
        app::ALL,
        golden::ALL,
        hostile::ALL,
    ];
    let on_bed = [exchange::ALL, cli::ON_BED, spans::ALL].concat();
    kiln_e2e::main(all.into_iter().flatten().copied(), &on_bed)
}
