//! A registry with connections, and a client of it with somebody's credentials.

use std::collections::BTreeMap;
use std::sync::Arc;

use kiln_config::RegistryConfig;
use kiln_oci::Reference;

use crate::auth::Authorizer;
use crate::hosts::{Endpoint, Hosts};
use crate::{Credentials, Result};

/// What the configuration says of registries, and the connections to them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Registry(Arc<Hosts>);

impl Registry {
    /// Takes `[registry."HOST"]` tables and how many downloads one host may serve at once (4 if absent). Files that
    /// the tables name are read when a host is first used.
    pub fn new(
        config: BTreeMap<String, RegistryConfig>,
        concurrency: Option<usize>,
    ) -> Result<Self> {
        Ok(Self(Arc::new(Hosts::new(config, concurrency)?)))
    }

    /// A client that speaks for the holder of `credentials`. Tokens are kept as long as the client and its clones.
    pub fn client(&self, credentials: Arc<dyn Credentials>) -> Client {
        Client(Arc::new(Inner {
            hosts: Arc::clone(&self.0),
            auth: Authorizer::new(credentials),
        }))
    }
}

/// A registry client with credentials. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    hosts: Arc<Hosts>,
    auth: Authorizer,
}

impl Client {
    pub(crate) fn hosts(&self) -> &Hosts {
        &self.0.hosts
    }

    pub(crate) fn auth(&self) -> &Authorizer {
        &self.0.auth
    }

    pub(crate) fn pull_endpoints(&self, reference: &Reference) -> Result<Vec<Endpoint>> {
        self.0.hosts.for_pull(reference)
    }

    pub(crate) fn push_endpoints(&self, reference: &Reference) -> Vec<Endpoint> {
        self.0.hosts.for_push(reference)
    }
}

/// The scope that an action on the reference's repository needs.
pub(crate) fn scope(reference: &Reference, actions: &str) -> String {
    format!("repository:{}:{actions}", reference.path())
}
