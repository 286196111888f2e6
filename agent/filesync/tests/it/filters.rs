//! Which entries a filter lets through.

use std::fs;
use std::os::unix::fs::symlink;

use kiln_filesync::{DirTree, FilterOptions, Step, Tree as _};
use tempfile::tempdir;

#[test]
fn includes_excludes_and_followed_links() {
    let dir = tempdir().unwrap();
    let root = dir.path();
    for path in ["a/b", "c/d/e", "node_modules/x"] {
        fs::create_dir_all(root.join(path)).unwrap();
    }
    for file in [
        "a/1.go",
        "a/b/2.go",
        "a/b/2.txt",
        "c/d/e/3",
        "top.go",
        "node_modules/x/keep",
        "readme",
    ] {
        fs::write(root.join(file), "").unwrap();
    }
    symlink("../c/d", root.join("a/link")).unwrap();
    let all = "a a/1.go a/b a/b/2.go a/b/2.txt a/link c c/d c/d/e c/d/e/3 node_modules \
               node_modules/x node_modules/x/keep readme top.go";
    let without = all.replace("readme ", "");
    type List = &'static [&'static str];
    let table: &[(List, List, List, &str)] = &[
        (&[], &[], &[], all),
        (&["a"], &[], &[], "a a/1.go a/b a/b/2.go a/b/2.txt a/link"),
        (&["a/b/2.txt"], &[], &[], "a a/b a/b/2.txt"),
        (&["**/*.go"], &[], &[], "a a/1.go a/b a/b/2.go top.go"),
        (&["c/**"], &[], &[], "c c/d c/d/e c/d/e/3"),
        (&["c/*"], &[], &[], "c c/d c/d/e c/d/e/3"),
        (&["nothing"], &[], &[], ""),
        (
            &[],
            &["**/*.go", "node_modules", "c"],
            &[],
            "a a/b a/b/2.txt a/link readme",
        ),
        (&[], &["*", "!a/b"], &[], "a a/b a/b/2.go a/b/2.txt"),
        (&[], &["*", "!**/2.*"], &[], "a a/b a/b/2.go a/b/2.txt"),
        (
            &[],
            &["node_modules", "!node_modules/x/keep", "a", "c"],
            &[],
            "node_modules node_modules/x node_modules/x/keep readme top.go",
        ),
        (
            &["a"],
            &["a/b", "!a/b/2.go"],
            &[],
            "a a/1.go a/b a/b/2.go a/link",
        ),
        (&[], &[], &["a/link/e"], "a a/link c c/d c/d/e c/d/e/3"),
        (
            &["readme"],
            &[],
            &["a/l*"],
            "a a/link c c/d c/d/e c/d/e/3 readme",
        ),
        (&[], &["readme"], &["."], &without),
    ];
    for (includes, excludes, follow, want) in table {
        let list = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        let options = FilterOptions {
            includes: list(includes),
            excludes: list(excludes),
            follow_paths: list(follow),
        };
        let tree = DirTree::new(root).unwrap().filtered(&options).unwrap();
        let mut got = Vec::new();
        tree.walk(&mut |stat| {
            got.push(stat.path);
            Ok(Step::Continue)
        })
        .unwrap();
        let want: Vec<&str> = want.split_whitespace().collect();
        assert_eq!(got, want, "{options:?}");
    }
}
