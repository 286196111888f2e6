//! From results to what clients take away: exporters, and the response.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures::future::try_join_all;
use kiln_cache::OpResult;
use kiln_errdefs::{Kind, SharedError, WithDetail};
use kiln_exporter::{Attestation, ExportInput, ExportOutput, Exporter, Predicate, Refs, Subject};
use kiln_frontend::{MaybeReference, Solved};
use kiln_oci::Descriptor;
use kiln_proto::moby::buildkit::v1 as control;
use kiln_proto::moby::buildkit::v1::frontend as gw;
use kiln_provenance::{Capture, MaxDetails};
use kiln_solver::CachedResult;

use crate::bridge::EngineBridge;
use crate::build::{EngineParts, Outcome};
use crate::caches::{self, CacheExport};
use crate::reference::EdgeReference;
use crate::{BuildRequest, BuildResponse, ExporterRequest, graph_details, provenance};

/// What a history record says of results.
#[derive(Debug, Clone, Default)]
pub(crate) struct RecordedResults {
    /// What belongs to the build as a whole.
    pub(crate) single: Option<control::BuildResultInfo>,
    /// What belongs to one platform.
    pub(crate) by_platform: BTreeMap<String, control::BuildResultInfo>,
}

/// Exporters with their options, ready before anything runs.
pub(crate) type Exporters = Vec<Box<dyn Exporter>>;

/// Makes the exporters; one that can't be made fails the build before it costs anything.
pub(crate) fn prepare(
    requests: &[ExporterRequest],
    first: usize,
    services: &kiln_exporter::Services,
) -> Result<Exporters, SharedError> {
    requests
        .iter()
        .enumerate()
        .map(|(index, request)| {
            kiln_exporter::resolve(
                &request.kind,
                first + index,
                request.attributes.clone(),
                services,
            )
            .map_err(|error| match error {
                kiln_exporter::Error::UnknownExporter { .. } => {
                    WithDetail::kind(Arc::new(error), Kind::NotFound).shared()
                }
                other => WithDetail::kind(Arc::new(other), Kind::User).shared(),
            })
        })
        .collect()
}

