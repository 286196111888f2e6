//! Reads what builds put out: tars, OCI and Docker archives.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// A tar in memory: each member's kind, mode, owner and contents.
#[derive(Debug, Default)]
pub struct Archive {
    members: BTreeMap<String, Member>,
}

/// One member of a tar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The tar type: `0` file, `1` hard link, `2` symbolic link, `5` directory.
    pub kind: char,
    /// Permissions.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u64, u64),
    /// A link's target.
    pub link: String,
    /// The bytes of a file.
    pub contents: Vec<u8>,
}

impl Archive {
    /// Reads a tar file, compressed or not.
    pub fn open(path: &Path) -> Result<Self> {
        let mut bytes = Vec::new();
        File::open(path)
            .with_context(|| path.display().to_string())?
            .read_to_end(&mut bytes)?;
        Self::parse(&bytes)
    }

    /// Reads a tar from memory, compressed or not.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let plain = decompress(bytes)?;
        let mut members = BTreeMap::new();
        for entry in tar::Archive::new(plain.as_slice()).entries()? {
            let mut entry = entry?;
            let name = entry
                .path()?
                .to_string_lossy()
                .trim_end_matches('/')
                .to_owned();
            let header = entry.header();
            let link = entry
                .link_name()?
                .map(|link| link.to_string_lossy().into_owned());
            let mut member = Member {
                kind: char::from(header.entry_type().as_byte()),
                mode: header.mode()?,
                owner: (header.uid()?, header.gid()?),
                link: link.unwrap_or_default(),
                contents: Vec::new(),
            };
            entry.read_to_end(&mut member.contents)?;
            members.insert(name, member);
        }
        Ok(Self { members })
    }

    /// The names of all members, sorted.
    pub fn names(&self) -> Vec<&str> {
        self.members.keys().map(String::as_str).collect()
    }

    /// A member by name.
    pub fn member(&self, name: &str) -> Result<&Member> {
        self.members
            .get(name)
            .with_context(|| format!("no {name} among {:?}", self.names()))
    }

    /// A file's text.
    pub fn text(&self, name: &str) -> Result<String> {
        Ok(String::from_utf8(self.member(name)?.contents.clone())?)
    }

    /// A file's JSON.
    pub fn json(&self, name: &str) -> Result<Value> {
        Ok(serde_json::from_slice(&self.member(name)?.contents)?)
    }

    /// The images of an OCI archive, from its index or indexes.
    pub fn images(&self) -> Result<Vec<Image<'_>>> {
        let mut images = Vec::new();
        let mut pending = vec![self.json("index.json")?];
        while let Some(index) = pending.pop() {
            for descriptor in index["manifests"].as_array().into_iter().flatten() {
                let digest = descriptor["digest"].as_str().context("a digest")?;
                let document = self.json(&blob(digest))?;
                if document["manifests"].is_array() {
                    pending.push(document);
                } else {
                    let config = self.json(&blob(
                        document["config"]["digest"].as_str().context("a config")?,
                    ))?;
                    images.push(Image {
                        archive: self,
                        descriptor: descriptor.clone(),
                        manifest: document,
                        config,
                    });
                }
            }
        }
        Ok(images)
    }

    /// The one image of an OCI archive, attestations aside.
    pub fn image(&self) -> Result<Image<'_>> {
        let mut images = self.images()?;
        images.retain(|image| !image.is_attestation());
        match images.len() {
            1 => images.pop().context("one image"),
            count => bail!("{count} images in {:?}", self.names()),
        }
    }
}

/// An image inside an OCI archive.
#[derive(Debug)]
pub struct Image<'a> {
    archive: &'a Archive,
    /// Its entry in the index.
    pub descriptor: Value,
    /// Its manifest.
    pub manifest: Value,
    /// Its configuration.
    pub config: Value,
}

/// A layer's members.
pub type Layer = Archive;

impl Image<'_> {
    /// Whether this is a manifest of attestations.
    pub fn is_attestation(&self) -> bool {
        self.descriptor["annotations"]["vnd.docker.reference.type"] == "attestation-manifest"
    }

    /// The layers, oldest first.
    pub fn layers(&self) -> Result<Vec<Layer>> {
        let layers = self.manifest["layers"].as_array().context("layers")?;
        layers
            .iter()
            .map(|layer| {
                let name = blob(layer["digest"].as_str().context("a digest")?);
                Archive::parse(&self.archive.member(&name)?.contents)
            })
            .collect()
    }

    /// The newest layer.
    pub fn top_layer(&self) -> Result<Layer> {
        self.layers()?.pop().context("a layer")
    }
}

fn blob(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

fn decompress(bytes: &[u8]) -> Result<Vec<u8>> {
    let program = match bytes {
        [0x1f, 0x8b, ..] => "gzip",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        _ => return Ok(bytes.to_vec()),
    };
    let mut child = Command::new(program)
        .args(["-d", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{program} isn't installed"))?;
    let mut input = child.stdin.take().context("a pipe")?;
    let bytes = bytes.to_vec();
    // Both pipes are finite: one thread fills the one while this one empties the other.
    let writer = thread::spawn(move || input.write_all(&bytes));
    let output = child.wait_with_output()?;
    let written = writer.join();
    if !output.status.success() || !matches!(written, Ok(Ok(()))) {
        bail!("{program} refuses the data");
    }
    Ok(output.stdout)
}
