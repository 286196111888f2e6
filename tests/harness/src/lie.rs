//! A program whose calls to write to the disk (`fsync` and its kin) are answered and do nothing, as on a disk that
//! lies. With it tests of lost power are tested themselves.

use std::path::Path;
use std::process::Command;

/// Sets a filter of system calls that answers 0 to those whose numbers follow its own, then runs the program.
const FILTER: &str = r#"my ($seccomp, @dropped) = split /,/, shift; my ($i, $n) = (0, scalar @dropped);
my $program = pack("SCCL", 0x20, 0, 0, 0) . join("", map { pack("SCCL", 0x15, $n - $i++, 0, $_) } @dropped)
    . pack("SCCL", 0x06, 0, 0, 0x7fff0000) . pack("SCCL", 0x06, 0, 0, 0x00050000);
my $filter = pack("Sx6P", $n + 3, $program);
syscall($seccomp, 1, 0, $filter) == 0 or die "seccomp: $!"; exec @ARGV or die "$ARGV[0]: $!";"#;

/// `seccomp`, then `fsync`, `fdatasync`, `sync` and `syncfs`.
#[cfg(target_arch = "x86_64")]
const CALLS: &str = "317,74,75,162,306";
#[cfg(target_arch = "aarch64")]
const CALLS: &str = "277,82,83,81,267";

/// The program, to be given its arguments.
pub(crate) fn without_syncs(program: &Path) -> Command {
    let mut command = Command::new("perl");
    command.args(["-e", FILTER, CALLS]).arg(program);
    command
}
