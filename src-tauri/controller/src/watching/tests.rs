//! The life of a watch with builds that take no time, and real changes of a real folder.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::*;

/// Builds that end when the test says so.
#[derive(Default)]
struct Fake {
    running: Mutex<VecDeque<oneshot::Sender<Result<(), Failure>>>>,
    log: Mutex<Vec<String>>,
}

impl Fake {
    fn say(&self, text: String) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.push(text);
    }

    fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    fn end(&self) {
        let next = self.running.lock().unwrap().pop_front().unwrap();
        next.send(Ok(())).unwrap();
    }
}

impl Builds for Fake {
    async fn begin(&self) -> Result<Begun, Failure> {
        let number = self.log().iter().filter(|l| l.starts_with("begin")).count();
        self.say(format!("begin {number}"));
        let (sender, ended) = oneshot::channel();
        self.running.lock().unwrap().push_back(sender);
        Ok(Begun {
            reference: number.to_string(),
            end: tokio::spawn(async move { ended.await.unwrap() }),
        })
    }

    async fn cancel(&self, reference: &str) -> Result<(), Failure> {
        self.say(format!("cancel {reference}"));
        Ok(())
    }
}

/// Runs a watch beside what a test does with it; time passes only when nothing else is left to do.
async fn beside<T>(
    fake: &Fake,
    script: impl AsyncFnOnce(mpsc::UnboundedSender<String>, mpsc::UnboundedReceiver<WatchState>) -> T,
) -> T {
    let (change, changes) = mpsc::unbounded_channel();
    let (tell, states) = mpsc::unbounded_channel();
    let watching = watch(fake, UnboundedReceiverStream::new(changes), |state| {
        tell.send(state).is_ok()
    });
    tokio::select! {
        biased;
        done = script(change, states) => done,
        _ = watching => unreachable!("the script holds both ends"),
    }
}

async fn until(states: &mut mpsc::UnboundedReceiver<WatchState>, phase: &str) -> WatchState {
    loop {
        let state = states.recv().await.unwrap();
        if state.phase == phase {
            return state;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn changes_that_come_together_are_one_build() {
    let fake = Fake::default();
    beside(&fake, async |change, mut states| {
        assert_eq!(until(&mut states, "building").await.builds, 1);
        fake.end();
        until(&mut states, "waiting").await;
        let begun = Instant::now();
        for path in ["a", "b", "a"] {
            change.send(path.into()).unwrap();
            tokio::time::sleep(QUIET / 2).await;
        }
        let state = until(&mut states, "building").await;
        assert_eq!(state.builds, 2);
        assert_eq!(state.changed, ["a", "b"]);
        assert!(begun.elapsed() >= QUIET * 2, "{:?}", begun.elapsed());
        assert_eq!(fake.log(), ["begin 0", "begin 1"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_is_never_quiet_is_built_all_the_same() {
    let fake = Fake::default();
    beside(&fake, async |change, mut states| {
        until(&mut states, "building").await;
        fake.end();
        until(&mut states, "waiting").await;
        let begun = Instant::now();
        while fake.log().len() < 2 {
            change.send("log".into()).unwrap();
            tokio::time::sleep(QUIET / 3).await;
        }
        assert!(begun.elapsed() <= AT_MOST + QUIET, "{:?}", begun.elapsed());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_change_while_a_build_runs_cancels_it_and_the_next_waits_for_its_end() {
    let fake = Fake::default();
    beside(&fake, async |change, mut states| {
        until(&mut states, "building").await;
        change.send("a".into()).unwrap();
        until(&mut states, "cancelling").await;
        change.send("b".into()).unwrap();
        // However long it takes to end.
        tokio::time::sleep(AT_MOST * 2).await;
        assert_eq!(fake.log(), ["begin 0", "cancel 0"]);
        fake.end();
        let state = until(&mut states, "building").await;
        assert_eq!((state.reference.as_str(), state.builds), ("1", 2));
        assert_eq!(state.changed, ["a", "b"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_nobody_listens_and_leaves_the_build_alone() {
    let fake = Fake::default();
    let (_change, changes) = mpsc::unbounded_channel();
    watch(&fake, UnboundedReceiverStream::new(changes), |_| false)
        .await
        .unwrap();
    assert_eq!(fake.log(), ["begin 0"]);
}

#[tokio::test]
async fn only_what_a_build_sees_counts() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for directory in ["src", "node_modules/x", "out", ".git"] {
        std::fs::create_dir_all(at(directory)).unwrap();
    }
    std::fs::write(at(".dockerignore"), "node_modules\n*.log\n").unwrap();
    std::fs::write(at("Dockerfile"), "FROM scratch\n").unwrap();
    let own = Some(at("out"));
    let changes = Changes::of(folder.path(), &at("Dockerfile"), own).unwrap();
    let mut changes = std::pin::pin!(changes.stream());
    // Each is followed by one that counts, so that nothing is waited for that doesn't come.
    for (unseen, seen) in [
        ("node_modules/x/index.js", "src/a.js"),
        ("debug.log", "src/b.js"),
        ("out/image.tar", "Dockerfile"),
        (".git/index", "src/c.js"),
    ] {
        std::fs::write(at(unseen), "1").unwrap();
        std::fs::write(at(seen), "2").unwrap();
        let mut next = changes.next().await.unwrap();
        while next != seen {
            assert_ne!(next, unseen);
            next = changes.next().await.unwrap();
        }
    }
    // Directories that come later, and another ignore file.
    std::fs::create_dir(at("lib")).unwrap();
    while changes.next().await.unwrap() != "lib" {}
    std::fs::write(at("lib/d.js"), "3").unwrap();
    while changes.next().await.unwrap() != "lib/d.js" {}
    std::fs::write(at(".dockerignore"), "lib\n").unwrap();
    while changes.next().await.unwrap() != ".dockerignore" {}
    std::fs::write(at("lib/d.js"), "4").unwrap();
    std::fs::write(at("debug.log"), "5").unwrap();
    loop {
        match changes.next().await.unwrap().as_str() {
            "debug.log" => break,
            // The ignore file was emptied before it was written.
            path => assert!(path == ".dockerignore", "{path}"),
        }
    }
}
