//! A virtual machine under QEMU.
//!
//! ```text
//! plan ─► accelerator ─► boot ─────► link ─────► set up ─────► ready
//!                          │ kvm, and no hello: kill, remember, boot again with tcg
//!                          ▼
//!                 QEMU connects to machine/{link,qmp}.sock, which the owner listens on:
//!                 nothing waits for a file to appear, and no third can come in between
//! ```
//! Invariants: the one owner of the link's socket is this driver, for the machine's whole life; a link that breaks takes the
//! machine along (there is no second life of a channel without connections); of what the guest says only bounded
//! text is shown and bounded streams are opened.

mod accelerator;
mod forward;
mod hang;
mod machine;
mod plan;
mod proxy;
mod qmp;
mod registry_files;
mod room;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use kiln_config::AcceleratorChoice;
use kiln_link::machine::{LAST_WORDS, Proxy, Report, Reports, Setup};
use kiln_link::{HandshakeError, Incoming, Link, LinkError, connect_host};
use tokio::net::UnixListener;
use tokio::time::timeout;

pub use self::accelerator::KvmHost;
use self::accelerator::{Accelerator, choose, remember};
use self::machine::{Running, Surroundings};
use self::plan::{Plan, Sockets};
use self::qmp::Qmp;
use super::native::user_certificates;
use super::{Driver, Facts, Machine, StartError, StartOrder, record_path};
use crate::child::{AtDeath, Child, Order, wait_for_leftover};
use crate::console::Console;
use crate::programs::QEMU_NAME;

/// QEMU itself is up at once.
const CONNECT_PATIENCE: Duration = Duration::from_secs(20);
/// Translation is slow, and the host may be busy.
pub const TCG_HELLO: Duration = Duration::from_secs(120);
/// The disk may have to be checked.
pub const ENGINE_READY: Duration = Duration::from_secs(300);
const LEFTOVER_PATIENCE: Duration = Duration::from_secs(5);
/// Of the guest's words.
const LONGEST_WORDS: usize = 2000;
const LINES: usize = 6;
/// How the kernel's own last words begin.
const PANIC: &str = "Kernel panic - not syncing: ";
/// Begins a life on the console.
const STARTING: &str = "the machine is starting";

/// Starts machines.
#[derive(Debug)]
pub struct Qemu {
    /// `kiln-vmd`, see `child`.
    pub own: PathBuf,
    /// The emulator, if it was found.
    pub qemu: Option<PathBuf>,
    /// The directory of the guest image, if it was found.
    pub guest: Option<PathBuf>,
    /// Where to look for virtualisation.
    pub kvm: KvmHost,
    /// How long the guest may take to say hello with hardware virtualisation.
    pub kvm_hello: Duration,
    /// How long it may take without: [`TCG_HELLO`].
    pub tcg_hello: Duration,
    /// How long the engine may take from then on: [`ENGINE_READY`].
    pub ready: Duration,
    /// How long a guest that runs may give no sign of life.
    pub silence: Duration,
}

/// An attempt that failed.
struct Failed {
    error: StartError,
    /// The guest never spoke.
    silent: bool,
}

/// What a guest that works has given.
struct Greeted {
    link: Link,
    incoming: Incoming,
    reports: Reports,
    qmp: Qmp,
    version: String,
    warnings: Vec<String>,
}

#[async_trait]
impl Driver for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    async fn start(&self, order: StartOrder) -> Result<Arc<dyn Machine>, StartError> {
        let qemu = self.qemu.as_deref().filter(|path| path.is_file());
        let qemu = qemu.ok_or_else(|| StartError::Missing {
            what: QEMU_NAME,
            fix: "install QEMU (Debian: apt install qemu-system-x86), name it by KILN_QEMU, or set driver = \"native\""
                .into(),
        })?;
        let guest = self.guest.as_deref().ok_or_else(|| StartError::Missing {
            what: "the guest image",
            fix: "make it with `cargo xtask guest`, or name its directory by KILN_GUEST".into(),
        })?;
        let mut plan = Plan::make(&order.settings, guest)?;
        wait_for_leftover(&record_path(&order.paths), LEFTOVER_PATIENCE).await;
        plan.prepare_disk(&order.paths)?;
        order.at("looking for hardware virtualisation");
        let choice = order.settings.accelerator;
        let verdicts = order.paths.verdicts();
        let accelerator = choose(choice, &self.kvm, &self.own, qemu, &verdicts).await;
        let may_fall_back = accelerator == Accelerator::Kvm && choice == AcceleratorChoice::Auto;
        let failed = match self.boot(&order, &plan, qemu, accelerator).await {
            Ok(machine) => return Ok(machine),
            Err(failed) => failed,
        };
        if !(failed.silent && may_fall_back) {
            return Err(failed.error);
        }
        let reason = format!("the machine never said hello with it: {}", failed.error);
        tracing::warn!(reason, "hardware virtualisation isn't used");
        remember(&verdicts, &reason);
        let tcg = Accelerator::Tcg { reason };
        let again = self.boot(&order, &plan, qemu, tcg).await;
        again.map_err(|failed| failed.error)
    }
}

