//! When a machine counts as idle.
//!
//! Busy is: a running build (as the engine says), an open connection to `buildkitd.sock`, bytes that move
//! on `agent.sock`. An engine that doesn't say what runs is busy while anybody is connected. The
//! time counts from the last of these; a changed setting counts at once.

use std::sync::Arc;
use std::time::Duration;

use kiln_config::{HostSettings, IdleStop};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::life::Engine;
use crate::traffic::Traffic;

/// Looks at one running machine.
#[derive(Debug)]
pub(crate) struct Idle {
    traffic: Arc<Traffic>,
    settings: watch::Receiver<HostSettings>,
    /// Busy, or since when it isn't.
    rest: parking_lot::Mutex<Rest>,
}

#[derive(Debug, Clone, Copy)]
enum Rest {
    Busy,
    Since(Instant),
}

impl Idle {
    pub(crate) fn new(traffic: Arc<Traffic>, settings: watch::Receiver<HostSettings>) -> Self {
        Self {
            traffic,
            settings,
            rest: parking_lot::Mutex::new(Rest::Since(Instant::now())),
        }
    }

    pub(crate) fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    fn limit(&self) -> Option<Duration> {
        match self.settings.borrow().idle_stop() {
            IdleStop::Never => None,
            IdleStop::After(limit) => Some(limit),
        }
    }

    fn is_busy(&self, engine: &Engine) -> bool {
        match engine.running_builds {
            Some(builds) => builds > 0 || self.traffic.builders() > 0,
            None => self.traffic.connections() > 0,
        }
    }

    /// When it would be stopped if nothing happened until then; `None` while it is busy, or never.
    pub(crate) fn deadline(&self, engine: &Engine) -> Option<Instant> {
        let limit = self.limit()?;
        let mut rest = self.rest.lock();
        if self.is_busy(engine) {
            *rest = Rest::Busy;
            return None;
        }
        let since = match *rest {
            Rest::Since(since) => since,
            Rest::Busy => Instant::now(),
        };
        *rest = Rest::Since(since);
        since.max(self.traffic.last_moved()).checked_add(limit)
    }

    pub(crate) fn is_idle(&self, engine: &Engine) -> bool {
        self.deadline(engine)
            .is_some_and(|deadline| deadline <= Instant::now())
    }

    /// Returns when the machine has been idle for long enough.
    pub(crate) async fn expired(&self, mut engine: watch::Receiver<Engine>) {
        let mut settings = self.settings.clone();
        loop {
            let deadline = self.deadline(&engine.borrow_and_update());
            let pause = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = pause => {
                    // Bytes may have moved meanwhile, which nobody is told of.
                    if self.is_idle(&engine.borrow()) {
                        return;
                    }
                }
                Ok(()) = engine.changed() => {}
                Ok(()) = settings.changed() => {}
                () = self.traffic.changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_link::Service;

    const MINUTE: Duration = Duration::from_secs(60);

    struct Bed {
        traffic: Arc<Traffic>,
        settings: watch::Sender<HostSettings>,
        engine: watch::Sender<Engine>,
        idle: Idle,
    }

    fn bed(builds: Option<u32>) -> Bed {
        let traffic = Traffic::new();
        let (settings, watched) = watch::channel(HostSettings {
            idle_stop: Some(IdleStop::After(MINUTE)),
            ..HostSettings::default()
        });
        let (engine, _) = watch::channel(Engine {
            running_builds: builds,
            ..Engine::default()
        });
        Bed {
            idle: Idle::new(Arc::clone(&traffic), watched),
            traffic,
            settings,
            engine,
        }
    }

    impl Bed {
        /// How long it takes, as the paused clock counts.
        async fn takes(&self, patience: Duration) -> Option<Duration> {
            let before = Instant::now();
            let expired = self.idle.expired(self.engine.subscribe());
            tokio::time::timeout(patience, expired).await.ok()?;
            Some(before.elapsed())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_happens_for_a_minute() {
        let took = bed(Some(0)).takes(MINUTE * 2).await.unwrap();
        assert!(took >= MINUTE && took < MINUTE + Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn builds_and_builders_keep_it_a_silent_window_does_not() {
        assert_eq!(bed(Some(1)).takes(MINUTE * 9).await, None);
        for (service, builds, kept) in [
            (Service::Buildkit, Some(0), true),
            (Service::Agent, Some(0), false),
            (Service::Agent, None, true),
        ] {
            let bed = bed(builds);
            let _open = bed.traffic.open(service);
            assert_eq!(bed.takes(MINUTE * 9).await.is_none(), kept, "{service:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_counts_from_the_end_of_what_was_there() {
        let bed = bed(Some(1));
        let open = bed.traffic.open(Service::Buildkit);
        assert_eq!(bed.takes(MINUTE * 5).await, None);
        drop(open);
        assert_eq!(bed.takes(MINUTE * 5).await, None);
        bed.engine
            .send_modify(|engine| engine.running_builds = Some(0));
        let took = bed.takes(MINUTE * 5).await.unwrap();
        assert!(
            took >= MINUTE.saturating_sub(Duration::from_secs(1)),
            "{took:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn never_is_never_until_the_setting_changes() {
        let bed = bed(Some(0));
        bed.settings
            .send_modify(|settings| settings.idle_stop = Some(IdleStop::Never));
        assert_eq!(bed.takes(MINUTE * 600).await, None);
        bed.settings
            .send_modify(|settings| settings.idle_stop = Some(IdleStop::After(MINUTE)));
        assert!(bed.takes(MINUTE).await.is_some());
    }
}
