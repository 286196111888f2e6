//! The main context and the Dockerfile in it: a client's directory, a git repository, an archive at an
//! address, or a graph that another frontend made.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use kiln_frontend::{Bridge, MaybeReference, SolveRequest};
use kiln_llb::{DecodeError, Edge, FileChain, VertexOptions, definition};
use kiln_oci::go_json;
use kiln_proto::pb;
use tokio::sync::{Mutex, OnceCell};

use super::git::{GitOptions, git_source};
use super::image::ImageResolver;
use super::{GitError, Options, parse_git};
use crate::text::parse_bool;

/// Why a context can't be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say what each is")]
pub enum ContextError {
    #[error("failed to resolve {what}")]
    Solve {
        what: &'static str,
        #[source]
        source: kiln_frontend::Error,
    },
    #[error("failed to read {what}")]
    Read {
        what: &'static str,
        #[source]
        source: kiln_frontend::Error,
    },
    #[error("{0} gives no file system")]
    Empty(&'static str),
    #[error("invalid input {name}")]
    Input {
        name: String,
        #[source]
        source: DecodeError,
    },
    #[error("invalid input {input} for {name}")]
    NoInput { input: String, name: String },
    #[error("invalid context name {name}")]
    Name {
        name: String,
        #[source]
        source: kiln_oci::ReferenceError,
    },
    #[error("invalid context specifier {specifier} for {name}")]
    Specifier { specifier: String, name: String },
    #[error("unsupported context source {scheme} for {name}")]
    Scheme { scheme: String, name: String },
    #[error("invalid git context {0}")]
    Git(String),
    #[error("oci-layout reference {0:?} has no digest")]
    NoDigest(String),
    #[error("failed to parse image config for {name}")]
    ImageConfig {
        name: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("failed to parse input metadata {metadata}")]
    Metadata {
        metadata: String,
        #[source]
        source: serde_json::Error,
    },
    #[error(
        "context recursion limit exceeded; this may indicate a cycle in the provided source policies: {0}"
    )]
    Recursion(String),
    #[error(transparent)]
    Address(#[from] GitError),
    #[error("failed to resolve source metadata for {name}")]
    Lookup {
        name: String,
        #[source]
        source: kiln_frontend::Error,
    },
}

/// The main context.
#[derive(Debug, Default)]
struct Main {
    /// Where it isn't a client's directory.
    context: Option<Edge>,
    /// Where the Dockerfile isn't in a client's directory.
    dockerfile: Option<Edge>,
    context_name: String,
    dockerfile_name: String,
    filename: String,
    force_local_dockerfile: bool,
}

/// A Dockerfile.
#[derive(Debug, Clone)]
pub(crate) struct Entrypoint {
    /// The vertex that it came from: warnings are about it.
    pub vertex: Option<kiln_oci::Digest>,
    pub info: Arc<pb::SourceInfo>,
}

/// What of a client's directory is taken.
#[derive(Debug, Default)]
pub(crate) struct LocalSource<'a> {
    /// What the client calls it.
    pub name: &'a str,
    pub shared_key: String,
    /// What progress displays call it.
    pub title: String,
    pub follow: Vec<String>,
    pub exclude: &'a [String],
    /// Files are sent even if they seem not to have changed.
    pub no_differ: bool,
}

/// Everything that a Dockerfile can name and a client gives.
pub(crate) struct Contexts {
    pub options: Options,
    pub bridge: Arc<dyn Bridge>,
    pub images: ImageResolver,
    inputs: BTreeMap<String, pb::Definition>,
    main: OnceCell<Main>,
    ignore: Mutex<Option<Bytes>>,
}

impl Contexts {
    pub(crate) fn new(
        bridge: Arc<dyn Bridge>,
        options: Options,
        inputs: BTreeMap<String, pb::Definition>,
    ) -> Self {
        Self {
            images: ImageResolver::new(Arc::clone(&bridge)),
            options,
            bridge,
            inputs,
            main: OnceCell::new(),
            ignore: Mutex::default(),
        }
    }

