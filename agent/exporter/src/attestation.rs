//! In-toto statements about a result.
//!
//! An attestation is a predicate (provenance, an SBOM) and what it is about. Bundles are directories of
//! whole statements, taken apart first. Provenance is only believed when the engine made it itself.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::Path;

use bytes::Bytes;
use kiln_cache::Ref;
use kiln_ids::SessionId;
use kiln_oci::Digest;
use kiln_progress::VertexProgress;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Error;

const MAX_BYTES: u64 = 40 << 20;
const PROVENANCE: &str = "https://slsa.dev/provenance/";
const STATEMENT: &str = "https://in-toto.io/Statement/v1";
/// Metadata of attestations that only matter inside images.
const INLINE_ONLY: &str = "inline-only";
const SBOM_CORE: &str = "sbom-core";

/// Where a predicate's bytes come from.
#[derive(Debug, Clone)]
pub enum Predicate {
    /// The engine made it.
    Bytes(Bytes),
    /// A file of a file system, at the attestation's path.
    File(Ref),
}

/// What an attestation is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// The exported thing; a further name for it, if not empty.
    Output(String),
    /// Something else.
    Raw {
        /// Its name; `_` if empty.
        name: String,
        /// Its digests, by algorithm.
        digest: BTreeMap<String, String>,
    },
}

/// An attestation.
#[derive(Debug, Clone)]
pub struct Attestation {
    /// A directory of statements, not one predicate.
    pub bundle: bool,
    /// `reason`, `inline-only`, `sbom-core`.
    pub metadata: BTreeMap<String, Bytes>,
    /// Where the file, or the bundle, is; its last part names the output file.
    pub path: String,
    /// Its content.
    pub predicate: Predicate,
    /// What kind of predicate.
    pub predicate_type: String,
    /// What it is about; the output itself if empty.
    pub subjects: Vec<Subject>,
}

impl Attestation {
    /// Whether it only goes into images that are asked for it.
    pub(crate) fn inline_only(&self) -> bool {
        self.metadata
            .get(INLINE_ONLY)
            .is_some_and(|value| value.as_ref() == b"true")
    }
}

/// A subject of a statement, with Go's field order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StatementSubject {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) digest: BTreeMap<String, String>,
}

impl StatementSubject {
    pub(crate) fn new(name: impl Into<String>, digest: &Digest) -> Self {
        Self {
            name: name.into(),
            digest: [("sha256".to_owned(), digest.hex())].into(),
        }
    }
}

/// A statement, with Go's field order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    #[serde(rename = "predicateType")]
    pub(crate) predicate_type: String,
    #[serde(default)]
    subject: Vec<StatementSubject>,
    predicate: Value,
    /// The last part of the attestation's path.
    #[serde(skip)]
    pub(crate) file_name: String,
}

/// Takes bundles apart and reads every predicate; the core SBOM comes first.
pub(crate) async fn unbundle(
    attestations: Vec<Attestation>,
    sessions: &[SessionId],
    progress: &VertexProgress,
) -> Result<Vec<Attestation>, Error> {
    let mut out = Vec::new();
    for mut attestation in attestations {
        let failed = |reason: &str| {
            Err(Error::Attestation {
                path: attestation.path.clone(),
                reason: reason.to_owned(),
            })
        };
        if attestation.path.is_empty() && !attestation.bundle {
            return failed("it has no path");
        }
        let state = match &attestation.predicate {
            Predicate::Bytes(_) if attestation.bundle => return failed("a bundle must be files"),
            Predicate::Bytes(_) => {
                out.push(attestation);
                continue;
            }
            Predicate::File(state) => state.clone(),
        };
        if attestation.predicate_type.starts_with(PROVENANCE) {
            return failed("frontend may not set provenance attestations");
        }
        let root = state.root_path(sessions, progress).await?;
        if attestation.bundle {
            out.extend(open_bundle(root.path(), &attestation)?);
        } else {
            let bytes = read_below(root.path(), &attestation.path)?;
            attestation.predicate = Predicate::Bytes(bytes.into());
            out.push(attestation);
        }
    }
    // Stable: the rest keep their order.
    out.sort_by_key(|attestation| !is_core(attestation));
    Ok(out)
}

fn is_core(attestation: &Attestation) -> bool {
    let stem = attestation.path.split('.').next().unwrap_or_default();
    attestation
        .metadata
        .get(SBOM_CORE)
        .is_some_and(|name| name.as_ref() == stem.as_bytes())
}

