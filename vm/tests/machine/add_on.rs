//! What the add-on image is for: contexts from git, and steps of another processor.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A program for arm64 that says so: an ELF header, one segment, and `write(1, words)`, `exit(0)`.
fn arm64_program(words: &str) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let length = u32::try_from(words.len()).unwrap();
    let code: [u32; 8] = [
        0xd280_0020,               // mov x0, #1
        0x1000_00e1,               // adr x1, words
        0xd280_0002 | length << 5, // mov x2, length
        0xd280_0808,               // mov x8, #64 (write)
        0xd400_0001,               // svc #0
        0xd280_0000,               // mov x0, #0
        0xd280_0ba8,               // mov x8, #93 (exit)
        0xd400_0001,               // svc #0
    ];
    let all = HEADERS + 32 + u64::from(length);
    let mut program = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    for half in [2_u16, 183] {
        program.extend(half.to_le_bytes()); // an executable, AArch64
    }
    program.extend(1_u32.to_le_bytes());
    for word in [BASE + HEADERS, 64, 0] {
        program.extend(word.to_le_bytes()); // entry, program headers, no section headers
    }
    program.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 0, 0, 0] {
        program.extend(half.to_le_bytes());
    }
    for word in [1_u32, 5] {
        program.extend(word.to_le_bytes()); // loaded, readable and executable
    }
    for word in [0, BASE, BASE, all, all, 0x1000] {
        program.extend(word.to_le_bytes());
    }
    program.extend(code.iter().flat_map(|word| word.to_le_bytes()));
    program.extend(words.bytes());
    program
}

/// A context in `directory` whose step runs only on arm64.
pub(crate) fn arm64_context(directory: &Path, words: &str) {
    fs::create_dir_all(directory).unwrap();
    let dockerfile = "FROM scratch\nCOPY say /say\nRUN [\"/say\"]\n";
    fs::write(directory.join("Dockerfile"), dockerfile).unwrap();
    let program = directory.join("say");
    fs::write(&program, arm64_program(words)).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A repository `app.git` with this file in it, below `directory`, for clients that only fetch files.
pub(crate) fn repository(directory: &Path, name: &str, text: &str) {
    let tree = directory.join("tree");
    fs::create_dir_all(&tree).unwrap();
    fs::write(tree.join(name), text).unwrap();
    let git = |at: &Path, arguments: &[&str]| {
        let status = Command::new("git")
            .args(["-c", "user.name=t", "-c", "user.email=t@example.com"])
            .args(["-c", "init.defaultBranch=main"])
            .args(arguments)
            .current_dir(at)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .status()
            .unwrap();
        assert!(status.success(), "git {arguments:?}");
    };
    git(&tree, &["init", "-q"]);
    git(&tree, &["add", "."]);
    git(&tree, &["commit", "-q", "-m", "one"]);
    git(directory, &["clone", "-q", "--bare", "tree", "app.git"]);
    git(&directory.join("app.git"), &["update-server-info"]);
}

/// Serves the files below `directory` on a port of the host's loopback.
pub(crate) fn serve(directory: PathBuf) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that went away is not a failure of this side.
            let _ = answer(stream, &directory);
        }
    });
    port
}

fn answer(mut stream: TcpStream, directory: &Path) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    for header in lines {
        if header?.is_empty() {
            break;
        }
    }
    let target = request.split_whitespace().nth(1).unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default();
    let (status, body) = match fs::read(directory.join(path.trim_start_matches('/'))) {
        Ok(body) => ("200 OK", body),
        Err(_) => ("404 Not Found", Vec::new()),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    stream.write_all(&body)
}
