//! `ADD` and `COPY`.

use kiln_llb::{Edge, FileChain, VertexOptions};
use kiln_oci::Digest;
use kiln_proto::pb;

use super::chmod::Chmod;
use super::error::{Problem, Result};
use super::plan::Output;
use super::stage::{StageId, StageState};
use super::{COMMAND, Converter, checks, name, os_path};
use crate::instruction::{Command, Copy};
use crate::lint::Linter;
use crate::text::{base, clean, join};
use crate::ui::{GitOptions, GitRef, git_source, parse_git};

/// One copy of the chain: from where, and what.
type Step = (Output, pb::FileActionCopy);

impl Converter<'_> {
    pub(super) fn copy(
        &mut self,
        stage: &mut StageState,
        command: &Command,
        copy: &Copy,
        from: Option<StageId>,
        lint: &Linter,
    ) -> Result<()> {
        let add = matches!(command.instruction, crate::instruction::Instruction::Add(_));
        let mut source = Some(self.main_context);
        if let Some(from) = from {
            let from = &self.stages.all[from];
            if !from.dispatched {
                return Err(Problem::CopyOrder {
                    from: copy.from.clone(),
                    stage: stage.shown_name.clone(),
                }
                .into());
            }
            source = from.state.out;
        }
        let os = stage.os().to_owned();
        let dest = os_path::destination(&stage.state.dir, &copy.dest, &os)?;
        let template = template(copy, dest)?;
        check_checksum(copy, add)?;

        let platform = stage
            .platform
            .clone()
            .unwrap_or_else(|| self.platforms.target.clone());
        let env = stage.state.env.clone();
        let shown = name::shown(self.lexer, &command.code, &env);
        let title = name::numbered(stage, &shown, self.prefix(&platform, &env));
        let mut steps: Vec<Step> = Vec::new();
        for path in &copy.sources {
            let git = parse_git(path).transpose()?;
            if let Some(git) = git.filter(|git| !git.like_a_path) {
                if !add {
                    return Err(Problem::CopyGit.into());
                }
                let edge = git_copy(copy, &git, &title)?;
                let mut action = template.clone();
                "/".clone_into(&mut action.src);
                steps.push((Some(self.plan.ready(Some(edge))), action));
            } else if path.starts_with("http://") || path.starts_with("https://") {
                if !add {
                    return Err(Problem::CopyUrl.into());
                }
                let (edge, file) = http_copy(copy, path, &title)?;
                let mut action = template.clone();
                action.src = join(&["/", &file]);
                action.attempt_unpack_docker_compatibility = copy.unpack.unwrap_or(false);
                steps.push((Some(self.plan.ready(Some(edge))), action));
            } else {
                let ignore = self.ignore.as_ref().filter(|_| from.is_none());
                checks::ignored_source(path, add, ignore, command.lines, lint);
                let mut action = path_copy(&template, path, copy.parents, &os)?;
                action.attempt_unpack_docker_compatibility = copy.unpack.unwrap_or(add);
                steps.push((source, action));
            }
        }
        for file in &copy.inline {
            let path = os_path::without_drive(&file.path, &os, false)?;
            let node = self.inline_file(&path, 0o644, file.data.clone().into_bytes());
            let mut action = template.clone();
            action.src = join(&["/", &os_path::to_slash(&path, &os)]);
            steps.push((Some(node), action));
        }

        let mut options = self.vertex_options(title.clone(), command.lines);
        options.ignore_cache = stage.ignore_cache;
        let base = stage.state.out;
        let owner = copy.chown.clone();
        if copy.link && copy.chmod.is_empty() && self.contexts.bridge.has_cap("mergeop") {
            // The number is that of the copy; the merge shares it.
            stage.command_index -= usize::from(stage.command_total > 0);
            let link = format!("LINK {shown}");
            let merge_title = name::numbered(stage, &link, self.prefix(&platform, &env));
            let mut merge_options = self.vertex_options(merge_title, command.lines);
            merge_options.ignore_cache = stage.ignore_cache;
            let group = pb::ProgressGroup {
                id: group_id(&title, command),
                name: title,
                weak: true,
            };
            merge_options.progress_group = Some(pb::ProgressGroup {
                weak: false,
                ..group.clone()
            });
            options.progress_group = Some(group);
            stage.state.out = Some(self.plan.make(move |made| {
                let chain = chain(None, steps, &owner, made);
                let copied = chain.build(options);
                kiln_llb::merge(vec![made.edge(base), Some(copied)], merge_options)
            }));
        } else {
            stage.state.out = Some(self.plan.make(move |made| {
                let chain = chain(made.edge(base), steps, &owner, made);
                Some(chain.build(options))
            }));
        }
        self.commit(stage, history(copy, add), true);
        Ok(())
    }
}

/// The chain of one instruction's copies.
fn chain(
    base: Option<Edge>,
    steps: Vec<Step>,
    owner: &str,
    made: &super::plan::Made<'_>,
) -> FileChain {
    let mut chain = FileChain::new(base);
    for (from, mut action) in steps {
        if !owner.is_empty() {
            action.owner = Some(kiln_llb::owner(owner, chain.owner_input()));
        }
        chain.copy(made.edge(from).as_ref(), action);
    }
    chain
}

