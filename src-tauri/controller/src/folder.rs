//! What a folder has to build: its Dockerfiles, and what each of them uses.
//!
//! The form needs names before anything is built, also while the machine is off, so the text is read here:
//! stages, arguments with literal defaults, mounts. It decides nothing; the engine reads the file anew.

use std::path::Path;

use crate::view::{DockerfileArg, DockerfileInfo, FolderInfo, Stage};
use crate::{Controller, Failure};

const DEPTH: usize = 3;
const MOST: usize = 50;
const LONGEST: u64 = 1 << 20;
const SKIPPED: [&str; 5] = [".git", "node_modules", "target", "vendor", "dist"];

impl Controller {
    /// Looks for Dockerfiles, three folders deep, and reads `dockerfile` as well, wherever it is.
    pub async fn inspect_folder(
        &self,
        path: String,
        dockerfile: String,
    ) -> Result<FolderInfo, Failure> {
        let work = move || inspect(Path::new(&path), &dockerfile);
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| Failure::internal(&error))?
    }
}

fn inspect(folder: &Path, dockerfile: &str) -> Result<FolderInfo, Failure> {
    if !folder.is_absolute() {
        return Err(Failure::user(
            "Give the folder’s whole path.",
            "It begins with a slash.",
        ));
    }
    let metadata = std::fs::metadata(folder).map_err(|error| {
        Failure::user(format!("{} can’t be read: {error}.", folder.display()), "")
    })?;
    if !metadata.is_dir() {
        return Err(Failure::user(
            format!("{} isn’t a folder.", folder.display()),
            "",
        ));
    }
    let mut found = Vec::new();
    search(folder, folder, DEPTH, &mut found);
    found.sort_by_key(|path| {
        (
            path.matches('/').count(),
            path != "Dockerfile",
            path.clone(),
        )
    });
    found.truncate(MOST);
    let named = Path::new(dockerfile);
    let named = named.strip_prefix(folder).unwrap_or(named);
    if !dockerfile.is_empty() && folder.join(named).is_file() {
        let named = named.display().to_string();
        if !found.contains(&named) {
            found.push(named);
        }
    }
    let ignore = folder.join(".dockerignore");
    Ok(FolderInfo {
        path: folder.display().to_string(),
        name: folder
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default(),
        dockerfiles: found.iter().map(|path| read(folder, path)).collect(),
        ignore_file: std::fs::read_to_string(ignore).unwrap_or_default(),
    })
}

fn search(root: &Path, folder: &Path, depth: usize, found: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() && depth > 1 && !SKIPPED.contains(&name.as_str()) {
            search(root, &entry.path(), depth - 1, found);
        } else if kind.is_file()
            && is_dockerfile(&name)
            && let Ok(path) = entry.path().strip_prefix(root)
        {
            found.push(path.display().to_string());
        }
    }
}

fn is_dockerfile(name: &str) -> bool {
    let lower = name.to_lowercase();
    if lower.ends_with(".dockerignore") {
        return false;
    }
    ["dockerfile", "containerfile"].iter().any(|word| {
        lower == *word
            || lower.starts_with(&format!("{word}."))
            || lower.ends_with(&format!(".{word}"))
    })
}

/// What a Dockerfile of a folder, or another one by its whole path, uses.
pub(crate) fn read(folder: &Path, path: &str) -> DockerfileInfo {
    let file = folder.join(path);
    let text = match std::fs::metadata(&file) {
        Ok(metadata) if metadata.len() > LONGEST => Err("it is longer than a megabyte".to_owned()),
        Ok(_) => std::fs::read_to_string(&file).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match text {
        Ok(source) => DockerfileInfo {
            path: path.into(),
            ..scan(&source)
        },
        Err(error) => DockerfileInfo {
            path: path.into(),
            error,
            ..DockerfileInfo::default()
        },
    }
}

/// Instructions with their first line; continued lines joined, comments and here-documents left out.
fn instructions(source: &str) -> Vec<(u32, String)> {
    let mut all: Vec<(u32, String)> = Vec::new();
    let mut open: Option<(u32, String)> = None;
    let mut ends: Vec<String> = Vec::new();
    for (index, line) in source.lines().enumerate() {
        if let Some(end) = ends.first() {
            if line.trim_start_matches('\t') == end {
                ends.remove(0);
            }
            continue;
        }
        let trimmed = line.trim();
        if trimmed.starts_with('#') || (trimmed.is_empty() && open.is_none()) {
            continue;
        }
        let (first, mut text) = open
            .take()
            .unwrap_or((u32::try_from(index + 1).unwrap_or(u32::MAX), String::new()));
        let goes_on = trimmed.strip_suffix(['\\', '`']);
        text.push_str(goes_on.unwrap_or(trimmed));
        text.push(' ');
        if goes_on.is_some() {
            open = Some((first, text));
            continue;
        }
        ends = text
            .split_whitespace()
            .filter_map(|word| word.strip_prefix("<<"))
            .map(|word| {
                word.trim_start_matches('-')
                    .trim_matches(['"', '\''])
                    .to_owned()
            })
            .filter(|word| word.chars().next().is_some_and(char::is_alphabetic))
            .collect();
        all.push((first, text.trim().to_owned()));
    }
    all.extend(open.map(|(line, text)| (line, text.trim().to_owned())));
    all
}

fn scan(source: &str) -> DockerfileInfo {
    let mut info = DockerfileInfo {
        source: source.into(),
        ..DockerfileInfo::default()
    };
    for (line, text) in instructions(source) {
        let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((&text, ""));
        match word.to_uppercase().as_str() {
            "FROM" => {
                let words: Vec<&str> = rest
                    .split_whitespace()
                    .filter(|word| !word.starts_with("--"))
                    .collect();
                let name = match words.as_slice() {
                    [_, as_word, name, ..] if as_word.eq_ignore_ascii_case("as") => *name,
                    _ => "",
                };
                let base = words.first().copied().unwrap_or_default();
                info.stages.push(Stage {
                    name: name.into(),
                    base: base.into(),
                    line,
                    uses: Vec::new(),
                });
            }
            "ARG" => {
                for word in words(rest) {
                    let (name, value) = word.split_once('=').unwrap_or((&word, ""));
                    if let Some(known) = info.args.iter_mut().find(|known| known.name == name) {
                        if known.value.is_empty() {
                            value.clone_into(&mut known.value);
                        }
                    } else if !name.is_empty() {
                        info.args.push(DockerfileArg {
                            name: name.into(),
                            value: value.into(),
                            line,
                        });
                    }
                }
            }
            _ => flags(rest, &mut info),
        }
    }
    info
}

/// Words with their quotes taken off; a space between quotes belongs to its word.
fn words(text: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    for c in text.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            None if c == '"' || c == '\'' => quote = Some(c),
            None if c.is_whitespace() => {
                if !word.is_empty() {
                    all.push(std::mem::take(&mut word));
                }
            }
            _ => word.push(c),
        }
    }
    if !word.is_empty() {
        all.push(word);
    }
    all
}

