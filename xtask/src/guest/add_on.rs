//! What few builds need, beside the image: git and ssh for git contexts, emulators for foreign platforms.
//!
//! It is an image of its own, which the machine gets as a read-only disk; the guest mounts it on [`POINT`]. Nothing
//! of it is in memory before it is used. Programs find what they were made with at its usual place, by links.

use anyhow::Result;

use super::cpio::{Entry, Tree};
use super::packages::{LIBRARIES, Packages};

/// Where the guest mounts it: `kilnd` knows it, too.
const POINT: &str = "add-on";
/// What leads there from where programs look.
const LINKED: [&str; 3] = ["usr/bin", "usr/lib", "usr/share/git-core"];
const GIT: &str = "usr/lib/git-core";
/// Of git, beside `usr/bin/git` itself: fetching by http, submodules.
const GIT_FILES: [&str; 5] = [
    "git-remote-http",
    "git-sh-i18n",
    "git-sh-i18n--envsubst",
    "git-sh-setup",
    "git-submodule",
];
/// Processors as QEMU names them.
const EMULATED: [&str; 5] = ["aarch64", "arm", "ppc64le", "riscv64", "s390x"];
/// Where libraries are, before and after the merge of / and /usr.
const LIBRARY_PATHS: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];

/// Adds to the guest's own tree what leads to the add-on.
pub(super) fn add_links(tree: &mut Tree) -> Result<()> {
    tree.add(POINT, Entry::Directory)?;
    for path in LINKED {
        tree.add(path, Entry::Link(format!("/{POINT}/{path}")))?;
    }
    Ok(())
}

/// The add-on's own tree.
pub(super) fn tree(packages: &Packages) -> Result<Tree> {
    let mut tree = Tree::default();
    let mut program = |package: &str, path: &str| {
        let bytes = packages.read(package, path)?;
        tree.add(path, Entry::File(0o755, bytes))
    };
    program("git", "usr/bin/git")?;
    for name in GIT_FILES {
        program("git", &format!("{GIT}/{name}"))?;
    }
    program("openssh-client", "usr/bin/ssh")?;
    for processor in EMULATED {
        program(
            "qemu-user-static",
            &format!("usr/bin/qemu-{processor}-static"),
        )?;
    }
    let link = |target: &str| Entry::Link(target.to_owned());
    tree.add(&format!("{GIT}/git"), link("../../bin/git"))?;
    tree.add(&format!("{GIT}/git-remote-https"), link("git-remote-http"))?;
    tree.add("usr/share/git-core/templates", Entry::Directory)?;
    for package in LIBRARIES {
        for path in LIBRARY_PATHS {
            add_libraries(&mut tree, packages, package, path)?;
        }
    }
    Ok(tree)
}

/// Files and links of one directory of a package: its libraries, without what they may load.
fn add_libraries(tree: &mut Tree, packages: &Packages, package: &str, path: &str) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(packages.directory(package)?.join(path)) else {
        return Ok(());
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type()?;
        let what = if kind.is_symlink() {
            let target = std::fs::read_link(entry.path())?;
            Entry::Link(target.to_string_lossy().into_owned())
        } else if kind.is_file() {
            Entry::File(0o755, std::fs::read(entry.path())?)
        } else {
            continue;
        };
        tree.add(&format!("{}/{name}", LIBRARY_PATHS[0]), what)?;
    }
    Ok(())
}
