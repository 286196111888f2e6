//! gRPC codecs for the messages that carry bulk data: diff-copy packets and plain byte messages.
//!
//! The generated services copy every message into a `Vec`. These codecs hand the bytes on as they
//! lie in the receive buffer, and let many small packets go out in one HTTP/2 frame.

use bytes::{Buf, BufMut, Bytes};
use prost::encoding::{WireType, decode_key, decode_varint, encode_varint};
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use crate::Packet;

/// The limit that BuildKit sets on messages in both directions.
pub const MAX_MESSAGE: usize = 16 << 20;

fn buffers() -> BufferSettings {
    BufferSettings::new(64 << 10, 256 << 10)
}

/// Codec of `fsutil.types.Packet`.
#[derive(Debug, Clone, Copy, Default)]
pub struct PacketCodec;

/// Codec of `BytesMessage`, as file sending, ssh, upload and the session stream use it.
#[derive(Debug, Clone, Copy, Default)]
pub struct BytesCodec;

impl Codec for PacketCodec {
    type Encode = Packet;
    type Decode = Packet;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for PacketCodec {
    type Item = Packet;
    type Error = Status;

    fn encode(&mut self, item: Packet, dst: &mut EncodeBuf<'_>) -> Result<(), Status> {
        dst.reserve(item.encoded_len());
        item.encode(dst);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

impl Decoder for PacketCodec {
    type Item = Packet;
    type Error = Status;

    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<Packet>, Status> {
        Packet::decode(src)
            .map(Some)
            .map_err(|error| Status::internal(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

impl Codec for BytesCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, dst: &mut EncodeBuf<'_>) -> Result<(), Status> {
        if !item.is_empty() {
            dst.reserve(item.len() + 11);
            dst.put_u8(0x0a);
            encode_varint(item.len() as u64, dst);
            dst.put_slice(&item);
        }
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

impl Decoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let bad = |what: &str| Status::internal(format!("malformed byte message: {what}"));
        let mut data = Bytes::new();
        while src.has_remaining() {
            let (field, wire) = decode_key(src).map_err(|_| bad("field key"))?;
            if (field, wire) == (1, WireType::LengthDelimited) {
                let len = decode_varint(src).map_err(|_| bad("length"))?;
                let len = usize::try_from(len).map_err(|_| bad("length"))?;
                if len > src.remaining() {
                    return Err(bad("field longer than its message"));
                }
                data = src.copy_to_bytes(len);
            } else {
                prost::encoding::skip_field(
                    wire,
                    field,
                    src,
                    prost::encoding::DecodeContext::default(),
                )
                .map_err(|_| bad("unknown field"))?;
            }
        }
        Ok(Some(data))
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}
