//! Where results go: `-o`, `--push` and `--load` of buildx.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{BuildError, fields};

/// One output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputSpec {
    /// `local`, `tar`, `oci`, `docker`, `image` or `cacheonly`, or what else the daemon knows.
    pub kind: String,
    /// A directory or file; `-` is standard output.
    pub destination: Option<String>,
    /// The exporter's options.
    pub attributes: BTreeMap<String, String>,
}

/// Where an output's bytes go on this side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// They stay with the daemon, or go to a registry.
    Daemon,
    /// A directory.
    Directory {
        /// Which one.
        path: PathBuf,
        /// Whether to delete what the build didn't make.
        delete: bool,
    },
    /// A file.
    File(PathBuf),
    /// Standard output.
    Stdout,
    /// An OCI layout in a directory.
    Layout(PathBuf),
    /// Docker's image store on this machine.
    Docker,
}

impl OutputSpec {
    /// Reads `type=…,dest=…,…`, a bare directory, or `-`.
    pub fn parse(text: &str) -> Result<Self, BuildError> {
        const WHAT: &str = "output";
        let plain = |kind: &str| Self {
            kind: kind.to_owned(),
            destination: Some(text.to_owned()),
            attributes: BTreeMap::new(),
        };
        let all = fields::split(WHAT, text)?;
        if text == "-" {
            return Ok(plain("tar"));
        }
        if all.len() == 1 && all[0] == text && !text.starts_with("type=") {
            return Ok(plain("local"));
        }
        let mut spec = Self {
            kind: String::new(),
            destination: None,
            attributes: BTreeMap::new(),
        };
        for (key, value) in fields::pairs(WHAT, text)? {
            match key.as_str() {
                "type" => spec.kind = value,
                "dest" => spec.destination = Some(value),
                _ => {
                    spec.attributes.insert(key, value);
                }
            }
        }
        if spec.kind.is_empty() {
            return Err(BuildError::invalid(WHAT, text, "it has no type="));
        }
        Ok(spec.normalized())
    }

    /// An output of a kind, with attributes.
    pub fn new<const N: usize>(kind: &str, attributes: [(&str, &str); N]) -> Self {
        Self {
            kind: kind.to_owned(),
            destination: None,
            attributes: attributes
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        }
    }

    /// What `--push` stands for.
    pub fn push() -> Self {
        Self::new("registry", []).normalized()
    }

    /// What `--load` stands for.
    pub fn load() -> Self {
        Self::new("docker", [])
    }

    /// `registry` is an image that is pushed and of which the daemon keeps nothing more.
    fn normalized(mut self) -> Self {
        if self.kind == "registry" {
            "image".clone_into(&mut self.kind);
            self.attributes.insert("push".into(), "true".into());
            self.attributes
                .entry("unpack".into())
                .or_insert_with(|| "false".into());
        }
        self
    }

    /// Whether the result goes to a registry.
    pub fn pushes(&self) -> bool {
        self.attributes
            .get("push")
            .is_some_and(|value| fields::boolean("push", value).unwrap_or(false))
    }

    /// Whether it takes the tags of the build as its names.
    pub(super) fn takes_names(&self) -> bool {
        matches!(self.kind.as_str(), "image" | "oci" | "docker")
    }

    /// Where its bytes go on this side.
    pub fn destination(&self) -> Result<Destination, BuildError> {
        let invalid =
            |reason: &str| BuildError::invalid("output", format!("type={}", self.kind), reason);
        let as_tar = |text: Option<&String>| {
            text.is_none_or(|text| fields::boolean("tar", text).unwrap_or(true))
        };
        let (file, directory) = match self.kind.as_str() {
            "local" => (false, true),
            "tar" => (true, false),
            "oci" | "docker" => {
                let tar = as_tar(self.attributes.get("tar"));
                (tar, !tar)
            }
            _ => (false, false),
        };
        let destination = self.destination.as_deref();
        if directory {
            return match destination {
                None | Some("") => Err(invalid("it needs dest=DIRECTORY")),
                Some("-") => Err(invalid("a directory can't go to standard output")),
                Some(path) if Path::new(path).is_file() => {
                    Err(invalid(&format!("the destination {path} is a file")))
                }
                Some(path) if self.kind == "local" => {
                    let delete = match self.attributes.get("mode").map(String::as_str) {
                        None | Some("copy") => false,
                        Some("delete") => true,
                        Some(_) => return Err(invalid("mode is copy or delete")),
                    };
                    Ok(Destination::Directory {
                        path: path.into(),
                        delete,
                    })
                }
                Some(path) => Ok(Destination::Layout(path.into())),
            };
        }
        if file {
            return match destination {
                None | Some("") if self.kind == "docker" => Ok(Destination::Docker),
                None | Some("" | "-") => Ok(Destination::Stdout),
                Some(path) if Path::new(path).is_dir() => {
                    Err(invalid(&format!("the destination {path} is a directory")))
                }
                Some(path) => Ok(Destination::File(path.into())),
            };
        }
        match destination {
            Some(path) if !path.is_empty() => {
                Err(invalid("an output of this type has no destination"))
            }
            _ => Ok(Destination::Daemon),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_read_as_buildx_does() {
        let directory = |path: &str, delete| {
            Some(Destination::Directory {
                path: path.into(),
                delete,
            })
        };
        for (text, kind, want) in [
            ("out", "local", directory("out", false)),
            ("-", "tar", Some(Destination::Stdout)),
            (
                "type=local,dest=out,mode=delete",
                "local",
                directory("out", true),
            ),
            ("type=local", "local", None),
            ("type=local,dest=-", "local", None),
            ("type=local,dest=out,mode=x", "local", None),
            (
                "type=tar,dest=x.tar",
                "tar",
                Some(Destination::File("x.tar".into())),
            ),
            ("type=oci", "oci", Some(Destination::Stdout)),
            (
                "type=oci,dest=d,tar=false",
                "oci",
                Some(Destination::Layout("d".into())),
            ),
            ("type=docker", "docker", Some(Destination::Docker)),
            ("type=docker,dest=-", "docker", Some(Destination::Stdout)),
            ("type=image,name=a", "image", Some(Destination::Daemon)),
            ("type=image,dest=x", "image", None),
            ("type=registry", "image", Some(Destination::Daemon)),
            ("type=cacheonly", "cacheonly", Some(Destination::Daemon)),
        ] {
            let spec = OutputSpec::parse(text).unwrap();
            assert_eq!(spec.kind, kind, "{text}");
            assert_eq!(spec.destination().ok(), want, "{text}");
        }
        for text in ["dest=x,name=y", "type=local,x", "type=,dest=x"] {
            assert!(OutputSpec::parse(text).is_err(), "{text}");
        }
        assert!(OutputSpec::push().pushes());
        assert!(!OutputSpec::load().pushes());
    }
}
