//! `cargo xtask figures`: what the machine costs, measured now, as a table for `docs/performance.md`.
//!
//! Everything is seen from outside, by the `kiln` command, the changes of its status and `/proc`, with release builds and
//! the guest image as they ship. The load before the first start is said with it: with work beside it the figures are
//! pessimistic.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{ChildStdout, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::own_machine::Kiln;
use crate::{cargo, guest, workspace};

/// How long idleness is looked at, after a pause in which what was begun ends.
const IDLE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_secs(10);
/// What goes through the link.
const BYTES: usize = 64 << 20;
const ROUNDS: usize = 200;
const DOCKERFILE: &str = "FROM busybox\nRUN echo built > /built\n";

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Builds {
    /// What ships.
    Release,
    /// Debug builds, and the image that is there.
    Debug,
}

/// Measures, and prints the table.
pub(crate) fn print(builds: Builds) -> Result<ExitCode> {
    kiln_test_tools::install()?;
    let root = workspace::root();
    let mut build = vec!["build", "-p", "kiln", "-p", "kiln-vm"];
    let profile = match builds {
        Builds::Release => {
            guest::make(&root, guest::Purpose::Make, Some(&guest::kilnd(&root)?))?;
            build.push("--release");
            "release"
        }
        Builds::Debug => "debug",
    };
    cargo::run(&build, &[])?;
    let load = fs::read_to_string("/proc/loadavg")?;
    let load = load.split(' ').next().unwrap_or_default().to_owned();
    let kiln = Kiln::new(&root, profile)?;
    kiln.write(DOCKERFILE)?;
    let mut rows = image(&kiln.guest)?;
    // The owner first, so that only the machine's own start is timed.
    kiln.runs(&["start"])?;
    kiln.runs(&["reset", "--force"])?;
    let blank = start(&kiln)?;
    rows.push(row(
        "QEMU's start → the guest's hello → the engine answers, blank disk formatted on the way",
        &format!("{} → {}", seconds(blank.hello), seconds(blank.ready)),
    ));
    let build = [
        "build",
        "--progress",
        "plain",
        "-t",
        "figures",
        &kiln.context.display().to_string(),
    ];
    let first = kiln.runs(&build)?;
    rows.push(row(
        "first build: a `RUN` in the base image that the guest carries; from QEMU's start on",
        &format!("{}; {}", seconds(first), seconds(blank.ready + first)),
    ));
    rows.push(row("the same again, cached", &seconds(kiln.runs(&build)?)));
    let status = status(&kiln)?;
    let how = status["accelerator"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let qemu = status["pid"].as_u64().context("QEMU's pid")?;
    let owner = fs::read_to_string(kiln.directory.join("run/vmd.lock"));
    let owner: u64 = owner.context("the owner's pid")?.trim().parse()?;
    let (inward, outward) = throughput(&kiln)?;
    rows.push(row(
        "the link, one stream: into the guest, out of it (64 MiB through `kiln shell`)",
        &format!("{inward:.0} MB/s, {outward:.0} MB/s"),
    ));
    rows.push(row(
        "a byte to a process in the guest and back, median of 200",
        &format!("{:.1} ms", latency(&kiln)?.as_secs_f64() * 1000.0),
    ));
    eprintln!("idle for {} s…", (PAUSE + IDLE).as_secs());
    std::thread::sleep(PAUSE);
    let before = (ticks(qemu)?, ticks(owner)?);
    std::thread::sleep(IDLE);
    let share = |before: u64, after: u64| {
        // The kernel counts in hundredths of a second.
        (after - before) as f64 / IDLE.as_secs_f64()
    };
    rows.push(row(
        "idle for 30 s, processor: QEMU; `kiln-vmd`",
        &format!(
            "{:.1} %; {:.1} %",
            share(before.0, ticks(qemu)?),
            share(before.1, ticks(owner)?)
        ),
    ));
    let memory = status["memoryBytes"].as_f64().unwrap_or_default() / f64::from(1 << 30);
    rows.push(row(
        &format!(
            "memory (RSS) after these builds: QEMU with {memory:.1} GiB for the guest; `kiln-vmd`"
        ),
        &format!("{}; {}", resident(qemu)?, resident(owner)?),
    ));
    rows.push(row("an orderly stop", &seconds(kiln.runs(&["stop"])?)));
    let again = start(&kiln)?;
    rows.push(row(
        "the second start: QEMU's start → hello → the engine answers",
        &format!("{} → {}", seconds(again.hello), seconds(again.ready)),
    ));
    let cpus = std::thread::available_parallelism()?;
    let table = format!(
        "By {how}, {cpus} processors in the host, load {load} before it, {profile} builds:\n\n| what | figure |\n|---|---|\n{}",
        rows.concat()
    );
    std::io::stdout().write_all(table.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn row(what: &str, figure: &str) -> String {
    format!("| {what} | {figure} |\n")
}

fn seconds(taken: Duration) -> String {
    format!("{:.2} s", taken.as_secs_f64())
}

/// What a download would be: the kernel compressed, too.
fn image(directory: &Path) -> Result<Vec<String>> {
    let kernel = zstd::encode_all(fs::File::open(directory.join("vmlinux"))?, 6)?;
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    let size = |name: &str| Ok::<_, anyhow::Error>(fs::metadata(directory.join(name))?.len());
    let both = mib(kernel.len() as u64 + size("initrd.zst")?);
    let add_on = mib(size("add-on.squashfs")?);
    Ok(vec![row(
        "image: kernel and initial file system, compressed; the add-on (git, ssh, emulators) beside them",
        &format!("{both}; {add_on}"),
    )])
}

fn status(kiln: &Kiln) -> Result<Value> {
    let output = kiln.command(&["status", "--json"]).output()?;
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// A start, from QEMU's on.
struct Start {
    hello: Duration,
    ready: Duration,
}

/// Starts the machine and watches its status change.
fn start(kiln: &Kiln) -> Result<Start> {
    let mut watch = kiln
        .command(&["status", "--watch"])
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = watch.stdout.take().context("a pipe")?;
    let seen = std::thread::spawn(move || phases(stdout));
    kiln.runs(&["start"])?;
    let seen = seen.join().ok().context("the watcher")?;
    drop((watch.kill(), watch.wait()));
    seen
}

/// When the machine was first said to boot, to start (which it says itself), and to run.
fn phases(stdout: ChildStdout) -> Result<Start> {
    let (mut booting, mut hello) = (None, None);
    for line in BufReader::new(stdout).lines() {
        let (line, now) = (line?, Instant::now());
        if line.contains("booting the machine") {
            booting.get_or_insert(now);
        }
        if line.contains("the machine starts:") {
            hello.get_or_insert(now);
        }
        if let (Some(from), "Machine    running") = (booting, line.as_str()) {
            let hello = hello.context("a start without a hello")?;
            return Ok(Start {
                hello: hello - from,
                ready: now - from,
            });
        }
    }
    anyhow::bail!("the machine didn't start")
}

/// Megabytes a second into the guest, and out of it.
fn throughput(kiln: &Kiln) -> Result<(f64, f64)> {
    let rate = |began: Instant| BYTES as f64 / 1e6 / began.elapsed().as_secs_f64();
    let mut sink = kiln
        .command(&["shell", "--", "sh", "-c", "wc -c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let began = Instant::now();
    sink.stdin
        .take()
        .context("a pipe")?
        .write_all(&vec![7; BYTES])?;
    let counted = sink.wait_with_output()?;
    let inward = rate(began);
    let counted = String::from_utf8_lossy(&counted.stdout).trim().to_owned();
    ensure!(counted == BYTES.to_string(), "{counted} bytes came");
    let began = Instant::now();
    let source = kiln
        .command(&["shell", "--", "head", "-c", &BYTES.to_string(), "/dev/zero"])
        .output()?;
    let outward = rate(began);
    ensure!(
        source.stdout.len() == BYTES,
        "{} bytes came",
        source.stdout.len()
    );
    Ok((inward, outward))
}

/// Of a byte that a process in the guest sends back.
fn latency(kiln: &Kiln) -> Result<Duration> {
    let mut echo = kiln
        .command(&["shell", "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = echo.stdin.take().context("a pipe")?;
    let mut stdout = echo.stdout.take().context("a pipe")?;
    let mut taken = Vec::new();
    for _ in 0..ROUNDS {
        let began = Instant::now();
        stdin.write_all(b"x")?;
        stdout.read_exact(&mut [0])?;
        taken.push(began.elapsed());
    }
    drop(stdin);
    echo.wait()?;
    taken.sort_unstable();
    Ok(taken[ROUNDS / 2])
}

/// Hundredths of a second that a process has worked.
fn ticks(pid: u64) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("a name")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    // User and system time are the 14th and 15th of all fields; the name was the second.
    let number = |at: usize| -> Result<u64> { Ok(fields.get(at).context("a field")?.parse()?) };
    Ok(number(11)? + number(12)?)
}

fn resident(pid: u64) -> Result<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes: u64 = line
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .context("VmRSS")?
        .parse()?;
    Ok(format!("{} MiB", kilobytes / 1024))
}
