//! Mounting, and leaving nothing behind.

use std::fs;
use std::path::Path;

use kiln_sys::mount::{
    MountError, MountSpec, TempMount, bind, detached, mount_all, mounts_below, unmount,
    unmount_below,
};

fn spec(fstype: &str, options: &[&str]) -> MountSpec {
    MountSpec {
        fstype: fstype.into(),
        source: fstype.into(),
        options: options.iter().map(|&o| o.to_owned()).collect(),
    }
}

fn overlay(root: &Path, layers: usize, volatile: bool) -> MountSpec {
    let lower: Vec<String> = (0..layers)
        .map(|n| {
            let layer = root.join(format!("layer{n}"));
            fs::create_dir_all(&layer).unwrap();
            fs::write(layer.join(format!("f{n}")), n.to_string()).unwrap();
            layer.to_str().unwrap().to_owned()
        })
        .collect();
    for dir in ["upper", "work"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    let mut options = vec![
        format!("lowerdir={}", lower.join(":")),
        format!("upperdir={}", root.join("upper").display()),
        format!("workdir={}", root.join("work").display()),
    ];
    if volatile {
        options.push("volatile".into());
    }
    MountSpec {
        fstype: "overlay".into(),
        source: "overlay".into(),
        options,
    }
}

#[test]
fn a_bind_mount_shows_its_source_and_goes_with_unmount() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("s"), dir.path().join("t"));
    fs::create_dir_all(&source).unwrap();
    fs::create_dir_all(&target).unwrap();
    fs::write(source.join("f"), "x").unwrap();
    bind(&source, &target, true).unwrap();
    assert_eq!(fs::read(target.join("f")).unwrap(), b"x");
    assert_eq!(
        fs::write(target.join("g"), "").unwrap_err().kind(),
        std::io::ErrorKind::ReadOnlyFilesystem
    );
    unmount(&target).unwrap();
    unmount(&target).unwrap();
    assert!(!target.join("f").exists());
}

#[test]
fn a_read_only_bind_covers_the_mounts_below_it() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("s"), dir.path().join("t"));
    fs::create_dir_all(source.join("inner")).unwrap();
    fs::create_dir_all(&target).unwrap();
    mount_all(&[spec("tmpfs", &["size=1m"])], &source.join("inner")).unwrap();
    bind(&source, &target, true).unwrap();
    assert!(fs::write(target.join("inner/f"), "").is_err());
    assert!(fs::write(source.join("inner/f"), "").is_ok());
    unmount_below(dir.path()).unwrap();
    assert!(mounts_below(dir.path()).unwrap().is_empty());
}

#[test]
fn an_overlay_of_300_long_layers_mounts() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir
        .path()
        .join("a-directory-with-a-name-that-makes-the-options-longer-than-a-page");
    let mounted = TempMount::new(&[overlay(&root, 300, false)], &dir.path().join("tmp")).unwrap();
    assert_eq!(fs::read(mounted.path().join("f299")).unwrap(), b"299");
    fs::write(mounted.path().join("new"), "n").unwrap();
    mounted.unmount().unwrap();
    assert_eq!(fs::read(root.join("upper/new")).unwrap(), b"n");
    assert!(mounts_below(dir.path()).unwrap().is_empty());
}

#[test]
fn an_overlay_with_paths_too_long_for_fsconfig_mounts_the_classic_way() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("x".repeat(200)).join("y".repeat(200));
    let spec = overlay(&root, 40, false);
    let mounted = TempMount::new(std::slice::from_ref(&spec), dir.path()).unwrap();
    assert_eq!(fs::read(mounted.path().join("f39")).unwrap(), b"39");
    drop(mounted);
    let fd = detached(&[spec], dir.path()).unwrap();
    let target = dir.path().join("t");
    fs::create_dir(&target).unwrap();
    kiln_sys::mount::attach(std::os::fd::AsFd::as_fd(&fd), &target).unwrap();
    assert_eq!(fs::read(target.join("f39")).unwrap(), b"39");
    unmount(&target).unwrap();
}

#[test]
fn a_volatile_overlay_mounts_again_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let spec = overlay(dir.path(), 1, true);
    // A crash leaves the mark of the first mount; a lazy unmount with an open file does too.
    fs::create_dir_all(dir.path().join("work/work/incompat/volatile")).unwrap();
    for _ in 0..2 {
        drop(TempMount::new(std::slice::from_ref(&spec), &dir.path().join("tmp")).unwrap());
    }
}

#[test]
fn a_failed_stack_leaves_nothing_mounted() {
    let dir = tempfile::tempdir().unwrap();
    let specs = [
        spec("tmpfs", &[]),
        MountSpec::bind(dir.path().join("absent"), false),
    ];
    let error = mount_all(&specs, dir.path()).unwrap_err();
    assert!(
        matches!(&error, MountError::Mount { fstype, .. } if fstype == "bind"),
        "{error}"
    );
    let tmp = dir.path().join("tmp");
    TempMount::new(&specs, &tmp).unwrap_err();
    assert_eq!(fs::read_dir(&tmp).unwrap().count(), 0);
    assert!(
        mounts_below(Path::new("/"))
            .unwrap()
            .iter()
            .all(|p| p != dir.path())
    );
}

#[test]
fn a_bad_option_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = mount_all(&[spec("tmpfs", &["nonsense=1"])], dir.path()).unwrap_err();
    assert!(error.to_string().contains("nonsense"), "{error}");
}

#[test]
fn a_detached_mount_ends_with_its_descriptor() {
    let dir = tempfile::tempdir().unwrap();
    let before = mounts_below(dir.path()).unwrap();
    drop(detached(&[spec("tmpfs", &[])], dir.path()).unwrap());
    drop(detached(&[spec("tmpfs", &[]), spec("tmpfs", &["ro"])], dir.path()).unwrap());
    assert_eq!(before, mounts_below(dir.path()).unwrap());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
