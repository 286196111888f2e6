//! The worker's name, labels and platforms.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::Context as _;
use kiln_engine::{GcPolicy, Worker};
use kiln_oci::Platform;

use crate::platforms;
use crate::settings::{NetworkMode, Settings};

/// The BuildKit version whose API is served: clients compare it to know what they may ask for.
const BUILDKIT_API: &str = "v0.29.0";

/// The file under the root that holds the worker's name.
const ID_FILE: &str = "workerid";

/// The worker of this daemon.
pub(crate) fn describe(settings: &Settings, gc: Vec<GcPolicy>) -> anyhow::Result<Worker> {
    const PREFIX: &str = "org.mobyproject.buildkit.worker";
    let hostname = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let network = match settings.network {
        NetworkMode::Auto | NetworkMode::Host => "host",
        NetworkMode::Bridge => "bridge",
        NetworkMode::None => "none",
    };
    let mut labels: std::collections::BTreeMap<String, String> = [
        ("executor", "oci"),
        ("hostname", hostname.as_str()),
        ("network", network),
        ("snapshotter", "overlayfs"),
        ("oci.process-mode", "sandbox"),
        ("selinux.enabled", "false"),
    ]
    .into_iter()
    .map(|(name, value)| (format!("{PREFIX}.{name}"), value.to_owned()))
    .collect();
    labels.extend(settings.labels.clone());
    let platforms = if settings.platforms.is_empty() {
        platforms::available()
    } else {
        settings
            .platforms
            .iter()
            .map(|text| {
                text.parse::<Platform>()
                    .with_context(|| format!("platform {text:?}"))
            })
            .collect::<anyhow::Result<_>>()?
    };
    Ok(Worker {
        id: worker_id(&settings.root)?,
        labels,
        platforms,
        gc,
        version: format!("{BUILDKIT_API}+kiln.{}", env!("CARGO_PKG_VERSION")),
        revision: option_env!("KILN_REVISION").unwrap_or_default().to_owned(),
    })
}

/// Says that snapshots are no layers, by the name that BuildKit has for that.
pub(crate) fn says_copies(worker: &mut Worker) {
    const LABEL: &str = "org.mobyproject.buildkit.worker.snapshotter";
    worker.labels.insert(LABEL.to_owned(), "native".to_owned());
}

/// Says where steps reach the host, by the label that clients look for.
pub(crate) fn add_host_gateway(worker: &mut Worker, address: Ipv4Addr) {
    const LABEL: &str = "org.mobyproject.buildkit.worker.moby.host-gateway-ip";
    worker.labels.insert(LABEL.to_owned(), address.to_string());
}

/// Made at the first start, and kept.
fn worker_id(root: &Path) -> anyhow::Result<String> {
    let path = root.join(ID_FILE);
    match std::fs::read_to_string(&path) {
        Ok(id) if !id.trim().is_empty() => return Ok(id.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    }
    let mut random = [0_u8; 15];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    let id: String = random
        .iter()
        .map(|byte| char::from_digit(u32::from(byte % 36), 36).unwrap_or('0'))
        .collect();
    std::fs::write(&path, &id).with_context(|| path.display().to_string())?;
    Ok(id)
}
