//! Content keys that a current BuildKit exported for the same files and selectors.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use kiln_oci::Digest;

use super::tarsum::go_mode;
use super::{Change, ChecksumOpts, FileStat, Stop, Tree, file_hasher, select};

/// Path, mode, bytes; a directory if the mode has its bit; a link if it has that of links.
type File = (&'static str, u32, &'static str);

const DIR: u32 = go_mode::DIR | 0o755;
const LINK: u32 = go_mode::SYMLINK | 0o777;

const CONTEXT: &[File] = &[
    ("a.txt", 0o644, "alpha\n"),
    ("b.txt", 0o644, "beta\n"),
    ("dir", DIR, ""),
    ("dir/c.txt", 0o644, "gamma\n"),
    ("dir/sub", DIR, ""),
    ("dir/sub/d.md", 0o644, "delta\n"),
    ("dir/sub/e.txt", 0o644, "eps\n"),
    ("run.sh", 0o755, "#!/bin/sh\necho hi\n"),
];

fn apply(tree: &mut Tree, file: &File) {
    let (path, mode, data) = *file;
    let is_link = mode == LINK;
    let stat = FileStat {
        mode,
        size: if is_link { 0 } else { data.len() as i64 },
        linkname: if is_link { data.into() } else { String::new() },
        ..FileStat::default()
    };
    let mut hasher = file_hasher(&stat);
    if !is_link {
        hasher.update(data);
    }
    let digest = hasher.finish();
    tree.apply_change(
        path,
        Change::Put {
            stat: &stat,
            digest,
        },
    );
}

fn tree(files: &[File]) -> Tree {
    let mut tree = Tree::new();
    for file in files {
        apply(&mut tree, file);
    }
    tree
}

fn write(root: &Path, files: &[File]) {
    for (path, mode, data) in files {
        let path = root.join(path);
        match *mode {
            DIR => std::fs::create_dir(&path).unwrap(),
            LINK => symlink(data, &path).unwrap(),
            _ => std::fs::write(&path, data).unwrap(),
        }
        if *mode != LINK {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode & 0o777)).unwrap();
        }
    }
}

fn plain(path: &'static str) -> (&'static str, ChecksumOpts) {
    let opts = ChecksumOpts {
        follow_links: true,
        ..ChecksumOpts::default()
    };
    (path, opts)
}

fn filtered(
    path: &'static str,
    include: &[&str],
    exclude: &[&str],
    required: &[&str],
) -> (&'static str, ChecksumOpts) {
    let list = |patterns: &[&str]| patterns.iter().map(ToString::to_string).collect();
    let opts = ChecksumOpts {
        follow_links: true,
        wildcard: path.contains('*'),
        include_patterns: list(include),
        exclude_patterns: list(exclude),
        required_paths: list(required),
    };
    (path, opts)
}

/// The digest of the root key that stands for the content of these selectors.
fn key(tree: &mut Tree, root: Option<&Path>, selectors: &[(&str, ChecksumOpts)]) -> String {
    let digests: Vec<String> = selectors
        .iter()
        .map(|(path, opts)| {
            select::checksum(tree, root, path, opts)
                .unwrap()
                .to_string()
        })
        .collect();
    let content = Digest::of(digests.join("\0"));
    Digest::of(format!("{content}@-1")).hex()[..12].to_owned()
}

#[test]
fn content_keys_are_those_of_the_real_engine() {
    let links: &[File] = &[("a.txt", 0o644, "alpha\n"), ("l", LINK, "a.txt")];
    let linked_dir: &[File] = &[
        ("dir", DIR, ""),
        ("dir/c.txt", 0o644, "gamma\n"),
        ("ld", LINK, "dir"),
    ];
    let ignored: &[File] = &[
        (".dockerignore", 0o644, "*.md\n**/e.txt\n!dir/sub/d.md\n"),
        ("a.txt", 0o644, "alpha\n"),
        ("b.txt", 0o644, "beta\n"),
        ("dir", DIR, ""),
        ("dir/c.txt", 0o644, "gamma\n"),
        ("dir/sub", DIR, ""),
        ("dir/sub/d.md", 0o644, "delta\n"),
        ("run.sh", 0o755, "#!/bin/sh\necho hi\n"),
    ];
    let table = [
        ("a file", CONTEXT, vec![plain("/a.txt")], "d9887b8c1d21"),
        ("another", CONTEXT, vec![plain("/b.txt")], "3381f87f5203"),
        ("a directory", CONTEXT, vec![plain("/dir")], "b34c0f8a6878"),
        ("everything", CONTEXT, vec![plain("/")], "15bc40ba3d97"),
        (
            "two files",
            CONTEXT,
            vec![plain("/a.txt"), plain("/b.txt")],
            "71bd95f7cd8b",
        ),
        ("a link", links, vec![plain("/l")], "d9887b8c1d21"),
        (
            "a linked directory",
            linked_dir,
            vec![plain("/ld/c.txt")],
            "dc6f94c9cb90",
        ),
        (
            "after .dockerignore",
            ignored,
            vec![plain("/")],
            "dd01fb59b0a3",
        ),
        (
            "a wildcard",
            CONTEXT,
            vec![filtered("/*.txt", &[], &[], &[])],
            "cd57f813efe0",
        ),
        (
            "excludes",
            CONTEXT,
            vec![filtered("/", &[], &["*.md", "b.txt"], &[])],
            "547fbc8a9d68",
        ),
        (
            "an include below a directory",
            CONTEXT,
            vec![filtered("/dir", &["sub"], &[], &["/dir/sub"])],
            "b0400bb0e423",
        ),
        (
            "two includes",
            CONTEXT,
            vec![
                filtered("/", &["dir/sub/*.txt"], &[], &[]),
                filtered("/", &["a.txt"], &[], &["/a.txt"]),
            ],
            "03ba716d7690",
        ),
    ];
    for (name, files, selectors, want) in &table {
        assert_eq!(key(&mut tree(files), None, selectors), *want, "{name}");
        // From the disk the root has a header of its own, which only shows where all of it is asked for.
        if selectors
            .iter()
            .all(|(path, opts)| *path != "/" || *opts != plain("/").1)
        {
            let root = tempfile::tempdir().unwrap();
            write(root.path(), files);
            let mut empty = Tree::new();
            assert_eq!(
                key(&mut empty, Some(root.path()), selectors),
                *want,
                "{name}, scanned"
            );
            let mut stored = Tree::from_bytes(&empty.to_bytes()).unwrap();
            assert_eq!(
                key(&mut stored, None, selectors),
                *want,
                "{name}, from the tree alone"
            );
        }
    }
}

