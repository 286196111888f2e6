//! The hub's promises: replay, merging, nothing lost, an end.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use kiln_oci::Digest;
use kiln_progress::{
    Audience, BuildReceiver, Counts, Hub, Status, Stream, VertexState, Warning, wire,
};

fn vertex(name: &str, done: bool) -> VertexState {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    VertexState {
        digest: Digest::of(name),
        inputs: Vec::new(),
        name: name.into(),
        cached: false,
        started: Some(at),
        completed: done.then_some(at),
        error: String::new(),
        group: None,
    }
}

fn status(current: i64) -> Status {
    Status {
        id: "layer".into(),
        name: String::new(),
        current,
        total: 10,
        started: None,
        completed: None,
    }
}

#[tokio::test]
async fn late_reader_gets_the_whole_build_merged() {
    let hub = Hub::new();
    let a = Digest::of("a");
    hub.vertex(vertex("a", false));
    hub.log(
        a,
        Stream::Stdout,
        Audience::Everybody,
        Bytes::from_static(b"one "),
    );
    hub.log(
        a,
        Stream::Stdout,
        Audience::Everybody,
        Bytes::from_static(b"two\n"),
    );
    hub.log(
        a,
        Stream::Stderr,
        Audience::Everybody,
        Bytes::from_static(b"bad\n"),
    );
    for current in 0..10 {
        hub.status(a, status(current));
    }
    hub.warn(None, Warning::default());
    hub.vertex(vertex("a", true));
    hub.finish();

    let mut reader = hub.read();
    let update = reader.next().await.expect("an update");
    assert_eq!(update.vertices, [vertex("a", true)]);
    assert_eq!(update.statuses.len(), 1);
    assert_eq!(update.statuses[0].status.current, 9);
    let output: Vec<&[u8]> = update.output.iter().map(|piece| &piece.bytes[..]).collect();
    assert_eq!(output, [&b"one two\n"[..], b"bad\n"]);
    assert_eq!(update.warnings.len(), 1);
    assert_eq!(reader.next().await, None);
    assert_eq!(
        hub.counts(),
        Counts {
            total: 1,
            cached: 0,
            completed: 1,
            warnings: 1
        }
    );
}

#[tokio::test]
async fn output_that_was_read_is_not_added_to() {
    let hub = Hub::new();
    let a = Digest::of("a");
    let mut reader = hub.read();
    let mut seen = Vec::new();
    for line in ["1\n", "2\n", "3\n"] {
        hub.log(
            a,
            Stream::Stdout,
            Audience::Everybody,
            Bytes::from_static(line.as_bytes()),
        );
        let update = reader.next().await.expect("an update");
        seen.extend(update.output.into_iter().flat_map(|piece| piece.bytes));
    }
    assert_eq!(seen, b"1\n2\n3\n");
}

#[tokio::test]
async fn a_waiting_reader_ends_with_the_build_and_open_vertices_are_cancelled() {
    let hub = Hub::new();
    hub.vertex(vertex("a", false));
    let mut reader = hub.read();
    assert!(reader.next().await.is_some());
    let waiting = tokio::spawn(async move {
        let last = reader.next().await.expect("the cancelled vertex");
        (last, reader.next().await)
    });
    hub.finish();
    hub.vertex(vertex("late", false));
    let (last, end) = waiting.await.expect("no panic");
    assert_eq!(last.vertices[0].error, "context canceled");
    assert!(last.vertices[0].completed.is_some());
    assert_eq!(end, None);
}

