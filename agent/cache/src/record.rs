//! Records and layers in memory.
//!
//! A [`Record`] is what a handle names: its lineage, what people and GC know about it, and how many
//! use it. A [`Layer`] is what holds bytes: a snapshot (extracted or not) and blobs. Usually a record
//! owns one layer; a merge owns none, a diff between neighbours borrows the upper one's, and a ref that
//! was committed from a retained mutable record shares that record's until it must last.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::{Duration, SystemTime};

use kiln_ids::RefId;
use kiln_oci::{Descriptor, Digest};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::contenthash::Tree;
use crate::provider::BlobProvider;
use crate::{Origin, UsageKind};

/// What a record is built on.
#[derive(Debug, Clone)]
pub(crate) enum Lineage {
    Base,
    Layer(Arc<Record>),
    Merge(Vec<Arc<Record>>),
    Diff {
        lower: Option<Arc<Record>>,
        upper: Option<Arc<Record>>,
    },
}

impl Lineage {
    /// The records named, in order.
    pub(crate) fn parents(&self) -> Vec<&Arc<Record>> {
        match self {
            Self::Base => Vec::new(),
            Self::Layer(parent) => vec![parent],
            Self::Merge(parents) => parents.iter().collect(),
            Self::Diff { lower, upper } => lower.iter().chain(upper).collect(),
        }
    }
}

/// A file-system state.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) id: RefId,
    pub(crate) lineage: Lineage,
    /// `None` for merges on overlayfs, which are nothing but their parents.
    pub(crate) layer: Option<Arc<Layer>>,
    /// Handles on it.
    pub(crate) handles: AtomicUsize,
    /// Records built on it.
    pub(crate) children: AtomicUsize,
    pub(crate) data: Mutex<RecordData>,
    pub(crate) tree: Mutex<TreeSlot>,
    /// Taken by who asks the tree.
    pub(crate) tree_work: Arc<tokio::sync::Mutex<()>>,
}

/// The hash tree of a record, as far as it is in memory.
#[derive(Debug, Default)]
pub(crate) enum TreeSlot {
    /// Not looked for yet.
    #[default]
    Unknown,
    /// Here, as it is stored.
    Loaded(Arc<Tree>),
}

/// What of a record changes.
#[derive(Debug, Clone)]
pub(crate) struct RecordData {
    pub(crate) mutable: bool,
    pub(crate) retain: bool,
    pub(crate) owns_layer: bool,
    pub(crate) description: String,
    pub(crate) kind: UsageKind,
    pub(crate) index: Vec<String>,
    pub(crate) created: SystemTime,
    pub(crate) last_used: Option<SystemTime>,
    pub(crate) usage_count: u64,
    pub(crate) build_time: Option<Duration>,
    pub(crate) origin: Option<Arc<Origin>>,
    pub(crate) pinned: bool,
    /// The mutable record whose files this immutable one shares.
    pub(crate) shares_with: Option<RefId>,
    /// The immutable record that shares this mutable one's files.
    pub(crate) shared_by: Option<RefId>,
    /// Bytes of the snapshot, once measured.
    pub(crate) files_size: Option<u64>,
    pub(crate) values: BTreeMap<String, Vec<u8>>,
}

/// Bytes of a state, relative to what is below.
pub(crate) struct Layer {
    /// Name of its snapshot.
    pub(crate) snapshot: String,
    /// Whether the snapshot holds its files.
    pub(crate) extracted: AtomicBool,
    /// Taken by who extracts the layer or makes blobs of it.
    pub(crate) work: Arc<tokio::sync::Mutex<()>>,
    pub(crate) info: Mutex<LayerInfo>,
}

/// What is known of a layer.
#[derive(Default, Clone)]
pub(crate) struct LayerInfo {
    /// Digest of the uncompressed archive.
    pub(crate) diff_id: Option<Digest>,
    /// In order of preference: the form it came in is the first.
    pub(crate) blobs: Vec<BlobVariant>,
    /// Directories whose attributes are still those of an archive that didn't name them.
    pub(crate) implied: Vec<std::path::PathBuf>,
}

/// A layer in one form.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct BlobVariant {
    pub(crate) descriptor: Descriptor,
    /// Differs from the layer's where times were rewritten.
    pub(crate) diff_id: Digest,
    /// The epoch that times were cut at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) epoch: Option<i64>,
    /// Where the blob can be had.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) sources: Vec<String>,
    #[serde(skip)]
    pub(crate) provider: Option<Arc<dyn BlobProvider>>,
}

