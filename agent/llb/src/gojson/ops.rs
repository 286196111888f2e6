//! The messages of LLB, field by field in the order and under the names of BuildKit's Go structs.

use kiln_proto::pb;

use super::{Object, bytes};

/// `pb.ExecOp`.
pub fn exec(json: &mut Object<'_>, op: &pb::ExecOp) {
    json.object_or_none("meta", op.meta.as_ref(), meta);
    json.objects_or_none("mounts", &op.mounts, mount);
    json.number_or_none("network", op.network);
    json.number_or_none("security", op.security);
    json.objects_or_none("secretenv", &op.secretenv, |json, secret| {
        json.text_or_none("ID", &secret.id);
        json.text_or_none("name", &secret.name);
        json.bool_or_none("optional", secret.optional);
    });
    json.objects_or_none("cdiDevices", &op.cdi_devices, |json, device| {
        json.text_or_none("name", &device.name);
        json.bool_or_none("optional", device.optional);
    });
}

fn meta(json: &mut Object<'_>, meta: &pb::Meta) {
    json.texts_or_none("args", &meta.args);
    json.texts_or_none("env", &meta.env);
    json.text_or_none("cwd", &meta.cwd);
    json.text_or_none("user", &meta.user);
    json.object_or_none("proxy_env", meta.proxy_env.as_ref(), |json, proxy| {
        json.text_or_none("http_proxy", &proxy.http_proxy);
        json.text_or_none("https_proxy", &proxy.https_proxy);
        json.text_or_none("ftp_proxy", &proxy.ftp_proxy);
        json.text_or_none("no_proxy", &proxy.no_proxy);
        json.text_or_none("all_proxy", &proxy.all_proxy);
    });
    json.objects_or_none("extraHosts", &meta.extra_hosts, |json, host| {
        json.text_or_none("Host", &host.host);
        json.text_or_none("IP", &host.ip);
    });
    json.text_or_none("hostname", &meta.hostname);
    json.objects_or_none("ulimit", &meta.ulimit, |json, limit| {
        json.text_or_none("Name", &limit.name);
        json.number_or_none("Soft", limit.soft);
        json.number_or_none("Hard", limit.hard);
    });
    json.text_or_none("cgroupParent", &meta.cgroup_parent);
    json.bool_or_none(
        "removeMountStubsRecursive",
        meta.remove_mount_stubs_recursive,
    );
    json.list_or_none("validExitCodes", &meta.valid_exit_codes, |out, code| {
        out.push_str(&code.to_string());
    });
}

fn mount(json: &mut Object<'_>, mount: &pb::Mount) {
    json.number_or_none("input", mount.input);
    json.text_or_none("selector", &mount.selector);
    json.text_or_none("dest", &mount.dest);
    json.number_or_none("output", mount.output);
    json.bool_or_none("readonly", mount.readonly);
    json.number_or_none("mountType", mount.mount_type);
    json.object_or_none("TmpfsOpt", mount.tmpfs_opt.as_ref(), |json, tmpfs| {
        json.number_or_none("size", tmpfs.size);
    });
    json.object_or_none("cacheOpt", mount.cache_opt.as_ref(), |json, cache| {
        json.text_or_none("ID", &cache.id);
        json.number_or_none("sharing", cache.sharing);
    });
    json.object_or_none("secretOpt", mount.secret_opt.as_ref(), |json, secret| {
        json.text_or_none("ID", &secret.id);
        json.number_or_none("uid", secret.uid);
        json.number_or_none("gid", secret.gid);
        json.number_or_none("mode", secret.mode);
        json.bool_or_none("optional", secret.optional);
    });
    json.object_or_none("SSHOpt", mount.ssh_opt.as_ref(), |json, ssh| {
        json.text_or_none("ID", &ssh.id);
        json.number_or_none("uid", ssh.uid);
        json.number_or_none("gid", ssh.gid);
        json.number_or_none("mode", ssh.mode);
        json.bool_or_none("optional", ssh.optional);
    });
    json.text_or_none("resultID", &mount.result_id);
    json.number_or_none("contentCache", mount.content_cache);
}

/// `pb.FileActionCopy`.
pub fn copy(json: &mut Object<'_>, copy: &pb::FileActionCopy) {
    json.text_or_none("src", &copy.src);
    json.text_or_none("dest", &copy.dest);
    json.object_or_none("owner", copy.owner.as_ref(), owner);
    json.number_or_none("mode", copy.mode);
    json.bool_or_none("followSymlink", copy.follow_symlink);
    json.bool_or_none("dirCopyContents", copy.dir_copy_contents);
    json.bool_or_none(
        "attemptUnpackDockerCompatibility",
        copy.attempt_unpack_docker_compatibility,
    );
    json.bool_or_none("createDestPath", copy.create_dest_path);
    json.bool_or_none("allowWildcard", copy.allow_wildcard);
    json.bool_or_none("allowEmptyWildcard", copy.allow_empty_wildcard);
    json.number_or_none("timestamp", copy.timestamp);
    json.texts_or_none("include_patterns", &copy.include_patterns);
    json.texts_or_none("exclude_patterns", &copy.exclude_patterns);
    json.bool_or_none(
        "alwaysReplaceExistingDestPaths",
        copy.always_replace_existing_dest_paths,
    );
    json.text_or_none("modeStr", &copy.mode_str);
    json.texts_or_none("required_paths", &copy.required_paths);
}

