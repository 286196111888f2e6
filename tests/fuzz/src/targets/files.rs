//! What becomes files: archives, compressed layers, transfers. Nothing may come to be outside of their directory.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Cursor, Read as _};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use kiln_content::codec::Decompressor;
use kiln_filesync::{Packet, ReceiveOptions, Stat, Summary, receive};
use kiln_snapshot::apply::{ApplyOptions, Whiteouts, apply};
use kiln_snapshot::tar::Limits;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};

use super::outcome;
use crate::Target;

const BLOCK: usize = 512;
/// How long data waits for its request, and how often it does so in vain.
const PATIENCE: Duration = Duration::from_millis(20);
const PATIENT_TIMES: usize = 2;
/// Stands for the receiver's end among the ids that it asked for.
const FINISHED: u32 = u32::MAX;
/// Inflated bytes that are looked at.
const INFLATED: u64 = 4 << 20;

/// A directory with a witness beside it.
struct Cage {
    directory: TempDir,
}

impl Cage {
    fn new() -> Option<Self> {
        // In memory where there is such a place: a disk makes files slowly.
        let directory = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .ok()?;
        fs::create_dir(directory.path().join("in")).ok()?;
        fs::create_dir(directory.path().join("beside")).ok()?;
        fs::write(directory.path().join("beside/witness"), "untouched").ok()?;
        Some(Self { directory })
    }

    fn inside(&self) -> std::path::PathBuf {
        self.directory.path().join("in")
    }

    fn check(&self) {
        let names = |path: &Path| {
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
            names.sort();
            names
        };
        let root = self.directory.path();
        assert_eq!(names(root), ["beside", "in"], "something came out");
        assert_eq!(
            names(&root.join("beside")),
            ["witness"],
            "something came out"
        );
        let witness = fs::read(root.join("beside/witness")).unwrap_or_default();
        assert_eq!(witness, b"untouched", "the witness was written");
    }
}

pub(crate) const TAR: Target = Target {
    name: "tar",
    seeds: || archives().unwrap_or_default(),
    words: &[
        b"../beside/witness",
        b"../beside",
        b"/",
        b"..",
        b".",
        b".wh.",
        b".wh..wh..opq",
        b"link",
        b"0",
        b"1",
        b"2",
        b"3",
        b"5",
        b"L",
        b"K",
        b"x",
        b"g",
        b"S",
        b"17 path=../beside/x\n",
        b"30 SCHILY.xattr.user.a=b\n",
        b"\x80\xff\xff\xff\xff\xff\xff\xff",
        b"77777777777\0",
        b"20 size=99999999999\n",
    ],
    read: |input| {
        let Some(cage) = Cage::new() else {
            return "no directory".to_owned();
        };
        let mut archive = input.to_vec();
        repair_checksums(&mut archive);
        let mut said = Vec::new();
        for whiteouts in [Whiteouts::Overlay { userxattr: false }, Whiteouts::Remove] {
            let options = ApplyOptions {
                whiteouts,
                limits: Limits {
                    entries: 2000,
                    path: 1024,
                    pax: 1 << 16,
                    data: 1 << 22,
                },
                skip_devices: false,
                owner: None,
            };
            said.push(outcome(&apply(
                Cursor::new(&archive),
                &cage.inside(),
                &options,
            )));
            cage.check();
        }
        said.join(" ")
    },
};

