//! Measures the profiles and the readers: MB of plain data per second of processor time, and the ratio.
//!
//! `cargo run --release -p kiln-content --example codec_speed [MB]`

#![expect(clippy::print_stdout, reason = "the figures are its output")]

use std::io::{self, Read, Write};
use std::time::Duration;

use kiln_content::codec::{Compressor, Decompressor};
use kiln_content::{Compression, CompressionSpec};
use rustix::time::{ClockId, clock_gettime};
use zlib_rs::{Deflate, DeflateFlush};

fn main() -> io::Result<()> {
    let megabytes = std::env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(64);
    let (text, noise) = data(megabytes << 20);
    println!("{:<28}{:>10}{:>10}", "", "MB/s cpu", "ratio");
    for (name, input) in [("text", &text), ("noise", &noise)] {
        for (kind, level) in [
            (Compression::Gzip, None),
            (Compression::Gzip, Some(3)),
            (Compression::Gzip, Some(6)),
            (Compression::Zstd, None),
            (Compression::Zstd, Some(3)),
        ] {
            let spec = CompressionSpec {
                kind,
                level,
                force: false,
            };
            let (packed, time) = timed(|| {
                let mut writer = Compressor::new(&spec, Vec::new())?;
                writer.write_all(input)?;
                writer.finish()
            })?;
            let level = level.map_or_else(|| "v1".to_owned(), |level| format!("level {level}"));
            row(
                &format!("{name} {kind} {level}"),
                input.len(),
                packed.len(),
                time,
            );
            let (_, time) =
                timed(|| io::copy(&mut Decompressor::new(&packed[..])?, &mut io::sink()))?;
            row(
                &format!("{name} {kind} {level} read"),
                input.len(),
                packed.len(),
                time,
            );
        }
        for level in [1, 3, 6] {
            let (length, time) = timed(|| zlib(input, level))?;
            row(
                &format!("{name} zlib-rs level {level}"),
                input.len(),
                length,
                time,
            );
        }
        let one_member = gzip_of_others(input)?;
        let (_, time) =
            timed(|| io::copy(&mut Decompressor::new(&one_member[..])?, &mut io::sink()))?;
        row(
            &format!("{name} one member read"),
            input.len(),
            one_member.len(),
            time,
        );
    }
    Ok(())
}

fn row(name: &str, plain: usize, packed: usize, time: Duration) {
    let speed = plain as f64 / 1e6 / time.as_secs_f64();
    println!(
        "{name:<28}{speed:>10.0}{:>10.2}",
        plain as f64 / packed.max(1) as f64
    );
}

fn timed<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<(T, Duration)> {
    let now = || {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        Duration::new(
            time.tv_sec.unsigned_abs(),
            time.tv_nsec.unsigned_abs() as u32,
        )
    };
    let before = now();
    let result = work()?;
    Ok((result, now().saturating_sub(before)))
}

fn zlib(input: &[u8], level: i32) -> io::Result<usize> {
    let mut deflate = Deflate::new(level, false, 15);
    let mut out = vec![0; input.len() + (input.len() >> 3) + 1024];
    deflate
        .compress(input, &mut out, DeflateFlush::Finish)
        .map_err(|error| io::Error::other(error.as_str()))?;
    Ok(deflate.total_out() as usize)
}

/// What other tools write: one member for all.
fn gzip_of_others(input: &[u8]) -> io::Result<Vec<u8>> {
    let mut child = std::process::Command::new("gzip")
        .args(["-6", "-c"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let input = input.to_vec();
    let feeder = std::thread::spawn(move || stdin.write_all(&input));
    let mut packed = Vec::new();
    child
        .stdout
        .take()
        .ok_or(io::ErrorKind::BrokenPipe)?
        .read_to_end(&mut packed)?;
    feeder
        .join()
        .map_err(|_| io::Error::other("the feeder panicked"))??;
    child.wait()?;
    Ok(packed)
}

/// Lines of a log, and bytes without order.
fn data(length: usize) -> (Vec<u8>, Vec<u8>) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let words = [
        "GET",
        "POST",
        "/usr/lib/x86_64-linux-gnu/",
        "error",
        "info",
        "connection",
        "timeout",
        "user",
        "cache",
    ];
    let mut text = Vec::with_capacity(length + 200);
    while text.len() < length {
        let (a, b, c) = (next(), next(), next());
        let word = |n: u64| words[(n % words.len() as u64) as usize];
        let line = format!(
            "2026-11-24T{:02}:{:02}:{:02}Z {} {} {}{:x} took={}us\n",
            a % 24,
            a % 60,
            b % 60,
            word(a),
            word(b),
            word(c),
            c % 0xffff,
            b % 100_000
        );
        text.extend_from_slice(line.as_bytes());
    }
    let noise = (0..length / 8).flat_map(|_| next().to_le_bytes()).collect();
    (text, noise)
}
