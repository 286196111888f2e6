//! A Dockerfile from a URL.

use std::time::Duration;

use super::BuildError;

/// buildx takes no larger one either.
const MOST: usize = 2 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// Fetches a Dockerfile, from where this program runs.
pub async fn fetch_dockerfile(url: &str) -> Result<Vec<u8>, BuildError> {
    let shown = without_password(url);
    let failed = |reason: String| BuildError::invalid("Dockerfile", shown.as_str(), reason);
    let of_http = |error: reqwest::Error| failed(crate::login::chain(&error.without_url()));
    let http = reqwest::Client::builder().timeout(PATIENCE).build();
    let answer = http.map_err(of_http)?.get(url).send().await;
    let mut answer = answer.map_err(of_http)?;
    if !answer.status().is_success() {
        return Err(failed(format!("the server answers {}", answer.status())));
    }
    let mut text = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(of_http)? {
        text.extend_from_slice(&piece);
        if text.len() > MOST {
            return Err(failed("it is larger than 2 MiB".to_owned()));
        }
    }
    Ok(text)
}

/// An error must not repeat what a URL may hold.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    match host.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://xxxxx@{host}{path}"),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// Serves one answer again and again.
    async fn server(head: &'static str, body: Vec<u8>) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/Dockerfile", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 4096];
                let _ = stream.read(&mut request).await;
                let head = format!("HTTP/1.1 {head}\r\nconnection: close\r\n\r\n");
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = stream.write_all(&body).await;
            }
        });
        url
    }

    #[tokio::test]
    async fn it_is_fetched_or_the_reason_is_said() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let url = server("200 OK", b"FROM scratch\n".to_vec()).await;
        assert_eq!(fetch_dockerfile(&url).await.unwrap(), b"FROM scratch\n");
        for (head, body, want) in [
            ("404 Not Found", Vec::new(), "the server answers 404"),
            ("200 OK", vec![b'#'; MOST + 1], "larger than 2 MiB"),
        ] {
            let url = server(head, body).await;
            let error = fetch_dockerfile(&url).await.unwrap_err().to_string();
            assert!(error.contains(want) && error.contains(&url), "{error}");
        }
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/x", free.local_addr().unwrap());
        drop(free);
        let error = fetch_dockerfile(&url).await.unwrap_err().to_string();
        assert!(error.contains("refused"), "{error}");
        let secret = url.replace("http://", "http://me:hunter2@");
        let error = fetch_dockerfile(&secret).await.unwrap_err().to_string();
        assert!(
            error.contains("xxxxx@127") && !error.contains("hunter2"),
            "{error}"
        );
    }
}
