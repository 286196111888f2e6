//! Checks that paths come in walk order, each after its directory.

use crate::path::{base, parent, validate};
use crate::{Error, Limits};

/// The directories from the root to the last path, each with its last entry's name.
#[derive(Debug)]
pub(super) struct Order {
    chain: Vec<(String, String)>,
    depth: u64,
    longest: u64,
}

impl Order {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            chain: vec![(String::new(), String::new())],
            depth: limits.depth,
            longest: limits.path,
        }
    }

    /// Takes the next path.
    pub(super) fn next(&mut self, path: &str, is_dir: bool) -> Result<(), Error> {
        if path.len() as u64 > self.longest {
            return Err(Error::Limit {
                what: "bytes in one path",
                limit: self.longest,
            });
        }
        validate(path)?;
        let (dir, name) = (parent(path), base(path));
        let keep = self.chain.iter().rposition(|(known, _)| known == dir);
        let after = || {
            let (dir, last) = self.chain.last().cloned().unwrap_or_default();
            if dir.is_empty() {
                last
            } else {
                format!("{dir}/{last}")
            }
        };
        let Some(keep) = keep else {
            return Err(Error::Order {
                path: path.to_owned(),
                after: after(),
            });
        };
        if self.chain[keep].1.as_str() >= name {
            return Err(Error::Order {
                path: path.to_owned(),
                after: after(),
            });
        }
        self.chain.truncate(keep + 1);
        name.clone_into(&mut self.chain[keep].1);
        if is_dir {
            if self.chain.len() as u64 > self.depth {
                return Err(Error::Limit {
                    what: "directories below one another",
                    limit: self.depth,
                });
            }
            self.chain.push((path.to_owned(), String::new()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(paths: &[&str]) -> Result<(), Error> {
        let mut order = Order::new(Limits {
            depth: 3,
            path: 20,
            ..Limits::default()
        });
        for path in paths {
            let dir = path.ends_with('/');
            order.next(path.trim_end_matches('/'), dir)?;
        }
        Ok(())
    }

    #[test]
    fn only_walk_order_passes() {
        for good in [
            &["a", "b", "c"][..],
            &["a/", "a/b", "a/c/", "a/c/d", "a-b", "a.b"],
            &["a/", "a/b/", "c/", "c/a"],
        ] {
            assert!(check(good).is_ok(), "{good:?}");
        }
        for bad in [
            &["b", "a"][..],
            &["a", "a"],
            &["a", "a/b"],
            &["a/b"],
            &["a/", "b", "a/c"],
            &["a/", "a/c", "a/b"],
            &["a/", "a-b", "a/b"],
            &["a/", "a/b/", "a/b/c/", "a/b/c/d/"],
            &["a/", "a/../b"],
            &["xxxxxxxxxxxxxxxxxxxxx"],
        ] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }
}
