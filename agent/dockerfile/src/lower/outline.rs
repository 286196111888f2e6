//! What a stage takes from outside: arguments, secrets and agents. For the outline subrequest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::parse::Lines;

/// What a stage takes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outline {
    pub args: BTreeMap<String, ArgInfo>,
    /// Arguments before the first `FROM`, the same for all stages.
    pub global: Arc<BTreeMap<String, ArgInfo>>,
    pub used_args: BTreeSet<String>,
    pub secrets: BTreeMap<String, Need>,
    pub ssh: BTreeMap<String, Need>,
}

/// An `ARG`.
#[derive(Debug, Clone, Default)]
pub(crate) struct ArgInfo {
    pub value: String,
    pub description: String,
    pub lines: Lines,
    /// Arguments that its default uses.
    pub deps: BTreeSet<String>,
}

/// A secret or an agent.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Need {
    pub required: bool,
    pub lines: Lines,
}

impl Outline {
    /// An argument of the stage, or of the file.
    pub(crate) fn arg(&self, name: &str) -> Option<&ArgInfo> {
        self.args.get(name).or_else(|| self.global.get(name))
    }

    /// Marks what used arguments use themselves.
    pub(crate) fn close(&mut self) {
        let mut pending: Vec<String> = self.used_args.iter().cloned().collect();
        while let Some(name) = pending.pop() {
            let deps = self.arg(&name).map(|arg| arg.deps.clone());
            for dep in deps.into_iter().flatten() {
                if self.used_args.insert(dep.clone()) {
                    pending.push(dep);
                }
            }
        }
    }
}
