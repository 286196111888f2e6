//! Whether this computer has a graphics card that can draw for the window.
//!
//! ```text
//! a node of NVIDIA's own driver, or of WSL's                        ─► yes
//! /dev/dri/renderD* that this user may open
//!    ├─ of a virtual machine's card, which has no 3D (VIRTIO_GPU_F_VIRGL) ─► no
//!    └─ any other                                                        ─► yes
//! none, or LIBGL_ALWAYS_SOFTWARE                                   ─► no
//! ```
//! Where there is none, OpenGL is software that stands in for a card (Mesa's llvmpipe), and a web view that composes its
//! layers with it draws each changed pixel several times. Asking OpenGL itself would start it, which takes longer than
//! to read these files, and would wake a laptop's second card.
//!
//! Invariant: nothing is opened, so no card is woken.

use std::path::{Path, PathBuf};

use rustix::fs::Access;

/// Whether there is one, by the files below `root` (`/`) and by what `LIBGL_ALWAYS_SOFTWARE` says.
pub(crate) fn has_card(root: &Path, always_software: Option<&str>) -> bool {
    if matches!(always_software, Some("1" | "true" | "yes" | "y")) {
        return false;
    }
    let other = ["dev/nvidiactl", "dev/dxg"];
    other.iter().any(|node| usable(&root.join(node)))
        || entries(&root.join("dev/dri"), "renderD").any(|node| {
            let device = root.join("sys/class/drm").join(name(&node)).join("device");
            usable(&node) && draws(&device)
        })
}

/// Whether the device behind a node has 3D; what isn't known has.
fn draws(device: &Path) -> bool {
    // The node is of the virtual device itself, or of the PCI device above it, by the kernel's version.
    let above = entries(device, "virtio").map(|device| device.join("features"));
    let features = std::iter::once(device.join("features")).chain(above);
    // One digit for each feature; the first is VIRTIO_GPU_F_VIRGL.
    let mut known = features.filter_map(|file| std::fs::read_to_string(file).ok());
    known.next().is_none_or(|digits| digits.starts_with('1'))
}

fn usable(node: &Path) -> bool {
    rustix::fs::access(node, Access::READ_OK | Access::WRITE_OK).is_ok()
}

fn entries(directory: &Path, prefix: &'static str) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(directory).ok().into_iter().flatten();
    entries
        .flatten()
        .map(|entry| entry.path())
        .filter(move |path| name(path).starts_with(prefix))
}

fn name(path: &Path) -> &str {
    path.file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_one_that_draws() {
        let without_3d = format!("0{}", "1".repeat(63));
        let with_3d = "1".repeat(64);
        let device = "sys/class/drm/renderD128/device";
        let virtio = format!("{device}/features");
        let pci = format!("{device}/virtio3/features");
        let node = ("dev/dri/renderD128", "");
        for (what, files, variable, expected) in [
            ("nothing", vec![], None, false),
            ("a screen only", vec![("dev/dri/card0", "")], None, false),
            ("a card", vec![node], None, true),
            ("told not to", vec![node], Some("1"), false),
            ("told nothing", vec![node], Some("0"), true),
            ("virtual", vec![node, (&virtio, &without_3d)], None, false),
            ("virtual, 3D", vec![node, (&virtio, &with_3d)], None, true),
            ("by PCI", vec![node, (&pci, &without_3d)], None, false),
            ("by PCI, 3D", vec![node, (&pci, &with_3d)], None, true),
            (
                "a second one",
                vec![node, (&pci, &without_3d), ("dev/dri/renderD129", "")],
                None,
                true,
            ),
            ("NVIDIA's", vec![("dev/nvidiactl", "")], None, true),
            ("WSL's", vec![("dev/dxg", "")], None, true),
        ] {
            let root = tempfile::tempdir().unwrap();
            for (path, text) in files {
                let file = root.path().join(path);
                std::fs::create_dir_all(file.parent().unwrap()).unwrap();
                std::fs::write(file, text).unwrap();
            }
            assert_eq!(has_card(root.path(), variable), expected, "{what}");
        }
    }
}
