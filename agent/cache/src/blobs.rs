//! Layers as blobs: chosen among the forms that are known, or made.
//!
//! A blob is made from the layer's files (the diff against what is below, compressed as it is written)
//! or from another form of it. It is made once per compression and kept. The uncompressed digest falls
//! out on the way, and with it the chain ids by which equal layers are found.

use std::io::{self, BufWriter, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use kiln_content::codec::{Compressor, Decompressor, ReadAhead};
use kiln_content::{BlockingWriter, Compression, CompressionSpec};
use kiln_oci::{Descriptor, Digest, Digester};
use kiln_snapshot::diff::{DiffOptions, write_trees, write_upper};
use kiln_snapshot::tar::{Limits, rewrite_timestamps};

use crate::compose::sides;
use crate::extract::Asker;
use crate::record::{BlobVariant, Layer, Lineage, Record};
use crate::shared::Shared;
use crate::{Error, LayerBlob, Result};

/// The epoch that times are cut at, and the diff ids that are left alone.
pub(crate) type Rewrite<'a> = Option<(i64, &'a [Digest])>;

/// What a blob is made of.
enum Source {
    /// The difference between two stacks; `upper_only` if the last directory of the second says it all.
    Files {
        lower: Vec<PathBuf>,
        upper: Vec<PathBuf>,
        upper_only: bool,
    },
    /// Another form of the layer.
    Blob(Digest),
}

impl Shared {
    /// The layers of a record as blobs, the lowest first.
    pub(crate) async fn blobs(
        self: &Arc<Self>,
        record: &Arc<Record>,
        spec: &CompressionSpec,
        create: bool,
        rewrite: Rewrite<'_>,
        asker: Asker<'_>,
    ) -> Result<Vec<LayerBlob>> {
        if create {
            // What only asks leaves the files with the mutable record, or its next use would begin with none.
            self.settle_view(record).await?;
        }
        let owners = blob_owners(record);
        let tasks = owners
            .iter()
            .map(|owner| self.layer_blob(owner, spec, create, rewrite, asker));
        let blobs: Vec<Option<LayerBlob>> = futures::future::try_join_all(tasks).await?;
        if create {
            for owner in &owners {
                self.index_chains(owner);
            }
        }
        // Some without their neighbours are of no use.
        Ok(blobs
            .into_iter()
            .collect::<Option<Vec<_>>>()
            .unwrap_or_default())
    }

    async fn layer_blob(
        self: &Arc<Self>,
        owner: &Arc<Record>,
        spec: &CompressionSpec,
        create: bool,
        rewrite: Rewrite<'_>,
        asker: Asker<'_>,
    ) -> Result<Option<LayerBlob>> {
        let Some(layer) = &owner.layer else {
            return Ok(None);
        };
        let epoch = rewrite.and_then(|(epoch, keep)| {
            let kept = layer
                .diff_id()
                .is_some_and(|diff_id| keep.contains(&diff_id));
            (!kept).then_some(epoch)
        });
        if let Some(variant) = self.choose(layer, spec, epoch) {
            return Ok(Some(self.describe(owner, variant)));
        }
        if !create {
            return Ok(None);
        }
        self.make_blob(owner, layer, spec, epoch, asker).await?;
        let made = self.choose(layer, spec, epoch);
        Ok(made.map(|variant| self.describe(owner, variant)))
    }

    /// A known form that will do: of the wanted compression if that is forced or there is one, else any.
    fn choose(
        &self,
        layer: &Layer,
        spec: &CompressionSpec,
        epoch: Option<i64>,
    ) -> Option<BlobVariant> {
        let info = layer.info.lock();
        let of_kind = |variant: &&BlobVariant| {
            Compression::from_media_type(&variant.descriptor.media_type)
                .is_ok_and(|kind| kind == spec.kind)
        };
        let forms = || {
            info.blobs.iter().filter(|variant| {
                variant.epoch == epoch
                    && (variant.provider.is_some()
                        || self.content.info(&variant.descriptor.digest).is_some())
            })
        };
        let wanted = forms().find(of_kind);
        let any = || (!spec.force && epoch.is_none()).then(|| forms().next());
        wanted.or_else(|| any().flatten()).cloned()
    }

    fn describe(&self, owner: &Record, variant: BlobVariant) -> LayerBlob {
        let local = self.content.info(&variant.descriptor.digest).is_some();
        let data = owner.data.lock();
        LayerBlob {
            provider: variant.provider.filter(|_| !local),
            descriptor: variant.descriptor,
            diff_id: variant.diff_id,
            created: Some(data.created),
            description: data.description.clone(),
        }
    }

    async fn make_blob(
        self: &Arc<Self>,
        owner: &Arc<Record>,
        layer: &Arc<Layer>,
        spec: &CompressionSpec,
        epoch: Option<i64>,
        asker: Asker<'_>,
    ) -> Result<()> {
        let known = {
            let info = layer.info.lock();
            let mut plain = info.blobs.iter().filter(|variant| variant.epoch.is_none());
            plain.next().cloned()
        };
        if let Some(known) = &known {
            self.fetch(owner, layer, known, asker).await?;
        } else {
            self.extract(owner, asker).await?;
        }
        let turn = Arc::clone(&layer.work).lock_owned().await;
        if self.choose(layer, spec, epoch).is_some() {
            return Ok(());
        }
        let permit = Arc::clone(&self.work)
            .acquire_owned()
            .await
            .map_err(|_| Error::Cancelled)?;
        let source = match known {
            Some(known) => Source::Blob(known.descriptor.digest),
            None => self.files(owner)?,
        };
        let (shared, layer) = (Arc::clone(self), Arc::clone(layer));
        let spec = *spec;
        tokio::task::spawn_blocking(move || {
            let _held = (turn, permit);
            let variant = shared.write_blob(source, &spec, epoch)?;
            shared.add_blob(&layer, variant);
            Ok(())
        })
        .await
        .map_err(|_| Error::Cancelled)?
    }

