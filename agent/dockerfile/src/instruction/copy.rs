//! `ADD` and `COPY`.

use super::InstructionError;
use super::flags::{Flags, Kind};
use crate::parse::{Statement, chomp, heredoc_of_word};

/// What is copied where and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Copy {
    /// Paths, patterns, addresses.
    pub sources: Vec<String>,
    /// Files whose text is in the Dockerfile.
    pub inline: Vec<InlineFile>,
    /// Where to.
    pub dest: String,
    /// `--from`: a stage, an image, a context. Only `COPY` has it.
    pub from: String,
    /// `--chown`
    pub chown: String,
    /// `--chmod`
    pub chmod: String,
    /// `--link`
    pub link: bool,
    /// `--parents`. Only `COPY` has it.
    pub parents: bool,
    /// `--exclude`
    pub excludes: Vec<String>,
    /// `--keep-git-dir`. Only `ADD` has it.
    pub keep_git_dir: Option<bool>,
    /// `--checksum`. Only `ADD` has it.
    pub checksum: String,
    /// `--unpack`. Only `ADD` has it.
    pub unpack: Option<bool>,
}

/// A file whose text is in the Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InlineFile {
    /// Its name.
    pub path: String,
    /// Its text.
    pub data: String,
    /// Whether variables in it are expanded.
    pub expand: bool,
}

impl Copy {
    pub(super) fn parse(statement: &Statement, add: bool) -> Result<Self, InstructionError> {
        let keyword = if add { "ADD" } else { "COPY" };
        if statement.args.len() < 2 {
            return Err(InstructionError::NoDestination(keyword));
        }
        let mut known = vec![
            ("chown", Kind::Text),
            ("chmod", Kind::Text),
            ("link", Kind::Bool),
            ("exclude", Kind::List),
        ];
        if add {
            known.push(("keep-git-dir", Kind::Bool));
            known.push(("checksum", Kind::Text));
            known.push(("unpack", Kind::Bool));
        } else {
            known.push(("from", Kind::Text));
            known.push(("parents", Kind::Bool));
        }
        let flags = Flags::parse(&statement.flags, &known)?;
        let mut copy = Self {
            from: flags.text("from"),
            chown: flags.text("chown"),
            chmod: flags.text("chmod"),
            link: flags.bool("link"),
            parents: flags.bool("parents"),
            excludes: flags.list("exclude"),
            keep_git_dir: flags.maybe_bool("keep-git-dir"),
            checksum: flags.text("checksum"),
            unpack: flags.maybe_bool("unpack"),
            ..Self::default()
        };
        let Some((dest, sources)) = statement.args.split_last() else {
            return Err(InstructionError::NoDestination(keyword));
        };
        if heredoc_of_word(dest).is_some() {
            return Err(InstructionError::HeredocDestination(keyword));
        }
        copy.dest.clone_from(dest);
        for source in sources {
            let Some(heredoc) = heredoc_of_word(source) else {
                copy.sources.push(source.clone());
                continue;
            };
            // Of two heredocs of one name, the last one counts.
            let mut texts = statement.heredocs.iter().rev();
            let text = texts.find(|text| text.name == heredoc.name);
            let content = text.map_or("", |text| text.content.as_str());
            copy.inline.push(InlineFile {
                data: if heredoc.chomp {
                    chomp(content)
                } else {
                    content.to_owned()
                },
                path: heredoc.name,
                expand: heredoc.expand,
            });
        }
        Ok(copy)
    }
}
