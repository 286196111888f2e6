//! `cargo xtask test window`: the app in the real window, from what this tree builds to the installed package.
//!
//! ```text
//! Debian's packages ─► src-tauri: fmt, clippy, build ─► kiln, kiln-vmd ─► the package
//!    ─► ui/tests/window: the window under Xvfb, on a machine of the native driver
//! ```
//! `src-tauri/` is a workspace of its own with its own target directory, since it needs WebKitGTK. The tests run
//! in a mount namespace of their own: one of them installs the package.
//!
//! Invariant: nothing of the machine changes but for the packages that its own apt installs.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use kiln_test_tools::Buildx;

use crate::cargo::{KILND, cargo_in};
use crate::deb;

/// What a build of the window needs, a desktop without a screen, and what the screens speak to.
const PACKAGES: [&str; 11] = [
    "desktop-file-utils",
    "fonts-dejavu-core",
    "libayatana-appindicator3-1",
    "libwebkit2gtk-4.1-dev",
    "pkg-config",
    "python3-dbus",
    "python3-gi",
    "python3-xlib",
    "webkit2gtk-driver",
    "xauth",
    "xvfb",
];

/// All of it, with that daemon. The UI is built already.
pub(crate) fn test(root: &Path, kilnd: &Path) -> Result<()> {
    let tools = kiln_test_tools::install()?;
    kiln_test_tools::install_system(&PACKAGES)?;
    let desktop = root.join("src-tauri");
    deb::run(cargo_in(&desktop).args(["fmt", "--check"]))?;
    let lints = ["clippy", "--quiet", "--locked", "--all-targets"];
    let strictly = ["--target-dir", "target", "--", "--deny", "warnings"];
    deb::run(cargo_in(&desktop).args(lints).args(strictly))?;
    let programs = deb::programs(root, true, kilnd.to_owned())?;
    let package = deb::pack(root, &programs, true)?;
    // The namespace that the package must not be seen in.
    let mounts = std::fs::read_link("/proc/self/ns/mnt")?;
    deb::run(
        Command::new("unshare")
            .args(["--mount", "--propagation", "private", "npm"])
            .args(["run", "test:window"])
            .current_dir(root.join("ui"))
            .env("KILN_DESKTOP", programs.desktop)
            .env("KILN_VMD", programs.vmd)
            .env(KILND, programs.kilnd)
            .env("KILN_PACKAGE", package)
            .env("KILN_MOUNTS", mounts)
            .env("BUILDX", tools.buildx(Buildx::New)),
    )
}
