//! Op digests, selectors and links against the cache records of a real BuildKit (its main branch of
//! August 2026), which it exported with `mode=max` for each of the golden Dockerfiles.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use kiln_llb::keys::{self, OpKey};
use kiln_oci::Digest;
use kiln_proto::pb;
use serde_json::Value;

/// `{name, ops: [{id, inputs, op, platform}], records: [{digest, inputs}]}` per Dockerfile.
const GOLDEN: &str = include_str!("golden/keys.json");

#[test]
fn every_record_of_an_op_comes_out_equal() {
    let golden: Vec<Value> = serde_json::from_str(GOLDEN).unwrap();
    assert_eq!(golden.len(), 58);
    let mut checked = 0;
    for case in &golden {
        checked += check(case);
    }
    assert_eq!(checked, 43 + 38 + 2, "exec, file and merge ops");
}

/// An op and the record digests that its outputs are linked by.
struct Made {
    key: OpKey,
    inputs: Vec<(String, usize)>,
}

fn check(case: &Value) -> usize {
    let name = text(&case["name"]);
    let mut made: BTreeMap<String, Option<Made>> = BTreeMap::new();
    for op in list(&case["ops"]) {
        let inputs: Vec<(String, usize)> = list(&op["inputs"])
            .iter()
            .map(|input| {
                let text = text(input);
                let (id, index) = text.split_once(':').unwrap();
                (id.to_owned(), index.parse().unwrap())
            })
            .collect();
        let key = op_key(op, inputs.len());
        made.insert(text(&op["id"]), key.map(|key| Made { key, inputs }));
    }
    let records = list(&case["records"]);
    let by_digest: HashMap<String, &Value> = records
        .iter()
        .map(|record| (text(&record["digest"]), record))
        .collect();
    let mut checked = 0;
    let mut explained = BTreeSet::new();
    for op in made.values().flatten() {
        let digest = record_digest(&op.key.digest, 0);
        let Some(record) = by_digest.get(&digest) else {
            panic!("{name}: no record {digest} for {}", op.key.json);
        };
        explained.insert(digest);
        checked += 1;
        let record_inputs = list(&record["inputs"]);
        assert_eq!(record_inputs.len(), op.inputs.len(), "{name}");
        for ((input, links), key) in op.inputs.iter().zip(record_inputs).zip(&op.key.inputs) {
            let selector = key.selector.map(|selector| selector.to_string());
            let parent = made[&input.0].as_ref();
            let parent = parent.map(|parent| record_digest(&parent.key.digest, input.1));
            let mut by_definition = 0;
            for link in list(links) {
                let target = &records[link["link"].as_u64().unwrap() as usize];
                let got = link.get("selector").map(text);
                if got.is_some() || key.content.is_none() {
                    assert_eq!(got, selector, "{name}: selector of {}", op.key.json);
                    by_definition += 1;
                    if let Some(parent) = &parent {
                        assert_eq!(&text(&target["digest"]), parent, "{name}");
                    }
                } else {
                    // A content key is a root, and it is there only where content is hashed. Inputs of
                    // copies may be linked without a selector only by their content.
                    assert!(list(&target["inputs"]).is_empty(), "{name}");
                }
            }
            // A session's context has no key that leaves the session.
            assert!(by_definition > 0 || parent.is_none(), "{name}");
            let by_content = list(links).len() > by_definition;
            assert_eq!(by_content, key.content.is_some(), "{name}: {}", op.key.json);
        }
    }
    // No record with inputs is left unexplained.
    for record in records {
        let digest = text(&record["digest"]);
        assert!(
            list(&record["inputs"]).is_empty() || explained.contains(&digest),
            "{name}: {digest}"
        );
    }
    checked
}

fn record_digest(op: &Digest, output: usize) -> String {
    Digest::of(format!("{op}@{output}")).to_string()
}

/// Sources have keys of their own making.
fn op_key(op: &Value, inputs: usize) -> Option<OpKey> {
    let platform = pb::Platform {
        os: text(&op["platform"]["OS"]),
        architecture: text(&op["platform"]["Architecture"]),
        ..pb::Platform::default()
    };
    let (kind, op) = op["op"].as_object().unwrap().iter().next().unwrap();
    Some(match kind.as_str() {
        "exec" => keys::exec(&exec(op), &platform, inputs).unwrap(),
        "file" => keys::file(&file(op), inputs).unwrap(),
        "merge" => keys::merge(&pb::MergeOp {
            inputs: list(&op["inputs"])
                .iter()
                .map(|input| pb::MergeInput {
                    input: number(&input["input"]),
                })
                .collect(),
        }),
        "source" => return None,
        other => panic!("{other}"),
    })
}

