//! What a client hears when there is no machine for it.
//!
//! A closed connection would tell it nothing. So the connection is served for a moment by something that
//! answers every gRPC call with `UNAVAILABLE` and the reason.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};

/// Long enough for a client to ask and hear.
const PATIENCE: Duration = Duration::from_secs(5);
const UNAVAILABLE: &str = "14";

/// Answers whatever the client asks with `reason`.
pub(crate) async fn refuse(
    client: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    reason: &str,
) {
    let message = encode(reason);
    let service = service_fn(move |_: Request<Incoming>| {
        let response = answer(&message);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(client), service);
    // It may speak something else, or go: nothing is lost.
    drop(tokio::time::timeout(PATIENCE, connection).await);
}

fn answer(message: &str) -> Response<Empty<Bytes>> {
    let mut response = Response::new(Empty::new());
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from_static(UNAVAILABLE));
    if let Ok(message) = HeaderValue::from_str(message) {
        headers.insert("grpc-message", message);
    }
    response
}

/// gRPC's encoding of messages: what isn't printable ASCII goes by percent.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' | 0..0x20 | 0x7f.. => {
                let _ = write!(encoded, "%{byte:02X}");
            }
            _ => encoded.push(char::from(byte)),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_client::Client;
    use tonic::transport::Endpoint;

    #[tokio::test]
    async fn a_client_hears_the_reason() {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let serving =
            tokio::spawn(async move { refuse(ours, "no QEMU:\n100 % gone — sorry").await });
        let mut once = Some(TokioIo::new(theirs));
        let channel = Endpoint::from_static("http://localhost")
            .connect_with_connector(tower::service_fn(move |_| {
                let stream = once.take();
                async move { stream.ok_or_else(|| std::io::Error::other("one connection only")) }
            }))
            .await
            .unwrap();
        let error = Client::from_channel(channel).info().await.unwrap_err();
        assert_eq!(error.to_string(), "no QEMU:\n100 % gone — sorry");
        serving.abort();
    }
}
