//! What runs the machine's code: the kernel's virtualisation where it truly works, else translation.
//!
//! ```text
//! settings say so ─► that one
//! a remembered verdict of this kernel ─► tcg, with its reason
//! /dev/kvm opens? the processor virtualises? ─► the probe: QEMU runs a real vCPU ─► kvm
//! ```
//! A `/dev/kvm` that exists proves nothing: one made in software creates machines and then fails or crawls. The
//! probe is a kernel of 200 bytes that enters long mode, counts to 100,000 and says by its exit status
//! whether that took less than 100 million cycles (on hardware: 0.1 million). What passes that and still never says
//! hello is found out by the start itself, which remembers the verdict here.
//!
//! Invariant: a verdict holds for the kernel that it was found on, and for a week.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kiln_config::AcceleratorChoice;
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::time::timeout;

use crate::child;

/// QEMU's own start is most of it.
const PROBE_PATIENCE: Duration = Duration::from_secs(5);
const WEEK: u64 = 7 * 24 * 3600;

/// The probe's ways to end, as QEMU's debug exit turns them into statuses.
const FAST: i32 = (0x20 << 1) | 1;
const SLOW: i32 = (0x21 << 1) | 1;

/// A multiboot image at 1 MiB; its source, in GNU assembler's words:
///
/// ```text
/// header:  .long 0x1BADB002, 0x10000, checksum, 0x100000, 0x100000, 0, 0, 0x100020
/// entry:   movl $0x2003,0x1000; movl $0x3003,0x2000; movl $0x83,0x3000   # 2 MiB, one to one
///          mov $0x1000,%eax; mov %eax,%cr3                               # page tables
///          mov %cr4,%eax; or $0x20,%eax; mov %eax,%cr4                   # PAE
///          mov $0xC0000080,%ecx; rdmsr; or $0x100,%eax; wrmsr            # long mode
///          mov %cr0,%eax; or $0x80000000,%eax; mov %eax,%cr0             # paging
///          lgdt gdtr; ljmp $8,$1f
/// 1:       rdtsc (to %rsi); mov $100000,%ecx; 2: dec %ecx; jnz 2b; rdtsc (less %rsi, to %rdx)
///          mov $0x20,%eax; cmp $100000000,%rdx; jb 3f; mov $0x21,%eax
/// 3:       mov $0xf4,%edx; out %eax,%dx; 4: hlt; jmp 4b
/// gdt:     .quad 0, 0x00209A0000000000; gdtr: .word 15; .long gdt
/// ```
#[rustfmt::skip]
const PROBE: [u8; 206] = [
    0x02, 0xb0, 0xad, 0x1b, 0x00, 0x00, 0x01, 0x00, 0xfe, 0x4f, 0x51, 0xe4, 0x00, 0x00, 0x10, 0x00,
    0x00, 0x00, 0x10, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x20, 0x00, 0x10, 0x00,
    0xc7, 0x05, 0x00, 0x10, 0x00, 0x00, 0x03, 0x20, 0x00, 0x00, 0xc7, 0x05, 0x00, 0x20, 0x00, 0x00,
    0x03, 0x30, 0x00, 0x00, 0xc7, 0x05, 0x00, 0x30, 0x00, 0x00, 0x83, 0x00, 0x00, 0x00, 0xb8, 0x00,
    0x10, 0x00, 0x00, 0x0f, 0x22, 0xd8, 0x0f, 0x20, 0xe0, 0x83, 0xc8, 0x20, 0x0f, 0x22, 0xe0, 0xb9,
    0x80, 0x00, 0x00, 0xc0, 0x0f, 0x32, 0x0d, 0x00, 0x01, 0x00, 0x00, 0x0f, 0x30, 0x0f, 0x20, 0xc0,
    0x0d, 0x00, 0x00, 0x00, 0x80, 0x0f, 0x22, 0xc0, 0x0f, 0x01, 0x15, 0xc8, 0x00, 0x10, 0x00, 0xea,
    0x76, 0x00, 0x10, 0x00, 0x08, 0x00, 0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xc2, 0x48,
    0x89, 0xd6, 0xb9, 0xa0, 0x86, 0x01, 0x00, 0xff, 0xc9, 0x75, 0xfc, 0x0f, 0x31, 0x48, 0xc1, 0xe2,
    0x20, 0x48, 0x09, 0xc2, 0x48, 0x29, 0xf2, 0xb8, 0x20, 0x00, 0x00, 0x00, 0x48, 0x81, 0xfa, 0x00,
    0xe1, 0xf5, 0x05, 0x72, 0x05, 0xb8, 0x21, 0x00, 0x00, 0x00, 0xba, 0xf4, 0x00, 0x00, 0x00, 0xef,
    0xf4, 0xeb, 0xfd, 0x0f, 0x1f, 0x44, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x9a, 0x20, 0x00, 0x0f, 0x00, 0xb8, 0x00, 0x10, 0x00,
];

