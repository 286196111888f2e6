//! Guests that lie, flood or keep silent, at the other end of a real driver's sockets. No QEMU is needed for that: the
//! program in its place sleeps, and the test connects as QEMU would.
//!
//! What every start owes: a bounded message that a terminal can show and that says what to do, no process left, and
//! the disk as it was.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use kiln_link::machine::{Report, Reporter};
use kiln_link::{Incoming, Link, Service, Stream, connect_guest};
use kiln_vm::driver::qemu::{KvmHost, Qemu};
use kiln_vm::driver::{Driver as _, Machine, StartError};
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::bed::{Bed, PATIENCE, is_alive, vmd_program};
use crate::contract::order;

const SETTINGS: &str =
    "driver = \"qemu\"\naccelerator = \"tcg\"\ncpus = 1\nmemory = \"512MiB\"\ndisk = \"1GiB\"\n";
const DISK: &str = "what the disk had";
/// What a start may take that somebody holds up.
const SHORT: Duration = Duration::from_secs(4);
/// Of a message; what the guest says of it is cut at 2,000 characters.
const LONGEST: usize = 2500;

struct Place {
    bed: Bed,
    driver: Qemu,
}

impl Place {
    fn new() -> Self {
        let bed = Bed::new(SETTINGS);
        let at = |name: &str| bed.root.path().join(name);
        let script = format!(
            "#!/bin/sh\necho $$ > {}\nexec sleep 600\n",
            at("pid").display()
        );
        std::fs::write(at("qemu"), script).unwrap();
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(at("qemu"), executable).unwrap();
        std::fs::create_dir(at("guest")).unwrap();
        for name in ["vmlinux", "initrd.zst"] {
            std::fs::write(at("guest").join(name), "12345").unwrap();
        }
        let manifest = r#"{"vmlinux":{"bytes":5},"initrd.zst":{"bytes":5}}"#;
        std::fs::write(at("guest/manifest.json"), manifest).unwrap();
        std::fs::create_dir_all(&bed.paths.state).unwrap();
        std::fs::write(bed.paths.data_disk(), DISK).unwrap();
        let driver = Qemu {
            own: vmd_program().to_owned(),
            qemu: Some(at("qemu")),
            guest: Some(at("guest")),
            kvm: KvmHost::default(),
            kvm_hello: SHORT,
            tcg_hello: SHORT,
            ready: SHORT,
            silence: SHORT,
        };
        Self { bed, driver }
    }

