//! What a build's steps were made from, gathered at its end, for the question why a step ran.
//!
//! | of | kept |
//! |---|---|
//! | an exec | digest of the op without its environment; names of variables, with salted digests of values |
//! | a file op, and others | digest of the op |
//! | a source | digest of its name and options; its pin; of an image also with the record, where it is found |
//! | a client's directory | the list of its files with digests |
//! | every input | the step that made it, and the paths that are read of it with the digest of their content |
//!
//! Invariant: no value of an argument, variable or secret is kept.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use kiln_cache::OpResult;
use kiln_cache::contenthash::{self, KnownFiles};
use kiln_history::explain::{
    Ingredients, Input, Outcome, Pattern, Reads, Salt, Step, StepKind, encode_files,
};
use kiln_history::{Completed, Error, History};
use kiln_llb::keys;
use kiln_oci::Digest;
use kiln_progress::VertexState;
use kiln_proto::pb;
use kiln_provenance::redact;
use kiln_solver::VertexFacts;
use prost::Message as _;

const INGREDIENTS: &str = "application/vnd.kiln.ingredients.v1+json";
const FILES: &str = "application/vnd.kiln.files.v1";

/// Attributes of sources that differ from build to build and say nothing of the content.
const PASSING: [&str; 5] = [
    "local.session",
    "local.unique",
    "local.sharedkeyhint",
    "local.differ",
    "git.authtokensecret",
];

/// The ingredients, with the directories whose files are still to be listed.
#[derive(Debug)]
pub(crate) struct Gathered {
    ingredients: Ingredients,
    directories: Vec<(usize, KnownFiles)>,
    images: BTreeSet<Digest>,
}

/// Gathers what is known at the end of a build. Quick: nothing is read or hashed but ops.
pub(crate) fn gather(
    facts: &[VertexFacts<OpResult>],
    states: &[VertexState],
    salt: &Salt,
) -> Gathered {
    let outcomes = outcomes(states);
    let positions: HashMap<Digest, usize> = facts
        .iter()
        .enumerate()
        .map(|(index, facts)| (facts.vertex.digest, index))
        .collect();
    let mut directories = Vec::new();
    let mut images = BTreeSet::new();
    let steps = facts.iter().enumerate().map(|(index, facts)| {
        let vertex = &facts.vertex;
        let mut step = Step {
            vertex: vertex.digest.to_string(),
            name: redact(&vertex.name()).into_owned(),
            outcome: outcomes.get(&vertex.digest).copied().unwrap_or_default(),
            no_cache: vertex.options.ignore_cache,
            pin: facts.pin.clone(),
            ..Step::default()
        };
        describe(&mut step, vertex.op.op.as_ref(), salt);
        let reads = reads(facts);
        step.inputs = vertex
            .inputs
            .iter()
            .zip(reads)
            .filter_map(|(edge, reads)| {
                let step = positions.get(&edge.vertex.digest).copied()?;
                // Inputs were loaded before what is made from them.
                (step < index).then_some(Input { step, reads })
            })
            .collect();
        images.extend(image_digests(vertex.op.op.as_ref(), step.pin.as_deref()));
        if is_directory(vertex.op.op.as_ref())
            && let Some((_, Some(state))) = &facts.result
        {
            directories.push((index, contenthash::known_files(state)));
        }
        step
    });
    let ingredients = Ingredients {
        steps: steps.collect(),
    };
    Gathered {
        ingredients,
        directories,
        images,
    }
}

impl Gathered {
    /// What its images among the sources turned out to be.
    pub(crate) fn images(&self) -> Vec<Digest> {
        self.images.iter().copied().collect()
    }

    /// Stores what was gathered with the record.
    pub(crate) async fn store(self, history: &History, record: &Completed) -> Result<(), Error> {
        let Self {
            mut ingredients,
            directories,
            images: _,
        } = self;
        let (mut files, mut bytes) = (Vec::new(), 0);
        for (step, known) in directories {
            let listed = tokio::task::spawn_blocking(move || list(&known)).await;
            let Ok(listed) = listed else {
                continue;
            };
            let blob = history.put(FILES, Vec::new(), listed).await?;
            ingredients.steps[step].files = Some(blob.digest);
            files.push(blob.digest);
            bytes += blob.size;
        }
        let blob = history
            .put(INGREDIENTS, Vec::new(), ingredients.encode())
            .await?;
        history.add_details(record.reference(), |details| {
            details.ingredients = Some(blob.digest);
            details.files = files;
            details.bytes += bytes + blob.size;
        })
    }
}

