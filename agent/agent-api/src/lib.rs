//! `kiln.agent.v1`, what BuildKit's API lacks, over the crates that do the work: conversions only.
//!
//! ```text
//! Builds ─ Cache ─ Images ─ Machine ──► AgentApi::add_to(routes) ──► the servers of BuildKit's API
//! ```
//!
//! One module per service: a struct that is built from the handles it needs, which `kilnd` gives, and the
//! conversions of its messages. A service that a daemon doesn't have isn't registered: clients get
//! `UNIMPLEMENTED`. One address serves both APIs.
//!
//! Invariants: wire types stop here; an error keeps its code, text and typed details; a call that the
//! client drops is dropped here.

mod builds;
mod cache;
mod images;
mod machine;

use kiln_errdefs::to_status;
use kiln_proto::agent::builds_server::BuildsServer;
use kiln_proto::agent::cache_server::CacheServer;
use kiln_proto::agent::images_server::ImagesServer;
use kiln_proto::agent::machine_server::MachineServer;
use tonic::Status;
use tonic::service::Routes;

pub use builds::BuildsService;
pub use cache::CacheService;
pub use images::ImagesService;
pub use machine::{
    Activity, Machine, MachineInfo, MachineService, MachineUse, Place, ShellCommand, ShellInput,
    ShellOutput, TerminalSize,
};

/// BuildKit's limit for messages, which is this API's too.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// The services of one daemon.
#[derive(Debug, Clone)]
pub struct AgentApi {
    /// `kiln.agent.v1.Builds`.
    pub builds: BuildsService,
    /// `kiln.agent.v1.Cache`.
    pub cache: CacheService,
    /// `kiln.agent.v1.Images`.
    pub images: ImagesService,
    /// `kiln.agent.v1.Machine`.
    pub machine: MachineService,
}

impl AgentApi {
    /// The routes with this API's services beside them.
    pub fn add_to(self, routes: Routes) -> Routes {
        let builds = BuildsServer::new(self.builds)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let images = ImagesServer::new(self.images)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        routes
            .add_service(builds)
            .add_service(images)
            .add_service(
                CacheServer::new(self.cache)
                    .max_decoding_message_size(MAX_MESSAGE)
                    .max_encoding_message_size(MAX_MESSAGE),
            )
            .add_service(MachineServer::new(self.machine).max_decoding_message_size(MAX_MESSAGE))
    }
}

/// The status of a failed call.
fn status(error: impl std::error::Error + 'static) -> Status {
    to_status(&error)
}
