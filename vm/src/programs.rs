//! Where the programs and the guest image are.
//!
//! A variable of the environment wins; then the directory of this program; then `PATH` for programs and
//! `../lib/kiln/guest` for the image.

use std::path::{Path, PathBuf};

use kiln_config::paths::variable;

/// What the drivers start.
#[derive(Debug, Clone)]
pub struct Programs {
    /// This program, which becomes the parent's child (see `child`).
    pub own: PathBuf,
    /// The engine.
    pub kilnd: Option<PathBuf>,
    /// The emulator.
    pub qemu: Option<PathBuf>,
    /// The directory of the guest image.
    pub guest: Option<PathBuf>,
}

/// The emulator for this kind of host.
pub(crate) const QEMU_NAME: &str = if cfg!(target_arch = "aarch64") {
    "qemu-system-aarch64"
} else {
    "qemu-system-x86_64"
};

impl Programs {
    /// Looks for them.
    pub fn find() -> std::io::Result<Self> {
        let own = std::env::current_exe()?;
        let beside = own.parent().map(Path::to_path_buf).unwrap_or_default();
        let program = |name: &str, variable: &str| {
            given(variable).or_else(|| {
                let search = std::env::var_os("PATH").unwrap_or_default();
                std::iter::once(beside.clone())
                    .chain(std::env::split_paths(&search))
                    .map(|directory| directory.join(name))
                    .find(|path| path.is_file())
            })
        };
        let guest = given(variable::GUEST).or_else(|| {
            // Installed beside the program, or in the tree where it was built.
            ["guest", "../lib/kiln/guest", "../guest/image"]
                .iter()
                .map(|relative| beside.join(relative))
                .find(|directory| directory.join("vmlinux").is_file())
        });
        Ok(Self {
            kilnd: program("kilnd", variable::KILND),
            qemu: program(QEMU_NAME, variable::QEMU),
            guest,
            own,
        })
    }
}

fn given(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}
