//! Which project a build is of: builds of one project are compared with each other.
//!
//! | part of the key | from |
//! |---|---|
//! | the source | a remote context's URL without its `#…`, else the client's shared key (directory and client) |
//! | the file | `filename` |
//! | the target | `target` |

use std::collections::BTreeMap;

use kiln_history::Project;
use kiln_oci::Digest;
use kiln_provenance::redact;

/// The project of a build with a frontend's `options`, whose client's shared key is `shared_key`. `None`
/// where neither says what is built.
pub(crate) fn project(options: &BTreeMap<String, String>, shared_key: &str) -> Option<Project> {
    let option = |name: &str| options.get(name).map_or("", String::as_str);
    let remote = option("context");
    let is_remote = remote.contains("://") || remote.starts_with("git@");
    let (source, name) = if is_remote {
        let url = remote.split('#').next().unwrap_or(remote);
        (redact(url).into_owned(), last_part(url))
    } else if shared_key.is_empty() {
        return None;
    } else {
        // buildx: the directory's name, and an id of the client.
        let name = shared_key
            .rsplit_once(':')
            .map_or(shared_key, |(name, _)| name);
        (shared_key.to_owned(), last_part(name))
    };
    let (file, target) = (option("filename"), option("target"));
    let file = if file.is_empty() { "Dockerfile" } else { file };
    let key = Digest::of(format!("{source}\0{file}\0{target}")).hex()[..16].to_owned();
    let file = match file {
        "Dockerfile" => String::new(),
        other => format!(" ({other})"),
    };
    let target = match target {
        "" => String::new(),
        other => format!(" [{other}]"),
    };
    let name = format!("{name}{file}{target}");
    Some(Project { key, name })
}

fn last_part(path: &str) -> &str {
    let path = path.trim_end_matches('/');
    let last = path.rsplit(['/', ':']).next().unwrap_or(path);
    last.strip_suffix(".git").unwrap_or(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn projects_have_names_and_keys_of_their_own() {
        let of = |options: &[(&str, &str)], shared_key: &str| {
            let options = options
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect();
            project(&options, shared_key)
        };
        let mut keys = std::collections::BTreeSet::new();
        for (options, shared_key, name) in [
            (vec![], "app:node1", "app"),
            (vec![], "app:node2", "app"),
            (vec![], "/home/me/app", "app"),
            (vec![("target", "test")], "app:node1", "app [test]"),
            (
                vec![("filename", "a.Dockerfile")],
                "app:node1",
                "app (a.Dockerfile)",
            ),
            (
                vec![("context", "https://user:word@host/team/tool.git#main")],
                "",
                "tool",
            ),
        ] {
            let project = of(&options, shared_key).expect("a project");
            assert_eq!(project.name, name);
            assert!(
                keys.insert(project.key),
                "{options:?} has the key of another"
            );
        }
        let branch = of(&[("context", "https://host/team/tool.git#dev")], "x");
        let other = of(&[("context", "https://host/team/tool.git#main")], "y");
        assert_eq!(branch, other);
        assert_eq!(of(&[("filename", "Dockerfile")], "k"), of(&[], "k"));
        assert_eq!(of(&[], ""), None);
    }
}
