//! Completion of command lines in shells.
//!
//! The script is made of the command line's own definition, so that it never lags behind.

use std::process::ExitCode;

use clap::{Args, CommandFactory as _, ValueEnum};
use clap_complete::generate;
use clap_complete::shells::{Bash, Fish, Zsh};

use crate::arguments::Arguments;
use crate::console;
use crate::failure::Outcome;

/// Print a script that completes kiln's command lines
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  source <(kiln completion bash)                                       in this shell
  kiln completion bash > ~/.local/share/bash-completion/completions/kiln
  kiln completion zsh > ~/.zfunc/_kiln                                 with ~/.zfunc in fpath
  kiln completion fish > ~/.config/fish/completions/kiln.fish")]
pub(crate) struct CompletionArguments {
    #[arg(value_enum)]
    shell: Shell,
}

/// The shells that are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "every command takes its arguments like this"
)]
pub(crate) fn run(arguments: CompletionArguments) -> Outcome {
    console::write(&script(arguments.shell))?;
    Ok(ExitCode::SUCCESS)
}

fn script(shell: Shell) -> Vec<u8> {
    let mut command = Arguments::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    match shell {
        Shell::Bash => generate(Bash, &mut command, name, &mut script),
        Shell::Zsh => generate(Zsh, &mut command, name, &mut script),
        Shell::Fish => generate(Fish, &mut command, name, &mut script),
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_know_commands_flags_and_values() {
        for (shell, words) in [
            (
                Shell::Bash,
                ["complete -F _kiln", "--build-arg", "rawjson", "browse"],
            ),
            (
                Shell::Zsh,
                ["#compdef kiln", "--build-arg", "rawjson", "browse"],
            ),
            (
                Shell::Fish,
                ["complete -c kiln", "build-arg", "rawjson", "browse"],
            ),
        ] {
            let script = String::from_utf8(script(shell)).unwrap();
            for word in words {
                assert!(script.contains(word), "{shell:?} has no {word:?}");
            }
        }
    }

    /// Asks a real shell; what it would offer for the last word.
    fn offered(words: &[&str]) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("kiln.bash");
        std::fs::write(&file, script(Shell::Bash)).unwrap();
        // As the shell itself calls it: the command, the word, the one before.
        let ask = r#"source "$1"; shift
            COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
            _kiln kiln "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
            printf '%s\n' "${COMPREPLY[@]}""#;
        let output = std::process::Command::new("bash")
            .args(["--norc", "--noprofile", "-c", ask, "bash"])
            .arg(&file)
            .args(words)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{said}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn bash_completes_what_was_begun() {
        for (words, want) in [
            (vec!["kiln", "sta"], vec!["start", "status"]),
            (vec!["kiln", "cache", "mounts", "br"], vec!["browse"]),
            (vec!["kiln", "build", "--progress", "ra"], vec!["rawjson"]),
            (vec!["kiln", "build", "--metadata"], vec!["--metadata-file"]),
            (vec!["kiln", "completion", "z"], vec!["zsh"]),
            (vec!["kiln", "nothing-like-this"], vec![""]),
        ] {
            assert_eq!(offered(&words), want, "{words:?}");
        }
    }
}
