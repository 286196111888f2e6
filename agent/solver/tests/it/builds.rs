//! Builds beside each other and inside of each other; progress, errors, limits.

use std::sync::Arc;

use kiln_errdefs::Detail;
use kiln_ids::{BuildRef, SessionId};
use kiln_llb::{Edge, VertexOptions};
use kiln_solver::SolveError;
use kiln_solver::error::Phase;

use crate::lab::*;

#[tokio::test]
async fn ignoring_the_cache_runs_again_and_what_depends_on_it_uses_the_cache() {
    let lab = Lab::new();
    let base = lab.vertex(fake("base"), &[]);
    let step = Fake {
        reads: vec![letters(2)],
        ..fake("step")
    };
    let plain = lab.vertex(step.clone(), &[&base]);
    build_afresh(&lab, &plain).await;
    let forced = lab.with_options(fake("base"), &[], "", ignoring_cache());
    let top = lab.vertex(step, &[&forced]);
    build_afresh(&lab, &top).await;
    assert_eq!((lab.runs("base"), lab.runs("step")), (2, 1));
    let all = lab.with_options(fake("step"), &[&forced], "", ignoring_cache());
    build_afresh(&lab, &all).await;
    assert_eq!((lab.runs("base"), lab.runs("step")), (3, 2));
}

#[tokio::test]
async fn a_build_that_ignores_the_cache_takes_nothing_from_one_that_does_not() {
    let lab = Lab::new();
    let solver = lab.solver();
    let plain = lab.vertex(fake("step"), &[]);
    let (one, _) = job(&solver, "one");
    one.build(&plain).await.unwrap();
    let forced = lab.with_options(fake("step"), &[], "", ignoring_cache());
    let (two, _) = job(&solver, "two");
    two.build(&forced).await.unwrap();
    assert_eq!(lab.runs("step"), 2);
}

#[tokio::test]
async fn cached_vertices_report_started_and_completed() {
    let lab = Lab::new();
    let base = lab.vertex(fake("base"), &[]);
    let middle = lab.vertex(fake("middle"), &[&base]);
    let top = lab.vertex(fake("top"), &[&middle]);
    build_afresh(&lab, &top).await;
    let solver = lab.solver();
    let (job, events) = job(&solver, "cached");
    job.build(&top).await.unwrap();
    for edge in [&middle, &top] {
        let state = events.of(edge);
        assert!(state.cached && state.started.is_some() && state.completed.is_some());
        assert_eq!(state.error, "");
    }
    // The source was asked for its key.
    assert!(events.of(&base).completed.is_some());
    assert_eq!(events.of(&top).inputs, [middle.vertex.digest]);
}

/// The gateway's way: the frontend reads a directory in a build of its own, then the same build needs it again.
#[tokio::test]
async fn a_source_is_announced_once_unless_its_key_is_looked_up() {
    for (looks_up, want) in [(false, 1), (true, 2)] {
        let lab = Lab::new();
        let directory = Fake {
            session_local: true,
            looks_up,
            ..fake("directory")
        };
        let directory = lab.vertex(directory, &[]);
        let reads = Fake {
            reads: vec![letters(2)],
            ..fake("copy")
        };
        let copy = lab.vertex(reads, &[&directory]);
        let solver = lab.solver();
        let (job, events) = job(&solver, "one");
        job.build(&directory).await.unwrap();
        job.build(&copy).await.unwrap();
        assert_eq!(events.announced(&directory), want, "looks up: {looks_up}");
        assert_eq!(events.announced(&copy), 1);
    }
}

