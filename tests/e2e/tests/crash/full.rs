//! A disk that runs full on every way that bytes take to it.
//!
//! The build fails and says why, the daemon lives, a prune makes room though there is none left to work in, and the
//! next build succeeds. Somebody else's file keeps the disk full all along.

use anyhow::{Context as _, Result, ensure};
use kiln_harness::{Bed, Context, Disk, Kilnd, KilndOptions};

use crate::random::Random;
use crate::thin::{Fate, Thin};
use crate::verify;

pub(crate) const ALL: [(&str, kiln_e2e::OnBed); 9] = [
    ("full_in_context_transfer", full_in_context_transfer),
    ("full_in_step", full_in_step),
    ("full_in_pull", full_in_pull),
    ("full_in_download", full_in_download),
    ("full_in_archive_export", |bed| {
        full_in_export(bed, Fate::File("oci", "/dev/null".into()))
    }),
    ("full_in_store_export", |bed| {
        full_in_export(
            bed,
            Fate::Elsewhere("image", vec![("name", "full:1".to_owned())]),
        )
    }),
    ("full_in_cache_export", |bed| {
        full_in_export(bed, Fate::CacheTo(bed.registry.image("full/cache")))
    }),
    ("full_to_the_last_byte", full_to_the_last_byte),
    ("full_at_start", full_at_start),
];

const DISK_MEBIBYTES: u64 = 128;
pub(crate) const MIB: u64 = 1 << 20;
/// More than is left.
pub(crate) const BIG: usize = 24 << 20;

pub(crate) struct Place {
    pub(crate) thin: Thin,
    kilnd: Kilnd,
    pub(crate) disk: Disk,
}

impl Place {
    pub(crate) fn new(bed: &Bed) -> Result<Self> {
        let disk = Disk::new(DISK_MEBIBYTES)?;
        let options = KilndOptions {
            root: Some(disk.path().join("root")),
            ..KilndOptions::default()
        };
        let kilnd = Kilnd::start(&bed.registry, options)?;
        let thin = Thin::new(kilnd.socket())?;
        thin.is_answered()?;
        let place = Self { thin, kilnd, disk };
        // Something for the prune to give back.
        place.builds(&filler()?)?;
        Ok(place)
    }

    pub(crate) fn builds(&self, context: &Context) -> Result<()> {
        self.thin.build(context.path(), Fate::Cached)
    }

    /// Leaves so much of the disk, and expects that the build fails because of it.
    pub(crate) fn is_short(&self, free: u64, context: &Context, fate: Fate) -> Result<()> {
        self.lacks(free, || self.thin.build(context.path(), fate))
    }

    /// Leaves so much of the disk, and expects that the work fails because of it.
    pub(crate) fn lacks(&self, free: u64, work: impl FnOnce() -> Result<()>) -> Result<()> {
        self.disk.leave_free(free)?;
        let Err(error) = work() else {
            anyhow::bail!("it should fail; {} bytes are free", self.disk.free()?)
        };
        says_why(&error).with_context(|| format!("kilnd's log ends:\n{}", self.kilnd.log_tail()))
    }

    /// Nothing broke, and a prune is all that it takes.
    pub(crate) fn recovers(self) -> Result<()> {
        self.thin.is_answered()?;
        self.kilnd.check_idle()?;
        self.thin.prune().context("a prune on a full disk")?;
        ensure!(
            self.disk.free()? > 6 * MIB,
            "{} are free",
            self.disk.free()?
        );
        self.builds(&Context::new("FROM busybox\nRUN echo fits > /fits\n")?)
            .with_context(|| {
                format!(
                    "the next build; kilnd's log ends:\n{}",
                    self.kilnd.log_tail()
                )
            })?;
        verify::settled(&self.kilnd.root())?;
        self.kilnd.finish()?;
        self.disk.check()
    }
}

