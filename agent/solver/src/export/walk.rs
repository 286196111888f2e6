//! The walk itself; see the parent module.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::backlinks::Backlinks;
use super::chains::Chains;
use super::{ExportLink, ExportMode, ExportOptions, ExportRecord, ExportTarget, ExportedResult};
use crate::key::{KeyNode, Origin, Record};
use crate::op::{OpContext, OpError, ResultStore, ResultValue};
use crate::solver::CachedResult;
use crate::store::KeyStore;

type Nodes<R> = Vec<Arc<KeyNode<R>>>;

/// The records of `results`.
pub(crate) async fn walk<R: ResultValue, T: ExportTarget<R>>(
    results: &[CachedResult<R>],
    keys: &dyn KeyStore,
    stored: &dyn ResultStore<R>,
    target: &T,
    options: ExportOptions,
) -> Result<Vec<ExportRecord<T::Remote>>, OpError> {
    let tops: Nodes<R> = results
        .iter()
        .flat_map(|result| result.done.nodes.iter().cloned())
        .collect();
    let order = inputs_first(&tops);
    let mut exported = choose(&tops, &order, stored, target, options).await?;

    let mut chains = Chains::default();
    // A node stands for the records of what was built inside of it, too.
    let mut made: HashMap<u64, Vec<usize>> = HashMap::new();
    let mut backlinks = Backlinks::new(keys);
    for node in &order {
        if node.session_local {
            continue;
        }
        let inputs: Vec<Vec<ExportLink>> = node
            .ways
            .iter()
            .map(|ways| {
                let links = ways.iter().flat_map(|way| {
                    let records = made.get(&way.node.number).into_iter().flatten();
                    records.map(|record| ExportLink {
                        selector: way.selector,
                        record: *record,
                    })
                });
                links.collect()
            })
            .collect();
        if !options.ignore_backlinks {
            backlinks.add(node, &mut chains);
        }
        let chosen = exported.remove(&node.number);
        let (record, results) = chosen.map_or((None, Vec::new()), |chosen| {
            (Some(chosen.record), chosen.results)
        });
        if let Some(record) = record
            && node.is_root()
        {
            same_result(node, &record, keys, &mut chains, &results);
        }
        let own = chains.add(node.record, &inputs, results);
        let inside = node.inside.iter();
        let inside = inside.filter_map(|inside| made.get(&inside.number));
        let records: Vec<usize> = own.into_iter().chain(inside.flatten().copied()).collect();
        made.insert(node.number, records);
    }
    Ok(chains.into_records())
}

/// Other root keys of a root's result.
fn same_result<R: ResultValue, T: PartialEq + Clone>(
    node: &KeyNode<R>,
    record: &Record<R>,
    keys: &dyn KeyStore,
    chains: &mut Chains<T>,
    results: &[ExportedResult<T>],
) {
    if !matches!(record.origin, Origin::Own) {
        return;
    }
    for key in keys.keys_of(&record.id) {
        if let Some(root) = keys.root_digest(key)
            && root != node.record
        {
            chains.add(root, &[], results.to_vec());
        }
    }
}

/// All nodes behind `tops`, each once, inputs before what is made from them.
fn inputs_first<R: ResultValue>(tops: &Nodes<R>) -> Nodes<R> {
    let mut order = Vec::new();
    let mut seen = HashSet::new();
    let mut pending: Vec<(Arc<KeyNode<R>>, bool)> = tops
        .iter()
        .rev()
        .map(|top| (Arc::clone(top), false))
        .collect();
    while let Some((node, inputs_done)) = pending.pop() {
        if inputs_done {
            order.push(node);
        } else if seen.insert(node.number) {
            pending.push((Arc::clone(&node), true));
            for way in node.ways.iter().flatten().rev() {
                pending.push((Arc::clone(&way.node), false));
            }
            for inside in node.inside.iter().rev() {
                pending.push((Arc::clone(inside), false));
            }
        }
    }
    order
}

struct Chosen<R: ResultValue, T> {
    record: Record<R>,
    results: Vec<ExportedResult<T>>,
}

/// Decides for each node, consumers first, which of its results go along.
async fn choose<R: ResultValue, T: ExportTarget<R>>(
    tops: &Nodes<R>,
    order: &Nodes<R>,
    stored: &dyn ResultStore<R>,
    target: &T,
    options: ExportOptions,
) -> Result<HashMap<u64, Chosen<R, T::Remote>>, OpError> {
    // Whether results of a node may be made transferable: once one of its consumers says so.
    let mut create: HashMap<u64, bool> = tops
        .iter()
        .map(|top| (top.number, options.mode != ExportMode::Existing))
        .collect();
    let mut chosen = HashMap::new();
    for node in order.iter().rev() {
        let may_create = create.get(&node.number).copied().unwrap_or(false);
        let exports = node.of.and_then(|of| of.export) != Some(false)
            && (options.roots || !node.is_root())
            && !node.session_local;
        let mut goes_along = false;
        if exports
            && let Some((record, remotes)) = remotes(node, stored, target, may_create).await?
        {
            goes_along = !remotes.is_empty();
            let results = remotes.into_iter().map(|remote| ExportedResult {
                created: record.created,
                remote,
                vertex: node.of.map_or(node.record, |of| of.vertex),
                output: node.of.map_or(0, |of| of.output),
            });
            let results = results.collect();
            chosen.insert(node.number, Chosen { record, results });
        }
        let below = may_create && !(goes_along && options.mode == ExportMode::Min);
        for way in node.ways.iter().flatten() {
            *create.entry(way.node.number).or_default() |= below;
        }
        for inside in &node.inside {
            *create.entry(inside.number).or_default() |= may_create;
        }
    }
    Ok(chosen)
}

/// What the target makes of the best result that is still there: of the daemon's own, or of a cache that
/// the build imported. What CI imports and exports in one run must not shrink to what the run needed.
async fn remotes<R: ResultValue, T: ExportTarget<R>>(
    node: &KeyNode<R>,
    stored: &dyn ResultStore<R>,
    target: &T,
    create: bool,
) -> Result<Option<(Record<R>, Vec<T::Remote>)>, OpError> {
    for record in node.records() {
        let loaded = match &record.origin {
            Origin::Own => stored.load(&record.id).await?,
            Origin::Imported { source, key } => {
                let loaded = source.load_one(*key, &record.id, OpContext::detached());
                loaded.await.unwrap_or_else(|error| {
                    tracing::debug!(
                        result = record.id,
                        error = kiln_errdefs::text(&error),
                        "an imported result is left out of the export"
                    );
                    None
                })
            }
        };
        if let Some(result) = loaded {
            let remotes = target.remotes(result, create).await?;
            return Ok(Some((record, remotes)));
        }
    }
    Ok(None)
}
