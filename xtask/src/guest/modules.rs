//! Kernel modules and what they need: the package has no `modules.dep`, so the answer is read from
//! the modules' own `.modinfo`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Modules of a kernel package by name (`-` and `_` are the same in names).
#[derive(Debug)]
pub(super) struct Modules {
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
}

impl Modules {
    /// Reads the tree below `lib/modules/VERSION`.
    pub(super) fn read(directory: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        let mut open = vec![directory.join("kernel")];
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(&directory)? {
                let path = entry?.path();
                if path.is_dir() {
                    open.push(path);
                } else if let Some(name) = name_of(&path) {
                    files.insert(name, path);
                }
            }
        }
        let builtin = fs::read_to_string(directory.join("modules.builtin"))?;
        let builtin = builtin
            .lines()
            .filter_map(|line| name_of(Path::new(line)))
            .collect();
        Ok(Self { files, builtin })
    }

    /// `wanted` with everything that they need, each after what it needs. What is built in is left out.
    pub(super) fn load_order(&self, wanted: &[&str]) -> Result<Vec<(String, PathBuf)>> {
        let mut order = Vec::new();
        let mut done = BTreeSet::new();
        for name in wanted {
            self.visit(&name.replace('-', "_"), &mut order, &mut done)?;
        }
        Ok(order)
    }

    fn visit(
        &self,
        name: &str,
        order: &mut Vec<(String, PathBuf)>,
        done: &mut BTreeSet<String>,
    ) -> Result<()> {
        if self.builtin.contains(name) || !done.insert(name.to_owned()) {
            return Ok(());
        }
        let Some(path) = self.files.get(name) else {
            bail!("the kernel package has no module {name}");
        };
        for needed in needs(&fs::read(path)?).with_context(|| format!("module {name}"))? {
            self.visit(&needed, order, done)?;
        }
        order.push((name.to_owned(), path.clone()));
        Ok(())
    }
}

fn name_of(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?.strip_suffix(".ko")?;
    Some(name.replace('-', "_"))
}

/// The `depends=` line of a module: `.modinfo` is a run of NUL-terminated `key=value` strings.
fn needs(module: &[u8]) -> Result<Vec<String>> {
    let key = b"\0depends=";
    let start = module
        .windows(key.len())
        .position(|window| window == key)
        .context("no depends= in .modinfo")?
        + key.len();
    let end = module[start..]
        .iter()
        .position(|byte| *byte == 0)
        .context("no end of depends=")?;
    let text = std::str::from_utf8(&module[start..start + end])?;
    Ok(text
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_needs_is_read_from_it() {
        let module = b"\x7fELF...\0license=GPL\0depends=failover,net-failover\0retpoline=Y\0";
        assert_eq!(needs(module).unwrap(), ["failover", "net_failover"]);
        assert!(needs(b"\0depends=\0").unwrap().is_empty());
        assert!(needs(b"nothing").is_err());
    }
}
