//! The policies in force: those of the configuration, or others in their place until the next start.

use std::sync::Arc;

use parking_lot::RwLock;

use crate::Policy;

/// The policies of one collector.
#[derive(Debug, Default)]
pub(crate) struct Policies {
    configured: RwLock<InForce>,
    instead: RwLock<Option<Arc<[Policy]>>>,
}

/// Policies that runs follow.
#[derive(Debug, Clone, Default)]
pub struct InForce {
    /// One after the other. Empty: nothing is collected by itself.
    pub policies: Arc<[Policy]>,
    /// They are the defaults, worked out for the disk, and nobody's choice.
    pub are_default: bool,
}

impl Policies {
    pub(crate) fn configure(&self, configured: InForce) {
        *self.configured.write() = configured;
    }

    /// Others from now on; with none, those of the configuration.
    pub(crate) fn replace(&self, policies: Vec<Policy>) {
        *self.instead.write() = (!policies.is_empty()).then(|| policies.into());
    }

    pub(crate) fn in_force(&self) -> InForce {
        match &*self.instead.read() {
            Some(policies) => InForce {
                policies: Arc::clone(policies),
                are_default: false,
            },
            None => self.configured.read().clone(),
        }
    }
}
