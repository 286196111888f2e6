//! The codecs and their frozen profiles: what they write is the same for any number of cores.

use std::io::{self, Read, Write};
use std::process::{Command, Stdio};

use kiln_content::codec::{Compressor, Decompressor, Limits, ReadAhead};
use kiln_content::{Compression, CompressionSpec};
use kiln_oci::Digest;
use proptest::prelude::*;

fn spec(kind: Compression, level: Option<i32>) -> CompressionSpec {
    CompressionSpec {
        kind,
        level,
        force: false,
    }
}

fn compress(spec: &CompressionSpec, data: &[u8], piece: usize) -> Vec<u8> {
    let mut writer = Compressor::new(spec, Vec::new()).unwrap();
    data.chunks(piece.max(1))
        .try_for_each(|piece| writer.write_all(piece))
        .unwrap();
    writer.finish().unwrap()
}

fn decompress(data: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    Decompressor::new(data)?.read_to_end(&mut out)?;
    Ok(out)
}

/// Text that compresses like a log, then bytes that don't compress.
fn mixed(text: usize, noise: usize) -> Vec<u8> {
    let mut data = Vec::with_capacity(text + noise);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    while data.len() < text {
        let line = format!(
            "{:08} level=info path=/usr/lib/{:x} took={}us\n",
            data.len(),
            next() % 5000,
            next() % 900
        );
        data.extend_from_slice(line.as_bytes());
    }
    data.truncate(text);
    while data.len() < text + noise {
        data.extend_from_slice(&next().to_le_bytes());
    }
    data.truncate(text + noise);
    data
}

fn run(program: &str, args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeder = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap().unwrap();
    assert!(output.status.success(), "{program} {args:?}");
    output.stdout
}

#[test]
fn profiles_are_frozen() {
    // These digests are users' layer digests: a change here is a new profile.
    let data = mixed(3 << 20, 2 << 20);
    let table = [
        (Compression::Gzip, None, GZIP_V1),
        (Compression::Gzip, Some(-1), GZIP_V1),
        (Compression::Gzip, Some(6), GZIP_V1_LEVEL_6),
        (Compression::Zstd, None, ZSTD_V1),
        (Compression::Uncompressed, None, PLAIN),
    ];
    let digests: Vec<_> = table
        .iter()
        .map(|(kind, level, _)| Digest::of(compress(&spec(*kind, *level), &data, 8192)).hex())
        .collect();
    let wanted: Vec<_> = table.iter().map(|(_, _, digest)| *digest).collect();
    assert_eq!(digests, wanted);
}
const GZIP_V1: &str = "67c62410c0a3a072d1d26199189565ad7e73ed39f899af9290d9fb18185c75b6";
const GZIP_V1_LEVEL_6: &str = "31ac685d682c9e58d3329bfe702756c04f8e7ab526f8b3d2ed1bf026b4b9bd87";
const ZSTD_V1: &str = "f1d56da1017777fc313b0d3991ea924e6bc398e381064d2e97f291e772d82407";
const PLAIN: &str = "149cc1aae7b2684e5be70c8665483cd670ada949cb02064571afac543d7d0c34";

#[test]
fn other_readers_accept_the_profiles() {
    let python =
        "import gzip,sys; sys.stdout.buffer.write(gzip.decompress(sys.stdin.buffer.read()))";
    for data in [
        mixed(3 << 20, 2 << 20),
        mixed(1 << 20, 0),
        mixed(0, 1),
        Vec::new(),
    ] {
        let gzip = compress(&spec(Compression::Gzip, None), &data, 10_000);
        assert!(run("gzip", &["-dc"], &gzip) == data);
        assert!(run("python3", &["-c", python], &gzip) == data);
        let zstd = compress(&spec(Compression::Zstd, None), &data, 10_000);
        assert!(run("zstd", &["-dcq"], &zstd) == data);
    }
}

