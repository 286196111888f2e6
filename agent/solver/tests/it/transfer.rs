//! Exports and imports: what one daemon knows, another one finds.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use kiln_oci::Digest;
use kiln_solver::export::{ExportOptions, ExportRecord, ExportTarget};
use kiln_solver::import::{ImportError, ImportLoader, ImportRecord};
use kiln_solver::op::{OpContext, OpError};
use kiln_solver::store::record_digest;
use kiln_solver::{CacheSource, ExportMode, ImportedCache};

use crate::lab::*;

/// Results travel as their own values; those that are known are transferable as they are.
#[derive(Default)]
struct Plain {
    transferable: Vec<String>,
}

#[async_trait]
impl ExportTarget<String> for Plain {
    type Remote = String;

    async fn remotes(&self, result: String, create: bool) -> Result<Vec<String>, OpError> {
        let there = create || self.transferable.contains(&result);
        Ok(there.then_some(result).into_iter().collect())
    }
}

struct Loader;

#[async_trait]
impl ImportLoader<String> for Loader {
    async fn load(&self, result: &str, _: OpContext) -> Result<String, OpError> {
        Ok(result.to_owned())
    }

    fn is_part(&self, part: &str, whole: &str) -> bool {
        whole.contains(part)
    }
}

fn options(mode: ExportMode) -> ExportOptions {
    ExportOptions {
        mode,
        roots: false,
        ignore_backlinks: false,
    }
}

fn import(records: &[ExportRecord<String>]) -> Arc<dyn CacheSource<String>> {
    let records = records
        .iter()
        .map(|record| ImportRecord {
            digest: Some(record.digest),
            inputs: record
                .inputs
                .iter()
                .map(|links| {
                    links
                        .iter()
                        .map(|link| (link.selector, link.record))
                        .collect()
                })
                .collect(),
            results: record
                .results
                .iter()
                .map(|result| (result.remote.clone(), result.created))
                .collect(),
        })
        .collect();
    Arc::new(ImportedCache::new("import", records, Arc::new(Loader)).unwrap())
}

/// Image with two keys, a context of a session, and two steps on top.
fn project(lab: &Lab) -> [kiln_llb::Edge; 4] {
    let image = Fake {
        keys: vec!["manifest".into(), "layers".into()],
        ..fake("image")
    };
    let image = lab.vertex(image, &[]);
    let context = Fake {
        session_local: true,
        ..fake("context")
    };
    let context = lab.vertex(context, &[]);
    let copy = Fake {
        reads: vec![
            Reads::default(),
            Reads {
                letters: Some(4),
                selector: true,
                prepares: false,
            },
        ],
        ..fake("copy")
    };
    let copied = lab.vertex(copy, &[&image, &context]);
    let top = lab.vertex(fake("top"), &[&copied]);
    [image, context, copied, top]
}

async fn export(
    lab: &Arc<Lab>,
    top: &kiln_llb::Edge,
    mode: ExportMode,
) -> Vec<ExportRecord<String>> {
    let solver = lab.solver();
    let (job, _) = job(&solver, "export");
    let built = job.build(top).await.unwrap();
    solver
        .export(&[built], &Plain::default(), options(mode))
        .await
        .unwrap()
}

