//! The six invariants of the solver, by name.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::lab::*;

#[tokio::test]
async fn invariant_1_nothing_runs_if_any_cache_key_has_a_result() {
    let lab = Lab::new();
    let image = Fake {
        keys: vec!["by manifest".into(), "by layers".into()],
        ..fake("image")
    };
    let step = Fake {
        reads: vec![letters(3)],
        ..fake("step")
    };
    let base = lab.vertex(image, &[]);
    let top = lab.vertex(step.clone(), &[&base]);
    let want = build_afresh(&lab, &top).await;
    assert_eq!((lab.runs("image"), lab.runs("step")), (1, 1));

    // The same definition.
    assert_eq!(build_afresh(&lab, &top).await, want);
    assert_eq!(lab.all_runs(), 2);

    // The source's second key only.
    let renamed = Fake {
        keys: vec!["by another manifest".into(), "by layers".into()],
        ..fake("renamed")
    };
    let base = lab.vertex(renamed, &[]);
    let top = lab.vertex(step.clone(), &[&base]);
    assert_eq!(build_afresh(&lab, &top).await, want);
    assert_eq!(lab.all_runs(), 2);

    // The content of the input only: the input runs, the step doesn't.
    let base = lab.vertex(fake("ima"), &[]);
    let top = lab.vertex(step.clone(), &[&base]);
    assert_eq!(build_afresh(&lab, &top).await, want);
    assert_eq!((lab.runs("ima"), lab.runs("step")), (1, 1));

    // The key of that content was linked to the input's definition: nothing is hashed now.
    let hashed = lab.counts.contents.load(Ordering::SeqCst);
    lab.results.lock().retain(|_, value| value != "ima()");
    assert_eq!(build_afresh(&lab, &top).await, want);
    assert_eq!((lab.runs("ima"), lab.runs("step")), (1, 1));
    assert_eq!(lab.counts.contents.load(Ordering::SeqCst), hashed);
}

#[tokio::test]
async fn invariant_2_a_cached_build_evaluates_nothing_but_its_result() {
    let lab = Lab::new();
    let reads = vec![Reads {
        letters: Some(2),
        selector: true,
        prepares: true,
    }];
    let base = lab.vertex(fake("base"), &[]);
    let mut top = base.clone();
    for level in 0..5 {
        let step = Fake {
            reads: reads.clone(),
            ..fake(&format!("step {level}"))
        };
        top = lab.vertex(step, &[&top]);
    }
    let want = build_afresh(&lab, &top).await;
    let counts = &lab.counts;
    let before = (
        lab.all_runs(),
        counts.contents.load(Ordering::SeqCst),
        counts.prepares.load(Ordering::SeqCst),
    );
    assert_eq!(before, (6, 5, 5));
    let loads = counts.loads.load(Ordering::SeqCst);
    assert_eq!(build_afresh(&lab, &top).await, want);
    let after = (
        lab.all_runs(),
        counts.contents.load(Ordering::SeqCst),
        counts.prepares.load(Ordering::SeqCst),
    );
    assert_eq!(after, before);
    assert_eq!(counts.loads.load(Ordering::SeqCst), loads + 1);
}

#[tokio::test]
async fn invariant_2_a_result_in_the_middle_that_is_gone_is_not_missed() {
    let lab = Lab::new();
    let base = lab.vertex(fake("base"), &[]);
    let middle = lab.vertex(fake("middle"), &[&base]);
    let top = lab.vertex(fake("top"), &[&middle]);
    build_afresh(&lab, &top).await;
    lab.results
        .lock()
        .retain(|_, value| value.starts_with("top"));
    build_afresh(&lab, &top).await;
    assert_eq!(lab.all_runs(), 3);
}

#[tokio::test]
async fn invariant_3_equal_work_of_two_builds_runs_once() {
    let lab = Lab::new();
    let solver = lab.solver();
    let gate = Gate::new();
    let base = lab.vertex(fake("base"), &[]);
    let step = Fake {
        gate: Some(Arc::clone(&gate)),
        ..fake("step")
    };
    let top = lab.vertex(step, &[&base]);
    let ((one, _), (two, _)) = (job(&solver, "one"), job(&solver, "two"));
    let both = async { tokio::join!(one.build(&top), two.build(&top)) };
    let opened = async {
        gate.reached().await;
        gate.open();
    };
    let ((a, b), ()) = tokio::join!(both, opened);
    assert_eq!(a.unwrap().result(), b.unwrap().result());
    assert_eq!((lab.runs("base"), lab.runs("step")), (1, 1));
}

/// Two contexts of two clients with the same content, so two vertex digests and two keys.
fn two_clients(lab: &Lab, step: &Fake) -> [kiln_llb::Edge; 2] {
    ["one", "two"].map(|client| {
        let context = Fake {
            keys: vec![format!("session {client}")],
            session_local: true,
            ..fake(&format!("context {client}"))
        };
        let context = lab.vertex(context, &[]);
        lab.salted(step.clone(), &[&context], client)
    })
}