/// What all copies of an instruction have in common.
fn template(copy: &Copy, dest: String) -> Result<pb::FileActionCopy> {
    let mut action = pb::FileActionCopy {
        dest,
        mode: -1,
        timestamp: -1,
        create_dest_path: true,
        exclude_patterns: copy.excludes.clone(),
        ..pb::FileActionCopy::default()
    };
    if !copy.chmod.is_empty() {
        match Chmod::parse(&copy.chmod)? {
            Chmod::Bits(bits) => action.mode = bits as i32,
            Chmod::Symbolic(text) => {
                action.mode = 0;
                action.mode_str = text;
            }
        }
    }
    Ok(action)
}

fn check_checksum(copy: &Copy, add: bool) -> Result<()> {
    if copy.checksum.is_empty() {
        return Ok(());
    }
    if !add {
        return Err(Problem::CopyChecksum.into());
    }
    let [source] = copy.sources.as_slice() else {
        return Err(Problem::ManyChecksums.into());
    };
    let http = source.starts_with("http://") || source.starts_with("https://");
    let git = matches!(parse_git(source), Some(Ok(_)));
    if !http && !git {
        return Err(Problem::LocalChecksum.into());
    }
    Ok(())
}

/// A path of the context or of another stage.
fn path_copy(
    template: &pb::FileActionCopy,
    path: &str,
    parents: bool,
    os: &str,
) -> Result<pb::FileActionCopy> {
    let mut action = template.clone();
    action.follow_symlink = true;
    action.dir_copy_contents = true;
    action.allow_wildcard = true;
    action.allow_empty_wildcard = true;
    let mut source = path;
    if parents {
        // What is before a dot of its own isn't kept.
        let (parent, pattern) = path.split_once("/./").unwrap_or(("/", path));
        source = parent;
        let pattern = os_path::normalize("/", pattern, os, false)?;
        if !has_wildcard(source) && !has_wildcard(&pattern) {
            let required = join(&[source, &pattern]);
            action.required_paths = vec![os_path::normalize("/", &required, os, false)?];
        }
        let relative = pattern.strip_prefix('/').unwrap_or(&pattern);
        action.include_patterns = vec![relative.to_owned()];
    }
    let source = os_path::normalize("/", source, os, false)?;
    action.src = join(&["/", &clean(&source)]);
    Ok(action)
}

fn has_wildcard(path: &str) -> bool {
    let mut chars = path.chars();
    while let Some(c) = chars.next() {
        match c {
            '*' | '?' | '[' => return true,
            '\\' => {
                chars.next();
            }
            _ => {}
        }
    }
    false
}

fn git_copy(copy: &Copy, git: &GitRef, title: &str) -> Result<Edge> {
    if let (Some(flag), Some(query)) = (copy.keep_git_dir, git.keep_git_dir)
        && flag != query
    {
        return Err(Problem::KeepGitDir.into());
    }
    let given = [&copy.checksum, &git.checksum];
    if given.iter().all(|c| !c.is_empty()) && copy.checksum != git.checksum {
        return Err(Problem::ChecksumMismatch {
            a: copy.checksum.clone(),
            b: git.checksum.clone(),
        }
        .into());
    }
    let checksum = given.into_iter().find(|c| !c.is_empty());
    let more = GitOptions {
        keep_git_dir: git.keep_git_dir.or(copy.keep_git_dir) == Some(true),
        checksum: checksum.cloned().unwrap_or_default(),
        mtime: String::new(),
    };
    Ok(git_source(git, &more, VertexOptions::named(title)))
}

fn http_copy(copy: &Copy, url: &str, title: &str) -> Result<(Edge, String)> {
    let file = http_filename(url);
    let mut options = VertexOptions::named(title);
    options
        .description
        .insert(COMMAND.to_owned(), String::new());
    options.caps.insert("source.http".to_owned());
    let mut source = pb::SourceOp {
        identifier: url.to_owned(),
        attrs: [("http.filename".to_owned(), file.clone())].into(),
    };
    if !copy.checksum.is_empty() {
        let digest: Digest = copy
            .checksum
            .parse()
            .map_err(|source| Problem::Checksum(copy.checksum.clone(), source))?;
        let key = "http.checksum".to_owned();
        source.attrs.insert(key, digest.to_string());
        options.caps.insert("source.http.checksum".to_owned());
    }
    Ok((kiln_llb::source(source, None, options), file))
}

/// The last part of the address, or a name that says that there is none.
pub(super) fn http_filename(url: &str) -> String {
    let (_, rest) = url.split_once("://").unwrap_or(("", url));
    let rest = rest.split(['?', '#']).next().unwrap_or("");
    let path = rest.find('/').map_or("", |at| &rest[at..]);
    match base(path) {
        "." | "/" => "__unnamed__".to_owned(),
        name => crate::ui::percent_decode(name),
    }
}

fn history(copy: &Copy, add: bool) -> String {
    let mut text = if add { "ADD" } else { "COPY" }.to_owned();
    if copy.parents {
        text.push_str(" --parents");
    }
    if !copy.chown.is_empty() {
        text.push_str(" --chown=");
        text.push_str(&copy.chown);
    }
    if !copy.chmod.is_empty() {
        text.push_str(" --chmod=");
        text.push_str(&copy.chmod);
    }
    for source in &copy.sources {
        text.push(' ');
        text.push_str(source);
    }
    for file in &copy.inline {
        text.push_str(" <<");
        text.push_str(&file.path);
    }
    format!("{text} {} # buildkit", copy.dest)
}

/// A name for the group that a linked copy and its merge are shown as. It must be the same in no
/// other step of the build.
fn group_id(title: &str, command: &Command) -> String {
    let text = format!("{title}\0{}\0{}", command.lines.start, command.code);
    Digest::of(text).hex()[..25].to_owned()
}