#[tokio::test]
async fn an_export_has_the_records_that_buildkit_writes() {
    let lab = Lab::new();
    let [.., top] = project(&lab);
    let records = export(&lab, &top, ExportMode::Max).await;
    let by_digest: HashMap<Digest, &ExportRecord<String>> = records
        .iter()
        .map(|record| (record.digest, record))
        .collect();
    let digest = |op: &str, output| record_digest(&Digest::of(op), output);
    let roots = ["manifest", "layers"].map(|key| digest(key, 0));
    for root in roots {
        assert_eq!(by_digest[&root].results, [], "roots have no results");
        assert_eq!(by_digest[&root].inputs.len(), 0);
    }
    let content = digest("cont", -1);
    let copied = by_digest[&digest("copy", 0)];
    assert_eq!(copied.results.len(), 1);
    let linked = |input: usize| -> Vec<(Digest, Option<Digest>)> {
        let mut links: Vec<_> = copied.inputs[input]
            .iter()
            .map(|link| (records[link.record].digest, link.selector))
            .collect();
        links.sort_unstable();
        links
    };
    let mut want: Vec<_> = roots.map(|root| (root, None)).into();
    want.sort_unstable();
    assert_eq!(linked(0), want);
    // The session's key is left out; the content has no selector.
    assert_eq!(linked(1), [(content, None)]);
    assert_eq!(by_digest[&digest("top", 0)].results.len(), 1);
    assert_eq!(records.len(), 5);
}

#[tokio::test]
async fn modes_decide_which_results_go_along() {
    let lab = Lab::new();
    let [.., top] = project(&lab);
    let solver = lab.solver();
    let (job, _) = job(&solver, "modes");
    let built = job.build(&top).await.unwrap();
    let transferable = Plain {
        transferable: vec!["copy(image(),cont)".into()],
    };
    let nothing = Plain::default();
    for (mode, target, want) in [
        (ExportMode::Max, &nothing, 2),
        (ExportMode::Min, &nothing, 1),
        (ExportMode::Min, &transferable, 2),
        (ExportMode::Existing, &nothing, 0),
        (ExportMode::Existing, &transferable, 1),
    ] {
        let results = std::slice::from_ref(&built);
        let records = solver.export(results, target, options(mode)).await.unwrap();
        let got: usize = records.iter().map(|record| record.results.len()).sum();
        assert_eq!(got, want, "{mode:?}");
    }
}

#[tokio::test]
async fn an_import_gives_hits_by_every_key_and_is_kept() {
    let lab = Lab::new();
    let [.., top] = project(&lab);
    let records = export(&lab, &top, ExportMode::Max).await;
    let import = import(&records);

    let other = Lab::new();
    let [.., copied, top] = project(&other);
    let solver = other.solver();
    let (job, _) = job(&solver, "importing");
    let built = job.build_with(&top, &[import]).await.unwrap();
    assert_eq!(built.result(), "top(copy(image(),cont))");
    assert_eq!(other.all_runs(), 1, "the context alone");
    assert_eq!(other.runs("context"), 1);
    drop((job, built));
    solver.close().await;

    // Both the result and its sub-chain are the daemon's own now.
    assert_eq!(build_afresh(&other, &top).await, "top(copy(image(),cont))");
    let next = other.vertex(fake("next"), &[&copied]);
    build_afresh(&other, &next).await;
    assert_eq!(
        (other.runs("copy"), other.runs("top"), other.runs("next")),
        (0, 0, 1)
    );
    // What was imported can be exported.
    let again = export(&other, &top, ExportMode::Max).await;
    let digests = |records: &[ExportRecord<String>]| {
        let mut digests: Vec<_> = records.iter().map(|record| record.digest).collect();
        digests.sort_unstable();
        digests
    };
    assert_eq!(digests(&again), digests(&records));
}

#[tokio::test]
async fn contents_below_a_hit_are_not_looked_at() {
    // Two copies out of a stage, one on the other, as in every Dockerfile with two stages.
    let graph = |lab: &Lab| {
        let [.., built] = project(lab);
        let copy = |name: &str, inputs: &[&kiln_llb::Edge]| {
            let reads = Reads {
                letters: Some(3),
                selector: true,
                prepares: true,
            };
            let mut fake = fake(name);
            fake.reads = vec![Reads::default(); inputs.len() - 1];
            fake.reads.push(reads);
            lab.vertex(fake, inputs)
        };
        let first = copy("first", &[&built]);
        copy("second", &[&first, &built])
    };
    let lab = Lab::new();
    let records = export(&lab, &graph(&lab), ExportMode::Max).await;

    let other = Lab::new();
    let top = graph(&other);
    let solver = other.solver();
    let (job, _) = job(&solver, "importing");
    job.build_with(&top, &[import(&records)]).await.unwrap();
    assert_eq!(other.all_runs(), 1, "the context alone");
    let count = |counter: &std::sync::atomic::AtomicUsize| {
        counter.load(std::sync::atomic::Ordering::SeqCst)
    };
    assert_eq!(count(&other.counts.contents), 1, "the context's");
    assert_eq!(count(&other.counts.prepares), 0);
}

