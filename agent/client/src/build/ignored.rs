//! Which files of a context no build sees, for those who watch it.
//!
//! The engine reads the ignore file itself with each build; this is the same reading, by the same rules: an ignore
//! file that is named after the Dockerfile (`NAME.dockerignore`, beside it) takes the place of `.dockerignore`.
//!
//! Invariant: the Dockerfile and the ignore file themselves are never left out: a change of them changes the build.

use std::path::{Path, PathBuf};

use kiln_filesync::{PatternMatcher, ignore_patterns};

/// The ignore file of a context and a Dockerfile.
#[derive(Debug)]
pub struct Ignored {
    context: PathBuf,
    matcher: PatternMatcher,
    never: [PathBuf; 2],
}

impl Ignored {
    /// Reads it. One that isn't there, or that the engine would refuse, leaves out nothing.
    pub fn of(context: &Path, dockerfile: &Path) -> Self {
        let mut named = dockerfile.as_os_str().to_owned();
        named.push(".dockerignore");
        let named = PathBuf::from(named);
        let general = context.join(".dockerignore");
        let file = if named.is_file() { named } else { general };
        let data = std::fs::read(&file).unwrap_or_default();
        Self {
            context: context.to_owned(),
            matcher: PatternMatcher::new(&ignore_patterns(&data)).unwrap_or_default(),
            never: [dockerfile.to_owned(), file],
        }
    }

    /// Whether no build sees that file or directory.
    pub fn leaves_out(&self, path: &Path) -> bool {
        if self.never.iter().any(|file| file == path) {
            return false;
        }
        let below = path.strip_prefix(&self.context).ok();
        let Some(below) = below.and_then(Path::to_str) else {
            // Beside the context: only the Dockerfile matters there.
            return true;
        };
        !below.is_empty() && self.matcher.matches(below)
    }

    /// Whether nothing below that directory can matter, so that nobody needs to look there.
    pub fn leaves_out_all_below(&self, directory: &Path) -> bool {
        self.leaves_out(directory)
            && !self.matcher.has_exceptions()
            && !self.never.iter().any(|file| file.starts_with(directory))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_build_sees_is_left_out() {
        let context = tempfile::tempdir().unwrap();
        let at = |name: &str| context.path().join(name);
        std::fs::write(at(".dockerignore"), "*.log\nDockerfile\n/out\n!out/keep\n").unwrap();
        let ignored = Ignored::of(context.path(), &at("Dockerfile"));
        for (path, out) in [
            ("a.log", true),
            ("sub/a.log", false),
            ("Dockerfile", false),
            (".dockerignore", false),
            ("out/x", true),
            ("out/keep", false),
            ("src/main.rs", false),
        ] {
            assert_eq!(ignored.leaves_out(&at(path)), out, "{path}");
        }
        assert!(!ignored.leaves_out(context.path()));
        assert!(ignored.leaves_out(Path::new("/elsewhere")));
        // An exception may be anywhere below.
        assert!(!ignored.leaves_out_all_below(&at("out")));

        std::fs::write(at("web.Dockerfile.dockerignore"), "node_modules\n").unwrap();
        let ignored = Ignored::of(context.path(), &at("web.Dockerfile"));
        assert!(ignored.leaves_out_all_below(&at("node_modules")));
        assert!(!ignored.leaves_out(&at("a.log")));
        let inside = Ignored::of(context.path(), &at("node_modules/Dockerfile"));
        assert!(!inside.leaves_out_all_below(&at("node_modules")));
    }
}
