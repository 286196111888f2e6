//! File ops on real records: overlays, commits, links past an overlay, failures.

use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use kiln_cache::{CacheManager, OpResult};
use kiln_content::ContentStore;
use kiln_llb::{Edge, VertexOptions};
use kiln_progress::VertexProgress;
use kiln_proto::pb;
use kiln_proto::pb::file_action::Action;
use kiln_snapshot::Snapshots;
use kiln_solver::op::{Op as _, OpContext, OpError};
use kiln_store::StateRoot;

use super::{ActionError, FileOp};

struct Daemon {
    _folder: tempfile::TempDir,
    state: StateRoot,
    cache: CacheManager,
}

impl Daemon {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = StateRoot::open(folder.path()).unwrap();
        let content = ContentStore::open(&state).unwrap();
        let snapshots = Snapshots::open(state.snapshots_dir()).unwrap();
        let cache = CacheManager::new(&state, content, snapshots).await.unwrap();
        Self {
            _folder: folder,
            state,
            cache,
        }
    }

    /// Runs one op. `inputs` are (first, second, output) of each action.
    async fn run(
        &self,
        inputs: Vec<OpResult>,
        actions: Vec<(i64, i64, i64, Action)>,
    ) -> Result<Vec<OpResult>, OpError> {
        let actions = actions
            .into_iter()
            .map(|(input, secondary_input, output, action)| pb::FileAction {
                input,
                secondary_input,
                output,
                action: Some(action),
            })
            .collect();
        // The vertex's own inputs aren't looked at by a run.
        let op = pb::op::Op::File(pb::FileOp { actions });
        let vertex = kiln_llb::vertex(op, Vec::<Edge>::new(), None, VertexOptions::named("files"));
        let op = FileOp::new(&vertex, &self.cache, &self.state.tmp_dir());
        op.run(inputs, OpContext::detached()).await
    }
}

fn mkfile(path: &str, text: &str) -> Action {
    Action::Mkfile(pb::FileActionMkFile {
        path: path.into(),
        mode: 0o644,
        data: text.into(),
        owner: None,
        timestamp: -1,
    })
}

fn mkdir(path: &str) -> Action {
    Action::Mkdir(pb::FileActionMkDir {
        path: path.into(),
        mode: 0o755,
        make_parents: true,
        owner: None,
        timestamp: -1,
    })
}

fn copy(src: &str, dest: &str) -> Action {
    Action::Copy(pb::FileActionCopy {
        src: src.into(),
        dest: dest.into(),
        mode: -1,
        follow_symlink: true,
        dir_copy_contents: true,
        create_dest_path: true,
        timestamp: -1,
        ..pb::FileActionCopy::default()
    })
}