#[tokio::test]
async fn invariant_3_equal_keys_fuse_under_different_vertex_digests() {
    let lab = Lab::new();
    let solver = lab.solver();
    let gate = Gate::new();
    let step = Fake {
        reads: vec![letters(7)],
        gate: Some(Arc::clone(&gate)),
        log: Some("hello".into()),
        ..fake("step")
    };
    let [a, b] = two_clients(&lab, &step);
    assert_ne!(a.vertex.digest, b.vertex.digest);
    let ((one, events_one), (two, events_two)) = (job(&solver, "one"), job(&solver, "two"));
    let both = async { tokio::join!(one.build(&a), two.build(&b)) };
    let opened = async {
        gate.reached().await;
        // The second build's search has no other way to end than in the first one's run.
        while !events_two.has_started(&b) {
            tokio::task::yield_now().await;
        }
        gate.open();
    };
    let ((first, second), ()) = tokio::join!(both, opened);
    assert_eq!(first.unwrap().result(), second.unwrap().result());
    assert_eq!(lab.runs("step"), 1);
    // Each build was told under its own digest, what came before it joined included.
    for (events, edge) in [(&events_one, &a), (&events_two, &b)] {
        assert!(events.of(edge).completed.is_some());
        assert_eq!(
            *events.logs.lock(),
            [(edge.vertex.digest, "hello".to_owned())]
        );
    }
}

#[tokio::test]
async fn invariant_3_cancelling_one_of_two_leaves_the_work_to_the_other() {
    let lab = Lab::new();
    let solver = lab.solver();
    let gate = Gate::new();
    let step = Fake {
        reads: vec![letters(7)],
        gate: Some(Arc::clone(&gate)),
        ..fake("step")
    };
    let [a, b] = two_clients(&lab, &step);
    let ((one, _), (two, events)) = (job(&solver, "one"), job(&solver, "two"));
    let first = tokio::spawn(async move {
        let built = one.build(&a).await.map(|built| built.result().clone());
        drop(one);
        built
    });
    gate.reached().await;
    let edge = b.clone();
    let second =
        tokio::spawn(async move { two.build(&b).await.map(|built| built.result().clone()) });
    while !events.has_started(&edge) {
        tokio::task::yield_now().await;
    }
    first.abort();
    let _ = first.await;
    gate.open();
    assert_eq!(second.await.unwrap().unwrap(), "step(context)");
    assert_eq!(lab.runs("step"), 1);
}

#[tokio::test]
async fn invariant_3_cancelling_both_stops_the_work_and_a_later_build_starts_anew() {
    let lab = Lab::new();
    let solver = lab.solver();
    let gate = Gate::new();
    let step = Fake {
        gate: Some(Arc::clone(&gate)),
        ..fake("step")
    };
    let top = lab.vertex(step, &[]);
    let (keeper, _) = job(&solver, "keeper");
    let builds: Vec<_> = ["one", "two"]
        .into_iter()
        .map(|name| {
            let (job, _) = job(&solver, name);
            let top = top.clone();
            tokio::spawn(async move { job.build(&top).await.map(|_| ()) })
        })
        .collect();
    gate.reached().await;
    for build in builds {
        build.abort();
        let _ = build.await;
    }
    gate.stopped.notified().await;
    let again = tokio::join!(keeper.build(&top), async {
        gate.reached().await;
        gate.open();
    });
    assert_eq!(again.0.unwrap().result(), "step()");
    assert_eq!(lab.runs("step"), 2);
}

#[tokio::test]
async fn invariant_4_a_failed_or_cancelled_step_leaves_no_cache_entry() {
    let lab = Lab::new();
    let solver = lab.solver();
    let base = lab.vertex(fake("base"), &[]);
    let failing = Fake {
        failures: 1,
        ..fake("failing")
    };
    let top = lab.vertex(failing, &[&base]);
    let (failed, events) = job(&solver, "failed");
    let error = failed.build(&top).await.unwrap_err();
    assert_eq!(kiln_errdefs::text(&error), "exit code: 1");
    assert_eq!(events.of(&top).error, "exit code: 1");
    assert_eq!(lab.keys.counts().results, 1, "the base's");
    drop(failed);

    let gate = Gate::new();
    let slow = Fake {
        gate: Some(Arc::clone(&gate)),
        ..fake("slow")
    };
    let slow = lab.vertex(slow, &[&base]);
    let (cancelled, _) = job(&solver, "cancelled");
    let build = tokio::spawn(async move { cancelled.build(&slow).await.map(|_| ()) });
    gate.reached().await;
    build.abort();
    let _ = build.await;
    solver.close().await;
    assert_eq!(lab.keys.counts().results, 1);
    assert_eq!(solver.active_vertices(), 0);

    // The next build tries again.
    assert_eq!(build_afresh(&lab, &top).await, "failing(base())");
}