impl std::fmt::Debug for BlobVariant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobVariant")
            .field("digest", &self.descriptor.digest)
            .field("media_type", &self.descriptor.media_type)
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Layer")
            .field("snapshot", &self.snapshot)
            .field("extracted", &self.extracted)
            .finish_non_exhaustive()
    }
}

impl Layer {
    pub(crate) fn new(snapshot: impl Into<String>, extracted: bool) -> Arc<Self> {
        Arc::new(Self {
            snapshot: snapshot.into(),
            extracted: AtomicBool::new(extracted),
            work: Arc::default(),
            info: Mutex::default(),
        })
    }

    pub(crate) fn is_extracted(&self) -> bool {
        self.extracted.load(std::sync::atomic::Ordering::Acquire)
    }

    pub(crate) fn diff_id(&self) -> Option<Digest> {
        self.info.lock().diff_id
    }

    /// Adds a form of the layer, or completes one that is known. Says if it is new.
    pub(crate) fn add_blob(&self, variant: BlobVariant) -> bool {
        let mut info = self.info.lock();
        if variant.epoch.is_none() {
            info.diff_id.get_or_insert(variant.diff_id);
        }
        let known = info.blobs.iter_mut().find(|known| {
            known.descriptor.digest == variant.descriptor.digest && known.epoch == variant.epoch
        });
        match known {
            Some(known) => {
                if variant.provider.is_some() {
                    known.provider = variant.provider;
                }
                for source in variant.sources {
                    if !known.sources.contains(&source) {
                        known.sources.push(source);
                    }
                }
                false
            }
            None => {
                info.blobs.push(variant);
                true
            }
        }
    }
}

impl Record {
    /// The layers that make the state, the lowest first.
    pub(crate) fn stack(&self) -> Vec<Arc<Layer>> {
        let mut stack = Vec::new();
        self.push_stack(&mut stack);
        stack
    }

    fn push_stack(&self, stack: &mut Vec<Arc<Layer>>) {
        // Chains are deep, so they are walked and not recursed into.
        let mut chain = Vec::new();
        let mut at = self;
        loop {
            match (&at.lineage, &at.layer) {
                (Lineage::Layer(parent), Some(layer)) => {
                    chain.push(Arc::clone(layer));
                    at = parent;
                }
                (_, Some(layer)) => {
                    chain.push(Arc::clone(layer));
                    break;
                }
                (lineage, None) => {
                    for parent in lineage.parents() {
                        parent.push_stack(stack);
                    }
                    break;
                }
            }
        }
        stack.extend(chain.into_iter().rev());
    }

    /// The layers below its own.
    pub(crate) fn stack_below(&self) -> Vec<Arc<Layer>> {
        match &self.lineage {
            Lineage::Layer(parent) => parent.stack(),
            Lineage::Base | Lineage::Merge(_) | Lineage::Diff { .. } => Vec::new(),
        }
    }

    /// The OCI chain id over the diff ids of a stack.
    pub(crate) fn chain_id(&self) -> Option<Digest> {
        chain(self.stack().iter().map(|layer| layer.diff_id()))
    }

    /// The chain id over the first blobs, which tells images with other compressions apart.
    pub(crate) fn blob_chain_id(&self) -> Option<Digest> {
        chain(self.stack().iter().map(|layer| {
            let info = layer.info.lock();
            let blob = info.blobs.first()?.descriptor.digest;
            Some(blob_id(blob, info.diff_id?))
        }))
    }
}

/// What stands for one layer in a blob chain.
pub(crate) fn blob_id(blob: Digest, diff_id: Digest) -> Digest {
    extend_chain(blob, diff_id)
}

/// The chain id of a layer on top of a chain.
pub(crate) fn extend_chain(below: Digest, layer: Digest) -> Digest {
    Digest::of(format!("{below} {layer}"))
}

/// The chain id of layers, `None` where one isn't known or there is none.
pub(crate) fn chain(layers: impl Iterator<Item = Option<Digest>>) -> Option<Digest> {
    let mut chain = None;
    for layer in layers {
        let layer = layer?;
        chain = Some(match chain {
            Some(below) => extend_chain(below, layer),
            None => layer,
        });
    }
    chain
}