fn open_bundle(root: &Path, bundle: &Attestation) -> Result<Vec<Attestation>, Error> {
    let failed = |path: &str, reason: String| Error::Attestation {
        path: path.to_owned(),
        reason,
    };
    let dir = open_below(root, &bundle.path, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let entries = rustix::fs::Dir::read_from(&dir)
        .map_err(|errno| failed(&bundle.path, errno.to_string()))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|errno| failed(&bundle.path, errno.to_string()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    names.sort();
    let mut out = Vec::new();
    for name in names {
        let path = format!("{}/{name}", bundle.path.trim_end_matches('/'));
        let bytes = read_below(root, &path)?;
        let statement: Statement = serde_json::from_slice(&bytes)
            .map_err(|error| failed(&path, format!("not an in-toto statement: {error}")))?;
        if !bundle.predicate_type.is_empty() && statement.predicate_type != bundle.predicate_type {
            let kind = &statement.predicate_type;
            return Err(failed(&path, format!("unexpected predicate type {kind}")));
        }
        if statement.predicate_type.starts_with(PROVENANCE) {
            let reason = "frontend may not bundle provenance attestations";
            return Err(failed(&path, reason.to_owned()));
        }
        out.push(Attestation {
            bundle: false,
            metadata: bundle.metadata.clone(),
            path,
            predicate: Predicate::Bytes(statement.predicate.to_string().into()),
            predicate_type: statement.predicate_type,
            subjects: statement
                .subject
                .into_iter()
                .map(|subject| Subject::Raw {
                    name: subject.name,
                    digest: subject.digest,
                })
                .collect(),
        });
    }
    Ok(out)
}

/// Opens a path of a result without leaving it: its symlinks are resolved inside.
fn open_below(root: &Path, path: &str, flags: OFlags) -> Result<OwnedFd, Error> {
    let failed = |errno: rustix::io::Errno| Error::Io {
        action: "read attestation",
        what: path.to_owned(),
        source: errno.into(),
    };
    let dir = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, root, dir, Mode::empty()).map_err(failed)?;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let relative = path.trim_start_matches('/');
    let relative = if relative.is_empty() { "." } else { relative };
    rustix::fs::openat2(&root, relative, flags, Mode::empty(), inside).map_err(failed)
}

fn read_below(root: &Path, path: &str) -> Result<Vec<u8>, Error> {
    let failed = |reason: String| Error::Attestation {
        path: path.to_owned(),
        reason,
    };
    let file = File::from(open_below(root, path, OFlags::RDONLY)?);
    let meta = file.metadata().map_err(|error| failed(error.to_string()))?;
    if !meta.is_file() {
        return Err(failed("not a regular file".into()));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| failed(error.to_string()))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(failed(format!("longer than {MAX_BYTES} bytes")));
    }
    Ok(bytes)
}

/// The statements; `output` is what was exported, under its names.
pub(crate) fn statements(
    attestations: &[Attestation],
    output: &[StatementSubject],
) -> Result<Vec<Statement>, Error> {
    attestations
        .iter()
        .map(|attestation| {
            let itself = [Subject::Output(String::new())];
            let subjects = if attestation.subjects.is_empty() {
                &itself[..]
            } else {
                &attestation.subjects
            };
            let mut subject = Vec::new();
            for one in subjects {
                match one {
                    Subject::Output(name) => {
                        for default in output {
                            subject.push(default.clone());
                            if !name.is_empty() {
                                subject.push(StatementSubject {
                                    name: name.clone(),
                                    digest: default.digest.clone(),
                                });
                            }
                        }
                    }
                    Subject::Raw { name, digest } => subject.push(StatementSubject {
                        name: if name.is_empty() {
                            "_".to_owned()
                        } else {
                            name.clone()
                        },
                        digest: digest.clone(),
                    }),
                }
            }
            let Predicate::Bytes(predicate) = &attestation.predicate else {
                return Err(Error::Attestation {
                    path: attestation.path.clone(),
                    reason: "its predicate wasn't read".into(),
                });
            };
            let predicate: Value =
                serde_json::from_slice(predicate).map_err(|error| Error::Attestation {
                    path: attestation.path.clone(),
                    reason: format!("its predicate isn't JSON: {error}"),
                })?;
            Ok(Statement {
                kind: STATEMENT.to_owned(),
                predicate_type: attestation.predicate_type.clone(),
                subject,
                predicate,
                file_name: attestation
                    .path
                    .rsplit('/')
                    .next()
                    .unwrap_or_default()
                    .to_owned(),
            })
        })
        .collect()
}
