//! Watches over a client that may be gone without a word.
//!
//! A laptop that sleeps or a broken network leaves the connection open. A check that fails once can
//! be a client under load; the second failure in a row ends the session.

use std::time::Duration;

use kiln_proto::health::HealthCheckRequest;
use kiln_proto::health::health_client::HealthClient;
use tokio::time::Instant;

use crate::connection::{Connection, origin};

const INTERVAL: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(15);

/// Returns when the client failed its health checks; else never.
pub(crate) async fn failed(connection: Connection, custom: Option<Duration>) {
    let interval = custom.unwrap_or(INTERVAL);
    let timeout = custom.unwrap_or(TIMEOUT);
    let tolerated = u32::from(custom.is_none());
    let mut client = HealthClient::with_origin(connection, origin());
    let mut failures = 0;
    let mut last = Duration::ZERO;
    loop {
        tokio::time::sleep(interval).await;
        let began = Instant::now();
        let check = client.check(HealthCheckRequest::default());
        match tokio::time::timeout(timeout.max(last * 3 / 2), check).await {
            Ok(Ok(_)) => failures = 0,
            // A client without the service answers, so it is there.
            Ok(Err(status)) if status.code() == tonic::Code::Unimplemented => failures = 0,
            Ok(Err(_)) | Err(_) => {
                failures += 1;
                if failures > tolerated {
                    return;
                }
                tracing::warn!(failures, "a client failed a health check");
            }
        }
        last = began.elapsed();
    }
}
