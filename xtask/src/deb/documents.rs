//! What the package says about itself: to dpkg, to desktops, to readers, to lintian.

use super::VERSION;

const DEPENDS: &str =
    "libc6 (>= 2.36), libwebkit2gtk-4.1-0, libgtk-3-0, libayatana-appindicator3-1";
const MAINTAINER: &str = "The Kiln project <kiln@example.org>";
pub(super) const COPYRIGHT: &str =
    "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: Kiln
Comment: The programs contain Rust crates under permissive licenses.

Files: *
Copyright: 2026 The Kiln project
License: Apache-2.0
 On Debian systems the text of this license is in /usr/share/common-licenses/Apache-2.0.

Files: usr/lib/kiln/guest/*
Copyright: the authors of Linux, BusyBox, Git and of the other packages
License: various
 The machine's image is made of unchanged Debian packages, which guest-packages.lock beside this file names with their
 versions. Debian has their sources, and in each its license: for Linux, BusyBox and Git that is the GPL, version 2, which
 is in /usr/share/common-licenses/GPL-2 on Debian systems.
";
pub(super) const ENTRY: &str = "[Desktop Entry]
Type=Application
Name=Kiln
GenericName=Container image builder
Comment=Builds container images, and shows every build
Exec=/usr/bin/kiln-desktop %u
Icon=kiln-desktop
Terminal=false
Categories=Development;
Keywords=docker;container;image;buildkit;dockerfile;
MimeType=x-scheme-handler/kiln;
";

pub(super) const METAINFO: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<component type="desktop-application">
  <id>dev.kiln.desktop</id>
  <name>Kiln</name>
  <summary>Build container images, and see every build</summary>
  <metadata_license>CC0-1.0</metadata_license>
  <project_license>Apache-2.0</project_license>
  <developer id="dev.kiln">
    <name>The Kiln project</name>
  </developer>
  <description>
    <p>
      Kiln builds container images on a laptop: an engine that speaks BuildKit's protocol, a machine to run it in,
      a command, and a window with a tray.
    </p>
    <p>Stock clients build with it as they do with Docker. The window shows</p>
    <ul>
      <li>every build with its steps, its log, what came from the cache and why the rest didn't</li>
      <li>images with what each of their layers costs</li>
      <li>the cache, what a cleaning would free and what it would cost to build that again</li>
    </ul>
  </description>
  <launchable type="desktop-id">dev.kiln.desktop.desktop</launchable>
  <categories>
    <category>Development</category>
  </categories>
  <provides>
    <binary>kiln-desktop</binary>
    <binary>kiln</binary>
    <mediatype>x-scheme-handler/kiln</mediatype>
  </provides>
  <content_rating type="oars-1.1"/>
</component>
"#;

/// What lintian is told, with the reasons.
pub(super) const OVERRIDES: &str = "\
# The same program is the machine's /init, where there is no library.
kiln: shared-library-lacks-prerequisites [usr/bin/kilnd]
# A kernel.
kiln: statically-linked-binary [usr/lib/kiln/guest/vmlinux]
";

/// One entry, which is of the sources' last change.
pub(super) fn changelog(date: &str) -> String {
    format!(
        "kiln ({VERSION}) unstable; urgency=medium

  * See the history of the sources.

 -- {MAINTAINER}  {date}
"
    )
}

pub(super) fn control(architecture: &str, kibibytes: u64) -> String {
    format!(
        "Package: kiln
Version: {VERSION}
Architecture: {architecture}
Maintainer: {MAINTAINER}
Section: devel
Priority: optional
Installed-Size: {kibibytes}
Depends: {DEPENDS}
Recommends: qemu-system-x86, runc
Suggests: golang-docker-credential-helpers
Description: build engine and desktop app for container images
 Kiln builds container images on a laptop: an engine that speaks BuildKit's
 protocol, a machine to run it in, a command and a window with a tray.
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_file_has_what_dpkg_wants() {
        let text = control("amd64", 12);
        for line in [
            "Package: kiln",
            "Architecture: amd64",
            "Installed-Size: 12",
            "Maintainer: ",
            "Description: ",
        ] {
            assert!(text.lines().any(|l| l.starts_with(line)), "{line}");
        }
        assert!(text.ends_with('\n'));
    }
}
