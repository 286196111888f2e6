//! The key of file actions.

use std::collections::{BTreeMap, BTreeSet};

use kiln_gotext::path::base;
use kiln_gotext::pattern::has_wildcards;
use kiln_oci::Digest;
use kiln_proto::pb;
use kiln_proto::pb::file_action::Action;
use kiln_proto::pb::user_opt::User;

use super::{InputKey, KeyError, OpKey, Selector, without_nested};
use crate::gojson::{self, ops};

/// The key of a file op with `inputs` inputs.
pub fn file(op: &pb::FileOp, inputs: usize) -> Result<OpKey, KeyError> {
    let mut read: BTreeMap<i64, Vec<Selector>> = BTreeMap::new();
    let mut written: BTreeSet<i64> = BTreeSet::new();
    let mut actions = Vec::new();
    for (index, action) in op.actions.iter().enumerate() {
        written.insert(action.input);
        let kind = action.action.as_ref().ok_or(KeyError::NoAction { index })?;
        actions.push(action_json(kind, action, inputs, &mut read));
    }
    let json = gojson::object(|json| {
        json.text("Type", "buildkit.file.v0");
        json.list("Actions", &actions, |out, action| {
            gojson::bytes(out, action.as_bytes());
        });
        if !is_usual_chain(&op.actions) {
            json.list("indexes", &op.actions, |out, action| {
                let indexes = [action.input, action.secondary_input, action.output];
                gojson::list(out, indexes, |out, index| out.push_str(&index.to_string()));
            });
        }
    });

    let mut keys = vec![InputKey::default(); inputs];
    for (input, selectors) in read {
        let key = usize::try_from(input)
            .ok()
            .and_then(|index| keys.get_mut(index));
        let key = key.ok_or(KeyError::Input {
            index: input,
            count: inputs,
        })?;
        // What is written to is known whole, by its own key.
        if !written.contains(&input) {
            *key = input_key(selectors);
        }
    }
    Ok(OpKey::of(json, keys))
}

fn action_json(
    kind: &Action,
    action: &pb::FileAction,
    inputs: usize,
    read: &mut BTreeMap<i64, Vec<Selector>>,
) -> String {
    match kind {
        Action::Mkdir(dir) => {
            read_owner(dir.owner.as_ref(), read);
            gojson::object(|json| ops::mkdir(json, dir))
        }
        Action::Mkfile(file) => {
            read_owner(file.owner.as_ref(), read);
            gojson::object(|json| ops::mkfile(json, file))
        }
        // Named owners of links aren't looked up for the key.
        Action::Symlink(link) => gojson::object(|json| ops::symlink(json, link)),
        Action::Rm(rm) => gojson::object(|json| ops::rm(json, rm)),
        Action::Copy(copy) => {
            read_owner(copy.owner.as_ref(), read);
            let from = action.secondary_input;
            if from == -1 || usize::try_from(from).is_ok_and(|from| from >= inputs) {
                return gojson::object(|json| ops::copy(json, copy));
            }
            read.entry(from).or_default().push(Selector {
                path: copy.src.clone(),
                wildcard: copy.allow_wildcard && has_wildcards(&copy.src),
                follow_links: copy.follow_symlink,
                include: copy.include_patterns.clone(),
                exclude: copy.exclude_patterns.clone(),
                required: copy.required_paths.clone(),
            });
            // The content says what is copied; its place in the source doesn't matter.
            let copy = pb::FileActionCopy {
                src: base(&copy.src).to_owned(),
                ..copy.clone()
            };
            gojson::object(|json| ops::copy(json, &copy))
        }
    }
}

/// Names are looked up in the user files of an input. Where there is none the op fails when it runs,
/// not here.
fn read_owner(owner: Option<&pb::ChownOpt>, read: &mut BTreeMap<i64, Vec<Selector>>) {
    let Some(owner) = owner else {
        return;
    };
    for (user, file) in [(&owner.user, "/etc/passwd"), (&owner.group, "/etc/group")] {
        let user = user.as_ref().and_then(|user| user.user.as_ref());
        if let Some(User::ByName(named)) = user {
            if named.input < 0 {
                return;
            }
            read.entry(named.input).or_default().push(Selector {
                path: file.to_owned(),
                follow_links: true,
                ..Selector::default()
            });
        }
    }
}

fn input_key(selectors: Vec<Selector>) -> InputKey {
    let mut paths: Vec<String> = selectors.iter().map(|s| s.path.clone()).collect();
    // Descending, for reasons of history.
    paths.sort_unstable_by(|a, b| b.as_bytes().cmp(a.as_bytes()));
    InputKey {
        selector: Some(Digest::of(paths.join("\0"))),
        paths,
        content: Some(deduped(selectors)),
    }
}

/// Plain paths once, without those that lie in others; patterns as they are.
fn deduped(selectors: Vec<Selector>) -> Vec<Selector> {
    let (patterns, plain): (Vec<Selector>, Vec<Selector>) = selectors
        .into_iter()
        .partition(|s| s.wildcard || !s.include.is_empty() || !s.exclude.is_empty());
    let (follow, keep): (Vec<Selector>, Vec<Selector>) = plain
        .into_iter()
        .partition(|selector| selector.follow_links);
    let paths = |selectors: Vec<Selector>| {
        without_nested(
            selectors
                .into_iter()
                .map(|selector| selector.path)
                .collect(),
        )
    };
    let kept = paths(keep).into_iter().map(|path| Selector {
        path,
        ..Selector::default()
    });
    let followed = paths(follow).into_iter().map(|path| Selector {
        path,
        follow_links: true,
        ..Selector::default()
    });
    let mut all: Vec<Selector> = kept.chain(followed).chain(patterns).collect();
    all.sort_by(|a, b| a.path.cmp(&b.path));
    all
}

/// Each action works on the one before it, the first one on the first input; the last one's is the
/// only output. Such chains were hashed without indexes first, and still are.
fn is_usual_chain(actions: &[pb::FileAction]) -> bool {
    let last = actions.len().saturating_sub(1);
    !actions.is_empty()
        && actions.iter().enumerate().all(|(index, action)| {
            let before = if index == 0 { 0 } else { last + index };
            action.input == before as i64
                && matches!(action.secondary_input, -1 | 1)
                && action.output == if index == last { 0 } else { -1 }
        })
}
