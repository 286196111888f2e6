//! A small HTTP server for files: `ADD` from a URL, slow downloads, git over plain HTTP.
//!
//! It serves a directory with `ETag` and `If-None-Match`, counts the requests for each path, and can slow a path
//! down to a number of bytes per second.
//!
//! Invariant: only files under its directory are served.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::Result;
use tempfile::TempDir;

const SLICES_PER_SECOND: u32 = 20;

/// A running server.
#[derive(Debug)]
pub struct Web {
    port: u16,
    directory: TempDir,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    requests: HashMap<String, usize>,
    speed: HashMap<String, u64>,
}

impl Web {
    /// Starts to serve an empty directory.
    pub fn start() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("web-").tempdir()?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Mutex::new(Shared::default()));
        let (root, state) = (directory.path().to_path_buf(), Arc::clone(&shared));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (root, state) = (root.clone(), Arc::clone(&state));
                thread::spawn(move || {
                    // A client that hangs up in the middle is normal.
                    let _ = serve(&stream, &root, &state);
                });
            }
        });
        Ok(Self {
            port,
            directory,
            shared,
        })
    }

    /// The served directory.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a file.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    /// Puts a file there.
    pub fn put(&self, path: &str, contents: impl AsRef<[u8]>) -> Result<String> {
        let target = self.directory.path().join(path);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(target, contents)?;
        Ok(self.url(path))
    }

    /// Serves a path with at most so many bytes per second.
    pub fn slow_down(&self, path: &str, bytes_per_second: u64) {
        lock(&self.shared)
            .speed
            .insert(format!("/{path}"), bytes_per_second);
    }

    /// How many requests there were for a path.
    pub fn requests(&self, path: &str) -> usize {
        lock(&self.shared)
            .requests
            .get(&format!("/{path}"))
            .copied()
            .unwrap_or(0)
    }
}

fn lock(shared: &Mutex<Shared>) -> std::sync::MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Request {
    method: String,
    path: String,
    if_none_match: Option<String>,
}

fn read_request(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, target) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let path = target.split('?').next().unwrap_or_default().to_owned();
    let mut request = Request {
        method,
        path,
        if_none_match: None,
    };
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let header = header.trim_end();
        if header.is_empty() {
            return Ok(Some(request));
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("if-none-match")
        {
            request.if_none_match = Some(value.trim().to_owned());
        }
    }
}

fn serve(stream: &TcpStream, root: &Path, shared: &Mutex<Shared>) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut out = stream.try_clone()?;
    while let Some(request) = read_request(&mut reader)? {
        let speed = {
            let mut shared = lock(shared);
            *shared.requests.entry(request.path.clone()).or_default() += 1;
            shared.speed.get(&request.path).copied()
        };
        let file = file_of(root, &request.path);
        let Some((mut file, length, tag)) = file.and_then(|path| open(&path).ok()) else {
            out.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
            continue;
        };
        if request.if_none_match.as_deref() == Some(tag.as_str()) {
            write!(
                out,
                "HTTP/1.1 304 Not Modified\r\nETag: {tag}\r\nContent-Length: 0\r\n\r\n"
            )?;
            continue;
        }
        write!(
            out,
            "HTTP/1.1 200 OK\r\nETag: {tag}\r\nContent-Length: {length}\r\n\r\n"
        )?;
        if request.method != "HEAD" {
            send(&mut file, &mut out, speed)?;
        }
    }
    Ok(())
}

fn file_of(root: &Path, path: &str) -> Option<PathBuf> {
    let relative = path.trim_start_matches('/');
    let plain = !relative
        .split('/')
        .any(|part| part.is_empty() || part == "..");
    plain
        .then(|| root.join(relative))
        .filter(|path| path.is_file())
}

fn open(path: &Path) -> io::Result<(File, u64, String)> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    let modified = metadata
        .modified()?
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let tag = format!("\"{:x}-{:x}\"", modified.as_nanos(), metadata.len());
    Ok((file, metadata.len(), tag))
}

fn send(file: &mut File, out: &mut impl Write, speed: Option<u64>) -> io::Result<()> {
    let Some(speed) = speed else {
        return io::copy(file, out).map(drop);
    };
    let slice = Duration::from_secs(1) / SLICES_PER_SECOND;
    let mut buffer = vec![
        0;
        usize::try_from(speed / u64::from(SLICES_PER_SECOND))
            .unwrap_or(1)
            .max(1)
    ];
    let mut due = Instant::now();
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        out.write_all(&buffer[..read])?;
        due += slice;
        // The pace is what this server is for.
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(web: &Web, path: &str, header: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", web.port())).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n{header}\r\n").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn files_are_served_and_counted() {
        let web = Web::start().unwrap();
        web.put("a/b.txt", "hello").unwrap();
        let answer = get(&web, "/a/b.txt", "");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nhello"), "{answer}");
        let tag = answer
            .lines()
            .find_map(|line| line.strip_prefix("ETag: "))
            .unwrap();
        let again = get(&web, "/a/b.txt", &format!("If-None-Match: {tag}\r\n"));
        assert!(again.starts_with("HTTP/1.1 304"), "{again}");
        assert_eq!(web.requests("a/b.txt"), 2);
    }

    #[test]
    fn nothing_outside_is_served() {
        let web = Web::start().unwrap();
        for path in ["/../etc/passwd", "/", "//etc/passwd", "/none"] {
            assert!(get(&web, path, "").starts_with("HTTP/1.1 404"), "{path}");
        }
    }
}
