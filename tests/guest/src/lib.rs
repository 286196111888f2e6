//! Boots the guest image in QEMU, and gives stock clients a socket to its engine.
//!
//! The image is that of `cargo xtask guest` (`target/guest/image`, or `$KILN_GUEST`). The processor is emulated, so
//! that the tests run everywhere; nothing here measures speed but for the times that a boot prints.
//!
//! Invariants: QEMU ends with its owner; every wait has a deadline and shows the end of the guest's console.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use kiln_client::{Address, Client};
use kiln_harness::{Service, until};
use kiln_link::machine::{COMMAND_LINE, DATA_DISK, LAST_WORDS, PORT, Report, Reports, Setup};
use kiln_link::{Link, Service as LinkService, connect_host};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;

/// An emulated processor that others use too is slow.
const BOOT: Duration = Duration::from_secs(240);
const END: Duration = Duration::from_secs(90);
const DISK: u64 = 8 << 30;

/// A running guest.
#[derive(Debug)]
pub struct Guest {
    qemu: Service,
    link: Link,
    reports: Reports,
    directory: PathBuf,
    runtime: Runtime,
    /// From QEMU's start to the handshake, and to the engine's answer.
    pub times: (Duration, Duration),
    /// What the guest said when it was ready.
    pub warnings: Vec<String>,
}

/// What became of a start.
#[derive(Debug)]
pub enum Start {
    /// The engine answers.
    Ready(Box<Guest>),
    /// The guest gave a reason and a hint.
    Failed(String, String),
}

impl Guest {
    /// Boots with the data disk of `directory`, which is made blank if there is none.
    pub fn boot(directory: &Path) -> Result<Self> {
        match Self::start(directory, &Setup::default())? {
            Start::Ready(guest) => Ok(*guest),
            Start::Failed(reason, _) => bail!("the guest failed: {reason}"),
        }
    }

    /// Boots, and waits until the guest is ready or says why it can't be.
    pub fn start(directory: &Path, setup: &Setup) -> Result<Start> {
        let disk = directory.join("data.raw");
        if !disk.exists() {
            File::create(&disk)?.set_len(DISK)?;
        }
        for socket in ["link.sock", "qmp.sock", "buildkitd.sock"] {
            // What isn't there needn't go.
            let _ = fs::remove_file(directory.join(socket));
        }
        let began = Instant::now();
        let mut qemu =
            Service::start("qemu", &mut command(directory)?, directory.join("qemu.log"))?;
        let socket = directory.join("link.sock");
        // The socket is there a moment before QEMU listens on it.
        let mut stream = None;
        qemu.wait_until("QEMU's socket", END, || {
            stream = StdUnixStream::connect(&socket).ok();
            stream.is_some()
        })?;
        let stream = stream.context("QEMU's socket")?;
        stream.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let started = runtime.block_on(async {
            let stream = UnixStream::from_std(stream)?;
            let (link, _incoming) = connect_host(stream, BOOT).await?;
            let hello = began.elapsed();
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
            let setup = Setup {
                unix_nanos: u64::try_from(now.as_nanos())?,
                ..setup.clone()
            };
            let mut reports = link.set_up(&setup).await?;
            let said = tokio::time::timeout(BOOT, last_of_start(&mut reports)).await??;
            Ok::<_, anyhow::Error>((link, hello, reports, said))
        });
        let (link, hello, reports, said) =
            started.with_context(|| format!("the console ends:\n{}", console(directory)))?;
        match said {
            Report::Ready { warnings, .. } => {
                let guest = Self {
                    qemu,
                    link,
                    reports,
                    directory: directory.to_owned(),
                    runtime,
                    times: (hello, began.elapsed()),
                    warnings,
                };
                guest.publish()?;
                Ok(Start::Ready(Box::new(guest)))
            }
            Report::Failed { reason, hint } => {
                qemu.wait_until("the guest's last words", END, || {
                    console(directory).contains(LAST_WORDS)
                })?;
                Ok(Start::Failed(reason, hint))
            }
            other => bail!("the guest said {other:?}"),
        }
    }