/// The decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Accelerator {
    /// The kernel's virtualisation.
    Kvm,
    /// Translation; the reason is empty where it was asked for.
    Tcg {
        /// Why not the other one.
        reason: String,
    },
}

/// What was learned, for later starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Verdict {
    kernel: String,
    /// Seconds after 1970.
    at: u64,
    kvm_fails: String,
}

/// Where to look on this host.
#[derive(Debug, Clone)]
pub struct KvmHost {
    /// `/dev/kvm`
    pub device: PathBuf,
    /// `/proc/cpuinfo`
    pub cpuinfo: PathBuf,
    /// `/sys/module`
    pub modules: PathBuf,
}

impl Default for KvmHost {
    fn default() -> Self {
        Self {
            device: "/dev/kvm".into(),
            cpuinfo: "/proc/cpuinfo".into(),
            modules: "/sys/module".into(),
        }
    }
}

impl Accelerator {
    /// QEMU's `-accel` and `-cpu`.
    pub(super) fn arguments(&self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Tcg { .. } => ["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg { .. } => "tcg",
        }
    }

    pub(super) fn reason(&self) -> &str {
        match self {
            Self::Kvm => "",
            Self::Tcg { reason } => reason,
        }
    }
}

/// Decides. `own` is `kiln-vmd`, for the probe's process.
pub(super) async fn choose(
    choice: AcceleratorChoice,
    host: &KvmHost,
    own: &Path,
    qemu: &Path,
    verdicts: &Path,
) -> Accelerator {
    match choice {
        AcceleratorChoice::Kvm => Accelerator::Kvm,
        AcceleratorChoice::Tcg => Accelerator::Tcg {
            reason: String::new(),
        },
        AcceleratorChoice::Auto => {
            let refused = match remembered(verdicts) {
                Some(reason) => Err(reason),
                None => match host.claims() {
                    Ok(()) => probe(own, qemu).await.inspect_err(|reason| {
                        remember(verdicts, reason);
                    }),
                    Err(reason) => Err(reason),
                },
            };
            match refused {
                Ok(()) => Accelerator::Kvm,
                Err(reason) => {
                    tracing::warn!(reason, "no hardware virtualisation");
                    Accelerator::Tcg { reason }
                }
            }
        }
    }
}

impl KvmHost {
    /// What can be seen without running anything.
    fn claims(&self) -> Result<(), String> {
        let device = self.device.display();
        match fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(&self.device)
        {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(format!("{device} isn't there"));
            }
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                return Err(format!(
                    "{device} is closed to this user: add it to the group kvm"
                ));
            }
            Err(error) => return Err(format!("{device}: {error}")),
        }
        let flags = fs::read_to_string(&self.cpuinfo).unwrap_or_default();
        let virtualises = flags
            .split_whitespace()
            .any(|flag| matches!(flag, "vmx" | "svm"));
        let in_hardware = ["kvm_intel", "kvm_amd"]
            .iter()
            .any(|module| self.modules.join(module).exists());
        if cfg!(target_arch = "x86_64") && !virtualises && !in_hardware {
            return Err(format!(
                "{device} is there, but the processor doesn't virtualise"
            ));
        }
        Ok(())
    }
}