    /// Inputs as they came, for another frontend.
    pub(crate) fn inputs(&self) -> BTreeMap<String, pb::Definition> {
        self.inputs.clone()
    }

    /// A graph that the client gave. `Ok(None)` is the empty file system.
    pub(crate) fn input(&self, name: &str) -> Option<Result<Option<Edge>, ContextError>> {
        let input = self.inputs.get(name)?;
        if input.def.is_empty() {
            return Some(Ok(None));
        }
        let decoded = kiln_llb::decode(input.clone()).map(Some);
        Some(decoded.map_err(|source| ContextError::Input {
            name: name.to_owned(),
            source,
        }))
    }

    /// Solves one edge and returns its result.
    pub(crate) async fn solve(
        &self,
        what: &'static str,
        edge: &Edge,
    ) -> Result<MaybeReference, ContextError> {
        let request = SolveRequest {
            definition: Some(definition(Some(edge))),
            ..SolveRequest::default()
        };
        let solved = self.bridge.solve(request).await;
        let mut solved = solved.map_err(|source| ContextError::Solve { what, source })?;
        Ok(solved.refs.remove("").flatten())
    }

    /// A file of a solved edge.
    pub(crate) async fn read(
        &self,
        what: &'static str,
        reference: &MaybeReference,
        path: &str,
        range: Option<(u64, u64)>,
    ) -> Result<Bytes, ContextError> {
        let reference = reference.as_ref().ok_or(ContextError::Empty(what))?;
        let read = reference.read_file(path, range).await;
        read.map_err(|source| ContextError::Read { what, source })
    }

    /// A client's directory.
    pub(crate) fn local(&self, local: LocalSource<'_>) -> Edge {
        let mut options = VertexOptions::named(local.title);
        let mut attrs = BTreeMap::new();
        let mut set = |key: &str, value: String, cap: &str| {
            if !value.is_empty() {
                attrs.insert(key.to_owned(), value);
                options.caps.insert(cap.to_owned());
            }
        };
        let session = self
            .options
            .text(&format!("local-sessionid:{}", local.name));
        let session = if session.is_empty() {
            self.bridge.session().as_str().to_owned()
        } else {
            session.to_owned()
        };
        set("local.session", session, "source.local.sessionid");
        set(
            "local.followpaths",
            json_list(&local.follow),
            "source.local.followpaths",
        );
        set(
            "local.excludepatterns",
            json_list(local.exclude),
            "source.local.excludepatterns",
        );
        set(
            "local.sharedkeyhint",
            local.shared_key,
            "source.local.sharedkeyhint",
        );
        if local.no_differ {
            // Not required: the cap isn't asked for.
            set("local.differ", "none".to_owned(), "source.local");
        }
        options.caps.insert("source.local".to_owned());
        let source = pb::SourceOp {
            identifier: format!("local://{}", local.name),
            attrs,
        };
        kiln_llb::source(source, None, options)
    }

    async fn main(&self) -> Result<&Main, ContextError> {
        self.main.get_or_try_init(|| self.find_main()).await
    }

