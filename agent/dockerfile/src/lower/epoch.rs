//! `SOURCE_DATE_EPOCH`: seconds, or the name of something whose time is taken.

use std::collections::BTreeMap;

use kiln_frontend::ResolveImage;
use kiln_llb::{Edge, VertexOptions};
use kiln_oci::Timestamp;
use kiln_proto::pb;

use super::SCRATCH;
use super::copy::http_filename;
use super::env::Env;
use super::error::{At, Problem, Result};
use crate::instruction::{Copy, Instruction, Stage, Stages};
use crate::shell::{Lexer, Variables};
use crate::ui::{Base, Contexts, GitOptions, git_source, parse_git};

const KEY: &str = "SOURCE_DATE_EPOCH";

/// Finds the time and puts its seconds in the place of the name.
pub(super) async fn resolve(
    contexts: &Contexts,
    file: &Stages,
    given: &mut BTreeMap<String, String>,
    global: &mut Env,
    lexer: Lexer,
) -> Result<Option<Timestamp>> {
    let value = match given.get(KEY) {
        Some(value) => value.clone(),
        None => global.get(KEY).unwrap_or("").to_owned(),
    };
    if value.is_empty() && !given.contains_key(KEY) {
        return Ok(None);
    }
    let epoch = match value.as_str() {
        "" => None,
        value => match value.parse::<i64>() {
            Ok(seconds) => Timestamp::from_unix(seconds),
            Err(_) => look_up(contexts, file, given, global, lexer, value).await?,
        },
    };
    let seconds = epoch.map(|epoch| (super::image::nanos(epoch) / 1_000_000_000).to_string());
    if given.contains_key(KEY) {
        match &seconds {
            Some(seconds) => given.insert(KEY.to_owned(), seconds.clone()),
            None => given.remove(KEY),
        };
    }
    if global.get(KEY).is_some() {
        match &seconds {
            Some(seconds) => global.set(KEY, seconds),
            None => global.remove(KEY),
        }
    }
    Ok(epoch)
}

async fn look_up(
    contexts: &Contexts,
    file: &Stages,
    given: &BTreeMap<String, String>,
    global: &Env,
    lexer: Lexer,
    name: &str,
) -> Result<Option<Timestamp>> {
    let (edge, log_name) = if name == "context" {
        let edge = contexts.main_context(&[String::from("/")].into()).await?;
        (
            edge,
            "[internal] resolve main build context metadata".to_owned(),
        )
    } else if let Some(named) = contexts.named(name, None)? {
        let edge = match contexts.load(&named).await?.0 {
            Base::Edge(edge) => edge,
            Base::Local(_) => None,
        };
        let log_name = format!("[internal] resolve SOURCE_DATE_EPOCH named context {name}");
        (edge, log_name)
    } else {
        let mut stages = file.stages.iter();
        let stage = stages
            .find(|stage| stage.name.eq_ignore_ascii_case(name))
            .ok_or_else(|| Problem::Epoch(name.to_owned()))?;
        let mut env = global.clone();
        env.remove(KEY);
        let edge = stage_source(stage, given, env, lexer).at(stage.lines)?;
        let log_name = format!(
            "[internal] resolve SOURCE_DATE_EPOCH source stage {}",
            stage.name
        );
        (Some(edge), log_name)
    };
    let Some(pb::op::Op::Source(source)) = edge.and_then(|edge| edge.vertex.op.op.clone()) else {
        return Ok(None);
    };
    let options = ResolveImage {
        log_name,
        ..ResolveImage::default()
    };
    let meta = contexts.bridge.resolve_source(source, options).await;
    let meta = meta.map_err(Problem::EpochLookup)?;
    if let Some(git) = meta.git {
        return Ok(commit_time(&git.commit_object));
    }
    let modified = meta.http.and_then(|http| http.last_modified);
    Ok(modified.and_then(|time| Timestamp::from_unix(time.seconds)))
}

/// The committer's time of a git commit object.
fn commit_time(object: &[u8]) -> Option<Timestamp> {
    let text = String::from_utf8_lossy(object);
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("committer "))?;
    let mut words = line.rsplit(' ');
    let (_zone, seconds) = (words.next()?, words.next()?);
    Timestamp::from_unix(seconds.parse().ok()?)
}

/// The one remote source of a stage that does nothing else.
fn stage_source(
    stage: &Stage,
    given: &BTreeMap<String, String>,
    mut env: Env,
    lexer: Lexer,
) -> Result<Edge> {
    if lexer.expand(&stage.base, &env)?.text != SCRATCH {
        return Err(Problem::EpochBase.into());
    }
    let mut found = None;
    for command in &stage.commands {
        match &command.instruction {
            Instruction::Arg(args) => {
                for arg in args {
                    if let Some(value) = given.get(&arg.key) {
                        env.set(&arg.key, value);
                    } else if let Some(default) = &arg.value {
                        let value = lexer.expand(default, &env)?.text;
                        env.set(&arg.key, &value);
                    }
                }
            }
            Instruction::Add(_) if found.is_some() => return Err(Problem::EpochAdds.into()),
            Instruction::Add(add) => found = Some(add_source(add, &env, lexer)?),
            _ => return Err(Problem::EpochInstruction(command.keyword.clone()).into()),
        }
    }
    found.ok_or_else(|| Problem::EpochAdds.into())
}

fn add_source(add: &Copy, env: &Env, lexer: Lexer) -> Result<Edge> {
    let ([source], true) = (add.sources.as_slice(), add.inline.is_empty()) else {
        return Err(Problem::EpochAdds.into());
    };
    let source = lexer.expand(source, env)?.text;
    let checksum = lexer.expand(&add.checksum, env)?.text;
    if let Some(git) = parse_git(&source)
        .transpose()?
        .filter(|git| !git.like_a_path)
    {
        let more = GitOptions {
            keep_git_dir: git.keep_git_dir == Some(true) || add.keep_git_dir == Some(true),
            checksum: if checksum.is_empty() {
                git.checksum.clone()
            } else {
                checksum
            },
            mtime: String::new(),
        };
        return Ok(git_source(&git, &more, VertexOptions::default()));
    }
    if !source.starts_with("http://") && !source.starts_with("https://") {
        return Err(Problem::EpochSource.into());
    }
    let mut attrs = BTreeMap::from([("http.filename".to_owned(), http_filename(&source))]);
    if !checksum.is_empty() {
        attrs.insert("http.checksum".to_owned(), checksum);
    }
    let source = pb::SourceOp {
        identifier: source,
        attrs,
    };
    Ok(kiln_llb::source(source, None, VertexOptions::default()))
}
