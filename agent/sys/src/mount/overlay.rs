//! Overlay mounts of any number of layers.
//!
//! From Linux 6.5 on each layer is an option of its own (`lowerdir+`). Before that all options are
//! one page of text, so layers are named relative to the deepest directory they have in common,
//! from a thread that has a working directory of its own.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, fsconfig_set_string, fsopen};

use super::attach::{configure, finish};
use super::options::MountOptions;
use super::{MountError, MountSpec, Result};

/// The longest string that `fsconfig(2)` takes, with its NUL.
const MAX_VALUE: usize = 256;

fn refused(spec: &MountSpec, target: &Path, source: impl Into<io::Error>) -> MountError {
    MountError::Mount {
        fstype: spec.fstype.clone(),
        target: target.to_owned(),
        source: source.into(),
    }
}

/// Splits `lowerdir=` at its colons, honouring the backslash that makes a colon part of a name.
fn layers(value: &str) -> Vec<String> {
    let mut out = vec![String::new()];
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        let last = out.len() - 1;
        match c {
            '\\' => out[last].extend(chars.next()),
            ':' => out.push(String::new()),
            c => out[last].push(c),
        }
    }
    out
}

fn escaped(layer: &str) -> String {
    layer
        .replace('\\', "\\\\")
        .replace(':', "\\:")
        .replace(',', "\\,")
}

/// Whether an overlay's options are only collected when they are told, and understood when it is mounted, as before Linux
/// 6.5: then it takes nonsense, too.
pub fn overlay_collects_options() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| takes("no-such-option"))
}

/// Whether this kernel takes layers one by one.
fn takes_single_layers() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| !overlay_collects_options() && takes("lowerdir+"))
}

fn takes(option: &str) -> bool {
    fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
        .and_then(|fs| fsconfig_set_string(&fs, option, "/"))
        .is_ok()
}

/// A volatile overlay leaves a mark that keeps it from being mounted again after a crash. Whether
/// the layer may be used is for the records of the cache to say, so the mark goes.
fn clear_volatile_mark(options: &MountOptions) {
    if options.has("volatile")
        && let Some(work) = options.value("workdir")
    {
        // Mostly it isn't there; where it can't be removed the mount fails and says why.
        let _ = std::fs::remove_dir_all(Path::new(work).join("work/incompat"));
    }
}

pub(super) fn detached(spec: &MountSpec, options: &MountOptions) -> Result<OwnedFd> {
    clear_volatile_mark(options);
    let lower = layers(options.value("lowerdir").unwrap_or_default());
    let short = lower.iter().all(|layer| layer.len() < MAX_VALUE)
        && options.data.iter().all(|(key, value)| {
            key == "lowerdir" || value.as_ref().is_none_or(|v| v.len() < MAX_VALUE)
        });
    if !short || !takes_single_layers() {
        // `ENOSYS` sends the caller to the classic way.
        return Err(refused(spec, Path::new(""), Errno::NOSYS));
    }
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|e| refused(spec, Path::new(""), e))?;
    let source = spec
        .source
        .to_str()
        .filter(|s| !s.is_empty())
        .unwrap_or("overlay");
    configure(spec, fs.as_fd(), "source", Some(source))?;
    for layer in &lower {
        configure(spec, fs.as_fd(), "lowerdir+", Some(layer))?;
    }
    for (key, value) in &options.data {
        if key != "lowerdir" {
            configure(spec, fs.as_fd(), key, value.as_deref())?;
        }
    }
    finish(spec, fs.as_fd(), options.attributes)
}

/// The deepest directory that all paths lie below, if it is worth anything.
fn common_parent(paths: &[&Path]) -> Option<PathBuf> {
    let mut common = paths.first()?.parent()?.to_owned();
    while !paths.iter().all(|path| path.starts_with(&common)) {
        common.pop().then_some(())?;
    }
    (common != Path::new("/")).then_some(common)
}

pub(super) fn classic(spec: &MountSpec, options: &MountOptions, target: &Path) -> Result<()> {
    clear_volatile_mark(options);
    let lower = layers(options.value("lowerdir").unwrap_or_default());
    let mut paths: Vec<&Path> = lower.iter().map(Path::new).collect();
    for key in ["upperdir", "workdir"] {
        paths.extend(options.value(key).map(Path::new));
    }
    let base = common_parent(&paths);
    let relative = |path: &str| match &base {
        Some(base) => Path::new(path)
            .strip_prefix(base)
            .map_or_else(|_| path.to_owned(), |p| p.to_string_lossy().into_owned()),
        None => path.to_owned(),
    };
    let mut data = vec![format!(
        "lowerdir={}",
        lower
            .iter()
            .map(|l| escaped(&relative(l)))
            .collect::<Vec<_>>()
            .join(":")
    )];
    for (key, value) in &options.data {
        match (key.as_str(), value) {
            ("lowerdir", _) => {}
            ("upperdir" | "workdir", Some(path)) => {
                data.push(format!("{key}={}", escaped(&relative(path))));
            }
            (_, Some(value)) => data.push(format!("{key}={value}")),
            (_, None) => data.push(key.clone()),
        }
    }
    let data = CString::new(data.join(","))
        .map_err(|_| refused(spec, target, io::ErrorKind::InvalidInput))?;
    let target_abs = std::path::absolute(target).map_err(|e| refused(spec, target, e))?;
    let flags = options.attributes.classic_flags();
    in_directory(base, move || {
        Ok(rustix::mount::mount(
            "overlay",
            &target_abs,
            "overlay",
            flags,
            Some(data.as_c_str()),
        )?)
    })
    .map_err(|e| refused(spec, target, e))
}

/// Runs `f` with a working directory that only its own thread sees.
fn in_directory(
    directory: Option<PathBuf>,
    f: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> io::Result<()> {
    std::thread::Builder::new()
        .name("mount".into())
        .spawn(move || {
            if let Some(directory) = directory {
                // SAFETY: only the file-system attributes of this thread are split off, which no
                // other code can observe: the thread runs nothing but this closure and then ends.
                if unsafe { libc::unshare(libc::CLONE_FS) } != 0 {
                    return Err(io::Error::last_os_error());
                }
                std::env::set_current_dir(directory)?;
            }
            f()
        })?
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the mounting thread panicked")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_split_at_plain_colons_only() {
        let cases: [(&str, &[&str]); 4] = [
            ("/a", &["/a"]),
            ("/a:/b", &["/a", "/b"]),
            ("/a\\:x:/b", &["/a:x", "/b"]),
            ("/a\\\\:/b", &["/a\\", "/b"]),
        ];
        for (value, expected) in cases {
            assert_eq!(layers(value), expected, "{value}");
        }
    }

    #[test]
    fn the_common_parent_is_a_whole_component() {
        let cases: [(&[&str], Option<&str>); 4] = [
            (&["/s/1/fs", "/s/12/fs"], Some("/s")),
            (&["/s/1/fs"], Some("/s/1")),
            (&["/a/1", "/b/1"], None),
            (&[], None),
        ];
        for (paths, expected) in cases {
            let paths: Vec<&Path> = paths.iter().map(Path::new).collect();
            assert_eq!(common_parent(&paths).as_deref(), expected.map(Path::new));
        }
    }
}