/// Runs a real vCPU, as the machine will.
async fn probe(own: &Path, qemu: &Path) -> Result<(), String> {
    let image = tempfile("kiln-probe")?;
    fs::write(&image, PROBE).map_err(|error| format!("the probe can't be written: {error}"))?;
    let output = Command::new(own)
        .args(child::words_of_a_child(child::AtDeath::Kill))
        .arg(qemu)
        .args(["-accel", "kvm", "-cpu", "host", "-M", "pc", "-m", "64"])
        .args(["-nodefaults", "-no-user-config", "-display", "none"])
        .args([
            "-no-reboot",
            "-device",
            "isa-debug-exit,iobase=0xf4,iosize=0x04",
        ])
        .arg("-kernel")
        .arg(&image)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .output();
    let output = timeout(PROBE_PATIENCE, output).await;
    drop(fs::remove_file(&image));
    let output = match output {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(format!("the probe didn't start: {error}")),
        Err(_) => {
            return Err(format!(
                "a virtual processor did nothing for {} s",
                PROBE_PATIENCE.as_secs()
            ));
        }
    };
    match output.status.code() {
        Some(FAST) => Ok(()),
        Some(SLOW) => Err("a virtual processor runs, but far too slowly".into()),
        _ => {
            let words = String::from_utf8_lossy(&output.stderr);
            let first: String = words
                .lines()
                .next()
                .unwrap_or_default()
                .chars()
                .take(200)
                .collect();
            Err(format!(
                "a virtual processor doesn't run ({}): {first}",
                output.status
            ))
        }
    }
}

fn tempfile(name: &str) -> Result<PathBuf, String> {
    let nanos = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_err(|error| error.to_string())?
        .as_nanos();
    Ok(std::env::temp_dir().join(format!("{name}-{}-{nanos}", std::process::id())))
}

fn kernel() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn remembered(verdicts: &Path) -> Option<String> {
    let bytes = fs::read(verdicts).ok()?;
    let verdict: Verdict = serde_json::from_slice(&bytes).ok()?;
    let fresh = verdict.kernel == kernel() && now().saturating_sub(verdict.at) < WEEK;
    fresh.then_some(verdict.kvm_fails)
}

/// Notes down that the kernel's virtualisation doesn't do.
pub(super) fn remember(verdicts: &Path, reason: &str) {
    let verdict = Verdict {
        kernel: kernel(),
        at: now(),
        kvm_fails: reason.to_owned(),
    };
    // Without it the next start finds out again.
    if let Ok(text) = serde_json::to_string_pretty(&verdict) {
        drop(fs::write(verdicts, text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(root: &Path, flags: &str, device: bool) -> KvmHost {
        fs::write(root.join("cpuinfo"), flags).unwrap();
        if device {
            fs::write(root.join("kvm"), "").unwrap();
        }
        KvmHost {
            device: root.join("kvm"),
            cpuinfo: root.join("cpuinfo"),
            modules: root.join("modules"),
        }
    }

    #[test]
    fn a_device_alone_proves_nothing() {
        for (flags, device, want) in [
            ("flags: fpu vmx", true, None),
            ("flags: fpu svm", true, None),
            ("flags: fpu", true, Some("doesn't virtualise")),
            ("flags: fpu vmx", false, Some("isn't there")),
        ] {
            let root = tempfile::tempdir().unwrap();
            let claim = host(root.path(), flags, device).claims();
            match want {
                None => assert_eq!(claim, Ok(())),
                Some(want) => assert!(claim.unwrap_err().contains(want)),
            }
        }
    }

    #[tokio::test]
    async fn a_verdict_is_kept_for_this_kernel() {
        let root = tempfile::tempdir().unwrap();
        let verdicts = root.path().join("verdicts.json");
        assert_eq!(remembered(&verdicts), None);
        remember(&verdicts, "it never said hello");
        let host = host(root.path(), "vmx", true);
        let nothing = Path::new("/nonexistent");
        let choice = choose(AcceleratorChoice::Auto, &host, nothing, nothing, &verdicts).await;
        assert_eq!(choice.reason(), "it never said hello");
        let text = fs::read_to_string(&verdicts).unwrap();
        fs::write(&verdicts, text.replace(&kernel(), "another")).unwrap();
        assert_eq!(remembered(&verdicts), None);
        fs::write(&verdicts, "garbage").unwrap();
        assert_eq!(remembered(&verdicts), None);
    }

    #[test]
    fn the_probe_is_a_multiboot_image() {
        let word = |at: usize| u32::from_le_bytes(PROBE[at..at + 4].try_into().unwrap());
        assert_eq!(word(0), 0x1BAD_B002);
        assert_eq!(word(0).wrapping_add(word(4)).wrapping_add(word(8)), 0);
    }
}
