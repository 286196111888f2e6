//! `cargo xtask bench [ROW…]`: kilnd against a real BuildKit.
//!
//! Both daemons run at once on the same machine, each with a root on the same disk. A row is measured in pairs: one
//! build on each, the order swapped from pair to pair, so that what else the machine does hits both. The report
//! gives medians and the median of the pairs' ratios, and goes to `docs/performance.md`.
//!
//! Invariant: a row measures the same request, sent by the same client, on both sides; what it needs beforehand
//! (contexts, caches, images) is made outside the measured time.

use std::process::ExitCode;

use anyhow::Result;

mod alone;
mod caches;
mod durability;
mod lab;
mod measure;
mod null;
mod records;
mod report;
mod rows;
mod thin;

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    match run(&wanted) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(wanted: &[String]) -> Result<()> {
    let lab = lab::Lab::start()?;
    let mut results = Vec::new();
    for row in rows::all() {
        if !wanted.is_empty() && !wanted.iter().any(|name| row.name == name.as_str()) {
            continue;
        }
        // A row that fails on one side is reported as such and doesn't end the others.
        let result = measure::row(&lab, row);
        eprintln!("{}", report::line(row, &result));
        results.push((*row, result));
    }
    let mut alone = Vec::new();
    for figure in alone::ALL {
        if wanted.is_empty() || wanted.iter().any(|name| figure.name == name.as_str()) {
            let result = (figure.take)(&lab);
            eprintln!("{}", report::figure_line(figure, &result));
            alone.push((*figure, result));
        }
    }
    let floor = measure::floor(&lab)?;
    let footprint = measure::footprint(&lab)?;
    eprintln!("{}", report::weight_line(&footprint));
    let complete = wanted.is_empty();
    report::write(&lab, &results, &alone, floor, &footprint, complete)
}
