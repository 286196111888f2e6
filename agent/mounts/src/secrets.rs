//! Secrets in memory: a file system that is never swapped, for as long as the step runs.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use kiln_ids::SessionId;
use kiln_proto::pb;
use kiln_session::SessionManager;
use kiln_sys::mount::{MountError, MountSpec, Mountable, TempMount};

use crate::Error;

/// Asks the clients for a secret; `None` where it is optional and nobody has it.
pub(crate) async fn fetch(
    sessions: &SessionManager,
    ids: &[SessionId],
    id: &str,
    optional: bool,
) -> Result<Option<Bytes>, Error> {
    let answer: Result<Bytes, kiln_session::Error> = sessions
        .any(ids, async |caller| caller.secret(id).await)
        .await;
    match answer {
        Ok(bytes) => Ok(Some(bytes)),
        Err(kiln_session::Error::NoSecret { .. }) if optional => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Environment variables whose values are secrets.
pub(crate) async fn environment(
    sessions: &SessionManager,
    ids: &[SessionId],
    wanted: &[pb::SecretEnv],
) -> Result<Vec<String>, Error> {
    let mut out = Vec::with_capacity(wanted.len());
    for variable in wanted {
        if variable.id.is_empty() {
            return Err(Error::NoSecretEnvId {
                variable: variable.name.clone(),
            });
        }
        let value = fetch(sessions, ids, &variable.id, variable.optional).await?;
        let value = value.unwrap_or_default();
        out.push(format!(
            "{}={}",
            variable.name,
            String::from_utf8_lossy(&value)
        ));
    }
    Ok(out)
}

/// A secret as a file, readable by its owner only unless the mode says otherwise. Blocks.
pub(crate) fn mountable(
    data: &[u8],
    options: &pb::SecretOpt,
    scratch: &Path,
) -> Result<Mountable, Error> {
    let mut flags = vec!["nodev".to_owned(), "nosuid".to_owned()];
    if options.mode & 0o111 == 0 {
        flags.push("noexec".to_owned());
    }
    let mount = memory(&flags, scratch)?;
    let file = mount.path().join("secret");
    write(&file, data, options).map_err(|source| Error::Io {
        doing: "failed to write",
        path: PathBuf::from("a secret"),
        source,
    })?;
    let mut bind = MountSpec::bind(file, true);
    bind.options.extend(flags);
    Ok(Mountable::new(vec![bind], Arc::new(mount)))
}

fn memory(flags: &[String], scratch: &Path) -> Result<TempMount, Error> {
    let tmpfs = |more: &[&str]| MountSpec {
        fstype: "tmpfs".into(),
        source: "tmpfs".into(),
        options: flags
            .iter()
            .cloned()
            .chain(more.iter().map(|&o| o.to_owned()))
            .collect(),
    };
    let failed = |source| Error::Mount {
        target: scratch.to_owned(),
        source,
    };
    match TempMount::new(&[tmpfs(&["mode=0711", "noswap"])], scratch) {
        // Kernels before 6.4 don't have it.
        Err(MountError::Option { option, .. }) if option == "noswap" => {
            TempMount::new(&[tmpfs(&["mode=0711"])], scratch).map_err(failed)
        }
        other => other.map_err(failed),
    }
}

fn write(path: &Path, data: &[u8], options: &pb::SecretOpt) -> io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(data)?;
    fchown(&file, Some(options.uid), Some(options.gid))?;
    file.set_permissions(std::fs::Permissions::from_mode(options.mode & 0o777))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_secret_is_a_file_in_memory_that_goes_with_its_handle() {
        let dir = tempfile::tempdir().unwrap();
        let options = pb::SecretOpt {
            id: "s".into(),
            uid: 3,
            gid: 4,
            mode: 0o400,
            optional: false,
        };
        let mountable = mountable(b"token", &options, dir.path()).unwrap();
        let source = mountable.specs[0].source.clone();
        let meta = std::fs::metadata(&source).unwrap();
        assert_eq!(
            (meta.uid(), meta.gid(), meta.mode() & 0o7777),
            (3, 4, 0o400)
        );
        assert_eq!(std::fs::read(&source).unwrap(), b"token");
        let shown = TempMount::new(&mountable.specs, dir.path());
        // A file can't be mounted on a directory, so this only shows that nothing else happened.
        assert!(shown.is_err());
        drop(mountable);
        assert!(!source.exists());
        assert!(
            kiln_sys::mount::mounts_below(dir.path())
                .unwrap()
                .is_empty()
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