/// Exports, and puts the response together.
pub(crate) async fn run(
    bridge: &EngineBridge,
    request: &BuildRequest,
    solved: Solved,
    mut exporters: Exporters,
    cache_exports: &[CacheExport],
    parts: &EngineParts,
    started: SystemTime,
) -> Result<Outcome, SharedError> {
    let services = &parts.exporters;
    let cached = cached_results(&solved).await?;
    let refs = results(&solved).await?;
    let inline_cache = caches::inline(
        cache_exports,
        &parts.solver,
        &bridge.session_id(),
        cached.clone(),
    );
    let mut attestations = attestations(&solved).await?;
    let facts = provenance::RunFacts {
        build: request.build.clone(),
        started,
        platform: parts.worker.platforms.first().cloned().unwrap_or_default(),
        environment: parts.provenance_environment.clone(),
    };
    let captures = captures(bridge, &solved);
    // The client's own options say what it wants, also where the frontend runs at the client.
    let (_, mut options) = bridge.request();
    options.extend(request.solve.options.clone());
    let asked = provenance::asked(&options)?;
    if let Some(asked) = &asked {
        let max = if asked.is_max() {
            graph_details(bridge, &solved).await
        } else {
            BTreeMap::new()
        };
        for (platform, capture) in by_result_platform(&refs, &solved, &captures)? {
            let max = max.get(&platform).or_else(|| max.get("")).cloned();
            attestations
                .entry(platform)
                .or_default()
                .push(provenance::attestation(
                    capture,
                    &facts,
                    asked,
                    max.unwrap_or_default(),
                ));
        }
    }
    if request.session_exporter {
        let asked = session_exporters(bridge, &refs, &solved.metadata, services).await?;
        exporters.extend(prepare(&asked, exporters.len(), services)?);
    }
    let exports = exporters.iter().enumerate().map(|(index, exporter)| {
        let input = ExportInput {
            refs: refs.clone(),
            metadata: solved.metadata.clone(),
            attestations: attestations.clone(),
            session: bridge.session_id(),
            sessions: vec![bridge.session_id()],
            progress: kiln_progress::VertexProgress::silent(),
            inline_cache: inline_cache.clone(),
            compatibility: 0,
        };
        export_one(bridge, index, exporter.as_ref(), input)
    });
    let mut outputs = try_join_all(exports).await?;
    let finalizers =
        exporters
            .iter()
            .zip(&mut outputs)
            .enumerate()
            .filter_map(|(index, (exporter, output))| {
                let finalize = output.finalize.take()?;
                let (id, name) = (step_id(bridge, index), exporter.name());
                Some(async move {
                    bridge
                        .in_step(&id, name, async |_| finalize.await.map_err(shared))
                        .await
                })
            });
    let cached: Vec<_> = cached.into_values().collect();
    // Layers have their blobs now, so the caches use them, and go out beside the pushes.
    let (_, mut response) = futures::future::try_join(
        try_join_all(finalizers),
        caches::export(bridge, &parts.caches, &parts.solver, cache_exports, &cached),
    )
    .await?;
    for output in &mut outputs {
        response.append(&mut output.response);
    }
    response.extend(
        solved
            .metadata
            .iter()
            .filter(|(key, _)| key.starts_with("frontend."))
            .map(|(key, value)| (key.clone(), String::from_utf8_lossy(value).into_owned())),
    );
    if request.session_exporter {
        finalize_session_export(bridge, services, &response).await?;
    }
    let mut results = recorded(&outputs);
    if !request.internal {
        // Layers have their blobs by now.
        let max = graph_details(bridge, &solved).await;
        record_provenance(parts, &captures, &facts, asked.as_ref(), max, &mut results).await;
    }
    Ok(Outcome {
        response: BuildResponse { exporter: response },
        results,
        _keep: outputs
            .into_iter()
            .filter_map(|output| output.keep)
            .collect(),
    })
}

/// What only the largest provenance has, for each result.
async fn graph_details(bridge: &EngineBridge, solved: &Solved) -> BTreeMap<String, MaxDetails> {
    let facts = bridge.job().facts();
    let mut all = BTreeMap::new();
    for (key, reference) in &solved.refs {
        if let Some(reference) = reference {
            let details = graph_details::details(reference.definition(), &facts).await;
            all.insert(key.clone(), details);
        }
    }
    all
}

/// What each result used, by its key.
fn captures(bridge: &EngineBridge, solved: &Solved) -> BTreeMap<String, Capture> {
    let (frontend, options) = bridge.request();
    solved
        .refs
        .iter()
        .map(|(key, reference)| {
            let edge = reference.as_ref().and_then(|reference| {
                Arc::clone(reference)
                    .as_any()
                    .downcast::<EdgeReference>()
                    .ok()
            });
            let capture = match edge {
                Some(reference) => {
                    provenance::capture(bridge, reference.edge(), frontend.clone(), options.clone())
                }
                None => Capture {
                    frontend: frontend.clone(),
                    args: options.clone(),
                    ..Capture::default()
                },
            };
            (key.clone(), capture)
        })
        .collect()
}

/// The captures under the platforms' ids, which a single result has too once it is exported.
fn by_result_platform<'a>(
    refs: &Refs,
    solved: &Solved,
    captures: &'a BTreeMap<String, Capture>,
) -> Result<Vec<(String, &'a Capture)>, SharedError> {
    let input = ExportInput {
        refs: refs.clone(),
        metadata: solved.metadata.clone(),
        attestations: BTreeMap::new(),
        session: kiln_ids::SessionId::new(""),
        sessions: Vec::new(),
        progress: kiln_progress::VertexProgress::silent(),
        inline_cache: None,
        compatibility: 0,
    };
    let platforms = input.platforms().map_err(shared)?;
    Ok(platforms
        .into_iter()
        .filter_map(|platform| {
            let capture = captures.get(&platform.id).or_else(|| captures.get(""))?;
            Some((platform.id, capture))
        })
        .collect())
}

