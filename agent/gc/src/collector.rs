//! Runs policies on a cache.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures::future::BoxFuture;
use kiln_cache::{CacheManager, UsageRecord};
use kiln_content::{ContentStore, ImageTable};
use kiln_ids::RefId;
use kiln_store::StateRoot;
use parking_lot::RwLock;
use tokio::sync::Notify;

use crate::plans::Plans;
use crate::policies::Policies;
use crate::runs::Running;
use crate::sweep::ImageBlobs;
use crate::{
    Disk, Error, Filters, InForce, Kept, Order, Plan, PlannedRemoval, Policy, Run, Trigger, plan,
};

/// Says whether no build is running.
pub type QuietCheck = Arc<dyn Fn() -> bool + Send + Sync>;

/// Done after each run that removed something, and before the run counts as ended.
pub type AfterRun = Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// Records are removed in groups of this size, so that a run reports as it goes.
const GROUP: usize = 64;

/// Collects the garbage of one state root. Runs don't overlap.
#[derive(Clone)]
pub struct Collector {
    cache: CacheManager,
    root: StateRoot,
    path: PathBuf,
    images: ImageBlobs,
    quiet: Arc<RwLock<Option<QuietCheck>>>,
    after_run: Arc<RwLock<Option<AfterRun>>>,
    turn: Arc<tokio::sync::Mutex<()>>,
    plans: Arc<Plans>,
    policies: Arc<Policies>,
    ended: Arc<Notify>,
}

impl Collector {
    /// Collects what `cache` keeps under `root`. Blobs of the local image store are kept.
    pub fn new(root: &StateRoot, cache: CacheManager, content: ContentStore) -> Self {
        Self {
            images: ImageBlobs::new(content, ImageTable::new(root), &cache),
            cache,
            root: root.clone(),
            path: root.path().to_owned(),
            quiet: Arc::default(),
            after_run: Arc::default(),
            turn: Arc::default(),
            plans: Arc::default(),
            policies: Arc::default(),
            ended: Arc::default(),
        }
    }

    /// Waits for a run to end that removed something, or returns at once if one has ended since the last call.
    pub async fn run_ended(&self) {
        self.ended.notified().await;
    }

    /// Who knows whether a build runs. Without, blobs that nobody names are left alone.
    pub fn set_quiet_check(&self, check: QuietCheck) {
        *self.quiet.write() = Some(check);
    }

    /// What is to be done when a run has removed something: to give its space back, for example.
    pub fn set_after_run(&self, work: AfterRun) {
        *self.after_run.write() = Some(work);
    }

    /// The disk of the state root.
    pub fn disk(&self) -> Result<Disk, Error> {
        Disk::of(&self.path)
    }

    /// What records occupy: those that match and, with an age, weren't used for that long.
    pub async fn disk_usage(
        &self,
        filters: &Filters,
        unused_for: Duration,
    ) -> Result<Vec<UsageRecord>, Error> {
        let now = SystemTime::now();
        let mut records = self.usage().await?;
        records.retain(|record| {
            let fresh = !unused_for.is_zero()
                && record
                    .last_used
                    .and_then(|used| now.duration_since(used).ok())
                    .is_some_and(|age| age < unused_for);
            !fresh && filters.matches(record)
        });
        Ok(records)
    }

    async fn usage(&self) -> Result<Vec<UsageRecord>, Error> {
        // A run looks itself, and can't do without; to show a little less is no failure.
        if let Err(error) = self.images.refresh().await {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(error, "the local images could not be read");
        }
        let shared = self.cache.with_layers(&self.images.layers());
        let mut records = self.cache.usage().await?;
        for record in &mut records {
            record.shared = shared.contains(&record.id);
        }
        share_parents(&mut records);
        Ok(records)
    }

    /// What a run of policies would remove now.
    pub async fn plan(&self, policies: &[Policy], order: Order) -> Result<Plan, Error> {
        let records = self.usage().await?;
        let now = SystemTime::now();
        Ok(plan(&records, policies, order, self.disk()?, now))
    }

    /// The same, kept under a name for [`execute`](Self::execute).
    pub async fn keep_plan(
        &self,
        policies: &[Policy],
        order: Order,
    ) -> Result<(String, Arc<Plan>), Error> {
        Ok(self.plans.keep(self.plan(policies, order).await?))
    }

    /// Removes what the policies want removed; tells each record to `removed` when it is gone. Dropping the
    /// future ends the run after the current group.
    pub async fn prune(
        &self,
        policies: &[Policy],
        trigger: Trigger,
        mut removed: impl FnMut(&UsageRecord) + Send,
    ) -> Result<Run, Error> {
        let _turn = self.turn.lock().await;
        self.images.refresh().await?;
        let plan = self.plan(policies, Order::Use).await?;
        self.carry_out(&plan, trigger, |outcome| {
            if let Outcome::Removed(planned) = outcome {
                removed(&planned.record);
            }
        })
        .await
    }