#[tokio::test]
async fn an_import_that_cannot_load_is_a_miss() {
    struct Broken;
    #[async_trait]
    impl ImportLoader<String> for Broken {
        async fn load(&self, _: &str, _: OpContext) -> Result<String, OpError> {
            Err(Arc::new(std::fmt::Error))
        }
        fn is_part(&self, _: &str, _: &str) -> bool {
            false
        }
    }
    let lab = Lab::new();
    let top = lab.vertex(fake("top"), &[]);
    let record = ImportRecord {
        digest: Some(record_digest(&Digest::of("top"), 0)),
        inputs: Vec::new(),
        results: vec![("x".into(), std::time::SystemTime::now())],
    };
    let import = ImportedCache::new("broken", vec![record], Arc::new(Broken)).unwrap();
    let solver = lab.solver();
    let (job, _) = job(&solver, "broken");
    let built = job.build_with(&top, &[Arc::new(import)]).await.unwrap();
    assert_eq!(built.result(), "top()");
    assert_eq!(lab.runs("top"), 1);
}

#[test]
fn hostile_imports_are_refused() {
    let record = |links: &[usize]| ImportRecord {
        digest: Some(Digest::of("x")),
        inputs: vec![links.iter().map(|link| (None, *link)).collect()],
        results: Vec::new(),
    };
    for (records, want) in [
        (
            vec![record(&[1])],
            ImportError::NoSuchRecord {
                record: 0,
                link: 1,
                count: 1,
            },
        ),
        (vec![record(&[0])], ImportError::Loop { record: 0 }),
        (
            vec![record(&[1]), record(&[2]), record(&[0])],
            ImportError::Loop { record: 0 },
        ),
    ] {
        let made = ImportedCache::new("hostile", records, Arc::new(Loader));
        assert_eq!(made.unwrap_err(), want);
    }
    // Depth is no matter.
    let deep: Vec<_> = (0..100_000usize)
        .map(|index| match index {
            0 => record(&[]),
            _ => record(&[index - 1]),
        })
        .collect();
    assert!(ImportedCache::new("deep", deep, Arc::new(Loader)).is_ok());
}

#[tokio::test]
async fn what_was_built_inside_of_an_op_goes_along() {
    for mode in [ExportMode::Max, ExportMode::Min] {
        let lab = Lab::new();
        let image = lab.vertex(fake("image"), &[]);
        let inner = lab.vertex(fake("inner"), &[&image]);
        // As a client's own file has it: nothing that is known by it is exported.
        let definition = Fake {
            session_local: true,
            ..fake("definition")
        };
        let definition = lab.vertex(definition, &[]);
        let outer = Fake {
            nests: Some(inner),
            no_slot: true,
            ..fake("outer")
        };
        let outer = lab.vertex(outer, &[&definition]);
        let top = lab.vertex(fake("top"), &[&outer]);
        let records = export(&lab, &top, mode).await;
        let find = |op: &str| {
            let digest = record_digest(&Digest::of(op), 0);
            records.iter().position(|record| record.digest == digest)
        };
        assert_eq!(find("outer"), None);
        let inner = find("inner").unwrap();
        let top = &records[find("top").unwrap()];
        assert_eq!(top.results.len(), 1);
        assert_eq!(top.inputs[0].len(), 1);
        assert_eq!(top.inputs[0][0].record, inner);
        let has_result = mode == ExportMode::Max;
        assert_eq!(!records[inner].results.is_empty(), has_result);
    }
}
