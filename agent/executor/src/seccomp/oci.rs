//! A profile as OCI runtime data.

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompBuilder, LinuxSeccompOperator, LinuxSyscallBuilder,
};

use super::{Architecture, Check, Outcome, Profile};

fn argument(index: u8, check: Check) -> Result<LinuxSeccompArg, OciSpecError> {
    let (op, value, second) = match check {
        Check::Equal(value) => (LinuxSeccompOperator::ScmpCmpEq, value, None),
        Check::Less(value) => (LinuxSeccompOperator::ScmpCmpLt, value, None),
        Check::Greater(value) => (LinuxSeccompOperator::ScmpCmpGt, value, None),
        Check::Without(bits) => (LinuxSeccompOperator::ScmpCmpMaskedEq, bits, Some(0_u64)),
    };
    let builder = LinuxSeccompArgBuilder::default()
        .index(usize::from(index))
        .op(op)
        .value(u64::from(value));
    match second {
        Some(second) => builder.value_two(second),
        None => builder,
    }
    .build()
}

/// What a runtime compiles into the same filter, as far as OCI can say it.
pub fn to_oci(profile: &Profile) -> Result<LinuxSeccomp, OciSpecError> {
    let syscalls = profile
        .rules()
        .iter()
        .map(|rule| {
            let mut builder = LinuxSyscallBuilder::default()
                .names(rule.names().map(str::to_owned).collect::<Vec<_>>());
            builder = match rule.outcome {
                Outcome::Allow => builder.action(LinuxSeccompAction::ScmpActAllow),
                Outcome::Fail(errno) => builder
                    .action(LinuxSeccompAction::ScmpActErrno)
                    .errno_ret(u32::from(errno)),
            };
            if let Some((index, check)) = rule.check {
                builder = builder.args(vec![argument(index, check)?]);
            }
            builder.build()
        })
        .collect::<Result<Vec<_>, _>>()?;
    let architectures = match profile.architecture {
        Architecture::X86_64 => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32],
        Architecture::Aarch64 => vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm],
    };
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(1_u32)
        .architectures(architectures)
        .syscalls(syscalls)
        .build()
}