/// Keeps the whole provenance of each result with the build's record. A record is no condition of a build.
async fn record_provenance(
    parts: &EngineParts,
    captures: &BTreeMap<String, Capture>,
    facts: &provenance::RunFacts,
    asked: Option<&provenance::Asked>,
    mut max: BTreeMap<String, MaxDetails>,
    results: &mut RecordedResults,
) {
    const MEDIA_TYPE: &str = "application/vnd.in-toto+json";
    for (key, capture) in captures {
        let max = max.remove(key).unwrap_or_default();
        let (kind, json) = provenance::for_history(capture, facts, asked, max);
        let annotation = ("in-toto.io/predicate-type".to_owned(), kind.to_owned());
        let blob = match parts.history.put(MEDIA_TYPE, vec![annotation], json).await {
            Ok(blob) => blob,
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "a build record stays without provenance");
                continue;
            }
        };
        let info = if key.is_empty() {
            results.single.get_or_insert_default()
        } else {
            results.by_platform.entry(key.clone()).or_default()
        };
        info.attestations.push(blob.to_wire());
    }
}

fn shared(error: kiln_exporter::Error) -> SharedError {
    Arc::new(error)
}

fn step_id(bridge: &EngineBridge, index: usize) -> String {
    format!("{}-export-{index}", bridge.session_id())
}

async fn export_one(
    bridge: &EngineBridge,
    index: usize,
    exporter: &dyn Exporter,
    mut input: ExportInput,
) -> Result<ExportOutput, SharedError> {
    bridge
        .in_step(&step_id(bridge, index), exporter.name(), async |step| {
            input.progress = step.progress();
            exporter.export(input).await.map_err(shared)
        })
        .await
}

/// The state behind a reference of this engine.
async fn state(reference: &MaybeReference) -> Result<OpResult, SharedError> {
    let Some(reference) = reference else {
        return Ok(None);
    };
    match Arc::clone(reference).as_any().downcast::<EdgeReference>() {
        Ok(reference) => Ok(reference.result().await?.result().clone()),
        Err(_) => Err(WithDetail::message(
            Kind::Internal,
            "a result that no solve of this build made",
        )
        .shared()),
    }
}

/// The solver's results, for caches.
async fn cached_results(
    solved: &Solved,
) -> Result<BTreeMap<String, CachedResult<OpResult>>, SharedError> {
    let mut all = BTreeMap::new();
    for (platform, reference) in &solved.refs {
        let Some(reference) = reference else {
            continue;
        };
        if let Ok(reference) = Arc::clone(reference).as_any().downcast::<EdgeReference>() {
            all.insert(platform.clone(), reference.result().await?.clone());
        }
    }
    Ok(all)
}

async fn results(solved: &Solved) -> Result<Refs, SharedError> {
    if solved.refs.is_empty() || (solved.refs.len() == 1 && solved.refs.contains_key("")) {
        return match solved.refs.get("") {
            None => Ok(Refs::Single(None)),
            Some(reference) => Ok(Refs::Single(state(reference).await?)),
        };
    }
    let states = solved.refs.iter().map(|(platform, reference)| async move {
        Ok::<_, SharedError>((platform.clone(), state(reference).await?))
    });
    Ok(Refs::Multi(
        try_join_all(states).await?.into_iter().collect(),
    ))
}

