//! Archives that `ADD` unpacks: tar, plain or compressed.
//!
//! What counts is the content: a regular file whose first (decompressed) block is a tar header.
//! Anything else is copied as it is. Extraction is that of layers (`kiln_snapshot::apply`: inside of its
//! root whatever the names and links say, with bounds on size and depth), without whiteouts.

use std::io::{self, Read, Seek as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use bzip2::read::MultiBzDecoder;
use kiln_content::codec::Decompressor;
use kiln_snapshot::apply::{ApplyError, ApplyOptions, Whiteouts, apply};
use kiln_snapshot::tar::Limits;
use kiln_sys::rootfs::RootDir;
use liblzma::read::XzDecoder;
use rustix::fs::{FileType, Mode, OFlags, Timespec};
use tokio_util::sync::CancellationToken;

use super::actions;
use super::error::FileError;
use super::owner::Owner;

const BLOCK: usize = 512;
/// Where a tar header's checksum is.
const CHECKSUM: std::ops::Range<usize> = 148..156;

/// Unpacks `src` into the directory `dest`, if it is an archive.
pub(super) fn if_archive(
    source: &RootDir,
    src: &str,
    root: &RootDir,
    dest: &str,
    owner: Option<Owner>,
    time: Option<Timespec>,
    cancel: &CancellationToken,
) -> Result<bool, FileError> {
    let src = PathBuf::from(kiln_gotext::path::rooted(src));
    let Some(file) = open(source, &src)? else {
        return Ok(false);
    };
    if !starts_like_tar(&file) {
        return Ok(false);
    }
    let failed = |reason: String| FileError::Archive {
        archive: src.clone(),
        reason,
    };
    let folder = root
        .resolve(Path::new(&kiln_gotext::path::rooted(dest)))
        .map_err(FileError::at("lstat", dest))?;
    actions::make_folders(root, &folder, 0o755, owner, time)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let folder: OwnedFd = root
        .open_at(&folder, flags, Mode::empty())
        .map_err(FileError::at("open", dest))?;
    let options = ApplyOptions {
        whiteouts: Whiteouts::Literal,
        limits: Limits::default(),
        skip_devices: false,
        owner,
    };
    let archive = Stoppable {
        input: decompressed(&file).map_err(|error| failed(error.to_string()))?,
        cancel,
    };
    // A directory that no path leads to is named through its descriptor.
    let through = format!("/proc/self/fd/{}", folder.as_raw_fd());
    match apply(archive, Path::new(&through), &options) {
        Ok(_) => Ok(true),
        Err(_) if cancel.is_cancelled() => Err(FileError::Cancelled),
        Err(error) => Err(failed(words(&error))),
    }
}

fn words(error: &ApplyError) -> String {
    kiln_errdefs::text(error)
}

/// The file, if it is a regular one. What isn't there is left to the copy to complain about.
fn open(root: &RootDir, path: &Path) -> Result<Option<std::fs::File>, FileError> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK;
    let Ok(fd) = root.open_at(path, flags, Mode::empty()) else {
        return Ok(None);
    };
    let stat = rustix::fs::fstat(&fd).map_err(FileError::at("lstat", path))?;
    let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    Ok(regular.then(|| fd.into()))
}

/// The content from its beginning, decompressed if it is compressed.
fn decompressed(mut file: &std::fs::File) -> io::Result<Box<dyn Read + '_>> {
    file.rewind()?;
    let mut magic = [0; 6];
    let mut have = 0;
    while have < magic.len() {
        match file.read(&mut magic[have..])? {
            0 => break,
            count => have += count,
        }
    }
    file.rewind()?;
    let input = io::BufReader::with_capacity(256 << 10, file);
    if magic[..have].starts_with(b"BZh") {
        Ok(Box::new(MultiBzDecoder::new(input)))
    } else if magic[..have].starts_with(b"\xfd7zXZ\0") {
        Ok(Box::new(XzDecoder::new_multi_decoder(input)))
    } else {
        Ok(Box::new(Decompressor::new(input)?))
    }
}

fn starts_like_tar(file: &std::fs::File) -> bool {
    let mut block = [0; BLOCK];
    let read = decompressed(file).and_then(|mut input| input.read_exact(&mut block));
    read.is_ok() && is_tar_header(&block)
}

/// Whether the block's checksum is right: the sum of its bytes, with spaces in the checksum's place.
fn is_tar_header(block: &[u8; BLOCK]) -> bool {
    let digits: String = block[CHECKSUM]
        .iter()
        .map(|byte| char::from(*byte))
        .skip_while(|c| *c == ' ')
        .take_while(char::is_ascii_digit)
        .collect();
    let Ok(want) = i64::from_str_radix(&digits, 8) else {
        return false;
    };
    let sum = |signed: bool| -> i64 {
        block
            .iter()
            .enumerate()
            .map(|(index, byte)| match CHECKSUM.contains(&index) {
                true => i64::from(b' '),
                // Some old archivers summed signed bytes.
                false if signed => i64::from(*byte as i8),
                false => i64::from(*byte),
            })
            .sum()
    };
    want == sum(false) || want == sum(true)
}

/// Ends with an error once the build is stopped.
struct Stoppable<'a, R> {
    input: R,
    cancel: &'a CancellationToken,
}

impl<R: Read> Read for Stoppable<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("context canceled"));
        }
        self.input.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_known_by_their_checksum() {
        let mut header = tar::Header::new_gnu();
        header.set_path("a").unwrap();
        header.set_size(0);
        header.set_cksum();
        let mut block = *header.as_bytes();
        assert!(is_tar_header(&block));
        block[0] ^= 1;
        assert!(!is_tar_header(&block));
        assert!(!is_tar_header(&[0; BLOCK]));
        assert!(!is_tar_header(&[b'x'; BLOCK]));
    }
}