pub(crate) fn says_why(error: &anyhow::Error) -> Result<()> {
    let text = format!("{error:#}");
    ensure!(text.to_lowercase().contains("no space left"), "{text}");
    Ok(())
}

pub(crate) fn with_big_file(dockerfile: &str) -> Result<Context> {
    let context = Context::new(dockerfile)?;
    context.put("big", Random::new(1).bytes(BIG))?;
    Ok(context)
}

/// 20 MiB that a prune can remove.
fn filler() -> Result<Context> {
    Context::new("FROM busybox\nRUN dd if=/dev/zero of=/filler bs=1M count=20 2>/dev/null\n")
}

fn full_in_context_transfer(bed: &Bed) -> Result<()> {
    let place = Place::new(bed)?;
    place.is_short(
        10 * MIB,
        &with_big_file("FROM scratch\nCOPY big /\n")?,
        Fate::Cached,
    )?;
    place.recovers()
}

fn full_in_step(bed: &Bed) -> Result<()> {
    let place = Place::new(bed)?;
    let context = Context::new("FROM busybox\nRUN dd if=/dev/zero of=/big bs=1M count=24\n")?;
    place.is_short(10 * MIB, &context, Fate::Cached)?;
    place.recovers()
}

fn full_in_pull(bed: &Bed) -> Result<()> {
    let name = bed.registry.image("full/big:latest");
    let elsewhere = Kilnd::start(&bed.registry, KilndOptions::default())?;
    let image = vec![("name", name.clone()), ("push", "true".to_owned())];
    Thin::new(elsewhere.socket())?.build(
        with_big_file("FROM scratch\nCOPY big /\n")?.path(),
        Fate::Elsewhere("image", image),
    )?;
    elsewhere.finish()?;
    let place = Place::new(bed)?;
    let context = Context::new(&format!(
        "FROM {name} AS big\nFROM busybox\nCOPY --from=big /big /x\n"
    ))?;
    // Once while the blob comes, once while it is unpacked.
    place.is_short(10 * MIB, &context, Fate::Cached)?;
    place.is_short(30 * MIB, &context, Fate::Cached)?;
    place.recovers()
}

fn full_in_download(bed: &Bed) -> Result<()> {
    std::fs::write(
        bed.web.directory().join("full-big"),
        Random::new(2).bytes(BIG),
    )?;
    let place = Place::new(bed)?;
    let context = Context::new(&format!(
        "FROM scratch\nADD {} /\n",
        bed.web.url("full-big")
    ))?;
    place.is_short(10 * MIB, &context, Fate::Cached)?;
    place.recovers()
}

fn full_in_export(bed: &Bed, fate: Fate) -> Result<()> {
    let place = Place::new(bed)?;
    // Bytes that compression doesn't make fewer, so that the layer's blob doesn't fit.
    let context = Context::new("FROM busybox\nRUN head -c 20000000 /dev/urandom > /big\n")?;
    place.builds(&context)?;
    place.is_short(6 * MIB, &context, fate.clone())?;
    place.disk.leave_free(40 * MIB)?;
    if !matches!(fate, Fate::File(..)) {
        place
            .thin
            .build(context.path(), fate)
            .context("the same with room enough")?;
    }
    place.recovers()
}

fn full_to_the_last_byte(bed: &Bed) -> Result<()> {
    let place = Place::new(bed)?;
    place.disk.leave_free(0)?;
    for number in 0..3 {
        let context = Context::new(&format!("FROM busybox\nRUN echo {number} > /f\n"))?;
        if let Err(error) = place.builds(&context) {
            says_why(&error)?;
        }
    }
    place.recovers()
}

fn full_at_start(bed: &Bed) -> Result<()> {
    let mut place = Place::new(bed)?;
    place.disk.leave_free(0)?;
    place.kilnd.kill()?;
    place.kilnd.start_again()?;
    place
        .thin
        .is_answered()
        .with_context(|| place.kilnd.log_tail())?;
    place.recovers()
}