async fn read(state: &OpResult, path: &str) -> (String, u64) {
    let root = state.as_ref().unwrap();
    let root = root
        .root_path(&[], &VertexProgress::silent())
        .await
        .unwrap();
    let path = root.path().join(path);
    let text = std::fs::read_to_string(&path).unwrap();
    (text, path.metadata().unwrap().ino())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_onto_a_state_are_links_that_the_next_mount_shows() {
    let daemon = Daemon::new().await;
    let context = daemon
        .run(
            vec![],
            vec![
                (-1, -1, -1, mkdir("/d/sub")),
                (0, -1, -1, mkfile("/d/a", "new a")),
                (1, -1, -1, mkfile("/d/b", "new b")),
                (2, -1, 0, mkfile("/d/sub/c", "new c")),
            ],
        )
        .await
        .unwrap()
        .remove(0);
    let base = daemon
        .run(
            vec![],
            vec![
                (-1, -1, -1, mkdir("/app/sub")),
                (0, -1, -1, mkfile("/app/a", "old a")),
                (1, -1, 0, mkfile("/app/keep", "kept")),
            ],
        )
        .await
        .unwrap()
        .remove(0);
    let inputs = vec![base.clone(), context.clone()];
    let made = daemon
        .run(
            inputs,
            vec![
                (0, 1, -1, copy("/d", "/app")),
                // In place, on top of what was linked.
                (2, -1, 0, mkfile("/app/sub/c", "changed")),
            ],
        )
        .await
        .unwrap()
        .remove(0);
    for (path, want) in [
        ("app/a", "new a"),
        ("app/b", "new b"),
        ("app/sub/c", "changed"),
        ("app/keep", "kept"),
    ] {
        assert_eq!(read(&made, path).await.0, want, "{path}");
    }
    // The source is as it was, whatever was written to the copy.
    for (path, want) in [("d/a", "new a"), ("d/b", "new b"), ("d/sub/c", "new c")] {
        assert_eq!(read(&context, path).await.0, want, "{path}");
    }
    assert_eq!(read(&base, "app/a").await.0, "old a");
    // A file that took nothing's place is the source's file.
    let (from, to) = (read(&context, "d/b").await.1, read(&made, "app/b").await.1);
    assert_eq!(from, to, "linked, not copied");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outputs_are_states_of_their_own() {
    let daemon = Daemon::new().await;
    let made = daemon
        .run(
            vec![None],
            vec![
                (-1, -1, 0, mkfile("/one", "1")),
                (1, -1, 1, mkfile("/two", "2")),
                (-1, 1, 2, copy("/one", "/copied")),
                (0, -1, 3, mkdir("/from/scratch")),
            ],
        )
        .await
        .unwrap();
    assert_eq!(made.len(), 4);
    assert_eq!(read(&made[1], "one").await.0, "1");
    assert_eq!(read(&made[1], "two").await.0, "2");
    assert_eq!(read(&made[2], "copied").await.0, "1");
    let first = made[0].as_ref().unwrap();
    let root = first
        .root_path(&[], &VertexProgress::silent())
        .await
        .unwrap();
    assert!(!root.path().join("two").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_action_keeps_its_states_for_a_debugger() {
    let daemon = Daemon::new().await;
    let error = daemon
        .run(
            vec![None],
            vec![
                (-1, -1, -1, mkfile("/made", "x")),
                (1, 0, 0, copy("/missing", "/x")),
            ],
        )
        .await
        .unwrap_err();
    let text = kiln_errdefs::text(&error);
    assert_eq!(text, "lstat /missing: no such file or directory");
    let failed = find(error.as_ref()).expect("an ActionError");
    assert_eq!((failed.action, failed.inputs.len()), (1, 1));
    let state = failed.state.clone().unwrap();
    assert_eq!(read(&state, "made").await.0, "x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_op_leaves_no_record_and_no_mount() {
    let daemon = Daemon::new().await;
    let base = daemon
        .run(vec![], vec![(-1, -1, 0, mkfile("/f", "x"))])
        .await
        .unwrap();
    let records = daemon.cache.usage().await.unwrap().len();
    let op = pb::op::Op::File(pb::FileOp {
        actions: vec![pb::FileAction {
            input: 0,
            secondary_input: 0,
            output: 0,
            action: Some(copy("/", "/all")),
        }],
    });
    let vertex = kiln_llb::vertex(op, Vec::<Edge>::new(), None, VertexOptions::default());
    let op = FileOp::new(&vertex, &daemon.cache, &daemon.state.tmp_dir());
    let cx = OpContext::detached();
    cx.cancel.cancel();
    let error = op.run(base.clone(), cx).await.unwrap_err();
    assert!(kiln_errdefs::has_cancelled(&error));
    drop(op);
    // Discarding goes on after the handle is gone.
    while daemon.cache.usage().await.unwrap().len() > records {
        tokio::task::yield_now().await;
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let root = daemon.state.path().to_str().unwrap();
    assert!(!mounts.contains(root), "{mounts}");
}

fn find<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a ActionError> {
    error.downcast_ref::<ActionError>().or_else(|| {
        let shared = error.downcast_ref::<Arc<dyn std::error::Error + Send + Sync>>();
        shared.and_then(|shared| find(shared.as_ref()))
    })
}
