//! The client's ssh agents.

use std::time::Duration;

use kiln_filesync::MessageIo;
use kiln_proto::moby::sshforward::v1::CheckAgentRequest;
use kiln_proto::moby::sshforward::v1::ssh_client::SshClient;
use tonic::metadata::MetadataMap;

use crate::calls::files::metadata_value;
use crate::connection::origin;
use crate::{Caller, Error};

const CHECK: &str = "/moby.sshforward.v1.SSH/CheckAgent";
const FORWARD: &str = "/moby.sshforward.v1.SSH/ForwardAgent";
const TIMEOUT: Duration = Duration::from_mins(1);

impl Caller {
    /// Whether the client forwards an agent of this id (`default` is the usual one).
    pub async fn ssh_check(&self, id: &str) -> Result<(), Error> {
        self.require(CHECK)?;
        let mut client = SshClient::with_origin(self.connection().clone(), origin());
        let request = CheckAgentRequest { id: id.to_owned() };
        self.unary(CHECK, TIMEOUT, client.check_agent(request))
            .await
            .map(drop)
    }

    /// A connection to the agent. Each connection to an agent's socket in a step takes one.
    pub fn ssh_dial(&self, id: &str) -> Result<MessageIo, Error> {
        let mut metadata = MetadataMap::new();
        metadata.insert("buildkit.ssh.id", metadata_value(id)?);
        let (sender, answers) = self.connection().bytes(FORWARD, metadata);
        Ok(MessageIo::new(answers, sender))
    }
}
