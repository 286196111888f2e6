//! The rules of copies as a table.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt};

use super::*;

#[test]
fn copies_follow_the_rules() {
    let source = [
        "a.txt",
        "b.md",
        "dir/c.txt",
        "dir/sub/d.txt",
        "dir/e.md",
        "empty/",
        "link -> dir",
        "dir/up -> ../a.txt",
        "odd[1].txt",
    ];
    // What is at the target before, source and target of the copy, what is there afterwards.
    let cases: &[(&[&str], &str, &str, &[&str])] = &[
        (&[], "/a.txt", "/x", &["x=a.txt"]),
        (&[], "/a.txt", "/x/", &["x/", "x/a.txt=a.txt"]),
        (&[], "/a.txt", "/", &["a.txt"]),
        (&["x/"], "/a.txt", "/x", &["x/", "x/a.txt=a.txt"]),
        (&["x"], "/a.txt", "/x", &["x=a.txt"]),
        (&[], "/a.txt", "/p/q/r", &["p/", "p/q/", "p/q/r=a.txt"]),
        (&[], "/dir/sub", "/x", &["x/", "x/d.txt=dir/sub/d.txt"]),
        (
            &["x/old"],
            "/dir/sub/",
            "/x/",
            &["x/", "x/d.txt=dir/sub/d.txt", "x/old"],
        ),
        (&[], "/dir/sub/.", "/x", &["x/", "x/d.txt=dir/sub/d.txt"]),
        (&[], "/dir/*.txt", "/x/", &["x/", "x/c.txt=dir/c.txt"]),
        (&[], "/*/*.md", "/x/", &["x/", "x/e.md=dir/e.md"]),
        (&[], "/none*", "/x/", &[]),
        (&[], "/empty", "/x", &["x/"]),
        (
            &[],
            "/link",
            "/x",
            &[
                "x/",
                "x/c.txt=dir/c.txt",
                "x/e.md=dir/e.md",
                "x/sub/",
                "x/sub/d.txt=dir/sub/d.txt",
                "x/up -> ../a.txt",
            ],
        ),
        (&[], "/dir/up", "/x", &["x=a.txt"]),
        (&[], "/odd[[]1].txt", "/x", &["x=odd[1].txt"]),
        // Links at the target are followed, inside of the root.
        (
            &["real/", "l -> real"],
            "/a.txt",
            "/l/",
            &["l -> real", "real/", "real/a.txt=a.txt"],
        ),
        (
            &["l -> /real", "real/"],
            "/a.txt",
            "/l/y",
            &["l -> /real", "real/", "real/y=a.txt"],
        ),
        (
            &["l -> ../../../out"],
            "/a.txt",
            "/l",
            &["l -> ../../../out", "out=a.txt"],
        ),
        (&["f -> gone"], "/a.txt", "/f", &["f -> gone", "gone=a.txt"]),
        // A link that would be written through is replaced.
        (
            &["x/", "x/up -> /a"],
            "/dir",
            "/x",
            &[
                "x/",
                "x/c.txt=dir/c.txt",
                "x/e.md=dir/e.md",
                "x/sub/",
                "x/sub/d.txt=dir/sub/d.txt",
                "x/up -> ../a.txt",
            ],
        ),
    ];
    for (before, src, dest, want) in cases {
        let mut lab = Lab::new();
        make(&lab.src(), &source);
        make(&lab.dest(), before);
        lab.copy(src, dest)
            .unwrap_or_else(|e| panic!("{src} to {dest}: {e}"));
        assert_eq!(list(&lab.dest()), *want, "{src} to {dest}");
    }
}

#[test]
fn copies_that_cannot_be_say_why() {
    for (before, src, dest, want) in [
        (
            &[][..],
            "/missing",
            "/x",
            "lstat /missing: no such file or directory",
        ),
        (
            &["x/a.txt/"][..],
            "/a.txt",
            "/x",
            "cannot replace to directory /x/a.txt with file",
        ),
        (
            &["x/sub"][..],
            "/dir",
            "/x",
            "cannot copy to non-directory: /x/sub",
        ),
        (&["f"][..], "/a.txt", "/f/x", "mkdir /f/: not a directory"),
    ] {
        let mut lab = Lab::new();
        make(&lab.src(), &["a.txt", "dir/sub/d"]);
        make(&lab.dest(), before);
        let error = lab.copy(src, dest).unwrap_err().to_string();
        assert_eq!(error, want, "{src} to {dest}");
    }
    let mut lab = Lab::new();
    make(&lab.src(), &["a"]);
    let strict = pb::FileActionCopy {
        allow_empty_wildcard: false,
        ..plain_copy("/b*", "/")
    };
    let error = lab.run(&Action::Copy(strict)).unwrap_err();
    assert_eq!(error.to_string(), "/b* not found");
    let no_parents = pb::FileActionCopy {
        create_dest_path: false,
        ..plain_copy("/a", "/p/q")
    };
    let error = lab.run(&Action::Copy(no_parents)).unwrap_err();
    assert!(
        error.to_string().starts_with("failed to stat /p/q"),
        "{error}"
    );
}

