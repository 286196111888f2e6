//! From the proof that no cache has an output to the output.
//!
//! All inputs are made, their contents hashed and prepared, side by side. Then the run is entered in
//! the table of flights: the same work of another vertex is joined, not repeated. Who leads a run asks
//! the search a last time, with everything that is known now, before it starts. What came out is
//! stored under its keys before anybody hears of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use futures::future::try_join_all;

use crate::edge::{Done, Edge};
use crate::error::{Phase, SolveError};
use crate::flight::{Entered, Token, Work};
use crate::key::{KeyNode, Way, Ways};
use crate::op::{CacheMap, OpError, ResultValue};
use crate::search::{InputMade, NoHit};
use crate::store::record_digest;

/// Makes the output.
pub(crate) async fn run<R: ResultValue>(edge: Edge<R>, _: NoHit) -> Result<Done<R>, OpError> {
    let node = Arc::clone(edge.node());
    // What the search was evaluating goes on until the inputs are made.
    let pending = edge.take_pending();
    let maps = maps(&edge).await?;
    // Operations with inputs have one cache map.
    let map = Arc::clone(&maps[0]);
    let made = try_join_all((0..node.inputs.len()).map(|input| make_input(&edge, &map, input)));
    let made = match pending {
        Some(pending) => pending.beside(made).await?,
        None => made.await?,
    };
    node.show_unused_inputs();
    let ways: Ways<R> = Arc::new(
        made.iter()
            .zip(&map.inputs)
            .map(|(made, key)| made.ways(key.selector))
            .collect(),
    );
    let (ticket, run) = loop {
        let work = Work {
            ops: maps.iter().map(|map| map.digest).collect(),
            inputs: ways
                .iter()
                .zip(&node.inputs)
                .map(|(ways, input)| {
                    tokens(ways, input.node.ignores_cache().then_some(&input.node.key))
                })
                .collect(),
            ignores_cache: node.ignores_cache(),
        };
        let ticket = match node.core.flights.enter(&node, work).await {
            Entered::Joined(ticket) => ticket,
            Entered::Lead(lead) => {
                // On the table first, asked last: work that another build finished meanwhile has its
                // result stored by now.
                if !node.ignores_cache() {
                    edge.finish_search(|search| search.finish(&edge, &made))
                        .await;
                    if let Some(done) = edge.load_known().await {
                        return Ok(done);
                    }
                }
                let inputs = made.iter().map(|made| made.done.result.clone());
                match lead.fly(node.op()?, inputs.collect()) {
                    Some(ticket) => ticket,
                    None => continue,
                }
            }
        };
        if let Some(outcome) = ticket.outcome().await {
            break (ticket, outcome.map_err(|error| failed(&edge, error))?);
        }
    };
    let result = run.outputs.get(edge.output()).cloned().ok_or_else(|| {
        SolveError::NoSuchOutput {
            vertex: node.vertex.digest,
            index: edge.output(),
            outputs: run.outputs.len(),
        }
        .shared()
    })?;
    // The ticket is held until the result is stored: whoever comes next finds one or the other.
    let done = store(&edge, &maps, ways, &run.inside, result).await?;
    drop(ticket);
    Ok(done)
}

/// A stop is nobody's failure: it names no vertex.
fn failed<R: ResultValue>(edge: &Edge<R>, error: OpError) -> OpError {
    if kiln_errdefs::has_cancelled(&error) {
        return error;
    }
    edge.node().failed(Phase::Run, None, error)
}

async fn maps<R: ResultValue>(edge: &Edge<R>) -> Result<Vec<Arc<CacheMap<R>>>, OpError> {
    let mut maps = Vec::new();
    loop {
        let (map, last) = edge.node().map(maps.len()).await?;
        maps.push(map);
        if last || !edge.node().inputs.is_empty() {
            return Ok(maps);
        }
    }
}

async fn make_input<R: ResultValue>(
    edge: &Edge<R>,
    map: &CacheMap<R>,
    input: usize,
) -> Result<InputMade<R>, OpError> {
    let node = edge.node();
    let done = node.inputs[input].edge().result().await?;
    node.prepare(map, input, &done.result).await?;
    let content = node.content(map, input, &done.result).await?;
    Ok(InputMade {
        done,
        content: content.as_ref().map(KeyNode::content),
    })
}

/// What tells the input from others. An input that was made anew is only itself.
fn tokens<R: ResultValue>(ways: &[Way<R>], anew: Option<&kiln_oci::Digest>) -> BTreeSet<Token> {
    let known = ways.iter().filter_map(|way| {
        let is_content = way.node.of.is_none();
        if anew.is_some() && !is_content {
            return None;
        }
        Some(Token::Key(way.node.own()?, way.selector))
    });
    known.chain(anew.map(|node| Token::Node(*node))).collect()
}

async fn store<R: ResultValue>(
    edge: &Edge<R>,
    maps: &[Arc<CacheMap<R>>],
    ways: Ways<R>,
    inside: &[Arc<KeyNode<R>>],
    result: R,
) -> Result<Done<R>, OpError> {
    let node = edge.node();
    let nodes: Vec<Arc<KeyNode<R>>> = if node.inputs.is_empty() {
        maps.iter().map(|map| edge.root_node(map)).collect()
    } else {
        let record = record_digest(&maps[0].digest, edge.output() as i64);
        let inside = inside.to_vec();
        vec![Arc::new(KeyNode::of_run(record, edge.of(), ways, inside))]
    };
    let caches = node.caches();
    let lasting: Vec<_> = nodes.iter().filter(|node| !node.session_local).collect();
    if let Some(first) = lasting.first() {
        let created = SystemTime::now();
        let saved = caches.save(first, &result, created).await;
        let saved = saved.map_err(|error| node.failed(Phase::Save, None, error))?;
        for other in &lasting[1..] {
            caches.record(other, saved.id.clone(), created);
        }
        for node in lasting {
            node.set_records(vec![saved.clone()]);
        }
    }
    if !node.ignores_cache() {
        edge.learn(nodes.clone());
    }
    Ok(Done { result, nodes })
}