#[test]
fn changes_give_the_tree_that_a_fresh_transfer_gives() {
    let ask = |tree: &mut Tree| select::checksum(tree, None, "/", &plain("/").1).unwrap();
    let mut changed = tree(CONTEXT);
    let before = ask(&mut changed);
    let steps: &[(&str, File)] = &[
        ("a change", ("dir/sub/d.md", 0o644, "new\n")),
        ("a directory becomes a file", ("dir", 0o644, "flat\n")),
        ("a file becomes a directory", ("a.txt", DIR, "")),
        ("a file in it", ("a.txt/x", 0o600, "x")),
        ("a link", ("b.txt", LINK, "run.sh")),
    ];
    let mut files = CONTEXT.to_vec();
    let mut last = before;
    for (name, file) in steps {
        apply(&mut changed, file);
        files.retain(|known| {
            known.0 != file.0 && !(file.1 != DIR && known.0.starts_with(&format!("{}/", file.0)))
        });
        files.push(*file);
        let now = ask(&mut changed);
        assert_ne!(now, last, "{name}");
        assert_eq!(now, ask(&mut tree(&files)), "{name}");
        last = now;
    }
    changed.apply_change("a.txt", Change::Delete);
    files.retain(|file| !file.0.starts_with("a.txt"));
    assert_eq!(ask(&mut changed), ask(&mut tree(&files)));
}

#[test]
fn a_hard_link_has_the_digest_of_its_file_in_either_order() {
    let link = FileStat {
        mode: 0o644,
        size: 6,
        linkname: "z".into(),
        ..FileStat::default()
    };
    let put = |tree: &mut Tree| {
        let change = Change::Put {
            stat: &link,
            digest: Digest::of(b"of the link's header alone"),
        };
        tree.apply_change("a", change);
    };
    let file: File = ("z", 0o644, "zzzzzz");
    let mut before = Tree::new();
    put(&mut before);
    apply(&mut before, &file);
    let mut after = Tree::new();
    apply(&mut after, &file);
    put(&mut after);
    for tree in [&mut before, &mut after] {
        let of =
            |tree: &mut Tree, path| select::checksum(tree, None, path, &plain(path).1).unwrap();
        assert_eq!(of(tree, "/a"), of(tree, "/z"));
    }
}

#[test]
fn what_isnt_there_is_said_so() {
    let mut known = tree(CONTEXT);
    let ask = |tree: &mut Tree, root, (path, opts): &(&str, ChecksumOpts)| {
        select::checksum(tree, root, path, opts)
    };
    let missing = ask(&mut known, None, &plain("/nope"));
    assert!(matches!(
        missing,
        Err(Stop::Failed(crate::Error::PathNotFound { .. }))
    ));
    let nothing = ask(&mut known, None, &filtered("/*.zip", &[], &[], &[]));
    assert_eq!(nothing.unwrap(), Digest::of(b""));
    let required = ask(&mut known, None, &filtered("/", &["x"], &[], &["/x"]));
    assert!(matches!(
        required,
        Err(Stop::Failed(crate::Error::PathNotFound { .. }))
    ));
    let unknown = ask(&mut Tree::new(), None, &plain("/a.txt"));
    assert!(matches!(unknown, Err(Stop::NeedsFiles)));
    let root = tempfile::tempdir().unwrap();
    write(
        root.path(),
        &[("loop", LINK, "loop"), ("up", LINK, "../../../etc")],
    );
    let endless = ask(&mut Tree::new(), Some(root.path()), &plain("/loop/x"));
    assert!(matches!(
        endless,
        Err(Stop::Failed(crate::Error::TooManyLinks { .. }))
    ));
    let outside = ask(&mut Tree::new(), Some(root.path()), &plain("/up/passwd"));
    assert!(matches!(
        outside,
        Err(Stop::Failed(crate::Error::PathNotFound { .. }))
    ));
}
