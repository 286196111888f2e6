//! Messages to the kernel's networks (netlink(7)), and the answers.
//!
//! Invariants: the kernel has dealt with a request when the call that sends it returns, so its answers are there to be
//! read, and nothing here waits; what belongs to an earlier request is passed over by its number.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

const HEADER: usize = 16;
const ERROR: u16 = 2;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const NESTED: u16 = 0x8000;

/// Makes what isn't there.
pub(crate) const CREATE: u16 = 0x400;
/// Replaces what is there.
pub(crate) const REPLACE: u16 = 0x100;
/// Refuses what is there.
pub(crate) const EXCLUSIVE: u16 = 0x200;

/// One message, as it grows.
#[derive(Debug)]
pub(crate) struct Message {
    bytes: Vec<u8>,
    answered: bool,
}

impl Message {
    /// One of this kind, that the kernel shall acknowledge; `body` is the fixed part of it.
    pub(crate) fn new(kind: u16, flags: u16, body: &[u8]) -> Self {
        let mut message = Self::silent(kind, flags | ACK, body);
        message.answered = true;
        message
    }

    /// One that has no answer.
    pub(crate) fn silent(kind: u16, flags: u16, body: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(REQUEST | flags).to_ne_bytes());
        bytes.extend(body);
        Self {
            bytes,
            answered: false,
        }
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = (4 + value.len()) as u16;
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.pad();
    }

    /// A string with its zero.
    pub(crate) fn text(&mut self, kind: u16, text: &str) {
        self.attribute(kind, &[text.as_bytes(), &[0]].concat());
    }

    /// A number in the network's order.
    pub(crate) fn number(&mut self, kind: u16, number: u32) {
        self.attribute(kind, &number.to_be_bytes());
    }

    pub(crate) fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.attribute(kind | NESTED, &[]);
        fill(self);
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.pad();
    }

    fn pad(&mut self) {
        let padded = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(padded, 0);
    }
}

/// A socket to one part of the kernel's tables, in the network of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    pub(crate) fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let fd = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self { fd, sequence: 0 })
    }

    /// Sends messages together. Gives what was answered beside acknowledgements, or the first refusal.
    pub(crate) fn talk(&mut self, messages: Vec<Message>) -> io::Result<Vec<Vec<u8>>> {
        let first = self.sequence + 1;
        let mut waiting = 0;
        let mut all = Vec::new();
        for message in messages {
            self.sequence += 1;
            waiting += usize::from(message.answered);
            let mut bytes = message.bytes;
            let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            bytes[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
            all.extend(bytes);
        }
        rustix::net::send(&self.fd, &all, SendFlags::empty())?;
        let mut answers = Vec::new();
        let mut buffer = vec![0; 32 << 10];
        while waiting > 0 {
            let (length, _) = rustix::net::recv(&self.fd, &mut buffer[..], RecvFlags::DONTWAIT)?;
            for answer in split(&buffer[..length])? {
                if answer.sequence < first {
                    continue;
                }
                match answer.outcome {
                    None => answers.push(answer.body.to_vec()),
                    Some(0) => waiting = waiting.saturating_sub(1),
                    Some(number) => return Err(io::Error::from_raw_os_error(-number)),
                }
            }
        }
        Ok(answers)
    }
}

struct Answer<'a> {
    sequence: u32,
    /// Of acknowledgements, 0, and refusals.
    outcome: Option<i32>,
    body: &'a [u8],
}

fn split(mut bytes: &[u8]) -> io::Result<Vec<Answer<'_>>> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "netlink");
    let mut answers = Vec::new();
    while bytes.len() >= HEADER {
        let number = |at: usize| -> Option<[u8; 4]> { bytes.get(at..at + 4)?.try_into().ok() };
        let length = u32::from_ne_bytes(number(0).ok_or_else(malformed)?) as usize;
        let sequence = u32::from_ne_bytes(number(8).ok_or_else(malformed)?);
        let body = bytes.get(HEADER..length).ok_or_else(malformed)?;
        let outcome = if u16::from_ne_bytes([bytes[4], bytes[5]]) == ERROR {
            Some(i32::from_ne_bytes(number(HEADER).ok_or_else(malformed)?))
        } else {
            None
        };
        answers.push(Answer {
            sequence,
            outcome,
            body,
        });
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(answers)
}

/// The value of an attribute.
pub(crate) fn find(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    while attributes.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([attributes[0], attributes[1]]));
        let value = attributes.get(4..length)?;
        if u16::from_ne_bytes([attributes[2], attributes[3]]) & !NESTED == kind {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_nested_ones_know_their_length() {
        let mut message = Message::new(3, CREATE, &[9; 4]);
        message.text(1, "abc");
        message.nested(2, |inner| {
            inner.attribute(5, &[7]);
            inner.number(6, 258);
        });
        let body = &message.bytes[HEADER + 4..];
        assert_eq!(find(body, 1), Some(&b"abc\0"[..]));
        let inner = find(body, 2).unwrap();
        assert_eq!(find(inner, 5), Some(&[7][..]));
        assert_eq!(find(inner, 6), Some(&[0, 0, 1, 2][..]));
        assert_eq!(find(inner, 7), None);
        assert_eq!(message.bytes.len() % 4, 0);
    }

    #[test]
    fn a_damaged_answer_is_an_error_or_nothing() {
        for length in 0..40 {
            for byte in [0, 1, 16, 255] {
                let bytes = vec![byte; length];
                let _ = split(&bytes);
                let _ = find(&bytes, 1);
            }
        }
    }
}