#[test]
fn patterns_choose_and_parents_are_made_only_for_what_is_chosen() {
    let source = ["p/a.txt", "p/b.md", "p/q/c.txt", "p/q/d.md", "r/e.md"];
    for (include, exclude, want) in [
        (
            &["p/q/c.txt"][..],
            &[][..],
            &["p/", "p/q/", "p/q/c.txt"][..],
        ),
        (&["**/*.txt"], &[], &["p/", "p/a.txt", "p/q/", "p/q/c.txt"]),
        (
            &[],
            &["**/*.md"],
            &["p/", "p/a.txt", "p/q/", "p/q/c.txt", "r/"],
        ),
        (
            &[],
            &["p", "!p/q"],
            &["p/", "p/q/", "p/q/c.txt", "p/q/d.md", "r/", "r/e.md"],
        ),
        (&["p"], &["p/q"], &["p/", "p/a.txt", "p/b.md"]),
        (&["none"], &[], &[]),
    ] {
        let mut lab = Lab::new();
        make(&lab.src(), &source);
        let owned = |patterns: &[&str]| patterns.iter().map(|p| (*p).to_owned()).collect();
        let action = pb::FileActionCopy {
            include_patterns: owned(include),
            exclude_patterns: owned(exclude),
            ..plain_copy("/", "/")
        };
        lab.run(&Action::Copy(action)).unwrap();
        assert_eq!(list(&lab.dest()), want, "{include:?} {exclude:?}");
    }
}

#[test]
fn owner_mode_and_time_are_set_or_kept() {
    let mut lab = Lab::new();
    make(&lab.src(), &["d/f", "d/l -> f", "d/sub/"]);
    make(&lab.dest(), &["etc/"]);
    std::fs::write(lab.dest().join("etc/passwd"), "www:x:33:44::/:/bin/sh\n").unwrap();
    std::fs::write(lab.dest().join("etc/group"), "staff:x:55:\n").unwrap();
    let by_name = |name: &str| pb::UserOpt {
        user: Some(pb::user_opt::User::ByName(pb::NamedUserOpt {
            name: name.into(),
            input: 0,
        })),
    };
    let action = pb::FileActionCopy {
        owner: Some(pb::ChownOpt {
            user: Some(by_name("www")),
            group: Some(by_name("staff")),
        }),
        mode_str: "u=rwX,go=".into(),
        timestamp: 1_000_000_000,
        ..plain_copy("/d", "/new/d")
    };
    lab.run(&Action::Copy(action)).unwrap();
    for (name, metadata) in walk(&lab.dest().join("new")) {
        assert_eq!((metadata.uid(), metadata.gid()), (33, 55), "{name}");
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (1, 0), "{name}");
        let want = match name.as_str() {
            // Made on the way to the target, before anything is copied.
            "d" => 0o755,
            "d/sub" => 0o700,
            "d/f" => 0o600,
            _ => continue,
        };
        assert_eq!(metadata.permissions().mode() & 0o7777, want, "{name}");
    }

    // Kept: the file is the same one, by a link.
    let mut lab = Lab::new();
    make(&lab.src(), &["d/f", "d/empty"]);
    std::fs::write(lab.src().join("d/empty"), "").unwrap();
    std::fs::set_permissions(lab.src().join("d/f"), PermissionsExt::from_mode(0o4711)).unwrap();
    lab.copy("/d", "/one").unwrap();
    lab.copy("/d", "/two").unwrap();
    let file = |path: &str| lab.folder.path().join(path).symlink_metadata().unwrap();
    assert_eq!(file("src/d/f").ino(), file("dest/one/f").ino());
    assert_ne!(
        file("src/d/f").ino(),
        file("dest/two/f").ino(),
        "once per layer"
    );
    assert_eq!(file("dest/two/f").permissions().mode() & 0o7777, 0o4711);
    assert_eq!(
        file("src/d/f").mtime_nsec(),
        file("dest/two/f").mtime_nsec()
    );
}

#[test]
fn hard_links_of_the_source_stay_links() {
    let mut lab = Lab::new();
    make(&lab.src(), &["a", "d/"]);
    std::fs::hard_link(lab.src().join("a"), lab.src().join("d/b")).unwrap();
    for dest in ["/linked", "/copied"] {
        lab.copy("/", dest).unwrap();
        let inode = |name: &str| {
            let path = format!("{}/{name}", &dest[1..]);
            lab.dest().join(path).metadata().unwrap().ino()
        };
        assert_eq!(inode("a"), inode("d/b"), "{dest}");
    }
}
