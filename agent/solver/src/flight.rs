//! Runs of ops that are under way, by what they make.
//!
//! Two outputs whose op digests and inputs are equal share a run, whichever builds and vertex digests
//! they belong to: an input is the same if both know it by some same key (its definition's with the
//! same selector, or its content's).
//!
//! ```text
//!   lead ──► flying ──► landed ──► (last ticket given back: off the table)
//!     │         │
//!     │         └─ last ticket given back ──► stopping ──► off the table
//!     └─ the leader found a result after all, or left: off the table, who joined enters again
//! ```
//!
//! Invariants: a run that was stopped is never joined: who comes then waits until it has ended, and
//! starts anew; a failure is seen by those who waited for it and by nobody later; a result stays on the
//! table until those who made it have stored it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use kiln_oci::Digest;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::SolveError;
use crate::key::KeyNode;
use crate::node::{Inside, Node};
use crate::op::{Op, OpContext, OpError, ResultValue};
use crate::report::{Members, Report};
use crate::store::KeyRef;

/// How long an op may take to wind up after it was told to stop.
const GRACE: Duration = Duration::from_secs(10);

/// One thing by which an input is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Token {
    Key(KeyRef, Option<Digest>),
    /// Made anew by this node of the active graph.
    Node(Digest),
}

/// What a run makes.
pub(crate) struct Work {
    /// One op digest per cache map.
    pub(crate) ops: Vec<Digest>,
    pub(crate) inputs: Vec<BTreeSet<Token>>,
    pub(crate) ignores_cache: bool,
}

impl Work {
    /// Whether one who wants `other` may take what this makes.
    fn serves(&self, other: &Self) -> bool {
        self.ops.iter().any(|op| other.ops.contains(op))
            && self.inputs.len() == other.inputs.len()
            && self
                .inputs
                .iter()
                .zip(&other.inputs)
                .all(|(mine, theirs)| !mine.is_disjoint(theirs))
            // Who asks for a fresh run doesn't want one that somebody else began without asking.
            && (self.ignores_cache || !other.ignores_cache)
    }
}

/// What a run made.
pub(crate) struct Made<R: ResultValue> {
    pub(crate) outputs: Vec<R>,
    /// Keys of what was built inside of the op.
    pub(crate) inside: Vec<Arc<KeyNode<R>>>,
}

type Outcome<R> = Result<Arc<Made<R>>, OpError>;
type Publish<R> = watch::Sender<Option<Outcome<R>>>;

/// A run.
struct Flight<R: ResultValue> {
    number: u64,
    work: Work,
    leader: Arc<Node<R>>,
    members: Arc<Members>,
    cancel: CancellationToken,
    outcome: watch::Receiver<Option<Outcome<R>>>,
    /// Guarded by the table's lock: whoever holds it sees no ticket come or go.
    tickets: Mutex<usize>,
    shown: Mutex<Shown>,
}

/// What members are shown.
enum Shown {
    Waiting,
    Running,
    Ended(String),
    /// The leader never started it.
    Abandoned,
}

/// The table.
pub(crate) struct Flights<R: ResultValue>(Mutex<Table<R>>);

struct Table<R: ResultValue> {
    last: u64,
    by_op: HashMap<Digest, Vec<Arc<Flight<R>>>>,
}

impl<R: ResultValue> Default for Flights<R> {
    fn default() -> Self {
        Self(Mutex::new(Table {
            last: 0,
            by_op: HashMap::new(),
        }))
    }
}

impl<R: ResultValue> Table<R> {
    fn find(&self, work: &Work) -> Option<Arc<Flight<R>>> {
        work.ops
            .iter()
            .filter_map(|op| self.by_op.get(op))
            .flatten()
            .find(|flight| {
                let failed = matches!(&*flight.outcome.borrow(), Some(Err(_)));
                !failed && flight.work.serves(work)
            })
            .cloned()
    }

    fn remove(&mut self, flight: &Flight<R>) {
        for op in &flight.work.ops {
            if let Some(flights) = self.by_op.get_mut(op) {
                flights.retain(|other| other.number != flight.number);
                if flights.is_empty() {
                    self.by_op.remove(op);
                }
            }
        }
    }
}