    /// Connects as QEMU does, once the owner listens, and greets; the link.
    async fn connect(&self) -> UnixStream {
        let directory = self.bed.paths.machine_dir();
        let pid = self.bed.root.path().join("pid");
        while !std::fs::read_to_string(&pid).is_ok_and(|pid| pid.ends_with('\n')) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let connect = async |name: &str| {
            loop {
                match UnixStream::connect(directory.join(name)).await {
                    Ok(stream) => return stream,
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        let link = connect("link.sock").await;
        let control = connect("qmp.sock").await;
        tokio::spawn(greet(control));
        link
    }

    /// A start with this guest.
    async fn start(&self, guest: Guest) -> Result<Arc<dyn Machine>, StartError> {
        let play = async {
            guest(self.connect().await).await;
            std::future::pending::<()>().await;
        };
        let start = self.driver.start(order(&self.bed));
        tokio::select! {
            started = timeout(PATIENCE, start) => started.unwrap(),
            () = play => unreachable!(),
        }
    }

    /// Nothing is left, and nothing is lost.
    fn is_clean(&self, what: &str) {
        let pid = std::fs::read_to_string(self.bed.root.path().join("pid")).unwrap();
        assert!(!is_alive(pid.trim().parse().unwrap()), "{what}: {pid}");
        let disk = std::fs::read(self.bed.paths.data_disk()).unwrap();
        assert!(disk.starts_with(DISK.as_bytes()), "{what}");
    }
}

/// QEMU's control socket, as far as a start needs it.
async fn greet(control: UnixStream) -> Option<()> {
    let version = r#"{"qemu":{"major":7,"minor":2,"micro":0},"package":""}"#;
    let greeting = format!("{{\"QMP\":{{\"version\":{version},\"capabilities\":[]}}}}\n");
    let mut control = BufReader::new(control);
    control.write_all(greeting.as_bytes()).await.ok()?;
    let mut line = String::new();
    while control.read_line(&mut line).await.ok()? > 0 {
        let command: serde_json::Value = serde_json::from_str(&line).ok()?;
        line.clear();
        let mut answer = serde_json::json!({"return": {}});
        if let Some(id) = command.get("id") {
            answer["id"] = id.clone();
        }
        let answer = format!("{answer}\n");
        control.write_all(answer.as_bytes()).await.ok()?;
    }
    Some(())
}

/// What a guest does at its end of the link.
type Guest = Box<dyn FnOnce(UnixStream) -> BoxFuture<'static, ()> + Send>;

fn guest<F: Future<Output = ()> + Send + 'static>(
    play: impl FnOnce(UnixStream) -> F + Send + 'static,
) -> Guest {
    Box::new(|link| Box::pin(play(link)))
}

/// A word of the handshake.
fn word(kind: u8, version: u8, nonce: &[u8]) -> Vec<u8> {
    let mut word = b"\0KILNLNK".to_vec();
    word.extend([kind, version]);
    word.extend(nonce);
    let sum = crc32fast::hash(&word).to_le_bytes();
    [word, sum.to_vec()].concat()
}

async fn nonce(link: &mut UnixStream) -> Vec<u8> {
    let mut hello = [0; 30];
    link.read_exact(&mut hello).await.unwrap();
    hello[10..26].to_vec()
}

/// Keeps to the handshake and nothing else: then come these bytes, again and again.
fn after_the_handshake(bytes: Vec<u8>, times: usize) -> Guest {
    guest(move |mut link| async move {
        let nonce = nonce(&mut link).await;
        let mut all = word(2, 1, &nonce);
        for _ in 0..times {
            all.extend(&bytes);
        }
        // The host may have had enough.
        drop(link.write_all(&all).await);
        drop(tokio::io::copy(&mut link, &mut tokio::io::sink()).await);
    })
}

/// A frame's head: type, flags, stream, length.
fn frame(kind: u8, flags: u16, stream: u32, length: u32) -> Vec<u8> {
    let mut head = vec![0, kind];
    head.extend(flags.to_be_bytes());
    head.extend(stream.to_be_bytes());
    head.extend(length.to_be_bytes());
    head
}

/// Keeps to the protocol up to its setup.
async fn set_up<T>(link: T) -> (Link, Incoming, Stream)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (link, mut incoming) = connect_guest(link, PATIENCE).await.unwrap();
    let (service, stream) = incoming.accept().await.unwrap();
    assert_eq!(service, Service::Machine);
    (link, incoming, stream)
}

fn after_the_setup<F: Future<Output = ()> + Send + 'static>(
    play: impl FnOnce(Stream) -> F + Send + 'static,
) -> Guest {
    guest(|link| async {
        let (_link, mut incoming, stream) = set_up(link).await;
        tokio::join!(play(stream), async {
            while incoming.accept().await.is_some() {}
        });
    })
}

/// Keeps to the protocol, and reports this.
fn reports(report: Report) -> Guest {
    after_the_setup(|stream| async move {
        let (_, mut reporter) = Reporter::accept(stream).await.unwrap();
        drop(reporter.tell(&report).await);
        std::future::pending::<()>().await;
    })
}

fn raw_report(bytes: Vec<u8>) -> Guest {
    after_the_setup(|mut stream| async move {
        drop(stream.write_all(&bytes).await);
        drop(stream.flush().await);
        std::future::pending::<()>().await;
    })
}