/// What an instruction's flags mention: other stages, secrets, ssh agents.
fn flags(rest: &str, info: &mut DockerfileInfo) {
    let add = |list: &mut Vec<String>, item: &str| {
        if !item.is_empty() && !list.iter().any(|known| known == item) {
            list.push(item.to_owned());
        }
    };
    for word in rest
        .split_whitespace()
        .take_while(|word| word.starts_with("--"))
    {
        let mut uses = None;
        if let Some(stage) = word.strip_prefix("--from=") {
            uses = Some(stage);
        } else if let Some(mount) = word.strip_prefix("--mount=") {
            let field = |key: &str| {
                mount
                    .split(',')
                    .find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
            };
            let target = || {
                field("target")
                    .or_else(|| field("dst"))
                    .and_then(|path| path.rsplit('/').next())
            };
            match field("type").unwrap_or("bind") {
                "secret" => add(
                    &mut info.secrets,
                    field("id").or_else(target).unwrap_or_default(),
                ),
                "ssh" => add(&mut info.ssh, field("id").unwrap_or("default")),
                _ => uses = field("from"),
            }
        }
        if let (Some(from), Some(stage)) = (uses, info.stages.last_mut()) {
            add(&mut stage.uses, from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dockerfile_tells_what_it_uses() {
        let info = scan(
            "# syntax=docker/dockerfile:1\nARG BASE=debian:12 PLAIN\nFROM ${BASE} AS build\nARG PLAIN=\"x y\"\nRUN --mount=type=secret,id=token \\\n  # a comment\n  --mount=type=ssh \\\n  --mount=from=tools,target=/t make\nRUN <<EOF\nFROM nothing\nEOF\nfrom scratch\nCOPY --from=build --chmod=644 /a /b\n",
        );
        let stages: Vec<(&str, &str, u32)> = info
            .stages
            .iter()
            .map(|s| (s.name.as_str(), s.base.as_str(), s.line))
            .collect();
        assert_eq!(stages, [("build", "${BASE}", 3), ("", "scratch", 12)]);
        assert_eq!(info.stages[0].uses, ["tools"]);
        assert_eq!(info.stages[1].uses, ["build"]);
        let args: Vec<&str> = info.args.iter().map(|arg| arg.name.as_str()).collect();
        assert_eq!(args, ["BASE", "PLAIN"]);
        assert_eq!(info.args[1].value, "x y");
        assert_eq!(info.secrets, ["token"]);
        assert_eq!(info.ssh, ["default"]);
    }

    #[test]
    fn dockerfiles_are_found_by_their_names() {
        for (name, is) in [
            ("Dockerfile", true),
            ("Containerfile", true),
            ("Dockerfile.dev", true),
            ("web.Dockerfile", true),
            ("Dockerfile.dockerignore", false),
            ("dockerfile.md.txt", true),
            ("MyDockerfiles", false),
        ] {
            assert_eq!(is_dockerfile(name), is, "{name}");
        }
        let folder = tempfile::tempdir().unwrap();
        for path in [
            "Dockerfile",
            "deploy/Dockerfile.worker",
            "node_modules/x/Dockerfile",
            "a/b/c/d/Dockerfile",
        ] {
            let file = folder.path().join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "FROM scratch\n").unwrap();
        }
        let info = inspect(folder.path(), "").unwrap();
        let paths: Vec<&str> = info.dockerfiles.iter().map(|d| d.path.as_str()).collect();
        assert_eq!(paths, ["Dockerfile", "deploy/Dockerfile.worker"]);
        // One that was chosen, deep below or elsewhere, is read as well.
        let deep = folder
            .path()
            .join("a/b/c/d/Dockerfile")
            .display()
            .to_string();
        for (named, path) in [
            (&*deep, "a/b/c/d/Dockerfile"),
            ("a/b/c/d/Dockerfile", "a/b/c/d/Dockerfile"),
        ] {
            let info = inspect(folder.path(), named).unwrap();
            assert_eq!(info.dockerfiles[2].path, path);
            assert_eq!(info.dockerfiles[2].stages.len(), 1);
        }
        assert_eq!(
            inspect(folder.path(), "deploy/gone")
                .unwrap()
                .dockerfiles
                .len(),
            2
        );
        assert_eq!(inspect(Path::new("relative"), "").unwrap_err().kind, "user");
        assert_eq!(
            inspect(&folder.path().join("gone"), "").unwrap_err().kind,
            "user"
        );
    }
}
