//! Where a dialog for a file or folder begins: as near as can be to what a form holds already.
//!
//! Invariant: a place that is named here is a directory that exists, or none at all.

use std::path::{Path, PathBuf};

use crate::view::Pick;

/// Where a dialog begins.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Begin {
    /// The directory that it shows.
    pub directory: Option<PathBuf>,
    /// The name that a file to be written has already.
    pub name: String,
}

/// For what a form asks.
pub fn begin(ask: &Pick) -> Begin {
    let path = Path::new(ask.path.trim());
    let nearest = |from: &Path| {
        let mut above = from.ancestors().filter(|path| path.is_absolute());
        above.find(|path| path.is_dir()).map(Path::to_owned)
    };
    let name = |path: &Path| {
        path.file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    match ask.what.as_str() {
        "save" if path.is_dir() => Begin {
            directory: nearest(path),
            ..Begin::default()
        },
        "save" => Begin {
            directory: path.parent().and_then(nearest),
            name: name(path),
        },
        _ => Begin {
            directory: nearest(path),
            ..Begin::default()
        },
    }
}

/// A path that was chosen to write to, with the ending that its kind has.
pub fn with_ending(path: PathBuf, ask: &Pick) -> PathBuf {
    let Some(kind) = ask.kinds.first().filter(|_| ask.what == "save") else {
        return path;
    };
    if path.extension().is_some() {
        return path;
    }
    let mut whole = path.into_os_string();
    whole.push(".");
    whole.push(kind);
    whole.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dialog_begins_where_the_form_points() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path).display().to_string();
        std::fs::create_dir_all(root.path().join("src/shop")).unwrap();
        std::fs::write(root.path().join("src/shop/Dockerfile"), "FROM scratch").unwrap();
        for (what, path, directory, name) in [
            ("folder", at("src/shop"), Some("src/shop"), ""),
            ("folder", at("src/gone/deeper"), Some("src"), ""),
            ("folder", "relative".into(), None, ""),
            ("folder", "https://example.com/x.git".into(), None, ""),
            ("file", at("src/shop/Dockerfile"), Some("src/shop"), ""),
            ("save", at("src/out.tar"), Some("src"), "out.tar"),
            ("save", at("src/new/out.tar"), Some("src"), "out.tar"),
            ("save", at("src"), Some("src"), ""),
            ("save", String::new(), None, ""),
        ] {
            let ask = Pick {
                what: what.into(),
                path: path.clone(),
                ..Pick::default()
            };
            let want = Begin {
                directory: directory.map(|path| root.path().join(path)),
                name: name.into(),
            };
            assert_eq!(begin(&ask), want, "{what} {path}");
        }
    }

    #[test]
    fn a_file_without_an_ending_gets_its_own() {
        let ask = |what: &str| Pick {
            what: what.into(),
            kinds: vec!["dockerbuild".into()],
            ..Pick::default()
        };
        for (what, path, want) in [
            ("save", "/tmp/ci", "/tmp/ci.dockerbuild"),
            ("save", "/tmp/ci.tar", "/tmp/ci.tar"),
            ("file", "/tmp/ci", "/tmp/ci"),
        ] {
            assert_eq!(with_ending(path.into(), &ask(what)), Path::new(want));
        }
    }
}
