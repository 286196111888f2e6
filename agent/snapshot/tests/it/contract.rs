//! What every driver owes: states stack, changes go into one snapshot, layers round-trip.

use std::fs;
use std::path::Path;

use kiln_snapshot::diff::{DiffOptions, write_trees, write_upper};
use kiln_snapshot::tar::Limits;
use kiln_snapshot::{Driver, Snapshots};
use kiln_sys::mount::{MountSpec, TempMount};

const DRIVERS: [Driver; 2] = [Driver::Overlay { userxattr: false }, Driver::Copy];

struct Place {
    dir: tempfile::TempDir,
    snapshots: Snapshots,
}

impl Place {
    fn new(driver: Driver) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::with_driver(dir.path().join("snapshots"), driver).unwrap();
        Self { dir, snapshots }
    }

    fn within<T>(&self, specs: &[MountSpec], act: impl FnOnce(&Path) -> T) -> T {
        let mount = TempMount::new(specs, self.dir.path()).unwrap();
        act(mount.path())
    }

    fn write(&self, id: &str, stack: &[&str], change: impl FnOnce(&Path)) {
        self.snapshots.create(id, stack).unwrap();
        self.within(&self.snapshots.writable(stack, id).unwrap(), change);
    }

    fn names(&self, stack: &[&str]) -> Vec<String> {
        let specs = self.snapshots.read_only(stack, false).unwrap();
        self.within(&specs, |root| {
            let mut names: Vec<_> = walkdir::WalkDir::new(root)
                .min_depth(1)
                .into_iter()
                .map(|entry| {
                    entry
                        .unwrap()
                        .path()
                        .strip_prefix(root)
                        .unwrap()
                        .display()
                        .to_string()
                })
                .collect();
            names.sort();
            names
        })
    }

    fn layer(&self, lower: &[&str], upper: &[&str]) -> Vec<u8> {
        let (lower, upper) = (
            self.snapshots.layers(lower).unwrap(),
            self.snapshots.layers(upper).unwrap(),
        );
        write_trees(&lower, &upper, Vec::new(), DiffOptions::default())
            .unwrap()
            .0
    }
}

#[test]
fn states_stack_and_lower_ones_stay_as_they_were() {
    for driver in DRIVERS {
        let p = Place::new(driver);
        p.write("one", &[], |root| {
            fs::write(root.join("a"), "1").unwrap();
            fs::create_dir(root.join("d")).unwrap();
            fs::write(root.join("d/x"), "x").unwrap();
        });
        p.write("two", &["one"], |root| {
            fs::write(root.join("a"), "2").unwrap();
            fs::remove_dir_all(root.join("d")).unwrap();
            fs::create_dir(root.join("d")).unwrap();
            fs::write(root.join("d/y"), "y").unwrap();
        });
        assert_eq!(p.names(&["one"]), ["a", "d", "d/x"], "{driver:?}");
        assert_eq!(p.names(&["one", "two"]), ["a", "d", "d/y"], "{driver:?}");
        assert!(p.names(&[]).is_empty());
        let specs = p.snapshots.read_only(&["one", "two"], false).unwrap();
        p.within(&specs, |root| {
            assert!(fs::write(root.join("new"), "").is_err(), "{driver:?}");
        });
        p.snapshots.remove("two").unwrap();
        p.snapshots.remove("two").unwrap();
        assert_eq!(p.snapshots.ids().unwrap(), ["one"]);
        assert_eq!(p.names(&["one"]), ["a", "d", "d/x"], "{driver:?}");
    }
}

#[test]
fn layers_of_one_driver_make_the_state_with_the_other() {
    for (from, to) in [(DRIVERS[0], DRIVERS[1]), (DRIVERS[1], DRIVERS[0])] {
        let p = Place::new(from);
        p.write("one", &[], |root| {
            fs::create_dir_all(root.join("d/deep")).unwrap();
            fs::write(root.join("d/deep/x"), "x").unwrap();
            fs::write(root.join("gone"), "").unwrap();
        });
        p.write("two", &["one"], |root| {
            fs::remove_file(root.join("gone")).unwrap();
            fs::write(root.join("d/deep/y"), "y").unwrap();
            fs::hard_link(root.join("d/deep/y"), root.join("z")).unwrap();
            std::os::unix::fs::symlink("d", root.join("l")).unwrap();
        });
        let layers = [p.layer(&[], &["one"]), p.layer(&["one"], &["one", "two"])];
        let q = Place::new(to);
        let mut stack = Vec::new();
        for (id, layer) in ["one", "two"].into_iter().zip(&layers) {
            q.snapshots.create(id, &stack).unwrap();
            let lowest = stack.is_empty();
            q.snapshots
                .apply(id, layer.as_slice(), lowest, Limits::default())
                .unwrap();
            stack.push(id);
        }
        assert_eq!(p.names(&["one", "two"]), q.names(&["one", "two"]));
        assert_eq!(
            q.layer(&["one"], &["one", "two"]),
            layers[1],
            "{from:?} to {to:?}"
        );
    }
}