    /// Brings a form of a layer here.
    async fn fetch(
        self: &Arc<Self>,
        owner: &Record,
        layer: &Layer,
        variant: &BlobVariant,
        asker: Asker<'_>,
    ) -> Result<()> {
        let blob = variant.descriptor.digest;
        if self.content.info(&blob).is_some() {
            return Ok(());
        }
        let provider = variant.provider.as_ref().ok_or_else(|| Error::NoProvider {
            record: owner.id.clone(),
            blob,
        })?;
        let _turn = layer.work.lock().await;
        if self.content.info(&blob).is_some() {
            return Ok(());
        }
        provider
            .fetch(&variant.descriptor, asker.sessions, asker.progress)
            .await
            .map_err(|source| Error::Fetch { blob, source })
    }

    /// Where the difference that makes a layer is to be seen.
    fn files(&self, owner: &Record) -> Result<Source> {
        let directories = |stack: &[String]| {
            let stack: Vec<&str> = stack.iter().map(String::as_str).collect();
            self.snapshots.layers(&stack)
        };
        let (lower, upper) = sides(owner);
        if !self.snapshots.layers_are_independent() {
            return Ok(Source::Files {
                lower: directories(&lower)?,
                upper: directories(&upper)?,
                upper_only: false,
            });
        }
        let own = owner.layer.as_ref().map(|layer| layer.snapshot.clone());
        Ok(Source::Files {
            lower: directories(&lower)?,
            upper: directories(own.as_slice())?,
            upper_only: true,
        })
    }

    fn write_blob(
        &self,
        source: Source,
        spec: &CompressionSpec,
        epoch: Option<i64>,
    ) -> Result<BlobVariant> {
        let failed = |source| Error::Io {
            doing: "failed to write a layer to",
            path: "the content store".into(),
            source,
        };
        let blob = BlobOut(self.content.blocking_writer()?);
        let archive = Archive {
            out: Compressor::new(spec, blob).map_err(failed)?,
            // The blob's own digest serves where nothing is compressed.
            digester: (spec.kind != Compression::Uncompressed).then(Digester::new),
        };
        let archive = BufWriter::with_capacity(256 << 10, archive);
        let archive = match source {
            Source::Files {
                lower,
                upper,
                upper_only,
            } => {
                let options = DiffOptions { latest_time: epoch };
                match (upper_only, upper.as_slice()) {
                    (true, [only]) => write_upper(&lower, only, archive, options)?.0,
                    _ => write_trees(&lower, &upper, archive, options)?.0,
                }
            }
            Source::Blob(digest) => {
                let inflated = Decompressor::new(self.content.open_blob(&digest)?)
                    .and_then(ReadAhead::new)
                    .map_err(failed)?;
                copy_archive(inflated, archive, epoch).map_err(failed)?
            }
        };
        let archive = archive.into_inner().map_err(|e| failed(e.into_error()))?;
        let blob = archive.out.finish().map_err(failed)?;
        let info = blob.0.commit(None, None)?;
        let diff_id = archive.digester.map_or(info.digest, Digester::finish);
        Ok(BlobVariant {
            descriptor: Descriptor::new(spec.kind.media_type(true), info.digest, info.size),
            diff_id,
            epoch,
            sources: Vec::new(),
            provider: None,
        })
    }
}

/// Copies an archive, its times cut at an epoch if there is one.
fn copy_archive<W: Write>(
    mut from: impl Read,
    mut to: BufWriter<W>,
    epoch: Option<i64>,
) -> io::Result<BufWriter<W>> {
    match epoch {
        None => {
            io::copy(&mut from, &mut to)?;
            Ok(to)
        }
        Some(epoch) => {
            let from = io::BufReader::with_capacity(128 << 10, from);
            rewrite_timestamps(from, to, epoch, Limits::default()).map_err(io::Error::other)
        }
    }
}

/// The records that stand for the layers of a record as an image has them, the lowest first. Where a
/// diff borrows its layer, the lender stands for it.
pub(crate) fn blob_owners(record: &Arc<Record>) -> Vec<Arc<Record>> {
    let mut owners = Vec::new();
    push_owners(record, &mut owners);
    owners
}

fn push_owners(record: &Arc<Record>, owners: &mut Vec<Arc<Record>>) {
    let mut chain = Vec::new();
    let mut at = record;
    loop {
        match &at.lineage {
            Lineage::Layer(parent) => {
                chain.push(Arc::clone(at));
                at = parent;
            }
            Lineage::Base => {
                chain.push(Arc::clone(at));
                break;
            }
            Lineage::Merge(parents) => {
                for parent in parents {
                    push_owners(parent, owners);
                }
                break;
            }
            Lineage::Diff { lower, upper } => {
                let lender = upper.as_ref().filter(|upper| {
                    matches!((&upper.lineage, lower), (Lineage::Layer(below), Some(lower)) if below.id == lower.id)
                });
                chain.push(Arc::clone(lender.unwrap_or(at)));
                break;
            }
        }
    }
    owners.extend(chain.into_iter().rev());
}

/// Lets the compressor write into the content store.
struct BlobOut(BlockingWriter);

impl Write for BlobOut {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.append(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The uncompressed side of a blob under way.
struct Archive {
    out: Compressor<BlobOut>,
    digester: Option<Digester>,
}

impl Write for Archive {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        if let Some(digester) = &mut self.digester {
            digester.update(&bytes[..n]);
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
