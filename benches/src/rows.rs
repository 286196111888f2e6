//! What is measured. Each row prepares what it needs and gives the time of one build.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::time::Duration;

use anyhow::Result;
use kiln_harness::Context;

use crate::lab::{Lab, Side};
use crate::thin::Fate;

/// One row of the report.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    /// How many pairs count.
    pub(crate) pairs: usize,
    /// What the design aims at.
    pub(crate) aim: f64,
    pub(crate) run: fn(&Lab, &Side) -> Result<Duration>,
}

/// All rows, in the order in which they are measured: what empties caches comes last.
pub(crate) fn all() -> impl Iterator<Item = &'static Row> {
    BUILDS
        .iter()
        .chain(crate::caches::ROWS)
        .chain(crate::records::ROWS)
}

const BUILDS: &[Row] = &[
    Row {
        name: "no-op",
        what: "five steps, nothing changed",
        pairs: 9,
        aim: 1.0,
        run: no_op,
    },
    Row {
        name: "one-changed",
        what: "one changed file of 2,000, `COPY` and `RUN` after it",
        pairs: 5,
        aim: 2.0,
        run: one_changed,
    },
    Row {
        name: "one-changed-slow",
        what: "the same with the daemons' state on a disk of 100 writes a second",
        pairs: 7,
        aim: 2.0,
        run: |lab, side| one_changed(lab, lab.on_slow_disk(side, SLOW)?),
    },
    Row {
        name: "40-runs",
        what: "40 tiny `RUN` steps",
        pairs: 3,
        aim: 2.0,
        run: forty_runs,
    },
    Row {
        name: "16-stages",
        what: "16 parallel stages",
        pairs: 3,
        aim: 2.0,
        run: sixteen_stages,
    },
    Row {
        name: "small-files",
        what: "a new context of 20,000 small files",
        pairs: 3,
        aim: 2.0,
        run: small_files,
    },
    Row {
        name: "big-file",
        what: "a new context with one file of 256 MB",
        pairs: 3,
        aim: 2.0,
        run: big_file,
    },
    Row {
        name: "export-gzip",
        what: "export of a 200 MB layer of log text, gzip",
        pairs: 3,
        aim: 2.0,
        run: export_gzip,
    },
    Row {
        name: "export-zstd",
        what: "the same, zstd",
        pairs: 3,
        aim: 2.0,
        run: export_zstd,
    },
    Row {
        name: "load",
        what: "one changed file on a layer of 200 MB, sent to the client as `--load` does",
        pairs: 5,
        aim: 1.0,
        run: load,
    },
    Row {
        name: "push",
        what: "one changed file, pushed to a registry",
        pairs: 5,
        aim: 1.0,
        run: push,
    },
    Row {
        name: "pull",
        what: "pull and unpack a base image of 200 MB",
        pairs: 3,
        aim: 2.0,
        run: pull,
    },
];

/// Writes a second that a slow disk takes: those of a hard disk.
const SLOW: u32 = 100;

/// Builds a context that never changes: kept between runs, one for each side.
fn kept(
    lab: &Lab,
    name: &str,
    make: impl FnOnce(&std::path::Path) -> Result<()>,
) -> Result<std::path::PathBuf> {
    let path = lab.path(name);
    if !path.exists() {
        fs::create_dir_all(&path)?;
        make(&path)?;
    }
    Ok(path)
}

fn no_op(lab: &Lab, side: &Side) -> Result<Duration> {
    let path = kept(lab, "no-op", |path| {
        fs::write(path.join("f"), "contents")?;
        Ok(fs::write(
            path.join("Dockerfile"),
            "FROM busybox\nRUN echo one\nCOPY f /\nRUN cat /f\nWORKDIR /w\nRUN echo two\n",
        )?)
    })?;
    side.build(&Context::existing(&path), Fate::Cached)
}

fn one_changed(lab: &Lab, side: &Side) -> Result<Duration> {
    let path = kept(lab, &format!("one-changed-{}", side.name), |path| {
        for number in 0..2000 {
            let directory = path.join(format!("src/{}", number % 40));
            fs::create_dir_all(&directory)?;
            fs::write(
                directory.join(number.to_string()),
                format!("file {number}\n").repeat(100),
            )?;
        }
        Ok(fs::write(
            path.join("Dockerfile"),
            "FROM busybox\nCOPY src /src\nRUN cat /src/0/0\n",
        )?)
    })?;
    fs::write(path.join("src/0/0"), lab.nonce())?;
    side.build(&Context::existing(&path), Fate::Cached)
}

fn forty_runs(lab: &Lab, side: &Side) -> Result<Duration> {
    let nonce = lab.nonce();
    let steps: Vec<String> = (0..40)
        .map(|number| format!("RUN echo {nonce} > /{number}\n"))
        .collect();
    side.build(
        &Context::new(&format!("FROM busybox\n{}", steps.concat()))?,
        Fate::Cached,
    )
}

