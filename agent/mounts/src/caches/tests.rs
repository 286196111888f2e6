//! Cache mounts seen and changed from outside, hostile contents included.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::Duration;

use kiln_content::ContentStore;
use kiln_snapshot::Snapshots;
use kiln_snapshot::tar::{Header, Kind, TarWriter};
use kiln_store::StateRoot;

use super::*;
use crate::cache::{CacheMount, CacheMounts};

struct Bench {
    mounts: CacheMounts,
    caches: Caches,
    cache: CacheManager,
    directory: tempfile::TempDir,
}

async fn bench() -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let root = StateRoot::open(directory.path().join("root")).unwrap();
    let content = ContentStore::open(&root).unwrap();
    let snapshots = Snapshots::open(root.snapshots_dir()).unwrap();
    let cache = CacheManager::new(&root, content, snapshots).await.unwrap();
    let scratch = directory.path().join("scratch");
    fs::create_dir(&scratch).unwrap();
    let mounts = CacheMounts::new(cache.clone(), scratch);
    Bench {
        caches: mounts.caches(),
        mounts,
        cache,
        directory,
    }
}

impl Bench {
    async fn step(&self, id: &str, build: &str) -> Arc<CacheMount> {
        self.step_on(id, build, None).await
    }

    async fn step_on(
        &self,
        id: &str,
        build: &str,
        seed: Option<&kiln_cache::Ref>,
    ) -> Arc<CacheMount> {
        let wanted = Wanted {
            id,
            target: "/c",
            sharing: CacheSharingOpt::Shared as i32,
            seed,
            user: "a test",
            build,
        };
        self.mounts.get(&wanted).await.unwrap()
    }

    /// Fills a cache mount as a step would, and gives it back.
    async fn filled(&self, id: &str, fill: impl FnOnce(&Path)) -> RefId {
        let mount = self.step(id, "build-1").await;
        fill(&directory_of(&mount));
        drop(mount);
        self.caches.list().await.unwrap()[0].record.clone()
    }

    async fn file(&self, record: &RefId, path: &str) -> Result<String, String> {
        let pieces = self
            .caches
            .read(record, path)
            .await
            .map_err(|error| words(&error))?;
        Ok(String::from_utf8(collect(pieces).await.unwrap()).unwrap())
    }

    async fn names(&self, record: &RefId, path: &str) -> Vec<String> {
        let directory = self.caches.browse(record, path).await.unwrap();
        directory.entries.into_iter().map(|one| one.name).collect()
    }
}

fn directory_of(mount: &Arc<CacheMount>) -> PathBuf {
    let mountable = mount
        .mountable(Path::new("/nowhere"), Path::new("/c"))
        .unwrap();
    mountable.specs[0].source.clone()
}

fn words(error: &Error) -> String {
    use std::error::Error as _;
    let source = error.source().map(ToString::to_string);
    format!("{error}: {}", source.unwrap_or_default())
}

async fn collect(mut pieces: Pieces) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(piece) = pieces.recv().await {
        all.extend_from_slice(&piece?);
    }
    Ok(all)
}

fn pieces(bytes: &[u8]) -> Pieces {
    let (sender, pieces) = mpsc::channel(1 + bytes.len() / 1000);
    for piece in bytes.chunks(1000) {
        sender.try_send(Ok(Bytes::copy_from_slice(piece))).unwrap();
    }
    pieces
}

fn archive(entries: &[(&str, Kind, &str)]) -> Vec<u8> {
    let mut writer = TarWriter::new(Vec::new());
    for (name, kind, content) in entries {
        let mut header = Header::new(*name, *kind);
        header.mode = 0o644;
        if *kind == Kind::Regular {
            header.size = content.len() as u64;
        } else {
            header.linkname = (*content).into();
        }
        writer.entry(&header, &mut content.as_bytes()).unwrap();
    }
    writer.finish().unwrap()
}

