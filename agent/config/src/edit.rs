//! `buildkitd.toml` edited by a form: the keys that it has are set, and everything else, comments too, stays as people
//! wrote it.
//!
//! Invariant: what comes out is a configuration that [`parse`](crate::parse) takes; what doesn't go in can't be edited.

mod registries;

use std::path::Path;

use toml_edit::{ArrayOfTables, DocumentMut, Item, Table, TableLike, Value};

use self::registries::text_of;
use crate::{
    BuildkitdConfig, ConfigError, DiskSpace, GcPolicyConfig, HistoryConfig, RegistryConfig,
};

const HISTORY: &str = "history";
const REGISTRY: &str = "registry";
const GC_POLICY: &str = "gcpolicy";

/// A text that can be edited.
#[derive(Debug, Clone)]
pub struct ConfigText {
    document: DocumentMut,
    config: BuildkitdConfig,
}

/// Errors name the file so.
fn name() -> &'static Path {
    Path::new("buildkitd.toml")
}

impl ConfigText {
    /// Reads it.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let config = crate::parse(text, name())?;
        // The other parser takes what this one took; should they differ once, that is told as well.
        let document = text
            .parse()
            .map_err(|error: toml_edit::TomlError| ConfigError::Edit {
                path: name().to_owned(),
                problem: error.to_string(),
            })?;
        Ok(Self { document, config })
    }

    /// What it says, before it was edited.
    pub fn config(&self) -> &BuildkitdConfig {
        &self.config
    }

    /// The text, checked.
    pub fn finish(self) -> Result<String, ConfigError> {
        let text = self.document.to_string();
        crate::parse(&text, name())?;
        Ok(text)
    }

    /// How long records of builds are kept; without a value, as long as the engine thinks best.
    pub fn set_history(&mut self, history: &HistoryConfig) {
        let table = section(self.document.as_table_mut(), HISTORY, false);
        let seconds = history.max_age.map(|age| number(age.0.as_secs()));
        set(table, "maxAge", seconds);
        set(table, "maxEntries", history.max_entries.map(number));
        set(table, "maxSize", history.max_size.map(space));
        if table.is_empty() {
            self.document.remove(HISTORY);
        }
    }

    /// Settings of a registry; none: as if it had never been named. Client certificates stay.
    pub fn set_registry(&mut self, host: &str, registry: Option<&RegistryConfig>) {
        let all = section(self.document.as_table_mut(), REGISTRY, true);
        if let Some(registry) = registry {
            let table = section(all, host, false);
            set(table, "mirrors", texts(&registry.mirrors));
            set(table, "http", registry.http.map(Value::from));
            set(table, "insecure", registry.insecure.map(Value::from));
            let paths: Vec<String> = registry.ca.iter().map(|path| text_of(path)).collect();
            set(table, "ca", texts(&paths));
        }
        let is_empty = |item: Option<&Item>| {
            item.and_then(Item::as_table_like)
                .is_some_and(TableLike::is_empty)
        };
        if registry.is_none() || is_empty(all.get(host)) {
            all.remove(host);
        }
        if all.is_empty() {
            self.document.remove(REGISTRY);
        }
    }

    /// Rules of garbage collection, in order; none: the engine's own.
    pub fn set_gc_policies(&mut self, policies: &[GcPolicyConfig]) {
        if policies.is_empty() && self.config.worker.oci.gc_policy.is_empty() {
            return;
        }
        let worker = section(self.document.as_table_mut(), "worker", true);
        let oci = section(worker, "oci", policies.is_empty());
        oci.remove(GC_POLICY);
        if policies.is_empty() {
            if oci.is_empty() {
                worker.remove("oci");
            }
            if worker.is_empty() {
                self.document.remove("worker");
            }
            return;
        }
        let mut rules = ArrayOfTables::new();
        for policy in policies {
            let mut rule = Table::new();
            set(&mut rule, "all", policy.all.then(|| Value::from(true)));
            set(&mut rule, "filters", texts(&policy.filters));
            let seconds = policy.keep_duration.map(|age| number(age.0.as_secs()));
            set(&mut rule, "keepDuration", seconds);
            set(
                &mut rule,
                "reservedSpace",
                policy.reserved_space().map(space),
            );
            set(&mut rule, "maxUsedSpace", policy.max_used_space.map(space));
            set(&mut rule, "minFreeSpace", policy.min_free_space.map(space));
            rules.push(rule);
        }
        oci.insert(GC_POLICY, Item::ArrayOfTables(rules));
    }
}

/// A table below another one, made where there is none. One that only holds others gets no header of its own.
#[expect(
    clippy::expect_used,
    reason = "what isn't a table has just been replaced by one"
)]
fn section<'a>(above: &'a mut dyn TableLike, key: &str, only_holds: bool) -> &'a mut dyn TableLike {
    if above.get(key).and_then(Item::as_table_like).is_none() {
        let mut table = Table::new();
        table.set_implicit(only_holds);
        above.insert(key, Item::Table(table));
    }
    above
        .get_mut(key)
        .and_then(Item::as_table_like_mut)
        .expect("a table was there, or was put there")
}

/// A value in the place of the one before, with its comment; none takes it away.
fn set(table: &mut dyn TableLike, key: &str, new: Option<Value>) {
    let Some(mut new) = new else {
        table.remove(key);
        return;
    };
    match table.get_mut(key).and_then(Item::as_value_mut) {
        Some(old) => {
            *new.decor_mut() = old.decor().clone();
            *old = new;
        }
        None => {
            table.insert(key, Item::Value(new));
        }
    }
}

fn number(number: u64) -> Value {
    Value::from(i64::try_from(number).unwrap_or(i64::MAX))
}

fn space(space: DiskSpace) -> Value {
    match space {
        DiskSpace::Bytes(bytes) => number(bytes),
        DiskSpace::Percent(percent) => Value::from(format!("{percent}%")),
    }
}

fn texts(texts: &[String]) -> Option<Value> {
    (!texts.is_empty()).then(|| Value::Array(texts.iter().map(String::as_str).collect()))
}

#[cfg(test)]
mod tests;