fn list(known: &KnownFiles) -> Bytes {
    let files: Vec<(String, &Digest)> = known.iter().collect();
    encode_files(files.iter().map(|(path, digest)| (path.as_str(), *digest)))
}

/// A vertex that the cache had and that was at work later (its layers were fetched) was cached.
fn outcomes(states: &[VertexState]) -> HashMap<Digest, Outcome> {
    let mut outcomes = HashMap::new();
    for state in states {
        let outcome = match (state.cached, state.completed, state.error.as_str()) {
            (true, ..) => Outcome::Cached,
            (false, Some(_), "") => Outcome::Ran,
            (false, Some(_), error) if error.contains("context canceled") => Outcome::Unfinished,
            (false, Some(_), _) => Outcome::Failed,
            (false, None, _) => Outcome::Unfinished,
        };
        let known = outcomes.entry(state.digest).or_insert(outcome);
        if *known != Outcome::Cached {
            *known = outcome;
        }
    }
    outcomes
}

fn describe(step: &mut Step, op: Option<&pb::op::Op>, salt: &Salt) {
    let definition = |bytes: &[u8]| salt.digest("op", bytes);
    match op {
        Some(pb::op::Op::Exec(exec)) => {
            step.kind = StepKind::Exec;
            let mut plain = exec.clone();
            if let Some(meta) = &mut plain.meta {
                for variable in std::mem::take(&mut meta.env) {
                    let (name, value) = variable.split_once('=').unwrap_or((&variable, ""));
                    step.arguments
                        .insert(name.to_owned(), salt.digest(name, value.as_bytes()));
                }
                meta.proxy_env = None;
            }
            step.definition = definition(&plain.encode_to_vec());
        }
        Some(pb::op::Op::File(file)) => {
            step.kind = StepKind::File;
            step.definition = definition(&file.encode_to_vec());
        }
        Some(pb::op::Op::Source(source)) => {
            step.kind = StepKind::Source;
            let name = source
                .identifier
                .split("@sha256:")
                .next()
                .unwrap_or_default();
            let mut attrs: Vec<_> = source
                .attrs
                .iter()
                .filter(|(key, _)| !PASSING.contains(&key.as_str()))
                .collect();
            attrs.sort();
            step.definition = definition(format!("{name} {attrs:?}").as_bytes());
            if step.pin.is_none() {
                step.pin = source
                    .identifier
                    .split_once('@')
                    .map(|(_, digest)| digest.to_owned());
            }
        }
        Some(pb::op::Op::Merge(merge)) => step.definition = definition(&merge.encode_to_vec()),
        Some(pb::op::Op::Diff(diff)) => step.definition = definition(&diff.encode_to_vec()),
        // What it builds shows in its input.
        Some(pb::op::Op::Build(_)) | None => {}
    }
}

fn is_directory(op: Option<&pb::op::Op>) -> bool {
    matches!(op, Some(pb::op::Op::Source(source)) if source.identifier.starts_with("local://"))
}

/// What an image turned out to be, and what it was asked for by: an index and its part may both be known.
fn image_digests(op: Option<&pb::op::Op>, pin: Option<&str>) -> impl Iterator<Item = Digest> {
    let identifier = match op {
        Some(pb::op::Op::Source(source)) => source.identifier.strip_prefix("docker-image://"),
        _ => None,
    };
    let asked = identifier.and_then(|name| Some(name.split_once('@')?.1.to_owned()));
    let found = identifier.and(pin).map(str::to_owned);
    asked
        .into_iter()
        .chain(found)
        .filter_map(|text| text.parse().ok())
}

/// What is read of each input, where the key is made of content.
fn reads(facts: &VertexFacts<OpResult>) -> Vec<Option<Reads>> {
    let vertex = &facts.vertex;
    let count = vertex.inputs.len();
    let platform = vertex.op.platform.clone().unwrap_or_default();
    let key = match &vertex.op.op {
        Some(pb::op::Op::Exec(exec)) => keys::exec(exec, &platform, count).ok(),
        Some(pb::op::Op::File(file)) => keys::file(file, count).ok(),
        _ => None,
    };
    let Some(key) = key else {
        return vec![None; count];
    };
    key.inputs
        .into_iter()
        .enumerate()
        .map(|(at, input)| {
            let selectors = input.content?;
            Some(Reads {
                patterns: selectors
                    .into_iter()
                    .map(|selector| Pattern {
                        path: selector.path,
                        wildcard: selector.wildcard,
                    })
                    .collect(),
                content: facts.contents.get(at).copied().flatten(),
            })
        })
        .collect()
}
