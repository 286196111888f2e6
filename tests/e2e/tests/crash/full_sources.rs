//! A disk that runs full while something is taken in that isn't a client's own files: repositories, archives that
//! are unpacked, copies, imported caches, named images; and while a build's log is kept.

use anyhow::{Context as _, Result, ensure};
use kiln_harness::{Bed, Context, Kilnd, KilndOptions, Repository};

use crate::full::{BIG, MIB, Place, with_big_file};
use crate::random::Random;
use crate::thin::{Fate, From, Thin};

pub(crate) const ALL: [(&str, kiln_e2e::OnBed); 4] = [
    ("full_in_sources_and_copies", full_in_sources_and_copies),
    ("full_in_cache_import", full_in_cache_import),
    ("full_in_named_images", full_in_named_images),
    ("full_in_logs", full_in_logs),
];

fn full_in_sources_and_copies(bed: &Bed) -> Result<()> {
    let repository = Repository::create(&bed.web, "full")?;
    let noise: String = Random::new(5)
        .bytes(BIG / 2)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    repository.commit(&[("noise", &noise)])?;
    let git = Context::new(&format!("FROM scratch\nADD {} /\n", repository.url()))?;

    // Small until it is unpacked.
    let unpacked = Context::new("FROM scratch\nADD zeros.tar.gz /\n")?;
    let zeros = tempfile::tempdir()?;
    std::fs::File::create(zeros.path().join("zeros"))?.set_len(BIG as u64)?;
    let packed = std::process::Command::new("tar")
        .arg("-czf")
        .arg(unpacked.path().join("zeros.tar.gz"))
        .arg("-C")
        .arg(zeros.path())
        .arg("zeros")
        .status()?;
    ensure!(packed.success());

    // A file with another owner is another file.
    let copy = Context::new(
        "FROM busybox AS made\nRUN dd if=/dev/zero of=/filler bs=1M count=20 2>/dev/null\n\
         FROM scratch\nCOPY --from=made --chown=7:7 /filler /\n",
    )?;
    let place = Place::new(bed)?;
    for (what, context) in [("git", git), ("an archive", unpacked), ("a copy", copy)] {
        let short = place.is_short(10 * MIB, &context, Fate::Cached);
        short.context(what)?;
    }
    place.recovers()
}

fn full_in_cache_import(bed: &Bed) -> Result<()> {
    let context = Context::new("FROM busybox\nRUN head -c 20000000 /dev/urandom > /big\n")?;
    let directory = tempfile::tempdir()?;
    let reference = bed.registry.image("full/import");
    let elsewhere = Kilnd::start(&bed.registry, KilndOptions::default())?;
    let thin = Thin::new(elsewhere.socket())?;
    thin.build(context.path(), Fate::CacheTo(reference.clone()))?;
    let into = directory.path().to_path_buf();
    thin.build(context.path(), Fate::CacheInto(into.clone()))?;
    elsewhere.finish()?;
    let place = Place::new(bed)?;
    for from in [From::Registry(reference), From::Directory(into)] {
        // An output needs the layers that the cache has.
        let fate = Fate::File("oci", "/dev/null".into());
        let import = || place.thin.build_from(context.path(), fate, from.clone());
        place
            .lacks(10 * MIB, import)
            .with_context(|| format!("{from:?}"))?;
    }
    place.recovers()
}

fn full_in_named_images(bed: &Bed) -> Result<()> {
    let name = bed.registry.image("full/named:latest");
    let archive = tempfile::NamedTempFile::new()?;
    let elsewhere = Kilnd::start(&bed.registry, KilndOptions::default())?;
    let thin = Thin::new(elsewhere.socket())?;
    let context = with_big_file("FROM scratch\nCOPY big /\n")?;
    let image = vec![("name", name.clone()), ("push", "true".to_owned())];
    thin.build(context.path(), Fate::Elsewhere("image", image))?;
    let file = Fate::File("docker", archive.path().to_path_buf());
    thin.build(context.path(), file)?;
    elsewhere.finish()?;
    let place = Place::new(bed)?;
    place
        .lacks(10 * MIB, || place.thin.pull(&name))
        .context("pull")?;
    let load = || place.thin.load(archive.path());
    place.lacks(10 * MIB, load).context("load")?;
    place.recovers()
}

/// A log is no condition of a build.
fn full_in_logs(bed: &Bed) -> Result<()> {
    let place = Place::new(bed)?;
    place.disk.leave_free(6 * MIB)?;
    let context = Context::new("FROM busybox\nRUN head -c 18000000 /dev/urandom | base64\n")?;
    place.builds(&context)?;
    place.recovers()
}
