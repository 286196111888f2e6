//! Streams that the client offers once, under a URL `http://buildkit-session/<id>`.

use bytes::Bytes;
use futures::stream::BoxStream;
use tonic::metadata::MetadataMap;

use crate::calls::files::metadata_value;
use crate::{Caller, Error};

const PULL: &str = "/moby.upload.v1.Upload/Pull";

impl Caller {
    /// The bytes that the client offers at `path` of `host`.
    pub fn upload(
        &self,
        host: &str,
        path: &str,
    ) -> Result<BoxStream<'static, Result<Bytes, tonic::Status>>, Error> {
        self.require(PULL)?;
        let mut metadata = MetadataMap::new();
        metadata.insert("urlpath", metadata_value(path)?);
        metadata.insert("urlhost", metadata_value(host)?);
        // Dropping the sender half-closes the call; the client only sends.
        let (_, answers) = self.connection().bytes(PULL, metadata);
        Ok(answers)
    }
}
