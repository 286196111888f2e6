//! Ways to the disk beside those of builds' own files: caches for a directory, cache mounts and what is
//! imported into them; and a client whose own disk is full.

use anyhow::{Context as _, Result};
use kiln_harness::{Bed, Context, Disk};

use crate::full::{BIG, MIB, Place, says_why};
use crate::random::Random;
use crate::thin::Fate;

pub(crate) const ALL: [(&str, kiln_e2e::OnBed); 4] = [
    (
        "full_in_directory_cache_export",
        full_in_directory_cache_export,
    ),
    ("full_at_the_client", full_at_the_client),
    ("full_in_cache_mount", full_in_cache_mount),
    ("full_in_mount_import", full_in_mount_import),
];

/// A layer that compression doesn't make smaller, so that its blob doesn't fit.
fn noise() -> Result<Context> {
    Context::new("FROM busybox\nRUN head -c 20000000 /dev/urandom > /big\n")
}

fn full_in_directory_cache_export(bed: &Bed) -> Result<()> {
    let place = Place::new(bed)?;
    let directory = tempfile::tempdir()?;
    let context = noise()?;
    let fate = Fate::CacheInto(directory.path().to_path_buf());
    place.builds(&context)?;
    place.is_short(6 * MIB, &context, fate.clone())?;
    place.disk.leave_free(40 * MIB)?;
    place
        .thin
        .build(context.path(), fate)
        .context("the same with room enough")?;
    place.recovers()
}

/// The daemon has room, the client has none.
fn full_at_the_client(bed: &Bed) -> Result<()> {
    let place = Place::new(bed)?;
    let client = Disk::new(32)?;
    client.leave_free(6 * MIB)?;
    let context = noise()?;
    place.builds(&context)?;
    for fate in [
        Fate::CacheInto(client.path().join("cache")),
        Fate::File("oci", client.path().join("image.tar")),
        Fate::Directory(client.path().join("files")),
    ] {
        if let Fate::CacheInto(path) | Fate::Directory(path) = &fate {
            std::fs::create_dir(path)?;
        }
        let Err(error) = place.thin.build(context.path(), fate.clone()) else {
            anyhow::bail!("{fate:?} should fail")
        };
        says_why(&error).with_context(|| format!("{fate:?}"))?;
    }
    place.recovers()
}

fn full_in_cache_mount(bed: &Bed) -> Result<()> {
    let place = Place::new(bed)?;
    let context = Context::new(
        "FROM busybox\nRUN --mount=type=cache,target=/c dd if=/dev/zero of=/c/big bs=1M count=24\n",
    )?;
    place.is_short(10 * MIB, &context, Fate::Cached)?;
    place.recovers()
}

fn full_in_mount_import(bed: &Bed) -> Result<()> {
    let place = Place::new(bed)?;
    place.disk.leave_free(10 * MIB)?;
    let bytes = Random::new(4).bytes(BIG);
    let Err(error) = place.thin.import_mount("full-import", &bytes) else {
        anyhow::bail!("the import should fail")
    };
    says_why(&error)?;
    place.recovers()
}
