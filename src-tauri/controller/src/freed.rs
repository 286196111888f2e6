//! What a clean-up gave back to this computer, beside what the engine says that it removed.
//!
//! ```text
//! STATE/freed.json    {"ID@STARTED": bytes, …}    of the machine's last runs that this app asked for
//! ```
//! Of a virtual machine it is the blocks that the disk's file let go, of the native engine the bytes that its file
//! system has more.
//!
//! Invariants: it is measured and never reckoned; where nothing was measured, nothing is said.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use kiln_client::host::Status;
use kiln_config::HostPaths;

use crate::view::GcRun;
use crate::{Controller, Failure};

/// The engine's log is as long.
const KEPT: usize = 500;
/// Files go a little later than the records that had them.
const LOOKS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(200);

/// The notes of past runs.
#[derive(Debug)]
struct Notes {
    file: PathBuf,
}

impl Notes {
    fn new(paths: &HostPaths) -> Self {
        Self {
            file: paths.state.join("freed.json"),
        }
    }

    /// A machine that was reset counts its runs anew.
    fn name(run: &GcRun) -> String {
        format!("{}@{}", run.id, run.started)
    }

    fn read(&self) -> BTreeMap<String, i64> {
        let text = std::fs::read(&self.file).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    fn keep(&self, run: &GcRun, bytes: i64) -> std::io::Result<()> {
        let started = |name: &str| name.rsplit('@').next().and_then(|text| text.parse().ok());
        let mut all = self.read();
        all.insert(Self::name(run), bytes);
        while all.len() > KEPT {
            let oldest = all.keys().min_by_key(|name| started(name).unwrap_or(0_i64));
            let Some(oldest) = oldest.cloned() else { break };
            all.remove(&oldest);
        }
        if let Some(directory) = self.file.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let new = self.file.with_extension("new");
        std::fs::write(&new, serde_json::to_vec(&all)?)?;
        std::fs::rename(&new, &self.file)
    }
}

/// What of this computer's disk the machine has; none where nobody knows.
fn held(status: &Status) -> Option<i64> {
    let disk = status.disk.as_ref()?;
    let held = match status.driver.as_str() {
        "native" => disk.used,
        _ => disk.host_allocated,
    };
    (held > 0).then_some(held)
}

impl Controller {
    async fn held_now(&self) -> Option<i64> {
        held(&self.host().await.ok()?.status().await.ok()?)
    }

    /// Does a clean-up of the machine, and says what this computer got of it.
    pub(crate) async fn measured<F>(&self, work: F) -> Result<GcRun, Failure>
    where
        F: Future<Output = Result<GcRun, Failure>>,
    {
        let before = match self.builder_in_use() {
            Some(_) => None,
            None => self.held_now().await,
        };
        let mut run = work.await?;
        let Some(before) = before else {
            return Ok(run);
        };
        // A guest gives free blocks back by itself, but not before its answer. The disk below a native engine is this
        // computer's own.
        if self.machine().driver != "native"
            && let Ok(client) = self.engine().await
            && let Err(error) = client.machine().trim().await
        {
            tracing::debug!(%error, "nothing was trimmed");
        }
        let mut freed = 0;
        for look in 0..LOOKS {
            if look > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            let Some(now) = self.held_now().await else {
                break;
            };
            freed = freed.max(before - now);
            if freed >= run.bytes {
                break;
            }
        }
        run.host_bytes = Some(freed);
        if let Err(error) = Notes::new(self.paths()).keep(&run, freed) {
            tracing::warn!(%error, "what the clean-up gave back isn't noted");
        }
        Ok(run)
    }

    /// Adds what was measured to runs of the machine.
    pub(crate) fn with_freed(&self, mut runs: Vec<GcRun>) -> Vec<GcRun> {
        if self.builder_in_use().is_none() {
            let known = Notes::new(self.paths()).read();
            for run in &mut runs {
                run.host_bytes = known.get(&Notes::name(run)).copied();
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_host::FakeHost;
    use kiln_client::host::Disk;

    fn run(id: &str, bytes: i64) -> GcRun {
        GcRun {
            id: id.into(),
            started: 5,
            bytes,
            ..GcRun::default()
        }
    }

    #[tokio::test]
    async fn a_run_says_what_this_computer_got_back_and_so_does_the_log() {
        for (driver, other) in [("qemu", "used"), ("native", "host_allocated")] {
            let host = FakeHost::default();
            let disk = |held: i64| Disk {
                used: if driver == "native" { held } else { 7 },
                host_allocated: if driver == "native" { 0 } else { held },
                ..Disk::default()
            };
            *host.status.lock().unwrap() = Status {
                driver: driver.into(),
                disk: Some(disk(1000)),
                ..Status::default()
            };
            let (_directory, controller) = host.serve();
            let status = std::sync::Arc::clone(&host.status);
            let work = async move {
                status.lock().unwrap().disk = Some(disk(400));
                Ok(run("1", 600))
            };
            let done = controller.measured(work).await.unwrap();
            assert_eq!(done.host_bytes, Some(600), "{driver}, not {other}");
            let log = controller.with_freed(vec![run("1", 600), run("2", 1)]);
            let told: Vec<Option<i64>> = log.iter().map(|run| run.host_bytes).collect();
            assert_eq!(told, [Some(600), None]);
        }
    }

    #[tokio::test]
    async fn nothing_is_said_where_nothing_is_known() {
        let (_directory, controller) = FakeHost::default().serve();
        let done = controller.measured(async { Ok(run("1", 600)) }).await;
        assert_eq!(done.unwrap().host_bytes, None);
    }

    #[test]
    fn the_oldest_notes_go() {
        let directory = tempfile::tempdir().unwrap();
        let notes = Notes {
            file: directory.path().join("freed.json"),
        };
        let many: BTreeMap<String, i64> = (0..KEPT as i64)
            .map(|n| (format!("{n}@{}", n + 10), n))
            .collect();
        std::fs::write(&notes.file, serde_json::to_vec(&many).unwrap()).unwrap();
        notes
            .keep(
                &GcRun {
                    started: 9_999,
                    ..run("x", 1)
                },
                3,
            )
            .unwrap();
        let kept = notes.read();
        assert_eq!(kept.len(), KEPT);
        assert_eq!((kept.get("0@10"), kept.get("x@9999")), (None, Some(&3)));
    }
}