#[tokio::test]
async fn a_build_that_comes_late_is_told_everything() {
    let lab = Lab::new();
    let solver = lab.solver();
    let gate = Gate::new();
    let step = Fake {
        gate: Some(Arc::clone(&gate)),
        log: Some("early".into()),
        ..fake("step")
    };
    let top = lab.vertex(step, &[]);
    let ((one, _), (two, late)) = (job(&solver, "one"), job(&solver, "two"));
    let opened = async {
        gate.reached().await;
        let built = two.build(&top);
        let open = async {
            while !late.vertices.lock().contains_key(&top.vertex.digest) {
                tokio::task::yield_now().await;
            }
            gate.open();
        };
        tokio::join!(built, open).0.unwrap();
    };
    tokio::join!(async { one.build(&top).await.unwrap() }, opened);
    assert_eq!(*late.logs.lock(), [(top.vertex.digest, "early".to_owned())]);
}

#[tokio::test]
async fn a_pull_for_a_later_step_is_shown_under_the_vertex_that_is_pulled() {
    let lab = Lab::new();
    let solver = lab.solver();
    let base = lab.vertex(fake("base"), &[]);
    let step = Fake {
        reads: vec![Reads {
            letters: Some(2),
            selector: false,
            prepares: true,
        }],
        ..fake("step")
    };
    let top = lab.vertex(step, &[&base]);
    let mut jobs = Vec::new();
    for name in ["first", "late"] {
        let (job, events) = job(&solver, name);
        job.build(&top).await.unwrap();
        // `Events` fails on a status of a vertex that isn't running.
        assert_eq!(*events.statuses.lock(), 1, "{name}");
        assert!(events.of(&base).completed.is_some(), "{name}");
        jobs.push(job);
    }
}

#[tokio::test]
async fn an_error_names_its_vertex_and_phase() {
    let lab = Lab::new();
    let solver = lab.solver();
    let failing = Fake {
        failures: 9,
        ..fake("failing")
    };
    let failing = lab.vertex(failing, &[]);
    let run = lab.vertex(fake("top"), &[&failing]);
    let unreadable = lab.vertex(fake("unreadable"), &[]);
    let hashing = Fake {
        reads: vec![letters(3)],
        ..fake("hashing")
    };
    let content = lab.vertex(hashing, &[&unreadable]);
    lab.vertex(fake("two"), &[]);
    let no_output = Edge {
        index: 3,
        ..lab.vertex(fake("two"), &[])
    };
    for (edge, vertex, text) in [
        (&run, &failing, "exit code: 1"),
        (
            &content,
            &content,
            "failed to compute cache key: no such letters",
        ),
        (&no_output, &no_output, "output 3 of"),
    ] {
        let (job, _) = job(&solver, "failing");
        let error = job.build(edge).await.unwrap_err();
        let said = kiln_errdefs::text(&error);
        assert!(said.starts_with(text), "{said}");
        let digest = vertex.vertex.digest.to_string();
        assert_eq!(kiln_errdefs::details(&error), [Detail::Vertex { digest }]);
    }
    let (job, _) = job(&solver, "kept");
    let error = job.build(&content).await.unwrap_err();
    let mut link: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    let solve = loop {
        let error = link.expect("a SolveError is in the chain");
        if let Some(solve) = find(error) {
            break solve;
        }
        link = error.source();
    };
    let SolveError::Vertex { phase, input, .. } = solve else {
        panic!("{solve:?}");
    };
    assert_eq!(*phase, Phase::Content { input: 0 });
    let kept = input.as_ref().and_then(|input| input.get::<String>());
    assert_eq!(kept.map(String::as_str), Some("unreadable()"));
}

fn find<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a SolveError> {
    if let Some(shared) = error.downcast_ref::<kiln_solver::op::OpError>() {
        return find(shared.as_ref());
    }
    if let Some(with) = error.downcast_ref::<kiln_errdefs::WithDetail>() {
        return find(with.inner().as_ref());
    }
    error.downcast_ref()
}

