//! Sockets behind which are the client's ssh agents.

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use kiln_ids::SessionId;
use kiln_proto::pb;
use kiln_session::{Caller, SessionManager};
use kiln_sys::mount::{MountSpec, Mountable};
use tokio::net::UnixListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::Error;

/// The agent that is meant where none is named.
const DEFAULT: &str = "default";

/// Listens for as long as it lives.
#[derive(Debug)]
struct Socket {
    _stop: DropGuard,
    _directory: tempfile::TempDir,
}

fn id(options: &pb::SshOpt) -> &str {
    if options.id.is_empty() {
        DEFAULT
    } else {
        &options.id
    }
}

/// The client that forwards the agent; `None` where it is optional and nobody does.
pub(crate) async fn find(
    sessions: &SessionManager,
    ids: &[SessionId],
    options: &pb::SshOpt,
) -> Result<Option<Caller>, Error> {
    let id = id(options);
    let answer: Result<Caller, kiln_session::Error> = sessions
        .any(ids, async |caller| {
            caller.ssh_check(id).await.map(|()| caller)
        })
        .await;
    match answer {
        Ok(caller) => Ok(Some(caller)),
        Err(_) if options.optional => Ok(None),
        Err(kiln_session::Error::Unsupported { .. }) => Err(Error::NoAgent {
            id: options.id.clone(),
        }),
        Err(error) => Err(error.into()),
    }
}

/// A socket that forwards each of its connections to the client's agent.
pub(crate) fn mountable(
    caller: Caller,
    options: &pb::SshOpt,
    scratch: &Path,
) -> Result<Mountable, Error> {
    let failed = |source| Error::Io {
        doing: "failed to make an agent socket in",
        path: scratch.to_owned(),
        source,
    };
    let directory = tempfile::Builder::new()
        .prefix("ssh-")
        .tempdir_in(scratch)
        .map_err(failed)?;
    let path = directory.path().join("agent");
    let listener = listen(directory.path(), &path, options).map_err(failed)?;
    let stop = CancellationToken::new();
    tokio::spawn(serve(
        listener,
        caller,
        id(options).to_owned(),
        stop.clone(),
    ));
    let socket = Socket {
        _stop: stop.drop_guard(),
        _directory: directory,
    };
    Ok(Mountable::new(vec![MountSpec::bind(path, false)], socket))
}

fn listen(directory: &Path, path: &Path, options: &pb::SshOpt) -> io::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    // The name of a socket is at most 108 bytes long, which a state directory may exceed.
    let parent = std::fs::File::open(directory)?;
    let short = PathBuf::from(format!("/proc/self/fd/{}/agent", parent.as_raw_fd()));
    let listener = UnixListener::bind(short)?;
    std::os::unix::fs::chown(path, Some(options.uid), Some(options.gid))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(options.mode & 0o777))?;
    Ok(listener)
}

async fn serve(listener: UnixListener, caller: Caller, id: String, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let mut local = match accepted {
            Ok((local, _)) => local,
            Err(error) => {
                tracing::warn!(%error, "an agent socket stopped listening");
                return;
            }
        };
        let (caller, id, stop) = (caller.clone(), id.clone(), stop.clone());
        tokio::spawn(async move {
            let forward = async {
                let mut agent = caller.ssh_dial(&id)?;
                tokio::io::copy_bidirectional(&mut local, &mut agent).await?;
                Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
            };
            tokio::select! {
                () = stop.cancelled() => {}
                result = forward => if let Err(error) = result {
                    tracing::debug!(%error, "a connection to an agent ended");
                },
            }
        });
    }
}