/// So that damage of a header is looked at, and not only its checksum.
fn repair_checksums(archive: &mut [u8]) {
    for block in archive.chunks_exact_mut(BLOCK) {
        if block.get(257..262) != Some(b"ustar") {
            continue;
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

fn archives() -> std::io::Result<Vec<Vec<u8>>> {
    type Entry = (&'static str, tar::EntryType, &'static str);
    use tar::EntryType as Type;
    let lists: [&[Entry]; 4] = [
        &[
            ("d/", Type::Directory, ""),
            ("d/f", Type::Regular, ""),
            ("d/l", Type::Symlink, "f"),
            ("h", Type::Link, "d/f"),
        ],
        &[
            ("link", Type::Symlink, "../beside"),
            ("link/x", Type::Regular, ""),
            ("a/b/c", Type::Regular, ""),
        ],
        &[
            (".wh.gone", Type::Regular, ""),
            ("d/.wh..wh..opq", Type::Regular, ""),
            ("d", Type::Directory, ""),
        ],
        &[
            ("c", Type::Char, ""),
            ("p", Type::Fifo, ""),
            ("abs", Type::Symlink, "/in/x"),
            ("h", Type::Link, "../beside/witness"),
        ],
    ];
    let mut all = Vec::new();
    for list in lists {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, target) in list {
            let data: &[u8] = if *kind == Type::Regular {
                b"data of a file"
            } else {
                b""
            };
            let mut header = tar::Header::new_ustar();
            header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
            header.set_entry_type(*kind);
            header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
            header.set_size(data.len() as u64);
            header.set_mode(0o644);
            header.set_mtime(1);
            header.set_cksum();
            builder.append(&header, data)?;
        }
        let long = "long/".repeat(40);
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        builder.append_data(&mut header, &long[..long.len() - 1], &b"x"[..])?;
        builder.append_pax_extensions([
            ("path", &b"pax/name"[..]),
            ("mtime", b"1.5"),
            ("SCHILY.xattr.user.a", b"v"),
        ])?;
        let mut header = tar::Header::new_ustar();
        header.set_path("short")?;
        header.set_size(0);
        header.set_cksum();
        builder.append(&header, &[][..])?;
        all.push(builder.into_inner()?);
    }
    Ok(all)
}

pub(crate) const COMPRESSED: Target = Target {
    name: "compressed",
    seeds: || {
        use std::io::Write as _;
        let text = b"some text that repeats, some text that repeats, some text".repeat(20);
        let mut all = vec![text.clone()];
        for kind in ["gzip", "zstd", "uncompressed"] {
            let spec = kind.parse().map(|kind| kiln_content::CompressionSpec {
                kind,
                ..Default::default()
            });
            let Ok(spec) = spec else { continue };
            let Ok(mut compressor) = kiln_content::codec::Compressor::new(&spec, Vec::new()) else {
                continue;
            };
            if compressor.write_all(&text).is_ok() {
                all.extend(compressor.finish());
            }
        }
        all
    },
    words: &[
        b"\x1f\x8b\x08\x00",
        b"\x28\xb5\x2f\xfd",
        b"BZh9",
        b"\xfd7zXZ\x00",
        b"\x50\x2a\x4d\x18",
        b"\xff\xff\xff\x7f",
    ],
    read: |input| {
        let mut bytes = Vec::new();
        let read = Decompressor::new(Cursor::new(input.to_vec()))
            .and_then(|decompressor| decompressor.take(INFLATED).read_to_end(&mut bytes));
        outcome(&read)
    },
};

pub(crate) const FILESYNC: Target = Target {
    name: "filesync",
    seeds: transfers,
    words: &[
        b"../beside/witness",
        b"../beside",
        b"..",
        b".",
        b"/",
        b"link",
        b"d/f",
        b"\x08\x01",
        b"\x08\x02",
        b"\x08\x03",
        b"\x08\x04",
        b"\x12\x00",
        b"\x18\xff\xff\xff\xff\x0f",
        b"\x80\x80\x80\x80\x08",
        b"\x22\x00",
    ],
    read: |input| {
        let packets = packets(input);
        for packet in &packets {
            let mut bytes = BytesMut::new();
            packet.encode(&mut bytes);
            assert_eq!(
                bytes.len(),
                packet.encoded_len(),
                "the length of {packet:?}"
            );
            let again = Packet::decode(&mut bytes.freeze());
            assert_eq!(
                again.ok().as_ref(),
                Some(packet),
                "a packet reads otherwise"
            );
        }
        let Some(cage) = Cage::new() else {
            return "no directory".to_owned();
        };
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
        else {
            return "no runtime".to_owned();
        };
        let inside = cage.inside();
        let received = runtime.block_on(converse(&inside, packets));
        cage.check();
        outcome(&received)
    },
};

/// Sends the packets: data after it was asked for, the end after the other's end, as far as they come.
async fn converse(inside: &Path, packets: Vec<Packet>) -> Result<Summary, kiln_filesync::Error> {
    let (outgoing, mut answers) = mpsc::channel(1024);
    let (asked, wanted) = watch::channel(BTreeSet::new());
    let listen = async {
        while let Some(packet) = answers.recv().await {
            let id = match packet {
                Packet::Request(id) => id,
                Packet::Finish => FINISHED,
                _ => continue,
            };
            asked.send_modify(|asked| {
                asked.insert(id);
            });
        }
    };
    let patience = AtomicUsize::new(PATIENT_TIMES);
    let mut incoming = futures::stream::iter(packets)
        .then(|packet| {
            let mut wanted = wanted.clone();
            let patience = &patience;
            async move {
                let after = match &packet {
                    Packet::Data(id, _) => Some(*id),
                    Packet::Finish => Some(FINISHED),
                    _ => None,
                };
                if let Some(id) = after
                    && patience.load(Ordering::Relaxed) > 0
                {
                    let asked = wanted.wait_for(|wanted| wanted.contains(&id));
                    if tokio::time::timeout(PATIENCE, asked).await.is_err() {
                        patience.fetch_sub(1, Ordering::Relaxed);
                    }
                }
                Ok::<_, tonic::Status>(packet)
            }
        })
        .boxed();
    let work = receive(inside, &mut incoming, outgoing, ReceiveOptions::default());
    let (received, ()) = tokio::join!(work, listen);
    received
}

/// Packets after their lengths in two bytes.
fn packets(mut input: &[u8]) -> Vec<Packet> {
    let mut packets = Vec::new();
    while let Some((length, rest)) = input.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        let (packet, rest) = rest.split_at(length);
        packets.extend(Packet::decode(&mut Bytes::copy_from_slice(packet)));
        input = rest;
    }
    packets
}

fn transfers() -> Vec<Vec<u8>> {
    const DIRECTORY: u32 = 1 << 31 | 0o755;
    const LINK: u32 = 1 << 27 | 0o777;
    let stat = |path: &str, mode: u32, linkname: &str, size: i64| {
        Packet::Stat(Some(Box::new(Stat {
            path: path.to_owned(),
            mode,
            linkname: linkname.to_owned(),
            size,
            mod_time: 1,
            ..Stat::default()
        })))
    };
    let lists = [
        vec![
            stat("d", DIRECTORY, "", 0),
            stat("d/f", 0o644, "", 4),
            stat("e", LINK, "d/f", 0),
            stat("g", 0o600, "d/f", 4),
            Packet::Stat(None),
            Packet::Data(1, Bytes::from_static(b"data")),
            Packet::Data(1, Bytes::new()),
            Packet::Finish,
        ],
        vec![
            stat("link", LINK, "../beside", 0),
            stat("link/witness", 0o644, "", 1),
            Packet::Stat(None),
            Packet::Data(1, Bytes::from_static(b"x")),
            Packet::Data(1, Bytes::new()),
            Packet::Finish,
        ],
        vec![Packet::Error("no".to_owned()), Packet::Request(3)],
    ];
    let encode = |packets: Vec<Packet>| {
        let mut all = Vec::new();
        for packet in packets {
            let mut bytes = BytesMut::new();
            packet.encode(&mut bytes);
            all.extend((bytes.len() as u16).to_le_bytes());
            all.extend_from_slice(&bytes);
        }
        all
    };
    lists.into_iter().map(encode).collect()
}
