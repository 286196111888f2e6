//! Flags of `docker build` from before BuildKit, which scripts still give. buildx takes them and does nothing; so do we,
//! and say so where somebody may count on an effect.

use clap::Args;

/// They aren't in the help.
#[derive(Debug, Default, Args)]
pub(crate) struct OldFlags {
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    rm: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    force_rm: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    compress: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    squash: Option<String>,
    #[arg(long, hide = true)]
    isolation: Option<String>,
    #[arg(long, hide = true)]
    security_opt: Vec<String>,
    #[arg(short, long, hide = true)]
    memory: Option<String>,
    #[arg(long, hide = true)]
    memory_swap: Option<String>,
    #[arg(short, long, hide = true)]
    cpu_shares: Option<String>,
    #[arg(long, hide = true)]
    cpu_period: Option<String>,
    #[arg(long, hide = true)]
    cpu_quota: Option<String>,
    #[arg(long, hide = true)]
    cpuset_cpus: Option<String>,
    #[arg(long, hide = true)]
    cpuset_mems: Option<String>,
}

const LIMITS: &str =
    "builds have the machine's processors and memory: `cpus` and `memory` in settings.toml";

impl OldFlags {
    /// What has no effect although somebody asked for it, and what to do instead.
    pub(super) fn notes(&self) -> Vec<String> {
        let squash = self.squash.as_deref().is_some_and(|value| value != "false");
        let is_given = |value: &Option<String>| value.is_some();
        [
            (
                squash,
                "--squash",
                "copy the result into a last stage instead",
            ),
            (is_given(&self.isolation), "--isolation", "it is of Windows"),
            (
                !self.security_opt.is_empty(),
                "--security-opt",
                "RUN --security=insecure and --allow are for that",
            ),
            (is_given(&self.memory), "--memory", LIMITS),
            (is_given(&self.memory_swap), "--memory-swap", LIMITS),
            (is_given(&self.cpu_shares), "--cpu-shares", LIMITS),
            (is_given(&self.cpu_period), "--cpu-period", LIMITS),
            (is_given(&self.cpu_quota), "--cpu-quota", LIMITS),
            (is_given(&self.cpuset_cpus), "--cpuset-cpus", LIMITS),
            (is_given(&self.cpuset_mems), "--cpuset-mems", LIMITS),
        ]
        .into_iter()
        .filter(|(is_given, _, _)| *is_given)
        .map(|(_, flag, instead)| format!("WARNING: {flag} has no effect; {instead}"))
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::arguments::{Arguments, Command};

    #[test]
    fn scripts_of_docker_build_go_on() {
        let parse = |flags: &str| {
            let line = format!("kiln build {flags} .");
            let parsed = Arguments::try_parse_from(line.split(' ')).unwrap();
            let Command::Build(build) = parsed.command else {
                panic!("{line}");
            };
            build.old.notes().join("\n")
        };
        for (flags, said) in [
            ("--rm --force-rm=false --compress", ""),
            ("--squash=false", ""),
            ("--squash", "--squash has no effect; copy the result"),
            ("-m 2g", "--memory has no effect; builds have"),
            ("-c 5 --cpu-quota 7", "--cpu-quota has no effect"),
            ("--security-opt seccomp=x", "--security-opt has no effect"),
        ] {
            let notes = parse(flags);
            assert!(notes.contains(said), "{flags}: {notes}");
            assert_eq!(notes.is_empty(), said.is_empty(), "{flags}: {notes}");
        }
        // What buildx doesn't know either is refused by its name.
        for flag in ["--policy", "--resource"] {
            let refused = Arguments::try_parse_from(["kiln", "build", flag, "x", "."]);
            assert!(refused.unwrap_err().to_string().contains(flag));
        }
    }
}