const EVIL: &str = "\x1b]52;c;ZXZpbA==\x07\x1b[2J\u{9b}31m evil \r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_a_guest_says_a_start_ends_with_a_clear_message() {
    let flood: Vec<u8> = (1..5000).flat_map(|n| frame(1, 1, 2 * n, 0)).collect();
    let rows: Vec<(&'static str, Guest, &'static [&'static str])> = vec![
        (
            "silence",
            guest(|link| async move {
                let _link = link;
                std::future::pending::<()>().await;
            }),
            &["no answer from the machine within 4 s"],
        ),
        (
            "noise without end",
            guest(|mut link| async move {
                while link.write_all(&[7; 4096]).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }),
            &["no answer from the machine within 4 s"],
        ),
        (
            "another's nonce",
            guest(|mut link| async move {
                let _ = nonce(&mut link).await;
                link.write_all(&word(2, 1, &[9; 16])).await.unwrap();
                std::future::pending::<()>().await;
            }),
            &["no answer from the machine within 4 s"],
        ),
        (
            "another version",
            guest(|mut link| async move {
                let nonce = nonce(&mut link).await;
                link.write_all(&word(2, 9, &nonce)).await.unwrap();
                std::future::pending::<()>().await;
            }),
            &["version 9", "update the guest image"],
        ),
        (
            "no frames",
            after_the_handshake(vec![0xff; 64], 1000),
            &["keep to the protocol", "the guest image anew"],
        ),
        (
            "a frame of 4 GiB",
            after_the_handshake(frame(0, 1, 2, u32::MAX), 1),
            &["keep to the protocol", "the guest image anew"],
        ),
        (
            "5000 streams",
            after_the_handshake(flood, 1),
            // Whether the setup came before the flood is chance.
            &["machine"],
        ),
        (
            "a report of 4 GiB",
            raw_report(u32::MAX.to_le_bytes().to_vec()),
            &["a message of 4294967295 bytes", "the guest image anew"],
        ),
        (
            "half a report",
            raw_report(vec![9, 0, 0, 0, b'{']),
            &["no answer from the machine within 4 s"],
        ),
        (
            "a report that is none",
            raw_report(vec![2, 0, 0, 0, b'[', b']']),
            &["keep to the protocol", "the guest image anew"],
        ),
        (
            "steps without end",
            after_the_setup(|stream| async move {
                let (_, mut reporter) = Reporter::accept(stream).await.unwrap();
                let step = EVIL.repeat(1000);
                let step = Report::Starting { step };
                while reporter.tell(&step).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }),
            &["no answer from the machine within 4 s"],
        ),
        (
            "a long and evil reason",
            reports(Report::Failed {
                reason: EVIL.repeat(1000),
                hint: "do this".to_owned(),
            }),
            &["the machine can't work: ", "evil"],
        ),
        (
            "its end",
            reports(Report::Stopping),
            &["it went down again"],
        ),
    ];
    let mut all = tokio::task::JoinSet::new();
    for (what, guest, words) in rows {
        all.spawn(async move {
            let place = Place::new();
            let error = place.start(guest).await.unwrap_err().to_string();
            for word in words {
                assert!(error.contains(word), "{what}: {word}: {error}");
            }
            let evil = error.chars().find(|c| c.is_control() && *c != '\n');
            assert!(evil.is_none(), "{what}: {error:?}");
            assert!(error.chars().count() < LONGEST, "{what}: {error}");
            place.is_clean(what);
        });
    }
    while let Some(ended) = all.join_next().await {
        ended.unwrap();
    }
}

/// One that has become ready isn't believed either.
#[tokio::test]
async fn a_machine_that_turns_hostile_is_ended_with_a_reason() {
    let ready = || Report::Ready {
        version: EVIL.repeat(20),
        warnings: vec![EVIL.repeat(5); 50],
    };
    // It says that it fails, at length, and goes.
    let place = Place::new();
    let (say, heard) = tokio::sync::oneshot::channel::<()>();
    let play = async {
        let (link, mut incoming, stream) = set_up(place.connect().await).await;
        let (_, mut reporter) = Reporter::accept(stream).await.unwrap();
        reporter.tell(&ready()).await.unwrap();
        tokio::select! {
            _ = heard => {}
            () = async { while incoming.accept().await.is_some() {} } => {}
        }
        let failed = Report::Failed {
            reason: EVIL.repeat(1000),
            hint: String::new(),
        };
        reporter.tell(&failed).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        drop((link, incoming, reporter));
    };
    let watch = async {
        let machine = place.driver.start(order(&place.bed)).await.unwrap();
        let facts = machine.facts();
        let told = [vec![facts.engine_version.clone()], facts.notices.clone()].concat();
        let evil = |text: &String| text.chars().any(char::is_control) || text.len() > 4 * LONGEST;
        assert!(!told.iter().any(evil), "{told:?}");
        assert!(told.len() < 20, "{}", told.len());
        say.send(()).unwrap();
        machine.ended().await
    };
    let (reason, ()) = timeout(PATIENCE, async { tokio::join!(watch, play) })
        .await
        .unwrap();
    assert!(
        reason.contains("evil") && reason.len() < LONGEST * 4,
        "{reason}"
    );
    assert!(!reason.chars().any(char::is_control), "{reason:?}");
    place.is_clean("evil words");

    // It becomes ready, and gives no sign of life any more, though its channel stands.
    let place = Place::new();
    let (hush, hushed) = tokio::sync::oneshot::channel::<()>();
    let play = async {
        let mut link = place.connect().await;
        let (near, mut far) = tokio::io::duplex(64 << 10);
        let relay = async {
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut link, &mut far) => {}
                _ = hushed => {}
            }
            std::future::pending::<()>().await;
        };
        let live = async {
            let (near, _incoming, stream) = set_up(near).await;
            let (_, mut reporter) = Reporter::accept(stream).await.unwrap();
            reporter.tell(&ready()).await.unwrap();
            near.closed().await;
        };
        tokio::join!(relay, live);
    };
    let watch = async {
        let machine = place.driver.start(order(&place.bed)).await.unwrap();
        hush.send(()).unwrap();
        machine.ended().await
    };
    let reason = tokio::select! {
        reason = timeout(PATIENCE, watch) => reason.unwrap(),
        () = play => unreachable!(),
    };
    assert!(reason.contains("no sign of life for 4 s"), "{reason}");
    place.is_clean("silence");
}
