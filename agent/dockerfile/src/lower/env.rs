//! Environment variables in the order in which they were last set.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::shell::Variables;

/// Variables; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Env {
    entries: Arc<Vec<(Arc<str>, Arc<str>)>>,
}

impl Env {
    /// Sets a variable, which becomes the last one.
    pub(crate) fn set(&mut self, key: &str, value: &str) {
        let entries = Arc::make_mut(&mut self.entries);
        entries.retain(|(known, _)| &**known != key);
        entries.push((key.into(), value.into()));
    }

    /// Removes a variable.
    pub(crate) fn remove(&mut self, key: &str) {
        Arc::make_mut(&mut self.entries).retain(|(known, _)| &**known != key);
    }

    /// `KEY=value` lines.
    pub(crate) fn to_list(&self) -> Vec<String> {
        let entries = self.entries.iter();
        entries
            .map(|(key, value)| format!("{key}={value}"))
            .collect()
    }

    /// The names.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(key, _)| &**key)
    }
}

impl Variables for Env {
    fn get(&self, name: &str) -> Option<&str> {
        let mut newest_first = self.entries.iter().rev();
        let found = newest_first.find(|(key, _)| &**key == name);
        found.map(|(_, value)| &**value)
    }
}

/// Variables, some of them hidden behind others.
pub(crate) struct Masked<'a> {
    /// All variables.
    pub env: &'a Env,
    /// What is shown in the place of some.
    pub masks: BTreeMap<String, String>,
}

impl Variables for Masked<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.masks
            .get(name)
            .map(String::as_str)
            .or_else(|| self.env.get(name))
    }
}

/// The name and value of `KEY=value`.
pub(crate) fn split(entry: &str) -> (&str, &str) {
    entry.split_once('=').unwrap_or((entry, ""))
}

/// Sets a variable in an image's list, where it keeps its place.
pub(crate) fn set_in(list: &mut Vec<String>, key: &str, value: &str) {
    let entry = format!("{key}={value}");
    match list.iter_mut().find(|known| split(known).0 == key) {
        Some(known) => *known = entry,
        None => list.push(entry),
    }
}