#[tokio::test]
async fn a_failure_is_tried_again_by_a_build_that_comes_later() {
    let lab = Lab::new();
    let solver = lab.solver();
    let flaky = Fake {
        failures: 1,
        ..fake("flaky")
    };
    let top = lab.vertex(flaky, &[]);
    let (one, _) = job(&solver, "one");
    one.build(&top).await.unwrap_err();
    one.build(&top).await.unwrap_err();
    let (two, _) = job(&solver, "two");
    assert_eq!(two.build(&top).await.unwrap().result(), "flaky()");
    assert_eq!(lab.runs("flaky"), 2);
}

#[tokio::test]
async fn a_second_build_of_the_same_name_is_refused() {
    let lab = Lab::new();
    let solver = lab.solver();
    let (one, events) = job(&solver, "one");
    let again = solver.job(BuildRef::new("one"), SessionId::new("s"), events.clone());
    assert_eq!(again.unwrap_err().to_string(), "job ID one exists");
    drop(one);
    assert!(
        solver
            .job(BuildRef::new("one"), SessionId::new("s"), events)
            .is_ok()
    );
}

#[tokio::test]
async fn a_limit_holds_for_the_daemon_and_nested_builds_do_not_wait_for_themselves() {
    let lab = Lab::new();
    let solver = lab.solver_with(Some(1));
    let inner: Vec<_> = (0..4)
        .map(|index| lab.vertex(fake(&format!("inner {index}")), &[]))
        .collect();
    let inputs: Vec<_> = inner.iter().collect();
    let nested = lab.vertex(fake("nested"), &inputs);
    let outer = Fake {
        nests: Some(nested.clone()),
        no_slot: true,
        ..fake("outer")
    };
    let outer = lab.vertex(outer, &[]);
    let (job, events) = job(&solver, "outer");
    let built = job.build(&outer).await.unwrap();
    assert!(built.result().starts_with("nested(inner 0()"));
    // The outer op counts while it waits; beside it at most one ran.
    assert_eq!(lab.counts.running.lock().1, 1);
    assert!(events.of(&nested).completed.is_some());
    drop(job);
    solver.close().await;
    drop(built);
    assert_eq!(solver.active_vertices(), 0);
}

#[tokio::test]
async fn outputs_of_one_op_come_from_one_run() {
    let lab = Lab::new();
    let solver = lab.solver();
    let two = Fake {
        outputs: 2,
        ..fake("two")
    };
    let first = lab.vertex(two, &[]);
    let second = Edge {
        index: 1,
        ..first.clone()
    };
    let top = lab.vertex(fake("top"), &[&first, &second]);
    let (job, _) = job(&solver, "outputs");
    let built = job.build(&top).await.unwrap();
    assert_eq!(built.result(), "top(two(),two()#1)");
    assert_eq!(lab.runs("two"), 1);
}

#[tokio::test]
async fn a_panic_of_an_op_fails_its_build_only() {
    let lab = Lab::new();
    let solver = lab.solver();
    let broken = Fake {
        // A nested build without a solver to nest in.
        nests: Some(lab.vertex(fake("unknown"), &[])),
        ..fake("broken")
    };
    let top = lab.vertex(broken, &[]);
    lab.fakes.lock().remove("unknown");
    let (job, _) = job(&solver, "broken");
    let error = job.build(&top).await.unwrap_err();
    assert_eq!(kiln_errdefs::text(&error), "unknown op");
    let fine = lab.vertex(fake("fine"), &[]);
    assert!(job.build(&fine).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_of_thousands_is_built_and_dropped_without_recursion() {
    let lab = Lab::new();
    let mut top = lab.vertex(fake("0"), &[]);
    for index in 1..3000 {
        let options = VertexOptions::default();
        let step = Fake {
            reads: vec![letters(4)],
            ..fake(&index.to_string())
        };
        top = lab.with_options(step, &[&top], "", options);
    }
    build_afresh(&lab, &top).await;
    assert_eq!(lab.all_runs(), 3000);
    build_afresh(&lab, &top).await;
    assert_eq!(lab.all_runs(), 3000);
}