impl Qemu {
    async fn boot(
        &self,
        order: &StartOrder,
        plan: &Plan,
        qemu: &Path,
        accelerator: Accelerator,
    ) -> Result<Arc<dyn Machine>, Failed> {
        let certain = |error| Failed {
            error,
            silent: false,
        };
        let setup = setup(order).map_err(certain)?;
        let directory = order.paths.machine_dir();
        let sockets = Sockets {
            link: directory.join("link.sock"),
            qmp: directory.join("qmp.sock"),
        };
        let link = listen(&sockets.link).map_err(certain)?;
        let control = listen(&sockets.qmp).map_err(certain)?;
        order.at(&format!("booting the machine ({})", accelerator.name()));
        order
            .console
            .note(&format!("{STARTING} ({})", accelerator.name()));
        let child = Child::start(Order {
            own: &self.own,
            program: qemu,
            arguments: plan.arguments(&accelerator, &order.paths, &sockets),
            environment: Vec::new(),
            at_death: AtDeath::Kill,
            console: order.console.clone(),
            record: record_path(&order.paths),
            patience: Duration::from_secs(3),
        })
        .map_err(|source| {
            certain(StartError::Spawn {
                program: qemu.to_owned(),
                source,
            })
        })?;
        let hello = match accelerator {
            Accelerator::Kvm => self.kvm_hello,
            Accelerator::Tcg { .. } => self.tcg_hello,
        };
        let heard = AtomicBool::new(false);
        let ended_early = |how| StartError::EndedEarly {
            program: "the machine",
            how,
            last_words: order.console.last_words(LINES),
        };
        let mut greeted = tokio::select! {
            greeted = greet(order, &setup, link, control, (hello, self.ready), &heard) => greeted,
            how = child.ended() => Err(ended_early(how)),
        };
        if matches!(greeted, Err(StartError::Link(_))) {
            // The connections end a moment before the process does, which says more.
            if let Ok(how) = timeout(Duration::from_secs(2), child.ended()).await {
                greeted = Err(ended_early(how));
            }
        }
        match greeted {
            Ok(greeted) => {
                let facts = Facts {
                    accelerator: accelerator.name().to_owned(),
                    accelerator_reason: accelerator.reason().to_owned(),
                    pid: child.pid(),
                    cpus: plan.cpus,
                    memory: plan.memory,
                    engine_version: greeted.version.clone(),
                    notices: notices(plan, &accelerator, &greeted),
                };
                let surroundings = Surroundings {
                    allowed: proxy::allowed(&order.settings),
                    silence: self.silence,
                    state: order.paths.state.clone(),
                    console: order.console.clone(),
                };
                let running = Running::new(child, greeted, facts, surroundings);
                Ok(Arc::new(running))
            }
            Err(error) => {
                child.kill().await;
                let error = match last_words(&order.console) {
                    Some(reason) => StartError::Guest { reason },
                    None => error,
                };
                let silent = !heard.load(Ordering::Relaxed);
                Err(Failed { error, silent })
            }
        }
    }
}