async fn attestations(solved: &Solved) -> Result<BTreeMap<String, Vec<Attestation>>, SharedError> {
    let mut all = BTreeMap::new();
    for (platform, list) in &solved.attestations {
        let mut converted = Vec::with_capacity(list.len());
        for attestation in list {
            let Some(files) = state(&attestation.reference).await? else {
                return Err(WithDetail::message(
                    Kind::User,
                    format!("attestation {:?} has no files", attestation.message.path),
                )
                .shared());
            };
            converted.push(Attestation {
                bundle: attestation.kind == gw::AttestationKind::Bundle,
                metadata: attestation
                    .message
                    .metadata
                    .iter()
                    .map(|(key, value)| (key.clone(), Bytes::from(value.clone())))
                    .collect(),
                path: attestation.message.path.clone(),
                predicate: Predicate::File(files),
                predicate_type: attestation.message.in_toto_predicate_type.clone(),
                subjects: attestation
                    .message
                    .in_toto_subjects
                    .iter()
                    .map(subject)
                    .collect(),
            });
        }
        all.insert(platform.clone(), converted);
    }
    Ok(all)
}

fn subject(subject: &gw::InTotoSubject) -> Subject {
    if subject.kind == gw::InTotoSubjectKind::Raw as i32 {
        Subject::Raw {
            name: subject.name.clone(),
            digest: subject
                .digest
                .iter()
                .filter_map(|digest| {
                    let (algorithm, hex) = digest.split_once(':')?;
                    Some((algorithm.to_owned(), hex.to_owned()))
                })
                .collect(),
        }
    } else {
        Subject::Output(subject.name.clone())
    }
}

/// Exporters that the client chooses now that it can see the result.
async fn session_exporters(
    bridge: &EngineBridge,
    refs: &Refs,
    metadata: &BTreeMap<String, Bytes>,
    services: &kiln_exporter::Services,
) -> Result<Vec<ExporterRequest>, SharedError> {
    let ids: Vec<String> = match refs {
        Refs::Single(one) => one.iter().map(|one| one.id().to_string()).collect(),
        Refs::Multi(all) => all
            .values()
            .flatten()
            .map(|one| one.id().to_string())
            .collect(),
    };
    let caller = services
        .sessions
        .get(&bridge.session_id())
        .await
        .map_err(|error| -> SharedError { Arc::new(error) })?;
    let asked = caller
        .find_exporters(metadata, ids)
        .await
        .map_err(|error| -> SharedError { Arc::new(error) })?;
    Ok(asked
        .into_iter()
        .map(|choice| ExporterRequest {
            kind: choice.kind,
            attributes: choice.attributes,
        })
        .collect())
}

async fn finalize_session_export(
    bridge: &EngineBridge,
    services: &kiln_exporter::Services,
    response: &BTreeMap<String, String>,
) -> Result<(), SharedError> {
    let caller = services
        .sessions
        .get(&bridge.session_id())
        .await
        .map_err(|error| -> SharedError { Arc::new(error) })?;
    caller
        .finalize_export(response.clone())
        .await
        .map_err(|error| Arc::new(error) as SharedError)
}

/// Descriptors by the number of the output.
fn recorded(outputs: &[ExportOutput]) -> RecordedResults {
    let results: std::collections::HashMap<i64, control::Descriptor> = outputs
        .iter()
        .enumerate()
        .filter_map(|(index, output)| {
            Some((index as i64, wire_descriptor(output.descriptor.as_ref()?)))
        })
        .collect();
    let single = results
        .values()
        .next()
        .cloned()
        .map(|first| control::BuildResultInfo {
            result_deprecated: Some(results.get(&0).cloned().unwrap_or(first)),
            attestations: Vec::new(),
            results,
        });
    RecordedResults {
        single,
        by_platform: BTreeMap::new(),
    }
}

fn wire_descriptor(descriptor: &Descriptor) -> control::Descriptor {
    control::Descriptor {
        media_type: descriptor.media_type.clone(),
        digest: descriptor.digest.to_string(),
        size: descriptor.size as i64,
        annotations: descriptor
            .annotations
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
    }
}
