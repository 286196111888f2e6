//! Who advertises what. What `kilnd` advertises is `BOTH` and `KILN_ONLY`; what is in `NOT_SERVED` it refuses.
//!
//! The real BuildKit here is Docker 28.5.2's, of late 2025; names that came later are in `KILN_ONLY` where they are
//! served.

/// A name, and why one of the two doesn't have it.
pub(super) type Reasoned = (&'static str, &'static str);

const LATER: &str = "came after the real one here";
const UNSAID: &str = "the real one does it, and has never advertised it";

/// Caps of LLB.
pub(super) const LLB: &[&str] = &[
    "source.image",
    "source.image.resolvemode",
    "source.image.layerlimit",
    "source.image.checksum",
    "source.ocilayout",
    "source.local",
    "source.local.unique",
    "source.local.sessionid",
    "source.local.includepatterns",
    "source.local.followpaths",
    "source.local.excludepatterns",
    "source.local.sharedkeyhint",
    "source.local.differ",
    "source.local.metadatatransfer",
    "source.git",
    "source.git.keepgitdir",
    "source.git.fullurl",
    "source.git.httpauth",
    "source.git.knownsshhosts",
    "source.git.mountsshsock",
    "source.git.subdir",
    "source.git.checksum",
    "source.git.skipsubmodules",
    "source.http",
    "source.http.auth",
    "source.http.header",
    "source.http.checksum",
    "source.http.perm",
    "soruce.http.uidgid",
    "source.buildop.llbfilename",
    "exec.meta.base",
    "exec.meta.cgroup.parent",
    "exec.meta.proxyenv",
    "exec.meta.network",
    "exec.meta.setsdefaultpath",
    "exec.meta.security",
    "exec.meta.security.devices.v1",
    "exec.meta.ulimit",
    "exec.mount.bind",
    "exec.mount.bind.readwrite-nooutput",
    "exec.mount.cache",
    "exec.mount.cache.sharing",
    "exec.mount.selector",
    "exec.mount.tmpfs",
    "exec.mount.tmpfs.size",
    "exec.mount.secret",
    "exec.mount.ssh",
    "exec.mount.cache.content",
    "exec.cgroup",
    "exec.secretenv",
    "exec.validexitcode",
    "file.base",
    "file.rm.wildcard",
    "file.rm.nofollowsymlink",
    "file.copy.includeexcludepatterns",
    "file.copy.alwaysreplaceexistingdestpaths",
    "file.symlink.create",
    "constraints",
    "platform",
    "meta.ignorecache",
    "meta.description",
    "meta.exportcache",
    "mergeop",
    "diffop",
    "source.policy",
    "exporter.image.annotations",
    "exporter.image.attestations",
    "exporter.multiple",
    "exporter.session",
    "exporter.sourcedateepoch",
    "gc.freespacefilter",
    "history.filter",
];

/// Caps of LLB that the real one here doesn't have.
pub(super) const LLB_KILN_ONLY: &[Reasoned] = &[
    ("source.git.mtime", LATER),
    ("source.git.fetchbycommit", LATER),
    ("file.copy.requiredpaths", LATER),
    ("file.copy.modestring", UNSAID),
    ("exec.meta.removemountstubs.recursive", UNSAID),
];

/// Caps of LLB that Kiln refuses.
pub(super) const LLB_NOT_SERVED: &[Reasoned] = &[
    ("source.git.signatureverify", "no signatures yet"),
    ("source.git.bundle", "no bundles yet"),
    ("source.git.checkoutbundle", "no bundles yet"),
    ("source.http.signatureverify", "no signatures yet"),
    ("source.imageblob", "no source of single blobs yet"),
    ("source.policy.session", "no policy sessions yet"),
    ("exec.meta.network.proxy", "no proxies of steps yet"),
    ("exec.meta.cdi", "no devices yet"),
    ("exec.meta.linux.resources", "no limits of single steps yet"),
    ("passthroughop", "no such op yet"),
    (
        "cache.gha",
        "caches in registries, images and directories only",
    ),
    (
        "cache.s3",
        "caches in registries, images and directories only",
    ),
    (
        "cache.azblob",
        "caches in registries, images and directories only",
    ),
];

/// Caps of the gateway.
pub(super) const GATEWAY: &[&str] = &[
    "solve.base",
    "solve.inlinereturn",
    "resolveimage",
    "resolveimage.resolvemode",
    "readfile",
    "return",
    "returnmap",
    "readdir",
    "statfile",
    "importcaches",
    "proto.refarray",
    "reference.output",
    "frontend.inputs",
    "gateway.solve.metadata",
    "frontend.caps",
    "gateway.solve.evaluate",
    "gateway.evaluate",
    "gateway.warnings",
    "reference.attestations",
    "source.metaresolver",
];

/// Caps of the gateway that Kiln refuses.
pub(super) const GATEWAY_NOT_SERVED: &[Reasoned] = &[
    ("gateway.exec", "no containers of frontends yet"),
    ("gateway.exec.extrahosts", "no containers of frontends yet"),
    ("gateway.exec.secretenv", "no containers of frontends yet"),
    ("gateway.exec.signals", "no containers of frontends yet"),
    ("gateway.exec.filesystem", "no containers of frontends yet"),
    (
        "source.metaresolver.image.attestations",
        "no attestations of sources yet",
    ),
    (
        "source.metaresolver.http.checksumrequest",
        "no checksums of sources before they are read",
    ),
];