fn sixteen_stages(lab: &Lab, side: &Side) -> Result<Duration> {
    let nonce = lab.nonce();
    let stages: Vec<String> = (0..16)
        .map(|number| format!("FROM busybox AS s{number}\nRUN echo {nonce} > /{number}\n"))
        .collect();
    let copies: Vec<String> = (0..16)
        .map(|number| format!("COPY --from=s{number} /{number} /\n"))
        .collect();
    side.build(
        &Context::new(&format!(
            "{}FROM scratch\n{}",
            stages.concat(),
            copies.concat()
        ))?,
        Fate::Cached,
    )
}

fn small_files(lab: &Lab, side: &Side) -> Result<Duration> {
    let context = Context::new("FROM scratch\nCOPY . /\n")?;
    let nonce = lab.nonce();
    for number in 0..20_000 {
        context.put(
            &format!("d{}/f{number}", number % 200),
            format!("{nonce} {number}"),
        )?;
    }
    side.build(&context, Fate::Cached)
}

fn big_file(lab: &Lab, side: &Side) -> Result<Duration> {
    let context = Context::new("FROM scratch\nCOPY . /\n")?;
    let mut file = BufWriter::new(File::create(context.path().join("big"))?);
    let mut state = 0x0139_408d_cbbf_7a44_u64;
    file.write_all(lab.nonce().as_bytes())?;
    for _ in 0..(256 << 20) / 8 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        file.write_all(&state.to_le_bytes())?;
    }
    drop(file);
    side.build(&context, Fate::Cached)
}

/// A layer of log-like text. Its generator is a step, so nothing of it crosses the wire.
pub(crate) fn log_layer(nonce: &str) -> Result<Context> {
    Context::new(&format!(
        "FROM busybox\nRUN awk -v n={nonce} 'BEGIN {{ srand(7); for (i = 0; i < 2000000; i++) printf \"2026-11-24T12:%02d:%02d \
         %s INFO worker=%d request=%08x took %d ms path=/api/v1/items/%d\\n\", i/60%60, i%60, n, i%16, \
         int(rand()*4294967295), int(rand()*900), int(rand()*100000) }}' > /log\n"
    ))
}

fn export(lab: &Lab, side: &Side, compression: &str) -> Result<Duration> {
    let context = log_layer(&lab.nonce())?;
    side.build(&context, Fate::Cached)?;
    let target = lab.path("export.tar");
    let attributes = attributes(&[("compression", compression), ("force-compression", "true")]);
    let time = side.build(&context, Fate::File("oci", attributes, target.clone()))?;
    fs::remove_file(target)?;
    Ok(time)
}

pub(crate) fn attributes(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn pushed(reference: &str) -> Fate {
    Fate::Elsewhere(
        "image",
        attributes(&[
            ("name", reference),
            ("push", "true"),
            ("registry.insecure", "true"),
        ]),
    )
}

fn export_gzip(lab: &Lab, side: &Side) -> Result<Duration> {
    export(lab, side, "gzip")
}

fn export_zstd(lab: &Lab, side: &Side) -> Result<Duration> {
    export(lab, side, "zstd")
}

fn load(lab: &Lab, side: &Side) -> Result<Duration> {
    let path = kept(lab, &format!("load-{}", side.name), |path| {
        let layer = fs::read_to_string(log_layer("load")?.path().join("Dockerfile"))?;
        Ok(fs::write(
            path.join("Dockerfile"),
            format!("{layer}COPY f /\n"),
        )?)
    })?;
    fs::write(path.join("f"), lab.nonce())?;
    let target = lab.path("load.tar");
    let attributes = attributes(&[("name", "bench/load")]);
    let time = side.build(
        &Context::existing(&path),
        Fate::File("docker", attributes, target.clone()),
    )?;
    fs::remove_file(target)?;
    Ok(time)
}

fn push(lab: &Lab, side: &Side) -> Result<Duration> {
    let name = side.name.to_lowercase();
    let path = kept(lab, &format!("push-{name}"), |path| {
        Ok(fs::write(
            path.join("Dockerfile"),
            "FROM busybox\nRUN head -c 20000000 /dev/zero > /z\nCOPY f /\n",
        )?)
    })?;
    fs::write(path.join("f"), lab.nonce())?;
    let reference = lab.registry.image(&format!("push/{name}"));
    side.build(&Context::existing(&path), pushed(&reference))
}

fn pull(lab: &Lab, side: &Side) -> Result<Duration> {
    // An image that the measured side has never seen, built by the other one.
    let other = if side.name == lab.kilnd.name {
        &lab.moby
    } else {
        &lab.kilnd
    };
    let reference = lab.registry.image(&format!("pull/{}", lab.nonce()));
    other.build(&log_layer(&lab.nonce())?, pushed(&reference))?;
    side.build(
        &Context::new(&format!("FROM {reference}\nRUN test -s /log\n"))?,
        Fate::Cached,
    )
}
