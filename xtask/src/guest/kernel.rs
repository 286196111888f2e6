//! The kernel's ELF image out of a `bzImage`, for the PVH entry that boots fastest.
//!
//! The boot protocol's header (Documentation/arch/x86/boot.rst) says where the compressed payload is;
//! its last four bytes are the uncompressed size.

use anyhow::{Context, Result, bail, ensure};

const LZ4_LEGACY: [u8; 4] = 0x184c_2102_u32.to_le_bytes();
const ZSTD: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();
const LZ4_BLOCK: usize = 8 << 20;

/// The uncompressed kernel.
pub(super) fn vmlinux(bzimage: &[u8]) -> Result<Vec<u8>> {
    let number = |offset: usize| -> Result<usize> {
        let bytes = bzimage
            .get(offset..offset + 4)
            .context("the kernel is too short")?;
        Ok(u32::from_le_bytes(bytes.try_into()?) as usize)
    };
    ensure!(
        bzimage.get(0x202..0x206) == Some(b"HdrS"),
        "the kernel is no bzImage"
    );
    let setup_sectors = match bzimage[0x1f1] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (setup_sectors + 1) * 512 + number(0x248)?;
    let end = start + number(0x24c)?;
    let payload = bzimage
        .get(start..end)
        .context("the kernel's payload is cut off")?;
    let (packed, size) = payload.split_at(payload.len().saturating_sub(4));
    let size = u32::from_le_bytes(size.try_into()?) as usize;
    ensure!(size < 512 << 20, "the kernel says it is {size} bytes large");
    let kernel = match packed.first_chunk::<4>() {
        Some(&LZ4_LEGACY) => lz4_legacy(&packed[4..], size)?,
        Some(&ZSTD) => zstd::stream::decode_all(packed)?,
        _ => bail!("the kernel is compressed in a way that isn't known here"),
    };
    ensure!(
        kernel.len() == size,
        "the kernel came out as {} of {size} bytes",
        kernel.len()
    );
    ensure!(
        kernel.starts_with(b"\x7fELF"),
        "the kernel's payload is no ELF image"
    );
    Ok(kernel)
}

fn lz4_legacy(mut packed: &[u8], size: usize) -> Result<Vec<u8>> {
    let mut kernel = Vec::with_capacity(size);
    while kernel.len() < size {
        let (length, rest) = packed
            .split_first_chunk::<4>()
            .context("a block is missing")?;
        let length = u32::from_le_bytes(*length) as usize;
        let block = rest.get(..length).context("a block is cut off")?;
        let most = LZ4_BLOCK.min(size - kernel.len());
        kernel.extend(lz4_flex::block::decompress(block, most)?);
        packed = &rest[length..];
    }
    Ok(kernel)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_kernel_is_refused() {
        for bytes in [vec![], vec![0; 4096], {
            let mut header = vec![0; 4096];
            header[0x202..0x206].copy_from_slice(b"HdrS");
            header[0x248..0x250].fill(0xff);
            header
        }] {
            assert!(vmlinux(&bytes).is_err());
        }
    }
}
