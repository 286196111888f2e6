//! Random graphs against an evaluator that knows no caches.

use std::collections::HashSet;
use std::sync::Arc;

use kiln_llb::Edge;
use proptest::prelude::*;

use crate::lab::*;

/// One vertex: its name, the letters that it reads of each input, and the inputs (taken modulo what is
/// there).
type Step = (u8, Vec<(usize, Option<usize>)>);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let input = (0usize..16, prop::option::of(0usize..6));
    prop::collection::vec((0u8..6, prop::collection::vec(input, 0..3)), 1..12)
}

/// A graph of fake ops, and the value of its last vertex by plain evaluation. A vertex's name holds
/// what its definition depends on, so that equal names mean equal ops.
fn graph(lab: &Lab, steps: &[Step], salt: &str) -> (Edge, String) {
    let mut made: Vec<(Edge, String)> = Vec::new();
    for (name, inputs) in steps {
        let inputs: Vec<_> = inputs
            .iter()
            .filter(|_| !made.is_empty())
            .map(|(input, letters)| (input % made.len(), *letters))
            .collect();
        let reads: Vec<Reads> = inputs
            .iter()
            .map(|(_, letters)| Reads {
                letters: *letters,
                selector: letters.is_some(),
                prepares: false,
            })
            .collect();
        let shape: Vec<_> = inputs.iter().map(|(_, letters)| *letters).collect();
        let op = Fake {
            reads: reads.clone(),
            ..fake(&format!("{name}{shape:?}"))
        };
        let values: Vec<String> = inputs
            .iter()
            .map(|(input, _)| made[*input].1.clone())
            .collect();
        let value = value(&op.name, &reads, &values);
        let edges: Vec<&Edge> = inputs.iter().map(|(input, _)| &made[*input].0).collect();
        let edge = lab.salted(op, &edges, salt);
        made.push((edge, value));
    }
    made.pop().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn builds_give_what_plain_evaluation_gives(
        graphs in prop::collection::vec(steps(), 1..4),
        lost in any::<u64>(),
    ) {
        // Time stands still unless everything waits for it.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let lab = Lab::new();
            let mut wanted = Vec::new();
            for (index, steps) in graphs.iter().enumerate() {
                let (edge, value) = graph(&lab, steps, &index.to_string());
                prop_assert_eq!(&build_afresh(&lab, &edge).await, &value);
                wanted.push((edge, value));
            }
            // A run is a distinct pair of op and what it reads: no value is made twice.
            let made: HashSet<String> = lab.results.lock().values().cloned().collect();
            prop_assert_eq!(lab.all_runs(), made.len());

            // All again, at once, in one daemon that has lost some results.
            let mut kept = lost;
            let gone: Vec<String> = lab.results.lock().keys().filter(|_| {
                kept = kept.rotate_left(1);
                kept & 1 == 1
            }).cloned().collect();
            for id in &gone {
                lab.results.lock().remove(id);
                lab.keys.release(id);
            }
            let solver = lab.solver();
            let builds = wanted.iter().enumerate().map(|(index, (edge, value))| {
                let (job, _) = job(&solver, &index.to_string());
                async move {
                    let built = job.build(edge).await.unwrap();
                    (built.result().clone(), value.clone())
                }
            });
            for (built, value) in futures::future::join_all(builds).await {
                prop_assert_eq!(built, value);
            }
            solver.close().await;
            prop_assert_eq!(solver.active_vertices(), 0);
            let _ = Arc::strong_count(&lab);
            Ok(())
        })?;
    }
}