    async fn find_main(&self) -> Result<Main, ContextError> {
        let options = &self.options;
        let mut main = Main {
            context_name: "context".to_owned(),
            dockerfile_name: "dockerfile".to_owned(),
            filename: "Dockerfile".to_owned(),
            ..Main::default()
        };
        if let Some(name) = options.raw.get("filename") {
            main.filename.clone_from(name);
        }
        if let Some(name) = options.raw.get("dockerfilekey") {
            main.force_local_dockerfile = true;
            main.dockerfile_name.clone_from(name);
        }
        let key = options
            .raw
            .get("contextkey")
            .map_or("context", String::as_str);
        let address = options.text(key);
        if let Some(git) = parse_git(address) {
            let git = git?;
            let keep = parse_bool(options.text("build-arg:BUILDKIT_CONTEXT_KEEP_GIT_DIR"));
            let reproducible = !options.text("build-arg:SOURCE_DATE_EPOCH").is_empty();
            let more = GitOptions {
                keep_git_dir: git.keep_git_dir == Some(true) || keep == Some(true),
                checksum: git.checksum.clone(),
                mtime: match (git.mtime.as_str(), reproducible) {
                    ("", true) => "commit".to_owned(),
                    (given, _) => given.to_owned(),
                },
            };
            let title = format!("[internal] load git source {address}");
            let edge = git_source(&git, &more, VertexOptions::named(title));
            main.context = Some(edge.clone());
            main.dockerfile = Some(edge);
        } else if address.starts_with("http://") || address.starts_with("https://") {
            self.http_context(address, &mut main).await?;
        } else {
            if !main.force_local_dockerfile
                && let Some(input) = self.input(&main.dockerfile_name)
            {
                main.dockerfile = input?;
            }
            if let Some(input) = self.input("context") {
                main.context = input?;
            }
        }
        if let (Some(context), Some(sub)) = (&main.context, options.raw.get("contextsubdir")) {
            main.context = Some(sub_directory(context, sub));
        }
        Ok(main)
    }

    async fn http_context(&self, address: &str, main: &mut Main) -> Result<(), ContextError> {
        const WHAT: &str = "downloaded context";
        let mut options = VertexOptions::named("[internal] load remote build context");
        options.caps.insert("source.http".to_owned());
        let source = pb::SourceOp {
            identifier: address.to_owned(),
            attrs: [("http.filename".to_owned(), "context".to_owned())].into(),
        };
        let file = kiln_llb::source(source, None, options);
        let reference = self.solve(WHAT, &file).await?;
        let head = self
            .read(WHAT, &reference, "context", Some((0, 1024)))
            .await?;
        let edge = if is_archive(&head) {
            let mut chain = FileChain::new(None);
            chain.copy(
                Some(&file),
                pb::FileActionCopy {
                    src: "/context".to_owned(),
                    dest: "/".to_owned(),
                    mode: -1,
                    timestamp: -1,
                    attempt_unpack_docker_compatibility: true,
                    ..pb::FileActionCopy::default()
                },
            );
            chain.build(VertexOptions::default())
        } else {
            "context".clone_into(&mut main.filename);
            file
        };
        main.context = Some(edge.clone());
        main.dockerfile = Some(edge);
        Ok(())
    }

    /// Reads the Dockerfile, and the ignore file that belongs to it alone.
    pub(crate) async fn entrypoint(&self) -> Result<Entrypoint, ContextError> {
        const WHAT: &str = "dockerfile";
        let main = self.main().await?;
        let name = &main.filename;
        let (dir, base) = match name.rsplit_once('/') {
            Some((dir, base)) => (format!("{dir}/"), base),
            None => (String::new(), name.as_str()),
        };
        let lower = (base == "Dockerfile").then(|| format!("{dir}dockerfile"));
        let ignore_name = format!("{name}.dockerignore");
        let remote = main.dockerfile.as_ref();
        let edge = match remote.filter(|_| !main.force_local_dockerfile) {
            Some(edge) => edge.clone(),
            None => self.local(LocalSource {
                name: &main.dockerfile_name,
                shared_key: main.dockerfile_name.clone(),
                title: format!("[internal] load build definition from {name}"),
                follow: [name.clone(), ignore_name.clone()]
                    .into_iter()
                    .chain(lower.clone())
                    .collect(),
                no_differ: true,
                ..LocalSource::default()
            }),
        };
        let reference = self.solve(WHAT, &edge).await?;
        let mut data = self.read(WHAT, &reference, name, None).await;
        if let (Err(_), Some(lower)) = (&data, &lower)
            && let Ok(found) = self.read(WHAT, &reference, lower, None).await
        {
            data = Ok(found);
        }
        let data = data?;
        // Most Dockerfiles have none.
        if let Ok(ignore) = self.read(WHAT, &reference, &ignore_name, None).await {
            *self.ignore.lock().await = Some(ignore);
        }
        Ok(Entrypoint {
            vertex: Some(edge.vertex.digest),
            info: Arc::new(pb::SourceInfo {
                filename: name.clone(),
                data: data.to_vec(),
                definition: Some(definition(Some(&edge))),
                language: "Dockerfile".to_owned(),
            }),
        })
    }