#[tokio::test]
async fn nothing_is_lost_between_many_writers_and_a_reader() {
    let hub = Hub::new();
    let mut reader = hub.read();
    let writers: Vec<_> = (0..4_u8)
        .map(|writer| {
            let hub = hub.clone();
            tokio::spawn(async move {
                for _ in 0..1000 {
                    hub.log(
                        Digest::of([writer]),
                        Stream::Stdout,
                        Audience::Everybody,
                        Bytes::copy_from_slice(&[writer]),
                    );
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    let done = tokio::spawn(async move {
        for writer in writers {
            writer.await.expect("no panic");
        }
        hub.finish();
    });
    let mut counts = [0_usize; 4];
    while let Some(update) = reader.next().await {
        for piece in update.output {
            counts[usize::from(piece.bytes[0])] += piece.bytes.len();
        }
    }
    done.await.expect("no panic");
    assert_eq!(counts, [1000; 4]);
}

#[test]
fn large_output_is_split_and_vertices_come_first() {
    let hub = Hub::new();
    hub.vertex(vertex("a", false));
    for _ in 0..100 {
        hub.log(
            Digest::of("a"),
            Stream::Stdout,
            Audience::Everybody,
            Bytes::from(vec![b'x'; 32 * 1024]),
        );
    }
    let responses = wire::responses(hub.snapshot());
    assert!(responses.len() > 2, "{}", responses.len());
    assert_eq!(responses[0].vertexes.len(), 1);
    assert!(
        responses[1..]
            .iter()
            .all(|response| response.vertexes.is_empty())
    );
    let size: usize = responses
        .iter()
        .flat_map(|response| &response.logs)
        .map(|log| log.msg.len())
        .sum();
    assert_eq!(size, 100 * 32 * 1024);
}

#[test]
fn the_end_of_a_vertex_comes_with_the_last_of_its_output() {
    let hub = Hub::new();
    hub.vertex(vertex("a", false));
    for _ in 0..100 {
        let piece = Bytes::from(vec![b'x'; 32 * 1024]);
        hub.log(Digest::of("a"), Stream::Stdout, Audience::Everybody, piece);
    }
    let failed = VertexState {
        error: "exit code: 7".into(),
        ..vertex("a", true)
    };
    hub.vertex(failed);
    let responses = wire::responses(hub.snapshot());
    let states: Vec<Vec<(bool, &str)>> = responses
        .iter()
        .map(|response| {
            let vertices = response.vertexes.iter();
            vertices
                .map(|one| (one.completed.is_some(), one.error.as_str()))
                .collect()
        })
        .collect();
    let (first, last) = (&states[0], states.last().unwrap());
    assert_eq!(first, &[(false, "")]);
    assert_eq!(last, &[(true, "exit code: 7")]);
    let between = &states[1..states.len() - 1];
    assert!(between.iter().all(Vec::is_empty), "{states:?}");
    assert!(!responses.last().unwrap().logs.is_empty());
}

#[tokio::test]
async fn a_vertex_that_works_again_keeps_the_end_of_its_time_before() {
    let hub = Hub::new();
    let mut reader = hub.read();
    hub.vertex(vertex("a", false));
    assert!(reader.next().await.is_some());
    let again = VertexState {
        started: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(2)),
        ..vertex("a", false)
    };
    hub.vertex(vertex("a", true));
    hub.vertex(again.clone());
    let update = reader.next().await.expect("an update");
    assert_eq!(update.vertices, [vertex("a", true), again]);
    assert_eq!(hub.counts().total, 1);
}

/// The output that a reader got, by who it was for.
fn text(update: &kiln_progress::Update) -> Vec<(Audience, String)> {
    let piece = |one: &kiln_progress::Output| {
        let words = String::from_utf8_lossy(&one.bytes).into_owned();
        (one.audience, words)
    };
    update.output.iter().map(piece).collect()
}

#[tokio::test]
async fn the_record_gets_what_clients_do_not() {
    let hub = Hub::new();
    let a = Digest::of("a");
    let mut record = hub.record();
    let log = |audience, words: &'static str| {
        hub.log(
            a,
            Stream::Stdout,
            audience,
            Bytes::from_static(words.as_bytes()),
        );
    };
    hub.vertex(vertex("a", false));
    log(Audience::Everybody, "shown ");
    log(Audience::Record, "cut ");
    log(Audience::Clients, "[clipped]");
    log(Audience::Record, "and cut");
    let (shown, cut, clipped) = (
        "shown ".to_owned(),
        "cut ".to_owned(),
        "[clipped]".to_owned(),
    );
    let kept = record.next().await.expect("an update");
    let want = [
        (Audience::Everybody, shown.clone()),
        (Audience::Record, cut),
        (Audience::Record, "and cut".to_owned()),
    ];
    assert_eq!(text(&kept), want);
    let mut client = hub.read();
    let seen = client.next().await.expect("an update");
    assert_eq!(
        text(&seen),
        [(Audience::Everybody, shown), (Audience::Clients, clipped)]
    );
    // What is for others isn't an update, and doesn't hide the end.
    log(Audience::Record, "more");
    hub.finish();
    let end = client.next().await.expect("the vertex's end");
    assert!(end.output.is_empty() && end.vertices.len() == 1);
    assert_eq!(client.next().await, None);
    let rest = record.next().await.expect("the rest");
    assert_eq!(text(&rest), [(Audience::Record, "more".to_owned())]);
    assert_eq!(record.next().await, None);
}

#[tokio::test]
async fn what_nobody_records_is_not_kept_and_much_of_it_makes_wait() {
    let hub = Hub::new();
    let (a, chunk) = (Digest::of("a"), Bytes::from(vec![b'x'; 1 << 20]));
    let fill = || {
        for _ in 0..10 {
            hub.log(a, Stream::Stdout, Audience::Record, chunk.clone());
        }
    };
    fill();
    assert!(!hub.is_behind(), "nobody records");
    let mut record = hub.record();
    fill();
    assert!(hub.is_behind());
    let update = record.next().await.expect("an update");
    let bytes: usize = update.output.iter().map(|piece| piece.bytes.len()).sum();
    assert_eq!(bytes, 10 << 20);
    assert!(!hub.is_behind(), "it was taken");
    fill();
    record.decline_hidden();
    assert!(!hub.is_behind(), "there is enough of it");
    fill();
    hub.finish();
    assert_eq!(record.next().await, None);
}
