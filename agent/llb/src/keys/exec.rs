//! The key of a process.

use kiln_gotext::path::rooted;
use kiln_oci::Digest;
use kiln_proto::pb;

use super::{InputKey, KeyError, OpKey, Selector, without_nested};
use crate::gojson::{self, ops};

/// The key of an exec with `inputs` inputs. `platform` is the op's, or else the worker's own.
pub fn exec(op: &pb::ExecOp, platform: &pb::Platform, inputs: usize) -> Result<OpKey, KeyError> {
    let keys = input_keys(op, inputs)?;
    let op = normal(op);
    let json = gojson::object(|json| {
        json.text("Type", "buildkit.exec.v0");
        json.object("Exec", |json| ops::exec(json, &op));
        json.text("OS", &platform.os);
        json.text("Arch", &platform.architecture);
        json.text_or_none("Variant", &platform.variant);
        json.text_or_none("OSVersion", &platform.os_version);
        json.texts_or_none("OSFeatures", &platform.os_features);
    });
    Ok(OpKey::of(json, keys))
}

/// The op without what doesn't change its result, or mustn't change its key.
fn normal(op: &pb::ExecOp) -> pb::ExecOp {
    let mut op = op.clone();
    if let Some(meta) = &mut op.meta {
        meta.proxy_env = None;
        for host in &mut meta.extra_hosts {
            host.ip.clear();
        }
    }
    for mount in &mut op.mounts {
        mount.selector.clear();
        if let Some(cache) = &mut mount.cache_opt
            && !is_default_cache(cache, &mount.dest)
        {
            cache.id.clear();
            cache.sharing = 0;
        }
    }
    if let [mount] = op.mounts.as_slice()
        && is_plain_root(mount)
    {
        op.mounts.clear();
    }
    op
}

/// The cache mount that a Dockerfile makes when it says nothing but the target: its id is the target,
/// also behind a namespace.
fn is_default_cache(cache: &pb::CacheOpt, dest: &str) -> bool {
    let behind_namespace = cache.id.split_once('/').map(|(_, rest)| rest);
    cache.sharing == 0 && (cache.id == dest || behind_namespace == Some(dest))
}

fn is_plain_root(mount: &pb::Mount) -> bool {
    mount.dest == "/"
        && !mount.readonly
        && mount.mount_type == pb::MountType::Bind as i32
        && mount.cache_opt.is_none()
        && mount.ssh_opt.is_none()
        && mount.secret_opt.is_none()
        && mount.result_id.is_empty()
}

fn input_keys(op: &pb::ExecOp, count: usize) -> Result<Vec<InputKey>, KeyError> {
    let mut paths: Vec<Vec<String>> = vec![Vec::new(); count];
    let mut by_content = vec![false; count];
    for mount in &op.mounts {
        let kind = pb::MountType::try_from(mount.mount_type);
        if matches!(
            kind,
            Ok(pb::MountType::Secret | pb::MountType::Ssh | pb::MountType::Tmpfs)
        ) || mount.input == -1
        {
            continue;
        }
        let input = usize::try_from(mount.input)
            .ok()
            .filter(|input| *input < count)
            .ok_or(KeyError::Input {
                index: mount.input,
                count,
            })?;
        let path = rooted(&mount.selector);
        // What the op can change, and what of it lives on in an output, must be known whole: content
        // beside the selected path would come back from the cache unnoticed.
        let safe = mount.output == -1 || mount.readonly || path == "/";
        by_content[input] = match pb::MountContentCache::try_from(mount.content_cache) {
            Ok(pb::MountContentCache::Off) => false,
            Ok(pb::MountContentCache::On) if !safe => {
                return Err(KeyError::ContentCache {
                    dest: mount.dest.clone(),
                });
            }
            Ok(pb::MountContentCache::On) => true,
            // Hashing a whole root file system is dear, and rarely a hit.
            _ => safe && mount.dest != "/",
        };
        paths[input].push(path);
    }
    let keys = paths.into_iter().zip(by_content);
    Ok(keys
        .map(|(paths, by_content)| InputKey {
            selector: (!paths.is_empty()).then(|| Digest::of(paths.join("\0"))),
            content: by_content.then(|| selectors(paths.clone())),
            paths,
        })
        .collect())
}

fn selectors(paths: Vec<String>) -> Vec<Selector> {
    let paths = without_nested(paths);
    if paths.iter().any(|path| path.is_empty() || path == "/") {
        return vec![Selector::default()];
    }
    paths
        .into_iter()
        .map(|path| Selector {
            path,
            follow_links: true,
            ..Selector::default()
        })
        .collect()
}
