//! Trees made of other trees: files from memory, several trees in one, a tree below a directory.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read};
use std::sync::Arc;

use bytes::Bytes;

use crate::path::compare;
use crate::{Error, Stat, Step, Tree, Visitor, mode};

/// Files that exist in memory only.
#[derive(Debug, Clone, Default)]
pub struct MemoryTree {
    files: BTreeMap<String, (Stat, Bytes)>,
}

impl MemoryTree {
    /// Adds a file of the root.
    pub fn add(&mut self, mut stat: Stat, data: Bytes) {
        stat.size = data.len() as i64;
        self.files.insert(stat.path.clone(), (stat, data));
    }
}

impl Tree for MemoryTree {
    fn walk(&self, visit: &mut Visitor<'_>) -> Result<(), Error> {
        for (stat, _) in self.files.values() {
            if visit(stat.clone())? == Step::SkipDir {
                break;
            }
        }
        Ok(())
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn Read + Send>> {
        match self.files.get(path) {
            Some((_, data)) => Ok(Box::new(Cursor::new(data.clone()))),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// Several trees laid over one another: the first that has a path provides it. All stats are
/// collected before the first is visited.
pub struct MergedTree(Vec<Arc<dyn Tree>>);

impl std::fmt::Debug for MergedTree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("MergedTree").field(&self.0.len()).finish()
    }
}

impl MergedTree {
    /// The first tree has precedence.
    pub fn new(trees: Vec<Arc<dyn Tree>>) -> Self {
        Self(trees)
    }
}

impl Tree for MergedTree {
    fn walk(&self, visit: &mut Visitor<'_>) -> Result<(), Error> {
        let mut all: Vec<(usize, Stat)> = Vec::new();
        for (index, tree) in self.0.iter().enumerate() {
            tree.walk(&mut |stat| {
                all.push((index, stat));
                Ok(Step::Continue)
            })?;
        }
        all.sort_by(|(i, a), (j, b)| compare(&a.path, &b.path).then(i.cmp(j)));
        all.dedup_by(|(_, later), (_, first)| later.path == first.path);
        let mut skipped: Option<String> = None;
        for (_, stat) in all {
            if let Some(prefix) = &skipped
                && stat.path.starts_with(prefix.as_str())
            {
                continue;
            }
            let path = stat.path.clone();
            let is_dir = mode::is_dir(stat.mode);
            if visit(stat)? == Step::SkipDir {
                let dir = if is_dir {
                    path
                } else {
                    crate::path::parent(&path).to_owned()
                };
                if dir.is_empty() {
                    break;
                }
                skipped = Some(format!("{dir}/"));
            }
        }
        Ok(())
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn Read + Send>> {
        for tree in &self.0 {
            match tree.open(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                opened => return opened,
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }
}

/// Trees below directories of their own, such as one per platform.
pub struct SubdirTree(BTreeMap<String, (Stat, Arc<dyn Tree>)>);

impl std::fmt::Debug for SubdirTree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl SubdirTree {
    /// Each tree goes below the directory that its stat names: one plain name each.
    pub fn new(dirs: impl IntoIterator<Item = (Stat, Arc<dyn Tree>)>) -> Result<Self, Error> {
        let mut map = BTreeMap::new();
        for (stat, tree) in dirs {
            crate::path::validate(&stat.path)?;
            let refuse = |reason| {
                Err(Error::Path {
                    path: stat.path.clone(),
                    reason,
                })
            };
            if stat.path.contains('/') {
                return refuse("not a single name");
            }
            if map.contains_key(&stat.path) {
                return refuse("there twice");
            }
            map.insert(stat.path.clone(), (stat, tree));
        }
        Ok(Self(map))
    }
}

impl Tree for SubdirTree {
    fn walk(&self, visit: &mut Visitor<'_>) -> Result<(), Error> {
        for (dir, (stat, tree)) in &self.0 {
            if visit(stat.clone())? == Step::SkipDir {
                continue;
            }
            tree.walk(&mut |mut stat| {
                stat.path = format!("{dir}/{}", stat.path);
                if mode::is_symlink(stat.mode) {
                    if stat.linkname.starts_with('/') {
                        stat.linkname = format!("/{dir}{}", stat.linkname);
                    }
                } else if !stat.linkname.is_empty() {
                    stat.linkname = format!("{dir}/{}", stat.linkname);
                }
                visit(stat)
            })?;
        }
        Ok(())
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn Read + Send>> {
        let not_found = || io::Error::from(io::ErrorKind::NotFound);
        let (dir, rest) = path.split_once('/').ok_or_else(not_found)?;
        let (_, tree) = self.0.get(dir).ok_or_else(not_found)?;
        tree.open(rest)
    }
}
