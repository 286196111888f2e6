//! Two ends of a link over an in-memory channel, and a channel that plays tricks.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use kiln_link::{Incoming, Link, LinkError, Service, connect_guest, connect_host};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

const PATIENCE: Duration = Duration::from_secs(20);

/// A word of the handshake, spelled out.
fn word(kind: u8, version: u8, nonce: u8) -> Vec<u8> {
    let mut word = b"\0KILNLNK".to_vec();
    word.extend([kind, version]);
    word.extend([nonce; 16]);
    word.extend(crc32fast::hash(&word).to_le_bytes());
    word
}

async fn pair() -> ((Link, Incoming), (Link, Incoming)) {
    let (host, guest) = duplex(64 << 10);
    let (host, guest) = tokio::join!(connect_host(host, PATIENCE), connect_guest(guest, PATIENCE));
    (host.unwrap(), guest.unwrap())
}

async fn echo(mut incoming: Incoming) {
    while let Some((_, stream)) = incoming.accept().await {
        tokio::spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(stream);
            tokio::io::copy(&mut reader, &mut writer).await.ok();
            writer.shutdown().await.ok();
        });
    }
}

#[tokio::test]
async fn streams_reach_their_service_in_both_directions() {
    let ((host, mut from_guest), (guest, mut from_host)) = pair().await;
    for service in [Service::Buildkit, Service::Docker, Service::Agent] {
        for (opener, acceptor) in [(&host, &mut from_host), (&guest, &mut from_guest)] {
            let mut opened = opener.open(service).await.unwrap();
            opened.write_all(b"ping").await.unwrap();
            opened.flush().await.unwrap();
            let (named, mut accepted) = acceptor.accept().await.unwrap();
            let mut heard = [0; 4];
            accepted.read_exact(&mut heard).await.unwrap();
            assert_eq!((named, &heard), (service, b"ping"));
        }
    }
}

#[tokio::test]
async fn a_stalled_stream_holds_up_nobody_else() {
    let ((host, _incoming), (_guest, mut from_host)) = pair().await;
    let mut stalled = host.open(Service::Buildkit).await.unwrap();
    let (_, _unread) = from_host.accept().await.unwrap();
    // Fill its window until writing blocks.
    let full = tokio::time::timeout(Duration::from_millis(300), async {
        loop {
            stalled.write_all(&[0; 8 << 10]).await.unwrap();
        }
    });
    assert!(
        full.await.is_err(),
        "a stream without a reader took everything"
    );

    tokio::spawn(echo(from_host));
    let mut other = host.open(Service::Agent).await.unwrap();
    let sent = vec![7; 1 << 20];
    let (mut reader, mut writer) = tokio::io::split(&mut other);
    let mut heard = vec![0; sent.len()];
    let (wrote, read) = tokio::join!(writer.write_all(&sent), reader.read_exact(&mut heard));
    wrote.unwrap();
    read.unwrap();
    assert_eq!(heard, sent);
}