#[tokio::test]
async fn invariant_5_independent_vertices_run_in_parallel() {
    let lab = Lab::new();
    let solver = lab.solver();
    let gate = Gate::new();
    let steps: Vec<_> = (0..8)
        .map(|index| {
            let step = Fake {
                gate: Some(Arc::clone(&gate)),
                ..fake(&format!("step {index}"))
            };
            lab.vertex(step, &[])
        })
        .collect();
    let inputs: Vec<_> = steps.iter().collect();
    let top = lab.vertex(fake("top"), &inputs);
    let (job, _) = job(&solver, "wide");
    let all = async {
        for _ in 0..8 {
            gate.reached().await;
        }
        // All eight are running: none waits for another.
        gate.open.add_permits(8);
    };
    let (built, ()) = tokio::join!(job.build(&top), all);
    built.unwrap();
    assert_eq!(lab.counts.running.lock().1, 8);
}

/// `COPY --from=a`, `COPY --from=b`, `RUN`, `COPY --from=c`: whatever the search wants to know first, all
/// stages begin at once.
#[tokio::test]
async fn invariant_5_branches_begin_before_the_chain_comes_to_them() {
    let lab = Lab::new();
    let solver = lab.solver();
    let gate = Gate::new();
    let blocked = |name: &str| Fake {
        gate: Some(Arc::clone(&gate)),
        ..fake(name)
    };
    let copy = |name: &str| Fake {
        reads: vec![Reads::default(), letters(9)],
        ..fake(name)
    };
    let [a, b, c] = ["a", "b", "c"].map(|name| lab.vertex(blocked(name), &[]));
    let base = lab.vertex(fake("base"), &[]);
    let one = lab.vertex(copy("copy a"), &[&base, &a]);
    let two = lab.vertex(copy("copy b"), &[&one, &b]);
    let run = lab.vertex(blocked("run"), &[&two]);
    let top = lab.vertex(copy("copy c"), &[&run, &c]);
    let (first, _) = job(&solver, "first");
    let all = async {
        for _ in 0..3 {
            gate.reached().await;
        }
        // Then the run, which waits for nothing but the copies.
        gate.open.add_permits(3);
        gate.reached().await;
        gate.open();
    };
    let (built, ()) = tokio::join!(first.build(&top), all);
    built.unwrap();
    assert!(lab.counts.runs.lock().values().all(|runs| *runs == 1));

    // The same with a run in front that was changed, beside a long branch.
    let base = lab.vertex(blocked("changed"), &[]);
    let run = lab.vertex(fake("on changed"), &[&base]);
    let long = lab.vertex(blocked("long"), &[]);
    let top = lab.vertex(copy("copy long"), &[&run, &long]);
    let both = async {
        gate.reached().await;
        gate.reached().await;
        gate.open.add_permits(2);
    };
    let (built, ()) = tokio::join!(first.build(&top), both);
    built.unwrap();
    assert!(lab.counts.runs.lock().values().all(|runs| *runs == 1));
}

/// The search gives up while it hashes an input: the run goes on with that hash.
#[tokio::test]
async fn invariant_5_a_run_takes_over_what_the_search_was_hashing() {
    let lab = Lab::new();
    let solver = lab.solver();
    let (runs, hashes) = (Gate::new(), Gate::new());
    let changed = Fake {
        gate: Some(Arc::clone(&runs)),
        ..fake("changed")
    };
    let changed = lab.vertex(changed, &[]);
    let context = lab.vertex(fake("context"), &[]);
    let copy = Fake {
        reads: vec![Reads::default(), letters(3)],
        content_gate: Some(Arc::clone(&hashes)),
        ..fake("copy")
    };
    // A long way to the end of the search, so that the hashing begins before.
    let mut on_changed = changed;
    for index in 0..50 {
        on_changed = lab.vertex(fake(&format!("on changed {index}")), &[&on_changed]);
    }
    let top = lab.vertex(copy, &[&on_changed, &context]);
    let (job, _) = job(&solver, "hashing");
    let both = async {
        hashes.reached().await;
        runs.reached().await;
        hashes.open();
        runs.open();
    };
    let (built, ()) = tokio::join!(job.build(&top), both);
    built.unwrap();
    assert_eq!(lab.counts.contents.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn invariant_6_each_output_has_one_owner() {
    let lab = Lab::new();
    // A ladder of diamonds: 2^12 ways from top to bottom.
    let mut layer = lab.vertex(fake("base"), &[]);
    for level in 0..12 {
        let left = lab.vertex(fake(&format!("left {level}")), &[&layer]);
        let right = lab.vertex(fake(&format!("right {level}")), &[&layer]);
        layer = lab.vertex(fake(&format!("join {level}")), &[&left, &right]);
    }
    let solver = lab.solver();
    let (job, _) = job(&solver, "ladder");
    job.build(&layer).await.unwrap();
    job.build(&layer).await.unwrap();
    assert_eq!(lab.all_runs(), 37);
    assert!(lab.counts.runs.lock().values().all(|runs| *runs == 1));
    assert_eq!(lab.counts.maps.load(Ordering::SeqCst), 37);
}
