//! The files that registries name: directories of them listed, and each given another name.

use std::path::{Path, PathBuf};

use toml_edit::{Array, InlineTable, Item, Table, TableLike, Value, value};

use super::{ConfigText, REGISTRY};
use crate::{TlsDirectory, TlsKeyPair};

impl ConfigText {
    /// Puts what `list` finds in each `tlsconfigdir` in its place, as `ca` and `keypair`.
    pub fn list_tls_directories<E>(
        &mut self,
        mut list: impl FnMut(&Path) -> Result<TlsDirectory, E>,
    ) -> Result<(), E> {
        for registry in self.registries() {
            let Some(directories) = registry.remove("tlsconfigdir") else {
                continue;
            };
            for directory in texts(&directories) {
                let found = list(Path::new(directory))?;
                add_authorities(registry, &found.ca);
                for pair in &found.keypair {
                    add_pair(registry, pair);
                }
            }
        }
        Ok(())
    }

    /// Gives every file of registries (CAs and client certificates) the name that `rename` makes of it.
    pub fn rename_registry_files(&mut self, mut rename: impl FnMut(&Path) -> PathBuf) {
        for registry in self.registries() {
            if let Some(paths) = registry.get_mut("ca") {
                let renamed = texts(paths).map(|path| text_of(&rename(Path::new(path))));
                *paths = value(renamed.collect::<Array>());
            }
            if let Some(pairs) = registry.get_mut("keypair") {
                rename_pairs(pairs, &mut rename);
            }
        }
    }

    fn registries(&mut self) -> impl Iterator<Item = &mut dyn TableLike> {
        let all = self.document.get_mut(REGISTRY);
        let all = all.and_then(Item::as_table_like_mut);
        all.into_iter()
            .flat_map(|all| all.iter_mut())
            .filter_map(|(_, registry)| registry.as_table_like_mut())
    }
}

fn add_authorities(registry: &mut dyn TableLike, paths: &[PathBuf]) {
    let before: Vec<String> = registry
        .get("ca")
        .map(|before| texts(before).map(str::to_owned).collect())
        .unwrap_or_default();
    let all = before
        .into_iter()
        .chain(paths.iter().map(|path| text_of(path)));
    registry.insert("ca", value(all.collect::<Array>()));
}

/// In the form that the others have.
fn add_pair(registry: &mut dyn TableLike, pair: &TlsKeyPair) {
    let (key, cert) = (text_of(&pair.key), text_of(&pair.cert));
    if let Some(tables) = registry
        .get_mut("keypair")
        .and_then(Item::as_array_of_tables_mut)
    {
        let mut table = Table::new();
        table.insert("key", value(key));
        table.insert("cert", value(cert));
        tables.push(table);
        return;
    }
    let mut table = InlineTable::new();
    table.insert("key", key.into());
    table.insert("cert", cert.into());
    match registry.get_mut("keypair").and_then(Item::as_array_mut) {
        Some(array) => array.push(table),
        None => drop(registry.insert("keypair", value(Array::from_iter([table])))),
    }
}

/// `[[keypair]]`, or the same as an array of inline tables.
fn rename_pairs(pairs: &mut Item, rename: &mut impl FnMut(&Path) -> PathBuf) {
    let mut one = |pair: &mut dyn TableLike| {
        for key in ["key", "cert"] {
            if let Some(path) = pair.get(key).and_then(Item::as_str) {
                let renamed = text_of(&rename(Path::new(path)));
                pair.insert(key, value(renamed));
            }
        }
    };
    if let Some(tables) = pairs.as_array_of_tables_mut() {
        tables.iter_mut().for_each(|table| one(table));
    } else if let Some(array) = pairs.as_array_mut() {
        let tables = array.iter_mut().filter_map(Value::as_inline_table_mut);
        tables.for_each(|table| one(table));
    }
}

fn texts(item: &Item) -> impl Iterator<Item = &str> {
    let array = item.as_array();
    array.into_iter().flatten().filter_map(Value::as_str)
}

pub(super) fn text_of(path: &Path) -> String {
    path.display().to_string()
}