/// `pb.FileActionMkFile`.
pub fn mkfile(json: &mut Object<'_>, file: &pb::FileActionMkFile) {
    json.text_or_none("path", &file.path);
    json.number_or_none("mode", file.mode);
    json.bytes_or_none("data", &file.data);
    json.object_or_none("owner", file.owner.as_ref(), owner);
    json.number_or_none("timestamp", file.timestamp);
}

/// `pb.FileActionMkDir`.
pub fn mkdir(json: &mut Object<'_>, dir: &pb::FileActionMkDir) {
    json.text_or_none("path", &dir.path);
    json.number_or_none("mode", dir.mode);
    json.bool_or_none("makeParents", dir.make_parents);
    json.object_or_none("owner", dir.owner.as_ref(), owner);
    json.number_or_none("timestamp", dir.timestamp);
}

/// `pb.FileActionSymlink`.
pub fn symlink(json: &mut Object<'_>, link: &pb::FileActionSymlink) {
    json.text_or_none("oldpath", &link.oldpath);
    json.text_or_none("newpath", &link.newpath);
    json.object_or_none("owner", link.owner.as_ref(), owner);
    json.number_or_none("timestamp", link.timestamp);
}

/// `pb.FileActionRm`.
pub fn rm(json: &mut Object<'_>, rm: &pb::FileActionRm) {
    json.text_or_none("path", &rm.path);
    json.bool_or_none("allowNotFound", rm.allow_not_found);
    json.bool_or_none("allowWildcard", rm.allow_wildcard);
}

fn owner(json: &mut Object<'_>, owner: &pb::ChownOpt) {
    json.object_or_none("user", owner.user.as_ref(), user);
    json.object_or_none("group", owner.group.as_ref(), user);
}

/// BuildKit marshals this one by hand, with names and an `omitempty` of its own.
fn user(json: &mut Object<'_>, user: &pb::UserOpt) {
    json.object("User", |json| match &user.user {
        Some(pb::user_opt::User::ByName(named)) => json.object("byName", |json| {
            json.text_or_none("name", &named.name);
            json.number_or_none("input", named.input);
        }),
        Some(pb::user_opt::User::ById(id)) => json.number_or_none("byId", *id),
        None => {}
    });
}

/// `pb.MergeOp`.
pub fn merge(json: &mut Object<'_>, op: &pb::MergeOp) {
    json.objects_or_none("inputs", &op.inputs, |json, input| {
        json.number_or_none("input", input.input);
    });
}

/// `pb.DiffOp`.
pub fn diff(json: &mut Object<'_>, op: &pb::DiffOp) {
    json.object_or_none("lower", op.lower.as_ref(), |json, lower| {
        json.number_or_none("input", lower.input);
    });
    json.object_or_none("upper", op.upper.as_ref(), |json, upper| {
        json.number_or_none("input", upper.input);
    });
}

/// `pb.BuildOp`.
pub fn build(json: &mut Object<'_>, op: &pb::BuildOp) {
    json.number_or_none("builder", op.builder);
    json.object_map_or_none("inputs", &op.inputs, |json, input| {
        json.number_or_none("input", input.input);
    });
    json.object_or_none("def", op.def.as_ref(), definition);
    json.text_map_or_none("attrs", &op.attrs);
}

fn definition(json: &mut Object<'_>, definition: &pb::Definition) {
    json.list_or_none("def", &definition.def, |out, op| bytes(out, op));
    json.object_map_or_none("metadata", &definition.metadata, metadata);
    json.object_or_none("Source", definition.source.as_ref(), |json, source| {
        json.object_map_or_none("locations", &source.locations, |json, locations| {
            json.objects_or_none("locations", &locations.locations, location);
        });
        json.objects_or_none("infos", &source.infos, |json, info| {
            json.text_or_none("filename", &info.filename);
            json.bytes_or_none("data", &info.data);
            json.object_or_none("definition", info.definition.as_ref(), self::definition);
            json.text_or_none("language", &info.language);
        });
    });
}

fn metadata(json: &mut Object<'_>, metadata: &pb::OpMetadata) {
    json.bool_or_none("ignore_cache", metadata.ignore_cache);
    json.text_map_or_none("description", &metadata.description);
    json.object_or_none(
        "export_cache",
        metadata.export_cache.as_ref(),
        |json, export| {
            json.bool_or_none("Value", export.value);
        },
    );
    json.map_or_none("caps", &metadata.caps, |out, value| {
        out.push_str(if *value { "true" } else { "false" });
    });
    json.object_or_none(
        "progress_group",
        metadata.progress_group.as_ref(),
        |json, group| {
            json.text_or_none("id", &group.id);
            json.text_or_none("name", &group.name);
            json.bool_or_none("weak", group.weak);
        },
    );
}

fn location(json: &mut Object<'_>, location: &pb::Location) {
    json.number_or_none("sourceIndex", location.source_index);
    json.objects_or_none("ranges", &location.ranges, |json, range| {
        json.object_or_none("start", range.start.as_ref(), |json, at| {
            position(json, *at);
        });
        json.object_or_none("end", range.end.as_ref(), |json, at| position(json, *at));
    });
}

fn position(json: &mut Object<'_>, position: pb::Position) {
    json.number_or_none("line", position.line);
    json.number_or_none("character", position.character);
}