#[test]
fn streams_of_other_writers_are_read() {
    let data = mixed(2 << 20, 300_000);
    let gzip = run("gzip", &["-6nc"], &data);
    assert!(decompress(&gzip).unwrap() == data);
    // Members of several writers, ours among them, and padding.
    let ours = compress(&spec(Compression::Gzip, None), &data, 1 << 20);
    let many = [&gzip[..], &ours, &gzip, &ours, &[0; 512]].concat();
    assert!(decompress(&many).unwrap() == [&data[..], &data, &data, &data].concat());
    let zstd = run("zstd", &["-3qc"], &data);
    assert!(decompress(&[&zstd[..], &zstd].concat()).unwrap() == [&data[..], &data].concat());
    assert_eq!(decompress(&data).unwrap().len(), data.len());
    assert_eq!(decompress(b"").unwrap(), b"");
}

#[test]
fn incompressible_data_is_stored() {
    let noise = mixed(0, 8 << 20);
    let gzip = compress(&spec(Compression::Gzip, None), &noise, 1 << 16);
    assert!(
        gzip.len() < noise.len() + noise.len() / 5000,
        "{}",
        gzip.len()
    );
    let text = mixed(8 << 20, 0);
    assert!(compress(&spec(Compression::Gzip, None), &text, 1 << 16).len() < text.len() / 2);
}

#[test]
fn damaged_streams_are_refused() {
    let data = mixed(2 << 20, 1 << 20);
    for kind in [Compression::Gzip, Compression::Zstd] {
        let good = compress(&spec(kind, None), &data, 1 << 16);
        for cut in [5, 20, good.len() / 2, good.len() - 1] {
            assert!(decompress(&good[..cut]).is_err(), "{kind} cut at {cut}");
        }
        for at in [30, good.len() / 2, good.len() - 2] {
            let mut bad = good.clone();
            bad[at] ^= 0x55;
            assert!(decompress(&bad).is_err(), "{kind} changed at {at}");
        }
    }
    let stream = run("gzip", &["-c"], &data);
    assert!(decompress(&[&stream[..], b"trailing"].concat()).is_err());
    assert!(decompress(&stream[..stream.len() - 3]).is_err());
}

#[test]
fn bombs_are_stopped() {
    let zeros = vec![0; 32 << 20];
    for kind in [Compression::Gzip, Compression::Zstd] {
        let bomb = compress(&spec(kind, None), &zeros, 1 << 20);
        assert_eq!(decompress(&bomb).unwrap().len(), zeros.len());
        for limits in [
            Limits {
                max_bytes: 16 << 20,
                ..Limits::default()
            },
            Limits {
                max_ratio: 100,
                free_bytes: 1 << 20,
                ..Limits::default()
            },
        ] {
            let mut reader = Decompressor::with_limits(&bomb[..], limits).unwrap();
            let error = io::copy(&mut reader, &mut io::sink()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{kind}");
        }
    }
}

#[test]
fn reading_ahead_changes_nothing() {
    let data = mixed(3 << 20, 7);
    let mut seen = Vec::new();
    let mut ahead = ReadAhead::new(io::Cursor::new(data.clone())).unwrap();
    ahead.read_to_end(&mut seen).unwrap();
    assert!(seen == data);
    assert_eq!(ahead.read(&mut [0; 4]).unwrap(), 0);
    let failing = ReadAhead::new(Decompressor::new(&[0x1f, 0x8b, 8, 0, 1][..]).unwrap()).unwrap();
    assert!(io::read_to_string(failing).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_bytes_survive(data in proptest::collection::vec(any::<u8>(), 0..5000), repeat in 1_usize..600, piece in 1_usize..100_000) {
        let data = data.repeat(repeat);
        for kind in [Compression::Gzip, Compression::Zstd] {
            let packed = compress(&spec(kind, None), &data, piece);
            prop_assert!(decompress(&packed).unwrap() == data);
        }
    }

    #[test]
    fn hostile_bytes_never_panic(mut data in proptest::collection::vec(any::<u8>(), 0..3000), kind in 0_usize..4) {
        let starts: [&[u8]; 4] = [
            &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255],
            &[0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255, 8, 0, b'K', b'N', 4, 0, 200, 0, 0, 0],
            &[0x28, 0xb5, 0x2f, 0xfd],
            &[],
        ];
        data.splice(0..0, starts[kind].iter().copied());
        let _ = decompress(&data);
    }
}
