//! Fake ops that count, block and fail, and everything else that a solver needs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use kiln_errdefs::{Kind, WithDetail};
use kiln_ids::{BuildRef, SessionId};
use kiln_llb::{Edge, Vertex, VertexOptions};
use kiln_oci::Digest;
use kiln_progress::{Audience, BuildReceiver, Status, Stream, VertexState, Warning};
use kiln_proto::pb;
use kiln_solver::op::{
    CacheMap, ContentKey, InputKey, Op, OpContext, OpError, OpResolver, Prepare, ResultStore,
};
use kiln_solver::{Job, KeyStore, MemoryKeys, Solver, SolverOptions};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};

/// How an input enters a fake op's key and value.
#[derive(Clone, Copy, Default)]
pub(crate) struct Reads {
    /// Hash the content: the first letters of the input's value, which is all that the op reads.
    pub(crate) letters: Option<usize>,
    pub(crate) selector: bool,
    pub(crate) prepares: bool,
}

/// A fake op. Its value is its name and what it reads of its inputs.
#[derive(Clone, Default)]
pub(crate) struct Fake {
    pub(crate) name: String,
    /// Digests of its cache maps; its name where empty.
    pub(crate) keys: Vec<String>,
    pub(crate) session_local: bool,
    pub(crate) reads: Vec<Reads>,
    pub(crate) outputs: usize,
    /// Told on start, waited for before the end.
    pub(crate) gate: Option<Arc<Gate>>,
    /// Fails this many times before it works.
    pub(crate) failures: usize,
    pub(crate) log: Option<String>,
    pub(crate) nests: Option<Edge>,
    /// Passed by the hashing of contents.
    pub(crate) content_gate: Option<Arc<Gate>>,
    pub(crate) no_slot: bool,
    pub(crate) looks_up: bool,
}

/// A place where an op stops until it is let go.
pub(crate) struct Gate {
    pub(crate) reached: Semaphore,
    pub(crate) open: Semaphore,
    pub(crate) stopped: Notify,
}

impl Gate {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            reached: Semaphore::new(0),
            open: Semaphore::new(0),
            stopped: Notify::new(),
        })
    }

    pub(crate) async fn reached(&self) {
        self.reached.acquire().await.unwrap().forget();
    }

    pub(crate) fn open(&self) {
        self.open.add_permits(1);
    }
}

#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) runs: Mutex<BTreeMap<String, usize>>,
    pub(crate) maps: AtomicUsize,
    pub(crate) contents: AtomicUsize,
    pub(crate) prepares: AtomicUsize,
    pub(crate) loads: AtomicUsize,
    /// Now, and at most.
    pub(crate) running: Mutex<(usize, usize)>,
}

/// Everything of a daemon that outlives its solver.
pub(crate) struct Lab {
    pub(crate) fakes: Mutex<HashMap<String, Fake>>,
    pub(crate) counts: Counts,
    pub(crate) results: Mutex<BTreeMap<String, String>>,
    pub(crate) keys: Arc<dyn KeyStore>,
    solver: Mutex<Option<Solver<String>>>,
}

impl Lab {
    pub(crate) fn new() -> Arc<Self> {
        Self::with_keys(Arc::new(MemoryKeys::new()))
    }

    pub(crate) fn with_keys(keys: Arc<dyn KeyStore>) -> Arc<Self> {
        Arc::new(Self {
            fakes: Mutex::default(),
            counts: Counts::default(),
            results: Mutex::default(),
            keys,
            solver: Mutex::default(),
        })
    }

    /// A daemon with nothing active, on what is stored.
    pub(crate) fn solver(self: &Arc<Self>) -> Solver<String> {
        self.solver_with(None)
    }

    pub(crate) fn solver_with(self: &Arc<Self>, max_parallel: Option<usize>) -> Solver<String> {
        let solver = Solver::new(SolverOptions {
            resolver: Arc::new(LabResolver(Arc::clone(self))),
            results: Arc::new(LabResults(Arc::clone(self))),
            keys: Arc::clone(&self.keys),
            max_parallel,
        });
        *self.solver.lock() = Some(solver.clone());
        solver
    }

    /// A vertex of a fake op.
    pub(crate) fn vertex(&self, fake: Fake, inputs: &[&Edge]) -> Edge {
        self.salted(fake, inputs, "")
    }

    /// The same op under another vertex digest.
    pub(crate) fn salted(&self, fake: Fake, inputs: &[&Edge], salt: &str) -> Edge {
        self.with_options(fake, inputs, salt, VertexOptions::default())
    }

    pub(crate) fn with_options(
        &self,
        mut fake: Fake,
        inputs: &[&Edge],
        salt: &str,
        options: VertexOptions,
    ) -> Edge {
        fake.reads.resize(inputs.len(), Reads::default());
        let source = pb::SourceOp {
            identifier: format!("fake://{}", fake.name),
            attrs: [("salt".to_owned(), salt.to_owned())].into(),
        };
        self.fakes.lock().insert(fake.name.clone(), fake);
        let inputs = inputs.iter().map(|edge| (*edge).clone()).collect();
        Edge {
            vertex: kiln_llb::vertex(pb::op::Op::Source(source), inputs, None, options),
            index: 0,
        }
    }