#[test]
fn the_upper_directory_alone_gives_the_layer_that_two_walks_give() {
    let p = Place::new(DRIVERS[0]);
    p.write("one", &[], |root| {
        for dir in ["same", "opaque/old", "meta"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        fs::write(root.join("same/file"), "s").unwrap();
        fs::write(root.join("opaque/old/x"), "x").unwrap();
        fs::write(root.join("touched"), "t").unwrap();
    });
    p.write("two", &["one"], |root| {
        fs::remove_dir_all(root.join("opaque")).unwrap();
        fs::create_dir_all(root.join("opaque/new")).unwrap();
        fs::write(root.join("opaque/new/y"), "y").unwrap();
        fs::write(root.join("same/other"), "o").unwrap();
        fs::set_permissions(
            root.join("meta"),
            std::os::unix::fs::PermissionsExt::from_mode(0o700),
        )
        .unwrap();
    });
    let lower = p.snapshots.layers(&["one"]).unwrap();
    let upper = p.snapshots.files("two").unwrap();
    let (layer, stats) = write_upper(&lower, &upper, Vec::new(), DiffOptions::default()).unwrap();
    assert_eq!(layer, p.layer(&["one"], &["one", "two"]));
    assert_eq!(stats.entries, 7);
}

#[test]
fn usage_counts_inodes_once() {
    let p = Place::new(DRIVERS[0]);
    p.write("one", &[], |root| {
        fs::write(root.join("a"), vec![1; 100_000]).unwrap();
    });
    let before = p.snapshots.usage("one").unwrap();
    let files = p.snapshots.files("one").unwrap();
    fs::hard_link(files.join("a"), files.join("b")).unwrap();
    assert_eq!(p.snapshots.usage("one").unwrap(), before);
    assert!(before.bytes >= 100_000 && before.inodes == 2);
}

#[test]
fn implied_directories_get_what_they_have_below() {
    let p = Place::new(DRIVERS[0]);
    p.write("one", &[], |root| {
        fs::create_dir(root.join("d")).unwrap();
        fs::set_permissions(
            root.join("d"),
            std::os::unix::fs::PermissionsExt::from_mode(0o1777),
        )
        .unwrap();
    });
    let mut tar = kiln_snapshot::tar::TarWriter::new(Vec::new());
    let header = kiln_snapshot::tar::Header::new("d/f", kiln_snapshot::tar::Kind::Regular);
    tar.header(&header).unwrap();
    let layer = tar.finish().unwrap();
    p.snapshots.create("two", &["one"]).unwrap();
    let applied = p
        .snapshots
        .apply("two", layer.as_slice(), false, Limits::default())
        .unwrap();
    p.snapshots
        .settle("two", &applied.implied_dirs, &["one"])
        .unwrap();
    let specs = p.snapshots.read_only(&["one", "two"], false).unwrap();
    p.within(&specs, |root| {
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &fs::metadata(root.join("d")).unwrap().permissions(),
        );
        assert_eq!(mode & 0o7777, 0o1777);
    });
}

#[test]
fn names_that_lead_out_are_refused() {
    let p = Place::new(DRIVERS[0]);
    for id in ["", "..", "a/b", ".hidden", "a b"] {
        assert!(p.snapshots.create(id, &[]).is_err(), "{id}");
    }
}

#[test]
fn an_interrupted_removal_is_finished_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let left = dir.path().join(".gone-1-1/fs/deep");
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("x"), "").unwrap();
    Snapshots::with_driver(dir.path(), Driver::Copy).unwrap();
    assert!(!dir.path().join(".gone-1-1").exists());
}

/// Layers read as copies, or the other way around, would show what was removed.
#[test]
fn what_is_there_decides_the_driver() {
    for driver in DRIVERS {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("snapshots");
        Snapshots::with_driver(&root, driver).unwrap();
        let again = Snapshots::open(&root).unwrap();
        assert_eq!(again.driver(), driver);
    }
    // Of a daemon that left no mark, on a kernel that takes layers one by one.
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join(".empty")).unwrap();
    if !kiln_sys::mount::overlay_collects_options() {
        let driver = Snapshots::open(dir.path()).unwrap().driver();
        assert_eq!(driver, DRIVERS[0]);
    }
}
