//! What the machine uses, for whoever looks at it.
//!
//! ```text
//!  listener ◄── processors, memory, disk ◄── every two seconds ── engine: time at work, memory, disk
//! ```
//! Invariants: nothing is asked while nobody listens; what a guest says is bounded by what it was given; the
//! connection doesn't count as a client's, so that looking keeps no machine awake.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, Stream};
use kiln_config::HostPaths;
use kiln_proto::agent::machine_client::MachineClient;
use kiln_proto::agent::{GetUseRequest, GetUseResponse};
use kiln_proto::host::{Disk, Use};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::Status as Refusal;
use tonic::transport::Channel;

use super::convert::host_allocated;
use crate::driver::{Facts, Machine};
use crate::life::{Status, engine_channel};

const INTERVAL: Duration = Duration::from_secs(2);
/// Between the first two looks, which the first message is made of.
const FIRST: Duration = Duration::from_millis(300);
const SHORTEST: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(10);

/// A look at the engine.
#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    used: GetUseResponse,
}

/// Whom to ask.
pub(super) struct Gauge {
    client: MachineClient<Channel>,
    facts: Facts,
    status: watch::Receiver<Status>,
    paths: HostPaths,
    last: Look,
}

impl Gauge {
    /// Looks at the machine for the first time.
    pub(super) async fn connect(
        machine: Arc<dyn Machine>,
        status: watch::Receiver<Status>,
        paths: HostPaths,
    ) -> Result<Self, Refusal> {
        let facts = machine.facts();
        let channel = engine_channel(machine)
            .await
            .map_err(|error| Refusal::unavailable(format!("the engine doesn't answer: {error}")))?;
        let mut client = MachineClient::new(channel);
        let last = look(&mut client).await?;
        Ok(Self {
            client,
            facts,
            status,
            paths,
            last,
        })
    }

    /// Ends with the machine.
    pub(super) fn watch(self, interval: u32) -> impl Stream<Item = Result<Use, Refusal>> + Send {
        let interval = match interval {
            0 => INTERVAL,
            given => Duration::from_millis(given.into()).max(SHORTEST),
        };
        stream::unfold((self, FIRST), move |(mut gauge, wait)| async move {
            sleep_until(gauge.last.at + wait).await;
            // An engine that doesn't answer any more is told by the status.
            let now = look(&mut gauge.client).await.ok()?;
            let before = std::mem::replace(&mut gauge.last, now);
            let reclaimable = gauge.status.borrow().disk.reclaimable;
            let mut told = between(before, now, &gauge.facts);
            if let Some(disk) = &mut told.disk {
                disk.reclaimable = reclaimable.min(disk.used);
                disk.host_allocated = host_allocated(&gauge.paths);
            }
            Some((Ok(told), (gauge, interval)))
        })
    }
}

async fn look(client: &mut MachineClient<Channel>) -> Result<Look, Refusal> {
    let answer = timeout(PATIENCE, client.get_use(GetUseRequest {})).await;
    let answer =
        answer.map_err(|_| Refusal::deadline_exceeded("the engine doesn't say what it uses"))??;
    Ok(Look {
        at: Instant::now(),
        used: answer.into_inner(),
    })
}

/// What was used between two looks, as far as that can be.
fn between(before: Look, now: Look, facts: &Facts) -> Use {
    let total = i64::try_from(facts.memory).unwrap_or(i64::MAX);
    let elapsed = now.at.duration_since(before.at).as_micros().max(1) as f64;
    let worked = now
        .used
        .cpu_microseconds
        .saturating_sub(before.used.cpu_microseconds);
    let disk_total = now.used.disk_total.max(0);
    Use {
        busy_cpus: (worked as f64 / elapsed).clamp(0.0, facts.cpus.into()),
        cpus: facts.cpus,
        memory_used: now.used.memory_used.clamp(0, total),
        memory_total: total,
        disk: Some(Disk {
            total: disk_total,
            used: now.used.disk_used.clamp(0, disk_total),
            ..Disk::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn use_is_a_difference_and_never_more_than_there_is() {
        let at = Instant::now();
        let facts = Facts {
            cpus: 4,
            memory: 1000,
            ..Facts::default()
        };
        let look = |seconds, cpu_microseconds, memory_used, disk_used| Look {
            at: at + Duration::from_secs(seconds),
            used: GetUseResponse {
                cpu_microseconds,
                memory_used,
                disk_total: 50,
                disk_used,
            },
        };
        for (worked, memory, disk, busy, want_memory, want_disk) in [
            (3_000_000, 400, 20, 1.5, 400, 20),
            // Steps that ended and weren't waited for take their time with them.
            (-5, 400, 20, 0.0, 400, 20),
            (i64::MAX, i64::MAX, i64::MAX, 4.0, 1000, 50),
            (0, -1, -1, 0.0, 0, 0),
        ] {
            let told = between(look(0, 0, 0, 0), look(2, worked, memory, disk), &facts);
            assert!((told.busy_cpus - busy).abs() < 1e-9, "{told:?}");
            assert_eq!(
                (told.cpus, told.memory_used, told.memory_total),
                (4, want_memory, 1000)
            );
            assert_eq!(told.disk.map(|disk| disk.used), Some(want_disk));
        }
    }
}
