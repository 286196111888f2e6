//! Caches that are written elsewhere and read from there.

use std::fs;
use std::time::Duration;

use anyhow::Result;
use kiln_harness::Context;

use crate::lab::{Lab, Side};
use crate::rows::{Row, attributes};
use crate::thin::Fate;

pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "cache-min",
        what: "cache export to a registry, `mode=min`: the result's layers of 50 MB",
        pairs: 3,
        aim: 2.0,
        run: |lab, side| to_registry(lab, side, "min"),
    },
    Row {
        name: "cache-max",
        what: "the same, `mode=max`: 20 steps of another stage, too",
        pairs: 3,
        aim: 2.0,
        run: |lab, side| to_registry(lab, side, "max"),
    },
    Row {
        name: "cache-local",
        what: "the same into a directory of the client",
        pairs: 3,
        aim: 2.0,
        run: to_directory,
    },
    Row {
        name: "cache-from",
        what: "a build that all comes from such a cache in a registry, which the other daemon wrote",
        pairs: 3,
        aim: 2.0,
        run: from_registry,
    },
];

/// A stage of 20 small steps, and a result with a layer of log-like text.
fn two_stages(nonce: &str) -> Result<Context> {
    let steps: Vec<String> = (0..20)
        .map(|number| format!("RUN echo {nonce} > /{number}\n"))
        .collect();
    Context::new(&format!(
        "FROM busybox AS steps\n{}FROM busybox\nRUN awk -v n={nonce} 'BEGIN {{ srand(7); for (i = 0; i < 500000; i++) printf \
         \"2026-11-24T12:%02d:%02d %s INFO worker=%d request=%08x took %d ms path=/api/v1/items/%d\\n\", i/60%60, i%60, n, \
         i%16, int(rand()*4294967295), int(rand()*900), int(rand()*100000) }}' > /log\nCOPY --from=steps /19 /\n",
        steps.concat()
    ))
}

fn to_registry(lab: &Lab, side: &Side, mode: &str) -> Result<Duration> {
    let nonce = lab.nonce();
    let context = two_stages(&nonce)?;
    side.build(&context, Fate::Cached)?;
    let reference = lab.registry.image(&format!("cache/{nonce}"));
    side.build(&context, cache_to(&reference, mode))
}

fn cache_to(reference: &str, mode: &str) -> Fate {
    let attributes = attributes(&[
        ("ref", reference),
        ("mode", mode),
        ("registry.insecure", "true"),
    ]);
    Fate::CacheTo("registry", attributes)
}

fn to_directory(lab: &Lab, side: &Side) -> Result<Duration> {
    let nonce = lab.nonce();
    let context = two_stages(&nonce)?;
    side.build(&context, Fate::Cached)?;
    let directory = lab.path(&format!("cache-{nonce}"));
    fs::create_dir(&directory)?;
    let attributes = attributes(&[("dest", &directory.to_string_lossy()), ("mode", "max")]);
    let time = side.build(&context, Fate::CacheTo("local", attributes))?;
    fs::remove_dir_all(directory)?;
    Ok(time)
}

fn from_registry(lab: &Lab, side: &Side) -> Result<Duration> {
    let other = if side.name == lab.kilnd.name {
        &lab.moby
    } else {
        &lab.kilnd
    };
    let nonce = lab.nonce();
    let context = two_stages(&nonce)?;
    let reference = lab.registry.image(&format!("cache/{nonce}"));
    other.build(&context, cache_to(&reference, "max"))?;
    let attributes = attributes(&[("ref", &reference), ("registry.insecure", "true")]);
    side.build(&context, Fate::CacheFrom("registry", attributes))
}
