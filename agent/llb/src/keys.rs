//! What of an op enters its cache key: BuildKit's op digests and selectors, of version 0.26 and later.
//!
//! | op | in the digest | left out of it |
//! |---|---|---|
//! | exec | type, the op's JSON, platform | addresses of extra hosts, mount selectors, proxy settings, id and sharing of cache mounts that aren't the default ones, a single plain root mount |
//! | file | type, each action's JSON, indexes unless they are the usual chain | platform; the folder of a copy's source |
//! | merge, diff, build | type, the op's JSON | platform |
//! | source | type, the source's own key | everything else |
//!
//! What an op reads of an input is a **selector** (the digest of the paths; part of the link between the
//! keys) and, where it is safe, a list of paths whose **content** makes a key of its own.
//!
//! Invariant: a digest that differs from BuildKit's by one bit is a cache that nobody shares; `tests/it`
//! holds every record that a real daemon made of the golden Dockerfiles against this module.

mod exec;
mod file;

pub use exec::exec;
pub use file::file;

use kiln_oci::Digest;
use kiln_proto::pb;

use crate::gojson::{self, Object, ops};

/// One op's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpKey {
    /// sha256 of `json`.
    pub digest: Digest,
    /// What was hashed; kept to explain a miss.
    pub json: String,
    /// As many as the op has inputs.
    pub inputs: Vec<InputKey>,
}

/// How an input enters the key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InputKey {
    /// Names the paths that the op reads.
    pub selector: Option<Digest>,
    /// The paths that `selector` was made of, in its order; kept to explain a miss.
    pub paths: Vec<String>,
    /// What to hash of the input's content, if it is to be hashed.
    pub content: Option<Vec<Selector>>,
}

/// A part of a file system.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selector {
    /// A path, or a pattern if `wildcard`. Everything if empty.
    pub path: String,
    /// Whether `path` is a pattern.
    pub wildcard: bool,
    /// Resolve a link at the end of the path.
    pub follow_links: bool,
    /// Only what matches one of these.
    pub include: Vec<String>,
    /// Nothing that matches one of these.
    pub exclude: Vec<String>,
    /// What must be among it.
    pub required: Vec<String>,
}

/// Why an op has no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The op names an input that its vertex doesn't have.
    #[error("invalid input index {index} of an op with {count} inputs")]
    Input {
        /// As the op has it.
        index: i64,
        /// How many there are.
        count: usize,
    },
    /// A mount asks for a content key that would hide changes.
    #[error(
        "the content of the mount at {dest:?} can't be its cache key: it is writable and has an output"
    )]
    ContentCache {
        /// Where it is mounted.
        dest: String,
    },
    /// An action without a kind.
    #[error("file action {index} has no kind")]
    NoAction {
        /// Which one.
        index: usize,
    },
}

impl OpKey {
    fn of(json: String, inputs: Vec<InputKey>) -> Self {
        Self {
            digest: Digest::of(&json),
            json,
            inputs,
        }
    }

    fn simple(kind: &str, field: &str, inputs: usize, write: impl FnOnce(&mut Object<'_>)) -> Self {
        let json = gojson::object(|json| {
            json.text("Type", kind);
            json.object(field, write);
        });
        Self::of(json, vec![InputKey::default(); inputs])
    }
}

/// The key of a merge.
pub fn merge(op: &pb::MergeOp) -> OpKey {
    OpKey::simple("buildkit.merge.v0", "Merge", op.inputs.len(), |json| {
        ops::merge(json, op);
    })
}

/// The key of a diff. Sides that are empty aren't inputs.
pub fn diff(op: &pb::DiffOp) -> OpKey {
    let lower = op.lower.as_ref().is_some_and(|lower| lower.input != -1);
    let upper = op.upper.as_ref().is_some_and(|upper| upper.input != -1);
    let inputs = usize::from(lower) + usize::from(upper);
    OpKey::simple("buildkit.diff.v0", "Diff", inputs, |json| {
        ops::diff(json, op);
    })
}

/// The key of a build inside of a build. BuildKit's JSON calls the op `Exec`, by mistake and for good.
pub fn build(op: &pb::BuildOp, inputs: usize) -> OpKey {
    OpKey::simple("buildkit.build.v0", "Exec", inputs, |json| {
        ops::build(json, op);
    })
}

/// The op digest of a source whose own key is `key`, and whether it holds in its session only.
pub fn source(key: &str) -> (Digest, bool) {
    let digest = Digest::of(format!("buildkit.source.v0:{key}"));
    (digest, key.starts_with("session:"))
}

/// The digest of the content of several selectors, of which each has its own.
pub fn content(digests: &[Digest]) -> Digest {
    let texts: Vec<String> = digests.iter().map(Digest::to_string).collect();
    Digest::of(texts.join("\0"))
}

/// Paths without those that lie in others, sorted.
fn without_nested(mut paths: Vec<String>) -> Vec<String> {
    if paths.len() <= 1 {
        return paths;
    }
    paths.sort_unstable();
    paths.dedup();
    let inside = |path: &str, folder: &str| {
        path != folder
            && path
                .strip_prefix(folder)
                .is_some_and(|rest| folder.ends_with('/') || rest.starts_with('/'))
    };
    let kept = paths
        .iter()
        .filter(|path| !paths.iter().any(|folder| inside(path, folder)));
    kept.cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_paths_are_dropped() {
        for (paths, want) in [
            (vec!["/b", "/a", "/a"], vec!["/a", "/b"]),
            (vec!["/foo", "/foobar", "/foo/bar"], vec!["/foo", "/foobar"]),
            (vec!["/", "/x"], vec!["/"]),
            (vec!["/x/", "/x/y"], vec!["/x/"]),
            (vec!["", "/x"], vec![""]),
            (vec!["/z"], vec!["/z"]),
        ] {
            let paths = paths.into_iter().map(str::to_owned).collect();
            assert_eq!(without_nested(paths), want);
        }
    }

    #[test]
    fn merge_diff_build_and_source() {
        let merge = merge(&pb::MergeOp {
            inputs: vec![pb::MergeInput { input: 0 }, pb::MergeInput { input: 1 }],
        });
        assert_eq!(
            merge.json,
            r#"{"Type":"buildkit.merge.v0","Merge":{"inputs":[{},{"input":1}]}}"#
        );
        let diff = diff(&pb::DiffOp {
            lower: Some(pb::LowerDiffInput { input: -1 }),
            upper: Some(pb::UpperDiffInput { input: 0 }),
        });
        assert_eq!(
            diff.json,
            r#"{"Type":"buildkit.diff.v0","Diff":{"lower":{"input":-1},"upper":{}}}"#
        );
        assert_eq!(diff.inputs.len(), 1);
        let build = build(
            &pb::BuildOp {
                builder: -1,
                inputs: [(
                    "buildkit.llb.definition".into(),
                    pb::BuildInput { input: 0 },
                )]
                .into(),
                def: None,
                attrs: [("a".into(), "<".into())].into(),
            },
            1,
        );
        assert_eq!(
            build.json,
            concat!(
                r#"{"Type":"buildkit.build.v0","Exec":{"builder":-1,"#,
                r#""inputs":{"buildkit.llb.definition":{}},"attrs":{"a":"\u003c"}}}"#
            )
        );
        assert!(source("session:context:x").1);
        assert!(!source("sha256:x").1);
    }
}