/// How a run was entered.
pub(crate) enum Entered<R: ResultValue> {
    /// Somebody else's run.
    Joined(Ticket<R>),
    /// A run that waits for its leader's word.
    Lead(Lead<R>),
}

impl<R: ResultValue> Flights<R> {
    /// Joins the run that makes `work`, or puts a new one on the table.
    pub(crate) async fn enter(&self, node: &Arc<Node<R>>, work: Work) -> Entered<R> {
        loop {
            let mut stopping = {
                let mut table = self.0.lock();
                match table.find(&work) {
                    Some(flight) if flight.cancel.is_cancelled() => flight.outcome.clone(),
                    Some(flight) => {
                        *flight.tickets.lock() += 1;
                        flight.show_to(node);
                        return Entered::Joined(Ticket { flight });
                    }
                    None => return Entered::Lead(table.add(node, work)),
                }
            };
            // An error means that the sender is gone: the run has ended.
            let _ = stopping.wait_for(Option::is_some).await;
            // The outcome is there a moment before the entry goes.
            tokio::task::yield_now().await;
        }
    }
}

impl<R: ResultValue> Table<R> {
    fn add(&mut self, node: &Arc<Node<R>>, work: Work) -> Lead<R> {
        self.last += 1;
        let (publish, outcome) = watch::channel(None);
        let flight = Arc::new(Flight {
            number: self.last,
            work,
            leader: Arc::clone(node),
            members: Arc::default(),
            cancel: CancellationToken::new(),
            outcome,
            tickets: Mutex::new(1),
            shown: Mutex::new(Shown::Waiting),
        });
        for op in &flight.work.ops {
            let flights = self.by_op.entry(*op).or_default();
            flights.push(Arc::clone(&flight));
        }
        flight.members.join(&node.report);
        Lead(Some((Ticket { flight }, publish)))
    }
}

/// The right to start a run. Dropped without a start it takes the run off the table.
pub(crate) struct Lead<R: ResultValue>(Option<(Ticket<R>, Publish<R>)>);

impl<R: ResultValue> Lead<R> {
    /// Starts the run. `None` only where it was started before.
    pub(crate) fn fly(mut self, op: Arc<dyn Op<R>>, inputs: Vec<R>) -> Option<Ticket<R>> {
        let (ticket, publish) = self.0.take()?;
        let flight = Arc::clone(&ticket.flight);
        let tasks = flight.leader.core.tasks.clone();
        tasks.spawn(fly(flight, op, inputs, publish));
        Some(ticket)
    }
}

impl<R: ResultValue> Drop for Lead<R> {
    fn drop(&mut self) {
        if let Some((ticket, publish)) = self.0.take() {
            let flight = &ticket.flight;
            *flight.shown.lock() = Shown::Abandoned;
            flight.leader.core.flights.0.lock().remove(flight);
            drop(publish);
        }
    }
}

impl<R: ResultValue> Flight<R> {
    /// Adds a vertex to those that the run is shown under.
    fn show_to(&self, node: &Arc<Node<R>>) {
        let shown = self.shown.lock();
        if !self.members.join(&node.report) {
            return;
        }
        match &*shown {
            Shown::Waiting | Shown::Abandoned => {}
            Shown::Running => node.report.started(),
            Shown::Ended(error) => {
                node.report.started();
                node.report.completed(error.clone());
            }
        }
        // Builds inside of the op work for this vertex's builds, too.
        for nested in self.leader.nested.lock().iter() {
            for build in node.report.builds() {
                nested.attach(&build, &nested.vertex, &node.imports());
            }
        }
    }

    fn each(&self, tell: impl Fn(&Report)) {
        for report in self.members.reports() {
            tell(&report);
        }
    }

    fn started(&self) {
        let mut shown = self.shown.lock();
        *shown = Shown::Running;
        self.each(Report::started);
    }

    fn ended(&self, error: &str) {
        let mut shown = self.shown.lock();
        *shown = Shown::Ended(error.to_owned());
        self.each(|report| report.completed(error.to_owned()));
    }

    fn context(&self, inside: &Inside<R>) -> OpContext {
        let members = Arc::clone(&self.members);
        self.leader
            .context_for(members, self.cancel.clone(), Arc::clone(inside))
    }
}