    pub(crate) fn runs(&self, name: &str) -> usize {
        self.counts.runs.lock().get(name).copied().unwrap_or(0)
    }

    pub(crate) fn all_runs(&self) -> usize {
        self.counts.runs.lock().values().sum()
    }
}

pub(crate) fn fake(name: &str) -> Fake {
    Fake {
        name: name.to_owned(),
        outputs: 1,
        ..Fake::default()
    }
}

/// Reads the first letters of its input.
pub(crate) fn letters(count: usize) -> Reads {
    Reads {
        letters: Some(count),
        ..Reads::default()
    }
}

pub(crate) fn ignoring_cache() -> VertexOptions {
    VertexOptions {
        ignore_cache: true,
        ..VertexOptions::default()
    }
}

pub(crate) fn job(solver: &Solver<String>, name: &str) -> (Job<String>, Arc<Events>) {
    let events = Arc::new(Events::default());
    let session = SessionId::new(format!("session of {name}"));
    let job = solver.job(BuildRef::new(name), session, events.clone());
    (job.unwrap(), events)
}

/// Builds in a solver of its own, like a daemon that was started anew.
pub(crate) async fn build_afresh(lab: &Arc<Lab>, edge: &Edge) -> String {
    let solver = lab.solver();
    let (job, _) = job(&solver, "afresh");
    let value = job.build(edge).await.unwrap().result().clone();
    drop(job);
    solver.close().await;
    assert_eq!(solver.active_vertices(), 0, "nothing is left active");
    value
}

/// What a fake op makes of its inputs.
pub(crate) fn value(name: &str, reads: &[Reads], inputs: &[String]) -> String {
    let read = inputs
        .iter()
        .zip(reads)
        .map(|(input, reads)| read(input, *reads));
    format!("{name}({})", read.collect::<Vec<_>>().join(","))
}

fn read(input: &str, reads: Reads) -> String {
    input
        .chars()
        .take(reads.letters.unwrap_or(usize::MAX))
        .collect()
}

struct LabResolver(Arc<Lab>);

impl OpResolver<String> for LabResolver {
    fn resolve(&self, vertex: &Arc<Vertex>) -> Result<Arc<dyn Op<String>>, OpError> {
        let Some(pb::op::Op::Source(source)) = &vertex.op.op else {
            return Err(WithDetail::message(Kind::Internal, "no fake").shared());
        };
        let name = source.identifier.trim_start_matches("fake://");
        let fake = self.0.fakes.lock().get(name).cloned();
        let Some(fake) = fake else {
            return Err(WithDetail::message(Kind::Unimplemented, "unknown op").shared());
        };
        Ok(Arc::new(LabOp {
            lab: Arc::clone(&self.0),
            fake,
        }))
    }
}

struct LabOp {
    lab: Arc<Lab>,
    fake: Fake,
}

struct Content(Arc<Lab>, Reads, Option<Arc<Gate>>);

#[async_trait]
impl ContentKey<String> for Content {
    async fn digest(&self, input: String, _: OpContext) -> Result<Option<Digest>, OpError> {
        self.0.counts.contents.fetch_add(1, Ordering::SeqCst);
        if let Some(gate) = &self.2 {
            gate.reached.add_permits(1);
            gate.open.acquire().await.unwrap().forget();
        }
        if input.starts_with("unreadable") {
            return Err(WithDetail::message(Kind::NotFound, "no such letters").shared());
        }
        Ok(Some(Digest::of(read(&input, self.1))))
    }
}

#[async_trait]
impl Prepare<String> for Content {
    async fn prepare(&self, _: String, cx: OpContext) -> Result<(), OpError> {
        self.0.counts.prepares.fetch_add(1, Ordering::SeqCst);
        cx.progress.status(Status {
            id: "extracting".into(),
            name: String::new(),
            current: 1,
            total: 2,
            started: None,
            completed: None,
        });
        Ok(())
    }
}

#[async_trait]
impl Op<String> for LabOp {
    async fn cache_map(
        &self,
        index: usize,
        _: OpContext,
    ) -> Result<(CacheMap<String>, bool), OpError> {
        self.lab.counts.maps.fetch_add(1, Ordering::SeqCst);
        let key = self.fake.keys.get(index).unwrap_or(&self.fake.name);
        let inputs = self.fake.reads.iter().map(|reads| InputKey {
            selector: reads.selector.then(|| Digest::of("selector")),
            content: reads.letters.is_some().then(|| {
                let gate = self.fake.content_gate.clone();
                let content: Arc<dyn ContentKey<String>> =
                    Arc::new(Content(Arc::clone(&self.lab), *reads, gate));
                content
            }),
            prepare: reads.prepares.then(|| {
                let prepare: Arc<dyn Prepare<String>> =
                    Arc::new(Content(Arc::clone(&self.lab), *reads, None));
                prepare
            }),
        });
        let map = CacheMap {
            digest: Digest::of(key),
            session_local: self.fake.session_local,
            inputs: inputs.collect(),
        };
        Ok((map, index + 1 >= self.fake.keys.len()))
    }

