//! The contract of key stores, for both of them, and what only the persistent one promises.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kiln_oci::Digest;
use kiln_solver::store::{InputRef, KeyRef, StoredResult, record_digest};
use kiln_solver::{DatabaseKeys, KeyStore, MemoryKeys};
use kiln_store::StateRoot;

use crate::lab::*;

fn root(name: &str) -> KeyRef {
    KeyRef::Root {
        record: record_digest(&Digest::of(name), 0),
        session_local: name.starts_with("session"),
    }
}

fn way(key: KeyRef) -> InputRef {
    (key, None)
}

fn result(id: &str) -> StoredResult {
    StoredResult {
        id: id.to_owned(),
        created: SystemTime::UNIX_EPOCH + Duration::from_secs(7),
    }
}

fn record_of(key: KeyRef) -> Digest {
    match key {
        KeyRef::Root { record, .. } => record,
        KeyRef::Id(_) => panic!("not a root"),
    }
}

/// What every store promises.
fn contract(keys: &dyn KeyStore) {
    let op = record_digest(&Digest::of("op"), 0);
    let (a, b, c) = (root("a"), root("b"), root("c"));
    assert!(!keys.exists(a));
    assert_eq!(keys.query(&[way(a)], 0, &op), []);

    // A root key, and a key made of two inputs.
    keys.commit(&record_of(a), &[], Some(result("base")));
    assert!(keys.exists(a));
    let key = keys.commit(
        &op,
        &[vec![way(a)], vec![way(b), way(c)]],
        Some(result("made")),
    );
    assert_eq!(keys.query(&[way(a)], 0, &op), [key]);
    assert_eq!(keys.query(&[way(c)], 1, &op), [key]);
    assert_eq!(keys.query(&[way(c)], 0, &op), [], "another input");
    let selected = (c, Some(Digest::of("part")));
    assert_eq!(keys.query(&[selected], 1, &op), [], "another selector");
    assert_eq!(keys.results(KeyRef::Id(key)), [result("made")]);

    // The same inputs are the same key, also by one of them; other inputs are another.
    let again = keys.commit(
        &op,
        &[vec![way(a)], vec![way(b)]],
        Some(result("made again")),
    );
    assert_eq!(again, key);
    assert_eq!(keys.results(KeyRef::Id(key)).len(), 2);
    let other = keys.commit(&op, &[vec![way(a)], vec![way(root("d"))]], None);
    assert_ne!(other, key);

    // A query merges: what names the same input leads to the same keys from then on.
    let e = root("e");
    assert_eq!(keys.query(&[way(b), way(e)], 1, &op), [key]);
    assert_eq!(keys.query(&[way(e)], 1, &op), [key]);

    // Ways back.
    let parents: Vec<_> = keys.parents(key).into_iter().map(|(key, _)| key).collect();
    let roots: Vec<_> = parents
        .iter()
        .filter_map(|key| keys.root_digest(*key))
        .collect();
    assert_eq!(roots.len(), 4);
    assert_eq!(keys.keys_of("made"), [key]);

    // Letting go.
    keys.release("made");
    assert!(keys.exists(KeyRef::Id(key)), "it has another result");
    keys.release("made again");
    assert!(!keys.exists(KeyRef::Id(key)));
    assert!(!keys.exists(b), "nothing leads on from it");
    assert!(keys.exists(a), "it has a result");
    keys.release("base");
    keys.release("unknown");
    assert_eq!(keys.result_ids(), Vec::<String>::new());

    // Keys of one session.
    let session = root("session");
    let local = keys.commit(
        &op,
        &[vec![way(session), way(root("content"))]],
        Some(result("local")),
    );
    assert_eq!(keys.query(&[way(session)], 0, &op), [local]);
    keys.forget_root(&record_of(session));
    assert!(!keys.exists(session));
    assert_eq!(keys.query(&[way(root("content"))], 0, &op), [local]);
    keys.release("local");
}

#[test]
fn memory_keeps_the_contract() {
    contract(&MemoryKeys::new());
}

#[test]
fn the_database_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let state = StateRoot::open(folder.path()).unwrap();
    contract(&DatabaseKeys::open(&state.db(), |_| true).unwrap());
}

#[tokio::test]
async fn a_restart_finds_everything_and_drops_what_the_result_store_lost() {
    let folder = tempfile::tempdir().unwrap();
    let state = StateRoot::open(folder.path()).unwrap();
    let keys = Arc::new(DatabaseKeys::open(&state.db(), |_| true).unwrap());
    let lab = Lab::with_keys(keys.clone());
    let context = Fake {
        session_local: true,
        ..fake("context")
    };
    let context = lab.vertex(context, &[]);
    let base = lab.vertex(fake("base"), &[]);
    let copy = Fake {
        reads: vec![Reads::default(), letters(3)],
        ..fake("copy")
    };
    let copied = lab.vertex(copy, &[&base, &context]);
    let top = lab.vertex(fake("top"), &[&copied]);
    let want = build_afresh(&lab, &top).await;
    let counts = keys.counts();
    // A write that is waited for is behind all that were not.
    state.db().write(|_| Ok(())).await.unwrap();

    let again = Arc::new(DatabaseKeys::open(&state.db(), |_| true).unwrap());
    assert_eq!(again.counts(), counts);
    let second = Lab::with_keys(again);
    second.fakes.lock().clone_from(&lab.fakes.lock());
    second.results.lock().clone_from(&lab.results.lock());
    assert_eq!(build_afresh(&second, &top).await, want);
    assert_eq!(
        second.runs("context"),
        1,
        "a session's context is always asked for"
    );
    assert_eq!(second.all_runs(), 1);

    // All but the base's result is gone: so are the keys that led to it.
    let base_id = lab
        .results
        .lock()
        .iter()
        .find(|(_, value)| *value == "base()")
        .map(|(id, _)| id.clone())
        .unwrap();
    let third = DatabaseKeys::open(&state.db(), |id| id == base_id).unwrap();
    assert_eq!(third.result_ids(), [base_id]);
    assert_eq!((third.counts().keys, third.counts().links), (1, 0));
    state.db().write(|_| Ok(())).await.unwrap();
    let fourth = DatabaseKeys::open(&state.db(), |_| true).unwrap();
    assert_eq!(fourth.counts(), third.counts(), "and they don't come back");
}

#[tokio::test]
async fn releasing_results_makes_the_store_empty() {
    let lab = Lab::new();
    let solver = lab.solver();
    let base = lab.vertex(fake("base"), &[]);
    let step = Fake {
        reads: vec![letters(2)],
        ..fake("step")
    };
    let top = lab.vertex(step, &[&base]);
    build_afresh(&lab, &top).await;
    let ids: Vec<_> = lab.results.lock().keys().cloned().collect();
    for id in ids {
        lab.results.lock().remove(&id);
        solver.release_result(&id);
    }
    assert_eq!(lab.keys.counts(), kiln_solver::store::KeyCounts::default());
    build_afresh(&lab, &top).await;
    assert_eq!(lab.all_runs(), 4);
}
