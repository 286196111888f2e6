//! The disk of the machine when it is full, when the host's is, and when it is damaged; by the `kiln` command.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::process::Command;

use super::home::{Home, row};
use super::{ONE, guest};

/// The collector would make room by itself, and the disk is to stay full.
const SETTINGS: &str = "accelerator = \"tcg\"\ncpus = 2\nmemory = \"1GiB\"\ndisk = \"1GiB\"\n\
    buildkitd-toml = \"[worker.oci]\\ngc = false\"\n";

/// Fills the disk with what can't be told from data; the step's directory outlives it.
const FILL: &str = "FROM busybox\nRUN --mount=type=cache,target=/c head -c 33554432 /dev/urandom > /c/piece; \
    while :; do cat /c/piece >> /c/fill || exit 1; done\n";
const MANY: u64 = 600 << 20;

/// A file system of the host that holds no more than this.
struct HostDisk(tempfile::TempDir);

impl HostDisk {
    fn new(size: &str) -> Self {
        let disk = Self(tempfile::tempdir().unwrap());
        let options = format!("size={size}");
        disk.run("mount", &["-t", "tmpfs", "-o", &options, "tmpfs"]);
        disk
    }

    fn resize(&self, size: &str) {
        self.run("mount", &["-o", &format!("remount,size={size}")]);
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let mut command = Command::new(program);
        let status = command.args(arguments).arg(self.path()).status().unwrap();
        assert!(status.success(), "{program} {arguments:?}");
    }
}

impl Drop for HostDisk {
    fn drop(&mut self) {
        self.run("umount", &["--lazy"]);
    }
}

/// What the disk's file really takes on the host: what `du` says.
fn allocated(home: &Home) -> u64 {
    std::fs::metadata(home.paths.data_disk()).unwrap().blocks() * 512
}

fn number(status: &serde_json::Value, name: &str) -> u64 {
    let number = status["disk"][name].as_u64();
    number.unwrap_or_else(|| panic!("{name}: {status}"))
}

#[test]
fn a_full_disk_can_be_pruned_and_a_damaged_one_mended() {
    let _one = ONE.blocking_lock();
    let host_disk = HostDisk::new("192m");
    let mut home = Home::new(SETTINGS);
    home.paths.state = host_disk.path().to_owned();
    home.set("KILN_GUEST", guest().display().to_string());
    home.put("kept/Dockerfile", "FROM busybox\nRUN echo made > /made\n");
    home.put("fill/Dockerfile", FILL);
    home.expect(&row(&["build", "-t", "kept", "kept"], 0, &[]));
    home.expect(&row(&["shell", "--", "uname", "-n"], 0, &["kiln"]));
    home.expect(&row(&["shell", "--", "sh", "-c", "exit 7"], 7, &[]));
    home.expect(&row(&["shell", "--", "ssh", "-V"], 0, &["OpenSSH"]));

    // The host's own disk is full before the machine's: the build waits until there is room, and goes on.
    let filled = std::thread::scope(|scope| {
        let build = scope.spawn(|| home.run(&["build", "fill"]));
        loop {
            let status = home.json(&["status", "--json"]);
            if status["notices"].to_string().contains("the machine waits") {
                break;
            }
            assert!(!build.is_finished(), "{:?}\n{status}", build.join());
        }
        host_disk.resize("1200m");
        build.join().unwrap()
    });

    // It fails and says why; the machine lives on, and starts with a disk that is full.
    let says_why = [&filled.stdout, &filled.stderr];
    let says_why = says_why.map(|text| text.contains("No space left on device"));
    assert!(
        filled.code == Some(1) && says_why.contains(&true),
        "{filled:#?}"
    );
    let full = home.json(&["status", "--json"]);
    assert_eq!(full["state"], "running");
    assert!(!full.to_string().contains("the machine waits"), "{full}");
    let (used, total) = (number(&full, "usedBytes"), number(&full, "totalBytes"));
    assert!(used > total / 10 * 9, "{full}");
    home.expect(&row(&["stop"], 0, &["The machine is stopped."]));
    let before = allocated(&home);
    assert!(before > MANY, "{before}");

    // What asks for the history wakes it.
    home.expect(&row(&["builds", "ls"], 0, &["failed", "kept"]));
    let prune = ["prune", "--force", "--filter", "type=exec.cachemount"];
    let pruned = home.run(&prune);
    assert_eq!(pruned.code, Some(0), "{pruned:?}");

    // When the answer comes, the host has its space back, and the figures are those of now.
    let after = allocated(&home);
    let status = home.json(&["status", "--json"]);
    eprintln!(
        "the disk's file on the host: {} MiB full, {} MiB pruned",
        before >> 20,
        after >> 20
    );
    assert!(before.saturating_sub(after) > MANY, "{before} to {after}");
    assert!(
        number(&status, "hostAllocatedBytes") < before - MANY,
        "{status}"
    );
    assert!(number(&status, "usedBytes") < used - MANY, "{status}");
    home.expect(&row(&["build", "kept"], 0, &["CACHED"]));
    home.expect(&row(&["stop"], 0, &[]));

    // The superblock and the group descriptors are gone: nothing is done to the disk unasked.
    let disk = File::options()
        .read(true)
        .write(true)
        .open(home.paths.data_disk())
        .unwrap();
    disk.write_all_at(&[0xa5; 8192], 0).unwrap();
    let read = || {
        let mut beginning = vec![0; 16 << 20];
        disk.read_exact_at(&mut beginning, 0).unwrap();
        beginning
    };
    let damaged = read();
    let says = ["the data disk is damaged", "kiln start --repair-disk"];
    home.expect(&row(&["start"], 4, &says));
    assert!(damaged == read(), "the disk was written to");
    home.expect(&row(&["status"], 0, &["Machine    failed", says[1]]));
    let repair = ["start", "--repair-disk"];
    home.expect(&row(&repair, 0, &["The machine is running."]));
    home.expect(&row(&["status"], 0, &["the data disk was mended"]));
    home.expect(&row(&["build", "kept"], 0, &["CACHED"]));
}
