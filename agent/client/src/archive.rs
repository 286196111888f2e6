//! `.tar.gz` files that are small enough to be made in memory: records of builds, support bundles.

use std::io;

use libdeflater::{CompressionLvl, Compressor};

/// An archive that is being made.
pub struct Archive(tar::Builder<Vec<u8>>);

impl std::fmt::Debug for Archive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Archive")
    }
}

impl Default for Archive {
    fn default() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }
}

impl Archive {
    /// Adds a directory.
    pub fn directory(&mut self, path: &str) -> io::Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o755);
        header.set_size(0);
        self.0.append_data(&mut header, path, io::empty())
    }

    /// Adds a file that anybody may read.
    pub fn file(&mut self, path: &str, data: &[u8]) -> io::Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(data.len() as u64);
        self.0.append_data(&mut header, path, data)
    }

    /// The whole of it, compressed.
    pub fn finish(self) -> io::Result<Vec<u8>> {
        let tar = self.0.into_inner()?;
        let mut compressor = Compressor::new(CompressionLvl::default());
        let mut out = vec![0; compressor.gzip_compress_bound(tar.len())];
        let size = compressor
            .gzip_compress(&tar, &mut out)
            .map_err(io::Error::other)?;
        out.truncate(size);
        Ok(out)
    }
}
