//! What a build used.

use std::collections::{BTreeMap, BTreeSet};

use kiln_oci::Digest;

use crate::redact;

/// Everything that one build, or one part of it, used. Adding the same thing twice changes nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capture {
    /// The frontend, `dockerfile.v0` for instance; empty for a plain graph.
    pub frontend: String,
    /// Its attributes.
    pub args: BTreeMap<String, String>,
    /// Images, by reference.
    pub images: BTreeSet<ImageMaterial>,
    /// Git sources, by URL.
    pub git: BTreeMap<String, GitMaterial>,
    /// HTTP sources, by URL.
    pub http: BTreeMap<String, HttpMaterial>,
    /// Local sources by name: `context`, `dockerfile`.
    pub locals: BTreeSet<String>,
    /// Secrets by id.
    pub secrets: BTreeMap<String, Named>,
    /// SSH agents by id.
    pub ssh: BTreeMap<String, Named>,
    /// A step could reach the network.
    pub network_access: bool,
    /// A source could not be pinned to a digest.
    pub incomplete_materials: bool,
}

/// An image that was used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImageMaterial {
    /// The familiar name without tag or digest: `busybox`, `registry.example.com/team/app`.
    pub name: String,
    /// The tag, `latest` where the reference had neither tag nor digest.
    pub tag: Option<String>,
    /// The digest that the reference itself pinned.
    pub pinned: Option<Digest>,
    /// `os/architecture[/variant]`.
    pub platform: Option<String>,
    /// What the reference resolved to.
    pub digest: Option<Digest>,
    /// From an OCI layout and not from a registry.
    pub local: bool,
}

/// A commit that was used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitMaterial {
    /// Hex digits of the commit.
    pub commit: String,
}

/// A file that was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpMaterial {
    /// What was fetched.
    pub digest: Digest,
}

/// Something that steps ask for by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named {
    /// No step needs it.
    pub optional: bool,
}

impl Capture {
    /// Adds an image. A reference pinned by digest is left out where the same name and tag is there
    /// already without it.
    pub fn add_image(&mut self, image: ImageMaterial) {
        self.images.insert(image);
    }

    /// Adds a commit.
    pub fn add_git(&mut self, url: &str, commit: impl Into<String>) {
        self.git
            .entry(redact(url).into_owned())
            .or_insert_with(|| GitMaterial {
                commit: commit.into(),
            });
    }

    /// Adds a fetched file.
    pub fn add_http(&mut self, url: &str, digest: Digest) {
        self.http
            .entry(redact(url).into_owned())
            .or_insert(HttpMaterial { digest });
    }

    /// Adds a secret; one that any step needs isn't optional.
    pub fn add_secret(&mut self, id: &str, optional: bool) {
        add_named(&mut self.secrets, id, optional);
    }

    /// Adds an SSH agent, `default` where the id is empty.
    pub fn add_ssh(&mut self, id: &str, optional: bool) {
        add_named(
            &mut self.ssh,
            if id.is_empty() { "default" } else { id },
            optional,
        );
    }

    /// Takes in what another part of the build used. The request stays this one's.
    pub fn merge(&mut self, other: &Self) {
        self.images.extend(other.images.iter().cloned());
        for (url, git) in &other.git {
            self.git.entry(url.clone()).or_insert_with(|| git.clone());
        }
        for (url, http) in &other.http {
            self.http.entry(url.clone()).or_insert_with(|| http.clone());
        }
        self.locals.extend(other.locals.iter().cloned());
        for (id, secret) in &other.secrets {
            add_named(&mut self.secrets, id, secret.optional);
        }
        for (id, ssh) in &other.ssh {
            add_named(&mut self.ssh, id, ssh.optional);
        }
        self.network_access |= other.network_access;
        self.incomplete_materials |= other.incomplete_materials;
    }

    /// The images without those that are only another spelling, by digest, of one named by tag.
    pub(crate) fn distinct_images(&self) -> impl Iterator<Item = &ImageMaterial> {
        let tag = |image: &ImageMaterial| image.tag.clone().unwrap_or_else(|| "latest".into());
        let tagged: BTreeSet<_> = self
            .images
            .iter()
            .filter(|image| image.pinned.is_none())
            .map(|image| (image.name.clone(), tag(image)))
            .collect();
        self.images.iter().filter(move |image| {
            image.pinned.is_none() || !tagged.contains(&(image.name.clone(), tag(image)))
        })
    }
}

fn add_named(map: &mut BTreeMap<String, Named>, id: &str, optional: bool) {
    map.entry(id.to_owned())
        .and_modify(|named| named.optional &= optional)
        .or_insert(Named { optional });
}