fn exec(op: &Value) -> pb::ExecOp {
    let meta = &op["meta"];
    pb::ExecOp {
        meta: Some(pb::Meta {
            args: texts(&meta["args"]),
            env: texts(&meta["env"]),
            cwd: text(&meta["cwd"]),
            user: text(&meta["user"]),
            proxy_env: meta.get("proxy_env").map(|proxy| pb::ProxyEnv {
                http_proxy: text(&proxy["http_proxy"]),
                ..pb::ProxyEnv::default()
            }),
            extra_hosts: map(&meta["extraHosts"], |host| pb::HostIp {
                host: text(&host["Host"]),
                ip: text(&host["IP"]),
            }),
            hostname: text(&meta["hostname"]),
            ulimit: map(&meta["ulimit"], |limit| pb::Ulimit {
                name: text(&limit["Name"]),
                soft: number(&limit["Soft"]),
                hard: number(&limit["Hard"]),
            }),
            cgroup_parent: text(&meta["cgroupParent"]),
            remove_mount_stubs_recursive: truth(&meta["removeMountStubsRecursive"]),
            valid_exit_codes: Vec::new(),
        }),
        mounts: map(&op["mounts"], mount),
        network: number(&op["network"]) as i32,
        security: number(&op["security"]) as i32,
        secretenv: map(&op["secretenv"], |secret| pb::SecretEnv {
            id: text(&secret["ID"]),
            name: text(&secret["name"]),
            optional: truth(&secret["optional"]),
        }),
        cdi_devices: Vec::new(),
    }
}

fn mount(mount: &Value) -> pb::Mount {
    pb::Mount {
        input: number(&mount["input"]),
        selector: text(&mount["selector"]),
        dest: text(&mount["dest"]),
        output: number(&mount["output"]),
        readonly: truth(&mount["readonly"]),
        mount_type: number(&mount["mountType"]) as i32,
        tmpfs_opt: mount.get("TmpfsOpt").map(|tmpfs| pb::TmpfsOpt {
            size: number(&tmpfs["size"]),
        }),
        cache_opt: mount.get("cacheOpt").map(|cache| pb::CacheOpt {
            id: text(&cache["ID"]),
            sharing: number(&cache["sharing"]) as i32,
        }),
        secret_opt: mount.get("secretOpt").map(|secret| pb::SecretOpt {
            id: text(&secret["ID"]),
            uid: number(&secret["uid"]) as u32,
            gid: number(&secret["gid"]) as u32,
            mode: number(&secret["mode"]) as u32,
            optional: truth(&secret["optional"]),
        }),
        ssh_opt: None,
        result_id: text(&mount["resultID"]),
        content_cache: number(&mount["contentCache"]) as i32,
    }
}

fn file(op: &Value) -> pb::FileOp {
    use pb::file_action::Action;
    pb::FileOp {
        actions: map(&op["actions"], |action| {
            let (kind, value) = action["Action"].as_object().unwrap().iter().next().unwrap();
            let owner = value.get("owner").map(owner);
            pb::FileAction {
                input: number(&action["input"]),
                secondary_input: number(&action["secondaryInput"]),
                output: number(&action["output"]),
                action: Some(match kind.as_str() {
                    "copy" => Action::Copy(copy(value, owner)),
                    "mkfile" => Action::Mkfile(pb::FileActionMkFile {
                        path: text(&value["path"]),
                        mode: number(&value["mode"]) as i32,
                        data: base64(&text(&value["data"])),
                        owner,
                        timestamp: number(&value["timestamp"]),
                    }),
                    "mkdir" => Action::Mkdir(pb::FileActionMkDir {
                        path: text(&value["path"]),
                        mode: number(&value["mode"]) as i32,
                        make_parents: truth(&value["makeParents"]),
                        owner,
                        timestamp: number(&value["timestamp"]),
                    }),
                    other => panic!("{other}"),
                }),
            }
        }),
    }
}

fn copy(value: &Value, owner: Option<pb::ChownOpt>) -> pb::FileActionCopy {
    pb::FileActionCopy {
        src: text(&value["src"]),
        dest: text(&value["dest"]),
        owner,
        mode: number(&value["mode"]) as i32,
        follow_symlink: truth(&value["followSymlink"]),
        dir_copy_contents: truth(&value["dirCopyContents"]),
        attempt_unpack_docker_compatibility: truth(&value["attemptUnpackDockerCompatibility"]),
        create_dest_path: truth(&value["createDestPath"]),
        allow_wildcard: truth(&value["allowWildcard"]),
        allow_empty_wildcard: truth(&value["allowEmptyWildcard"]),
        timestamp: number(&value["timestamp"]),
        include_patterns: texts(&value["include_patterns"]),
        exclude_patterns: texts(&value["exclude_patterns"]),
        always_replace_existing_dest_paths: truth(&value["alwaysReplaceExistingDestPaths"]),
        mode_str: text(&value["modeStr"]),
        required_paths: texts(&value["required_paths"]),
    }
}

fn owner(value: &Value) -> pb::ChownOpt {
    use pb::user_opt::User;
    let user = |value: &Value| {
        let user = &value["User"];
        pb::UserOpt {
            user: Some(match user.get("byName") {
                Some(named) => User::ByName(pb::NamedUserOpt {
                    name: text(&named["name"]),
                    input: number(&named["input"]),
                }),
                None => User::ById(number(&user["byId"]) as u32),
            }),
        }
    };
    pb::ChownOpt {
        user: value.get("user").map(user),
        group: value.get("group").map(user),
    }
}

fn base64(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn map<T>(value: &Value, make: impl FnMut(&Value) -> T) -> Vec<T> {
    list(value).iter().map(make).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    map(value, text)
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

fn truth(value: &Value) -> bool {
    value.as_bool().unwrap_or(false)
}
