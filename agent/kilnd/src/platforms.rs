//! What this machine runs: its own platform, and those that the kernel has emulators for.

use kiln_oci::Platform;

/// Platforms by the kernel's `binfmt_misc` entries, and what each emulates.
const EMULATORS: &[(&str, &str, &str)] = &[
    ("qemu-x86_64", "amd64", ""),
    ("qemu-aarch64", "arm64", ""),
    ("qemu-riscv64", "riscv64", ""),
    ("qemu-ppc64le", "ppc64le", ""),
    ("qemu-s390x", "s390x", ""),
    ("qemu-i386", "386", ""),
    ("qemu-mips64el", "mips64le", ""),
    ("qemu-mips64", "mips64", ""),
    ("qemu-loongarch64", "loong64", ""),
    ("qemu-arm", "arm", "v7"),
    ("qemu-arm", "arm", "v6"),
];

/// The native platform first.
pub(crate) fn available() -> Vec<Platform> {
    let host = Platform::host().normalized();
    let mut all = vec![host.clone()];
    // Both run on the processor itself.
    match host.architecture.as_str() {
        "amd64" => {
            if is_x86_64_v2() {
                all.push(Platform::new("linux", "amd64", "v2"));
            }
            if is_x86_64_v3() {
                all.push(Platform::new("linux", "amd64", "v3"));
            }
            all.push(Platform::new("linux", "386", ""));
        }
        "arm64" => {
            all.push(Platform::new("linux", "arm", "v7"));
            all.push(Platform::new("linux", "arm", "v6"));
        }
        _ => {}
    }
    for (emulator, architecture, variant) in EMULATORS {
        let platform = Platform::new("linux", architecture, variant);
        let entry = format!("/proc/sys/fs/binfmt_misc/{emulator}");
        let enabled = std::fs::read_to_string(entry).is_ok_and(|text| text.starts_with("enabled"));
        if enabled && !all.contains(&platform) {
            all.push(platform);
        }
    }
    all
}

#[cfg(target_arch = "x86_64")]
fn is_x86_64_v2() -> bool {
    std::arch::is_x86_feature_detected!("sse4.2")
        && std::arch::is_x86_feature_detected!("ssse3")
        && std::arch::is_x86_feature_detected!("popcnt")
}

#[cfg(target_arch = "x86_64")]
fn is_x86_64_v3() -> bool {
    is_x86_64_v2()
        && std::arch::is_x86_feature_detected!("avx2")
        && std::arch::is_x86_feature_detected!("bmi1")
        && std::arch::is_x86_feature_detected!("bmi2")
        && std::arch::is_x86_feature_detected!("fma")
        && std::arch::is_x86_feature_detected!("f16c")
        && std::arch::is_x86_feature_detected!("lzcnt")
        && std::arch::is_x86_feature_detected!("movbe")
}

#[cfg(not(target_arch = "x86_64"))]
fn is_x86_64_v2() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn is_x86_64_v3() -> bool {
    false
}