/// Takes the entry off the table when the run has ended and nobody holds a ticket.
struct Landing<R: ResultValue>(Arc<Flight<R>>);

impl<R: ResultValue> Drop for Landing<R> {
    fn drop(&mut self) {
        let core = Arc::clone(&self.0.leader.core);
        let mut table = core.flights.0.lock();
        // A run that panicked has no outcome: its entry must not be found by those who come.
        let panicked = self.0.outcome.borrow().is_none();
        if *self.0.tickets.lock() == 0 || panicked {
            table.remove(&self.0);
        }
    }
}

async fn fly<R: ResultValue>(
    flight: Arc<Flight<R>>,
    op: Arc<dyn Op<R>>,
    inputs: Vec<R>,
    publish: watch::Sender<Option<Outcome<R>>>,
) {
    let landing = Landing(Arc::clone(&flight));
    let inside = Inside::default();
    let outcome = run(&flight, op.as_ref(), inputs, &inside).await;
    let made = outcome.map(|outputs| {
        let inside = std::mem::take(&mut *inside.lock());
        Arc::new(Made { outputs, inside })
    });
    publish.send_replace(Some(made));
    drop(landing);
    // The sender goes last: who waits for the end finds the entry gone.
    drop(publish);
}

async fn run<R: ResultValue>(
    flight: &Flight<R>,
    op: &dyn Op<R>,
    inputs: Vec<R>,
    inside: &Inside<R>,
) -> Result<Vec<R>, OpError> {
    let core = &flight.leader.core;
    let slot = if op.takes_slot() {
        let build = flight
            .leader
            .report
            .builds()
            .first()
            .map_or(0, |build| build.number);
        tokio::select! {
            biased;
            () = flight.cancel.cancelled() => return Err(SolveError::Cancelled.shared()),
            slot = core.slots.take(build) => Some(slot),
        }
    } else {
        None
    };
    flight.started();
    let end = Ending(flight);
    let mut running = op.run(inputs, flight.context(inside));
    let outcome = tokio::select! {
        biased;
        outcome = &mut running => outcome,
        () = flight.cancel.cancelled() => {
            // The op was told, too. What it makes of it doesn't matter: nobody waits.
            if tokio::time::timeout(GRACE, &mut running).await.is_err() {
                tracing::warn!(
                    vertex = %flight.leader.vertex.digest,
                    "a step did not stop when it was told; it is dropped"
                );
            }
            Err(SolveError::Cancelled.shared())
        }
    };
    drop(running);
    drop(slot);
    end.with(outcome.as_ref().err());
    outcome
}

/// Reports the end of a run, also of one that panicked.
struct Ending<'a, R: ResultValue>(&'a Flight<R>);

impl<R: ResultValue> Ending<'_, R> {
    fn with(self, error: Option<&OpError>) {
        let text = error.map_or_else(String::new, |error| kiln_errdefs::text(error));
        self.0.ended(&text);
        std::mem::forget(self);
    }
}

impl<R: ResultValue> Drop for Ending<'_, R> {
    fn drop(&mut self) {
        self.0.ended(&SolveError::Panicked.to_string());
    }
}

/// The right to a run's outcome. The last ticket that is given back stops the run.
pub(crate) struct Ticket<R: ResultValue> {
    flight: Arc<Flight<R>>,
}

impl<R: ResultValue> Ticket<R> {
    /// Waits for the run to end. `None` where its leader never started it.
    pub(crate) async fn outcome(&self) -> Option<Outcome<R>> {
        let mut outcome = self.flight.outcome.clone();
        if let Ok(outcome) = outcome.wait_for(Option::is_some).await {
            return outcome.clone();
        }
        let abandoned = matches!(*self.flight.shown.lock(), Shown::Abandoned);
        (!abandoned).then(|| Err(SolveError::Panicked.shared()))
    }
}

impl<R: ResultValue> Drop for Ticket<R> {
    fn drop(&mut self) {
        let core = Arc::clone(&self.flight.leader.core);
        let mut table = core.flights.0.lock();
        let mut tickets = self.flight.tickets.lock();
        *tickets -= 1;
        if *tickets > 0 {
            return;
        }
        if self.flight.outcome.borrow().is_some() {
            table.remove(&self.flight);
        } else {
            self.flight.cancel.cancel();
        }
    }
}