/// From QEMU's first connection to the engine's readiness; within so long to the first word, and to the last.
async fn greet(
    order: &StartOrder,
    setup: &Setup,
    link: UnixListener,
    control: UnixListener,
    (hello, ready): (Duration, Duration),
    heard: &AtomicBool,
) -> Result<Greeted, StartError> {
    let no_answer = |program, patience| StartError::NoAnswer {
        program,
        patience,
        last_words: order.console.last_words(LINES),
    };
    let accept = async { tokio::try_join!(link.accept(), control.accept()) };
    let patience = CONNECT_PATIENCE.min(hello);
    let ((link, _), (control, _)) = timeout(patience, accept)
        .await
        .map_err(|_| no_answer("QEMU", patience))?
        .map_err(|error| StartError::Link(error.to_string()))?;
    let qmp = Qmp::open(control)
        .await
        .map_err(|error| StartError::Link(error.to_string()))?;
    let connected = connect_host(link, hello).await;
    let (link, incoming) = connected.map_err(|error| match error {
        LinkError::Handshake(HandshakeError::Timeout(patience)) => {
            no_answer("the machine", patience)
        }
        error => broken(&error),
    })?;
    heard.store(true, Ordering::Relaxed);
    let setting_up = async {
        let mut reports = link.set_up(setup).await?;
        loop {
            match reports.next().await? {
                Some(Report::Starting { step }) => {
                    order.at(&format!("the machine starts: {}", shortened(&step)));
                }
                Some(Report::Ready { version, warnings }) => {
                    return Ok(Ok((reports, version, warnings)));
                }
                Some(Report::Failed { reason, hint }) => {
                    let reason = shortened(&format!("{reason} {hint}"));
                    return Ok(Err(StartError::Guest { reason }));
                }
                Some(Report::Stopping) | None => {
                    let reason = "it went down again".to_owned();
                    return Ok(Err(StartError::Guest { reason }));
                }
            }
        }
    };
    let greeted: Result<_, LinkError> = timeout(ready, setting_up)
        .await
        .map_err(|_| no_answer("the machine", ready))?;
    let (reports, version, warnings) = greeted.map_err(|error| broken(&error))??;
    Ok(Greeted {
        link,
        incoming,
        reports,
        qmp,
        version: shortened(&version).chars().take(64).collect(),
        warnings,
    })
}

/// What came over the link is not what a guest of ours says.
fn broken(error: &LinkError) -> StartError {
    use std::error::Error as _;
    if let LinkError::Handshake(HandshakeError::Version { .. }) = error {
        return StartError::Link(error.to_string());
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    StartError::Link(shortened(&format!(
        "the guest doesn't keep to the protocol ({text}): start it again, and if that doesn't help install the \
         guest image anew; `kiln logs` shows what it printed"
    )))
}

fn listen(path: &Path) -> Result<UnixListener, StartError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(StartError::io("remove", path)(error));
        }
        _ => {}
    }
    UnixListener::bind(path).map_err(StartError::io("bind", path))
}

/// What the guest is told once. The default network is that of QEMU, closed towards the host.
fn setup(order: &StartOrder) -> Result<Setup, StartError> {
    let settings = &order.settings;
    let certificates = user_certificates(&settings.ca_files)?;
    let (buildkitd_toml, registry_files) = registry_files::gather(&settings.buildkitd_toml)?;
    Ok(Setup {
        unix_nanos: unix_nanos(),
        proxy: Proxy {
            http: proxy::for_guest(&settings.proxy.http).0,
            https: proxy::for_guest(&settings.proxy.https).0,
            none_for: settings.proxy.no_proxy.clone(),
        },
        certificates: String::from_utf8_lossy(&certificates).into_owned(),
        buildkitd_toml,
        registry_files,
        forward: proxy::allowed(settings).into_iter().collect(),
        repair_disk: order.repair_disk,
        ..Setup::default()
    })
}

fn unix_nanos() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos() as u64)
}

fn notices(plan: &Plan, accelerator: &Accelerator, greeted: &Greeted) -> Vec<String> {
    let mut notices = plan.notices.clone();
    if !accelerator.reason().is_empty() {
        notices.push(format!(
            "the machine runs by translation and is slow: {}",
            accelerator.reason()
        ));
    }
    let warnings = greeted.warnings.iter().take(LINES);
    notices.extend(warnings.map(|warning| shortened(warning)));
    notices
}

/// The reason that the guest left on its console, of this start.
fn last_words(console: &Console) -> Option<String> {
    let text = console.last_words(usize::MAX);
    let (_, life) = text.rsplit_once(STARTING)?;
    [LAST_WORDS, PANIC].iter().find_map(|marker| {
        let (_, reason) = life.rsplit_once(marker)?;
        let line = reason.lines().next().unwrap_or_default();
        let whose = if *marker == PANIC { "its kernel: " } else { "" };
        Some(shortened(&format!("{whose}{line}")))
    })
}

/// The guest's words, as far as anybody reads.
fn shortened(text: &str) -> String {
    let printable = |c: &char| !c.is_control();
    text.chars().filter(printable).take(LONGEST_WORDS).collect()
}