#[tokio::test]
async fn many_streams_at_once_keep_their_bytes() {
    let ((host, _incoming), (_guest, from_host)) = pair().await;
    tokio::spawn(echo(from_host));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..50_u8 {
        let host = host.clone();
        tasks.spawn(async move {
            let stream = host.open(Service::Docker).await.unwrap();
            let (mut reader, mut writer) = tokio::io::split(stream);
            let sent = vec![number; 100_000];
            let write = async {
                writer.write_all(&sent).await.unwrap();
                writer.shutdown().await.unwrap();
            };
            let mut heard = Vec::new();
            let (read, ()) = tokio::join!(reader.read_to_end(&mut heard), write);
            read.unwrap();
            assert!(heard == sent, "stream {number} got other bytes");
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

#[tokio::test]
async fn a_guest_is_set_up_and_reports() {
    use kiln_link::machine::{Report, Reporter, Setup};
    let ((host, _incoming), (_guest, mut from_host)) = pair().await;
    let sent = Setup {
        hostname: "kiln".to_owned(),
        certificates: "x".repeat(1 << 20),
        ..Setup::default()
    };
    let (reports, accepted) = tokio::join!(host.set_up(&sent), async {
        let (service, stream) = from_host.accept().await.unwrap();
        assert_eq!(service, Service::Machine);
        Reporter::accept(stream).await.unwrap()
    });
    let (setup, mut reporter) = accepted;
    assert_eq!(setup, sent);
    let mut reports = reports.unwrap();
    for report in [
        Report::Starting {
            step: "disk".to_owned(),
        },
        Report::Failed {
            reason: "no disk".to_owned(),
            hint: String::new(),
        },
    ] {
        reporter.tell(&report).await.unwrap();
        assert_eq!(reports.next().await.unwrap(), Some(report));
    }
    drop(reporter);
    assert_eq!(reports.next().await.unwrap(), None);
}

#[tokio::test]
async fn a_report_that_nobody_would_send_is_refused() {
    let ((host, _incoming), (_guest, mut from_host)) = pair().await;
    let setup = kiln_link::machine::Setup::default();
    let (reports, accepted) = tokio::join!(host.set_up(&setup), from_host.accept());
    let (_, mut stream) = accepted.unwrap();
    stream.write_u32_le(u32::MAX).await.unwrap();
    stream.flush().await.unwrap();
    let refused = reports.unwrap().next().await;
    assert!(matches!(refused, Err(LinkError::TooLong { .. })));
}

/// Bytes of an earlier life: half a HELLO, READY with another nonce, and frames.
fn leftovers() -> Vec<u8> {
    let mut bytes = b"\0KILNLNK\x01".to_vec();
    bytes.extend(word(2, 1, b'A'));
    bytes.extend([0_u8; 4096]);
    bytes
}

#[tokio::test]
async fn leftovers_of_an_earlier_life_are_thrown_away() {
    let (mut host, mut guest) = duplex(1 << 20);
    host.write_all(&leftovers()).await.unwrap();
    guest.write_all(&leftovers()).await.unwrap();
    let (host, guest) = tokio::join!(connect_host(host, PATIENCE), connect_guest(guest, PATIENCE));
    let ((host, _incoming), (_guest, from_host)) = (host.unwrap(), guest.unwrap());
    tokio::spawn(echo(from_host));
    let mut stream = host.open(Service::Agent).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'x');
}

#[tokio::test]
async fn a_new_host_in_mid_life_ends_the_guests_life() {
    let (host_io, guest_io) = duplex(64 << 10);
    let (host, guest) = tokio::join!(life(host_io), connect_guest(guest_io, PATIENCE));
    let (_link, mut from_host) = guest.unwrap();
    // The old host is gone without a word; a new one says HELLO on the same channel.
    let mut channel = host;
    channel.write_all(&word(1, 1, b'B')).await.unwrap();
    assert!(from_host.accept().await.is_none());
}

/// Shakes hands by hand and leaves the channel to the caller.
async fn life(mut io: DuplexStream) -> DuplexStream {
    io.write_all(&word(1, 1, b'C')).await.unwrap();
    let mut ready = [0; 30];
    io.read_exact(&mut ready).await.unwrap();
    assert_eq!(ready.to_vec(), word(2, 1, b'C'));
    io.write_all(&word(3, 1, b'C')).await.unwrap();
    io
}

#[tokio::test(start_paused = true)]
async fn a_silent_guest_is_a_timeout() {
    let (host, _guest) = duplex(1 << 20);
    let error = connect_host(host, Duration::from_secs(5))
        .await
        .unwrap_err();
    assert!(matches!(error, LinkError::Handshake(_)), "{error}");
    assert!(error.to_string().contains("5s"), "{error}");
}

#[tokio::test]
async fn a_ping_is_answered_by_whoever_lives() {
    let ((host, _from_guest), (guest, _from_host)) = pair().await;
    host.ping(PATIENCE).await.unwrap();
    guest.ping(PATIENCE).await.unwrap();

    // The channel stands, but nobody reads it any more.
    let (host_io, guest_io) = duplex(64 << 10);
    let (host, guest) = tokio::join!(life(host_io), connect_guest(guest_io, PATIENCE));
    let (link, _incoming) = guest.unwrap();
    let silence = link.ping(Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(silence, LinkError::Silent(_)), "{silence}");
    drop(host);
    link.closed().await;
    let gone = link.ping(PATIENCE).await.unwrap_err();
    assert!(matches!(gone, LinkError::Closed), "{gone}");
}

/// As after a pause of the whole computer, when every timer has run out before anything else could happen.
#[tokio::test(start_paused = true)]
async fn a_clock_that_leaps_makes_nobody_silent() {
    let ((host, _from_guest), (_guest, _from_host)) = pair().await;
    let mut ping = std::pin::pin!(host.ping(PATIENCE));
    assert!(futures::poll!(&mut ping).is_pending());
    tokio::time::advance(PATIENCE * 3).await;
    ping.await.unwrap();
}

#[tokio::test]
async fn another_version_is_named() {
    let (host, mut guest) = duplex(64 << 10);
    let peer = tokio::spawn(async move {
        let mut hello = [0; 30];
        guest.read_exact(&mut hello).await.unwrap();
        let mut ready = b"\0KILNLNK\x02\x09".to_vec();
        ready.extend(&hello[10..26]);
        ready.extend(crc32fast::hash(&ready).to_le_bytes());
        guest.write_all(&ready).await.unwrap();
        guest
    });
    let error = connect_host(host, PATIENCE).await.unwrap_err();
    assert!(error.to_string().contains("version 9"), "{error}");
    drop(peer.await.unwrap());
}

#[tokio::test]
async fn a_channel_that_ends_closes_the_link() {
    let (host_io, guest_io) = duplex(64 << 10);
    let (host, guest) = tokio::join!(life(host_io), connect_guest(guest_io, PATIENCE));
    let (link, mut from_host) = guest.unwrap();
    drop(host);
    assert!(from_host.accept().await.is_none());
    link.closed().await;
    assert!(matches!(
        link.open(Service::Agent).await,
        Err(LinkError::Closed)
    ));
}
