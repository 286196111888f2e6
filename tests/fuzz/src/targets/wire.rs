//! What comes as messages: graphs, and the frames between host and guest.

use std::time::Duration;

use bytes::Bytes;
use kiln_llb::{decode, keys, post_order, sources};
use kiln_oci::Digest;
use kiln_proto::pb;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{dockerfile, outcome};
use crate::Target;

/// The name of an input that stands for the op at a place of the definition, so that damage of an op doesn't part it
/// from those that use it.
fn placeholder(index: usize) -> String {
    format!("sha256:{index:064}")
}

pub(crate) const LLB: Target = Target {
    name: "llb",
    seeds: || {
        let all = dockerfile::definitions().into_iter().map(|mut definition| {
            let digests: Vec<String> = definition
                .def
                .iter()
                .map(|op| Digest::of(op).to_string())
                .collect();
            for bytes in &mut definition.def {
                let Ok(mut op) = pb::Op::decode(bytes.as_slice()) else {
                    continue;
                };
                for input in &mut op.inputs {
                    if let Some(place) = digests.iter().position(|digest| *digest == input.digest) {
                        input.digest = placeholder(place);
                    }
                }
                *bytes = op.encode_to_vec();
            }
            definition.encode_to_vec()
        });
        all.collect()
    },
    words: &[
        b"sha256:0000000000000000000000000000000000000000000000000000000000000000",
        b"sha256:0000000000000000000000000000000000000000000000000000000000000001",
        b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x10\x01",
        b"\x12\x00",
        b"\x1a\x00",
        b"/",
        b"../..",
        b"\xff\xff\xff\xff\x0f",
    ],
    read: |input| {
        let Ok(mut definition) = pb::Definition::decode(input) else {
            return "not a definition".to_owned();
        };
        link(&mut definition);
        let _ = sources(&definition);
        let decoded = decode(definition);
        if let Ok(edge) = &decoded {
            for vertex in post_order(&edge.vertex) {
                assert_eq!(
                    vertex.digest,
                    Digest::of(&vertex.raw),
                    "the digest is that of the bytes"
                );
                let _ = (vertex.name(), vertex.outputs());
                let inputs = vertex.inputs.len();
                let platform = vertex.op.platform.clone().unwrap_or_default();
                match &vertex.op.op {
                    Some(pb::op::Op::Exec(op)) => drop(keys::exec(op, &platform, inputs)),
                    Some(pb::op::Op::File(op)) => drop(keys::file(op, inputs)),
                    Some(pb::op::Op::Merge(op)) => drop(keys::merge(op)),
                    Some(pb::op::Op::Diff(op)) => drop(keys::diff(op)),
                    Some(pb::op::Op::Build(op)) => drop(keys::build(op, inputs)),
                    Some(pb::op::Op::Source(op)) => drop(keys::source(&op.identifier)),
                    _ => {}
                }
            }
            let written = kiln_llb::definition(Some(edge));
            let again = decode(written);
            assert!(
                again.is_ok_and(|again| again.same_output(edge)),
                "a graph reads otherwise"
            );
        }
        outcome(&decoded)
    },
};

/// Puts digests in the place of placeholders.
fn link(definition: &mut pb::Definition) {
    let mut digests: Vec<String> = Vec::new();
    for bytes in &mut definition.def {
        if let Ok(mut op) = pb::Op::decode(bytes.as_slice()) {
            let mut changed = false;
            for input in &mut op.inputs {
                let place = digests
                    .iter()
                    .enumerate()
                    .find(|(place, _)| input.digest == placeholder(*place));
                if let Some((_, digest)) = place {
                    input.digest.clone_from(digest);
                    changed = true;
                }
            }
            if changed {
                *bytes = op.encode_to_vec();
            }
        }
        digests.push(Digest::of(&*bytes).to_string());
    }
}

/// Long enough for both sides to have read everything; time doesn't pass but when all wait.
const PATIENCE: Duration = Duration::from_secs(5);

/// What comes after the handshake, which no damaged bytes would get through.
pub(crate) const LINK: Target = Target {
    name: "link",
    seeds: || [1, 2].map(ordinary_life).into(),
    words: &[
        b"\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x00",
        b"\x00\x01\x00\x00\x00\x00\x00\x01\xff\xff\xff\xff",
        b"\x00\x02\x00\x01\x00\x00\x00\x00\x00\x00\x00\x07",
        b"\x00\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02",
        b"\x00\x01\x00\x01",
        b"\x08buildkit",
        b"\x05agent",
        b"\x00KILNLNK",
    ],
    read: |input| {
        let mut said = Vec::new();
        for as_host in [true, false] {
            let input = Bytes::copy_from_slice(input);
            said.push(on_runtime(listen(as_host, input)).unwrap_or_default());
        }
        said.join(" ")
    },
};

/// A frame of the multiplexer: version, kind, flags, stream, length.
fn frame(kind: u8, flags: u16, stream: u32, length: u32) -> Vec<u8> {
    let mut frame = vec![0, kind];
    frame.extend(flags.to_be_bytes());
    frame.extend(stream.to_be_bytes());
    frame.extend(length.to_be_bytes());
    frame
}

/// Two streams that open, say something and end, a ping and a farewell. The host's streams have odd numbers.
fn ordinary_life(stream: u32) -> Vec<u8> {
    const DATA: u8 = 0;
    const WINDOW: u8 = 1;
    let mut life = Vec::new();
    for stream in [stream, stream + 2] {
        life.extend(frame(WINDOW, 1, stream, 0));
        life.extend(frame(DATA, 0, stream, 14));
        life.extend(b"\x08buildkitwords");
        life.extend(frame(DATA, 4, stream, 0));
    }
    life.extend(frame(2, 1, 0, 7));
    life.extend(frame(3, 0, 0, 0));
    life
}

fn on_runtime<T>(work: impl Future<Output = T>) -> Option<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .ok()?;
    Some(runtime.block_on(work))
}

/// One side of a link whose other side says these bytes after the handshake, and goes.
async fn listen(as_host: bool, input: Bytes) -> String {
    let (ours, mut at_ours) = tokio::io::duplex(1 << 16);
    let (theirs, mut at_theirs) = tokio::io::duplex(1 << 16);
    let (host, guest) = if as_host {
        (ours, theirs)
    } else {
        (theirs, ours)
    };
    let connected = tokio::select! {
        _ = Box::pin(tokio::io::copy_bidirectional(&mut at_ours, &mut at_theirs)) => None,
        sides = async {
            tokio::join!(
                kiln_link::connect_host(host, PATIENCE),
                kiln_link::connect_guest(guest, PATIENCE)
            )
        } => Some(sides),
    };
    let Some((Ok(host), Ok(guest))) = connected else {
        return "no handshake".to_owned();
    };
    let (link, mut incoming) = if as_host { host } else { guest };
    let speak = async {
        let _ = at_ours.write_all(&input).await;
        let _ = at_ours.shutdown().await;
        let mut heard = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, at_ours.read_to_end(&mut heard)).await;
        heard.len()
    };
    let hear = async {
        let mut said = vec!["ok".to_owned()];
        while let Ok(Some((service, mut stream))) =
            tokio::time::timeout(PATIENCE, incoming.accept()).await
        {
            let mut bytes = [0; 64];
            let read = tokio::time::timeout(PATIENCE, stream.read(&mut bytes)).await;
            said.push(format!("{service:?} {}", matches!(read, Ok(Ok(_)))));
        }
        drop(link);
        said.join(" ")
    };
    let (said, heard) = tokio::join!(hear, speak);
    format!("{said} {}", heard > 0)
}
