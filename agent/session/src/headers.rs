//! The headers with which a client introduces its session, over gRPC or HTTP alike.

use std::collections::HashSet;
use std::time::Duration;

use http::HeaderMap;
use kiln_ids::SessionId;

use crate::Error;

const ID: &str = "x-docker-expose-session-uuid";
const NAME: &str = "x-docker-expose-session-name";
const SHARED_KEY: &str = "x-docker-expose-session-sharedkey";
const METHOD: &str = "x-docker-expose-session-grpc-method";
const HEALTH_TIMEOUT: &str = "x-buildkit-session-health-custom-timeout";

/// What a client says of its session when it connects.
#[derive(Debug, Clone)]
pub struct SessionHeaders {
    /// Its name for itself, random.
    pub id: SessionId,
    /// A name for people; older clients send one.
    pub name: String,
    /// Stays the same over the builds of one directory on one machine.
    pub shared_key: String,
    /// The gRPC methods that it serves, in lower case.
    pub(crate) methods: HashSet<String>,
    /// How long it may stay silent, if it says so.
    pub(crate) health_timeout: Option<Duration>,
}

impl SessionHeaders {
    /// Reads the headers of a hijacked HTTP request, or the metadata of a `Session` call
    /// (`request.metadata().clone().into_headers()`).
    pub fn from_http(headers: &HeaderMap) -> Result<Self, Error> {
        let text = |key| {
            headers
                .get(key)
                .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
                .unwrap_or_default()
        };
        let id = text(ID);
        if id.is_empty() {
            return Err(Error::MissingHeader { header: ID });
        }
        let methods = headers
            .get_all(METHOD)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase())
            .collect();
        // Less than a second would cut off slow machines.
        let health_timeout = text(HEALTH_TIMEOUT)
            .parse()
            .ok()
            .filter(|&ms: &u64| ms > 0)
            .map(|ms| Duration::from_millis(ms).max(Duration::from_secs(1)));
        Ok(Self {
            id: SessionId::new(id),
            name: text(NAME),
            shared_key: text(SHARED_KEY),
            methods,
            health_timeout,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read() {
        let mut map = HeaderMap::new();
        assert!(SessionHeaders::from_http(&map).is_err());
        map.insert("X-Docker-Expose-Session-Uuid", "abc".parse().unwrap());
        map.insert("X-Docker-Expose-Session-Sharedkey", "key".parse().unwrap());
        for method in ["/moby.filesync.v1.FileSync/DiffCopy", "/a.B/C"] {
            map.append(
                "X-Docker-Expose-Session-Grpc-Method",
                method.parse().unwrap(),
            );
        }
        map.insert(
            "X-Buildkit-Session-Health-Custom-Timeout",
            "5".parse().unwrap(),
        );
        let headers = SessionHeaders::from_http(&map).unwrap();
        assert_eq!(headers.id.as_str(), "abc");
        assert_eq!(headers.shared_key, "key");
        assert!(
            headers
                .methods
                .contains("/moby.filesync.v1.filesync/diffcopy")
        );
        assert_eq!(headers.health_timeout, Some(Duration::from_secs(1)));
    }
}
