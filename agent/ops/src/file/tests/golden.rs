//! What a real BuildKit made of the golden Dockerfiles.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt};

use kiln_filesync::PatternMatcher;
use serde_json::Value;

use super::*;

/// `{name, context, ops, layers: [[entry]]}` of Dockerfiles that only copy.
const GOLDEN: &str = include_str!("../../../tests/golden/copies.json");

#[test]
fn golden_copies_come_out_as_buildkit_makes_them() {
    let golden: Vec<Value> = serde_json::from_str(GOLDEN).unwrap();
    assert_eq!(golden.len(), 21);
    for case in &golden {
        let name = text(&case["name"]);
        let mut lab = Lab::new();
        let excludes = case["ops"].as_array().unwrap().iter().find_map(|op| {
            let patterns = op["source"]["attrs"]["local.excludepatterns"].as_str()?;
            Some(serde_json::from_str::<Vec<String>>(patterns).unwrap())
        });
        context(&lab.src(), &case["context"], &excludes.unwrap_or_default());
        let made = evaluate(&mut lab, &name, case["ops"].as_array().unwrap());
        let mut want = BTreeMap::new();
        for entry in case["layers"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|l| l.as_array().unwrap())
        {
            let path = text(&entry["name"]).trim_end_matches('/').to_owned();
            let mode =
                u32::from_str_radix(text(&entry["mode"]).trim_start_matches("0o"), 8).unwrap();
            let size = entry["size"].as_u64().unwrap();
            want.insert(
                path,
                (mode, size, text(&entry["link"]), number(&entry["uid"])),
            );
        }
        let got: BTreeMap<_, _> = walk(&made)
            .into_iter()
            .map(|(path, metadata)| {
                let full = made.join(&path);
                let link = std::fs::read_link(full).unwrap_or_default();
                let size = if metadata.is_file() {
                    metadata.len()
                } else {
                    0
                };
                let mode = metadata.permissions().mode() & 0o7777;
                let uid = i64::from(metadata.uid());
                (path, (mode, size, link.to_str().unwrap().to_owned(), uid))
            })
            .collect();
        assert_eq!(got, want, "{name}");
    }
}

/// Does all actions of a definition; each result has a directory of its own. Returns the last one's.
fn evaluate(lab: &mut Lab, name: &str, ops: &[Value]) -> PathBuf {
    let mut by_id: BTreeMap<String, PathBuf> = BTreeMap::new();
    let mut last = lab.dest();
    let mut count = 0;
    for op in ops {
        let inputs = op["inputs"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        let mut states: Vec<PathBuf> = inputs
            .iter()
            .map(|input| by_id[text(input).split(':').next().unwrap()].clone())
            .collect();
        for action in op["file"]["actions"].as_array().into_iter().flatten() {
            let state = |key: &str| {
                let index = usize::try_from(number(&action[key])).ok()?;
                Some(states[index].clone())
            };
            count += 1;
            last = lab.folder.path().join(format!("made {count}"));
            std::fs::create_dir(&last).unwrap();
            let base = state("input");
            let copied =
                base.map(|base| between(lab, &base, &last, &Action::Copy(plain_copy("/", "/"))));
            copied.transpose().unwrap();
            let from = state("secondaryInput").unwrap_or_else(|| last.clone());
            between(lab, &from, &last, &action_of(&action["Action"]))
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            states.push(last.clone());
        }
        let result = match op["source"].is_null() {
            true => last.clone(),
            false => lab.src(),
        };
        by_id.insert(text(&op["id"]), result);
    }
    last
}

/// The context as the client would send it.
fn context(root: &Path, entries: &Value, excludes: &[String]) {
    let matcher = PatternMatcher::new(excludes).unwrap();
    for (name, entry) in entries.as_object().unwrap() {
        if matcher.matches(name) {
            continue;
        }
        let path = root.join(name);
        let folder = path.parent().unwrap();
        std::fs::create_dir_all(folder).unwrap();
        if let Some(target) = entry["symlink"].as_str().or(entry["link"].as_str()) {
            symlink(target, &path).unwrap();
            continue;
        }
        if let Some(members) = entry["tar"].as_object() {
            let mut archive = tar::Builder::new(std::fs::File::create(&path).unwrap());
            for (name, content) in members {
                let content = text(content);
                let data = content.split(", mode").next().unwrap().to_owned();
                let mut header = tar::Header::new_gnu();
                header.set_mode(0o600);
                header.set_size(data.len() as u64);
                header.set_cksum();
                archive
                    .append_data(&mut header, name, data.as_bytes())
                    .unwrap();
            }
            archive.into_inner().unwrap();
            // Archivers write blocks of ten kibibytes.
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.set_len(10240).unwrap();
        } else {
            std::fs::write(&path, text(&entry["data"])).unwrap();
        }
        let mode = u32::from_str_radix(&text(&entry["mode"]), 8).unwrap_or(0o644);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    }
}

fn action_of(action: &Value) -> Action {
    let (kind, value) = action.as_object().unwrap().iter().next().unwrap();
    let truth = |key: &str| value[key].as_bool().unwrap_or(false);
    let texts = |key: &str| -> Vec<String> {
        let list = value[key].as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().map(text).collect()
    };
    let user = |value: &Value| pb::UserOpt {
        user: Some(pb::user_opt::User::ById(
            number(&value["User"]["byId"]) as u32
        )),
    };
    let owner = value.get("owner").map(|owner| pb::ChownOpt {
        user: owner.get("user").map(user),
        group: owner.get("group").map(user),
    });
    match kind.as_str() {
        "copy" => Action::Copy(pb::FileActionCopy {
            src: text(&value["src"]),
            dest: text(&value["dest"]),
            owner,
            mode: number(&value["mode"]) as i32,
            follow_symlink: truth("followSymlink"),
            dir_copy_contents: truth("dirCopyContents"),
            attempt_unpack_docker_compatibility: truth("attemptUnpackDockerCompatibility"),
            create_dest_path: truth("createDestPath"),
            allow_wildcard: truth("allowWildcard"),
            allow_empty_wildcard: truth("allowEmptyWildcard"),
            timestamp: -1,
            include_patterns: texts("include_patterns"),
            exclude_patterns: texts("exclude_patterns"),
            always_replace_existing_dest_paths: truth("alwaysReplaceExistingDestPaths"),
            mode_str: text(&value["modeStr"]),
            required_paths: texts("required_paths"),
        }),
        "mkfile" => {
            use base64::Engine as _;
            let data = base64::engine::general_purpose::STANDARD.decode(text(&value["data"]));
            Action::Mkfile(pb::FileActionMkFile {
                path: text(&value["path"]),
                mode: number(&value["mode"]) as i32,
                data: data.unwrap(),
                owner,
                timestamp: -1,
            })
        }
        other => panic!("{other}"),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}
