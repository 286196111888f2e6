//! Leases: what must not be pruned though no record names it yet.
//!
//! They live in memory. After a restart nothing is under way, so what only a lease named is garbage.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

type Counts = Arc<Mutex<HashMap<String, usize>>>;

/// The leases of one root. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Leases(Counts);

/// Keeps resources from being pruned until it is dropped.
#[derive(Debug)]
pub struct Lease {
    counts: Counts,
    held: Mutex<Vec<String>>,
}

impl Leases {
    /// A lease that holds nothing yet.
    pub fn lease(&self) -> Lease {
        Lease {
            counts: Arc::clone(&self.0),
            held: Mutex::default(),
        }
    }

    /// Whether some lease holds `resource`.
    pub fn is_held(&self, resource: &str) -> bool {
        self.0.lock().contains_key(resource)
    }
}

impl Lease {
    /// Holds `resource` (a digest, a snapshot's id), also if another lease does.
    pub fn hold(&self, resource: impl Into<String>) {
        let resource = resource.into();
        *self.counts.lock().entry(resource.clone()).or_default() += 1;
        self.held.lock().push(resource);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut counts = self.counts.lock();
        for resource in self.held.get_mut().drain(..) {
            if let Some(count) = counts.get_mut(&resource) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&resource);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lease_releases() {
        let leases = Leases::default();
        let (one, two) = (leases.lease(), leases.lease());
        one.hold("a");
        one.hold("a");
        two.hold("a");
        drop(one);
        assert!(leases.is_held("a") && !leases.is_held("b"));
        drop(two);
        assert!(!leases.is_held("a"));
    }
}