    async fn run(&self, inputs: Vec<String>, cx: OpContext) -> Result<Vec<String>, OpError> {
        let counts = &self.lab.counts;
        let nth = {
            let mut runs = counts.runs.lock();
            let runs = runs.entry(self.fake.name.clone()).or_default();
            *runs += 1;
            *runs
        };
        {
            let mut running = counts.running.lock();
            running.0 += 1;
            running.1 = running.1.max(running.0);
        }
        if let Some(log) = &self.fake.log {
            cx.progress.log(Stream::Stdout, log.clone());
        }
        let mut stopped = false;
        if let Some(gate) = &self.fake.gate {
            gate.reached.add_permits(1);
            tokio::select! {
                permit = gate.open.acquire() => permit.unwrap().forget(),
                () = cx.cancel.cancelled() => {
                    stopped = true;
                    gate.stopped.notify_one();
                }
            }
        }
        counts.running.lock().0 -= 1;
        if stopped {
            return Err(WithDetail::message(Kind::Cancelled, "told to stop").shared());
        }
        if nth <= self.fake.failures {
            return Err(WithDetail::message(Kind::Build, "exit code: 1").shared());
        }
        if let Some(edge) = &self.fake.nests {
            let solver = self.lab.solver.lock().clone().unwrap();
            return Ok(vec![solver.nested(&cx, edge).await?.result().clone()]);
        }
        let value = value(&self.fake.name, &self.fake.reads, &inputs);
        Ok((0..self.fake.outputs)
            .map(|output| match output {
                0 => value.clone(),
                _ => format!("{value}#{output}"),
            })
            .collect())
    }

    fn pin(&self) -> Option<String> {
        None
    }

    fn looks_up(&self) -> bool {
        self.fake.looks_up
    }

    fn takes_slot(&self) -> bool {
        !self.fake.no_slot
    }
}

struct LabResults(Arc<Lab>);

#[async_trait]
impl ResultStore<String> for LabResults {
    async fn save(&self, result: &String) -> Result<String, OpError> {
        let mut results = self.0.results.lock();
        let id = format!("result {}", Digest::of(result).hex());
        results.insert(id.clone(), result.clone());
        Ok(id)
    }

    async fn load(&self, id: &str) -> Result<Option<String>, OpError> {
        self.0.counts.loads.fetch_add(1, Ordering::SeqCst);
        Ok(self.0.results.lock().get(id).cloned())
    }

    fn exists(&self, id: &str) -> bool {
        self.0.results.lock().contains_key(id)
    }
}

/// What a build's clients are told.
#[derive(Default)]
pub(crate) struct Events {
    pub(crate) vertices: Mutex<BTreeMap<Digest, VertexState>>,
    pub(crate) logs: Mutex<Vec<(Digest, String)>>,
    pub(crate) statuses: Mutex<usize>,
    /// When vertices began to be at work.
    begun: Mutex<BTreeSet<(Digest, SystemTime)>>,
}

impl Events {
    pub(crate) fn has_started(&self, edge: &Edge) -> bool {
        let vertices = self.vertices.lock();
        let state = vertices.get(&edge.vertex.digest);
        state.is_some_and(|state| state.started.is_some())
    }

    /// How often the vertex was announced as being at work.
    pub(crate) fn announced(&self, edge: &Edge) -> usize {
        let begun = self.begun.lock();
        let digest = edge.vertex.digest;
        begun.iter().filter(|begun| begun.0 == digest).count()
    }

    pub(crate) fn of(&self, edge: &Edge) -> VertexState {
        self.vertices.lock()[&edge.vertex.digest].clone()
    }
}

impl BuildReceiver for Events {
    fn vertex(&self, vertex: VertexState) {
        let begun = vertex.started.map(|started| (vertex.digest, started));
        self.begun.lock().extend(begun);
        self.vertices.lock().insert(vertex.digest, vertex);
    }

    fn status(&self, vertex: Digest, _: Status) {
        let state = self.vertices.lock()[&vertex].clone();
        assert!(
            state.started.is_some() && state.completed.is_none(),
            "{state:?}"
        );
        *self.statuses.lock() += 1;
    }

    fn log(&self, vertex: Digest, _: Stream, _: Audience, bytes: Bytes) {
        assert!(self.vertices.lock().contains_key(&vertex));
        let text = String::from_utf8_lossy(&bytes).into_owned();
        self.logs.lock().push((vertex, text));
    }

    fn warn(&self, _: Option<Digest>, _: Warning) {}
}
