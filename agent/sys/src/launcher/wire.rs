//! Messages with descriptors over a socket that keeps their boundaries.
//!
//! The text of a long message is in a memory file, the first descriptor, so that it may be of any
//! length. A short one is in the message itself: a slot whose group has no memory left must still be
//! able to answer.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::MemfdFlags;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The kernel passes at most this many at once.
pub const MAX_DESCRIPTORS: usize = 252;

/// Texts up to this length are in the message.
const SHORT: usize = 1024;

/// Two connected sockets.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Sends a message.
pub fn send(
    socket: BorrowedFd<'_>,
    message: &impl Serialize,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    if fds.len() > MAX_DESCRIPTORS {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "too many mounts for one container",
        ));
    }
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() <= SHORT {
        let parts = [IoSlice::new(b"s"), IoSlice::new(&bytes)];
        return send_parts(socket, &parts, fds);
    }
    let text = rustix::fs::memfd_create("job", MemfdFlags::CLOEXEC)?;
    let mut at = 0;
    while at < bytes.len() {
        at += rustix::io::pwrite(&text, &bytes[at..], at as u64)?;
    }
    let mut all = vec![text.as_fd()];
    all.extend_from_slice(fds);
    send_parts(socket, &[IoSlice::new(b"l")], &all)
}

fn send_parts(
    socket: BorrowedFd<'_>,
    parts: &[IoSlice<'_>],
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space =
        vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS + 1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(fds)) && !fds.is_empty() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(socket, parts, &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives a message; `None` once the other side is gone. Doesn't wait on a non-blocking socket.
pub fn receive<T: DeserializeOwned>(
    socket: BorrowedFd<'_>,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut space =
        vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS + 1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut short = [0; SHORT + 1];
    let received = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut short)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut fds: Vec<OwnedFd> = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    match short[..received.bytes] {
        [] => return Ok(None),
        [b's', ref text @ ..] => return Ok(Some((serde_json::from_slice(text)?, fds))),
        _ if fds.is_empty() => return Err(io::ErrorKind::InvalidData.into()),
        _ => {}
    }
    let text = fds.remove(0);
    let length = rustix::fs::fstat(&text)?.st_size as usize;
    let mut bytes = vec![0; length];
    let mut at = 0;
    while at < length {
        match rustix::io::pread(&text, &mut bytes[at..], at as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => at += read,
        }
    }
    Ok(Some((serde_json::from_slice(&bytes)?, fds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_messages_need_no_file() {
        let (here, there) = pair().unwrap();
        send(here.as_fd(), &"short", &[]).unwrap();
        let (got, fds) = receive::<String>(there.as_fd()).unwrap().unwrap();
        assert_eq!((got.as_str(), fds.len()), ("short", 0));
    }

    #[test]
    fn messages_of_any_length_arrive_with_their_descriptors() {
        let (here, there) = pair().unwrap();
        let text = "x".repeat(1 << 20);
        let file = std::fs::File::open("/dev/null").unwrap();
        send(here.as_fd(), &text, &[file.as_fd(); MAX_DESCRIPTORS]).unwrap();
        assert!(send(here.as_fd(), &text, &[file.as_fd(); MAX_DESCRIPTORS + 1]).is_err());
        let (got, fds) = receive::<String>(there.as_fd()).unwrap().unwrap();
        assert_eq!((got.len(), fds.len()), (text.len(), MAX_DESCRIPTORS));
        drop(here);
        assert!(receive::<String>(there.as_fd()).unwrap().is_none());
    }
}
