//! Joins calls to the build they name, whoever comes first.
//!
//! A client starts its Solve, its Status and its first gateway call at the same time, so a look-up
//! waits for the build to be registered. Each name has a slot that a waiter or the build makes;
//! waiting ends with the registration, or with the caller's patience.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kiln_ids::BuildRef;
use tokio::sync::watch;

use crate::Forwarder;

/// What belongs to running builds, by their reference. Cheap to clone.
pub struct Rendezvous<T> {
    slots: Arc<Mutex<HashMap<BuildRef, watch::Sender<Option<T>>>>>,
}

/// Builds whose frontend runs at the client.
pub type Registrar = Rendezvous<Arc<Forwarder>>;

impl<T> Clone for Rendezvous<T> {
    fn clone(&self) -> Self {
        Self {
            slots: Arc::clone(&self.slots),
        }
    }
}

impl<T> Default for Rendezvous<T> {
    fn default() -> Self {
        Self {
            slots: Arc::default(),
        }
    }
}

impl<T> std::fmt::Debug for Rendezvous<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rendezvous")
    }
}

impl<T: Clone> Rendezvous<T> {
    /// Makes the build known until the registration is dropped. `None` if it is known already.
    pub fn register(&self, build: BuildRef, value: T) -> Option<Registration<T>> {
        let mut slots = self.lock();
        let slot = slots
            .entry(build.clone())
            .or_insert_with(|| watch::channel(None).0);
        if slot.borrow().is_some() {
            return None;
        }
        slot.send_replace(Some(value));
        drop(slots);
        Some(Registration {
            rendezvous: self.clone(),
            build,
        })
    }

    /// What the build registered; waits for it no longer than `patience`.
    pub async fn get(&self, build: &BuildRef, patience: Duration) -> Option<T> {
        self.wait_for(build).within(patience).await
    }

    /// Begins to wait: a registration from now on isn't missed, whatever is done in between.
    pub fn wait_for(&self, build: &BuildRef) -> Waiter<T> {
        let slot = self
            .lock()
            .entry(build.clone())
            .or_insert_with(|| watch::channel(None).0)
            .subscribe();
        Waiter {
            rendezvous: self.clone(),
            build: build.clone(),
            slot: Some(slot),
        }
    }

    /// Everything that is registered.
    pub fn all(&self) -> Vec<(BuildRef, T)> {
        self.lock()
            .iter()
            .filter_map(|(build, slot)| Some((build.clone(), slot.borrow().clone()?)))
            .collect()
    }
}

impl<T> Rendezvous<T> {
    /// Changes under the lock are single map operations, so a poisoned map is whole.
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<BuildRef, watch::Sender<Option<T>>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for a build.
#[derive(Debug)]
pub struct Waiter<T> {
    rendezvous: Rendezvous<T>,
    build: BuildRef,
    slot: Option<watch::Receiver<Option<T>>>,
}

impl<T: Clone> Waiter<T> {
    /// What the build has registered by now.
    pub fn now(&self) -> Option<T> {
        self.slot.as_ref()?.borrow().clone()
    }

    /// What the build registers within `patience`.
    pub async fn within(mut self, patience: Duration) -> Option<T> {
        let slot = self.slot.as_mut()?;
        tokio::time::timeout(patience, slot.wait_for(Option::is_some))
            .await
            .ok()
            .and_then(Result::ok)
            .and_then(|value| value.clone())
    }
}

impl<T> Drop for Waiter<T> {
    fn drop(&mut self) {
        self.slot = None;
        // The last waiter for a build that isn't there takes the empty slot away.
        let mut slots = self.rendezvous.lock();
        if slots
            .get(&self.build)
            .is_some_and(|slot| slot.borrow().is_none() && slot.receiver_count() == 0)
        {
            slots.remove(&self.build);
        }
    }
}

/// Keeps a build known.
#[derive(Debug)]
pub struct Registration<T> {
    rendezvous: Rendezvous<T>,
    build: BuildRef,
}

impl<T> Drop for Registration<T> {
    fn drop(&mut self) {
        self.rendezvous.lock().remove(&self.build);
    }
}