#[tokio::test]
async fn mounts_are_listed_with_their_last_build() {
    let bench = bench().await;
    let record = bench.filled("cargo", |root| {
        fs::write(root.join("f"), vec![1; 9000]).unwrap();
    });
    let record = record.await;
    let held = bench.step("cargo", "build-2").await;
    let listed = bench.caches.get(&record).await.unwrap();
    assert_eq!(
        (
            listed.id.as_str(),
            listed.sharing.as_str(),
            listed.last_build.as_str()
        ),
        ("cargo", "shared", "build-2")
    );
    assert!(listed.in_use && listed.last_used.is_some());
    drop(held);
    let listed = bench.caches.get(&record).await.unwrap();
    assert!(!listed.in_use && listed.bytes >= 9000, "{listed:?}");
    let other = RefId::new("nobody");
    let error = bench.caches.browse(&other, "").await.unwrap_err();
    assert!(matches!(error, Error::NotCacheMount(_)), "{error}");
}

#[tokio::test]
async fn paths_stay_in_the_mount() {
    let bench = bench().await;
    let outside = bench.directory.path().join("outside");
    fs::write(&outside, "secret").unwrap();
    let record = bench.filled("hostile", |root| {
        fs::create_dir(root.join("dir")).unwrap();
        fs::write(root.join("dir/f"), "inside").unwrap();
        fs::set_permissions(root.join("dir/f"), fs::Permissions::from_mode(0o640)).unwrap();
        symlink(&outside, root.join("absolute")).unwrap();
        symlink("../../../../../../../../etc/passwd", root.join("up")).unwrap();
        symlink("/", root.join("root")).unwrap();
        symlink("dir/f", root.join("good")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        symlink("/proc/self/root/etc/passwd", root.join("magic")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            root.join("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o644),
            0,
        )
        .unwrap();
    });
    let record = record.await;
    for (path, want) in [
        ("dir/f", Ok("inside")),
        ("/dir/f", Ok("inside")),
        ("good", Ok("inside")),
        ("root/dir/f", Ok("inside")),
        ("../../dir/f", Ok("inside")),
        ("absolute", Err("No such file")),
        ("up", Err("No such file")),
        ("magic", Err("No such file")),
        ("loop", Err("symbolic links")),
        ("pipe", Err("not a regular file")),
        ("dir", Err("directory")),
        ("missing", Err("No such file")),
        ("dir/f\0x", Err("")),
    ] {
        let got = bench.file(&record, path).await;
        match want {
            Ok(content) => assert_eq!(got.as_deref(), Ok(content), "{path}"),
            Err(text) => assert!(
                got.as_ref().is_err_and(|e| e.contains(text)),
                "{path}: {got:?}"
            ),
        }
    }
    let top = bench.caches.browse(&record, "").await.unwrap();
    let described: Vec<_> = top
        .entries
        .iter()
        .map(|one| {
            (
                one.name.as_str(),
                one.kind.as_str(),
                one.link_target.as_str(),
            )
        })
        .collect();
    assert!(
        described.contains(&("good", "symlink", "dir/f")),
        "{described:?}"
    );
    assert!(
        described.contains(&("dir", "directory", "")) && described.contains(&("pipe", "other", ""))
    );
    assert_eq!(bench.names(&record, "root/dir").await, ["f"]);
    assert_eq!(
        bench.names(&record, "/../..").await.len(),
        top.entries.len()
    );
    let file = &bench.caches.browse(&record, "dir").await.unwrap().entries[0];
    assert_eq!((file.bytes, file.mode), (6, 0o640));
    assert!(bench.caches.browse(&record, "dir/f").await.is_err());
}

#[tokio::test]
async fn what_is_exported_can_be_imported() {
    let bench = bench().await;
    let record = bench.filled("from", |root| {
        fs::create_dir(root.join("dir")).unwrap();
        fs::write(root.join("dir/large"), vec![b'x'; 700_000]).unwrap();
        fs::hard_link(root.join("dir/large"), root.join("dir/again")).unwrap();
        symlink("dir/large", root.join("link")).unwrap();
        fs::write(root.join(".wh.name"), "not a whiteout").unwrap();
    });
    let record = record.await;
    let tar = collect(bench.caches.export(&record).await.unwrap())
        .await
        .unwrap();
    let target = CacheTarget::Id("to".into());
    let made = bench
        .caches
        .import(target, false, pieces(&tar))
        .await
        .unwrap();
    assert_eq!(made.id, "to");
    assert_eq!(
        bench.names(&made.record, "").await,
        [".wh.name", "dir", "link"]
    );
    assert_eq!(
        bench.file(&made.record, "link").await.unwrap().len(),
        700_000
    );
    assert!(
        made.bytes < 900_000,
        "a hard link stays one: {}",
        made.bytes
    );
    // A step that names it finds it.
    let step = bench.step("to", "build-9").await;
    assert!(directory_of(&step).join("dir/again").exists());
}

#[tokio::test]
async fn an_import_replaces_or_adds_and_a_broken_one_changes_nothing() {
    let bench = bench().await;
    let record = bench.filled("id", |root| fs::write(root.join("old"), "1").unwrap());
    let record = record.await;
    bench.cache.set_pinned(&record, true).unwrap();
    let tar = archive(&[
        ("new", Kind::Regular, "2"),
        ("../../escaped", Kind::Regular, "3"),
        ("out", Kind::Symlink, "/"),
        ("out/through", Kind::Regular, "4"),
    ]);
    let target = || CacheTarget::Record(record.clone());
    let merged = bench
        .caches
        .import(target(), true, pieces(&tar))
        .await
        .unwrap();
    assert_eq!(merged.record, record);
    let names = bench.names(&record, "").await;
    assert_eq!(names, ["escaped", "new", "old", "out", "through"]);
    for broken in [&tar[..700], b"no archive at all".as_slice()] {
        let failed = bench.caches.import(target(), false, pieces(broken)).await;
        assert!(failed.is_err(), "{failed:?}");
        assert_eq!(bench.names(&record, "").await, names);
    }
    assert_eq!(
        bench.caches.list().await.unwrap().len(),
        1,
        "nothing is left"
    );
    let replaced = bench.caches.import(
        target(),
        false,
        pieces(&archive(&[("only", Kind::Regular, "5")])),
    );
    let replaced = replaced.await.unwrap();
    assert_eq!(bench.names(&replaced.record, "").await, ["only"]);
    assert_eq!(
        (replaced.id.as_str(), replaced.last_build.as_str()),
        ("id", "build-1")
    );
    let all = bench.cache.usage().await.unwrap();
    assert_eq!(all.len(), 1);
    assert!(all[0].pinned, "a pin goes over to the new record");
}

#[tokio::test]
async fn what_a_step_has_is_not_changed_and_steps_wait_for_changes() {
    let bench = bench().await;
    let record = bench.filled("id", |root| {
        fs::write(root.join("f"), vec![0; 5000]).unwrap();
    });
    let record = record.await;
    let step = bench.step("id", "b").await;
    let refused = bench.caches.clear(&record).await.unwrap_err();
    assert!(matches!(refused, Error::CacheInUse(_)), "{refused}");
    drop(step);
    let turn = bench.mounts.caches().table.maintain("id").await.unwrap();
    let waiting = tokio::time::timeout(Duration::from_millis(50), bench.step("id", "b")).await;
    assert!(waiting.is_err(), "a step waits");
    drop(turn);
    drop(bench.step("id", "b").await);
    assert!(bench.caches.clear(&record).await.unwrap() >= 5000);
    assert!(bench.caches.list().await.unwrap().is_empty());
    assert!(bench.cache.usage().await.unwrap().is_empty());
    let step = bench.step("id", "b").await;
    assert_eq!(fs::read_dir(directory_of(&step)).unwrap().count(), 0);
}

#[tokio::test]
async fn a_seeded_mount_is_shown_and_replaced_as_a_whole() {
    let bench = bench().await;
    let seed = bench
        .cache
        .new_mutable(None, RecordOptions::described("seed"))
        .await
        .unwrap();
    fs::write(seed.root_path().unwrap().join("seeded"), "s").unwrap();
    let seed = seed.commit(RecordOptions::default()).await.unwrap();
    drop(bench.step_on("id", "b", Some(&seed)).await);
    let record = bench.caches.list().await.unwrap()[0].record.clone();
    assert_eq!(bench.names(&record, "").await, ["seeded"]);
    let tar = archive(&[("new", Kind::Regular, "2")]);
    let target = CacheTarget::Record(record);
    let replaced = bench
        .caches
        .import(target, false, pieces(&tar))
        .await
        .unwrap();
    assert_eq!(bench.names(&replaced.record, "").await, ["new"]);
    let tar = collect(bench.caches.export(&replaced.record).await.unwrap());
    assert!(tar.await.unwrap().starts_with(b"new"));
}