    /// What of the main context is left out. Nothing where it isn't a client's directory.
    pub(crate) async fn ignore_patterns(&self) -> Result<Vec<String>, ContextError> {
        let main = self.main().await?;
        if main.context.is_some() {
            return Ok(Vec::new());
        }
        let mut ignore = self.ignore.lock().await;
        if ignore.is_none() {
            const WHAT: &str = ".dockerignore";
            let edge = self.local(LocalSource {
                name: &main.context_name,
                shared_key: format!("{}-{WHAT}", main.context_name),
                title: format!("[internal] load {WHAT}"),
                follow: vec![WHAT.to_owned()],
                no_differ: true,
                ..LocalSource::default()
            });
            let reference = self.solve(WHAT, &edge).await?;
            // Most contexts have none.
            let data = self.read(WHAT, &reference, WHAT, None).await;
            *ignore = Some(data.unwrap_or_default());
        }
        Ok(kiln_filesync::ignore_patterns(
            ignore.as_deref().unwrap_or_default(),
        ))
    }

    /// The main context, of which `paths` are needed; `/` is all of it.
    pub(crate) async fn main_context(
        &self,
        paths: &BTreeSet<String>,
    ) -> Result<Option<Edge>, ContextError> {
        let main = self.main().await?;
        if main.context.is_some() {
            return Ok(main.context.clone());
        }
        let exclude = self.ignore_patterns().await?;
        Ok(Some(self.local(LocalSource {
            name: &main.context_name,
            shared_key: main.context_name.clone(),
            title: "[internal] load build context".to_owned(),
            follow: follow_paths(paths),
            exclude: &exclude,
            no_differ: false,
        })))
    }
}

/// The paths as a client takes them: relative, sorted; none means all.
pub(crate) fn follow_paths(paths: &BTreeSet<String>) -> Vec<String> {
    if paths.contains("/") {
        return Vec::new();
    }
    let mut relative: Vec<String> = paths
        .iter()
        .map(|path| crate::text::join(&[".", path]))
        .collect();
    relative.sort();
    relative
}

fn json_list(list: &[String]) -> String {
    if list.is_empty() {
        return String::new();
    }
    // Strings can always be written as JSON.
    let bytes = go_json::to_vec(list).unwrap_or_default();
    String::from_utf8(bytes).unwrap_or_default()
}

/// The directory of a context as the context.
fn sub_directory(context: &Edge, path: &str) -> Edge {
    let mut chain = FileChain::new(None);
    chain.copy(
        Some(context),
        pb::FileActionCopy {
            src: crate::text::join(&["/", path]),
            dest: "/".to_owned(),
            mode: -1,
            timestamp: -1,
            dir_copy_contents: true,
            ..pb::FileActionCopy::default()
        },
    );
    chain.build(VertexOptions::default())
}

/// Whether a file starts as a tar or a compressed one does.
fn is_archive(head: &[u8]) -> bool {
    let compressed: [&[u8]; 3] = [
        b"\x42\x5a\x68",
        b"\x1f\x8b\x08",
        b"\xfd\x37\x7a\x58\x5a\x00",
    ];
    if compressed.iter().any(|magic| head.starts_with(magic)) {
        return true;
    }
    // A tar header is a block whose bytes sum up to what one of its fields says.
    let Some(block) = head.get(..512) else {
        return false;
    };
    let field = String::from_utf8_lossy(&block[148..156]);
    let field = field.trim_matches(['\0', ' ']);
    let Ok(want) = u32::from_str_radix(field, 8) else {
        return false;
    };
    let sum = |range: &[u8]| range.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    sum(&block[..148]) + 8 * u32::from(b' ') + sum(&block[156..]) == want
}
