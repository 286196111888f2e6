//! What few builds need, on a disk of its own: git and ssh, and emulators for foreign platforms.
//!
//! The disk is there where the host has the image. It is mounted at once, which reads next to nothing; what is used
//! is read when it is. The image's own links (`/usr/bin`, `/usr/lib`) lead to it. The kernel opens each emulator
//! when it is registered, so that steps need no file of it.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use rustix::mount::MountFlags;

use super::disk;

const POINT: &str = "/add-on";
const FORMATS: &str = "/proc/sys/fs/binfmt_misc";

/// A processor as ELF files name it.
struct Processor {
    name: &'static str,
    is_64_bit: bool,
    is_big_endian: bool,
    machine: u16,
}

const PROCESSORS: [Processor; 5] = [
    Processor::new("aarch64", true, false, 183),
    Processor::new("arm", false, false, 40),
    Processor::new("ppc64le", true, false, 21),
    Processor::new("riscv64", true, false, 243),
    Processor::new("s390x", true, true, 22),
];

impl Processor {
    const fn new(name: &'static str, is_64_bit: bool, is_big_endian: bool, machine: u16) -> Self {
        Self {
            name,
            is_64_bit,
            is_big_endian,
            machine,
        }
    }

    /// As the kernel wants it: `:NAME:M::MAGIC:MASK:INTERPRETER:FLAGS`. The magic is that of an ELF file's first 20
    /// bytes; the mask leaves out the system's ABI, and takes programs and shared objects.
    fn registration(&self) -> String {
        let (two, machine) = match self.is_big_endian {
            true => (2_u16.to_be_bytes(), self.machine.to_be_bytes()),
            false => (2_u16.to_le_bytes(), self.machine.to_le_bytes()),
        };
        let (class, order) = (
            1 + u8::from(self.is_64_bit),
            1 + u8::from(self.is_big_endian),
        );
        let mut magic = [0; 20];
        magic[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, order, 1]);
        magic[16..18].copy_from_slice(&two);
        magic[18..].copy_from_slice(&machine);
        let mut mask = [0xff; 20];
        mask[7] = 0;
        mask[16 + usize::from(self.is_big_endian)] = 0xfe;
        let hex = |bytes: [u8; 20]| -> String {
            bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect()
        };
        // Opened now; with the credentials of the program; which also learns its own name.
        format!(
            ":qemu-{name}:M::{}:{}:{POINT}/usr/bin/qemu-{name}-static:FCP",
            hex(magic),
            hex(mask),
            name = self.name
        )
    }
}

/// Mounts it, if it is there. Returns what a person should know.
pub(super) fn attach() -> Vec<String> {
    let Some(device) = disk::look_for(kiln_link::machine::ADD_ON_DISK) else {
        return Vec::new();
    };
    match mount(&device).and_then(|()| register()) {
        Ok(()) => Vec::new(),
        Err(error) => vec![format!("the add-on image can't be used: {error:#}")],
    }
}

fn mount(device: &Path) -> anyhow::Result<()> {
    let flags = MountFlags::RDONLY | MountFlags::NOATIME;
    rustix::mount::mount(device, POINT, "squashfs", flags, None)
        .with_context(|| format!("mounting {}", device.display()))
}

fn register() -> anyhow::Result<()> {
    match rustix::mount::mount(
        "binfmt_misc",
        FORMATS,
        "binfmt_misc",
        MountFlags::empty(),
        None,
    ) {
        Ok(()) | Err(rustix::io::Errno::BUSY) => {}
        Err(error) => return Err(error).context("binfmt_misc"),
    }
    for processor in &PROCESSORS {
        fs::write(
            Path::new(FORMATS).join("register"),
            processor.registration(),
        )
        .with_context(|| format!("the emulator of {}", processor.name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_as_the_kernel_wants_them() {
        let registration = |name: &str| {
            let mut all = PROCESSORS.iter();
            all.find(|processor| processor.name == name)
                .unwrap()
                .registration()
        };
        assert_eq!(
            registration("aarch64"),
            r":qemu-aarch64:M::\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:/add-on/usr/bin/qemu-aarch64-static:FCP"
        );
        let big = registration("s390x");
        assert!(big.contains(r"\x00\x02\x00\x16:\xff"), "{big}");
        assert!(big.contains(r"\xff\xfe\xff\xff:/add-on"), "{big}");
    }
}
