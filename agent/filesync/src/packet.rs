//! The packets of the wire: protobuf messages, encoded and decoded by hand.
//!
//! A data packet is a header of a few bytes and the data itself. Decoding takes the data out of the
//! receive buffer without copying it, which a generated message can't do.

use bytes::{Buf, BufMut, Bytes};
use prost::Message as _;
use prost::encoding::{WireType, decode_key, decode_varint, encode_varint, encoded_len_varint};

use crate::{Error, Stat};

/// A packet. Ids count the STAT packets from 0.
#[derive(Debug, Clone, PartialEq)]
pub enum Packet {
    /// An entry of the sender's tree; `None` after the last one.
    Stat(Option<Box<Stat>>),
    /// The receiver wants the file's bytes.
    Request(u32),
    /// A piece of a file; empty after the last one.
    Data(u32, Bytes),
    /// The receiver has all it wants, or the sender's answer to that.
    Finish,
    /// The other side failed.
    Error(String),
}

const STAT: u64 = 0;
const REQUEST: u64 = 1;
const DATA: u64 = 2;
const FINISH: u64 = 3;
const ERROR: u64 = 4;

impl Packet {
    /// Appends the encoded packet.
    pub fn encode(&self, out: &mut impl BufMut) {
        match self {
            Self::Stat(None) => {}
            Self::Stat(Some(stat)) => {
                out.put_u8(0x12);
                encode_varint(stat.encoded_len() as u64, out);
                stat.encode_raw(out);
            }
            Self::Request(id) => {
                put_type(REQUEST, out);
                put_id(*id, out);
            }
            Self::Data(id, data) => {
                put_type(DATA, out);
                put_id(*id, out);
                put_bytes(data, out);
            }
            Self::Finish => put_type(FINISH, out),
            Self::Error(text) => {
                put_type(ERROR, out);
                put_bytes(text.as_bytes(), out);
            }
        }
    }

    /// The length that [`encode`](Self::encode) writes.
    pub fn encoded_len(&self) -> usize {
        let bytes = |len: usize| {
            if len == 0 {
                0
            } else {
                1 + encoded_len_varint(len as u64) + len
            }
        };
        let id = |id: u32| {
            if id == 0 {
                0
            } else {
                1 + encoded_len_varint(u64::from(id))
            }
        };
        match self {
            Self::Stat(None) => 0,
            Self::Stat(Some(stat)) => {
                let len = stat.encoded_len();
                1 + encoded_len_varint(len as u64) + len
            }
            Self::Request(number) => 2 + id(*number),
            Self::Data(number, data) => 2 + id(*number) + bytes(data.len()),
            Self::Finish => 2,
            Self::Error(text) => 2 + bytes(text.len()),
        }
    }

    /// Decodes a whole message. Unknown fields are skipped, as protobuf asks.
    pub fn decode(buf: &mut impl Buf) -> Result<Self, Error> {
        let mut kind = STAT;
        let mut stat = None;
        let mut id = 0;
        let mut data = Bytes::new();
        while buf.has_remaining() {
            let (field, wire) = decode_key(buf).map_err(|_| Error::Malformed("bad field key"))?;
            match (field, wire) {
                (1, WireType::Varint) => kind = varint(buf)?,
                (2, WireType::LengthDelimited) => {
                    let bytes = take(buf)?;
                    stat = Some(Box::new(
                        Stat::decode(bytes).map_err(|_| Error::Malformed("bad stat"))?,
                    ));
                }
                (3, WireType::Varint) => {
                    id = u32::try_from(varint(buf)?).map_err(|_| Error::Malformed("id too big"))?;
                }
                (4, WireType::LengthDelimited) => data = take(buf)?,
                (field, wire) => {
                    prost::encoding::skip_field(
                        wire,
                        field,
                        buf,
                        prost::encoding::DecodeContext::default(),
                    )
                    .map_err(|_| Error::Malformed("bad unknown field"))?;
                }
            }
        }
        Ok(match kind {
            STAT => Self::Stat(stat),
            REQUEST => Self::Request(id),
            DATA => Self::Data(id, data),
            FINISH => Self::Finish,
            ERROR => Self::Error(String::from_utf8_lossy(&data).into_owned()),
            _ => return Err(Error::Malformed("unknown packet type")),
        })
    }
}

fn put_type(kind: u64, out: &mut impl BufMut) {
    out.put_u8(0x08);
    encode_varint(kind, out);
}

fn put_id(id: u32, out: &mut impl BufMut) {
    if id != 0 {
        out.put_u8(0x18);
        encode_varint(u64::from(id), out);
    }
}

fn put_bytes(data: &[u8], out: &mut impl BufMut) {
    if !data.is_empty() {
        out.put_u8(0x22);
        encode_varint(data.len() as u64, out);
        out.put_slice(data);
    }
}

fn varint(buf: &mut impl Buf) -> Result<u64, Error> {
    decode_varint(buf).map_err(|_| Error::Malformed("bad number"))
}

fn take(buf: &mut impl Buf) -> Result<Bytes, Error> {
    let len = usize::try_from(varint(buf)?).map_err(|_| Error::Malformed("bad length"))?;
    if len > buf.remaining() {
        return Err(Error::Malformed("field longer than its message"));
    }
    Ok(buf.copy_to_bytes(len))
}

#[cfg(test)]
mod tests {
    use kiln_proto::fsutil::types::{Packet as Wire, Stat};
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    fn stat() -> Stat {
        Stat {
            path: "a/b".into(),
            mode: 0o644,
            uid: 7,
            size: 12,
            mod_time: -5,
            linkname: "x".into(),
            xattrs: [("user.a".to_owned(), b"1".to_vec())].into(),
            ..Stat::default()
        }
    }

    fn wire(kind: i32, stat: Option<Stat>, id: u32, data: &[u8]) -> Wire {
        Wire {
            r#type: kind,
            stat,
            id,
            data: data.to_vec(),
        }
    }

    #[test]
    fn packets_are_the_generated_messages() {
        let cases = [
            (Packet::Stat(None), wire(0, None, 0, b"")),
            (
                Packet::Stat(Some(Box::new(stat()))),
                wire(0, Some(stat()), 0, b""),
            ),
            (Packet::Request(0), wire(1, None, 0, b"")),
            (Packet::Request(300), wire(1, None, 300, b"")),
            (
                Packet::Data(9, Bytes::from_static(b"abc")),
                wire(2, None, 9, b"abc"),
            ),
            (Packet::Data(9, Bytes::new()), wire(2, None, 9, b"")),
            (Packet::Finish, wire(3, None, 0, b"")),
            (Packet::Error("no".into()), wire(4, None, 0, b"no")),
        ];
        for (packet, message) in cases {
            let mut encoded = Vec::new();
            packet.encode(&mut encoded);
            assert_eq!(encoded, message.encode_to_vec(), "{packet:?}");
            assert_eq!(encoded.len(), packet.encoded_len(), "{packet:?}");
            assert_eq!(
                Packet::decode(&mut Bytes::from(encoded)).unwrap(),
                packet,
                "{packet:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Packet::decode(&mut Bytes::from(bytes));
        }
    }
}