    /// The socket that leads to the guest's engine.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("buildkitd.sock")
    }

    /// Bytes of memory that QEMU takes.
    pub fn resident(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.qemu.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().next());
        Ok(kilobytes.context("VmRSS")?.parse::<u64>()? * 1024)
    }

    /// Does something with a client of the guest's engine.
    pub fn client<T>(&self, work: impl AsyncFnOnce(Client) -> Result<T>) -> Result<T> {
        let address: Address = format!("unix://{}", self.socket().display()).parse()?;
        self.runtime.block_on(async {
            let client = Client::connect(&address).await?;
            work(client).await
        })
    }

    /// Waits until the guest says that it ends, and has turned its machine off.
    pub fn wait_for_the_end(mut self) -> Result<()> {
        let reports = &mut self.reports;
        let said = self
            .runtime
            .block_on(async { tokio::time::timeout(END, reports.next()).await });
        ensure!(
            matches!(said, Ok(Ok(Some(Report::Stopping)))),
            "the guest said {said:?}"
        );
        let Self {
            mut qemu,
            directory,
            ..
        } = self;
        until("the machine is off", END, || {
            (!qemu.is_running()).then_some(())
        })?;
        let console = fs::read_to_string(directory.join("console.log"))?;
        ensure!(!console.contains(LAST_WORDS), "{console}");
        Ok(())
    }

    /// Presses the power button.
    pub fn press_power(&self) -> Result<()> {
        let mut qmp = StdUnixStream::connect(self.directory.join("qmp.sock"))?;
        qmp.set_read_timeout(Some(END))?;
        for command in ["qmp_capabilities", "system_powerdown"] {
            writeln!(qmp, "{{\"execute\":\"{command}\"}}")?;
        }
        // The answer to the second is the last of three messages.
        let mut answers = Vec::new();
        let mut buffer = [0; 4096];
        while String::from_utf8_lossy(&answers)
            .matches("\"return\"")
            .count()
            < 2
        {
            let read = qmp.read(&mut buffer)?;
            ensure!(read > 0, "QEMU hung up");
            answers.extend(&buffer[..read]);
        }
        Ok(())
    }

    /// The power fails.
    pub fn cut_power(self) -> Result<()> {
        self.qemu.kill()
    }

    /// Serves the link's streams on a socket.
    fn publish(&self) -> Result<()> {
        let _guard = self.runtime.enter();
        let listener = UnixListener::bind(self.socket())?;
        let link = self.link.clone();
        self.runtime.spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let link = link.clone();
                tokio::spawn(async move {
                    // A client whose stream doesn't open, or breaks, is hung up on.
                    if let Ok(mut stream) = link.open(LinkService::Buildkit).await {
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut stream).await;
                    }
                });
            }
        });
        Ok(())
    }
}

async fn last_of_start(reports: &mut Reports) -> Result<Report> {
    loop {
        match reports.next().await? {
            Some(Report::Starting { .. }) => {}
            Some(report) => return Ok(report),
            None => bail!("the guest left the link"),
        }
    }
}

fn command(directory: &Path) -> Result<Command> {
    let image = image()?;
    let path = |name: &str| directory.join(name).display().to_string();
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args([
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        "max",
        "-M",
        "q35",
        "-smp",
        "2",
        "-m",
        "1024",
    ])
    .args([
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
    ])
    .args(["-sandbox", "on"])
    .arg("-kernel")
    .arg(image.join("vmlinux"))
    .arg("-initrd")
    .arg(image.join("initrd.zst"))
    .args(["-append", &format!("{COMMAND_LINE} kiln.debug")])
    .args(["-serial", &format!("file:{}", path("console.log"))])
    .args(["-device", "virtio-serial-pci"])
    .args([
        "-chardev",
        &format!(
            "socket,id=link,path={},server=on,wait=off",
            path("link.sock")
        ),
    ])
    .args([
        "-device",
        &format!("virtserialport,chardev=link,name={PORT}"),
    ])
    .args([
        "-netdev",
        "user,id=n0",
        "-device",
        "virtio-net-pci,netdev=n0,romfile=",
    ])
    .args([
        "-drive",
        &format!(
            "if=none,id=d0,file={},format=raw,discard=unmap,detect-zeroes=unmap,cache=writeback",
            path("data.raw")
        ),
    ])
    .args([
        "-device",
        &format!("virtio-blk-pci,drive=d0,serial={DATA_DISK}"),
    ])
    .args(["-device", "virtio-rng-pci"])
    .args([
        "-device",
        "virtio-balloon-pci,free-page-reporting=on,deflate-on-oom=on",
    ])
    .args([
        "-qmp",
        &format!("unix:{},server=on,wait=off", path("qmp.sock")),
    ]);
    Ok(qemu)
}

fn image() -> Result<PathBuf> {
    let image = match std::env::var_os("KILN_GUEST") {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guest/image"),
    };
    ensure!(
        image.join("initrd.zst").exists(),
        "there is no guest image in {}: run `cargo xtask guest`",
        image.display()
    );
    Ok(image)
}

/// The end of the console of the guest whose files are in `directory`.
pub fn console(directory: &Path) -> String {
    let text = fs::read(directory.join("console.log")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(120)..].join("\n")
}
