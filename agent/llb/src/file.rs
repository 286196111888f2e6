//! Composes file ops: a chain of actions, each on the result of the one before it.

use kiln_proto::pb;
use kiln_proto::pb::file_action::Action;

use crate::build::vertex;
use crate::{Edge, VertexOptions};

/// A chain of file actions.
#[derive(Debug, Clone)]
pub struct FileChain {
    inputs: Vec<Edge>,
    base: i64,
    steps: Vec<(Action, i64)>,
}

impl FileChain {
    /// Starts from a file system; `None` is the empty one.
    pub fn new(base: Option<Edge>) -> Self {
        Self {
            base: if base.is_some() { 0 } else { -1 },
            inputs: base.into_iter().collect(),
            steps: Vec::new(),
        }
    }

    /// The input in which names of owners are looked up: the base.
    pub fn owner_input(&self) -> i64 {
        self.base
    }

    /// Adds an action that reads nothing but the result of the one before it.
    pub fn act(&mut self, action: Action) {
        self.steps.push((action, -1));
    }

    /// Adds a copy from another file system; `None` is the empty one.
    pub fn copy(&mut self, from: Option<&Edge>, copy: pb::FileActionCopy) {
        let input = from.map_or(-1, |from| {
            let known = self.inputs.iter().position(|input| input.same_output(from));
            known.unwrap_or_else(|| {
                self.inputs.push(from.clone());
                self.inputs.len() - 1
            }) as i64
        });
        self.steps.push((Action::Copy(copy), input));
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Makes the op, whose only output is what the last action leaves.
    pub fn build(self, mut options: VertexOptions) -> Edge {
        options.caps.insert("file.base".to_owned());
        let inputs = self.inputs.len() as i64;
        let last = self.steps.len().saturating_sub(1);
        let actions = self
            .steps
            .into_iter()
            .enumerate()
            .map(|(i, (action, secondary_input))| pb::FileAction {
                input: if i == 0 {
                    self.base
                } else {
                    inputs + i as i64 - 1
                },
                secondary_input,
                output: if i == last { 0 } else { -1 },
                action: Some(action),
            })
            .collect();
        let op = pb::op::Op::File(pb::FileOp { actions });
        Edge {
            vertex: vertex(op, self.inputs, None, options),
            index: 0,
        }
    }
}

/// An owner given as `user[:group]`; numbers are ids, `root` is 0, other names are looked up in `input`.
pub fn owner(text: &str, input: i64) -> pb::ChownOpt {
    let one = |text: &str| {
        let id = if text == "root" {
            Some(0)
        } else {
            text.parse::<i32>().ok()
        };
        pb::UserOpt {
            user: Some(id.map_or_else(
                || {
                    // An empty name stands for id 0, as it does where names are optional.
                    if text.is_empty() {
                        pb::user_opt::User::ById(0)
                    } else {
                        pb::user_opt::User::ByName(pb::NamedUserOpt {
                            name: text.to_owned(),
                            input,
                        })
                    }
                },
                |id| pb::user_opt::User::ById(id as u32),
            )),
        }
    };
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    pb::ChownOpt {
        user: Some(one(user)),
        group: group.map(one),
    }
}
