//! Framing, handshake and multiplexing between host and guest.
//!
//! ```text
//!  host                                          guest
//!  HELLO nonce, again every 200 ms  ───────────► discards everything up to a HELLO
//!  discards everything up to READY  ◄─────────── READY nonce
//!  GO nonce                         ───────────► discards everything up to GO
//!  ═════════════════ yamux: many streams, each with its own window ═════════════════
//!  stream = length byte, name of the service, bytes
//! ```
//!
//! A virtio-serial port has no connections: when the host's socket is opened anew, bytes of the life
//! before may be lost, or come again. So each life begins with a nonce of the host's, both sides throw
//! away what isn't an answer to it, and everything has a time-out. A HELLO in the middle of a life is
//! an error of the multiplexer, which ends that life; the guest then waits for the next HELLO, and the
//! host sends them until it is heard.
//!
//! Invariants: one owner holds the channel; a stream whose reader is slow holds up nobody else; what
//! comes from the other side is bounded (streams, windows, names) before it is believed.

mod handshake;
pub mod machine;
mod mux;

pub use handshake::{HandshakeError, PROTOCOL};
pub use mux::{Incoming, Link, LinkError, Service, Stream, connect_guest, connect_host};
