//! Calls of `kiln.agent.v1.Machine`. A real `buildkitd` answers them with `UNIMPLEMENTED`.

use futures::{Stream, StreamExt as _};
use kiln_filesync::grpc::MAX_MESSAGE;
use kiln_proto::agent as api;
use kiln_proto::agent::machine_client::MachineClient as Generated;
use tonic::transport::Channel;

use crate::{Client, Error};

pub use kiln_proto::agent::{Activity, GetInfoResponse as MachineInfo};

/// The machine that a daemon runs on. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MachineClient {
    calls: Generated<Channel>,
}

impl Client {
    /// The machine that the daemon runs on.
    pub fn machine(&self) -> MachineClient {
        MachineClient {
            calls: Generated::new(self.channel())
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
        }
    }
}

impl MachineClient {
    /// The generated client, for calls that aren't wrapped here.
    pub fn calls(&self) -> Generated<Channel> {
        self.calls.clone()
    }

    /// How it is.
    pub async fn info(&self) -> Result<MachineInfo, Error> {
        let info = self.calls().get_info(api::GetInfoRequest {}).await?;
        Ok(info.into_inner())
    }

    /// Sets its clock.
    pub async fn set_clock(&self, now: std::time::SystemTime) -> Result<(), Error> {
        let now = Some(now.into());
        self.calls().set_clock(api::SetClockRequest { now }).await?;
        Ok(())
    }

    /// Gives free blocks of its disk back to the host; returns the bytes.
    pub async fn trim(&self) -> Result<i64, Error> {
        let trimmed = self.calls().trim(api::TrimRequest {}).await?;
        Ok(trimmed.into_inner().trimmed_bytes)
    }

    /// Has its file system take the whole disk; returns the bytes.
    pub async fn grow_disk(&self) -> Result<i64, Error> {
        let grown = self.calls().grow_disk(api::GrowDiskRequest {}).await?;
        Ok(grown.into_inner().disk_total)
    }

    /// Ends its work and powers it off.
    pub async fn shut_down(&self) -> Result<(), Error> {
        self.calls().shutdown(api::ShutdownRequest {}).await?;
        Ok(())
    }

    /// What goes on, now and with each change.
    pub async fn watch_activity(
        &self,
    ) -> Result<impl Stream<Item = Result<Activity, Error>> + use<>, Error> {
        let changes = self
            .calls()
            .watch_activity(api::WatchActivityRequest {})
            .await?;
        Ok(changes
            .into_inner()
            .map(|change| change.map_err(Error::from)))
    }
}
