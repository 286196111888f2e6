//! The command line.

use clap::Parser;

const EXAMPLES: &str = "\
Usually a client starts it. By hand:
  kiln-vmd
      serve until it is told to stop; the machine starts with the first connection
  KILN_DRIVER=native kiln-vmd
      no machine: the engine is a child process (Linux, root)
  docker buildx create --name kiln --driver remote unix:///run/user/1000/kiln/buildkitd.sock
      build with it

Settings are in ~/.config/kiln/settings.toml, sockets in $XDG_RUNTIME_DIR/kiln (/run/kiln for root),
the machine's disk and console log in ~/.local/share/kiln. KILN_RUNTIME_DIR, KILN_STATE_DIR and
KILN_CONFIG_DIR move them; KILN_KILND, KILN_QEMU and KILN_GUEST name programs and the guest image.";

/// Owns Kiln's machine, its disk and its sockets.
#[derive(Debug, Clone, Parser)]
#[command(name = "kiln-vmd", version, after_help = EXAMPLES)]
pub struct Args {
    /// Leave the terminal, and print one line once the sockets accept
    #[arg(long)]
    pub detach: bool,
    /// Start the machine at once instead of at the first connection
    #[arg(long)]
    pub start: bool,
    /// Say more
    #[arg(long)]
    pub debug: bool,
}