    /// Does what a plan said, once, less what came into use since; tells each outcome. Dropping the future
    /// ends the run after the current group.
    pub async fn execute(
        &self,
        plan: &str,
        tell: impl FnMut(Outcome<'_>) + Send,
    ) -> Result<Run, Error> {
        let plan = self
            .plans
            .take(plan)
            .ok_or_else(|| Error::UnknownPlan(plan.to_owned()))?;
        let _turn = self.turn.lock().await;
        self.images.refresh().await?;
        self.carry_out(&plan, Trigger::Plan, tell).await
    }

    /// The space that is kept for a full disk is used to get going.
    async fn carry_out(
        &self,
        plan: &Plan,
        trigger: Trigger,
        mut tell: impl FnMut(Outcome<'_>) + Send,
    ) -> Result<Run, Error> {
        let begun = Instant::now();
        let mut run = Running::begin(&self.root.db(), trigger);
        let mut records = 0;
        if !plan.removals.is_empty() {
            self.root.release_reserve();
            let reserve = Reserve(&self.root);
            let now = self.states().await?;
            for group in plan.removals.chunks(GROUP) {
                let mut kept: Vec<Option<Kept>> =
                    group.iter().map(|item| why_kept(item, &now)).collect();
                let wanted = group.iter().zip(&kept).filter(|(_, kept)| kept.is_none());
                let ids: Vec<RefId> = wanted.map(|(item, _)| item.record.id.clone()).collect();
                let gone: HashSet<RefId> = self.cache.remove_all(&ids).await?.into_iter().collect();
                for (item, kept) in group.iter().zip(&mut kept) {
                    if gone.contains(&item.record.id) {
                        run.removed(item);
                        tell(Outcome::Removed(item));
                        records += 1;
                    } else {
                        let reason = kept.take().unwrap_or(Kept::BuiltUpon);
                        tell(Outcome::Skipped(item, reason));
                    }
                }
            }
            drop(reserve);
        }
        let quiet = self.quiet.read().clone();
        let swept = match quiet {
            Some(quiet) => self.images.sweep(&self.cache, quiet.as_ref()).await?,
            None => 0,
        };
        let run = run.end().await?;
        if records > 0 {
            self.ended.notify_one();
            self.shrink_database().await?;
        }
        let after_run = self.after_run.read().clone();
        if let Some(after_run) = after_run.filter(|_| records > 0 || swept > 0) {
            after_run().await;
        }
        if !plan.removals.is_empty() {
            tracing::info!(
                swept,
                records,
                planned = plan.removals.len(),
                bytes = run.bytes,
                millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
                "pruned the cache"
            );
        }
        Ok(run)
    }

    /// Records as they are now.
    async fn states(&self) -> Result<HashMap<RefId, UsageRecord>, Error> {
        let records = self.cache.usage().await?;
        Ok(records
            .into_iter()
            .map(|record| (record.id.clone(), record))
            .collect())
    }

    /// Gives the pages of removed rows back to the file system, as far as the database can.
    async fn shrink_database(&self) -> Result<(), Error> {
        let db = self.root.db();
        let shrink = db.write(|tx| {
            let mut statement = tx.prepare("PRAGMA incremental_vacuum")?;
            let mut steps = statement.query(())?;
            while steps.next()?.is_some() {}
            Ok(())
        });
        Ok(shrink.await?)
    }

    /// Runs of the past, the newest first.
    pub async fn runs(&self, limit: u32) -> Result<Vec<Run>, Error> {
        crate::runs::list(&self.root.db(), limit).await
    }

    /// What the configuration says.
    pub fn configure(&self, policies: InForce) {
        self.policies.configure(policies);
    }

    /// Other policies in their place until the next start, with a ceiling where they have none; with none at
    /// all, those of the configuration again.
    pub fn replace_policies(&self, mut policies: Vec<Policy>) -> Result<(), Error> {
        if !policies.is_empty() {
            Policy::add_ceiling(&mut policies, self.disk()?);
        }
        self.policies.replace(policies);
        Ok(())
    }

    /// What runs follow now.
    pub fn policies(&self) -> InForce {
        self.policies.in_force()
    }

    /// Keeps a record from being collected or pruned, or lets it go.
    pub fn set_pinned(&self, id: &RefId, pinned: bool) -> Result<(), Error> {
        Ok(self.cache.set_pinned(id, pinned)?)
    }
}

/// What became of a planned removal.
#[derive(Debug, Clone, Copy)]
pub enum Outcome<'a> {
    /// It is gone.
    Removed(&'a PlannedRemoval),
    /// It stayed.
    Skipped(&'a PlannedRemoval, Kept),
}

/// Takes the space for a full disk back, however a run ends.
struct Reserve<'a>(&'a StateRoot);

impl Drop for Reserve<'_> {
    fn drop(&mut self) {
        self.0.restore_reserve();
    }
}

/// What speaks against a removal that was planned a while ago.
fn why_kept(planned: &PlannedRemoval, now: &HashMap<RefId, UsageRecord>) -> Option<Kept> {
    let Some(record) = now.get(&planned.record.id) else {
        return Some(Kept::Gone);
    };
    if record.pinned {
        Some(Kept::Pinned)
    } else if record.in_use {
        Some(Kept::InUse)
    } else if record.last_used != planned.record.last_used {
        Some(Kept::UsedSince)
    } else {
        None
    }
}

/// What a shared record is built on is shared too.
fn share_parents(records: &mut [UsageRecord]) {
    let index: HashMap<_, _> = records
        .iter()
        .enumerate()
        .map(|(i, record)| (record.id.clone(), i))
        .collect();
    let mut rest: Vec<usize> = (0..records.len()).filter(|&i| records[i].shared).collect();
    while let Some(i) = rest.pop() {
        for parent in records[i].parents.clone() {
            if let Some(&parent) = index.get(&parent)
                && !records[parent].shared
            {
                records[parent].shared = true;
                rest.push(parent);
            }
        }
    }
}

impl std::fmt::Debug for Collector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Collector")
            .field("root", &self.path)
            .finish_non_exhaustive()
    }
}
